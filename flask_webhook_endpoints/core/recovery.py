"""Deliveries that have come to nothing, made due again by an operator: of endpoints, in batches.

For operators, so across all tenants. Nothing here commits.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.tables import Tables


class Recipient(NamedTuple):
    """An endpoint whose deliveries may be recovered, unless it is paused."""

    endpoint_id: UUID
    paused: bool


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The deliveries of an endpoint with one of these statuses, published between two times."""

    endpoint_id: UUID
    statuses: Collection[DeliveryStatus]
    since: datetime | None = None
    until: datetime | None = None


class Batch(NamedTuple):
    """What became of one batch."""

    read: int
    restarted: int
    """Those now due; none where the endpoint is paused or gone."""
    last: UUID | None
    """The delivery after which the next batch begins; null: there are no more."""


def recipients(
    session: Session, tables: Tables, *, endpoint_id: UUID | None = None, tenant_id: str | None = None
) -> list[Recipient]:
    """Return the endpoint of this id, or all of a tenant's."""
    endpoint = tables.endpoint
    statement = sa.select(endpoint.c.id, endpoint.c.paused_at.is_not(None).label("paused")).order_by(endpoint.c.id)
    if endpoint_id is not None:
        statement = statement.where(endpoint.c.id == endpoint_id)
    if tenant_id is not None:
        statement = statement.where(endpoint.c.tenant_id == tenant_id)
    return [Recipient(row.id, bool(row.paused)) for row in tables.execute(session, statement)]


def owner(session: Session, tables: Tables, delivery_id: UUID) -> tuple[str, UUID] | None:
    """Return the tenant and the endpoint of a delivery, or None where there is no such delivery."""
    delivery = tables.delivery
    statement = sa.select(delivery.c.tenant_id, delivery.c.endpoint_id).where(delivery.c.id == delivery_id)
    row = tables.execute(session, statement).one_or_none()
    return None if row is None else (row.tenant_id, row.endpoint_id)


def count(session: Session, tables: Tables, selection: Selection) -> int:
    """Return how many deliveries are selected."""
    statement = sa.select(sa.func.count()).where(*_selected(tables, selection))
    total: int = tables.execute(session, statement).scalar_one()
    return total


def restart(
    session: Session, tables: Tables, selection: Selection, *, after: UUID | None, limit: int, now: datetime
) -> Batch:
    """Make up to `limit` of the selected deliveries due, those after the id `after`; their schedule begins anew."""
    delivery, endpoint = tables.delivery, tables.endpoint
    batch = sa.select(delivery.c.id).where(*_selected(tables, selection)).order_by(delivery.c.id).limit(limit)
    ids = list(tables.execute(session, batch if after is None else batch.where(delivery.c.id > after)).scalars())
    if not ids:
        return Batch(0, 0, None)
    active = sa.select(1).where(endpoint.c.id == selection.endpoint_id, endpoint.c.paused_at.is_(None)).exists()
    values = {
        "status": DeliveryStatus.PENDING,
        "attempts_before": delivery.c.attempts,
        "next_attempt_at": now,
        "finished_at": None,
    }
    # Only what has still come to nothing: its tenant may have sent it again meanwhile.
    again = sa.update(delivery).where(delivery.c.id.in_(ids), delivery.c.status.in_(selection.statuses), active)
    return Batch(len(ids), tables.execute(session, again.values(values)).rowcount, ids[-1])


def _selected(tables: Tables, selection: Selection) -> list[Any]:
    delivery = tables.delivery
    conditions = [delivery.c.endpoint_id == selection.endpoint_id, delivery.c.status.in_(selection.statuses)]
    if selection.since is not None:
        conditions.append(delivery.c.created_at >= selection.since)
    if selection.until is not None:
        conditions.append(delivery.c.created_at < selection.until)
    return conditions
