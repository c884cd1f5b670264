"""What becomes of an attempt: tables of cases."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.worker.retry import (
    Verdict,
    judge,
    may_wait,
    next_attempt_at,
    parse_retry_after,
    rests_seconds,
)

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (None, Verdict.RETRY),
        (0, Verdict.RETRY),
        (100, Verdict.RETRY),
        (101, Verdict.RETRY),
        (199, Verdict.RETRY),
        (200, Verdict.DELIVERED),
        (202, Verdict.DELIVERED),
        (204, Verdict.DELIVERED),
        (299, Verdict.DELIVERED),
        (300, Verdict.RETRY),
        (302, Verdict.RETRY),
        (400, Verdict.RETRY),
        (401, Verdict.RETRY),
        (404, Verdict.RETRY),
        (409, Verdict.RETRY),
        (410, Verdict.GONE),
        (429, Verdict.RETRY),
        (500, Verdict.RETRY),
        (503, Verdict.RETRY),
        (999, Verdict.RETRY),
    ],
)
def test_only_2xx_is_delivered_and_410_is_gone(status, verdict):
    assert judge(status) is verdict


DEFAULT_SCHEDULE = Settings().retry_schedule


def delay(attempts, *, schedule=DEFAULT_SCHEDULE, jitter=0.0, retry_after_seconds=None, random=0.5):
    due = next_attempt_at(
        attempts,
        now=NOW,
        schedule=schedule,
        jitter=jitter,
        retry_after_seconds=retry_after_seconds,
        random=lambda: random,
    )
    return None if due is None else (due - NOW).total_seconds()


def test_the_default_schedule_is_that_of_standard_webhooks():
    delays = [delay(attempts) for attempts in range(11)]

    assert delays == [0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400, None]
    assert sum(DEFAULT_SCHEDULE) == timedelta(days=3, hours=3, minutes=35, seconds=5).total_seconds()


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 80), (0.25, 90), (0.5, 100), (0.75, 110), (1.0, 120)], ids=str)
def test_jitter_spreads_evenly_around_the_schedule(random, seconds):
    assert delay(0, schedule=[100], jitter=0.2, random=random) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("scheduled", "asked", "seconds"),
    [
        pytest.param(5, None, 5, id="nothing asked"),
        pytest.param(5, 60, 60, id="more asked"),
        pytest.param(300, 60, 300, id="less asked"),
        pytest.param(5, 0, 5, id="at once asked"),
        pytest.param(5, 3600, 3600, id="an hour"),
        pytest.param(5, 86_400, 3600, id="a day counts as an hour"),
        pytest.param(7200, 86_400, 7200, id="a day, but the schedule is beyond the hour"),
    ],
)
def test_retry_after_is_a_minimum_of_an_hour_at_most(scheduled, asked, seconds):
    assert delay(0, schedule=[scheduled], retry_after_seconds=asked) == seconds


def test_jitter_does_not_undercut_retry_after():
    assert delay(0, schedule=[60], jitter=0.2, random=0.0, retry_after_seconds=60) == 60


@pytest.mark.parametrize("attempts", [1, 2, 1000])
def test_an_exhausted_schedule_has_no_next_attempt_whatever_is_asked(attempts):
    assert delay(attempts, schedule=[0], retry_after_seconds=60) is None
    assert delay(0, schedule=[]) is None


def http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param(None, None, id="absent"),
        pytest.param("0", 0.0, id="zero"),
        pytest.param("120", 120.0, id="seconds"),
        pytest.param("999999999", 999_999_999.0, id="thirty years"),
        pytest.param(http_date(NOW + timedelta(seconds=90)), 90.0, id="date"),
        pytest.param(http_date(NOW - timedelta(days=1)), 0.0, id="past date"),
        pytest.param("Saturday, 31-Jan-26 12:01:30 GMT", 90.0, id="date as of RFC 850"),
        pytest.param("Sat Jan 31 12:01:30 2026", 90.0, id="date as of asctime"),
        pytest.param("Tue Feb  3 12:00:00 2026", 259_200.0, id="date as of asctime, one digit"),
        pytest.param("", None, id="empty"),
        pytest.param("-1", None, id="negative"),
        pytest.param("+1", None, id="sign"),
        pytest.param("1.5", None, id="fraction"),
        pytest.param("1e3", None, id="exponent"),
        pytest.param("inf", None, id="infinity"),
        pytest.param("nan", None, id="not a number"),
        pytest.param("٣", None, id="other digits"),
        pytest.param("1\n", None, id="line feed"),
        pytest.param("1764597705", 1_764_597_705.0, id="what time it is, for seconds"),
        pytest.param("9" * 5000, math.inf, id="endless"),
        pytest.param("soon", None, id="word"),
        pytest.param("1, 2", None, id="list"),
        pytest.param("2026-01-31T12:01:30Z", None, id="ISO 8601"),
        pytest.param("Sat, 31 Jan 2026 12:01:30 +0100", None, id="date with an offset"),
        pytest.param("Sat, 99 Jan 2026 12:01:30 GMT", None, id="no such day"),
        pytest.param("Sat, 31 Xyz 2026 12:01:30 GMT", None, id="no such month"),
        pytest.param("Sat, 31 Jan 0000 12:01:30 GMT", 0.0, id="year zero is 2000, long past"),
    ],
)
def test_retry_after_is_read_as_rfc_9110_says_and_garbage_is_none(value, seconds):
    assert parse_retry_after(value, now=NOW) == seconds


@pytest.mark.parametrize(
    ("status", "asked", "times", "seconds"),
    [
        (429, None, 0, 5.0),
        (503, None, 0, 5.0),
        (502, None, 1, 10.0),
        (504, None, 3, 40.0),
        (503, None, 50, 900.0),
        (503, 60.0, 3, 60.0),
        (429, 60.0, 4, 80.0),
        (429, 0.0, 0, 5.0),
        (503, 0.0, 2, 20.0),
        (503, 1.0, 3, 40.0),
        (503, 7200.0, 50, 3600.0),
        (500, 60.0, 0, 60.0),
        (500, 1.0, 1, 10.0),
        (500, 0.0, 1, None),
        (404, 7200.0, 0, 3600.0),
        (500, None, 0, None),
        (404, None, 5, None),
        (None, None, 0, None),
    ],
)
def test_an_endpoint_rests_as_it_asks_or_longer_each_time_in_a_row(status, asked, times, seconds):
    assert rests_seconds(status, asked, times=times, schedule=Settings().retry_schedule) == seconds


@pytest.mark.parametrize("schedule", [(), (0,), (0, 0, 3600)], ids=str)
def test_a_schedule_without_a_wait_has_endpoints_rest_all_the_same(schedule):
    assert rests_seconds(503, None, times=0, schedule=schedule) == 5


def test_what_waits_for_an_endpoint_at_rest_waits_as_long_as_its_whole_schedule_lasts():
    schedule = (0, 60, 3600)
    published = UUID(f"{int(NOW.timestamp() * 1000):012x}7{'0' * 3}8{'0' * 15}")

    assert may_wait(published, now=NOW + timedelta(seconds=3659), schedule=schedule)
    assert not may_wait(published, now=NOW + timedelta(seconds=3661), schedule=schedule)


@given(
    st.text()
    | st.from_regex(r"[A-Z][a-z]{2}, \d{2} (Jan|Feb|Dec|Foo) \d{4} \d{2}:\d{2}:\d{2} GMT", fullmatch=True)
    | st.from_regex(r"[A-Z][a-z]{5,8}, \d{2}-(Jan|Feb|Foo)-\d{2} \d{2}:\d{2}:\d{2} GMT", fullmatch=True)
    | st.from_regex(r"[A-Z][a-z]{2} (Jan|Feb|Foo) [ \d]\d \d{2}:\d{2}:\d{2} \d{4}", fullmatch=True)
)
def test_no_retry_after_is_an_error(value):
    seconds = parse_retry_after(value, now=NOW)

    assert seconds is None or seconds >= 0
