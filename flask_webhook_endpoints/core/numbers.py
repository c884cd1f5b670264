"""The numbers by which an operator knows how deliveries go, for `status`, its JSON, and gauges alike.

Each costs the same however many deliveries are finished. What waits is counted by an index of the queue; attempts and
endpoints come from roll-ups; what is past retention is counted up to `retention.MOST_COUNTED`.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flask_webhook_endpoints.core import heartbeats, recent_counts, retention, statistics
from flask_webhook_endpoints.database import clocks, given
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.settings import Settings

LATELY = timedelta(minutes=15)
"""The time within which an endpoint must have had an attempt to count among those attempted."""

SHORT_FOR = timedelta(minutes=5)
"""The time for which a worker counts as short of what it lacked."""

NUMBERS: Mapping[str, str] = {
    "due": "Deliveries that a worker may send now",
    "oldest_due_seconds": "Seconds for which the oldest of these is due",
    "later": "Deliveries put off: their next attempt comes later, or their endpoints rest",
    "held": "Deliveries of paused endpoints",
    "in_flight": "Deliveries that a worker has claimed",
    "expired_leases": "Deliveries in flight that should have been recorded",
    "owed": "Due deliveries of endpoints that have a place free",
    "oldest_owed_seconds": "Seconds for which the oldest of these is due",
    "behind_caps": "Due deliveries that wait for another one of their own endpoint",
    "attempts_5m": "Attempts of the last 5 minutes",
    "failures_5m": "Attempts of the last 5 minutes that failed",
    "failures_5m_by_error": "These by error code or response status",
    "attempts_60m": "Attempts of the last 60 minutes",
    "failures_60m": "Attempts of the last 60 minutes that failed",
    "failures_60m_by_error": "These by error code or response status",
    "endpoints_attempted": "Endpoints with attempts in the last 15 minutes",
    "endpoints_failing": "Endpoints of these whose last attempt failed",
    "failing_share": "Their share, from 0 to 1",
    "past_retention": "Finished deliveries that are past RETENTION_DAYS, 10,000 at most",
    "past_retention_seconds": "Seconds for which the oldest of these is past it",
    "workers_seen": "Workers that were seen within a minute",
    "celery_seen": "Celery processes of ours that were seen within a minute",
    "workers_short": "Workers that lacked something for an attempt in the last 5 minutes",
    "clock_skew_seconds": "The largest difference between a worker's clock, or this machine's, and the database's",
}
"""The names of the numbers, and their meaning. Names that end in `_by_error` are a number for each error."""


def gather(scope: Scope, settings: Settings) -> dict[str, Any]:
    """Return every number by its name."""
    return {
        **_backlog(scope, settings.max_in_flight_per_endpoint),
        **_attempts(scope),
        **_failing(scope),
        **_retention(scope, settings.retention_days),
        **_workers(scope, settings.poll_seconds),
    }


def _backlog(scope: Scope, cap: int) -> dict[str, Any]:
    depth = statistics.depth(scope, cap=cap)
    return {
        "due": depth.due,
        "oldest_due_seconds": age(depth.oldest_due_at, scope.now),
        "later": depth.later,
        "held": depth.held,
        "in_flight": depth.in_flight,
        "expired_leases": depth.expired_leases,
        "owed": depth.owed,
        "oldest_owed_seconds": age(depth.oldest_owed_at, scope.now),
        "behind_caps": depth.behind_caps,
    }


def _attempts(scope: Scope) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for minutes, lately in zip((5, 60), statistics.attempts_lately(scope, 5, 60), strict=True):
        numbers[f"attempts_{minutes}m"] = lately.recorded
        numbers[f"failures_{minutes}m"] = lately.failed
        numbers[f"failures_{minutes}m_by_error"] = dict(lately.errors)
    return numbers


def _failing(scope: Scope) -> dict[str, Any]:
    hour, incident = scope.tables.endpoint_hour, scope.tables.incident
    since = scope.now - LATELY
    # By the index on the hour: the last 15 minutes lie in two hours at most.
    of_lately = hour.c.hour >= since - timedelta(hours=1), hour.c.last_at >= since
    select: Any = sa.select(hour.c.endpoint_id).where(*of_lately).distinct()
    values: dict[str, Any] = {}
    # Recent counts first, because a worker may add them to the hours in between.
    if recent := recent_counts.attempted_since(scope, since):
        columns = {"endpoint_id": hour.c.endpoint_id.type}
        select = sa.union(select, sa.select(given.rows_of(scope.dialect.name, columns).c.endpoint_id))
        values = given.parameters(scope.dialect, columns, [(each,) for each in recent])
    attempted = select.subquery()
    fails = sa.case((incident.c.failing_since.is_not(None), 1))
    joined = attempted.outerjoin(incident, incident.c.endpoint_id == attempted.c.endpoint_id)
    row: Any = scope.execute(sa.select(sa.func.count(), sa.func.count(fails)).select_from(joined), values).one()
    attempts, failing = row
    share = round(failing / attempts, 3) if attempts else 0.0
    return {"endpoints_attempted": attempts, "endpoints_failing": failing, "failing_share": share}


def _retention(scope: Scope, days: int) -> dict[str, Any]:
    overdue = retention.overdue(scope, retention_days=days)
    oldest_at = None if overdue.oldest_at is None else overdue.oldest_at + timedelta(days=days)
    return {"past_retention": overdue.deliveries, "past_retention_seconds": age(oldest_at, scope.now)}


def _workers(scope: Scope, poll_seconds: float) -> dict[str, Any]:
    lately = heartbeats.SEEN_LATELY + timedelta(seconds=poll_seconds)
    seen = [worker for worker in heartbeats.workers(scope) if scope.now - worker.seen_at < lately]
    theirs = clocks.server_time(scope)
    own_ms = [] if theirs is None else [(scope.now - theirs).total_seconds() * 1000]
    skews = [*own_ms, *(worker.clock_skew_ms for worker in seen if worker.clock_skew_ms is not None)]
    short = (worker.short_at is not None and scope.now - worker.short_at < SHORT_FOR for worker in seen)
    return {
        "workers_seen": sum(worker.engine == "worker" for worker in seen),
        "celery_seen": sum(worker.engine == "celery" for worker in seen),
        "workers_short": sum(short),
        "clock_skew_seconds": round(max(map(abs, skews), default=0) / 1000, 1),
    }


def samples(numbers: Mapping[str, Any], name: str) -> Iterator[tuple[float, Mapping[str, str]]]:
    """Yield the values of a number with their attributes; of no age, 0."""
    value = numbers[name]
    if isinstance(value, Mapping):
        yield from ((count, {"error": error}) for error, count in value.items())
    else:
        yield value or 0, {}


def age(moment: datetime | None, now: datetime) -> float | None:
    """Return the seconds since a moment, as `status` shows them."""
    return None if moment is None else round((now - moment).total_seconds(), 1)
