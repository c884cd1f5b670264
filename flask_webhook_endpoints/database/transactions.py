"""One transaction of the host's session: run, committed, and run again after a conflict or a lost connection.

Source: PostgreSQL's SQLSTATE classes, MariaDB's and MySQL's error numbers, SQLite's result codes.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, UnboundExecutionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.database import failures, sessions
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import DatabaseUnavailable, Referenced
from flask_webhook_endpoints.security.private import forget_locals

T = TypeVar("T")
S = TypeVar("S", bound=Scope)
MayRepeat = Callable[[], bool]

_log = logs.logger("flask_webhook_endpoints.transactions")  # the name that hosts have configured

BATCH = 500
"""Rows that one transaction of long work writes at most, so that no request waits long for their locks."""

_PAUSES_SECONDS = (0.01, 0.05, 0.2, 0.5)
"""Seconds before each further try, shortened at random, so that transactions that collided do not meet again."""

_PATIENCE_SECONDS = 10.0
"""Seconds after which `run` does not try again. On MariaDB, one wait for a lock takes 50 by default."""

# Serialization failure, deadlock, lock not available.
_CONFLICT_SQLSTATES = frozenset({"40001", "40P01", "55P03"})
# Lock wait timeout, deadlock, "record has changed since last read"; a savepoint that a deadlock has undone.
_CONFLICT_ERRNOS = frozenset({1205, 1213, 1020, 1305})
# Classes: connection exception, insufficient resources, operator intervention (a statement's time limit, too).
_AWAY_SQLSTATE_CLASSES = frozenset({"08", "53", "57"})
# Too many connections, shutdown, connection lost or refused; a statement interrupted or at its time limit.
_AWAY_ERRNOS = frozenset({1040, 1053, 1129, 1203, 1226, 2002, 2003, 2006, 2013, 2055, 4031, 1317, 1969, 3024})
_SQLITE_BUSY, _SQLITE_LOCKED = 5, 6
# READONLY, IOERR, FULL, CANTOPEN.
_AWAY_SQLITE_CODES = frozenset({8, 10, 13, 14})


def run(
    scope: Callable[[], S], operation: Callable[[S], T], *, commit: bool, may_repeat: MayRepeat | None = lambda: True
) -> T:
    """Run `operation` in the scope that `scope` returns, and commit if `commit`; run it again after a conflict.

    After a connection lost before the commit it runs again once. Before each further try, `may_repeat` is asked; None
    allows none. There is also no second try where the host has left anything pending in its session, because a rollback
    loses that.

    Raises:
        DatabaseUnavailable: The database is away, or stays too busy. Other errors leave as they are, rolled back where
            `commit` was asked for.

    """
    current = scope()
    repeatable = not sessions.has_pending(current.session)
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    lost = False
    for pause in (*_PAUSES_SECONDS, None):
        try:
            return _operate(current, operation, commit=commit)
        except (DBAPIError, PoolTimeout) as error:
            forget_locals(error)
            if isinstance(error, DBAPIError):
                failures.hide_values(error)
            _roll_back(current.session)
            # Try once: after one lost connection, SQLAlchemy replaces all that its pool holds.
            again = _is_conflict(error) or (_is_lost_connection(error) and not lost)
            lost = lost or _is_lost_connection(error)
            if not (again and repeatable and time.monotonic() <= give_up_at and _may_go_on(pause, may_repeat)):
                raise _as_answer(error) from None
        except BaseException as error:
            forget_locals(error)
            if commit:
                _roll_back(current.session)
            raise
        current = scope()
    raise AssertionError("unreachable")


def _operate(scope: S, operation: Callable[[S], T], *, commit: bool) -> T:
    if not commit:
        return operation(scope)
    scope.require_transaction()
    result = operation(scope)
    _commit(scope.session)
    return result


def _may_go_on(pause: float | None, may_repeat: MayRepeat | None) -> bool:
    """Wait, if there are tries left; return whether the operation may run again."""
    if pause is None or may_repeat is None:
        return False
    time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
    return may_repeat()


def guarded(session: Callable[[], Session], call: Callable[[], T]) -> T:
    """Return what `call` returns; raise `DatabaseUnavailable` if it fails because the database can't be reached."""
    try:
        return call()
    except (DBAPIError, PoolTimeout) as error:
        _roll_back(session())
        if failures.is_read_only(error):
            with suppress(UnboundExecutionError):
                session().get_bind().engine.dispose()
        raise _as_answer(error) from None


@contextmanager
def deleting() -> Iterator[None]:
    """Raise `Referenced` where a table of the host refers to what is deleted here."""
    try:
        yield
    except IntegrityError as error:
        _log.warning("webhooks.referenced", extra={"webhooks.error": failures.reason(error)})
        raise Referenced from None


def _commit(session: Session) -> None:
    try:
        session.commit()
    except DBAPIError as error:
        if not _is_lost_connection(error):
            raise
        # The commit may have succeeded, so that another try could do everything twice.
        raise _as_answer(error) from None


def _roll_back(session: Session) -> None:
    try:
        session.rollback()
    except DBAPIError as error:
        # The connection broke after the error that is being answered, and SQLAlchemy has dropped it.
        if not _is_lost_connection(error):
            raise


def _as_answer(error: DBAPIError | PoolTimeout) -> Exception:
    if not (_is_away(error) or _is_conflict(error)):
        return error
    reason = failures.reason(error)
    _log.error("webhooks.database_unavailable", extra={"webhooks.error": reason})
    return DatabaseUnavailable(reason)


def _is_conflict(error: DBAPIError | PoolTimeout) -> bool:
    code = failures.code(error)
    return (
        code in _CONFLICT_SQLSTATES or code in _CONFLICT_ERRNOS or _sqlite_code(error) in (_SQLITE_BUSY, _SQLITE_LOCKED)
    )


def _is_lost_connection(error: DBAPIError | PoolTimeout) -> bool:
    # A read-only connection counts as lost: `Scope.execute` has dropped all connections of the pool.
    return isinstance(error, DBAPIError) and (error.connection_invalidated or failures.is_read_only(error))


def _is_away(error: DBAPIError | PoolTimeout) -> bool:
    if isinstance(error, PoolTimeout) or _is_lost_connection(error):
        return True
    code = failures.code(error)
    if isinstance(code, str):
        return code[:2] in _AWAY_SQLSTATE_CLASSES
    if isinstance(code, int):
        return code in _AWAY_ERRNOS
    if (sqlite_code := _sqlite_code(error)) is not None:
        return sqlite_code in _AWAY_SQLITE_CODES
    # psycopg could not connect: no server, hence no SQLSTATE.
    return isinstance(error, OperationalError)


def _sqlite_code(error: DBAPIError | PoolTimeout) -> int | None:
    # The low byte is the primary code, the rest says more about it.
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
