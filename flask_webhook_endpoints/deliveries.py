"""The deliveries: claimed, given back, cancelled.

No operation commits. A claim and its settlement are two transactions with the network between them; a lease says who
may settle, and it ends by itself where an engine dies.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from math import ceil
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.models import DeliveryStatus
from flask_webhook_endpoints.tables import Array, Tables

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
    secrets_encrypted: tuple[str, ...]


class _Receiver(NamedTuple):
    """Where the deliveries of an endpoint go, and the secrets that sign them, the newest first."""

    url: str
    headers_encrypted: str | None
    timeout_seconds: int
    secrets_encrypted: tuple[str, ...]


class Deliveries:
    """Operations on `webhook_delivery`; none commits."""

    def __init__(self, tables: Tables, *, max_in_flight_per_endpoint: int, max_timeout_seconds: int) -> None:
        self._tables = tables
        self._cap = max_in_flight_per_endpoint
        self._lease = timedelta(seconds=max_timeout_seconds + LEASE_MARGIN_SECONDS)
        of_endpoint = sa.bindparam("of_endpoint", type_=tables.delivery.c.endpoint_id.type)
        self._next_of_endpoint = self._next(of_endpoint)
        endpoints = sa.bindparam("of_endpoints", type_=Array(tables.delivery.c.endpoint_id.type))
        asked = sa.func.unnest(endpoints).table_valued("endpoint_id").render_derived("asked")
        following = self._next(asked.c.endpoint_id).lateral("following")
        self._next_of_endpoints = sa.select(following).select_from(asked.join(following, sa.true()))

    def begin(self, session: Session) -> None:
        """Begin a transaction of an engine, which holds no locks on the gaps between rows where MariaDB would.

        Engines that claim and settle beside each other, and hosts that publish, would deadlock over those.
        """
        if self._tables.dialect(session).name in ("mysql", "mariadb"):
            # A statement: SQLAlchemy wraps its errors, but not those of `isolation_level` on a lost connection.
            self._tables.execute(session, sa.text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))

    def claim(self, session: Session, owner: UUID, *, most: int, now: datetime) -> list[Claimed]:
        """Lease up to `most` due deliveries of endpoints that are active and below their cap, the longest due first."""
        self._return_expired(session, now=now)
        if not (chosen := self._choose(session, most=most, now=now)):
            return []
        if not (leased := self._leased(session, owner, chosen, now=now)):
            return []
        loaded = self._load(session, leased, now=now)
        if len(loaded) < len(leased):
            self._abandon(session, {row.id for row in leased} - {claimed.id for claimed in loaded}, now=now)
        return loaded

    def is_any_due(self, session: Session, *, now: datetime) -> bool:
        """Tell whether `claim` would find something to do."""
        delivery = self._tables.delivery
        expired = sa.select(delivery.c.id).where(
            delivery.c.status == DeliveryStatus.SENDING, delivery.c.next_attempt_at <= now
        )
        statements = (expired.limit(1), self._waiting(session, most=1, now=now))
        return any(self._tables.execute(session, statement).first() is not None for statement in statements)

    def give_back(self, session: Session, owner: UUID, deliveries: Collection[Claimed], *, now: datetime) -> None:
        """Return leased deliveries whose attempt did not begin or was broken off; it does not count."""
        delivery = self._tables.delivery
        statement = sa.update(delivery).where(
            self._tables.among(session, delivery.c.id, [claimed.id for claimed in deliveries]),
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
        delivery = self._tables.delivery
        statement = sa.update(delivery).where(
            delivery.c.status == DeliveryStatus.PENDING, delivery.c.endpoint_id.in_(endpoint_ids)
        )
        values = {"status": DeliveryStatus.CANCELLED, "finished_at": now, "next_attempt_at": None}
        self._tables.execute(session, statement.values(values))

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

    def _return_expired(self, session: Session, *, now: datetime) -> None:
        """Put back what an engine claimed and did not settle before its lease ended."""
        delivery = self._tables.delivery
        statement = sa.update(delivery).where(
            delivery.c.status == DeliveryStatus.SENDING, delivery.c.next_attempt_at <= now
        )
        self._tables.execute(session, statement.values(status=DeliveryStatus.PENDING, lease_owner=None))

    def _choose(self, session: Session, *, most: int, now: datetime) -> list[UUID]:
        ready: list[Any] = []
        orphaned: list[Any] = []
        for row in self._tables.execute(session, self._waiting(session, most=most, now=now)).all():
            (ready if row.known else orphaned).append(row)
        if orphaned:
            self.cancel(session, [row.endpoint_id for row in orphaned], now=now)
        # One of each endpoint first: a backlog waits behind the others, not before them.
        chosen = dict.fromkeys([row.delivery_id for row in ready][:most])
        below_cap = deque(row.endpoint_id for row in ready if row.in_flight + 1 < self._cap)
        while below_cap and (missing := most - len(chosen)) > 0:
            asked = [below_cap.popleft() for _ in range(min(len(below_cap), ceil(missing / (self._cap - 1))))]
            chosen.update(dict.fromkeys(self._next_of(session, asked, now=now)))
        return list(chosen)[:most]

    def _next_of(self, session: Session, endpoint_ids: Sequence[UUID], *, now: datetime) -> Iterator[UUID]:
        """Yield what each of the endpoints may have in flight besides."""
        if self._tables.dialect(session).name == "postgresql":
            of_all = {"of_endpoints": endpoint_ids, "now": now}
            rows = self._tables.execute(session, self._next_of_endpoints, of_all).all()
            found: list[Sequence[Any]] = [list(group) for _, group in groupby(rows, attrgetter("endpoint_id"))]
        else:
            each = [{"of_endpoint": endpoint_id, "now": now} for endpoint_id in endpoint_ids]
            found = [self._tables.execute(session, self._next_of_endpoint, names).all() for names in each]
        for rows_of_endpoint in found:
            yield from [row.id for number, row in enumerate(rows_of_endpoint) if row.in_flight + number < self._cap]

    def _next(self, endpoint_id: sa.ColumnElement[UUID]) -> Any:
        """Select what an endpoint could have in flight, the longest due first, beside how much it has.

        One statement reads both, so that two engines at the same moment can't pass the cap together: what one of them
        sees as free is what the other one takes.
        """
        delivery, flying = self._tables.delivery, self._tables.delivery.alias("flying")
        in_flight = (
            sa.select(sa.func.count())
            .where(flying.c.status == DeliveryStatus.SENDING, flying.c.endpoint_id == endpoint_id)
            .correlate_except(flying)
            .scalar_subquery()
        )
        return (
            sa.select(delivery.c.id, delivery.c.endpoint_id, in_flight.label("in_flight"))
            .correlate_except(delivery)
            .where(
                delivery.c.status == DeliveryStatus.PENDING,
                delivery.c.endpoint_id == endpoint_id,
                delivery.c.next_attempt_at <= sa.bindparam("now", type_=delivery.c.next_attempt_at.type),
            )
            # As the index has them, so that no more of a backlog is read than is taken.
            .order_by(delivery.c.next_attempt_at)
            .limit(self._cap)
        )

    def _waiting(self, session: Session, *, most: int, now: datetime) -> sa.Select[Any]:
        """Select the endpoints with something due, the longest due first: each with its first delivery and its load.

        The cost follows how many endpoints have something pending, not how much each has, nor what is done.
        """
        endpoint, queue = self._tables.endpoint, self._queue(session)
        first, flying = self._tables.delivery.alias("first"), self._tables.delivery.alias("flying")
        due = self._tables.delivery.alias("due")
        first_id = (
            sa.select(first.c.id)
            .where(
                first.c.status == DeliveryStatus.PENDING,
                first.c.endpoint_id == queue.c.endpoint_id,
                first.c.next_attempt_at <= now,
            )
            .order_by(first.c.next_attempt_at)
            .limit(1)
            .correlate(queue)
            .scalar_subquery()
        )
        in_flight = (
            sa.select(sa.func.count())
            .where(flying.c.status == DeliveryStatus.SENDING, flying.c.endpoint_id == queue.c.endpoint_id)
            .correlate(queue)
            .scalar_subquery()
        )
        found = (
            sa.select(
                queue.c.endpoint_id,
                endpoint.c.id.is_not(None).label("known"),
                first_id.label("delivery_id"),
                in_flight.label("in_flight"),
            )
            .select_from(queue.outerjoin(endpoint, endpoint.c.id == queue.c.endpoint_id))
            .where(queue.c.endpoint_id.is_not(None), endpoint.c.paused_at.is_(None))
            .cte("found")
            # PostgreSQL would look everything up twice.
            .prefix_with("MATERIALIZED", dialect="postgresql")
        )
        return (
            sa.select(found)
            .join(due, due.c.id == found.c.delivery_id)
            .where(found.c.in_flight < self._cap)
            .order_by(due.c.next_attempt_at)
            .limit(most)
        )

    def _queue(self, session: Session) -> Any:
        """Select the endpoints that have something pending."""
        delivery = self._tables.delivery
        pending = sa.select(delivery.c.endpoint_id).where(delivery.c.status == DeliveryStatus.PENDING)
        if self._tables.dialect(session).name in ("mysql", "mariadb"):
            # Their planners can't step through an index by recursion; they read the pending part of it once.
            return pending.distinct().cte("queue")
        # Steps from one endpoint to the next in the index, over whatever each has pending.
        following = delivery.alias("following")
        queue = sa.select(pending.order_by(delivery.c.endpoint_id).limit(1).scalar_subquery().label("endpoint_id"))
        steps = queue.cte("queue", recursive=True)
        step = (
            sa.select(following.c.endpoint_id)
            .where(following.c.status == DeliveryStatus.PENDING, following.c.endpoint_id > steps.c.endpoint_id)
            .order_by(following.c.endpoint_id)
            .limit(1)
            .correlate(steps)
            .scalar_subquery()
        )
        return steps.union_all(sa.select(step).where(steps.c.endpoint_id.is_not(None)))

    def _leased(self, session: Session, owner: UUID, chosen: Sequence[UUID], *, now: datetime) -> Sequence[Any]:
        delivery = self._tables.delivery
        # Whoever locks a row first has it; the others pass by.
        free = sa.select(delivery.c.id).where(
            self._tables.among(session, delivery.c.id, chosen),
            # Nothing that an index has: the ids are few, and what else is pending may be a million.
            sa.func.coalesce(delivery.c.status, "") == DeliveryStatus.PENDING,
            # Another engine may have tried it since, and put it off.
            delivery.c.next_attempt_at <= now,
        )
        free = free.with_for_update(skip_locked=True)
        values = {
            "status": DeliveryStatus.SENDING,
            "attempts": delivery.c.attempts + 1,
            "next_attempt_at": now + self._lease,
            "lease_owner": owner,
        }
        leased = [
            delivery.c.id,
            delivery.c.endpoint_id,
            delivery.c.event_id,
            delivery.c.attempts,
            (delivery.c.attempts - delivery.c.attempts_before).label("turn"),
            delivery.c.tenant_id,
        ]
        if self._tables.dialect(session).update_returning:
            # Apart, or PostgreSQL may lock them all again for each row that it looks at.
            locked = sa.select(free.cte("free").c.id)
            lease = sa.update(delivery).where(delivery.c.id.in_(locked)).values(values).returning(*leased)
            return self._tables.execute(session, lease).all()
        if not (ids := self._tables.execute(session, free).scalars().all()):
            return []
        self._tables.execute(session, sa.update(delivery).where(delivery.c.id.in_(ids)).values(values))
        return self._tables.execute(session, sa.select(*leased).where(delivery.c.id.in_(ids))).all()

    def _load(self, session: Session, leased: Sequence[Any], *, now: datetime) -> list[Claimed]:
        """Add what they send and where, read once however many have it in common."""
        table = self._tables.event
        event_ids = {row.event_id for row in leased}
        of_events = sa.select(table.c.id, table.c.body, table.c.traceparent)
        of_events = of_events.where(self._tables.among(session, table.c.id, event_ids))
        events = {row.id: row for row in self._tables.execute(session, of_events).all()}
        receivers = self._receivers(session, {row.endpoint_id for row in leased}, now=now)
        return [
            Claimed._make((*row, event.body, event.traceparent, *receiver))
            # The oldest first, as ids begin with a time.
            for row in sorted(leased, key=attrgetter("id.int"))
            if (event := events.get(row.event_id)) is not None
            and (receiver := receivers.get(row.endpoint_id)) is not None
        ]

    def _receivers(self, session: Session, endpoint_ids: Collection[UUID], *, now: datetime) -> dict[UUID, _Receiver]:
        endpoint, secret = self._tables.endpoint, self._tables.secret
        live = sa.and_(
            secret.c.endpoint_id == endpoint.c.id, sa.or_(secret.c.expires_at.is_(None), secret.c.expires_at > now)
        )
        statement = (
            sa.select(
                endpoint.c.id,
                endpoint.c.url,
                endpoint.c.headers_encrypted,
                endpoint.c.timeout_seconds,
                secret.c.secret_encrypted,
            )
            .select_from(endpoint.outerjoin(secret, live))
            .where(self._tables.among(session, endpoint.c.id, endpoint_ids))
            .order_by(secret.c.id.desc())
        )
        receivers: dict[UUID, _Receiver] = {}
        for row in self._tables.execute(session, statement).all():
            newer = receivers[row.id].secrets_encrypted if row.id in receivers else ()
            secrets = newer if row.secret_encrypted is None else (*newer, row.secret_encrypted)
            receivers[row.id] = _Receiver(row.url, row.headers_encrypted, row.timeout_seconds, secrets)
        return receivers
