"""The roll-ups of results: an endpoint's by the hour, for its tenant; a worker's by the minute, for operators.

They are counted with the results, in the same transaction, and only for results whose lease still held, so that each
counts once. `core/recent_counts` has the counts until a worker adds them up. An endpoint's answers are counted by
ranges of latency. Each range ends at the square root of two times its beginning, so that a percentile that is read from
them is at most 19 % off.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import accumulate, repeat
from typing import Any, NamedTuple

import sqlalchemy as sa

from flask_webhook_endpoints.core import recent_counts, results
from flask_webhook_endpoints.core.recent_counts import Count
from flask_webhook_endpoints.core.results import Settlement
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

_ATTEMPTS, _FAILED_ATTEMPTS, _DELIVERED, _FAILED = range(4, 8)
"""The places of these numbers in a `Count` of an hour."""


# The same few milliseconds again and again.
@lru_cache(maxsize=1024)
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
    recent_counts.write(scope, scope.now, _hours(settlements, scope.now), _minutes(settlements, scope.now))


class Place(NamedTuple):
    """How far pruning has come."""

    table: int
    """0 for hours, 1 for minutes. The tables before have nothing left to delete."""
    time: datetime
    """The time of the last row that was deleted of this table."""


def prune(scope: Scope, *, retention_days: int, after: Place | None = None) -> tuple[int, Place | None]:
    """Delete one batch of the hours and minutes that are past retention.

    Return how many rows that are, and the place of the last one. If none is left, add up recent counts, so that all
    reach the roll-ups even if no worker records any more.
    """
    for number, (time, until) in enumerate(_ages(scope, retention_days)):
        if after is not None and number < after.table:
            continue
        since = after.time if after is not None and number == after.table else None
        count, last = _delete(scope, time, since, until)
        if last is not None:
            return count, Place(number, last)
    # Last, because a dry run does not count them.
    recent_counts.add_up(scope, new_id(), kept_apart=timedelta(0))
    return 0, None


def count_old(scope: Scope, *, retention_days: int) -> int:
    """Return the number of rows that `prune` has to delete."""
    counts = (sa.select(sa.func.count()).where(time < until) for time, until in _ages(scope, retention_days))
    return sum(int(scope.execute(each).scalar_one()) for each in counts)


def _ages(scope: Scope, retention_days: int) -> tuple[tuple[sa.Column[Any], datetime], ...]:
    """Return the time of the rows of each table, and until when they are deleted."""
    until = scope.now - timedelta(days=max(retention_days, MIN_DAYS) + 1)
    return (scope.tables.endpoint_hour.c.hour, until), (scope.tables.worker_minute.c.minute, scope.now - MINUTES_KEPT)


def forget_tenant(scope: TenantScope) -> None:
    """Delete the tenant's hours."""
    # Recent counts first, because a worker that is adding them up writes them into the hours.
    recent_counts.forget_tenant(scope)
    hour = scope.tables.endpoint_hour
    scope.execute(sa.delete(hour).where(hour.c.tenant_id == scope.tenant_id))


def beginning_of_hour(time: datetime) -> datetime:
    """Return when the hour of a time began."""
    return time.replace(minute=0, second=0, microsecond=0)


def _hours(settlements: Sequence[Settlement], now: datetime) -> list[Count]:
    counts: dict[tuple[int, int], Count] = {}
    hour, last_at = recent_counts.number(beginning_of_hour(now)), recent_counts.number(now)
    for each in settlements:
        delivery, is_answer = each.delivery, each.response_status is not None and each.error is None
        latency = range_of(each.duration_ms) if is_answer else 0
        # By its number, because Python hashes UUIDs slowly.
        key = delivery.endpoint_id.int, latency
        if (count := counts.get(key)) is None:
            counts[key] = count = [delivery.tenant_id, delivery.endpoint_id.hex, hour, latency, 0, 0, 0, 0, last_at]
        count[_ATTEMPTS] += 1
        if each.status is DeliveryStatus.DELIVERED:
            count[_DELIVERED] += 1
        else:
            count[_FAILED_ATTEMPTS] += 1
            count[_FAILED] += each.status is DeliveryStatus.FAILED
    return list(counts.values())


def _minutes(settlements: Sequence[Settlement], now: datetime) -> list[Count]:
    minute = recent_counts.number(now.replace(second=0, microsecond=0))
    return [[minute, error, number] for error, number in Counter(map(results.error_of, settlements)).items()]


def _delete(scope: Scope, time: sa.Column[Any], since: datetime | None, until: datetime) -> tuple[int, datetime | None]:
    """Delete a batch of old rows that no other process deletes; return how many, and the last one's time."""
    keys = list(time.table.primary_key)
    old = sa.select(*keys).where(time < until).order_by(time)
    if since is not None:
        # With those of the same time, of which there may be more than a batch.
        old = old.where(time >= since)
    found = scope.execute(old.limit(transactions.BATCH).with_for_update(skip_locked=True)).all()
    if not found:
        return 0, None
    # One by one, because MariaDB uses no index for a list of several columns.
    one = (key == sa.bindparam(f"old_{key.name}", type_=key.type) for key in keys)
    rows = [{f"old_{name}": value for name, value in row._mapping.items()} for row in found]
    scope.execute(sa.delete(time.table).where(*one), rows)
    return len(found), found[-1]._mapping[time.name]
