"""The queue: which deliveries are due, and which of them a worker attempts next. It locks and writes nothing."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.database.types import Array

_CAP = sa.bindparam("cap", type_=sa.Integer())


class Next(NamedTuple):
    """The deliveries that a worker may attempt next."""

    delivery_ids: Sequence[UUID]
    orphaned: Sequence[UUID]
    """Deleted endpoints for which deliveries still wait."""


class _Waiting(NamedTuple):
    """An endpoint that has a due delivery."""

    id: UUID
    known: bool
    """False: the endpoint was deleted."""
    delivery_id: UUID
    """The delivery that is due for the longest time."""
    in_flight: int


def is_any_due(scope: Scope, *, cap: int) -> bool:
    """Return whether a delivery is due to an endpoint with fewer than `cap` deliveries in flight."""
    return bool(_read(scope, _waiting(scope), most=1, cap=cap))


def choose(scope: Scope, *, most: int, cap: int) -> Next:
    """Choose up to `most` due deliveries of active endpoints with fewer than `cap` in flight, the longest due first.

    Each endpoint gets one delivery before any endpoint gets a second one, so that a backlog delays no other endpoint.
    """
    waiting = [_Waiting._make(row) for row in _read(scope, _waiting(scope), most=most, cap=cap)]
    ready = [endpoint for endpoint in waiting if endpoint.known]
    chosen = dict.fromkeys([endpoint.delivery_id for endpoint in ready])
    below_cap = deque(endpoint for endpoint in ready if endpoint.in_flight + 1 < cap)
    while below_cap and (missing := most - len(chosen)) > 0:
        asked: list[UUID] = []
        # Ask only as many endpoints as could have the missing deliveries in flight.
        while below_cap and missing > 0:
            endpoint = below_cap.popleft()
            asked.append(endpoint.id)
            missing -= cap - endpoint.in_flight - 1
        chosen.update(dict.fromkeys(_due_of(scope, asked, cap=cap)))
    return Next(list(chosen)[:most], [endpoint.id for endpoint in waiting if not endpoint.known])


def _due_of(scope: Scope, endpoint_ids: Sequence[UUID], *, cap: int) -> Iterator[UUID]:
    """Yield the due deliveries of each endpoint, as many as its cap leaves room for."""
    if scope.dialect.name == "postgresql":
        rows = _read(scope, _due_of_each(scope), endpoint_ids=endpoint_ids, cap=cap)
        found: list[Sequence[Any]] = [list(group) for _, group in groupby(rows, itemgetter(2))]
    else:
        found = [_read(scope, _due_of_each(scope), endpoint_id=each, cap=cap) for each in endpoint_ids]
    for rows_of_endpoint in found:
        for number, (delivery_id, in_flight, _) in enumerate(rows_of_endpoint):
            if in_flight + number < cap:
                yield delivery_id


def _read(scope: Scope, select: sa.Select[Any], **values: Any) -> Sequence[Any]:
    return scope.execute(select, {"now": scope.now, **values}).all()


@statement
def _due_of_each(tables: Tables, dialect: str) -> Any:
    """Select the due deliveries of one endpoint; on PostgreSQL those of several endpoints, one endpoint at a time."""
    endpoint_id = tables.delivery.c.endpoint_id
    if dialect != "postgresql":
        return _due_of_one(tables, sa.bindparam("endpoint_id", type_=endpoint_id.type))
    several = sa.bindparam("endpoint_ids", type_=Array(endpoint_id.type))
    asked = sa.func.unnest(several).table_valued("endpoint_id").render_derived("asked")
    following = _due_of_one(tables, asked.c.endpoint_id).lateral("following")
    return sa.select(following).select_from(asked.join(following, sa.true()))


def _due_of_one(tables: Tables, endpoint_id: sa.ColumnElement[UUID]) -> Any:
    """Select up to `cap` due deliveries of an endpoint, beside the number that it has in flight.

    One statement reads both, so that two workers can't pass the cap together: a delivery that one of them leases is
    for the other one either due or in flight.
    """
    delivery = tables.delivery
    return (
        sa.select(delivery.c.id, _in_flight(tables, endpoint_id).label("in_flight"), delivery.c.endpoint_id)
        .correlate_except(delivery)
        .where(*_is_due(delivery, endpoint_id))
        # As the index has them, so that no more of a backlog is read than is taken.
        .order_by(delivery.c.next_attempt_at)
        .limit(_CAP)
    )


@statement
def _waiting(tables: Tables, dialect: str) -> sa.Select[Any]:
    """Select the endpoints that have a due delivery, the longest due first, as `_Waiting`.

    The cost grows with the number of endpoints that have a pending delivery, not with the number of deliveries.
    """
    endpoint, pending = tables.endpoint, _with_pending(tables, dialect)
    first, due = tables.delivery.alias("first"), tables.delivery.alias("due")
    first_due = sa.select(first.c.id).where(*_is_due(first, pending.c.endpoint_id)).correlate_except(first)
    found = (
        sa.select(
            pending.c.endpoint_id,
            endpoint.c.id.is_not(None).label("known"),
            first_due.order_by(first.c.next_attempt_at).limit(1).scalar_subquery().label("delivery_id"),
            _in_flight(tables, pending.c.endpoint_id).label("in_flight"),
        )
        .select_from(pending.outerjoin(endpoint, endpoint.c.id == pending.c.endpoint_id))
        .where(pending.c.endpoint_id.is_not(None), endpoint.c.paused_at.is_(None))
        .cte("found")
        # PostgreSQL would look everything up twice.
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return (
        sa.select(found)
        .join(due, due.c.id == found.c.delivery_id)
        .where(found.c.in_flight < _CAP)
        .order_by(due.c.next_attempt_at)
        .limit(sa.bindparam("most", type_=sa.Integer()))
    )


def _with_pending(tables: Tables, dialect: str) -> sa.CTE:
    """Select the endpoints that have a pending delivery."""
    delivery, following = tables.delivery, tables.delivery.alias("following")
    pending = sa.select(delivery.c.endpoint_id).where(delivery.c.status == DeliveryStatus.PENDING)
    if dialect in ("mysql", "mariadb"):
        # Their planners can't step through an index by recursion; they read the pending part of it once.
        return pending.distinct().cte("queue")
    # Step in the index from one endpoint to the next, past all that is pending for it.
    first = sa.select(pending.order_by(delivery.c.endpoint_id).limit(1).scalar_subquery().label("endpoint_id"))
    steps = first.cte("queue", recursive=True)
    step = (
        sa.select(following.c.endpoint_id)
        .where(following.c.status == DeliveryStatus.PENDING, following.c.endpoint_id > steps.c.endpoint_id)
        .order_by(following.c.endpoint_id)
        .limit(1)
        .correlate(steps)
        .scalar_subquery()
    )
    return steps.union_all(sa.select(step).where(steps.c.endpoint_id.is_not(None)))


def _is_due(delivery: sa.FromClause, endpoint_id: sa.ColumnElement[UUID]) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        delivery.c.status == DeliveryStatus.PENDING,
        delivery.c.endpoint_id == endpoint_id,
        delivery.c.next_attempt_at <= sa.bindparam("now"),
    )


def _in_flight(tables: Tables, endpoint_id: sa.ColumnElement[UUID]) -> sa.ScalarSelect[int]:
    """Select the number of deliveries that an endpoint has in flight."""
    flying = tables.delivery.alias("flying")
    of_endpoint = flying.c.status == DeliveryStatus.SENDING, flying.c.endpoint_id == endpoint_id
    return sa.select(sa.func.count()).where(*of_endpoint).correlate_except(flying).scalar_subquery()
