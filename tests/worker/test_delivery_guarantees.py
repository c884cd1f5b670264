"""What a host may rely on, whatever dies, hangs or is paused: with real processes, sockets and databases."""

import asyncio
import dataclasses
import json
import os
import random
import re
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import standardwebhooks
from sqlalchemy.engine import make_url

from flask_webhook_endpoints.core import attempts, marks, retention, sweep
from flask_webhook_endpoints.core import endpoints as core_endpoints
from flask_webhook_endpoints.core.leases import Left
from flask_webhook_endpoints.core.queue import RELEASED_AT_ONCE
from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason, QueueState, new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.state import EXTENSION, state_of
from flask_webhook_endpoints.testing import drain
from flask_webhook_endpoints.worker.loop import Worker
from tests.support import hosts
from tests.support.api import Endpoint, change_endpoint, create_endpoint
from tests.support.database import (
    ATTEMPT,
    DELIVERY,
    ENDPOINT,
    EVENT,
    INCIDENT,
    QUEUE,
    REST,
    SECRET,
    engine_of,
    execute,
    on_sqlite,
    rows,
    statements_of,
)
from tests.support.deliveries import all_are, claim, publish, statuses
from tests.support.inbox import Answer, Arrived, Inbox, accept, after, hang
from tests.support.receivers import say, then_close, then_hang
from tests.support.validators import svix_verifier
from tests.support.waiting import PATIENCE_SECONDS, SLOWNESS, at_once, wait_until
from tests.support.workers import Step, deliver, in_thread, kill, publish_and_die, start, workers

pytestmark = pytest.mark.host(make=hosts.delivering)

FULL = "WEBHOOK_TESTS_FULL" in os.environ

PENDING, DELIVERED, FAILED, CANCELLED = (
    DeliveryStatus[name] for name in ("PENDING", "DELIVERED", "FAILED", "CANCELLED")
)
LEASED = QueueState.LEASED

several_connections = pytest.mark.several_connections


def now_of(host: hosts.Host) -> datetime:
    state = state_of(host.app)
    return state.now()


# What dies


@several_connections
def test_what_a_publisher_committed_is_delivered_though_it_was_killed_right_after(database, host, inbox):
    create_endpoint(host.client(), inbox.url())

    publisher = start(publish_and_die, database, {}, 20)
    publisher.join(PATIENCE_SECONDS)

    assert publisher.exitcode == -signal.SIGKILL
    assert drain(host.app) == 20
    assert sorted(arrived.data for arrived in inbox.arrived) == list(range(20))


@pytest.mark.slow
@pytest.mark.full_size
@several_connections
def test_every_delivery_arrives_though_workers_are_killed_at_every_step(database, host, inbox):
    kills, number, endpoints, cap = (20, 2000, 10, 3) if FULL else (6, 120, 5, 3)
    paths = [f"/{count}" for count in range(endpoints)]
    for path in paths:
        create_endpoint(host.client(), inbox.url(path), timeout_seconds=1)
    ids = publish(host, *range(number // endpoints))
    inbox.answer = after(0.005)
    settings = {"max_timeout_seconds": 1, "poll_seconds": 0.05, "max_in_flight_per_endpoint": cap}
    worker: Any = None

    def kill_at_request(count: int) -> Callable[[Arrived], Any]:
        left = iter(range(count, -1, -1))

        async def answer(arrived: Arrived) -> Answer:
            if next(left, None) == 0:
                os.kill(worker.pid, signal.SIGKILL)
            await asyncio.sleep(0.005)
            return Answer()

        return answer

    steps: list[Step | str] = ["claimed", "sending", "answered", "recording", "recorded", "random"]
    share = number // kills
    for turn in range(kills):
        step = steps[turn % len(steps)]
        die = (
            None
            if step in ("sending", "random")
            else (step, random.randint(1, max(2, share // 30) if "record" in step else share))
        )
        came = len(inbox.arrived)
        inbox.answer = kill_at_request(random.randint(1, share)) if step == "sending" else after(0.005)
        worker = start(deliver, database, settings, die=die, lease_margin_seconds=0.5)
        if step == "random":
            enough = came + random.randint(1, share // 2)
            wait_until(lambda enough=enough: len(inbox.arrived) > enough)
            time.sleep(random.uniform(0, 0.1))
            kill(worker)
        worker.join(PATIENCE_SECONDS)
        assert worker.exitcode == -signal.SIGKILL, step
    inbox.answer = accept
    unfinished = statuses(host)[PENDING]
    worker = start(deliver, database, settings, lease_margin_seconds=0.5)
    try:
        wait_until(lambda: all_are(host, DELIVERED), 120)
    finally:
        kill(worker)

    times = inbox.times()
    assert set(times) == {(path, event_id) for path in paths for event_id in ids}
    assert len({(arrived.id, arrived.body) for arrived in inbox.arrived}) == len(ids)
    duplicates = times.total() - number
    print(
        f"{kills} kills over {number} deliveries ({unfinished} were left to the last worker): {duplicates} duplicates"
    )
    assert duplicates <= kills * cap * endpoints


@pytest.mark.full_size
@several_connections
def test_what_is_held_arrives_though_workers_are_killed_while_they_park_and_release_it(database, host, inbox):
    # More than a resumption releases.
    number, kills, cap = 450, (6 if FULL else 3), 3
    endpoint = create_endpoint(host.client(), inbox.url(), timeout_seconds=1)
    change_endpoint(host.client(), endpoint, status="PAUSED")
    ids = publish(host, *range(number))
    settings = {"max_timeout_seconds": 1, "poll_seconds": 0.05, "max_in_flight_per_endpoint": cap}

    def be_killed(step: Step) -> None:
        worker = start(deliver, database, settings, die=(step, 1), lease_margin_seconds=0.5)
        worker.join(PATIENCE_SECONDS)
        assert worker.exitcode == -signal.SIGKILL, step

    be_killed("parking")
    worker = start(deliver, database, settings, lease_margin_seconds=0.5)
    wait_until(lambda: [state for state, *_ in in_queue(host)] == [QueueState.HELD] * number)
    kill(worker)
    assert inbox.arrived == []
    change_endpoint(host.client(), endpoint, status="ACTIVE")
    for _ in range(kills):
        be_killed("releasing")
    with workers(1, database, settings):
        wait_until(lambda: all_are(host, DELIVERED), 120)

    times = inbox.times()
    assert set(times) == {("/", event_id) for event_id in ids}
    assert times.total() - number <= (kills + 1) * cap


@pytest.mark.full_size
@several_connections
def test_held_deliveries_arrive_though_workers_are_killed_between_a_record_and_the_next_claim(
    database, host, inbox, monkeypatch
):
    number, kills, cap = 450, (6 if FULL else 3), 3
    endpoint = create_endpoint(host.client(), inbox.url(), timeout_seconds=1)
    change_endpoint(host.client(), endpoint, status="PAUSED")
    ids = publish(host, *range(number))
    drain(host.app)
    assert [state for state, *_ in in_queue(host)] == [QueueState.HELD] * number
    change_endpoint(host.client(), endpoint, status="ACTIVE")
    settings = {"max_timeout_seconds": 1, "poll_seconds": 0.05, "max_in_flight_per_endpoint": cap}
    for turn in range(1, kills + 1):
        worker = start(deliver, database, settings, die=("claiming", turn), lease_margin_seconds=0.5)
        worker.join(PATIENCE_SECONDS)
        assert worker.exitcode == -signal.SIGKILL
    # What a killed worker did not release must come without the sweep, which is there for interventions by hand.
    monkeypatch.setattr(sweep, "sweep", lambda _scope, after: sweep.Swept(after, released=False))
    wait_until(lambda: drain(host.app) == 0 and all_are(host, DELIVERED), 120)

    times = inbox.times()
    assert set(times) == {("/", event_id) for event_id in ids}
    assert times.total() - number <= kills * cap


@pytest.mark.full_size
@several_connections
def test_four_workers_deliver_everything_exactly_once(database, host, inbox):
    number, endpoints = (5000, 20) if FULL else (400, 8)
    paths = [f"/{count}" for count in range(endpoints)]
    for path in paths:
        create_endpoint(host.client(), inbox.url(path))
    ids = publish(host, *range(number // endpoints))
    started = time.monotonic()

    with workers(4, database, {"poll_seconds": 0.05}):
        wait_until(lambda: all_are(host, DELIVERED), 120)

    print(f"{number / (time.monotonic() - started):.0f} deliveries a second by four workers")
    assert inbox.times() == {(path, event_id): 1 for path in paths for event_id in ids}
    assert rows(host, sa.select(DELIVERY.c.attempts, sa.func.count()).group_by(DELIVERY.c.attempts)) == [(1, number)]
    # What succeeds at once stands in the delivery's row alone.
    assert rows(host, sa.select(ATTEMPT)) == rows(host, sa.select(QUEUE)) == []


def test_what_an_engine_did_not_settle_is_delivered_when_its_lease_ends(host, inbox, webhook_clock):
    create_endpoint(host.client(), inbox.url())
    publish(host, 1)
    state = state_of(host.app)
    with host.app.app_context():
        [claimed] = claim(state.scope()).deliveries
        host.db.session.commit()

    assert drain(host.app) == 0
    # Longer than the longest attempt may take.
    webhook_clock.move(seconds=state.settings.max_timeout_seconds)
    assert drain(host.app) == 0
    webhook_clock.move(seconds=31)
    assert drain(host.app) == 1

    assert (claimed.attempt, rows(host, sa.select(ATTEMPT.c.number))) == (1, [(2,)])
    assert all_are(host, DELIVERED)


def test_an_engine_that_lost_its_lease_settles_nothing(one_attempt, inbox):
    host = one_attempt
    create_endpoint(host.client(), inbox.url())
    publish(host, 1)

    with hosts.moved(host.app) as clock:
        inbox.answer = expire_and_claim_again(host, clock)
        assert drain(host.app) == 1

    assert in_queue(host) == [(LEASED, 2, OTHER)]
    # What it did is on record all the same, and counts for nothing.
    assert rows(host, sa.select(ATTEMPT.c.number, ATTEMPT.c.response_status)) == [(1, 500)]
    assert rows(host, sa.select(INCIDENT)) == []


@pytest.mark.parametrize("status", [200, 500])
def test_an_engine_that_lost_its_lease_neither_finishes_nor_puts_off(host, inbox, status):
    create_endpoint(host.client(), inbox.url())
    publish(host, 1)

    with hosts.moved(host.app) as clock:
        inbox.answer = expire_and_claim_again(host, clock, status=status)
        assert drain(host.app) == 1

    assert in_queue(host) == [(LEASED, 2, OTHER)]
    assert all_are(host, PENDING)


def in_queue(host: hosts.Host) -> list[Any]:
    """Return state, attempts and owner of what is in the queue."""
    return rows(host, sa.select(QUEUE.c.state, QUEUE.c.attempts, QUEUE.c.lease_owner))


@pytest.mark.parametrize("became", [DELIVERED, FAILED, PENDING])
def test_of_what_is_settled_together_a_lost_lease_costs_no_other(host, inbox, became):
    create_endpoint(host.client(), inbox.url())
    publish(host, *range(4))
    state = state_of(host.app)
    owner = new_id()
    with host.app.app_context():
        claimed, *_ = state.run_apart(lambda scope: claim(scope, owner))
        lost, *held = claimed
        execute(host, sa.update(QUEUE).where(QUEUE.c.delivery_id == lost.id).values(lease_owner=OTHER))
        settlements = [settlement(delivery, became) for delivery in claimed]

        settled = state.run_apart(lambda scope: attempts.record(scope, owner, settlements))

    assert {each.delivery.id for each in settled.settlements} == {delivery.id for delivery in held}
    found = rows(host, sa.select(DELIVERY.c.id, DELIVERY.c.status))
    assert sorted(found) == sorted([(lost.id, PENDING), *[(delivery.id, became) for delivery in held]])
    waiting = [(QueueState.WAITING, 1, None)] * len(held) if became is PENDING else []
    assert sorted(in_queue(host)) == [(LEASED, 1, OTHER), *waiting]


def test_endpoints_that_fail_are_locked_in_the_same_order_by_every_engine(host, inbox):
    for number in range(4):
        create_endpoint(host.client(), inbox.url(f"/{number}"))
    publish(host, 1)
    state = state_of(host.app)
    owner = new_id()
    with host.app.app_context():
        claimed, *_ = state.run_apart(lambda scope: claim(scope, owner))
        ids = sorted(delivery.endpoint_id for delivery in claimed)
        settlements = [settlement(delivery, FAILED) for delivery in sorted(claimed, key=attrgetter("endpoint_id"))]

        with statements_of(host) as sent:
            state.run_apart(lambda scope: attempts.record(scope, owner, settlements[::-1]))

    writes = [repr(parameters).replace("-", "") for statement, parameters in sent if WRITES_INCIDENTS.match(statement)]
    assert len(writes) == 2
    for written in writes:
        places = [written.index(each.hex) for each in ids]
        assert places == sorted(places)
    assert all("ORDER BY" in statement for statement, _ in sent if statement.startswith("SELECT webhook_incident"))


WRITES_INCIDENTS = re.compile(r"(INSERT|UPDATE).{0,20} webhook_incident\b")


def settlement(delivery: Claimed, became: DeliveryStatus) -> Settlement:
    """What came of an attempt just now."""
    now = datetime.now(UTC)
    return Settlement(
        delivery=delivery,
        status=became,
        next_attempt_at=now + timedelta(minutes=1) if became is PENDING else None,
        attempts_before=0,
        gone=False,
        rests_seconds=None,
        started_at=now,
        duration_ms=3,
        response_status=204,
        error=None,
        response_excerpt=None,
    )


OTHER = UUID(int=7)


def expire_and_claim_again(host: hosts.Host, clock: Any, *, status: int = 500) -> Callable[[Arrived], Any]:
    """Answer when another engine has claimed the delivery since."""

    def claim_again() -> None:
        state = state_of(host.app)
        clock.move(minutes=2)
        with host.app.app_context():
            assert len(claim(state.scope(), OTHER).deliveries) == 1
            host.db.session.commit()

    async def answer(arrived: Arrived) -> Answer:
        await asyncio.to_thread(claim_again)
        return Answer(status)

    return answer


def test_a_settlement_whose_commit_got_lost_may_be_repeated(one_attempt, inbox, caplog, monkeypatch):
    host = one_attempt
    inbox.answer = answering(Answer(500))
    create_endpoint(host.client(), inbox.url())
    publish(host, 1, 2)
    record, calls = attempts.record, []

    def record_twice(scope: Scope, *args: Any, **options: Any) -> Any:
        calls.append(args)
        record(scope, *args, **options)
        scope.session.commit()
        return record(scope, *args, **options)

    monkeypatch.setattr(attempts, "record", record_twice)

    assert drain(host.app) == 2
    assert calls
    assert all_are(host, FAILED)
    assert rows(host, sa.select(INCIDENT.c.exhausted_in_a_row)) == [(2,)]
    assert "webhooks.not_recorded" not in [record.msg for record in caplog.records]


# What is paused or deleted


@pytest.mark.slow
@pytest.mark.full_size
@several_connections
def test_from_the_pause_on_nothing_is_sent_and_after_resume_all_comes_oldest_due_first(database, host, inbox):
    queued, retried, cap, timeout_seconds = (500, 50, 10, 1) if FULL else (100, 20, 10, 1)
    endpoint = create_endpoint(host.client(), inbox.url(), timeout_seconds=timeout_seconds)
    settings = {"retry_schedule": [0] + [0.4] * 50, "retry_jitter": 0, "poll_seconds": 0.05}

    async def refuse(arrived: Arrived) -> Answer:
        await asyncio.sleep(0.05)
        return Answer(500 if arrived.data == "retried" else 200)

    inbox.answer = refuse
    with workers(1, database, settings):
        publish(host, *["retried"] * retried)
        wait_until(lambda: len(set(inbox.times())) == retried)
        publish(host, *["queued"] * queued)
        wait_until(lambda: any(arrived.data == "queued" for arrived in inbox.arrived))
        change_endpoint(host.client(), endpoint, status="PAUSED")
        deadline = time.monotonic() + timeout_seconds
        wait_until(lambda: time.monotonic() > deadline)
        came = len(inbox.arrived)
        held = rows(
            host,
            sa.select(DELIVERY.c.event_id, QUEUE.c.attempts, QUEUE.c.due_at)
            .where(DELIVERY.c.id == QUEUE.c.delivery_id)
            .order_by(QUEUE.c.due_at),
        )
        assert len(held) > retried
        # Long enough for every retry to be due.
        wait_until(lambda: time.monotonic() > deadline + 1)

        assert len(inbox.arrived) == came
        inbox.answer = accept
        change_endpoint(host.client(), endpoint, status="ACTIVE")
        wait_until(lambda: all_are(host, DELIVERED))

    order = [arrived.id for arrived in inbox.arrived[came:]]
    due = [f"evt_{row.event_id}" for row in held]
    assert sorted(order) == sorted(due)
    # Those in flight together arrive in any order.
    assert max(abs(order.index(event_id) - place) for place, event_id in enumerate(due)) < 2 * cap
    attempts = dict(rows(host, sa.select(DELIVERY.c.event_id, DELIVERY.c.attempts)))
    assert [attempts[row.event_id] for row in held] == [row.attempts + 1 for row in held]


# What was held for long waited behind all that was published since, for ever where that was much.
def test_what_was_held_comes_before_what_was_published_after_the_resumption(host, inbox):
    held, since, cap = RELEASED_AT_ONCE + 50, 60, Settings().max_in_flight_per_endpoint
    endpoint = create_endpoint(host.client(), inbox.url())
    change_endpoint(host.client(), endpoint, status="PAUSED")
    ids = publish(host, *range(held))
    assert drain(host.app) == 0
    change_endpoint(host.client(), endpoint, status="ACTIVE")
    ids += publish(host, *range(since))

    assert drain(host.app) == held + since
    order = [arrived.id for arrived in inbox.arrived]
    # Those in flight together arrive in any order.
    assert max(abs(order.index(event_id) - place) for place, event_id in enumerate(ids)) < 3 * cap


@pytest.mark.parametrize(
    ("answer", "seconds"), [(Answer(429, {"Retry-After": "60"}), 60), (Answer(503), 60)], ids=["429", "503"]
)
@pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 60, 60], retry_jitter=0)
def test_a_receiver_that_asks_for_rest_gets_it_then_one_delivery_then_the_others(
    host, inbox, webhook_clock, answer, seconds
):
    create_endpoint(host.client(), inbox.url())
    inbox.answer = answering(answer)
    publish(host, *range(200))
    at_first = drain(host.app)
    webhook_clock.move(seconds=seconds / 2)

    assert 1 <= at_first <= 2
    assert drain(host.app) == 0
    webhook_clock.move(seconds=seconds)
    # It goes on resting after the one that tries it out.
    assert drain(host.app) == 1
    webhook_clock.move(seconds=3 * seconds)
    inbox.answer = accept
    assert drain(host.app) == 200
    assert all_are(host, DELIVERED)
    # What waited has used up no attempt.
    once = sa.select(sa.func.count()).select_from(DELIVERY).where(DELIVERY.c.attempts == 1)
    assert rows(host, once)[0][0] >= 200 - at_first - 1


BROKEN_BODIES = {
    "cut short": then_close(say(b"Content-Length: 100\r\n\r\nslow")),
    "never complete": then_hang(say(b"Content-Length: 100\r\n\r\nslow")),
    "a broken chunk": say(b"Transfer-Encoding: chunked\r\n\r\nx\r\n"),
}


# The whole backlog was attempted, and each delivery charged with it.
@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=list(BROKEN_BODIES))
@pytest.mark.parametrize(
    "asks", [b"429 Slow\r\nRetry-After: 60", b"503 Down", b"500 Busy\r\nRetry-After: 60"], ids=bytes.decode
)
@pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 60, 60], retry_jitter=0)
def test_a_receiver_gets_its_rest_whatever_becomes_of_the_body_of_its_answer(host, receivers, asks, body):
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + asks + b"\r\n")
        await body(writer)

    receiver = receivers.start(answer)
    create_endpoint(host.client(), f"http://127.0.0.1:{receiver.port}/", timeout_seconds=1)
    publish(host, *range(30))

    assert 1 <= drain(host.app) <= 2
    assert drain(host.app) == 0


# Ten went to a receiver that took longer than a second, and to one that had answered well before.
@pytest.mark.slow
@pytest.mark.several_connections
@pytest.mark.parametrize("seconds", [0, 1.2], ids=["at once", "slow"])
@pytest.mark.parametrize("times_before", [0, 3], ids=["new", "known"])
def test_a_receiver_that_asks_for_a_minute_of_rest_gets_two_requests_in_it(
    host, inbox, monkeypatch, times_before, seconds
):
    create_endpoint(host.client(), inbox.url())

    async def ask_for_rest(arrived: Arrived) -> Answer:
        await asyncio.sleep(seconds)
        return Answer(429, {"Retry-After": "60"})

    with in_thread(Worker(host.app)):
        if times_before:
            publish(host, *range(times_before))
            wait_until(lambda: all_are(host, DELIVERED))
            # As if a minute had passed since.
            monkeypatch.setattr(marks, "COLD_SECONDS", 0)
        inbox.answer = ask_for_rest
        publish(host, *range(200))
        wait_until(lambda: rows(host, sa.select(REST)))
        # Until claims have moved all that is due out of their way.
        wait_until(lambda: not rows(host, sa.select(QUEUE).where(QUEUE.c.state.in_((QueueState.READY, LEASED)))))

    assert len(inbox.arrived) - times_before <= 2


# They went from one to the next without a wait, uncounted, as long as their receiver said so.
@pytest.mark.parametrize("asks", ["0", "Sat, 31 Jan 2026 12:00:00 GMT"], ids=["no seconds", "a time that has passed"])
@pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 60, 60], retry_jitter=0)
def test_a_receiver_that_asks_for_no_time_at_all_rests_for_the_backoff(host, inbox, webhook_clock, asks):
    create_endpoint(host.client(), inbox.url())
    inbox.answer = answering(Answer(503, {"Retry-After": asks}))
    publish(host, *range(30))

    assert 1 <= drain(host.app) <= 2
    assert drain(host.app) == 0
    webhook_clock.move(seconds=70)
    assert drain(host.app) == 1
    webhook_clock.move(seconds=70)
    # The second rest is twice as long.
    assert drain(host.app) == 0
    webhook_clock.move(seconds=70)
    assert drain(host.app) == 1


def test_a_pause_between_two_attempts_uses_up_neither_of_them_nor_the_time_of_the_next(database, inbox):
    with (
        closing(hosts.delivering(database, retry_schedule=[0, 60, 3600], retry_jitter=0)) as host,
        hosts.moved(host.app) as clock,
    ):
        endpoint = create_endpoint(host.client(), inbox.url())
        inbox.answer = answering(Answer(500))
        [retried] = publish(host, 1)
        assert drain(host.app) == 1
        change_endpoint(host.client(), endpoint, status="PAUSED")
        [held] = publish(host, 2)
        clock.move(days=29)
        assert drain(host.app) == 0
        assert host.app.test_cli_runner().invoke(args=["webhooks", "prune"]).exit_code == 0
        change_endpoint(host.client(), endpoint, status="ACTIVE")

        assert drain(host.app) == 2

        now = clock()
        due = dict(
            rows(host, sa.select(DELIVERY.c.event_id, QUEUE.c.due_at).where(DELIVERY.c.id == QUEUE.c.delivery_id))
        )
        waits = {f"evt_{event_id}": (at - now).total_seconds() for event_id, at in due.items()}
        assert waits == {retried: pytest.approx(3600, abs=10), held: pytest.approx(60, abs=10)}


def test_what_was_published_within_a_millisecond_comes_in_order_after_resume(database, inbox):
    with closing(hosts.delivering(database, max_in_flight_per_endpoint=1)) as host:
        endpoint = create_endpoint(host.client(), inbox.url())
        change_endpoint(host.client(), endpoint, status="PAUSED")
        state = state_of(host.app)
        # In the past: what is published for later than now is not due yet.
        start_at = (state.now() - timedelta(seconds=1)).replace(microsecond=123_000)
        ticks = iter(start_at + timedelta(microseconds=10 * count) for count in range(30))
        host.app.extensions[EXTENSION] = dataclasses.replace(state, now=lambda: next(ticks))
        ids = publish(host, *range(30))
        host.app.extensions[EXTENSION] = state
        change_endpoint(host.client(), endpoint, status="ACTIVE")

        while drain(host.app):
            pass

    assert [arrived.id for arrived in inbox.arrived] == ids


def test_a_deleted_endpoints_deliveries_are_cancelled_in_the_same_transaction(host, inbox, drain_webhooks):
    endpoint = create_endpoint(host.client(), inbox.url())
    create_endpoint(host.client(), inbox.url("/other"))
    publish(host, 1, 2, 3)
    state = state_of(host.app)

    with host.app.app_context():
        core_endpoints.delete(state.scope().of("acme"), endpoint.uuid)
        host.db.session.rollback()
    assert statuses(host) == {PENDING: 6}
    host.client().delete(endpoint.path)

    assert statuses(host) == {PENDING: 3, CANCELLED: 3}
    assert drain_webhooks() == 3
    assert {arrived.path for arrived in inbox.arrived} == {"/other"}


@several_connections
def test_publishing_and_deleting_at_the_same_moment_leave_nothing_pending(host, inbox, drain_webhooks):
    for _ in range(5):
        endpoint = create_endpoint(host.client(), inbox.url())
        at_once(
            [
                *[lambda: publish_patiently(host)] * 4,
                lambda path=endpoint.path: host.client().delete(path),
            ],
        )

    drain_webhooks()

    assert set(statuses(host)) <= {DELIVERED, CANCELLED}


def publish_patiently(host: hosts.Host) -> None:
    """Publish, and again where the database says that it met a deadlock."""
    for _ in range(10):
        try:
            publish(host, 1)
        except sa.exc.OperationalError:
            continue
        else:
            return


@pytest.mark.only_on("postgresql")
def test_a_delivery_published_while_its_endpoint_was_deleted_is_cancelled(host, inbox, drain_webhooks):
    endpoint = create_endpoint(host.client(), inbox.url())
    with host.app.app_context():
        host.webhooks.publish("invoice.paid", 1, tenant_id="acme")
        thread = threading.Thread(target=lambda: host.client().delete(endpoint.path))
        thread.start()
        thread.join()
        host.db.session.commit()
    assert statuses(host) == {PENDING: 1}

    assert drain_webhooks() == 0

    assert statuses(host) == {CANCELLED: 1}


def test_a_delivery_in_flight_while_its_endpoint_is_deleted_ends(host, inbox, webhook_clock, drain_webhooks):
    endpoint = create_endpoint(host.client(), inbox.url())
    publish(host, 1)

    async def answer(arrived: Arrived) -> Answer:
        await asyncio.to_thread(host.client().delete, endpoint.path)
        return Answer(500)

    inbox.answer = answer
    assert drain_webhooks() == 1
    webhook_clock.move(days=1)
    assert drain_webhooks() == 0

    assert statuses(host) == {CANCELLED: 1}


@pytest.mark.full_size
@several_connections
def test_pruning_and_a_tenant_that_leaves_cost_no_other_delivery(database, host, inbox):
    rounds, paths = 40 if FULL else 10, [f"/{count}" for count in range(4)]
    for path in paths:
        create_endpoint(host.client(), inbox.url(path))
    for count in range(4):
        create_endpoint(host.client("globex"), inbox.url(f"/leaves/{count}"))
    inbox.answer = after(0.01)
    ids: list[str] = []
    pruned: Counter[str] = Counter()
    done = threading.Event()

    with workers(2, database, {"poll_seconds": 0.05}), ThreadPoolExecutor() as executor:
        pruner = executor.submit(prune_until, done, host, pruned)
        try:
            for turn in range(rounds):
                ids += publish(host, *range(10))
                publish(host, *range(10), tenant_id="globex")
                if turn == rounds // 2:
                    wait_until(lambda: any("/leaves/" in arrived.path for arrived in list(inbox.arrived)))
                    left = host.app.test_cli_runner().invoke(args=["webhooks", "forget-tenant", "globex", "--yes"])
                    assert left.exit_code == 0, left.output
            wait_until(lambda: not rows(host, sa.select(DELIVERY.c.id).limit(1)))
        finally:
            done.set()
        pruner.result()

    ours = {key: times for key, times in inbox.times().items() if key[0] in paths}
    assert ours == {(path, event_id): 1 for path in paths for event_id in ids}
    assert max(inbox.times().values()) == 1
    assert pruned["deliveries_deleted"] >= len(ours)
    assert pruned["deliveries_expired"] == 0
    assert [rows(host, sa.select(table)) for table in (DELIVERY, ATTEMPT, EVENT)] == [[], [], []]


def prune_until(done: threading.Event, host: hosts.Host, pruned: Counter[str]) -> None:
    """Prune over and over whatever has finished, and count what was taken."""
    state = state_of(host.app)
    last = False
    while not last:
        last = done.is_set()
        with host.app.app_context():
            for step in retention.steps(retention_days=0, hold_max_days=30):
                # Not while others publish: what retention deletes without deliveries is a day old at least.
                if step.name == "events_deleted" and not last:
                    continue
                pruned[step.name] += sum(
                    batch.taken for batch in state.in_batches(step.prune, cursor=lambda batch: batch.last)
                )


# What is slow


@pytest.mark.full_size
@several_connections
def test_an_endpoint_that_hangs_does_not_delay_the_others(database, host, inbox):
    good, queued, each = (99, 1000, 10) if FULL else (30, 200, 4)
    paths = [f"/good/{count}" for count in range(good)]
    for path in paths:
        create_endpoint(host.client(), inbox.url(path), event_types=["good"])
    create_endpoint(host.client(), inbox.url("/hangs"), timeout_seconds=30, event_types=["bad"])
    inbox.answers["/hangs"] = hang
    publish(host, *range(queued), event_type="bad")
    execute(host, sa.update(QUEUE).values(due_at=now_of(host) + timedelta(days=1), state=QueueState.WAITING))

    def seconds_for(data: str) -> float:
        came, started = len(inbox.arrived), time.monotonic()
        ids = set(publish(host, *[data] * each, event_type="good"))
        wait_until(lambda: sum(arrived.id in ids for arrived in list(inbox.arrived[came:])) == good * each)
        return time.monotonic() - started

    processes = [start(deliver, database, {"poll_seconds": 0.05}) for _ in range(2)]
    try:
        seconds_for("warm")
        alone = seconds_for("alone")
        execute(host, sa.update(QUEUE).values(due_at=now_of(host)))
        wait_until(lambda: len(inbox.at("/hangs")) >= 2)
        beside = seconds_for("beside")
    finally:
        for process in processes:
            kill(process)

    print(f"{beside / alone:.2f} times as long beside an endpoint that hangs ({alone:.2f} s, {beside:.2f} s)")
    assert beside < 3 * alone + 2


@pytest.mark.full_size
@several_connections
def test_a_tenants_backlog_does_not_delay_another_tenants_event(database, host, inbox):
    backlog = 50_000 if FULL else 3000
    endpoint = create_endpoint(host.client(), inbox.url("/backlog"))
    create_endpoint(host.client("globex"), inbox.url("/single"))
    inbox.answers["/backlog"] = after(0.02)
    queue(host, endpoint, backlog)

    with workers(1, database, {"poll_seconds": 0.05}):
        wait_until(lambda: len(inbox.at("/backlog")) > 20)
        started = time.monotonic()
        publish(host, 1, tenant_id="globex")
        wait_until(lambda: inbox.at("/single"))
        seconds = inbox.at("/single")[0].at - started
        execute(host, sa.delete(QUEUE))

    print(f"{seconds:.3f} s beside a backlog of {backlog}")
    assert seconds < 5


def queue(
    host: hosts.Host, endpoint: Endpoint, number: int, *, tenant_id: str = "acme", status: DeliveryStatus = PENDING
) -> None:
    """Insert deliveries of one event to one endpoint."""
    [event_id] = publish(host, "backlog", tenant_id=tenant_id)
    now = datetime.now(UTC)
    row = {"tenant_id": tenant_id, "endpoint_id": endpoint.uuid, "attempts": 0}
    of_event = {"event_id": UUID(event_id.removeprefix("evt_")), "created_at": now}
    logged = {**of_event, "status": status, "finished_at": None if status is PENDING else now}
    queued = {"state": QueueState.READY, "due_at": now, "attempts_before": 0}
    for start_at in range(0, number, 5000):
        ids = [new_id() for _ in range(min(5000, number - start_at))]
        execute(host, sa.insert(DELIVERY), [{**row, **logged, "id": delivery_id} for delivery_id in ids])
        if status is PENDING:
            execute(host, sa.insert(QUEUE), [{**row, **queued, "delivery_id": delivery_id} for delivery_id in ids])


@pytest.mark.full_size
@several_connections
def test_no_endpoint_has_more_in_flight_than_its_cap(database, host, inbox):
    paths = ["/a", "/b"]
    for path in paths:
        create_endpoint(host.client(), inbox.url(path))
    inbox.answer = after(0.03)
    publish(host, *range(300 if FULL else 100))

    with workers(4, database, {"max_in_flight_per_endpoint": 3, "poll_seconds": 0.02}):
        wait_until(lambda: all_are(host, DELIVERED))

    assert {path: inbox.most_under_way[path] for path in paths} == {"/a": 3, "/b": 3}


@pytest.mark.slow
def test_the_timeout_is_the_total_whatever_the_receiver_does(host, inbox):
    async def late(arrived: Arrived) -> Answer:
        await asyncio.sleep(2.5)
        return Answer()

    inbox.answers |= {"/hangs": hang, "/late": late}
    for path, timeout_seconds in (("/hangs", 1), ("/hangs", 2), ("/late", 5), ("/prompt", 5)):
        create_endpoint(host.client(), inbox.url(path), timeout_seconds=timeout_seconds)
    publish(host, 1)

    assert drain(host.app) == 4

    statement = sa.select(
        ENDPOINT.c.url, ENDPOINT.c.timeout_seconds, DELIVERY.c.last_duration_ms, DELIVERY.c.last_error
    ).join(DELIVERY, DELIVERY.c.endpoint_id == ENDPOINT.c.id)
    took = {(url.rpartition("/")[2], seconds): (ms, error) for url, seconds, ms, error in rows(host, statement)}
    for seconds in (1, 2):
        ms, error = took["hangs", seconds]
        assert error == "timeout"
        assert seconds * 1000 <= ms <= seconds * 1000 + SLOWNESS * 100
    assert took["late", 5][1] is None
    assert took["prompt", 5][0] < 2500


def test_a_timeout_above_todays_ceiling_is_cut_to_it(database, inbox):
    with closing(hosts.delivering(database, max_timeout_seconds=1)) as host:
        create_endpoint(host.client(), inbox.url(), timeout_seconds=1)
        # As it was taken while the ceiling was higher; leases follow the ceiling.
        execute(host, sa.update(ENDPOINT).values(timeout_seconds=30))
        publish(host, 1)
        inbox.answer = hang

        drain(host.app)

        [(ms, error)] = rows(host, sa.select(ATTEMPT.c.duration_ms, ATTEMPT.c.error))
        assert error == "timeout"
        assert ms < 5000


@several_connections
def test_no_transaction_is_open_while_a_request_is_under_way(database, host, inbox):
    url = make_url(database)
    if url.get_backend_name() == "postgresql":
        name = f"worker {new_id()}"
        database = url.update_query_dict({"application_name": name}).render_as_string(hide_password=False)
    create_endpoint(host.client(), inbox.url())
    publish(host, 1)
    going = threading.Event()

    async def answer(arrived: Arrived) -> Answer:
        await asyncio.to_thread(going.wait, 30)
        return Answer()

    inbox.answer = answer
    with workers(1, database, {"poll_seconds": 59}):
        wait_until(lambda: LEASED in [state for state, *_ in in_queue(host)] and bool(inbox.arrived))
        match url.get_backend_name():
            case "postgresql":
                open_ones = sa.text("SELECT state FROM pg_stat_activity WHERE application_name = :name")
                wait_until(lambda: set(rows(host, open_ones.bindparams(name=name))) <= {("idle",)}, 10)
            case "sqlite":
                with closing(sqlite3.connect(str(url.database), timeout=1)) as connection:
                    connection.execute("BEGIN EXCLUSIVE")
                    connection.rollback()
            case _:
                open_ones = sa.text(
                    "SELECT trx_id FROM information_schema.innodb_trx JOIN information_schema.processlist"
                    " ON id = trx_mysql_thread_id WHERE db = DATABASE() AND id <> CONNECTION_ID()"
                )
                wait_until(lambda: rows(host, open_ones) == [], 10)
        assert [state for state, *_ in in_queue(host)] == [LEASED]
        going.set()
        wait_until(lambda: all_are(host, DELIVERED))


# What comes of an attempt


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_2xx_is_delivered(host, inbox, status):
    create_endpoint(host.client(), inbox.url())
    publish(host, 1)
    inbox.answer = answering(Answer(status, body=b"x" * 5000))

    assert drain(host.app) == 1
    assert drain(host.app) == 0

    assert rows(host, sa.select(QUEUE)) == rows(host, sa.select(ATTEMPT)) == []
    [delivery] = rows(host, sa.select(DELIVERY))
    assert (delivery.status, delivery.attempts) == (DELIVERED, 1)
    assert (delivery.last_response_status, delivery.last_error) == (status, None)
    assert delivery.last_response_excerpt == b"x" * 1024


def answering(answer: Answer) -> Callable[[Arrived], Any]:
    async def give(arrived: Arrived) -> Answer:
        return answer

    return give


def test_410_pauses_the_endpoint_as_gone_and_holds_what_is_left(host, inbox, webhook_clock):
    endpoint = create_endpoint(host.client(), inbox.url())
    inbox.answer = answering(Answer(410))
    publish(host, 1)
    assert drain(host.app) == 1
    publish(host, 2)

    webhook_clock.move(days=1)
    assert drain(host.app) == 0
    assert host.client().get(endpoint.path).json["status"] == "PAUSED"
    assert rows(host, sa.select(ENDPOINT.c.pause_reason)) == [(PauseReason.GONE,)]
    assert statuses(host) == {PENDING: 2}

    inbox.answer = accept
    change_endpoint(host.client(), endpoint, status="ACTIVE")
    assert drain(host.app) == 2
    assert rows(host, sa.select(ENDPOINT.c.pause_reason)) == [(None,)]


def test_a_pause_by_an_engine_moves_updated_at_though_its_clock_is_behind(host, inbox, webhook_clock):
    endpoint = create_endpoint(host.client(), inbox.url())
    webhook_clock.move(hours=1)
    before = host.client().patch(endpoint.path, json={"name": "renamed"}).json["updated_at"]
    webhook_clock.move(hours=-1)
    inbox.answer = answering(Answer(410))
    publish(host, 1)

    assert drain(host.app) == 1
    paused = host.client().get(endpoint.path).json
    assert paused["status"] == "PAUSED"
    assert paused["updated_at"] > before


FAILURES = {
    "500": answering(Answer(500)),
    "404": answering(Answer(404)),
    "redirect": answering(Answer(302, {"Location": "/elsewhere"})),
    "not modified": answering(Answer(304)),
    "timeout": hang,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_tried_again_at_the_schedules_times_until_it_has_no_more(database, inbox, failure):
    # The whole schedule once: it does not depend on how an attempt failed.
    schedule = Settings().retry_schedule if failure == "500" else (0, 5, 300)
    with closing(hosts.delivering(database, retry_schedule=schedule)) as host, hosts.moved(host.app) as clock:
        create_endpoint(host.client(), inbox.url(), timeout_seconds=1 if failure == "timeout" else 10)
        inbox.answer = FAILURES[failure]
        publish(host, 1)

        for number, delay in enumerate((*schedule[1:], None), start=1):
            before = clock()
            assert drain(host.app) == 1
            of_queue = DELIVERY.outerjoin(QUEUE, QUEUE.c.delivery_id == DELIVERY.c.id)
            [(status, due)] = rows(host, sa.select(DELIVERY.c.status, QUEUE.c.due_at).select_from(of_queue))
            assert len(inbox.arrived) == number
            if delay is None:
                assert (status, due) == (FAILED, None)
                break
            assert status == PENDING
            assert before + timedelta(seconds=0.8 * delay) <= due <= clock() + timedelta(seconds=1.2 * delay)
            half = (due - clock()) / 2
            clock.move(seconds=half.total_seconds())
            assert drain(host.app) == 0
            clock.move(seconds=half.total_seconds())

        clock.move(days=30)
        assert drain(host.app) == 0
        assert {arrived.path for arrived in inbox.arrived} == {"/"}
        assert len({(arrived.id, arrived.body) for arrived in inbox.arrived}) == 1
        timestamps = [int(arrived.headers["webhook-timestamp"]) for arrived in inbox.arrived]
        assert timestamps == sorted(set(timestamps))
        assert len(rows(host, sa.select(ATTEMPT))) == len(schedule)


def test_the_first_attempt_waits_as_the_schedule_says_and_a_ping_does_not(database, inbox):
    with (
        closing(hosts.delivering(database, retry_schedule=[60, 300], retry_jitter=0)) as host,
        hosts.moved(host.app) as clock,
    ):
        endpoint = create_endpoint(host.client(), inbox.url())
        inbox.answer = answering(Answer(500))
        publish(host, 1)
        assert host.client().post(f"{endpoint.path}/ping").status_code == 202
        assert drain(host.app) == 1
        clock.move(seconds=20)
        assert drain(host.app) == 0
        clock.move(seconds=40)
        assert drain(host.app) == 1

        now = clock()
        for event_type, seconds in (("invoice.paid", 300), ("webhook.ping", 239)):
            [(due,)] = rows(
                host,
                sa.select(QUEUE.c.due_at)
                .join(DELIVERY, DELIVERY.c.id == QUEUE.c.delivery_id)
                .join(EVENT, EVENT.c.id == DELIVERY.c.event_id)
                .where(EVENT.c.type == event_type),
            )
            assert (due - now).total_seconds() == pytest.approx(seconds, abs=5)


RETRY_AFTER = {
    "429": (429, "900", 900),
    "503": (503, "900", 900),
    "capped": (503, "86400", 3600),
    "shorter than the schedule": (503, "1", 300),
    "beside 500": (500, "900", 900),
    "garbage": (429, "soon", 300),
}


@on_sqlite
@pytest.mark.parametrize(("status", "asked", "seconds"), RETRY_AFTER.values(), ids=RETRY_AFTER)
def test_retry_after_is_honoured_in_whatever_answer_it_comes_up_to_an_hour(database, inbox, status, asked, seconds):
    with closing(hosts.delivering(database, retry_schedule=[0, 300], retry_jitter=0)) as host:
        create_endpoint(host.client(), inbox.url())
        inbox.answer = answering(Answer(status, {"Retry-After": asked}))
        publish(host, 1)
        before = now_of(host)

        drain(host.app)

        [(due,)] = rows(host, sa.select(QUEUE.c.due_at))
        assert before + timedelta(seconds=seconds) <= due <= now_of(host) + timedelta(seconds=seconds)


@pytest.fixture
def one_attempt(database: str) -> Iterator[hosts.Host]:
    """A host whose deliveries are exhausted by their first failure."""
    with closing(hosts.delivering(database, retry_schedule=[0])) as host:
        yield host


def exhaust(host: hosts.Host, inbox: Inbox, number: int) -> None:
    inbox.answer = answering(Answer(500))
    publish(host, *range(number))
    drain(host.app)


def reason(host: hosts.Host) -> str | None:
    return rows(host, sa.select(ENDPOINT.c.pause_reason))[0][0]


def test_ten_exhausted_in_a_row_over_five_days_pause_the_endpoint_and_resume_begins_anew(one_attempt, inbox):
    host = one_attempt
    endpoint = create_endpoint(host.client(), inbox.url())
    with hosts.moved(host.app) as clock:
        exhaust(host, inbox, 1)
        clock.move(days=5)
        exhaust(host, inbox, 8)
        assert reason(host) is None
        exhaust(host, inbox, 1)
        assert reason(host) == PauseReason.FAILURES
        assert statuses(host) == {FAILED: 10}
        exhaust(host, inbox, 3)
        assert statuses(host) == {FAILED: 10, PENDING: 3}

        change_endpoint(host.client(), endpoint, status="ACTIVE")
        exhaust(host, inbox, 20)
        assert reason(host) is None


def test_ten_exhausted_within_five_days_do_not_pause(one_attempt, inbox):
    create_endpoint(one_attempt.client(), inbox.url())
    with hosts.moved(one_attempt.app) as clock:
        exhaust(one_attempt, inbox, 10)
        clock.move(days=5, seconds=-60)
        exhaust(one_attempt, inbox, 10)
        assert reason(one_attempt) is None
        clock.move(seconds=120)
        exhaust(one_attempt, inbox, 1)
        assert reason(one_attempt) == PauseReason.FAILURES


def test_the_days_of_a_pause_are_no_days_of_failing(one_attempt, inbox):
    endpoint = create_endpoint(one_attempt.client(), inbox.url())
    with hosts.moved(one_attempt.app) as clock:
        exhaust(one_attempt, inbox, 9)
        change_endpoint(one_attempt.client(), endpoint, status="PAUSED")
        clock.move(days=6)
        change_endpoint(one_attempt.client(), endpoint, status="ACTIVE")
        exhaust(one_attempt, inbox, 1)
        assert reason(one_attempt) is None


def test_a_success_in_between_begins_anew(one_attempt, inbox):
    create_endpoint(one_attempt.client(), inbox.url())
    with hosts.moved(one_attempt.app) as clock:
        exhaust(one_attempt, inbox, 9)
        clock.move(days=6)
        inbox.answer = accept
        publish(one_attempt, 1)
        drain(one_attempt.app)
        exhaust(one_attempt, inbox, 10)
        assert reason(one_attempt) is None


# What arrives


def verifies(secret: str, arrived: Arrived) -> bool:
    """Tell whether both official verifiers take it."""
    raw = not secret.startswith("whsec_")
    verdicts = set()
    for kind in (standardwebhooks.Webhook, svix_verifier):
        verifier = kind(secret.encode() if raw else secret)
        try:
            verifier.verify(arrived.body, dict(arrived.headers))
            verdicts.add(True)
        except standardwebhooks.WebhookVerificationError:
            verdicts.add(False)
    [verdict] = verdicts
    return verdict


OLD, NEW = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a secret of our own"


def test_deliveries_verify_and_after_a_new_secret_with_both_until_the_old_one_expires(host, inbox):
    endpoint = create_endpoint(host.client(), inbox.url(), secret=OLD)
    with hosts.moved(host.app) as clock:
        publish(host, {"id": 7})
        drain(host.app)
        change_endpoint(host.client(), endpoint, secret=NEW)
        publish(host, {"id": 8})
        drain(host.app)
        before, overlap = inbox.arrived
        clock.move(hours=24, seconds=1)
        publish(host, {"id": 9})
        drain(host.app)
        expired = inbox.arrived[-1]

    assert [verifies(secret, before) for secret in (OLD, NEW)] == [True, False]
    assert [verifies(secret, overlap) for secret in (OLD, NEW)] == [True, True]
    # A day ahead, which the official verifiers' own clocks refuse.
    assert len(expired.headers["webhook-signature"].split()) == 1
    assert len(overlap.headers["webhook-signature"].split()) == 2


def test_custom_headers_arrive_and_are_encrypted_at_rest(host, inbox):
    create_endpoint(host.client(), inbox.url(), headers_json={"Authorization": "Bearer top secret", "X-Name": "é"})
    publish(host, 1)

    drain(host.app)

    [arrived] = inbox.arrived
    assert (arrived.headers["authorization"], arrived.headers["x-name"]) == ("Bearer top secret", "é")
    stored = rows(host, sa.text("SELECT headers_encrypted FROM webhook_endpoint"))[0][0]
    assert "secret" not in stored


def test_our_headers_win_over_what_is_stored(host, inbox):
    create_endpoint(host.client(), inbox.url(), secret=OLD)
    state = state_of(host.app)
    # What the API refuses, had it come another way.
    theirs = {"Webhook-Id": "x", "WEBHOOK-SIGNATURE": "v1,x", "Content-Type": "text/html", "User-Agent": "x"}
    execute(host, sa.update(ENDPOINT).values(headers_encrypted=state.cipher.encrypt(json.dumps(theirs))))
    [event_id] = publish(host, 1)

    drain(host.app)

    [arrived] = inbox.arrived
    assert arrived.id == event_id
    assert arrived.headers["content-type"] == "application/json"
    assert arrived.headers["user-agent"].startswith("flask-webhook-endpoints/")
    assert verifies(OLD, arrived)


def test_the_body_on_the_wire_is_the_body_in_the_outbox(host, inbox):
    create_endpoint(host.client(), inbox.url())
    publish(host, {"text": "é\u2028", "number": 1.10})

    drain(host.app)

    assert rows(host, sa.select(EVENT.c.body)) == [(inbox.arrived[0].body,)]


def test_a_rotation_without_overlap_ends_every_old_secret(host, inbox):
    endpoint = create_endpoint(host.client(), inbox.url(), secret=OLD)
    change_endpoint(host.client(), endpoint, secret="a secret in between")
    client = host.client()
    assert client.post(f"{endpoint.path}/secret/rotate", json={"secret": NEW, "overlap_seconds": 0}).status_code == 200
    publish(host, 1)

    drain(host.app)

    [arrived] = inbox.arrived
    assert len(arrived.headers["webhook-signature"].split()) == 1
    assert verifies(NEW, arrived)


@pytest.mark.parametrize("lost", ["the one in force", "an old one"])
def test_a_new_secret_is_all_that_a_lost_encryption_key_asks_for(host, inbox, lost):
    secret = SECRET
    endpoint = create_endpoint(host.client(), inbox.url(), secret=OLD)
    if lost == "an old one":
        change_endpoint(host.client(), endpoint, secret="a secret in between")
    of_lost = secret.c.expires_at.is_(None) if lost == "the one in force" else secret.c.expires_at.is_not(None)
    execute(host, sa.update(secret).where(of_lost).values(secret_encrypted="garbage"))
    change_endpoint(host.client(), endpoint, secret=NEW)
    publish(host, 1)

    drain(host.app)

    assert all_are(host, DELIVERED)
    assert verifies(NEW, inbox.arrived[0])


def test_a_lost_encryption_key_is_a_failed_attempt(host, inbox):
    create_endpoint(host.client(), inbox.url())
    execute(host, sa.update(SECRET).values(secret_encrypted="garbage"))
    publish(host, 1)

    assert drain(host.app) == 1

    assert rows(host, sa.select(ATTEMPT.c.error)) == [("unreadable_secret",)]
    assert statuses(host) == {PENDING: 1}
    assert inbox.arrived == []


def test_an_address_that_is_closed_today_is_not_reached_though_its_url_was_taken(host, inbox):
    create_endpoint(host.client(), "https://example.com/")
    execute(host, sa.update(ENDPOINT).values(url="http://169.254.169.254/latest/meta-data"))
    publish(host, 1)

    assert drain(host.app) == 1

    assert rows(host, sa.select(ATTEMPT.c.error, ATTEMPT.c.response_status)) == [("blocked_address", None)]


# What a claim costs


def captured_claim(host: hosts.Host) -> list[tuple[str, Any]]:
    """Return the SELECTs of one claim, with their parameters."""
    state = state_of(host.app)
    with host.app.app_context(), statements_of(host) as sent:
        claim(state.scope())
        host.db.session.rollback()
    return sent


@pytest.mark.parametrize(("few", "many"), [(1, 8), (8, 1)])
def test_a_claim_and_its_settlement_are_so_many_statements_however_much_there_is(host, inbox, database, few, many):
    create_endpoint(host.client(), inbox.url("/0"))
    counts = []
    for endpoints, events in ((1, 2), (few, many)):
        for number in range(1, endpoints):
            create_endpoint(host.client(), inbox.url(f"/{number}"))
        publish(host, *range(events))
        with statements_of(host) as sent:
            claimed = claim_and_settle(host)
        assert len(claimed) == endpoints * events
        counts.append(len(sent))

    most = {"postgresql": 12, "sqlite": 11, "mysql": 17}[make_url(database).get_backend_name()]
    assert counts[0] == counts[1] <= most


def claim_and_settle(host: hosts.Host) -> list[Claimed]:
    """Claim what is due, and settle it as delivered, in two transactions."""
    state = state_of(host.app)
    owner = new_id()
    with host.app.app_context():
        claimed, *_ = state.run_apart(lambda scope: claim(scope, owner))
        settlements = [settlement(delivery, DELIVERED) for delivery in claimed]
        settled = state.run_apart(lambda scope: attempts.record(scope, owner, settlements))
    assert len(settled.settlements) == len(claimed)
    return claimed


def test_no_statement_of_a_claim_reads_all_deliveries_and_what_is_due_is_found_by_its_index(host, inbox):
    for count in range(5):
        create_endpoint(host.client(), inbox.url(f"/{count}"))
    paused = create_endpoint(host.client("globex"), inbox.url("/paused"))
    change_endpoint(host.client("globex"), paused, status="PAUSED")
    publish(host, *range(3))
    for status in (PENDING, DELIVERED):
        queue(host, paused, 20_000, tenant_id="globex", status=status)
    analyze(host)

    claim_until_nothing_moves(host)
    plans = [accesses(host, *each) for each in captured_claim(host) if "webhook_queue" in each[0]]

    # What waits no longer, what is overdue of other engines, what is due, what is in flight; what was chosen.
    assert len(plans) >= 5
    indexes = {index for plan in plans for index in plan}
    assert indexes <= {"ix_webhook_queue_state_due_at", "ix_webhook_queue_turn", "primary key"}


def claim_until_nothing_moves(host: hosts.Host) -> None:
    """Claim nothing until all that is held is out of the way."""
    state = state_of(host.app)
    with host.app.app_context():
        while state.run_apart(lambda scope: claim(scope, most=0)).left is Left.MOVED:
            pass


def analyze(host: hosts.Host) -> None:
    dialect = make_url(host.app.config["SQLALCHEMY_DATABASE_URI"]).get_backend_name()
    tables = "webhook_delivery, webhook_queue, webhook_endpoint, webhook_event"
    statement = {"sqlite": "ANALYZE", "postgresql": f"ANALYZE {tables}", "mysql": f"ANALYZE TABLE {tables}"}
    execute(host, sa.text(statement[dialect]))


def accesses(host: hosts.Host, statement: str, parameters: Any) -> list[str]:
    """Return by which index a statement reads the queue, place by place: `every row` where by none."""
    # Whatever an alias calls it.
    names = {"webhook_queue", *re.findall(r"webhook_queue AS (\w+)", statement)}
    with host.app.app_context():
        connection = host.db.session.connection()
        match connection.dialect.name:
            case "sqlite":
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                steps = [
                    re.fullmatch(r"(?:SEARCH|SCAN) (\w+)(?: USING (?:COVERING )?INDEX (\w+))?(.*)", row[3])
                    for row in rows
                ]
                # A scan of an index reads all of it.
                read = [(step[1], step[2] if step[0].startswith("SEARCH") else None) for step in steps if step]
            case "postgresql":
                plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
                nodes = [node for node in descendants(plan[0]["Plan"]) if "Scan" in node["Node Type"]]
                # Rows that a bitmap names are read by the index that made the bitmap.
                read = [
                    (
                        node.get("Relation Name"),
                        (node if "Index Name" in node else node.get("Plans", [{}])[0]).get("Index Name"),
                    )
                    for node in nodes
                ]
            case _:
                rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings().all()
                read = [(row["table"], None if row["type"] in ("ALL", "index") else row["key"]) for row in rows]
        host.db.session.rollback()
    indexes = [index for name, index in read if name in names]
    primary = ("PRIMARY", "webhook_queue_pkey", "sqlite_autoindex_webhook_queue_1")
    return ["primary key" if index in primary else index or "every row" for index in indexes]


def descendants(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(each for child in node.get("Plans", []) for each in descendants(child))]


@pytest.mark.only_on("postgresql")
def test_a_claim_touches_no_more_blocks_beside_what_is_delivered_or_held(host, inbox):
    for count in range(5):
        create_endpoint(host.client(), inbox.url(f"/{count}"))
    paused = create_endpoint(host.client("globex"), inbox.url("/paused"))
    change_endpoint(host.client("globex"), paused, status="PAUSED")
    publish(host, *range(3))

    few = blocks_of_claim(host)
    queue(host, paused, 20_000, tenant_id="globex")
    queue(host, paused, 20_000, tenant_id="globex", status=DELIVERED)
    claim_until_nothing_moves(host)

    def many() -> int:
        # What was moved stays for a while, as long as any transaction beside this test goes on.
        with engine_of(host).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE webhook_queue")
        return blocks_of_claim(host)

    wait_until(lambda: many() < 5 * few)
    print(f"a claim reads {few} blocks beside nothing, {many()} beside 20,000 held and 20,000 delivered")


def blocks_of_claim(host: hosts.Host) -> int:
    """Return how many blocks a claim touches; fail where it reads the whole table."""
    claim = [each for each in captured_claim(host) if "webhook_queue" in each[0]]
    blocks = 0
    with host.app.app_context():
        connection = host.db.session.connection()
        for statement, parameters in claim:
            plan = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
            ).scalar_one()[0]["Plan"]
            blocks += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        host.db.session.rollback()
    return blocks
