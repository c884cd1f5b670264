"""Statistics for operators: attempts, and the backlog of deliveries, across all tenants.

Attempts are read from roll-ups (`core/roll_ups`). Statements on the backlog read only deliveries that are not finished,
by the index that workers claim by. Their cost follows the number of waiting and held deliveries, however many were
delivered before.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import recent_counts
from flask_webhook_endpoints.database.models import PauseReason, QueueState
from flask_webhook_endpoints.database.scope import Scope


class Attempts(NamedTuple):
    """The attempts that workers recorded lately."""

    recorded: int
    failed: int
    errors: Mapping[str, int]
    """How many of them failed, by the code of the error or the response's status."""


def attempts_lately(scope: Scope, *minutes: int) -> list[Attempts]:
    """Return, for each number in `minutes`, the attempts of this minute and of so many before it."""
    table, this = scope.tables.worker_minute, scope.now.replace(second=0, microsecond=0)
    beginnings = [this - timedelta(minutes=each) for each in minutes]
    sums = (sa.func.sum(sa.case((table.c.minute >= each, table.c.attempts), else_=0)) for each in beginnings)
    by_error = sa.select(table.c.error, *sums).where(table.c.minute >= min(beginnings)).group_by(table.c.error)
    with_recent = recent_counts.with_recent(by_error, scope.tables.recent_count.c.minutes)
    rows: Sequence[Any] = scope.execute(with_recent).all()
    recent = list(recent_counts.minutes_of(rows))
    lately = []
    for place, beginning in enumerate(beginnings, 1):
        # A sum of integers may be a Decimal.
        errors = Counter[str]({row[0]: int(row[place]) for row in rows if row[place]})
        for each in recent:
            if each.minute >= beginning:
                errors[each.error] += each.attempts
        counts = dict(sorted(errors.items()))
        recorded = sum(counts.values())
        failed = recorded - counts.pop("", 0)
        lately.append(Attempts(recorded, failed, counts))
    return lately


class Depth(NamedTuple):
    """The number of deliveries that are not finished."""

    due: int
    """A worker may send them now."""
    later: int
    """Their next attempt comes later, or their endpoints rest."""
    held: int
    """Their endpoints are paused."""
    in_flight: int
    """A worker has claimed them."""
    expired_leases: int
    """Deliveries in flight whose lease has ended: a worker should have recorded them."""
    oldest_due_at: datetime | None
    """The time since when the oldest due delivery is due."""
    owed: int
    """Due deliveries of endpoints that have a place free: a worker that keeps up has none for long."""
    oldest_owed_at: datetime | None
    """The time since when the oldest of these is due."""
    behind_caps: int
    """Due deliveries that wait for another one of their own endpoint, which has `MAX_IN_FLIGHT_PER_ENDPOINT`."""


class Waiting(NamedTuple):
    """The deliveries that wait for one endpoint; a failing endpoint may have none."""

    endpoint_id: UUID
    tenant_id: str | None
    """Null where the endpoint was deleted and its deliveries are about to be cancelled."""
    due: int
    later: int
    held: int
    oldest_due_at: datetime | None
    pause_reason: PauseReason | None
    failing_since: datetime | None
    last_error: str | None
    """An error code, or the status of the answer, of the last attempt, which failed."""


def depth(scope: Scope, *, cap: int) -> Depth:
    """Count the deliveries that are not finished; `cap` is `MAX_IN_FLIGHT_PER_ENDPOINT`."""
    queue, table = _queue(scope).subquery(), scope.tables.queue
    has_place = queue.c.leased < cap
    waiting = sa.select(
        *(sa.func.sum(queue.c[name]) for name in ("due", "later", "held")),
        sa.func.min(queue.c.oldest_due_at),
        sa.func.sum(sa.case((has_place, queue.c.due), else_=0)),
        sa.func.min(sa.case((has_place, queue.c.oldest_due_at))),
    )
    due, later, held, oldest_due_at, owed, oldest_owed_at = cast(Any, scope.execute(waiting).one())
    expired = _count(table.c.due_at <= scope.now)
    sending = sa.select(sa.func.count(), expired).where(table.c.state == QueueState.LEASED)
    in_flight, expired_leases = cast(Any, scope.execute(sending).one())
    # The sum of no rows is null, and a sum of integers may be a Decimal.
    due, later, held, owed = (int(each or 0) for each in (due, later, held, owed))
    return Depth(due, later, held, in_flight, expired_leases, oldest_due_at, owed, oldest_owed_at, due - owed)


def worst(scope: Scope, *, limit: int = 10) -> list[Waiting]:
    """Return the endpoints with the most waiting deliveries, and those that fail for the longest, `limit` of each."""
    queue, endpoint, incident = _queue(scope).cte(), scope.tables.endpoint, scope.tables.incident
    shown, is_of_incident = _shown(queue, endpoint, incident), incident.c.endpoint_id == endpoint.c.id
    most = shown.select_from(
        queue.outerjoin(endpoint, endpoint.c.id == queue.c.endpoint_id).outerjoin(incident, is_of_incident)
    ).order_by(queue.c.due.desc(), (queue.c.held + queue.c.later).desc(), queue.c.endpoint_id)
    failing = (
        shown.select_from(
            incident.join(endpoint, is_of_incident).outerjoin(queue, endpoint.c.id == queue.c.endpoint_id)
        )
        .where(incident.c.failing_since.is_not(None))
        .order_by(incident.c.failing_since, endpoint.c.id)
    )
    # As subqueries, because SQLite knows no LIMIT within a UNION.
    both = sa.union(*(sa.select(each.limit(limit).subquery()) for each in (most, failing))).subquery()
    statement = sa.select(both).order_by(both.c.due.desc(), (both.c.held + both.c.later).desc(), both.c.endpoint_id)
    rows = scope.execute(statement).all()
    # A sum of integers may be a Decimal.
    counts = ({name: int(row._mapping[name]) for name in ("due", "later", "held")} for row in rows)
    return [
        Waiting(**{**row._asdict(), **numbers, "last_error": _said(row.last_error)})
        for row, numbers in zip(rows, counts, strict=True)
    ]


def _queue(scope: Scope) -> sa.SelectBase:
    """Count the waiting deliveries of each endpoint."""
    endpoint, rest, per_endpoint = scope.tables.endpoint, scope.tables.rest, _per_endpoint(scope)
    # While an endpoint rests, its held deliveries are not due: no worker is late with them.
    rests = rest.c.endpoint_id.is_not(None)
    waiting, due = per_endpoint.c.waiting, sa.case((rests, per_endpoint.c.due_in_rest), else_=per_endpoint.c.due)
    first_at = sa.case((rests, per_endpoint.c.first_in_rest_at), else_=per_endpoint.c.first_at)
    active = endpoint.c.paused_at.is_(None)
    joined = per_endpoint.outerjoin(endpoint, endpoint.c.id == per_endpoint.c.endpoint_id)
    return (
        sa.select(
            per_endpoint.c.endpoint_id,
            sa.case((active, due), else_=0).label("due"),
            sa.case((active, waiting - due), else_=0).label("later"),
            sa.case((active, 0), else_=waiting).label("held"),
            sa.case((sa.and_(active, due > 0), first_at)).label("oldest_due_at"),
            per_endpoint.c.leased,
        )
        .select_from(joined.outerjoin(rest, rest.c.endpoint_id == per_endpoint.c.endpoint_id))
        .where(waiting > 0)
    )


def _per_endpoint(scope: Scope) -> sa.Subquery:
    """Count the deliveries of each endpoint, twice: as they are due if it takes deliveries, and if it rests."""
    queue = scope.tables.queue
    # State by state: PostgreSQL takes half as long again to group by the state, too.
    per_state = sa.union_all(
        *(
            sa.select(
                sa.literal(state.value, queue.c.state.type).label("state"),
                queue.c.endpoint_id,
                sa.func.count().label("all"),
                _count(queue.c.due_at <= scope.now).label("due"),
                sa.func.min(queue.c.due_at).label("first_at"),
            )
            .where(queue.c.state == state)
            .group_by(queue.c.endpoint_id)
            for state in QueueState
        )
    ).subquery()
    is_leased, is_held = per_state.c.state == QueueState.LEASED, per_state.c.state == QueueState.HELD
    waits_for_rest = sa.not_(sa.or_(is_leased, is_held))

    def total(condition: sa.ColumnElement[bool], number: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.func.sum(sa.case((condition, number), else_=0))

    return (
        sa.select(
            per_state.c.endpoint_id,
            total(~is_leased, per_state.c.all).label("waiting"),
            total(~is_leased, per_state.c.due).label("due"),
            sa.func.min(sa.case((~is_leased, per_state.c.first_at))).label("first_at"),
            total(waits_for_rest, per_state.c.due).label("due_in_rest"),
            sa.func.min(sa.case((waits_for_rest, per_state.c.first_at))).label("first_in_rest_at"),
            # A lease that has ended takes no place.
            total(is_leased, per_state.c.all - per_state.c.due).label("leased"),
        )
        .group_by(per_state.c.endpoint_id)
        .subquery()
    )


def _shown(queue: sa.FromClause, endpoint: sa.FromClause, incident: sa.FromClause) -> sa.Select[Any]:
    return sa.select(
        sa.func.coalesce(queue.c.endpoint_id, endpoint.c.id).label("endpoint_id"),
        endpoint.c.tenant_id,
        *(sa.func.coalesce(queue.c[name], 0).label(name) for name in ("due", "later", "held")),
        queue.c.oldest_due_at,
        endpoint.c.pause_reason,
        incident.c.failing_since,
        sa.case((incident.c.failing_since.is_not(None), incident.c.last_error)).label("last_error"),
    )


def _said(error: str | None) -> str | None:
    """Return an error code as it is, and the status of an answer as people read it."""
    return f"answered {error}" if error is not None and error.isdecimal() else error


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    # MariaDB and MySQL do not know FILTER.
    return sa.func.count(sa.case((condition, 1)))
