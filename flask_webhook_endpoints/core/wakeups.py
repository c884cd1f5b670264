"""What wakes the engines when a transaction has committed: after it and from a thread; no commit waits, none fails.

A wake only saves time. Where one gets lost, the engine finds by itself what is due: the worker polls, Celery sweeps.
"""

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from flask_webhook_endpoints.database.tables import Tables

TASK = "flask_webhook_endpoints.deliver"
"""The name of Celery's task."""

INTERVAL_SECONDS = 0.1
"""Between two wakes of a process: ten a second say as much as ten thousand."""

IDLE_SECONDS = 2.0
"""After which a connection without wakes is closed: what lies idle holds a place, and gets cut silently."""

MAX_PAUSE_SECONDS = 5.0
"""Between tries while nobody can be reached."""

EXIT_SECONDS = 1.0
"""How long a process that ends waits for its last wakes."""

_PENDING = "webhook_endpoints.wakes"

_log = logging.getLogger("flask_webhook_endpoints.wakes")

Line = Callable[[], AbstractContextManager[Callable[[], None]]]
"""Connects to what carries wakes, and gives the function that sends one."""


class Waker:
    """Sends wakes over one line, from a thread that lives while there are any; many in a row become one."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._changed = threading.Condition()
        self._asked = self._sent = 0
        self._running = False
        _wakers.add(self)

    def wake(self) -> None:
        """Send a wake soon. Waits for nothing and never fails."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            if not self._running:
                # At the interpreter's end there are no new threads.
                with suppress(RuntimeError):
                    threading.Thread(target=self._run, daemon=True, name="webhooks-waker").start()
                    self._running = True

    def flush(self, seconds: float) -> bool:
        """Wait until everything is sent; tell whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: self._asked == self._sent, seconds)

    def forget(self) -> None:
        """Start anew: in a forked process there is neither the thread, nor whoever may have held the lock."""
        self._changed = threading.Condition()
        self._asked = self._sent = 0
        self._running = False

    def _run(self) -> None:
        failures = 0
        while self._goes_on():
            try:
                with self._line() as send:
                    while asked := self._next():
                        send()
                        # Only now: a commit during the send is worth another one.
                        self._mark_sent(asked)
                        failures = 0
                        time.sleep(INTERVAL_SECONDS)
            except Exception as error:
                if not failures:
                    _log.warning("webhooks.not_woken", extra={"webhooks.error": f"{type(error).__name__}: {error}"})
                failures += 1
                time.sleep(min(0.25 * 2**failures, MAX_PAUSE_SECONDS))

    def _goes_on(self) -> bool:
        with self._changed:
            self._running = self._asked != self._sent
            return self._running

    def _next(self) -> int:
        """Wait for what is to be sent; 0 when for a while nothing is."""
        with self._changed:
            wanted = self._changed.wait_for(lambda: self._asked != self._sent, IDLE_SECONDS)
            return self._asked if wanted else 0

    def _mark_sent(self, asked: int) -> None:
        with self._changed:
            self._sent = asked
            self._changed.notify_all()


class Wakes:
    """Wakes the engines of one application: Celery where it is wired, workers where the database can tell them."""

    def __init__(self, tables: Tables, extensions: Mapping[str, Any]) -> None:
        """Prepare; `extensions` are the application's, where Flask's documentation has its Celery."""
        self._tables = tables
        self._extensions = extensions
        self._wakers: dict[Hashable, Waker] = {}

    def at_commit(self, session: Session) -> None:
        """Wake the engines when the session's transaction has committed, and not if it is rolled back."""
        pending: set[Waker] = session.info.setdefault(_PENDING, set())
        engine = session.get_bind(clause=self._tables.bind).engine
        if engine.dialect.name == "postgresql":
            statement = f"SELECT pg_notify({channel_sql(engine, self._tables)}, '')"
            pending.add(self._waker(engine, partial(_postgresql, engine, statement)))
        pending.update(self._celery())

    def now(self) -> None:
        """Wake Celery, where one is wired; workers don't need it who look by themselves."""
        for waker in self._celery():
            waker.wake()

    def _celery(self) -> Iterator[Waker]:
        celery: Any = self._extensions.get("celery")
        # Eager tasks run where they are sent: here that would be our thread.
        if TASK in getattr(celery, "tasks", ()) and not celery.conf.task_always_eager:
            yield self._waker(celery, partial(_celery, celery))

    def _waker(self, key: Hashable, line: Line) -> Waker:
        # Atomic, for threads that come first together.
        return self._wakers.get(key) or self._wakers.setdefault(key, Waker(line))


def flush(seconds: float = EXIT_SECONDS) -> None:
    """Wait until all wakes of this process are sent, but no longer than this."""
    give_up_at = time.monotonic() + seconds
    for waker in list(_wakers):
        waker.flush(max(give_up_at - time.monotonic(), 0))


def channel_sql(engine: sa.Engine, tables: Tables) -> str:
    """Return SQL for the name of PostgreSQL's channel: of this very table, whatever else the database has."""
    name = engine.dialect.identifier_preparer.format_table(tables.delivery).replace("'", "''")
    return f"'webhook_endpoints_' || coalesce(to_regclass('{name}')::oid, 0)"


def own_connection(engine: sa.Engine) -> Any:
    """Return a connection of the driver, on its own: not in the pool, which the host may dispose of, nor in its count.

    Every statement on it commits by itself.
    """
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()
    connection.autocommit = True
    return connection


@contextmanager
def _postgresql(engine: sa.Engine, statement: str) -> Iterator[Callable[[], None]]:
    # Not in the host's transactions: PostgreSQL commits those that notify one after the other.
    with closing(own_connection(engine)) as connection:
        yield partial(connection.cursor().execute, statement)


@contextmanager
def _celery(celery: Any) -> Iterator[Callable[[], None]]:
    # A connection of this thread alone: Celery's pools don't outlive a fork of gunicorn's.
    with celery.connection_for_write() as connection:
        # Of the connection itself, a producer would try for ever to make a channel.
        producer = celery.amqp.Producer(connection.channel(), auto_declare=False)
        yield partial(celery.tasks[TASK].apply_async, producer=producer, retry=False)


_wakers: "weakref.WeakSet[Waker]" = weakref.WeakSet()
atexit.register(flush)


def _forget_all() -> None:
    for waker in list(_wakers):
        waker.forget()


os.register_at_fork(after_in_child=_forget_all)


@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    # A savepoint that is released is not committed yet.
    if not session.in_nested_transaction():
        for waker in session.info.pop(_PENDING, ()):
            waker.wake()


@event.listens_for(Session, "after_transaction_end")
def _ended(session: Session, transaction: SessionTransaction) -> None:
    # Rolled back.
    if transaction.parent is None:
        session.info.pop(_PENDING, None)
