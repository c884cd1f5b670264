"""The tables of the service: its customers, their users and their invoices."""

from datetime import date

from flask_login import UserMixin
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of our tables; type checkers understand it better than `db.Model`."""


db = SQLAlchemy(metadata=Base.metadata)


class Tenant(Base):
    """A company that is our customer."""

    __tablename__ = "tenant"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)


class User(UserMixin, Base):  # type: ignore[misc] # Flask-Login has no types
    """A person who works for a tenant."""

    __tablename__ = "user_account"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenant.id"), index=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)


class Password(Base):
    """The password of a user who may log in, hashed.

    A table of its own, because `create_all` adds no column to the table of an older database.
    """

    __tablename__ = "user_password"

    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), primary_key=True)
    password_hash: Mapped[str] = mapped_column(String(255))


class ApiKey(Base):
    """A key that a user's programs send; delete the row to revoke it."""

    __tablename__ = "api_key"

    key_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)


class Invoice(Base):
    """An invoice: an amount that a customer owes a tenant."""

    __tablename__ = "invoice"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenant.id"), index=True)
    customer: Mapped[str] = mapped_column(String(200))
    amount_cents: Mapped[int]
    issued_on: Mapped[date]
    paid_on: Mapped[date | None]
