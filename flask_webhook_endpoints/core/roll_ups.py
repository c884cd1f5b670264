"""The roll-ups of results: an endpoint's by the hour, for its tenant; a worker's by the minute, for operators.

They are counted with the results, in the same transaction, and only for results whose lease still held, so that each
counts once. `core/recent_counts` has the counts until a worker adds them up. An endpoint's answers are counted by
ranges of latency. Each range ends at the square root of two times its beginning, so that a percentile that is read from
them is at most 19 % off.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, repeat

import sqlalchemy as sa

from flask_webhook_endpoints.core import recent_counts, results
from flask_webhook_endpoints.core.recent_counts import Hour, Minute
from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.database.scope import Scope, TenantScope

MIN_DAYS = 30
"""Days that hours are kept at least, whatever `RETENTION_DAYS` says: the longest window of statistics."""

MINUTES_KEPT = timedelta(hours=2)
"""The time for which minutes are kept at least."""

_RATIO = math.sqrt(2)
_LIMITS = list(accumulate(repeat(_RATIO, 35), lambda limit, ratio: limit * ratio, initial=1.0))
"""The milliseconds at which each range ends but the last one, which begins after three minutes."""


def range_of(duration_ms: int) -> int:
    """Return the range of a latency, counted from 1."""
    return bisect_left(_LIMITS, duration_ms) + 1


def percentile(answers: Mapping[int, int], share: float) -> int | None:
    """Return the latency in milliseconds that this share of the answers, counted by their ranges, did not exceed."""
    total, passed = sum(answers.values()), 0
    for number in sorted(answers):
        passed += answers[number]
        if passed >= share * total and passed:
            # The middle of the range, in its own measure.
            return max(1, round(math.pow(_RATIO, number - 1.5)))
    return None


def count(scope: Scope, settlements: Sequence[Settlement]) -> None:
    """Count results that a worker records now."""
    recent_counts.write(scope, _hours(settlements, scope.now), _minutes(settlements, scope.now))


def prune(scope: Scope, *, retention_days: int) -> int:
    """Delete one batch of the hours and minutes that are past retention, and return how many rows.

    Where none is left, add up recent counts, so that all are in the roll-ups though no worker records any more.
    """
    hours, minutes = _old(scope, retention_days)
    deleted = _delete(scope, scope.tables.endpoint_hour, hours) or _delete(scope, scope.tables.worker_minute, minutes)
    if not deleted:
        # Last, because a dry run does not count them.
        recent_counts.add_up(scope, new_id(), kept_apart=timedelta(0))
    return deleted


def count_old(scope: Scope, *, retention_days: int) -> int:
    """Return the number of rows that `prune` has to delete."""
    counts = (sa.select(sa.func.count()).where(old) for old in _old(scope, retention_days))
    return sum(int(scope.execute(each).scalar_one()) for each in counts)


def _old(scope: Scope, retention_days: int) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    until = scope.now - timedelta(days=max(retention_days, MIN_DAYS) + 1)
    return scope.tables.endpoint_hour.c.hour < until, scope.tables.worker_minute.c.minute < scope.now - MINUTES_KEPT


def forget_tenant(scope: TenantScope) -> None:
    """Delete the tenant's hours."""
    # First, because a worker that is adding them up writes them into the hours.
    recent_counts.forget_tenant(scope)
    hour = scope.tables.endpoint_hour
    scope.execute(sa.delete(hour).where(hour.c.tenant_id == scope.tenant_id))


def beginning_of_hour(time: datetime) -> datetime:
    """Return when the hour of a time began."""
    return time.replace(minute=0, second=0, microsecond=0)


def _hours(settlements: Sequence[Settlement], now: datetime) -> Iterator[Hour]:
    numbers: dict[tuple[int, int], tuple[Claimed, list[int]]] = {}
    for each in settlements:
        is_answer = each.response_status is not None and each.error is None
        latency = range_of(each.duration_ms) if is_answer else 0
        # By its number, because Python hashes UUIDs slowly.
        key = each.delivery.endpoint_id.int, latency
        if key not in numbers:
            numbers[key] = each.delivery, [0, 0, 0, 0]
        _, of_range = numbers[key]
        of_range[0] += 1
        if each.status is DeliveryStatus.DELIVERED:
            of_range[2] += 1
        else:
            of_range[1] += 1
            of_range[3] += each.status is DeliveryStatus.FAILED
    hour = beginning_of_hour(now)
    for (_, latency), (delivery, (attempts, failed_attempts, delivered, failed)) in numbers.items():
        keys = delivery.tenant_id, delivery.endpoint_id, hour, latency
        yield Hour(*keys, attempts, failed_attempts, delivered, failed, last_at=now)


def _minutes(settlements: Sequence[Settlement], now: datetime) -> Iterator[Minute]:
    minute = now.replace(second=0, microsecond=0)
    for error, number in Counter(map(results.error_of, settlements)).items():
        yield Minute(minute, error, number)


def _delete(scope: Scope, table: sa.Table, old: sa.ColumnElement[bool]) -> int:
    """Delete a batch of old rows that no other process deletes."""
    keys = list(table.primary_key)
    batch = sa.select(*keys).where(old).limit(transactions.BATCH).with_for_update(skip_locked=True)
    rows = [{f"old_{name}": value for name, value in row._mapping.items()} for row in scope.execute(batch)]
    if rows:
        # One by one, because MariaDB uses no index for a list of several columns.
        one = (key == sa.bindparam(f"old_{key.name}", type_=key.type) for key in keys)
        scope.execute(sa.delete(table).where(*one), rows)
    return len(rows)
