"""Retention: the rows that are deleted after their time, the held deliveries that expire, a tenant that is forgotten.

For operators and workers, across all tenants. Each function does one batch and never commits. Any number of processes
may prune at once, because each skips the deliveries and events that another one has locked.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from flask_webhook_endpoints.core import endpoints, idempotency, transitions
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.scope import Scope, TenantScope


class Step(NamedTuple):
    """One kind of row that is pruned."""

    name: str
    """Its key in the JSON of `flask webhooks prune`."""
    text: str
    """Its name for people."""
    prune: Callable[[Scope], int]
    """Prunes one batch and returns its number of rows, 0 when no rows are left."""


def steps(*, retention_days: int, hold_max_days: int) -> tuple[Step, ...]:
    """Return the steps of pruning, in their order."""
    prune_finished = partial(prune_deliveries, retention_days=retention_days)
    prune_left = partial(prune_events, retention_days=retention_days)
    return (
        Step("deliveries_expired", "Held deliveries expired", partial(expire_held, hold_max_days=hold_max_days)),
        Step("deliveries_deleted", "Deliveries deleted", prune_finished),
        Step("events_deleted", "Events without deliveries deleted", prune_left),
        Step("idempotency_keys_deleted", "Idempotency keys deleted", prune_idempotency_keys),
        Step("secrets_deleted", "Expired secrets deleted", prune_secrets),
    )


def expire_held(scope: Scope, *, hold_max_days: int) -> int:
    """Expire deliveries that are as old as `HOLD_MAX_DAYS`, of endpoints that have been paused for as long."""
    delivery, endpoint = scope.tables.delivery, scope.tables.endpoint
    since = scope.now - timedelta(days=hold_max_days)
    paused = sa.select(endpoint.c.id).where(endpoint.c.paused_at <= since)
    held = sa.select(delivery.c.id).where(
        transitions.is_source(scope.tables, Transition.EXPIRED),
        delivery.c.endpoint_id.in_(paused),
        delivery.c.created_at <= since,
    )
    if ids := list(scope.execute(_batch(held)).scalars()):
        those = delivery.c.id.in_(ids)
        expire = transitions.update(scope.tables, Transition.EXPIRED, those, by_index=False)
        scope.execute(expire, {"now": scope.now})
    return len(ids)


def prune_deliveries(scope: Scope, *, retention_days: int) -> int:
    """Delete deliveries that finished `RETENTION_DAYS` ago, with their attempts and the events that lose their last."""
    delivery, attempt, event = scope.tables.delivery, scope.tables.attempt, scope.tables.event
    until = scope.now - timedelta(days=retention_days)
    finished = sa.select(delivery.c.id, delivery.c.event_id).where(delivery.c.finished_at <= until)
    if rows := scope.execute(_batch(finished.order_by(delivery.c.finished_at))).all():
        ids = [row.id for row in rows]
        scope.execute(sa.delete(attempt).where(attempt.c.delivery_id.in_(ids)))
        scope.execute(sa.delete(delivery).where(delivery.c.id.in_(ids)))
        of_these = event.c.id.in_({row.event_id for row in rows})
        scope.execute(sa.delete(event).where(of_these, _without_deliveries(scope, until)))
    return len(rows)


def prune_events(scope: Scope, *, retention_days: int) -> int:
    """Delete old events without deliveries, which stay when two processes each delete one of the last deliveries."""
    event = scope.tables.event
    until = scope.now - timedelta(days=retention_days)
    left = sa.select(event.c.id).where(_without_deliveries(scope, until))
    return _delete(scope, event, _batch(left))


def prune_idempotency_keys(scope: Scope) -> int:
    """Delete the oldest of the idempotency keys that are no longer kept, about one batch of them."""
    table = scope.tables.idempotency_key
    until = scope.now - idempotency.KEPT
    expired = sa.select(table.c.created_at).where(table.c.created_at <= until).order_by(table.c.created_at)
    last = scope.execute(expired.offset(transactions.BATCH - 1).limit(1)).scalar_one_or_none()
    return scope.execute(sa.delete(table).where(table.c.created_at <= (last or until))).rowcount


def prune_secrets(scope: Scope) -> int:
    """Delete previous secrets whose overlap has ended."""
    table = scope.tables.secret
    expired = sa.select(table.c.id).where(table.c.expires_at <= scope.now).order_by(table.c.id)
    return _delete(scope, table, expired.limit(transactions.BATCH))


def count_finished(scope: Scope, *, retention_days: int) -> int:
    """Return the number of deliveries that `prune_deliveries` has to delete."""
    delivery = scope.tables.delivery
    until = scope.now - timedelta(days=retention_days)
    return int(scope.execute(sa.select(sa.func.count()).where(delivery.c.finished_at <= until)).scalar_one())


def _without_deliveries(scope: Scope, until: datetime) -> sa.ColumnElement[bool]:
    delivery, event = scope.tables.delivery, scope.tables.event
    has_deliveries = sa.select(1).where(delivery.c.event_id == event.c.id).exists()
    return sa.and_(event.c.created_at <= until, ~has_deliveries)


def _batch(statement: Any) -> Any:
    return statement.limit(transactions.BATCH).with_for_update(skip_locked=True)


def _delete(scope: Scope, table: sa.Table, which: Any) -> int:
    if ids := list(scope.execute(which).scalars()):
        scope.execute(sa.delete(table).where(table.c.id.in_(ids)))
    return len(ids)


class Erased(NamedTuple):
    """How much was deleted of a tenant."""

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
    return Erased(count, events, deliveries)


def count_events(scope: TenantScope) -> int:
    """Return the number of the tenant's events."""
    event = scope.tables.event
    count = sa.select(sa.func.count()).select_from(event).where(event.c.tenant_id == scope.tenant_id)
    return int(scope.execute(count).scalar_one())


def forget_events(scope: TenantScope) -> Erased | None:
    """Delete one batch of the tenant's events, with their deliveries and attempts; return None when none is left.

    The batch bounds the events and the deliveries: an event may have many.
    """
    event, delivery, attempt = scope.tables.event, scope.tables.delivery, scope.tables.attempt
    batch = sa.select(event.c.id).where(event.c.tenant_id == scope.tenant_id).limit(transactions.BATCH)
    events = list(scope.execute(batch).scalars())
    if not events:
        return None
    of_events = sa.select(delivery.c.id).where(delivery.c.event_id.in_(events)).limit(transactions.BATCH)
    deliveries = list(scope.execute(of_events).scalars())
    # Delete deliveries before attempts: this waits for a worker that records one, and then sees what it wrote.
    scope.execute(sa.delete(delivery).where(delivery.c.id.in_(deliveries)))
    scope.execute(sa.delete(attempt).where(attempt.c.delivery_id.in_(deliveries)))
    if len(deliveries) == transactions.BATCH:
        return Erased(0, 0, len(deliveries))
    scope.execute(sa.delete(event).where(event.c.id.in_(events)))
    return Erased(0, len(events), len(deliveries))
