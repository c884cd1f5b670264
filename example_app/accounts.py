"""Accounts: tenants, their users, API keys and passwords; they tell the tenant of a request."""

import hashlib
import secrets
from functools import cache

import click
from flask import request
from flask.cli import with_appcontext
from flask_login import current_user
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized
from werkzeug.security import check_password_hash, generate_password_hash

from example_app.models import ApiKey, Password, Tenant, User, db


def current_tenant_id() -> int:
    """Return the tenant of the request's API key, or of the person who is logged in. Answer 401 if there is neither."""
    if request.authorization is None and current_user.is_authenticated:
        return int(current_user.tenant_id)
    return tenant_of_key()


def tenant_of_key() -> int:
    """Return the tenant of the request's API key; answer 401 unless the key is valid."""
    shown = request.authorization
    if shown is not None and shown.type == "bearer" and shown.token:
        of_key = select(User.tenant_id).join(ApiKey).where(ApiKey.key_hash == _hash(shown.token))
        tenant_id = db.session.scalar(of_key)
        if tenant_id is not None:
            return tenant_id
    raise Unauthorized("Send your API key as Authorization: Bearer <key>.", www_authenticate=WWWAuthenticate("bearer"))


def user_of(email: str, password: str) -> User | None:
    """Return the user with this address and password; None if there is none."""
    user = db.session.scalar(select(User).where(User.email == email))
    kept = user and db.session.get(Password, user.id)
    # Check some hash in any case: a quick answer would tell which addresses have no account.
    is_right = check_password_hash(kept.password_hash if kept else _nobodys_hash(), password)
    return user if kept and is_right else None


def open_account(tenant: str, email: str, key: str) -> None:
    """Add a tenant with a user and that user's API key; the caller commits."""
    company = Tenant(name=tenant)
    db.session.add(company)
    db.session.flush()
    user = User(tenant_id=company.id, email=email)
    db.session.add(user)
    db.session.flush()
    db.session.add(ApiKey(key_hash=_hash(key), user_id=user.id))


def is_known(key: str) -> bool:
    """Tell whether a user has this API key."""
    return db.session.get(ApiKey, _hash(key)) is not None


def give_password(email: str, password: str) -> None:
    """Set the password of a user who has none; the caller commits."""
    user = db.session.scalar(select(User).where(User.email == email))
    if user is not None and db.session.get(Password, user.id) is None:
        set_password(user, password)


def set_password(user: User, password: str) -> None:
    """Set the password that a user logs in with; the caller commits."""
    db.session.merge(Password(user_id=user.id, password_hash=generate_password_hash(password)))


@click.command("add-tenant")
@click.argument("name")
@click.argument("email")
@with_appcontext
def add_tenant(name: str, email: str) -> None:
    """Add tenant NAME with the user EMAIL; print the user's API key, which is not stored."""
    key = secrets.token_urlsafe(32)
    try:
        open_account(name, email, key)
        db.session.commit()
    except IntegrityError:
        raise click.ClickException("There is a tenant of this name, or a user of this address.") from None
    click.echo(key)


@click.command("set-password")
@click.argument("email")
@click.password_option()
@with_appcontext
def ask_password(email: str, password: str) -> None:
    """Set the password that user EMAIL logs in with."""
    user = db.session.scalar(select(User).where(User.email == email))
    if user is None:
        raise click.ClickException("There is no user of this address. `flask add-tenant` adds one.")
    set_password(user, password)
    db.session.commit()


def _hash(key: str) -> str:
    # One quick round is enough for random keys: nobody can try all of them, unlike people's passwords.
    return hashlib.sha256(key.encode()).hexdigest()


@cache
def _nobodys_hash() -> str:
    return generate_password_hash(secrets.token_hex())
