"""Publish events, claim their deliveries, and see what became of them."""

from collections import Counter
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import leases
from flask_webhook_endpoints.core.leases import Claim
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.settings import Settings
from tests.support.database import DELIVERY, rows
from tests.support.hosts import Host


def publish(host: Host, *data: Any, event_type: str = "invoice.paid", tenant_id: str = "acme") -> list[str]:
    """Publish an event for each of `data`, in one transaction, and return the ids; one event where no data is given."""
    with host.app.app_context():
        events = [host.webhooks.publish(event_type, each, tenant_id=tenant_id) for each in data or [7]]
        host.db.session.commit()
    return [f"evt_{event.id}" for event in events if event]


def claim(scope: Scope, owner: UUID | None = None, *, most: int = 100, settings: Settings = Settings()) -> Claim:  # noqa: B008 - frozen
    """Claim due deliveries, as a worker does that has such settings."""
    limits = {"cap": settings.max_in_flight_per_endpoint, "max_timeout_seconds": settings.max_timeout_seconds}
    return leases.claim(scope, owner or new_id(), most=most, **limits)


def statuses(host: Host) -> Counter[str]:
    """Count the deliveries of each status."""
    counted = sa.select(DELIVERY.c.status, sa.func.count()).group_by(DELIVERY.c.status)
    return Counter(dict(rows(host, counted)))


def all_are(host: Host, status: DeliveryStatus) -> bool:
    return set(statuses(host)) == {status}
