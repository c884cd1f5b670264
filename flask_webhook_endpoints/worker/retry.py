"""Retries: the verdict on an answer, and the time of the next attempt.

Source: Standard Webhooks 1.0.0, "Deliverability and reliability" (schedule, 2xx, 410, Retry-After); RFC 9110
section 10.2.3 for the grammar of Retry-After.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus
from uuid import UUID

MAX_RETRY_AFTER_SECONDS = 3600
"""Seconds that a receiver may ask for at most, so that none can put off its deliveries for ever."""

MAX_REST_SECONDS = 900.0
"""Seconds that an endpoint rests at most if its receiver does not say for how long."""

FIRST_REST_SECONDS = 5.0
"""Seconds of its first rest then, if the schedule has no wait before a first retry."""

# A look-up of their names at each use would cost more.
_SUCCESSES = range(HTTPStatus.OK, HTTPStatus.MULTIPLE_CHOICES)
_REST_STATUSES = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
# RFC 9110 section 5.6.7, all three forms; `parsedate_to_datetime` alone accepts far more.
_HTTP_DATE = re.compile(
    r"(?:[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT"
    r"|[A-Z][a-z]{5,8}, \d{2}-[A-Z][a-z]{2}-\d{2} \d{2}:\d{2}:\d{2} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2} \d{4})",
    re.ASCII,
)


class Verdict(Enum):
    """The meaning of an answer for its delivery."""

    DELIVERED = "delivered"
    """The receiver has the delivery."""
    GONE = "gone"
    """The receiver wants no more deliveries at all: the endpoint is paused."""
    RETRY = "retry"
    """The receiver may accept the delivery later."""


def judge(status: int | None) -> Verdict:
    """Return the verdict on the status of an answer, or on None for no answer."""
    if status is not None and status in _SUCCESSES:
        return Verdict.DELIVERED
    return Verdict.GONE if status == HTTPStatus.GONE else Verdict.RETRY


def next_attempt_at(
    attempts: int,
    *,
    now: datetime,
    schedule: Sequence[float],
    jitter: float,
    retry_after_seconds: float | None,
    random: Callable[[], float],
) -> datetime | None:
    """Return when attempt number `attempts` + 1 is due, or None if the schedule has no more.

    The delay is `schedule[attempts]` times 1 ± `jitter`, spread evenly by `random` (0 to 1). It is at least
    `retry_after_seconds`, or an hour if that is less.
    """
    if attempts >= len(schedule):
        return None
    delay = schedule[attempts] * (1 + jitter * (2 * random() - 1))
    asked = min(retry_after_seconds or 0, MAX_RETRY_AFTER_SECONDS)
    return now + timedelta(seconds=max(delay, asked))


def rests_seconds(
    status: int | None, retry_after_seconds: float | None, *, times: int, schedule: Sequence[float]
) -> float | None:
    """Return for how many seconds an endpoint asks for rest by an answer, or None if it does not.

    It does by 429, 502, 503, 504, and by a `Retry-After` above 0 in any other answer that asks for a retry. It rests at
    least as long as before a first retry, and twice as long each of the `times` in a row that it has asked before:
    `Retry-After: 0`, or a date that has passed, must not lead from one attempt to the next.
    """
    asked = min(retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS)
    if status not in _REST_STATUSES and not asked:
        return None
    first = (schedule[1] if len(schedule) > 1 else 0) or FIRST_REST_SECONDS
    return float(max(asked, min(first * 2 ** min(times, 16), MAX_REST_SECONDS)))


def may_wait(delivery_id: UUID, *, now: datetime, schedule: Sequence[float]) -> bool:
    """Return whether a delivery is younger than its whole schedule, so that it may wait for its endpoint uncounted."""
    published_at = datetime.fromtimestamp((delivery_id.int >> 80) / 1000, UTC)
    return now - published_at < timedelta(seconds=sum(schedule))


def parse_retry_after(value: str | None, *, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, or None if it is invalid.

    A time that has passed gives 0.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]+", value):
        return float(value)
    if not _HTTP_DATE.fullmatch(value):
        return None
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=UTC) - now).total_seconds())
