"""Tenants that are forgotten: all that is stored of one is deleted, at once or batch by batch."""

from typing import NamedTuple

import sqlalchemy as sa

from flask_webhook_endpoints.core import endpoints, incidents, retention, roll_ups
from flask_webhook_endpoints.database import delivery_ids, transactions
from flask_webhook_endpoints.database.scope import TenantScope


class Erased(NamedTuple):
    """The numbers of rows that were deleted of a tenant."""

    endpoints: int
    events: int
    deliveries: int


def forget_tenant(scope: TenantScope) -> Erased:
    """Delete everything of the tenant in this transaction."""
    count = endpoints.remove_all(scope)
    events = deliveries = 0
    while batch := forget_events(scope):
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


def forget_events(scope: TenantScope) -> Erased | None:
    """Delete one batch of the tenant's events, with their deliveries and attempts; return None when none is left.

    The batch bounds the events and the deliveries: an event may have many.
    """
    event, delivery = scope.tables.event, scope.tables.delivery
    of_tenant = sa.select(event.c.id, event.c.created_at).where(event.c.tenant_id == scope.tenant_id)
    events = {row.id: row.created_at for row in scope.execute(of_tenant.limit(transactions.BATCH))}
    if not events:
        return None
    of_events = sa.select(delivery.c.id).where(delivery_ids.of_events(scope.tables, events)).limit(transactions.BATCH)
    deliveries = list(scope.execute(of_events).scalars())
    retention.delete_deliveries(scope, deliveries)
    if len(deliveries) == transactions.BATCH:
        return Erased(0, 0, len(deliveries))
    scope.execute(sa.delete(event).where(event.c.id.in_(events)))
    return Erased(0, len(events), len(deliveries))


def _count(scope: TenantScope, table: sa.Table) -> int:
    of_tenant = sa.select(sa.func.count()).where(table.c.tenant_id == scope.tenant_id)
    return int(scope.execute(of_tenant).scalar_one())
