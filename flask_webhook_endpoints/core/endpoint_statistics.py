"""Statistics of an endpoint for its tenant: results by the hour or the day, latencies, and what waits.

Results come from the roll-ups (`core/roll_ups`), so that they never read deliveries. They count results as they were
recorded: a delivery that failed, was sent again and was delivered counts as failed and as delivered.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import recent_counts, roll_ups, transitions
from flask_webhook_endpoints.database.models import QueueState
from flask_webhook_endpoints.database.scope import TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import UnknownEndpoint

MOST_COUNTED = 10_000
"""The number of waiting deliveries up to which they are counted: a paused endpoint may have a million."""

MOST_LISTED = 500
"""The number up to which waiting deliveries are counted for each endpoint of a list."""

_WAITING = (QueueState.READY, QueueState.WAITING, QueueState.HELD)


class Window(StrEnum):
    """A span of time that ends now."""

    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"


_STEPS = {
    Window.DAY: (24, timedelta(hours=1)),
    Window.WEEK: (7, timedelta(days=1)),
    Window.MONTH: (30, timedelta(days=1)),
}
"""The number of steps in a series, and how long one is."""


class Step(NamedTuple):
    """The results of an hour or a day."""

    starts_at: datetime
    delivered: int
    failed: int


class Latency(NamedTuple):
    """Milliseconds until answers were complete; None: none was."""

    p50: int | None
    p95: int | None


class Backlog(NamedTuple):
    """The deliveries to an endpoint that are not finished, each number up to `MOST_COUNTED`."""

    held: int
    """While the endpoint is paused: all that it holds, which a resumption sends. Retries come at their times."""
    waiting: int
    """While the endpoint is active, those that are due, rest, or are put off until their next attempt."""
    in_flight: int
    oldest_at: datetime | None
    """When the oldest of them was published."""
    next_at: datetime | None
    """When the next retry is due, though a paused endpoint holds it. None: no retry is put off."""


class Statistics(NamedTuple):
    """The statistics of an endpoint."""

    delivered: int
    failed: int
    attempts: int
    success_ratio: float | None
    """The share of the deliveries that finished; None: none did."""
    latency_ms: Latency
    pending: int
    held: int
    oldest_pending_at: datetime | None
    """When the oldest delivery that is not finished was published."""
    series: Sequence[Step]
    backlog: Backlog
    """All that is known of what is pending and held."""


class Day(NamedTuple):
    """The last 24 hours of an endpoint in a list, and what waits for it."""

    delivered: int
    failed: int
    success_ratio: float | None
    """The share of the deliveries that finished; None: none did."""
    pending: int
    """Deliveries in flight and, while the endpoint is active, waiting ones; up to `MOST_LISTED`."""
    held: int
    """Deliveries that wait while the endpoint is paused; up to `MOST_LISTED`."""
    series: Sequence[Step]
    """24 hours, the oldest first."""


def backlog(scope: TenantScope, endpoint_id: UUID) -> Backlog:
    """Return what waits for an endpoint, and for how long; raise `UnknownEndpoint`."""
    names = {"of_tenant": scope.tenant_id, "of_endpoint": endpoint_id}
    if (endpoint := scope.execute(_endpoint(scope), names).one_or_none()) is None:
        raise UnknownEndpoint
    waiting, in_flight, oldest, next_at = cast(Any, scope.execute(_waiting(scope), names).one())
    waiting = min(int(waiting), MOST_COUNTED)
    held = waiting if endpoint.paused_at else 0
    return Backlog(held, waiting - held, int(in_flight), oldest, next_at)


def of_endpoint(scope: TenantScope, endpoint_id: UUID, *, window: Window = Window.DAY) -> Statistics:
    """Return the statistics of an endpoint; raise `UnknownEndpoint`."""
    left = backlog(scope, endpoint_id)
    beginnings = list(_beginnings(scope.now, window))
    values = {"of_tenant": scope.tenant_id, "of_endpoint": endpoint_id, "since": beginnings[0]}
    theirs: Any = {"tenant_id": scope.tenant_id, "since": beginnings[0]}
    hours = recent_counts.hours_of(scope.execute(_hours(scope), values), [endpoint_id], **theirs)
    attempts = Counter[int]()
    for row in recent_counts.hours_of(scope.execute(_latencies(scope), values), [endpoint_id], **theirs):
        attempts[row.latency] += int(row.attempts)
    answers = {latency: number for latency, number in attempts.items() if latency}
    series = _series(hours, beginnings, window)
    delivered, failed = sum(step.delivered for step in series), sum(step.failed for step in series)
    return Statistics(
        delivered=delivered,
        failed=failed,
        attempts=attempts.total(),
        success_ratio=_ratio(delivered, failed),
        latency_ms=Latency(roll_ups.percentile(answers, 0.5), roll_ups.percentile(answers, 0.95)),
        pending=min(left.waiting + left.in_flight, MOST_COUNTED),
        held=left.held,
        oldest_pending_at=left.oldest_at,
        series=series,
        backlog=left,
    )


def of_endpoints(scope: TenantScope, endpoint_ids: Collection[UUID]) -> Mapping[UUID, Day]:
    """Return the last 24 hours of each of these endpoints that the tenant has, by two statements."""
    if not endpoint_ids:
        return {}
    beginnings = list(_beginnings(scope.now, Window.DAY))
    values = {"of_tenant": scope.tenant_id, "ids": list(endpoint_ids), "since": beginnings[0]}
    hours: dict[UUID, list[Any]] = {}
    rows = scope.execute(_hours_of_each(scope), values)
    for row in recent_counts.hours_of(rows, endpoint_ids, tenant_id=scope.tenant_id, since=beginnings[0]):
        hours.setdefault(row.endpoint_id, []).append(row)
    waiting: Sequence[Any] = scope.execute(_waiting_of_each(scope), values).all()
    return {row.id: _day(row, _series(hours.get(row.id, ()), beginnings, Window.DAY)) for row in waiting}


def _day(row: Any, series: Sequence[Step]) -> Day:
    delivered, failed = sum(step.delivered for step in series), sum(step.failed for step in series)
    waiting = min(int(row.ready) + int(row.waiting) + int(row.held), MOST_LISTED)
    held = waiting if row.paused_at else 0
    pending = min(waiting - held + int(row.in_flight or 0), MOST_LISTED)
    return Day(delivered, failed, _ratio(delivered, failed), pending, held, series)


def _ratio(delivered: int, failed: int) -> float | None:
    return round(delivered / (delivered + failed), 4) if delivered + failed else None


def _beginnings(now: datetime, window: Window) -> Iterator[datetime]:
    """Yield when each step of the window begins, in UTC; the last one has begun and is not over."""
    number, length = _STEPS[window]
    last = roll_ups.beginning_of_hour(now)
    if length > timedelta(hours=1):
        last = last.replace(hour=0)
    for before in reversed(range(number)):
        yield last - before * length


def _series(hours: Iterable[Any], beginnings: Sequence[datetime], window: Window) -> list[Step]:
    delivered, failed = Counter[datetime](), Counter[datetime]()
    for row in hours:
        beginning = row.hour if window is Window.DAY else row.hour.replace(hour=0)
        # A sum of integers may be a Decimal.
        delivered[beginning] += int(row.delivered)
        failed[beginning] += int(row.failed)
    return [Step(each, delivered[each], failed[each]) for each in beginnings]


@statement
def _endpoint(tables: Tables, _dialect: str) -> Any:
    endpoint = tables.endpoint
    one = endpoint.c.tenant_id == sa.bindparam("of_tenant"), endpoint.c.id == sa.bindparam("of_endpoint")
    return sa.select(endpoint.c.paused_at).where(*one)


def _of_window(tables: Tables) -> list[sa.ColumnElement[bool]]:
    hour = tables.endpoint_hour
    return [
        hour.c.tenant_id == sa.bindparam("of_tenant"),
        hour.c.endpoint_id == sa.bindparam("of_endpoint"),
        hour.c.hour >= sa.bindparam("since"),
    ]


@statement
def _hours(tables: Tables, _dialect: str) -> Any:
    hour = tables.endpoint_hour
    sums = (sa.func.sum(hour.c[name]).label(name) for name in ("delivered", "failed"))
    select = sa.select(hour.c.hour, *sums).where(*_of_window(tables)).group_by(hour.c.hour)
    return recent_counts.with_recent(select, tables.recent_count.c.hours)


@statement
def _latencies(tables: Tables, _dialect: str) -> Any:
    hour = tables.endpoint_hour
    attempts = sa.func.sum(hour.c.attempts).label("attempts")
    select: Any = sa.select(hour.c.latency, attempts).where(*_of_window(tables)).group_by(hour.c.latency)
    return recent_counts.with_recent(select, tables.recent_count.c.hours)


@statement
def _waiting(tables: Tables, _dialect: str) -> Any:
    """Count what waits and what is in flight, to a limit. Find when the oldest was published and the next is due."""
    queue, delivery = tables.queue, tables.delivery
    of_endpoint = queue.c.tenant_id == sa.bindparam("of_tenant"), queue.c.endpoint_id == sa.bindparam("of_endpoint")
    # In the order of the index, what is due the longest first. A LIMIT for each state, so that each is read by it.
    looks = [
        sa.select(queue.c.delivery_id, queue.c.state)
        .where(queue.c.state == state, *of_endpoint)
        .order_by(queue.c.due_at)
        .limit(MOST_COUNTED)
        .subquery()
        for state in (*_WAITING, QueueState.LEASED)
    ]
    # As subqueries, because SQLite knows no LIMIT within a UNION.
    some = sa.union_all(*(sa.select(look.c.delivery_id, look.c.state) for look in looks)).cte("some")
    oldest = sa.select(some.c.delivery_id).order_by(some.c.delivery_id).limit(1).scalar_subquery()
    published = sa.select(delivery.c.created_at).where(delivery.c.id == oldest).scalar_subquery()
    put_off = queue.c.state == transitions.constant(QueueState.WAITING), *of_endpoint
    next_at = sa.select(queue.c.due_at).where(*put_off).order_by(queue.c.due_at).limit(1).scalar_subquery()
    # MariaDB and MySQL do not know FILTER.
    in_flight = sa.func.count(sa.case((some.c.state == QueueState.LEASED, 1)))
    return sa.select(sa.func.count() - in_flight, in_flight, published, next_at).select_from(some)


@statement
def _hours_of_each(tables: Tables, dialect: str) -> Any:
    hour = tables.endpoint_hour
    sums = (sa.func.sum(hour.c[name]).label(name) for name in ("delivered", "failed"))
    of_window = (
        hour.c.tenant_id == sa.bindparam("of_tenant"),
        tables.among(dialect, hour.c.endpoint_id, "ids"),
        hour.c.hour >= sa.bindparam("since"),
    )
    select: Any = sa.select(hour.c.endpoint_id, hour.c.hour, *sums).where(*of_window)
    return recent_counts.with_recent(select.group_by(hour.c.endpoint_id, hour.c.hour), tables.recent_count.c.hours)


@statement
def _waiting_of_each(tables: Tables, dialect: str) -> Any:
    """Count what waits for each of the tenant's endpoints, to a limit, and what is in flight."""
    endpoint, queue = tables.endpoint, tables.queue
    of_page = queue.c.tenant_id == sa.bindparam("of_tenant"), tables.among(dialect, queue.c.endpoint_id, "ids")
    # Once for all of them, because PostgreSQL has no index of leases by endpoint.
    leased = (
        sa.select(queue.c.endpoint_id, sa.func.count().label("in_flight"))
        .where(queue.c.state == transitions.constant(QueueState.LEASED), *of_page)
        .group_by(queue.c.endpoint_id)
        .subquery("leased")
    )
    counts = (_counted(tables, state).label(state.lower()) for state in _WAITING)
    return (
        sa.select(endpoint.c.id, endpoint.c.paused_at, leased.c.in_flight, *counts)
        .select_from(endpoint.outerjoin(leased, leased.c.endpoint_id == endpoint.c.id))
        .where(endpoint.c.tenant_id == sa.bindparam("of_tenant"), tables.among(dialect, endpoint.c.id, "ids"))
    )


def _counted(tables: Tables, state: QueueState) -> sa.ColumnElement[int]:
    """Return how many deliveries of a state an endpoint has in the queue, or `MOST_LISTED` where it has more."""
    endpoint, queue = tables.endpoint, tables.queue
    theirs = (
        queue.c.state == transitions.constant(state),
        queue.c.tenant_id == sa.bindparam("of_tenant"),
        queue.c.endpoint_id == endpoint.c.id,
    )
    # Whether there are more is asked first: within a column, MariaDB can't count the rows of a LIMIT.
    last = sa.select(queue.c.due_at).where(*theirs).order_by(queue.c.due_at).offset(MOST_LISTED - 1).limit(1)
    number = sa.select(sa.func.count()).select_from(queue).where(*theirs)
    most = sa.literal_column(str(MOST_LISTED), sa.Integer)
    return sa.case(
        (last.correlate(endpoint).scalar_subquery().is_not(None), most),
        else_=number.correlate(endpoint).scalar_subquery(),
    )
