"""Publish events, claim their deliveries, see what became of them, and fabricate what takes days or a dead worker."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import leases
from flask_webhook_endpoints.core.leases import Claim
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState, new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.settings import Settings
from tests.support.database import ATTEMPT, DELIVERY, QUEUE, UNDELIVERED, count, execute, rows
from tests.support.hosts import Host


def publish(host: Host, *data: Any, event_type: str = "invoice.paid", tenant_id: str = "acme") -> list[str]:
    """Publish an event for each of `data`, in one transaction, and return the ids; one event where no data is given."""
    with host.app.app_context():
        events = [host.webhooks.publish(event_type, each, tenant_id=tenant_id) for each in data or [7]]
        host.db.session.commit()
    return [f"evt_{event.id}" for event in events if event]


def claim(
    scope: Scope,
    owner: UUID | None = None,
    *,
    most: int = 100,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    alone: bool = True,
) -> Claim:
    """Claim due deliveries, as a worker does that has such settings."""
    limits = {"cap": settings.max_in_flight_per_endpoint, "max_timeout_seconds": settings.max_timeout_seconds}
    return leases.claim(scope, owner or new_id(), most=most, alone=alone, **limits)


def statuses(host: Host) -> Counter[str]:
    """Count the deliveries of each status."""
    counted = sa.select(DELIVERY.c.status, sa.func.count()).group_by(DELIVERY.c.status)
    return Counter(dict(rows(host, counted)))


def all_are(host: Host, status: DeliveryStatus) -> bool:
    return set(statuses(host)) == {status}


def in_flight(host: Host) -> int:
    """Return how many deliveries workers have claimed."""
    return count(host, QUEUE, QUEUE.c.state == QueueState.LEASED)


def attempts_of(host: Host) -> list[tuple[int, str | None]]:
    """Return number and error of each attempt, with those that succeeded at once, which stand in the log alone."""
    same = ATTEMPT.c.delivery_id == DELIVERY.c.id, ATTEMPT.c.number == DELIVERY.c.attempts
    lacking = DELIVERY.c.last_attempt_at.is_not(None), ~sa.select(1).where(*same).exists()
    at_once = sa.select(DELIVERY.c.attempts, DELIVERY.c.last_error).where(*lacking)
    found = rows(host, sa.select(ATTEMPT.c.number, ATTEMPT.c.error)) + rows(host, at_once)
    return [tuple(row) for row in found]


def set_due(host: Host, due_at: datetime, *which: sa.ColumnElement[bool]) -> None:
    """Let those in the queue be due since this time, or from it on."""
    execute(host, sa.update(QUEUE).where(*which).values(due_at=due_at))


def lease(host: Host, until: datetime, *which: sa.ColumnElement[bool]) -> None:
    """Let a worker that hangs or has died have leased those in the queue until this time."""
    leased = {"state": QueueState.LEASED, "due_at": until, "lease_owner": new_id(), "attempts": QUEUE.c.attempts + 1}
    execute(host, sa.update(QUEUE).where(*which).values(leased))


def finish(
    host: Host, status: DeliveryStatus = DeliveryStatus.FAILED, *, attempts: int = 2, at: datetime | None = None
) -> None:
    """Let everything that is not finished have come to this, now or at the time `at`."""
    finished = {"status": status, "attempts": attempts, "finished_at": at or datetime.now(UTC)}
    execute(host, sa.delete(QUEUE))
    if status is not DeliveryStatus.DELIVERED:
        columns = DELIVERY.c.id, DELIVERY.c.tenant_id, DELIVERY.c.endpoint_id, sa.literal(status)
        pending = sa.select(*columns).where(DELIVERY.c.status == DeliveryStatus.PENDING)
        execute(
            host, sa.insert(UNDELIVERED).from_select(["delivery_id", "tenant_id", "endpoint_id", "status"], pending)
        )
    execute(host, sa.update(DELIVERY).where(DELIVERY.c.status == DeliveryStatus.PENDING).values(finished))
