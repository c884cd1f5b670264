"""The deliveries as their tenant sees them: listed, read, sent again; and the ping that makes one.

No operation commits. A delivery is seen through its endpoint: that of a deleted one is seen no more.
"""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.core.events import Outbox
from flask_webhook_endpoints.core.wakeups import Wakes
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import DeliveryInFlight, EndpointPaused, UnknownDelivery, UnknownEndpoint
from flask_webhook_endpoints.identifiers import format_id

PING = "webhook.ping"
"""The type of the event that tries out an endpoint."""


class Delivery(NamedTuple):
    """A delivery as its tenant may see it; `SENDING` is `PENDING` without a next attempt."""

    id: UUID
    event_id: UUID
    event_type: str
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


class Attempt(NamedTuple):
    """One HTTP request of a delivery, and what came of it."""

    number: int
    started_at: datetime
    duration_ms: int
    response_status: int | None
    error: str | None
    response_excerpt: bytes | None


class DeliveryLog:
    """Operations on a tenant's deliveries; none commits."""

    def __init__(self, tables: Tables, outbox: Outbox, wakes: Wakes) -> None:
        """Make the statements; `outbox` publishes the ping."""
        self._tables = tables
        self._wakes = wakes
        self._outbox = outbox
        endpoint, delivery, event, attempt = tables.endpoint, tables.delivery, tables.event, tables.attempt
        of_tenant = endpoint.c.tenant_id == sa.bindparam("of_tenant")
        of_endpoint = endpoint.c.id == sa.bindparam("of_endpoint")
        one = (delivery.c.tenant_id == sa.bindparam("of_tenant"), delivery.c.id == sa.bindparam("of_id"))
        self._paused = sa.select(endpoint.c.paused_at.is_not(None)).where(of_tenant, of_endpoint)
        # The shared lock makes MariaDB read what is committed now, as the write before it did, not its snapshot.
        self._paused_now = self._paused.with_for_update(read=True)
        self._shown = (
            sa.select(
                delivery.c.id,
                delivery.c.event_id,
                event.c.type,
                delivery.c.status,
                delivery.c.attempts,
                delivery.c.next_attempt_at,
                delivery.c.created_at,
                delivery.c.finished_at,
            )
            .join(endpoint, endpoint.c.id == delivery.c.endpoint_id)
            .join(event, event.c.id == delivery.c.event_id)
            .where(of_tenant, of_endpoint)
        )
        self._one = self._shown.where(*one)
        self._one_with_body = self._one.add_columns(event.c.body)
        self._of_event = self._shown.where(delivery.c.event_id == sa.bindparam("of_event"))
        self._attempts = (
            sa.select(*(attempt.c[name] for name in Attempt._fields))
            .join(delivery, delivery.c.id == attempt.c.delivery_id)
            .where(*one)
            .order_by(attempt.c.number)
        )
        # One statement decides and writes: what an engine has claimed by then stays its own.
        active = sa.select(1).where(of_tenant, of_endpoint, endpoint.c.paused_at.is_(None)).exists()
        self._restart = (
            sa.update(delivery)
            .where(
                *one,
                delivery.c.endpoint_id == sa.bindparam("of_endpoint"),
                delivery.c.status != DeliveryStatus.SENDING,
                active,
            )
            .values(
                status=DeliveryStatus.PENDING,
                attempts_before=delivery.c.attempts,
                next_attempt_at=sa.bindparam("due"),
                finished_at=None,
            )
        )

    def page(
        self,
        session: Session,
        tenant_id: str,
        endpoint_id: UUID,
        *,
        limit: int,
        after: UUID | None = None,
        status: str | None = None,
    ) -> list[Delivery]:
        """Return the endpoint's deliveries, newest first: those older than the id `after`, `limit` at most.

        Raises `UnknownEndpoint`.
        """
        delivery = self._tables.delivery
        statement = self._shown.order_by(delivery.c.id.desc()).limit(limit)
        if after is not None:
            statement = statement.where(delivery.c.id < after)
        if status is not None:
            statement = statement.where(delivery.c.status.in_(_stored(status)))
        names = {"of_tenant": tenant_id, "of_endpoint": endpoint_id}
        page = [_delivery(*row) for row in self._tables.execute(session, statement, names)]
        if not page:
            self._is_paused(session, tenant_id, endpoint_id, self._paused)
        return page

    def get(
        self, session: Session, tenant_id: str, endpoint_id: UUID, delivery_id: UUID
    ) -> tuple[Delivery, bytes, list[Attempt]]:
        """Return a delivery, the body that it carries and its attempts.

        Raises `UnknownEndpoint`, `UnknownDelivery`.
        """
        names = {"of_tenant": tenant_id, "of_endpoint": endpoint_id, "of_id": delivery_id}
        row = self._tables.execute(session, self._one_with_body, names).one_or_none()
        if row is None:
            self._is_paused(session, tenant_id, endpoint_id, self._paused)
            raise UnknownDelivery
        attempts = self._tables.execute(session, self._attempts, {"of_tenant": tenant_id, "of_id": delivery_id})
        return _delivery(*row[:-1]), row.body, [Attempt._make(attempt) for attempt in attempts]

    def redeliver(
        self, session: Session, tenant_id: str, endpoint_id: UUID, delivery_id: UUID, *, now: datetime
    ) -> Delivery:
        """Make a delivery due now, with its retry schedule from the start, whatever came of it; return it.

        Raises `UnknownEndpoint`, `EndpointPaused`, `UnknownDelivery`, `DeliveryInFlight`.
        """
        names = {"of_tenant": tenant_id, "of_endpoint": endpoint_id, "of_id": delivery_id}
        restarted = self._tables.execute(session, self._restart, {**names, "due": now}).rowcount
        if not restarted and self._is_paused(session, tenant_id, endpoint_id, self._paused_now):
            raise EndpointPaused
        row = self._tables.execute(session, self._one, names).one_or_none()
        if row is None:
            raise UnknownDelivery
        if not restarted:
            raise DeliveryInFlight
        self._wakes.at_commit(session)
        return _delivery(*row)

    def ping(self, session: Session, tenant_id: str, endpoint_id: UUID, *, now: datetime) -> Delivery:
        """Publish an event to this endpoint alone, whatever its event types, and return the delivery.

        Raises `UnknownEndpoint`, `EndpointPaused`.
        """
        data = {"endpoint_id": format_id(endpoint_id)}
        event = self._outbox.publish_to(session, tenant_id, endpoint_id, PING, data, now=now)
        if event is None:
            self._is_paused(session, tenant_id, endpoint_id, self._paused_now)
            raise EndpointPaused
        names = {"of_tenant": tenant_id, "of_endpoint": endpoint_id, "of_event": event.id}
        row = self._tables.execute(session, self._of_event, names).one_or_none()
        if row is None:
            # Deleted since the delivery was written, on PostgreSQL, whose INSERT … SELECT locks nothing.
            raise UnknownEndpoint
        return _delivery(*row)

    def _is_paused(self, session: Session, tenant_id: str, endpoint_id: UUID, statement: sa.Select[Any]) -> bool:
        """Tell whether an endpoint is paused; raise `UnknownEndpoint` where the tenant has none of this id."""
        names = {"of_tenant": tenant_id, "of_endpoint": endpoint_id}
        row = self._tables.execute(session, statement, names).one_or_none()
        if row is None:
            raise UnknownEndpoint
        return bool(row[0])


def _stored(status: str) -> list[str]:
    """Return the statuses that are shown as `status`."""
    return [status, DeliveryStatus.SENDING] if status == DeliveryStatus.PENDING else [status]


def _delivery(*row: Any) -> Delivery:
    delivery = Delivery(*row)
    if delivery.status == DeliveryStatus.SENDING:
        # What the column holds by then is the engine's lease.
        return delivery._replace(status=DeliveryStatus.PENDING, next_attempt_at=None)
    return delivery
