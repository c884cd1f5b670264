"""The engines at work: each says every few seconds that it is, so that operators see one that has died."""

import os
import socket
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.database.tables import Tables

EVERY = timedelta(seconds=10)
"""How often an engine says so, with whatever else it has to do in the database by then."""

SEEN_LATELY = timedelta(seconds=60)
"""An engine that was not seen for so long has died, or can't reach the database."""

FORGOTTEN_AFTER = timedelta(days=1)
"""What an engine that died has left is deleted by the next one that starts."""


class Engine(NamedTuple):
    """An engine, and when it was last seen."""

    id: UUID
    engine: str
    """`worker` or `celery`."""
    hostname: str
    pid: int
    started_at: datetime
    seen_at: datetime


class Heartbeat:
    """Says of one engine that it is at work; no operation commits."""

    def __init__(
        self, tables: Tables, engine_id: UUID, engine: Literal["worker", "celery"], *, pid: int | None = None
    ) -> None:
        """Take the engine's id and the process to look for: this one, if none is given."""
        self._tables = tables
        self._id = engine_id
        self._engine = engine
        self._pid = pid or os.getpid()
        self._started_at: datetime | None = None
        self._beaten_at: datetime | None = None

    def beat(self, session: Session, *, now: datetime) -> None:
        """Say so, unless it was said a moment ago."""
        if self._beaten_at is not None and abs(now - self._beaten_at) < EVERY:
            return
        table = self._tables.worker
        first = self._started_at is None
        self._started_at = self._started_at or now
        seen = sa.update(table).where(table.c.id == self._id).values(seen_at=now)
        # Inserted again where the row is gone, or its transaction was rolled back.
        if not self._tables.execute(session, seen).rowcount:
            self._tables.insert_if_absent(session, table, self._row(now))
        if first:
            self._forget_dead(session, now=now)
        self._beaten_at = now

    def end(self, session: Session) -> None:
        """Take back that it is at work."""
        table = self._tables.worker
        self._tables.execute(session, sa.delete(table).where(table.c.id == self._id))

    def _forget_dead(self, session: Session, *, now: datetime) -> None:
        table = self._tables.worker
        # Looked up first: on MariaDB a DELETE would wait for every engine that says at this moment that it is at work.
        dead = sa.select(table.c.id).where(table.c.seen_at < now - FORGOTTEN_AFTER)
        if ids := list(self._tables.execute(session, dead).scalars()):
            self._tables.execute(session, sa.delete(table).where(table.c.id.in_(ids)))

    def _row(self, now: datetime) -> dict[str, object]:
        return {
            "id": self._id,
            "engine": self._engine,
            "hostname": socket.gethostname()[:255],
            "pid": self._pid,
            "started_at": self._started_at,
            "seen_at": now,
        }


def engines(session: Session, tables: Tables) -> list[Engine]:
    """Return the engines that have not ended as they should, the oldest first: those at work, and those that died."""
    table = tables.worker
    statement = sa.select(*(table.c[name] for name in Engine._fields)).order_by(table.c.started_at, table.c.id)
    return [Engine._make(row) for row in tables.execute(session, statement)]
