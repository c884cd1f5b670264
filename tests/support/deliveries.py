"""Publish events, and see what became of their deliveries."""

from collections import Counter
from typing import Any

import sqlalchemy as sa

from flask_webhook_endpoints.database.models import DeliveryStatus
from tests.support.database import DELIVERY, rows
from tests.support.hosts import Host


def publish(host: Host, *data: Any, event_type: str = "invoice.paid", tenant_id: str = "acme") -> list[str]:
    """Publish an event for each of `data`, in one transaction, and return the ids; one event where no data is given."""
    with host.app.app_context():
        events = [host.webhooks.publish(event_type, each, tenant_id=tenant_id) for each in data or [7]]
        host.db.session.commit()
    return [f"evt_{event.id}" for event in events if event]


def statuses(host: Host) -> Counter[str]:
    """Count the deliveries of each status."""
    counted = sa.select(DELIVERY.c.status, sa.func.count()).group_by(DELIVERY.c.status)
    return Counter(dict(rows(host, counted)))


def all_are(host: Host, status: DeliveryStatus) -> bool:
    return set(statuses(host)) == {status}
