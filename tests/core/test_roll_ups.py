"""Results are counted with their record, each once: an endpoint's by the hour, a worker's by the minute."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from flask_webhook_endpoints.core import attempts, recent_counts, roll_ups, statistics
from flask_webhook_endpoints.core.results import Claimed
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.state import state_of
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.commands import run_json
from tests.support.database import DELIVERY, HOUR, MINUTE, RECENT_COUNT, count, execute, rows
from tests.support.deliveries import claim, publish
from tests.support.inbox import Answer
from tests.support.roll_ups import by_error, counted, hours
from tests.support.servers import free_port
from tests.support.settlements import settle
from tests.support.waiting import at_once

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 60])


def test_each_result_counts_for_its_endpoint_and_its_hour(host, acme, inbox, webhook_clock, drain_webhooks):
    good, bad = (create_endpoint(acme, inbox.url(path)) for path in ("/good", "/bad"))

    async def answer(arrived):
        return Answer(500 if arrived.path == "/bad" else 204)

    inbox.answer = answer
    publish(host, *range(3))
    assert drain_webhooks() == 6
    webhook_clock.move(hours=1)
    assert drain_webhooks() == 3

    assert counted(host, good) == {"attempts": 3, "failed_attempts": 0, "delivered": 3, "failed": 0}
    assert counted(host, bad) == {"attempts": 6, "failed_attempts": 6, "delivered": 0, "failed": 3}
    beginnings = {hour.hour for hour in hours(host) if hour.endpoint_id == bad.uuid}
    assert len(beginnings) == 2
    assert all((each.minute, each.second, each.microsecond) == (0, 0, 0) for each in beginnings)
    assert by_error(host) == {"": 3, "500": 6}


def test_an_attempt_without_an_answer_counts_by_its_error_and_not_as_an_answer(host, acme, drain_webhooks):
    create_endpoint(acme, f"http://127.0.0.1:{free_port()}")
    publish(host)
    drain_webhooks()

    assert [hour.latency for hour in hours(host)] == [0]
    assert set(by_error(host)) == {"connect"}


def test_a_record_that_is_repeated_or_has_lost_its_lease_counts_once(host, acme, inbox, drain_webhooks, monkeypatch):
    create_endpoint(acme, inbox.url())
    publish(host, *range(3))
    record = attempts.record

    def record_twice(scope: Scope, *args: Any, **options: Any) -> Any:
        record(scope, *args, **options)
        scope.session.commit()
        record(scope, new_id(), options["settlements"])
        return record(scope, *args, **options)

    monkeypatch.setattr(attempts, "record", record_twice)
    assert drain_webhooks() == 3

    assert counted(host) == {"attempts": 3, "failed_attempts": 0, "delivered": 3, "failed": 0}
    assert by_error(host) == {"": 3}


def test_what_is_rolled_back_counts_nothing(host, acme):
    create_endpoint(acme)
    publish(host)
    with host.app.app_context():
        state, owner = state_of(host.app), new_id()
        [delivery] = claim(state.scope(), owner).deliveries
        host.db.session.commit()
        attempts.record(state.scope(), owner, [settle(delivery)])
        host.db.session.rollback()

    assert (counted(host)["attempts"], by_error(host)) == (0, {})


@pytest.mark.several_connections
def test_workers_that_record_at_once_lose_no_result(host):
    tenants = ["acme", "Acme", "globex"]
    for tenant in tenants:
        for _ in range(3):
            create_endpoint(host.client(tenant))
    for tenant in tenants:
        publish(host, *range(20), tenant_id=tenant)
    state = state_of(host.app)
    owners = [new_id() for _ in range(4)]
    claimed = {
        owner: claim_some(host, owner, most=45, backwards=number % 2 == 1) for number, owner in enumerate(owners)
    }

    def record(owner: UUID) -> None:
        with host.app.app_context():
            for begin in range(0, 45, 5):
                settlements = [settle(each) for each in claimed[owner][begin : begin + 5]]
                state.run_apart(partial(attempts.record, owner=owner, settlements=settlements))
                kept_apart = timedelta(seconds=begin % 2)
                state.run_apart(partial(recent_counts.add_up, owner=owner, kept_apart=kept_apart))

    at_once([partial(record, owner) for owner in owners])

    assert counted(host) == {"attempts": 180, "failed_attempts": 0, "delivered": 180, "failed": 0}
    assert by_error(host) == {"": 180}


def claim_some(host: hosts.Host, owner: UUID, *, most: int, backwards: bool) -> list[Claimed]:
    with host.app.app_context():
        claimed = claim(
            state_of(host.app).scope(), owner, most=most, settings=Settings(max_in_flight_per_endpoint=100)
        ).deliveries
        host.db.session.commit()
    assert len(claimed) == most
    return list(reversed(claimed)) if backwards else list(claimed)


def fill(host: hosts.Host, *hours: datetime, tenant_id: str = "acme") -> None:
    numbers = {"attempts": 1, "failed_attempts": 0, "delivered": 1, "failed": 0, "latency": 3}
    keys = {"tenant_id": tenant_id, "endpoint_id": new_id()}
    execute(host, sa.insert(HOUR), [{**keys, **numbers, "hour": hour, "last_at": hour} for hour in hours])


@pytest.mark.parametrize(("retention_days", "kept"), [(7, 30), (90, 90)], ids=["thirty", "retention"])
def test_hours_go_after_retention_but_not_within_thirty_days(host, retention_days, kept):
    hour = roll_ups.beginning_of_hour(datetime.now(UTC))
    fill(host, *(hour - timedelta(days=kept + more) for more in (0, 2, 3)))
    state = state_of(host.app)

    with host.app.app_context():
        pruned = state.run_apart(lambda scope: roll_ups.prune(scope, retention_days=retention_days))

    assert (pruned[0], count(host, HOUR)) == (2, 1)


def test_minutes_go_after_two_hours_and_the_command_says_how_many_rows_went(host):
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    gone = [
        {"minute": minute - timedelta(hours=age), "worker_id": new_id(), "error": "", "attempts": 1} for age in (1, 3)
    ]
    execute(host, sa.insert(MINUTE), gone)
    fill(host, datetime(2020, 1, 1, tzinfo=UTC))

    assert run_json(host, "prune")["statistics_deleted"] == 2
    assert (count(host, HOUR), count(host, MINUTE)) == (0, 1)


@pytest.mark.parametrize("way", ["command", "call"])
def test_a_forgotten_tenant_has_no_hours_and_others_keep_theirs(host, acme, way):
    hour = roll_ups.beginning_of_hour(datetime.now(UTC))
    for tenant in ("acme", "globex"):
        fill(host, hour, tenant_id=tenant)

    if way == "command":
        run_json(host, "forget-tenant", "acme", "--yes")
    else:
        with host.app.app_context():
            host.webhooks.forget_tenant("acme")
            host.db.session.commit()

    assert [tenant for (tenant,) in rows(host, sa.select(HOUR.c.tenant_id))] == ["globex"]


def test_operators_read_attempts_and_failures_of_some_minutes_by_error(host):
    now = datetime.now(UTC).replace(second=30)
    minute = now.replace(second=0, microsecond=0)
    ages = [(0, "", 5), (0, "500", 2), (5, "timeout", 1), (6, "timeout", 4), (60, "", 8), (61, "dns", 16)]
    written = [
        {"minute": minute - timedelta(minutes=age), "worker_id": new_id(), "error": error, "attempts": number}
        for age, error, number in ages
    ]
    execute(host, sa.insert(MINUTE), written)
    with host.app.app_context(), hosts.moved(host.app) as clock:
        clock.move(seconds=(now - clock()).total_seconds())
        five, sixty = statistics.attempts_lately(state_of(host.app).scope(), 5, 60)

    assert five == (8, 3, {"500": 2, "timeout": 1})
    assert sixty == (20, 7, {"500": 2, "timeout": 5})


@given(st.integers(min_value=0, max_value=150_000))
def test_a_latency_that_is_read_back_is_nineteen_percent_off_at_most(duration_ms):
    read = roll_ups.percentile({roll_ups.range_of(duration_ms): 1}, 0.5)

    assert read is not None
    assert abs(read - duration_ms) <= max(1, 0.19 * duration_ms + 0.5)


def test_a_percentile_is_what_so_many_answers_did_not_exceed():
    answers = Counter(roll_ups.range_of(each) for each in [*[10] * 90, *[1000] * 10])

    assert roll_ups.percentile(answers, 0.5) == pytest.approx(10, rel=0.19)
    assert roll_ups.percentile(answers, 0.95) == pytest.approx(1000, rel=0.19)
    assert roll_ups.percentile({}, 0.5) is None


def test_no_row_of_a_roll_up_is_written_where_nothing_was_recorded(host):
    with host.app.app_context():
        assert attempts.record(state_of(host.app).scope(), new_id(), []).settlements == []

    assert [count(host, table) for table in (HOUR, MINUTE, RECENT_COUNT)] == [0, 0, 0]
    assert count(host, DELIVERY) == 0
