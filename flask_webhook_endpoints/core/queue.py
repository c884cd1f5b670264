"""What is due, and what of it is next: one delivery of each endpoint before a second one of any, up to its cap."""

from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.database.types import Array


class Next(NamedTuple):
    """What an engine may attempt next."""

    delivery_ids: Sequence[UUID]
    orphaned: Sequence[UUID]
    """Endpoints that are no more, though something waits for them."""


class _Waiting(NamedTuple):
    """An endpoint with something due."""

    id: UUID
    known: bool
    """False: it is no more."""
    delivery_id: UUID
    """The first of what is due."""
    in_flight: int


class Queue:
    """Reads `webhook_delivery`; locks and writes nothing."""

    def __init__(self, tables: Tables, *, max_in_flight_per_endpoint: int) -> None:
        self._tables = tables
        self._cap = max_in_flight_per_endpoint
        # Statements are built once: building one takes longer than the database takes over it.
        self._waiting = lru_cache(self._waiting_on)
        self._next_of_each = lru_cache(self._next_of_each_on)

    def is_any_due(self, session: Session, *, now: datetime) -> bool:
        """Tell whether a delivery waits for an attempt that may begin."""
        return bool(self._read(session, self._waiting, most=1, now=now))

    def next(self, session: Session, *, most: int, now: datetime) -> Next:
        """Return up to `most` due deliveries of endpoints that are active and below their cap, the longest due first.

        One of each endpoint comes first: a backlog waits behind the others, not before them.
        """
        waiting = list(map(_Waiting._make, self._read(session, self._waiting, most=most, now=now)))
        ready = [endpoint for endpoint in waiting if endpoint.known]
        chosen = dict.fromkeys([endpoint.delivery_id for endpoint in ready])
        below_cap = deque(endpoint for endpoint in ready if endpoint.in_flight + 1 < self._cap)
        while below_cap and (missing := most - len(chosen)) > 0:
            asked: list[UUID] = []
            # As many endpoints as could have so many in flight besides.
            while below_cap and missing > 0:
                endpoint = below_cap.popleft()
                asked.append(endpoint.id)
                missing -= self._cap - endpoint.in_flight - 1
            chosen.update(dict.fromkeys(self._next_of(session, asked, now=now)))
        return Next(list(chosen)[:most], [endpoint.id for endpoint in waiting if not endpoint.known])

    def _next_of(self, session: Session, endpoint_ids: Sequence[UUID], *, now: datetime) -> Iterator[UUID]:
        """Yield what each of the endpoints may have in flight besides."""
        if self._tables.dialect(session).name == "postgresql":
            rows = self._read(session, self._next_of_each, endpoint_ids=endpoint_ids, now=now)
            found: list[Sequence[Any]] = [list(group) for _, group in groupby(rows, itemgetter(2))]
        else:
            found = [self._read(session, self._next_of_each, endpoint_id=each, now=now) for each in endpoint_ids]
        for rows_of_endpoint in found:
            for number, (delivery_id, in_flight, _) in enumerate(rows_of_endpoint):
                if in_flight + number < self._cap:
                    yield delivery_id

    def _read(self, session: Session, statement_on: Any, **values: Any) -> Sequence[Any]:
        statement = statement_on(self._tables.dialect(session).name)
        return self._tables.execute(session, statement, values).all()

    def _next_of_each_on(self, dialect: str) -> Any:
        """Build what reads the next ones of an endpoint, and of several in turn on PostgreSQL."""
        endpoint_id = self._tables.delivery.c.endpoint_id
        if dialect != "postgresql":
            return self._next(sa.bindparam("endpoint_id", type_=endpoint_id.type))
        several = sa.bindparam("endpoint_ids", type_=Array(endpoint_id.type))
        asked = sa.func.unnest(several).table_valued("endpoint_id").render_derived("asked")
        following = self._next(asked.c.endpoint_id).lateral("following")
        return sa.select(following).select_from(asked.join(following, sa.true()))

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
            sa.select(delivery.c.id, in_flight.label("in_flight"), delivery.c.endpoint_id)
            .correlate_except(delivery)
            .where(
                delivery.c.status == DeliveryStatus.PENDING,
                delivery.c.endpoint_id == endpoint_id,
                delivery.c.next_attempt_at <= self._now(),
            )
            # As the index has them, so that no more of a backlog is read than is taken.
            .order_by(delivery.c.next_attempt_at)
            .limit(self._cap)
        )

    def _waiting_on(self, dialect: str) -> sa.Select[Any]:
        """Select the endpoints with something due, the longest due first: each with its first delivery and its load.

        The cost follows how many endpoints have something pending, not how much each has, nor what is done.
        """
        endpoint, queue = self._tables.endpoint, self._pending_on(dialect)
        first, flying = self._tables.delivery.alias("first"), self._tables.delivery.alias("flying")
        due = self._tables.delivery.alias("due")
        first_id = (
            sa.select(first.c.id)
            .where(
                first.c.status == DeliveryStatus.PENDING,
                first.c.endpoint_id == queue.c.endpoint_id,
                first.c.next_attempt_at <= self._now(),
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
            .limit(sa.bindparam("most", type_=sa.Integer()))
        )

    def _pending_on(self, dialect: str) -> Any:
        """Select the endpoints that have something pending."""
        delivery = self._tables.delivery
        pending = sa.select(delivery.c.endpoint_id).where(delivery.c.status == DeliveryStatus.PENDING)
        if dialect in ("mysql", "mariadb"):
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

    def _now(self) -> sa.BindParameter[datetime]:
        return sa.bindparam("now", type_=self._tables.delivery.c.next_attempt_at.type)
