"""Wake-ups: after a commit, a thread tells the workers that a delivery may be due.

No commit waits for a wake-up, or fails because of one. A wake-up only saves time. Where one gets lost, due deliveries
are found without it: the worker polls, Celery sweeps.
"""

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from flask_webhook_endpoints.database.tables import Tables

TASK = "flask_webhook_endpoints.deliver"
"""The name of Celery's task."""

EXPIRES_SECONDS = 60
"""Seconds after which Celery drops a message that no process has taken: beat has sent others since."""

INTERVAL_SECONDS = 0.1
"""Seconds between two wake-ups of a process: ten a second say as much as ten thousand."""

IDLE_SECONDS = 2.0
"""Seconds until a connection without wake-ups is closed: idle, it takes a place, and may be cut silently."""

MAX_PAUSE_SECONDS = 5.0
"""Seconds between two tries, at most, while the server cannot be reached."""

EXIT_SECONDS = 1.0
"""Seconds that a process which ends waits for its last wake-ups."""

_PENDING = "webhook_endpoints.wakes"

_log = logging.getLogger("flask_webhook_endpoints.wakes")  # the name that hosts have configured

Line = Callable[[], AbstractContextManager[Callable[[], object]]]
"""Connects to the server that carries wake-ups, and gives the function that sends one."""


class Waker:
    """Sends wake-ups over one line, from a thread that lives while there are any; many in a row become one."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.reset()
        _wakers.add(self)

    def reset(self) -> None:
        """Begin without thread and lock: a forked process has neither the thread nor the thread that held the lock."""
        self._changed = threading.Condition()
        self._asked = self._sent = 0
        self._running = False

    def wake(self) -> None:
        """Send a wake-up soon. Waits for nothing and never fails."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            if not self._running:
                # At the interpreter's end there are no new threads.
                with suppress(RuntimeError):
                    threading.Thread(target=self._run, daemon=True, name="webhooks-waker").start()
                    self._running = True

    def flush(self, seconds: float) -> None:
        """Wait until everything is sent, but no longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked == self._sent, seconds)

    def _run(self) -> None:
        failures = 0
        while self._goes_on():
            try:
                with self._line() as send:
                    while asked := self._next():
                        send()
                        with self._changed:
                            # Only now: a commit during the send needs another wake-up.
                            self._sent = asked
                            self._changed.notify_all()
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
        """Wait for a wake-up to send; return 0 if for a while there is none."""
        with self._changed:
            wanted = self._changed.wait_for(lambda: self._asked != self._sent, IDLE_SECONDS)
            return self._asked if wanted else 0


@dataclass(frozen=True, eq=False)
class Wakeups:
    """Wakes the workers of one application: Celery where the host wired it, other workers where they use PostgreSQL."""

    tables: Tables
    extensions: Mapping[str, Any]
    """The application's, where Flask's documentation puts its Celery."""
    wakers: weakref.WeakValueDictionary[Hashable, Waker] = field(default_factory=weakref.WeakValueDictionary)
    """Each lives while it has a wake-up to send: an engine that the host throws away must not stay alive here."""

    def at_commit(self, session: Session) -> None:
        """Wake the workers when the session's transaction commits, and not if it is rolled back."""
        pending: set[Waker] = session.info.setdefault(_PENDING, set())
        engine = session.get_bind(clause=self.tables.bind_of_writes).engine
        if engine.dialect.name == "postgresql":
            pending.add(self._waker(engine, partial(_postgresql, engine, self.tables)))
        pending.update(self._celery())

    def now(self) -> None:
        """Wake Celery, where the host wired it; other workers look by themselves."""
        for waker in self._celery():
            waker.wake()

    def _celery(self) -> Iterator[Waker]:
        celery: Any = self.extensions.get("celery")
        # Eager tasks run where they are sent, which would be the waker's thread.
        if TASK in getattr(celery, "tasks", ()) and not celery.conf.task_always_eager:
            yield self._waker(celery, partial(_celery, celery))

    def _waker(self, key: Hashable, line: Line) -> Waker:
        return self.wakers.get(key) or self.wakers.setdefault(key, Waker(line))


def flush(seconds: float = EXIT_SECONDS) -> None:
    """Wait until all wake-ups of this process are sent, but no longer than this."""
    give_up_at = time.monotonic() + seconds
    for waker in list(_wakers):
        waker.flush(max(give_up_at - time.monotonic(), 0))


def channel_sql(engine: sa.Engine, tables: Tables) -> str:
    """Return SQL for the name of PostgreSQL's channel, which is one for each table of deliveries in the database."""
    name = engine.dialect.identifier_preparer.format_table(tables.delivery).replace("'", "''")
    return f"'webhook_endpoints_' || coalesce(to_regclass('{name}')::oid, 0)"


def own_connection(engine: sa.Engine) -> Any:
    """Return a connection of the driver outside the pool, which the host may dispose of; each statement commits."""
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()
    try:
        # A host's listener on the pool may have begun a transaction, in which drivers do not change the mode.
        connection.rollback()
        connection.autocommit = True
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _postgresql(engine: sa.Engine, tables: Tables) -> Iterator[Callable[[], object]]:
    # Not in the host's transactions: PostgreSQL commits transactions with a NOTIFY one after the other.
    with closing(own_connection(engine)) as connection:
        yield partial(connection.cursor().execute, f"SELECT pg_notify({channel_sql(engine, tables)}, '')")


@contextmanager
def _celery(celery: Any) -> Iterator[Callable[[], object]]:
    # A connection of this thread alone: Celery's pools break when gunicorn forks.
    with celery.connection_for_write() as connection:
        # Given the connection itself, a producer would try for ever to open a channel.
        producer = celery.amqp.Producer(connection.channel(), auto_declare=False)
        yield partial(celery.tasks[TASK].apply_async, producer=producer, retry=False, expires=EXPIRES_SECONDS)


_wakers: "weakref.WeakSet[Waker]" = weakref.WeakSet()
atexit.register(flush)


def _reset_all() -> None:
    for waker in list(_wakers):
        waker.reset()


os.register_at_fork(after_in_child=_reset_all)


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
