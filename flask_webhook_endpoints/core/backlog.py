"""What waits to be delivered, as an operator sees it: across all tenants, and for the endpoints with the most of it.

Of deliveries, every statement reads those that are not finished, by the index that engines claim by: its cost follows
what waits and is held, whatever was delivered before. Endpoints that fail are looked for among all, once.
"""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason
from flask_webhook_endpoints.database.tables import Tables

LOOKED_AT = 20
"""Deliveries of an endpoint among which its last error is looked for: those put off the furthest."""


class Depth(NamedTuple):
    """How much waits in all."""

    due: int
    """Could be sent now."""
    later: int
    """Put off until a later attempt."""
    held: int
    """Of paused endpoints."""
    in_flight: int
    """Claimed by an engine."""
    expired_leases: int
    """Of those, claimed by an engine that should have recorded them by now."""
    oldest_due_at: datetime | None
    """Since when the first of those due could have been sent."""


class Waiting(NamedTuple):
    """What waits for one endpoint: nothing, perhaps, where it fails."""

    endpoint_id: UUID
    tenant_id: str | None
    """None: the endpoint was deleted, and what waits is about to be cancelled."""
    due: int
    later: int
    held: int
    oldest_due_at: datetime | None
    pause_reason: PauseReason | None
    failing_since: datetime | None
    last_error: str | None
    """Of its last attempt that failed: an error code, or the status that was answered."""


def depth(session: Session, tables: Tables, *, now: datetime) -> Depth:
    """Count what waits."""
    queue = _queue(tables, now=now).subquery()
    waiting = tables.execute(
        session,
        sa.select(
            sa.func.sum(queue.c.due).label("due"),
            sa.func.sum(queue.c.later).label("later"),
            sa.func.sum(queue.c.held).label("held"),
            sa.func.min(queue.c.oldest_due_at).label("oldest_due_at"),
        ),
    ).one()
    delivery = tables.delivery
    sending = tables.execute(
        session,
        sa.select(
            sa.func.count().label("in_flight"), _count(delivery.c.next_attempt_at <= now).label("expired_leases")
        ).where(delivery.c.status == DeliveryStatus.SENDING),
    ).one()
    # Sums of nothing are null, and those of integers Decimals on MariaDB.
    return Depth(
        due=int(waiting.due or 0),
        later=int(waiting.later or 0),
        held=int(waiting.held or 0),
        in_flight=sending.in_flight,
        expired_leases=int(sending.expired_leases or 0),
        oldest_due_at=waiting.oldest_due_at,
    )


def worst(session: Session, tables: Tables, *, now: datetime, limit: int = 10) -> list[Waiting]:
    """Return the endpoints with the most due, held or put off, and those that fail for the longest: as many of each."""
    queue, endpoint = _queue(tables, now=now).cte(), tables.endpoint
    most = (
        _shown(queue, endpoint)
        .select_from(queue.outerjoin(endpoint, endpoint.c.id == queue.c.endpoint_id))
        .order_by(queue.c.due.desc(), (queue.c.held + queue.c.later).desc(), queue.c.endpoint_id)
    )
    failing = (
        _shown(queue, endpoint)
        .select_from(endpoint.outerjoin(queue, endpoint.c.id == queue.c.endpoint_id))
        .where(endpoint.c.failing_since.is_not(None))
        .order_by(endpoint.c.failing_since, endpoint.c.id)
    )
    # As subqueries, since SQLite knows no LIMIT within a UNION.
    both = sa.union(*(sa.select(each.limit(limit).subquery()) for each in (most, failing))).subquery()
    statement = sa.select(both).order_by(both.c.due.desc(), (both.c.held + both.c.later).desc(), both.c.endpoint_id)
    return [
        Waiting(
            endpoint_id=row.endpoint_id,
            tenant_id=row.tenant_id,
            due=int(row.due),
            later=int(row.later),
            held=int(row.held),
            oldest_due_at=row.oldest_due_at,
            pause_reason=row.pause_reason,
            failing_since=row.failing_since,
            last_error=_last_error(session, tables, row.endpoint_id),
        )
        for row in tables.execute(session, statement).all()
    ]


def _shown(queue: sa.FromClause, endpoint: sa.FromClause) -> sa.Select[Any]:
    return sa.select(
        sa.func.coalesce(queue.c.endpoint_id, endpoint.c.id).label("endpoint_id"),
        endpoint.c.tenant_id,
        *(sa.func.coalesce(queue.c[name], 0).label(name) for name in ("due", "later", "held")),
        queue.c.oldest_due_at,
        endpoint.c.pause_reason,
        endpoint.c.failing_since,
    )


def _queue(tables: Tables, *, now: datetime) -> sa.SelectBase:
    """Count what waits for each endpoint."""
    delivery, endpoint = tables.delivery, tables.endpoint
    is_due = delivery.c.next_attempt_at <= now
    per_endpoint = (
        sa.select(
            delivery.c.endpoint_id,
            sa.func.count().label("waiting"),
            _count(is_due).label("due"),
            sa.func.min(delivery.c.next_attempt_at).label("first_at"),
        )
        .where(delivery.c.status == DeliveryStatus.PENDING)
        .group_by(delivery.c.endpoint_id)
        .subquery()
    )
    waiting, due = per_endpoint.c.waiting, per_endpoint.c.due
    active = endpoint.c.paused_at.is_(None)
    return sa.select(
        per_endpoint.c.endpoint_id,
        sa.case((active, due), else_=0).label("due"),
        sa.case((active, waiting - due), else_=0).label("later"),
        sa.case((active, 0), else_=waiting).label("held"),
        sa.case((sa.and_(active, due > 0), per_endpoint.c.first_at)).label("oldest_due_at"),
    ).select_from(per_endpoint.outerjoin(endpoint, endpoint.c.id == per_endpoint.c.endpoint_id))


def _last_error(session: Session, tables: Tables, endpoint_id: UUID) -> str | None:
    delivery, attempt = tables.delivery, tables.attempt
    put_off = (
        sa.select(delivery.c.id, delivery.c.attempts)
        .where(delivery.c.status == DeliveryStatus.PENDING, delivery.c.endpoint_id == endpoint_id)
        .order_by(delivery.c.next_attempt_at.desc())
        .limit(LOOKED_AT)
        .subquery()
    )
    statement = (
        sa.select(attempt.c.error, attempt.c.response_status)
        .join(put_off, sa.and_(put_off.c.id == attempt.c.delivery_id, put_off.c.attempts == attempt.c.number))
        .order_by(attempt.c.started_at.desc())
        .limit(1)
    )
    row = tables.execute(session, statement).one_or_none()
    return None if row is None else row.error or f"answered {row.response_status}"


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    # FILTER is not known to MariaDB and MySQL.
    return sa.func.sum(sa.case((condition, 1), else_=0))
