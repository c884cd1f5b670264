"""Redelivery: one delivery again, whatever its status; many that failed or expired, for tenants and operators."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import deliveries, delivery_lists, redelivery_limit, transitions
from flask_webhook_endpoints.core.deliveries import Delivery
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database import dialects, transactions
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.scope import Scope, TenantScope, insert_of_absent, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import DeliveryInFlight, EndpointPaused, UnknownDelivery

RECOVERABLE = (DeliveryStatus.FAILED, DeliveryStatus.EXPIRED)
"""The statuses of deliveries that a recovery sends again."""

MAX_RECOVERED = 10_000
"""The number of deliveries that one request recovers at most."""

_AT_ONCE = 1_000
"""The number of deliveries that the same few statements recover."""


class Recipient(NamedTuple):
    """An endpoint that an operator redelivers to, unless it is paused."""

    tenant_id: str
    endpoint_id: UUID
    paused: bool


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The deliveries with one of these statuses and types, published between two times."""

    statuses: Collection[DeliveryStatus] = RECOVERABLE
    since: datetime | None = None
    until: datetime | None = None
    event_types: Collection[str] = ()
    """Names and `prefix.*`; empty: all."""


class Batch(NamedTuple):
    """The result of one batch of a redelivery."""

    read: int
    redelivered: int
    """0 where the endpoint was paused or deleted meanwhile."""
    last: UUID
    """The delivery after which the next batch begins."""


@dataclass(frozen=True, kw_only=True)
class Resent:
    """The result of a redelivery of several deliveries."""

    count: int
    """The number of deliveries that are sent again."""
    in_flight: int
    """The number of deliveries whose attempt is in flight; they are left alone."""
    unknown: int
    """The number of ids that no delivery to the endpoint has."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """The result of a recovery."""

    count: int
    """The number of deliveries that are sent again, or would be in a dry run."""
    more: bool
    """True if there are more to recover than one request may."""


def redeliver(
    scope: TenantScope, endpoint_id: UUID, delivery_id: UUID, *, most_per_minute: int | None = None
) -> Delivery:
    """Make a delivery due now, with its whole retry schedule, and return it.

    Raises `UnknownEndpoint`, `EndpointPaused`, `UnknownDelivery`, `DeliveryInFlight`, and `TooManyRedeliveries` if the
    tenant has had `most_per_minute`. The caller rolls back then, or what was refused counts.
    """
    if most_per_minute is not None:
        # Count first, so that a refused request leaves no dead rows in the queue.
        redelivery_limit.count(scope, most=most_per_minute)
    redelivered = _redeliver(scope, endpoint_id, [delivery_id], list(DeliveryStatus))
    if not redelivered and deliveries.is_paused(scope, endpoint_id, committed=True):
        raise EndpointPaused
    row = deliveries.execute(scope, deliveries.one(scope), endpoint_id, of_id=delivery_id).one_or_none()
    if row is None:
        raise UnknownDelivery
    if not redelivered:
        raise DeliveryInFlight
    scope.wake_at_commit()
    return Delivery._make(row)


def redeliver_several(
    scope: TenantScope, endpoint_id: UUID, ids: Collection[UUID], *, most_per_minute: int | None = None
) -> Resent:
    """Make deliveries to an endpoint due now, whatever their status, by as many statements as one takes.

    Raises `UnknownEndpoint`, `EndpointPaused`, and `TooManyRedeliveries` if the tenant has had `most_per_minute`, of
    which each delivery counts as one. The caller rolls back then.
    """
    unique = list(set(ids))
    if most_per_minute is not None:
        # Count first, so that a refused request leaves no dead rows in the queue.
        redelivery_limit.count(scope, most=most_per_minute, number=len(unique))
    count = _redeliver(scope, endpoint_id, unique, list(DeliveryStatus))
    if not count:
        _check_active(scope, endpoint_id, committed=True)
    known = deliveries.execute(scope, _count_known(scope), endpoint_id, ids=unique).scalar_one()
    scope.wake_at_commit()
    return Resent(count=count, in_flight=max(known - count, 0), unknown=len(unique) - known)


def recover(
    scope: TenantScope, endpoint_id: UUID, selection: Selection, *, most_per_minute: int | None = None
) -> Recovered:
    """Make the selected deliveries to an endpoint due now, the oldest first and `MAX_RECOVERED` at most.

    Of two recoveries of the same deliveries, the second one leaves out what the first one has made due. Raises
    `UnknownEndpoint`, `EndpointPaused`, and `TooManyRedeliveries` if the tenant has had `most_per_minute`, of which a
    recovery counts as one. The caller rolls back then.
    """
    if most_per_minute is not None:
        # Count first (SQLite). The row stays locked until the end, so that a tenant's recoveries follow each other.
        redelivery_limit.count(scope, most=most_per_minute)
    _check_active(scope, endpoint_id)
    of_list = _select(scope, selection, scope.tables.undelivered.c.delivery_id)
    oldest = of_list.order_by(scope.tables.undelivered.c.delivery_id).limit(MAX_RECOVERED + 1)
    found = deliveries.execute(scope, oldest, endpoint_id).scalars().all()
    ids = found[:MAX_RECOVERED]
    chunks = (ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE))
    count = sum(_redeliver(scope, endpoint_id, chunk, selection.statuses) for chunk in chunks)
    if not count:
        # The endpoint may have been paused since.
        _check_active(scope, endpoint_id, committed=True)
    scope.wake_at_commit()
    return Recovered(count=count, more=len(found) > MAX_RECOVERED)


def count_recoverable(
    scope: TenantScope, endpoint_id: UUID, selection: Selection, *, most: int | None = None
) -> Recovered:
    """Count what `recover` would send again in as many requests as it takes, or stop at `most`.

    Raises `UnknownEndpoint`, `EndpointPaused`.
    """
    _check_active(scope, endpoint_id)
    return Recovered(count=_count(scope, endpoint_id, selection, most=most), more=False)


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
    return sum(_count(scope.of(tenant_id), endpoint_id, selection) for tenant_id, endpoint_id, _ in recipients)


def redeliver_batch(scope: TenantScope, endpoint_id: UUID, selection: Selection, *, after: UUID | None) -> Batch | None:
    """Redeliver a batch of the selected deliveries after the id `after`; return None if none is left."""
    delivery_id = scope.tables.undelivered.c.delivery_id
    batch = _select(scope, selection, delivery_id).order_by(delivery_id).limit(transactions.BATCH)
    if after is not None:
        batch = batch.where(delivery_id > after)
    ids = deliveries.execute(scope, batch, endpoint_id).scalars().all()
    return Batch(len(ids), _redeliver(scope, endpoint_id, ids, selection.statuses), ids[-1]) if ids else None


def _check_active(scope: TenantScope, endpoint_id: UUID, *, committed: bool = False) -> None:
    if deliveries.is_paused(scope, endpoint_id, committed=committed):
        raise EndpointPaused


def _count(scope: TenantScope, endpoint_id: UUID, selection: Selection, *, most: int | None = None) -> int:
    counted = _select(scope, selection, sa.func.count())
    if most is not None:
        found = _select(scope, selection, scope.tables.undelivered.c.delivery_id).limit(most).subquery("found")
        counted = sa.select(sa.func.count()).select_from(found)
    return int(deliveries.execute(scope, counted, endpoint_id).scalar_one())


def _select(scope: Scope, selection: Selection, column: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Select from the undelivered of an endpoint, through the endpoint."""
    endpoint, undelivered = scope.tables.endpoint, scope.tables.undelivered
    through: Any = undelivered.join(endpoint, endpoint.c.id == undelivered.c.endpoint_id)
    which = [
        *deliveries.of_endpoint(scope.tables),
        undelivered.c.status.in_(selection.statuses),
        *delivery_lists.ids_between(undelivered.c.delivery_id, selection.since, selection.until),
    ]
    if selection.event_types:
        delivery, event = scope.tables.delivery, scope.tables.event
        through = through.join(delivery, delivery.c.id == undelivered.c.delivery_id)
        through = through.join(event, event.c.id == delivery.c.event_id)
        which.append(sa.or_(*(delivery_lists.is_of_type(event, each) for each in selection.event_types)))
    return sa.select(column).select_from(through).where(*which)


def _redeliver(scope: TenantScope, endpoint_id: UUID, ids: Sequence[UUID], statuses: Collection[DeliveryStatus]) -> int:
    """Make due what has one of these statuses and is not in flight, unless the endpoint is paused. Count it.

    One that a pause or a deletion overtakes is held or cancelled by the next claim, as one that was just published.
    """
    count, values = 0, {"ids": ids, "statuses": list(statuses), "due": scope.now}
    if DeliveryStatus.PENDING in statuses:
        count += deliveries.execute(scope, _hurry(scope), endpoint_id, **values).rowcount
    if count < len(ids) and set(transitions.FINISHED) & set(statuses):
        undelivered = _may_be_undelivered(scope, endpoint_id, values)
        # Write first (SQLite).
        again = deliveries.execute(scope, _begin_again(scope), endpoint_id, **values).rowcount
        if again:
            if DeliveryStatus.DELIVERED in statuses:
                deliveries.execute(scope, _keep_last_attempt(scope), endpoint_id, **values)
            deliveries.execute(scope, _enqueue(scope, some=again < len(ids)), endpoint_id, **values)
            if undelivered:
                transitions.forget_undelivered(scope, undelivered)
        count += again
    return count


def _may_be_undelivered(scope: TenantScope, endpoint_id: UUID, values: Mapping[str, Any]) -> Sequence[UUID]:
    """Return the deliveries that may be among the undelivered: on MariaDB and MySQL those that are, elsewhere all.

    As in `rests.may_rest`: workers that note a failure of another endpoint would wait for the host's transaction. It
    locks the log, because a SELECT without a lock would not show what has failed since the host's first read.
    """
    if scope.dialect.name not in dialects.LOCKS_WHAT_IT_READS:
        return cast("Sequence[UUID]", values["ids"])
    return deliveries.execute(scope, _lock_undelivered(scope), endpoint_id, **values).scalars().all()


def _is_active(tables: Tables) -> sa.ColumnElement[bool]:
    return sa.select(1).where(*deliveries.of_endpoint(tables), tables.endpoint.c.paused_at.is_(None)).exists()


@statement
def _count_known(tables: Tables, dialect: str) -> sa.Select[Any]:
    delivery, endpoint = tables.delivery, tables.endpoint
    through = delivery.join(endpoint, endpoint.c.id == delivery.c.endpoint_id)
    which = *deliveries.of_endpoint(tables), tables.among(dialect, delivery.c.id, "ids")
    return sa.select(sa.func.count()).select_from(through).where(*which)


@statement
def _hurry(tables: Tables, dialect: str) -> sa.Update:
    queue = tables.queue
    which = tables.among(dialect, queue.c.delivery_id, "ids"), queue.c.endpoint_id == sa.bindparam("of_endpoint")
    return transitions.move(tables, Transition.REDELIVERED, *which, _is_active(tables))


@statement
def _lock_undelivered(tables: Tables, dialect: str) -> sa.Select[Any]:
    delivery = tables.delivery
    which = (
        tables.among(dialect, delivery.c.id, "ids"),
        delivery.c.endpoint_id == sa.bindparam("of_endpoint"),
        delivery.c.status.in_(sa.bindparam("statuses", expanding=True)),
        delivery.c.status.in_(transitions.UNDELIVERED),
    )
    return dialects.by_key(sa.select(delivery.c.id).where(*which), delivery).with_for_update()


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
    delivery = tables.delivery
    of_endpoint = delivery.c.endpoint_id == sa.bindparam("of_endpoint")
    return tables.among(dialect, delivery.c.id, "ids"), of_endpoint, delivery.c.status == DeliveryStatus.PENDING


@statement
def _keep_last_attempt(tables: Tables, dialect: str) -> Any:
    """Give the last attempt a row of its own where it has none. The log is about to have another one."""
    delivery = tables.delivery
    columns = delivery.c.id, *deliveries.last_attempt(delivery)
    rows = sa.select(*columns).where(*_reopened(tables, dialect), delivery.c.last_attempt_at.is_not(None))
    rows = dialects.by_key(rows, delivery)
    return insert_of_absent(dialect, tables.attempt).from_select(["delivery_id", *deliveries.OF_LOG], rows)


@statement
def _enqueue(tables: Tables, dialect: str, *, some: bool) -> sa.Insert:
    """Insert those into the queue that `_begin_again` has reopened: `some` of the ids, or all."""
    delivery = tables.delivery
    state = transitions.requeued(tables)
    ids = delivery.c.id, delivery.c.tenant_id, delivery.c.endpoint_id
    rows = dialects.by_key(sa.select(*ids, *state.values()).where(*_reopened(tables, dialect)), delivery)
    if some:
        # Others are pending because another request or `_hurry` has made them due. Not asked without need: MariaDB
        # locks the gaps between the rows of the queue that it looks for, where publishers insert.
        rows = rows.where(~sa.select(1).where(tables.queue.c.delivery_id == delivery.c.id).exists())
    return sa.insert(tables.queue).from_select(["delivery_id", "tenant_id", "endpoint_id", *state], rows)
