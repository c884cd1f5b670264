"""Deliveries as their tenant sees them, one endpoint's at a time; redelivery, also by operators; the ping.

A tenant sees a delivery through its endpoint. Deliveries of a deleted endpoint are not found.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult

from flask_webhook_endpoints.core import events, fan_out, redelivery_limit, transitions
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState
from flask_webhook_endpoints.database.scope import Scope, TenantScope, as_committed, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import DeliveryInFlight, EndpointPaused, UnknownDelivery, UnknownEndpoint
from flask_webhook_endpoints.identifiers import format_id

PING = "webhook.ping"
"""The type of the event that tries out an endpoint."""


class Delivery(NamedTuple):
    """A delivery as its tenant may see it; one in flight is `PENDING` without a next attempt."""

    id: UUID
    event_id: UUID
    event_type: str
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


class Attempt(NamedTuple):
    """One HTTP request of a delivery, and its result."""

    number: int
    started_at: datetime
    duration_ms: int
    response_status: int | None
    error: str | None
    response_excerpt: bytes | None


class Recipient(NamedTuple):
    """An endpoint that an operator redelivers to, unless it is paused."""

    tenant_id: str
    endpoint_id: UUID
    paused: bool


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The deliveries with one of these statuses, published between two times."""

    statuses: Collection[DeliveryStatus]
    since: datetime | None = None
    until: datetime | None = None


class Batch(NamedTuple):
    """The result of one batch of a redelivery."""

    read: int
    redelivered: int
    """0 where the endpoint was paused or deleted meanwhile."""
    last: UUID
    """The delivery after which the next batch begins."""


def page(
    scope: TenantScope, endpoint_id: UUID, *, limit: int, after: UUID | None = None, status: str | None = None
) -> list[Delivery]:
    """Return an endpoint's deliveries older than `after`, newest first, `limit` at most; raise `UnknownEndpoint`."""
    delivery = scope.tables.delivery
    shown = _shown(scope).order_by(delivery.c.id.desc()).limit(limit)
    if after is not None:
        shown = shown.where(delivery.c.id < after)
    if status is not None:
        shown = shown.where(delivery.c.status == status)
    rows = _execute(scope, shown, endpoint_id).all()
    if not rows:
        _is_paused(scope, endpoint_id)
    return [Delivery._make(row) for row in rows]


def get(scope: TenantScope, endpoint_id: UUID, delivery_id: UUID) -> tuple[Delivery, bytes, list[Attempt]]:
    """Return a delivery, its body and its attempts; raise `UnknownEndpoint`, `UnknownDelivery`."""
    delivery, event = scope.tables.delivery, scope.tables.event
    one = _shown(scope).add_columns(event.c.body, *_last_attempt(delivery)).where(delivery.c.id == delivery_id)
    row = _execute(scope, one, endpoint_id).one_or_none()
    if row is None:
        _is_paused(scope, endpoint_id)
        raise UnknownDelivery
    shown, (body, *last) = Delivery._make(row[: len(Delivery._fields)]), row[len(Delivery._fields) :]
    attempts = [Attempt._make(each) for each in _execute(scope, _attempts(scope), endpoint_id, of_id=delivery_id)]
    of_log = Attempt._make(last)
    # One that succeeded at once stands in the log alone.
    if of_log.started_at is not None and all(each.number != of_log.number for each in attempts):
        attempts.append(of_log)
    return shown, body, attempts


def redeliver(
    scope: TenantScope, endpoint_id: UUID, delivery_id: UUID, *, most_per_minute: int | None = None
) -> Delivery:
    """Make a delivery due now, with its whole retry schedule, and return it.

    Raises `UnknownEndpoint`, `EndpointPaused`, `UnknownDelivery`, `DeliveryInFlight`, and `TooManyRedeliveries` if the
    tenant has had `most_per_minute`. The caller rolls back then, or what was refused counts.
    """
    if most_per_minute is not None:
        # First, so that a refused request leaves no dead rows in the queue.
        redelivery_limit.count(scope, most=most_per_minute)
    redelivered = _redeliver(scope, endpoint_id, [delivery_id], list(DeliveryStatus))
    if not redelivered and _is_paused(scope, endpoint_id, committed=True):
        raise EndpointPaused
    one = _shown(scope).where(scope.tables.delivery.c.id == delivery_id)
    row = _execute(scope, one, endpoint_id).one_or_none()
    if row is None:
        raise UnknownDelivery
    if not redelivered:
        raise DeliveryInFlight
    scope.wake_at_commit()
    return Delivery._make(row)


def ping(scope: TenantScope, endpoint_id: UUID, *, event_type: str = PING, data: Any = None) -> Delivery:
    """Publish an event to this endpoint alone, whatever its event types, and return the delivery.

    The data of `webhook.ping` is the endpoint's id. Raises `UnknownEndpoint`, `EndpointPaused`, `EventWaiting`.
    """
    sent = {"endpoint_id": format_id(endpoint_id)} if event_type == PING else data
    event = events.publish_to(scope, endpoint_id, event_type, sent, kind=PING)
    if event is None:
        _is_paused(scope, endpoint_id, committed=True)
        raise EndpointPaused
    pinged = _shown(scope).where(fan_out.of_events(scope.tables, {event.id: event.created_at}))
    row = _execute(scope, pinged, endpoint_id).one_or_none()
    if row is None:
        # Deleted since the delivery was written, on PostgreSQL, whose INSERT … SELECT locks nothing.
        raise UnknownEndpoint
    return Delivery._make(row)


def owner(scope: Scope, delivery_id: UUID) -> tuple[str, UUID]:
    """Return the tenant and the endpoint of a delivery; raise `UnknownDelivery`."""
    delivery = scope.tables.delivery
    found = sa.select(delivery.c.tenant_id, delivery.c.endpoint_id).where(delivery.c.id == delivery_id)
    row = scope.execute(found).one_or_none()
    if row is None:
        raise UnknownDelivery
    return row.tenant_id, row.endpoint_id


def recipients(scope: Scope, *, endpoint_id: UUID | None = None, tenant_id: str | None = None) -> list[Recipient]:
    """Return the endpoint with this id, or all endpoints of a tenant."""
    endpoint = scope.tables.endpoint
    which = endpoint.c.tenant_id == tenant_id if endpoint_id is None else endpoint.c.id == endpoint_id
    found = sa.select(endpoint.c.tenant_id, endpoint.c.id, endpoint.c.paused_at.is_not(None)).where(which)
    return [Recipient._make(row) for row in scope.execute(found.order_by(endpoint.c.id))]


def count(scope: Scope, recipients: Collection[Recipient], selection: Selection) -> int:
    """Return how many deliveries to the recipients are selected."""
    selected = _select(scope, selection, sa.func.count())
    each = (_execute(scope.of(tenant_id), selected, endpoint_id) for tenant_id, endpoint_id, _ in recipients)
    return sum(found.scalar_one() for found in each)


def redeliver_batch(scope: TenantScope, endpoint_id: UUID, selection: Selection, *, after: UUID | None) -> Batch | None:
    """Redeliver a batch of the selected deliveries after the id `after`; return None if none is left."""
    delivery = scope.tables.delivery
    batch = _select(scope, selection, delivery.c.id).order_by(delivery.c.id).limit(transactions.BATCH)
    if after is not None:
        batch = batch.where(delivery.c.id > after)
    ids = list(_execute(scope, batch, endpoint_id).scalars())
    return Batch(len(ids), _redeliver(scope, endpoint_id, ids, selection.statuses), ids[-1]) if ids else None


def _execute(scope: TenantScope, statement: sa.Executable, endpoint_id: UUID, **values: Any) -> CursorResult[Any]:
    return scope.execute(statement, {"of_tenant": scope.tenant_id, "of_endpoint": endpoint_id, **values})


def _is_paused(scope: TenantScope, endpoint_id: UUID, *, committed: bool = False) -> bool:
    """Return whether the endpoint is paused; raise `UnknownEndpoint`.

    After a write read with `committed`: the write saw the endpoint as it is committed now.
    """
    paused = sa.select(scope.tables.endpoint.c.paused_at.is_not(None)).where(*_of_endpoint(scope.tables))
    row = _execute(scope, as_committed(paused) if committed else paused, endpoint_id).one_or_none()
    if row is None:
        raise UnknownEndpoint
    return bool(row[0])


def _redeliver(scope: TenantScope, endpoint_id: UUID, ids: Sequence[UUID], statuses: Collection[DeliveryStatus]) -> int:
    """Make those due that have one of these statuses and are not in flight, unless the endpoint is paused; count them.

    One that a pause or a deletion overtakes is held or cancelled by the next claim, as one that was just published.
    """
    count, values = 0, {"ids": ids, "statuses": list(statuses), "due": scope.now}
    if DeliveryStatus.PENDING in statuses:
        count += _execute(scope, _hurry(scope), endpoint_id, **values).rowcount
    if count < len(ids) and set(transitions.FINISHED) & set(statuses):
        # Write first (SQLite).
        again = _execute(scope, _begin_again(scope), endpoint_id, **values).rowcount
        if again:
            _execute(scope, _keep_last_attempt(scope), endpoint_id, **values)
            _execute(scope, _enqueue(scope), endpoint_id, **values)
        count += again
    return count


def _is_active(tables: Tables) -> sa.ColumnElement[bool]:
    return sa.select(1).where(*_of_endpoint(tables), tables.endpoint.c.paused_at.is_(None)).exists()


@statement
def _hurry(tables: Tables, dialect: str) -> sa.Update:
    queue = tables.queue
    which = tables.among(dialect, queue.c.delivery_id, "ids"), queue.c.endpoint_id == sa.bindparam("of_endpoint")
    return transitions.move(tables, Transition.REDELIVERED, *which, _is_active(tables))


@statement
def _begin_again(tables: Tables, dialect: str) -> sa.Update:
    delivery = tables.delivery
    return transitions.reopen(
        tables,
        tables.among(dialect, delivery.c.id, "ids"),
        delivery.c.endpoint_id == sa.bindparam("of_endpoint"),
        delivery.c.status.in_(sa.bindparam("statuses", expanding=True)),
        _is_active(tables),
    )


def _reopened(tables: Tables, dialect: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Return which deliveries `_begin_again` has reopened: the queue does not have them yet."""
    delivery = tables.delivery
    queued = sa.select(1).where(tables.queue.c.delivery_id == delivery.c.id).exists()
    of_endpoint = delivery.c.endpoint_id == sa.bindparam("of_endpoint")
    return (
        tables.among(dialect, delivery.c.id, "ids"),
        of_endpoint,
        delivery.c.status == DeliveryStatus.PENDING,
        ~queued,
    )


@statement
def _keep_last_attempt(tables: Tables, dialect: str) -> sa.Insert:
    """Give the last attempt a row of its own where it has none, because the log is about to have another one."""
    delivery, attempt = tables.delivery, tables.attempt
    same = attempt.c.delivery_id == delivery.c.id, attempt.c.number == delivery.c.attempts
    lacking = delivery.c.last_attempt_at.is_not(None), ~sa.select(1).where(*same).exists()
    rows = sa.select(delivery.c.id, *_last_attempt(delivery)).where(*_reopened(tables, dialect), *lacking)
    return sa.insert(attempt).from_select(["delivery_id", *Attempt._fields], rows)


@statement
def _enqueue(tables: Tables, dialect: str) -> sa.Insert:
    delivery = tables.delivery
    state = transitions.requeued(tables)
    ids = delivery.c.id, delivery.c.tenant_id, delivery.c.endpoint_id, delivery.c.event_id
    rows = sa.select(*ids, *state.values()).where(*_reopened(tables, dialect))
    return sa.insert(tables.queue).from_select(["delivery_id", "tenant_id", "endpoint_id", "event_id", *state], rows)


def _last_attempt(delivery: sa.Table) -> tuple[sa.ColumnElement[Any], ...]:
    """Return the columns of the last attempt in the log, as `Attempt`."""
    return (
        delivery.c.attempts,
        delivery.c.last_attempt_at,
        delivery.c.last_duration_ms,
        delivery.c.last_response_status,
        delivery.c.last_error,
        delivery.c.last_response_excerpt,
    )


def _of_endpoint(tables: Tables) -> tuple[sa.ColumnElement[bool], ...]:
    endpoint = tables.endpoint
    return endpoint.c.tenant_id == sa.bindparam("of_tenant"), endpoint.c.id == sa.bindparam("of_endpoint")


def _seen(tables: Tables, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Select from the deliveries to an endpoint, through the endpoint."""
    delivery, endpoint = tables.delivery, tables.endpoint
    through = delivery.join(endpoint, endpoint.c.id == delivery.c.endpoint_id)
    return sa.select(*columns).select_from(through).where(*_of_endpoint(tables))


def _select(scope: Scope, selection: Selection, column: sa.ColumnElement[Any]) -> sa.Select[Any]:
    delivery = scope.tables.delivery
    selected = _seen(scope.tables, column).where(delivery.c.status.in_(selection.statuses))
    if selection.since is not None:
        selected = selected.where(delivery.c.created_at >= selection.since)
    if selection.until is not None:
        selected = selected.where(delivery.c.created_at < selection.until)
    return selected


@statement
def _shown(tables: Tables, _dialect: str) -> sa.Select[Any]:
    delivery, event, queue = tables.delivery, tables.event, tables.queue
    shown: dict[str, Any] = {
        "event_type": event.c.type,
        "attempts": sa.func.coalesce(queue.c.attempts, delivery.c.attempts).label("attempts"),
        # While it is in flight, the column holds the end of the worker's lease.
        "next_attempt_at": sa.case((queue.c.state != QueueState.LEASED, queue.c.due_at)).label("next_attempt_at"),
    }
    seen = _seen(tables, *(shown[name] if name in shown else delivery.c[name] for name in Delivery._fields))
    of_queue = seen.outerjoin(queue, queue.c.delivery_id == delivery.c.id)
    return of_queue.join(event, event.c.id == delivery.c.event_id)


@statement
def _attempts(tables: Tables, _dialect: str) -> sa.Select[Any]:
    attempt, delivery = tables.attempt, tables.delivery
    attempts = _seen(tables, *(attempt.c[name] for name in Attempt._fields))
    of_delivery = attempts.join(attempt, attempt.c.delivery_id == delivery.c.id)
    return of_delivery.where(delivery.c.id == sa.bindparam("of_id")).order_by(attempt.c.number)
