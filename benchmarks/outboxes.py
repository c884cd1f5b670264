"""Alternatives to `publish`: the raw driver, or an ORM's entities. They write the same rows in one transaction."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, registry

from flask_webhook_endpoints.database.models import (
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    new_id,
)
from flask_webhook_endpoints.database.queue_models import WebhookQueue

Publish = Callable[[str, dict[str, Any]], None]
"""A function that takes the tenant and the data, publishes and commits."""

TYPE = "invoice.paid"


def by_hand(url: str) -> Publish:
    """Return a function that publishes by sqlite3 or psycopg, on a connection that stays open."""
    postgresql = url.startswith("postgresql")
    connection = _connect(url, postgresql=postgresql)

    def sql(text: str) -> str:
        return text.replace("?", "%s") if postgresql else text

    wanting = sql("SELECT id FROM webhook_endpoint WHERE tenant_id = ? AND (event_types IS NULL OR event_types LIKE ?)")
    insert_event = sql("INSERT INTO webhook_event (id, tenant_id, type, body, created_at) VALUES (?, ?, ?, ?, ?)")
    insert_delivery = sql(
        "INSERT INTO webhook_delivery (id, tenant_id, event_id, endpoint_id, status, attempts, created_at)"
        " VALUES (?, ?, ?, ?, 'PENDING', 0, ?)"
    )
    insert_queued = sql(
        "INSERT INTO webhook_queue (delivery_id, tenant_id, endpoint_id, state, attempts, attempts_before, due_at)"
        " VALUES (?, ?, ?, 'READY', 0, 0, ?)"
    )

    def stored_id() -> Any:
        return new_id() if postgresql else new_id().hex

    def publish(tenant_id: str, data: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        at = now if postgresql else now.replace(tzinfo=None).isoformat(" ", "microseconds")
        event_id, body = stored_id(), _body(data, now)
        with closing(connection.cursor()) as cursor:
            endpoints = cursor.execute(wanting, (tenant_id, f"% {TYPE} %")).fetchall()
            cursor.execute(insert_event, (event_id, tenant_id, TYPE, body, at))
            rows = [(stored_id(), tenant_id, event_id, endpoint_id, at) for (endpoint_id,) in endpoints]
            cursor.executemany(insert_delivery, rows)
            cursor.executemany(
                insert_queued, [(each, tenant_id, endpoint_id, at) for each, _, _, endpoint_id, at in rows]
            )
        connection.commit()

    return publish


def by_entities(engine: sa.Engine) -> Publish:
    """Return a function that publishes by SQLAlchemy's entities."""
    mapped = registry()

    @mapped.mapped
    class Endpoint:
        __table__ = WebhookEndpoint.__table__  # type: ignore[attr-defined]

    @mapped.mapped
    class Event:
        __table__ = WebhookEvent.__table__  # type: ignore[attr-defined]

    @mapped.mapped
    class Delivery:
        __table__ = WebhookDelivery.__table__  # type: ignore[attr-defined]

    @mapped.mapped
    class Queued:
        __table__ = WebhookQueue.__table__  # type: ignore[attr-defined]

    columns = WebhookEndpoint.__table__.c  # type: ignore[attr-defined]

    def publish(tenant_id: str, data: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        of_event = {"id": new_id(), "tenant_id": tenant_id, "type": TYPE, "created_at": now}
        with Session(engine) as session:
            endpoints = session.scalars(sa.select(Endpoint).where(columns.tenant_id == tenant_id))
            session.add(Event(body=_body(data, now), **of_event))
            of_log = {"status": "PENDING", "created_at": now}
            of_queue = {"state": "READY", "due_at": now, "attempts_before": 0}
            for endpoint in endpoints:
                if endpoint.event_types is None or TYPE in endpoint.event_types:
                    delivery_id, of_endpoint = new_id(), {"tenant_id": tenant_id, "endpoint_id": endpoint.id}
                    common = {**of_endpoint, "attempts": 0}
                    session.add(Delivery(id=delivery_id, event_id=of_event["id"], **common, **of_log))
                    session.add(Queued(delivery_id=delivery_id, **common, **of_queue))
            session.commit()

    return publish


def _connect(url: str, *, postgresql: bool) -> Any:
    parsed = make_url(url)
    if not postgresql:
        return sqlite3.connect(parsed.database or "")
    return psycopg.connect(parsed.set(drivername="postgresql").render_as_string(hide_password=False))


def _body(data: dict[str, Any], now: datetime) -> bytes:
    timestamp = f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"
    return json.dumps({"type": TYPE, "timestamp": timestamp, "data": data}, separators=(",", ":")).encode()
