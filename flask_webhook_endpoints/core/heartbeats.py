"""Heartbeats of workers: they show operators which workers work, which died, and what each lacked.

A worker has one row from its first heartbeat until it stops. Celery's processes are workers, too.
"""

import os
import resource
import socket
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Literal, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database import clocks
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.settings import MAX_NUMBER

VERSION = version("flask-webhook-endpoints")
"""The version of this library."""

EVERY = timedelta(seconds=10)
"""The time between two heartbeats of a worker; each goes with another transaction of the worker."""

SEEN_LATELY = timedelta(seconds=60)
"""A worker that was not seen for this long has died, or can't reach the database."""

FORGOTTEN_AFTER = timedelta(days=1)
"""The next worker that starts deletes the rows of dead workers after this time."""


class Worker(NamedTuple):
    """A worker or a Celery process, and when it was last seen."""

    id: UUID
    engine: str
    """`worker` or `celery`."""
    hostname: str
    pid: int
    started_at: datetime
    seen_at: datetime
    version: str | None
    """The version of this library that it runs."""
    concurrency: int | None
    """Attempts that it may have in flight; None for Celery."""
    file_limit: int | None
    """The number of files that it may open."""
    short_of: str | None
    """The last thing that it lacked for an attempt, and when."""
    short_at: datetime | None
    clock_skew_ms: int | None
    """Milliseconds by which its clock is ahead of the database's; None on SQLite."""


class Heartbeat:
    """The heartbeat of one worker, by which operators see that it works; no operation commits."""

    def __init__(self, worker_id: UUID, engine: Literal["worker", "celery"], *, pid: int | None = None) -> None:
        """Prepare the heartbeat of a worker that runs in the process `pid`, by default in this one."""
        self._id = worker_id
        self._engine = engine
        self._pid = pid or os.getpid()
        self._started_at: datetime | None = None
        self._beaten_at: datetime | None = None
        self._lacked: tuple[str, datetime] | None = None
        self.concurrency: int | None = None
        """Attempts that the worker may have in flight."""

    def lacked(self, cause: str, at: datetime) -> None:
        """Note what the worker lacked for an attempt; the next heartbeat writes it."""
        self._lacked = cause[:32], at

    def is_due(self, now: datetime) -> bool:
        """Return whether the last heartbeat is as old as `EVERY`."""
        return self._beaten_at is None or abs(now - self._beaten_at) >= EVERY

    def beat(self, scope: Scope) -> None:
        """Write that the worker works, if the heartbeat is due."""
        if not self.is_due(scope.now):
            return
        table = scope.tables.worker
        first = self._started_at is None
        self._started_at = self._started_at or scope.now
        short_of, short_at = self._lacked or (None, None)
        now = {"seen_at": scope.now, "short_of": short_of, "short_at": short_at, "clock_skew_ms": _skew_ms(scope)}
        seen = sa.update(table).where(table.c.id == self._id).values(now)
        # Insert again where the row was deleted, or the transaction that inserted it was rolled back.
        if not scope.execute(seen).rowcount:
            kept = {
                "id": self._id,
                "engine": self._engine,
                "hostname": socket.gethostname()[:255],
                "pid": self._pid,
                "started_at": self._started_at,
                "version": VERSION,
                "concurrency": self.concurrency,
                "file_limit": _file_limit(),
            }
            scope.insert_if_absent(table, {**kept, **now})
        if first:
            _forget_dead(scope)
        self._beaten_at = scope.now

    def end(self, scope: Scope) -> None:
        """Delete the row of the worker, because it stops."""
        table = scope.tables.worker
        scope.execute(sa.delete(table).where(table.c.id == self._id))


def _skew_ms(scope: Scope) -> int | None:
    theirs = clocks.server_time(scope)
    skew = 0 if theirs is None else round((scope.now - theirs).total_seconds() * 1000)
    return None if theirs is None else max(-MAX_NUMBER, min(skew, MAX_NUMBER))


def _file_limit() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else min(soft, MAX_NUMBER)


def _forget_dead(scope: Scope) -> None:
    table = scope.tables.worker
    # Look them up first: on MariaDB a DELETE would wait for every worker whose heartbeat is being written.
    dead = sa.select(table.c.id).where(table.c.seen_at < scope.now - FORGOTTEN_AFTER)
    if ids := list(scope.execute(dead).scalars()):
        scope.execute(sa.delete(table).where(table.c.id.in_(ids)))


def workers(scope: Scope) -> list[Worker]:
    """Return the workers that work, and those that died, the oldest first. A worker that stopped is not among them."""
    table = scope.tables.worker
    statement = sa.select(*(table.c[name] for name in Worker._fields)).order_by(table.c.started_at, table.c.id)
    return [Worker._make(row) for row in scope.execute(statement)]


def last_seen(scope: Scope, engine: Literal["worker", "celery"]) -> datetime | None:
    """Return when a worker of this kind was seen last; None if there is none."""
    table = scope.tables.worker
    return scope.execute(sa.select(sa.func.max(table.c.seen_at)).where(table.c.engine == engine)).scalar()
