"""What becomes of an attempt: whether it delivered, and when the next one is due.

Source: Standard Webhooks 1.0.0, "Deliverability and reliability" (schedule, 2xx, 410, Retry-After); RFC 9110
section 10.2.3 for the grammar of Retry-After.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus

DEFAULT_SCHEDULE = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before each attempt, the first included: three days in all."""

MAX_RETRY_AFTER_SECONDS = 3600
"""What a receiver may ask for at most, so that none can park its deliveries for ever."""

# Their names are looked up anew each time that they are used.
_SUCCESSES = range(HTTPStatus.OK, HTTPStatus.MULTIPLE_CHOICES)
_RETRY_AFTER_STATUSES = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
# RFC 9110 section 5.6.7, all three forms; `parsedate_to_datetime` alone takes far more for a date.
_HTTP_DATE = re.compile(
    r"(?:[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT"
    r"|[A-Z][a-z]{5,8}, \d{2}-[A-Z][a-z]{2}-\d{2} \d{2}:\d{2}:\d{2} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2} \d{4})",
    re.ASCII,
)


class Verdict(Enum):
    """What an answer means for its delivery."""

    DELIVERED = "delivered"
    """The receiver has it."""

    GONE = "gone"
    """The receiver wants no more deliveries at all: the endpoint is paused."""

    RETRY = "retry"
    """The receiver may take it later."""


def judge(status: int | None) -> Verdict:
    """Return the verdict on an answer's status; None stands for no answer."""
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
    """Return when attempt number `attempts` + 1 is due, or None when the schedule has no more.

    The delay is `schedule[attempts]` times 1 ± `jitter`, spread evenly by `random` (0 to 1), and at least
    `retry_after_seconds`, of which an hour counts.
    """
    if attempts >= len(schedule):
        return None
    delay = schedule[attempts] * (1 + jitter * (2 * random() - 1))
    asked = min(retry_after_seconds or 0, MAX_RETRY_AFTER_SECONDS)
    return now + timedelta(seconds=max(delay, asked))


def parse_retry_after(value: str | None, *, status: int, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, or None when it says nothing that counts.

    It counts beside 429 and 503 alone; a moment that has passed is 0.
    """
    if value is None or status not in _RETRY_AFTER_STATUSES:
        return None
    # Ten digits are three hundred years: garbage.
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    if not _HTTP_DATE.fullmatch(value):
        return None
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=UTC) - now).total_seconds())
