"""The host's session and its connection: how they would execute a statement of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.pool import SingletonThreadPool, StaticPool
from sqlmodel import Session as SQLModelSession

from flask_webhook_endpoints.database import dialects

_STATUS_IN_TRANSACTION = 1
"""MySQL's SERVER_STATUS_IN_TRANS."""


def has_pending(session: Session) -> bool:
    """Return whether the host has anything in its session that is not flushed yet."""
    return bool(session.new or session.dirty or session.deleted)


def executes_as_its_connection(session: Session) -> bool:
    """Return whether the session would only pass a statement on to its connection."""
    # A proxy for a session, or a class of the host's, may execute in its own way.
    if getattr(type(session), "execute", None) not in (Session.execute, SQLModelSession.execute):
        return False
    # A session flushes what is pending. A host may listen to its statements, or change them.
    return not has_pending(session) and not session.dispatch.do_orm_execute


def plain_engine(session: Session, clause: sa.ClauseElement) -> sa.Engine | None:
    """Return the session's engine if a connection of it can take the session's place; else None."""
    if not executes_as_its_connection(session) or session.in_transaction() or session.dispatch.after_begin:
        # A host may say at the beginning of each transaction who asks, or where its tables are.
        return None
    bind = session.get_bind(clause=clause)
    # A host may have bound the session to a connection.
    return bind if isinstance(bind, sa.Engine) and not shares_connections(bind) else None


def shares_connections(engine: sa.Engine) -> bool:
    """Return whether the engine's pool gives out a connection that is in use, mostly of a database in memory."""
    return isinstance(engine.pool, SingletonThreadPool | StaticPool)


@contextmanager
def each_statement_alone(connection: sa.Connection) -> Iterator[bool]:
    """Have the driver begin no transactions until the end; yield whether it does.

    A statement alone is one way to the database and back; BEGIN and ROLLBACK are two more. SQLAlchemy's `AUTOCOMMIT`
    would leave its default isolation level on the host's connection.
    """
    driver: Any = connection.connection.dbapi_connection
    if connection.dispatch.begin or not _switch_autocommit(connection, driver, on=True):
        # A host may say at the beginning of each transaction who asks.
        yield False
        return
    try:
        yield True
    finally:
        if not _switch_autocommit(connection, driver, on=False):
            connection.invalidate()


def _switch_autocommit(connection: sa.Connection, driver: Any, *, on: bool) -> bool:
    """Return whether the driver has done so: not if it is lost, or in a transaction of the host's."""
    if connection.dialect.name in dialects.READS_WITHOUT_BEGIN:
        return False
    try:
        if callable(driver.autocommit):
            driver.autocommit(on)
        else:
            driver.autocommit = on
    except connection.dialect.loaded_dbapi.Error:
        return False
    return True


def transactions(session: Session) -> tuple[Any, Any]:
    """Return the transaction and the savepoint that a session is in."""
    return session.get_transaction(), session.get_nested_transaction()


def commits_each_statement(connection: sa.Connection) -> bool:
    """Return whether the driver is in autocommit, and in no transaction that the host began itself."""
    # The driver knows without asking the database.
    driver: Any = connection.connection.dbapi_connection
    match connection.dialect.name:
        case dialects.SQLITE:
            # Since Python 3.12 `autocommit` decides, unless it has its default of -1.
            switch = getattr(driver, "autocommit", -1)
            is_on = driver.isolation_level is None if switch == -1 else bool(switch)
            return is_on and not driver.in_transaction
        case dialects.POSTGRESQL:
            in_transaction = getattr(getattr(driver, "info", None), "transaction_status", 0)
            return bool(getattr(driver, "autocommit", False)) and not in_transaction
        case _:
            # PyMySQL and mysqlclient know. Other drivers would ask the database.
            is_on = bool(getattr(driver, "get_autocommit", bool)())
            return is_on and not getattr(driver, "server_status", 0) & _STATUS_IN_TRANSACTION


def autocommit_setting(connection: sa.Connection) -> str:
    """Return which setting has the driver commit each statement, and what follows."""
    of_engine = getattr(connection.dialect, "_on_connect_isolation_level", None)
    if "AUTOCOMMIT" in (connection.get_execution_options().get("isolation_level"), of_engine):
        setting = 'isolation_level="AUTOCOMMIT" of the engine (SQLALCHEMY_ENGINE_OPTIONS) or of the session'
    else:
        setting = "autocommit (for SQLite also isolation_level=None) in connect_args"
    return f"remove {setting}. With it, what a refused or broken request has written stays."
