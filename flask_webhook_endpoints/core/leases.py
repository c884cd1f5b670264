"""The deliveries: claimed, given back, cancelled.

No operation commits. A claim and its settlement are two transactions with the network between them; a lease says who
may settle, and it ends by itself where an engine dies.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.core.queue import Queue
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.prepared import Prepared
from flask_webhook_endpoints.database.tables import Tables

LEASE_MARGIN_SECONDS = 30
"""What a lease has beyond the endpoint's timeout: for recording, and for clocks that differ."""


class Claimed(NamedTuple):
    """A delivery that an engine may attempt now, with all that it needs; headers and secrets still encrypted."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    attempt: int
    """Its number, counted from 1."""
    turn: int
    """Its place in the retry schedule, counted from 1."""
    tenant_id: str
    body: bytes
    traceparent: str | None
    """Of whoever published it."""
    url: str
    headers_encrypted: str | None
    timeout_seconds: int
    failing: bool
    """Whether deliveries to the endpoint were failing when it was claimed."""
    secrets_encrypted: tuple[str, ...]


class Claim(NamedTuple):
    """What one look for due deliveries brought."""

    deliveries: Sequence[Claimed]
    cancelled: bool = False
    """Whether some of what it found was to be cancelled instead, and is; behind that more may be due."""
    contended: bool = False
    """Whether others had some of what it found by then; behind that more may be due, too."""


class _Lease(NamedTuple):
    """A delivery that is leased: what `Claimed` begins with."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    attempt: int
    turn: int
    tenant_id: str


class _Receiver(NamedTuple):
    """Where the deliveries of an endpoint go, and the secrets that sign them, the one in force first."""

    url: str
    headers_encrypted: str | None
    timeout_seconds: int
    failing: bool
    secrets_encrypted: tuple[str, ...]


class Deliveries:
    """Operations on `webhook_delivery`; none commits."""

    def __init__(self, tables: Tables, *, max_in_flight_per_endpoint: int, max_timeout_seconds: int) -> None:
        self._tables = tables
        self._queue = Queue(tables, max_in_flight_per_endpoint=max_in_flight_per_endpoint)
        self._lease = timedelta(seconds=max_timeout_seconds + LEASE_MARGIN_SECONDS)
        delivery = tables.delivery
        expired = (delivery.c.status == DeliveryStatus.SENDING, delivery.c.next_attempt_at <= sa.bindparam("now"))
        self._expired = sa.select(delivery.c.id).where(*expired).limit(1)
        self._return_expired = (
            sa.update(delivery).where(*expired).values(status=DeliveryStatus.PENDING, lease_owner=None)
        )
        self._cancel = Prepared(
            tables,
            sa.update(delivery)
            .where(delivery.c.status == DeliveryStatus.PENDING, delivery.c.endpoint_id == sa.bindparam("of_endpoint"))
            .values(status=DeliveryStatus.CANCELLED, finished_at=sa.bindparam("now"), next_attempt_at=None),
        )
        # Statements are built once, for each dialect: building one takes longer than the database takes over it.
        self._free = lru_cache(self._free_on)
        self._lease_free = lru_cache(self._lease_free_on)
        locked = delivery.c.id.in_(sa.bindparam("ids", expanding=True))
        self._lease_locked = self._lease_those(locked)
        self._locked = sa.select(*self._of_claimed()).where(locked)
        self._events = lru_cache(self._events_on)
        self._receivers = lru_cache(self._receivers_on)

    def begin(self, session: Session) -> None:
        """Begin a transaction of an engine, which holds no locks on the gaps between rows where MariaDB would.

        Engines that claim and settle beside each other, and hosts that publish, would deadlock over those.
        """
        if self._tables.dialect(session).name in ("mysql", "mariadb"):
            # A statement: SQLAlchemy wraps its errors, but not those of `isolation_level` on a lost connection.
            self._tables.execute(session, sa.text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))

    def claim(self, session: Session, owner: UUID, *, most: int, now: datetime) -> Claim:
        """Lease up to `most` due deliveries of endpoints that are active and below their cap, the longest due first."""
        # What an engine claimed and did not settle before its lease ended.
        self._tables.execute(session, self._return_expired, {"now": now})
        chosen, orphaned = self._queue.next(session, most=most, now=now)
        if orphaned:
            self.cancel(session, orphaned, now=now)
        leased = self._leased(session, owner, chosen, now=now) if chosen else []
        loaded = self._load(session, leased, now=now) if leased else []
        if abandons := len(loaded) < len(leased):
            self._abandon(session, {lease.id for lease in leased} - {claimed.id for claimed in loaded}, now=now)
        return Claim(loaded, cancelled=bool(orphaned) or abandons, contended=len(leased) < len(chosen))

    def is_any_due(self, session: Session, *, now: datetime) -> bool:
        """Tell whether `claim` would find something to do."""
        expired = self._tables.execute(session, self._expired, {"now": now}).first()
        return expired is not None or self._queue.is_any_due(session, now=now)

    def give_back(self, session: Session, owner: UUID, deliveries: Collection[Claimed], *, now: datetime) -> None:
        """Return leased deliveries whose attempt did not begin or was broken off; it does not count."""
        delivery = self._tables.delivery
        statement = sa.update(delivery).where(
            delivery.c.id.in_([claimed.id for claimed in deliveries]),
            delivery.c.lease_owner == owner,
            delivery.c.status == DeliveryStatus.SENDING,
        )
        values = {
            "status": DeliveryStatus.PENDING,
            "attempts": delivery.c.attempts - 1,
            "next_attempt_at": now,
            "lease_owner": None,
        }
        self._tables.execute(session, statement.values(values))

    def cancel(self, session: Session, endpoint_ids: Collection[UUID], *, now: datetime) -> None:
        """Cancel what waits for endpoints that are no more; what is in flight may finish."""
        for endpoint_id in endpoint_ids:
            self._cancel.execute(session, {"of_endpoint": endpoint_id, "now": now})

    def _abandon(self, session: Session, ids: Collection[UUID], *, now: datetime) -> None:
        """Cancel what can't be attempted: its endpoint or its event is no more."""
        delivery = self._tables.delivery
        values = {
            "status": DeliveryStatus.CANCELLED,
            "attempts": delivery.c.attempts - 1,
            "finished_at": now,
            "next_attempt_at": None,
            "lease_owner": None,
        }
        self._tables.execute(session, sa.update(delivery).where(delivery.c.id.in_(ids)).values(values))

    def _leased(self, session: Session, owner: UUID, chosen: Sequence[UUID], *, now: datetime) -> list[_Lease]:
        tables, dialect = self._tables, self._tables.dialect(session)
        of_free = {"ids": chosen, "now": now}
        lease = {"lease_until": now + self._lease, "owner": owner}
        if dialect.update_returning:
            return _leases(tables.execute(session, self._lease_free(dialect.name), {**of_free, **lease}).all())
        if not (ids := tables.execute(session, self._free(dialect.name), of_free).scalars().all()):
            return []
        tables.execute(session, self._lease_locked, {"ids": ids, **lease})
        return _leases(tables.execute(session, self._locked, {"ids": ids}).all())

    def _load(self, session: Session, leased: Sequence[_Lease], *, now: datetime) -> list[Claimed]:
        """Add what they send and where, read once however many have it in common."""
        dialect = self._tables.dialect(session).name
        # By their numbers: UUIDs are hashed and compared in Python, some of them for each delivery.
        event_ids = {lease.event_id.int: lease.event_id for lease in leased}
        endpoint_ids = {lease.endpoint_id.int: lease.endpoint_id for lease in leased}
        found: Sequence[Any] = self._tables.execute(session, self._events(dialect), {"ids": event_ids.values()}).all()
        events = {event_id.int: event for event_id, *event in found}
        receivers = self._load_receivers(session, endpoint_ids.values(), now=now)
        return [
            Claimed._make((*lease, *event, *receiver))
            for lease in leased
            if (event := events.get(lease.event_id.int)) is not None
            and (receiver := receivers.get(lease.endpoint_id.int)) is not None
        ]

    def _load_receivers(
        self, session: Session, endpoint_ids: Collection[UUID], *, now: datetime
    ) -> dict[int, _Receiver]:
        statement = self._receivers(self._tables.dialect(session).name)
        receivers: dict[int, _Receiver] = {}
        rows: Sequence[Any] = self._tables.execute(session, statement, {"ids": endpoint_ids, "now": now}).all()
        for endpoint_id, *receiver, secret in rows:
            number = endpoint_id.int
            newer = receivers[number].secrets_encrypted if number in receivers else ()
            receivers[number] = _Receiver._make((*receiver, newer if secret is None else (*newer, secret)))
        return receivers

    def _free_on(self, dialect: str) -> sa.Select[Any]:
        """Select those of the chosen that are free; whoever locks a row first has it, and the others pass by."""
        delivery = self._tables.delivery
        return (
            sa.select(delivery.c.id)
            .where(
                self._tables.among(dialect, delivery.c.id, "ids"),
                # Nothing that an index has: the ids are few, and what else is pending may be a million.
                sa.func.coalesce(delivery.c.status, "") == DeliveryStatus.PENDING,
                # Another engine may have tried it since, and put it off.
                delivery.c.next_attempt_at <= sa.bindparam("now"),
            )
            .with_for_update(skip_locked=True)
        )

    def _lease_free_on(self, dialect: str) -> Any:
        # A table of its own, or PostgreSQL may lock them all again for each row that it looks at.
        free = self._free_on(dialect).cte("free")
        return self._lease_those(self._tables.delivery.c.id.in_(sa.select(free.c.id))).returning(*self._of_claimed())

    def _lease_those(self, which: sa.ColumnElement[bool]) -> sa.Update:
        delivery = self._tables.delivery
        values = {
            "status": DeliveryStatus.SENDING,
            "attempts": delivery.c.attempts + 1,
            "next_attempt_at": sa.bindparam("lease_until"),
            "lease_owner": sa.bindparam("owner"),
        }
        return sa.update(delivery).where(which).values(values)

    def _of_claimed(self) -> list[Any]:
        """Return the columns of `_Lease`."""
        delivery = self._tables.delivery
        turn = (delivery.c.attempts - delivery.c.attempts_before).label("turn")
        return [
            *(delivery.c.id, delivery.c.endpoint_id, delivery.c.event_id),
            *(delivery.c.attempts, turn, delivery.c.tenant_id),
        ]

    def _events_on(self, dialect: str) -> Any:
        event = self._tables.event
        columns = (event.c.id, event.c.body, event.c.traceparent)
        return sa.select(*columns).where(self._tables.among(dialect, event.c.id, "ids"))

    def _receivers_on(self, dialect: str) -> Any:
        endpoint, secret = self._tables.endpoint, self._tables.secret
        unexpired = sa.or_(secret.c.expires_at.is_(None), secret.c.expires_at > sa.bindparam("now"))
        live = sa.and_(secret.c.endpoint_id == endpoint.c.id, unexpired)
        return (
            sa.select(
                endpoint.c.id,
                endpoint.c.url,
                endpoint.c.headers_encrypted,
                endpoint.c.timeout_seconds,
                endpoint.c.failing_since.is_not(None).label("failing"),
                secret.c.secret_encrypted,
            )
            .select_from(endpoint.outerjoin(secret, live))
            .where(self._tables.among(dialect, endpoint.c.id, "ids"))
            # The one in force before the old ones: ids of two processes may be in another order than their writes.
            .order_by(secret.c.expires_at.is_not(None), secret.c.id.desc())
        )


def _leases(rows: Iterable[Sequence[Any]]) -> list[_Lease]:
    """Return the oldest first, as ids begin with a time; tuples, as each look at a row by name costs an exception."""
    return sorted(map(_Lease._make, rows), key=attrgetter("id.int"))
