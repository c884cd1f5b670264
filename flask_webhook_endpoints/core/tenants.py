"""Tenants that are forgotten: all that is stored of one is deleted, at once or batch by batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import endpoints, incidents, retention, roll_ups
from flask_webhook_endpoints.database import delivery_ids, dialects, transactions
from flask_webhook_endpoints.database.scope import TenantScope, as_committed, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.database.types import Array

READ_AT_ONCE = 20_000
"""The number of events, and of deliveries, that are read before batch by batch deletes them.

If each batch read its own, it would step over what the batches before have deleted, as long as the database keeps that.
"""


class Erased(NamedTuple):
    """The numbers of rows that were deleted of a tenant."""

    endpoints: int
    events: int
    deliveries: int


class Place(NamedTuple):
    """The rows of a tenant that were read, and are not deleted yet."""

    events: Sequence[Any]
    """Rows with `id` and `created_at`."""
    deliveries: Sequence[UUID] | None = None
    """The deliveries of the first batch of these events. None: they are not read yet."""
    more: bool = False
    """True if these events may have more deliveries."""


class Batch(NamedTuple):
    """One batch of what is deleted of a tenant."""

    events: int
    deliveries: int
    last: Place
    """The place at which the next batch goes on."""


def forget_tenant(scope: TenantScope) -> Erased:
    """Delete everything of the tenant in this transaction."""
    count = endpoints.remove_all(scope)
    events = deliveries = 0
    after = None
    while batch := forget_events(scope, after=after):
        after = batch.last
        events += batch.events
        deliveries += batch.deliveries
    forget_statistics(scope)
    return Erased(count, events, deliveries)


def forget_statistics(scope: TenantScope) -> None:
    """Delete the tenant's statistics and incidents; last, because workers record results while there are events."""
    roll_ups.forget_tenant(scope)
    incidents.forget_tenant(scope)


def count_of_tenant(scope: TenantScope) -> Erased:
    """Return the numbers of rows that `forget_tenant` would delete."""
    return Erased(_count(scope, scope.tables.endpoint), count_events(scope), _count(scope, scope.tables.delivery))


def count_events(scope: TenantScope) -> int:
    """Return the number of the tenant's events."""
    return _count(scope, scope.tables.event)


def forget_events(scope: TenantScope, *, after: Place | None = None) -> Batch | None:
    """Delete one batch of the tenant's events, with their deliveries and attempts; return None when none is left.

    The batch bounds the events and the deliveries: an event may have many. It goes on `after` the batch before.
    """
    place = after if after is not None and after.events else Place(_read_events(scope))
    events, deliveries, more = place.events[: transactions.BATCH], place.deliveries, place.more
    if not events:
        return None
    if deliveries is None:
        deliveries = _read_deliveries(scope, events)
        more = len(deliveries) == READ_AT_ONCE
    now, later = deliveries[: transactions.BATCH], deliveries[transactions.BATCH :]
    retention.delete_deliveries(scope, now)
    if later or more:
        return Batch(0, len(now), Place(place.events, later or None, more))
    event = scope.tables.event
    scope.execute(sa.delete(event).where(event.c.id.in_([each.id for each in events])))
    return Batch(len(events), len(now), Place(place.events[len(events) :]))


def _read_events(scope: TenantScope) -> Sequence[Any]:
    event = scope.tables.event
    of_tenant = sa.select(event.c.id, event.c.created_at).where(event.c.tenant_id == scope.tenant_id)
    query: Any = of_tenant.limit(READ_AT_ONCE)
    if scope.dialect.name in dialects.SNAPSHOT_OF_TRANSACTION:
        # Another process may have deleted some since the snapshot, which would be read again and again.
        query = as_committed(query)
    # Events of about the same time have their deliveries side by side.
    return sorted(scope.execute(query).all(), key=lambda each: each.created_at)


def _read_deliveries(scope: TenantScope, events: Sequence[Any]) -> Sequence[UUID]:
    if scope.dialect.name in dialects.LATERAL:
        values = {
            "events": [each.id for each in events],
            "firsts": [delivery_ids.first(each.created_at) for each in events],
            "lasts": [delivery_ids.last(each.created_at) for each in events],
        }
        return scope.execute(_of_each(scope), values).scalars().all()
    which = delivery_ids.of_events(scope.tables, {each.id: each.created_at for each in events})
    return scope.execute(sa.select(scope.tables.delivery.c.id).where(which).limit(READ_AT_ONCE)).scalars().all()


@statement
def _of_each(tables: Tables, _dialect: str) -> Any:
    """Select the deliveries of events. To plan a range for each event takes longer than to read its deliveries."""
    delivery = tables.delivery
    arrays = (sa.bindparam(name, type_=Array(delivery.c.id.type)) for name in ("events", "firsts", "lasts"))
    given = sa.func.unnest(*arrays).table_valued("event_id", "first", "last").render_derived("given")
    which = delivery.c.id.between(given.c.first, given.c.last), delivery.c.event_id == given.c.event_id
    each = sa.select(delivery.c.id).where(*which).limit(READ_AT_ONCE).correlate(given).lateral("each")
    return sa.select(each.c.id).select_from(given.join(each, sa.true())).limit(READ_AT_ONCE)


def _count(scope: TenantScope, table: sa.Table) -> int:
    of_tenant = sa.select(sa.func.count()).where(table.c.tenant_id == scope.tenant_id)
    return int(scope.execute(of_tenant).scalar_one())
