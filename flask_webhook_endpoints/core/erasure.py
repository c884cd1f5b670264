"""A tenant that leaves, forgotten: no row of ours mentions it afterwards. Nothing here commits."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.database.tables import Tables

BATCH = 500
"""Deliveries of one batch."""


class Erased(NamedTuple):
    """What was deleted of a tenant."""

    endpoints: int
    events: int
    deliveries: int


def erase_endpoints(session: Session, tables: Tables, tenant_id: str) -> int:
    """Delete a tenant's endpoints, their secrets and its idempotency keys; return how many endpoints there were.

    From then on nothing is published for the tenant, and nothing more is sent; what is in flight may finish.
    """
    endpoint, secret, key = tables.endpoint, tables.secret, tables.idempotency_key
    of_tenant = endpoint.c.tenant_id == tenant_id
    # SQLite cascades only where the host turned it on.
    secrets = sa.delete(secret).where(secret.c.endpoint_id.in_(sa.select(endpoint.c.id).where(of_tenant)))
    tables.execute(session, secrets)
    tables.execute(session, sa.delete(key).where(key.c.tenant_id == tenant_id))
    return tables.execute(session, sa.delete(endpoint).where(of_tenant)).rowcount


def count_events(session: Session, tables: Tables, tenant_id: str) -> int:
    """Return how many events of a tenant there are."""
    event = tables.event
    statement = sa.select(sa.func.count()).select_from(event).where(event.c.tenant_id == tenant_id)
    total: int = tables.execute(session, statement).scalar_one()
    return total


def erase_events(session: Session, tables: Tables, tenant_id: str, *, limit: int) -> Erased:
    """Delete a batch of a tenant's events, with their deliveries and attempts; nothing deleted: there are no more.

    `limit` bounds both the events and the deliveries, of which an event may have many.
    """
    event, delivery, attempt = tables.event, tables.delivery, tables.attempt
    batch = sa.select(event.c.id).where(event.c.tenant_id == tenant_id).limit(limit)
    events = list(tables.execute(session, batch).scalars())
    if not events:
        return Erased(0, 0, 0)
    of_events = sa.select(delivery.c.id).where(delivery.c.event_id.in_(events)).limit(limit)
    deliveries = list(tables.execute(session, of_events).scalars())
    # Deliveries before their attempts: this waits for an engine that is recording one, and then sees what it wrote.
    tables.execute(session, sa.delete(delivery).where(delivery.c.id.in_(deliveries)))
    tables.execute(session, sa.delete(attempt).where(attempt.c.delivery_id.in_(deliveries)))
    if len(deliveries) == limit:
        return Erased(0, 0, len(deliveries))
    tables.execute(session, sa.delete(event).where(event.c.id.in_(events)))
    return Erased(0, len(events), len(deliveries))


def erase(session: Session, tables: Tables, tenant_id: str) -> Erased:
    """Delete all of a tenant in the session's transaction."""
    endpoints = erase_endpoints(session, tables, tenant_id)
    events = deliveries = 0
    while any(batch := erase_events(session, tables, tenant_id, limit=BATCH)):
        events += batch.events
        deliveries += batch.deliveries
    return Erased(endpoints, events, deliveries)
