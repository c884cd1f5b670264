"""An endpoint fails since the first attempt that failed; the host is told once, and the endpoint is paused at last."""

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints import celery as tasks
from flask_webhook_endpoints import signals
from flask_webhook_endpoints.core import attempts, incidents
from flask_webhook_endpoints.core.incidents import DEFAULT_RULE, News
from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.identifiers import format_time
from flask_webhook_endpoints.security.private import PrivateURL
from flask_webhook_endpoints.state import state_of
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import INCIDENT, count, rows, statements_of
from tests.support.deliveries import claim, publish
from tests.support.inbox import Answer
from tests.support.waiting import at_once

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 60, 60, 60, 60, 60])

HEARD = ("endpoint_failing", "endpoint_recovered", "endpoint_pause_pending", "endpoint_paused")


@pytest.fixture
def heard(host):
    """The signals of endpoints' health, as they are sent: name and arguments."""
    said: list[tuple[str, dict[str, Any]]] = []

    def note(name, sender, **arguments):
        said.append((name, arguments))

    with ExitStack() as stack:
        for name in HEARD:
            # Connected weakly otherwise.
            stack.enter_context(getattr(signals, name).connected_to(partial(note, name), host.app))
        yield said


@pytest.fixture
def endpoint(acme, webhook_receiver):
    return create_endpoint(acme, webhook_receiver.url)


@pytest.fixture
def fail(host, webhook_receiver, webhook_clock, drain_webhooks):
    """Publish an event, and let so many attempts of it fail, a minute and a half apart."""

    def fail(number=1):
        webhook_receiver.answer(500)
        publish(host)
        for _ in range(number):
            drain_webhooks()
            webhook_clock.move(seconds=90)

    return fail


@pytest.fixture
def succeed(host, webhook_receiver, drain_webhooks):
    def succeed(number=1):
        webhook_receiver.answer(200)
        publish(host, *range(number))
        drain_webhooks()

    return succeed


def incident(host: hosts.Host) -> Any:
    [row] = rows(host, sa.select(INCIDENT))
    return row


@pytest.mark.usefixtures("endpoint")
def test_an_endpoint_fails_since_its_first_failed_attempt_until_one_succeeds(
    host, webhook_receiver, webhook_clock, fail, succeed
):
    begun = webhook_clock()
    fail(3)

    row = incident(host)
    assert begun <= row.failing_since == row.began_at < begun + timedelta(seconds=80)
    assert (row.last_error, row.balance, row.exhausted_in_a_row) == ("500", 3, 0)
    webhook_clock.move(minutes=11)
    succeed()

    assert count(host, INCIDENT) == 0


@pytest.mark.usefixtures("endpoint")
def test_a_success_amid_failures_ends_the_failing_and_not_the_incident(host, webhook_clock, fail, succeed):
    fail(3)
    succeed()

    # The success, and the retry of what failed.
    assert (incident(host).failing_since, incident(host).balance) == (None, 1)
    webhook_clock.move(seconds=90)
    again = webhook_clock()
    fail(1)

    assert incident(host).began_at < again <= incident(host).failing_since


def test_the_host_is_told_once_that_an_endpoint_fails_and_once_that_it_has_recovered(
    endpoint, heard, fail, succeed, webhook_clock
):
    fail(6)
    fail(6)
    assert [name for name, _ in heard] == ["endpoint_failing"]
    webhook_clock.move(minutes=11)
    succeed(3)
    assert [name for name, _ in heard] == ["endpoint_failing", "endpoint_recovered"]

    (_, failing), (_, recovered) = heard
    assert (failing["tenant_id"], failing["endpoint_id"], failing["error"]) == ("acme", endpoint.id, "500")
    assert failing["failing_since"] == recovered["failing_since"]
    assert failing["endpoint"].url == endpoint["url"]
    fail(6)
    assert [name for name, _ in heard][2:] == ["endpoint_failing"]


@pytest.mark.usefixtures("endpoint")
def test_a_receiver_that_restarts_or_refuses_now_and_then_is_none_to_tell_of(
    host, heard, webhook_receiver, webhook_clock, drain_webhooks
):
    webhook_receiver.answer(500)
    publish(host, *range(20))
    drain_webhooks()
    webhook_receiver.answer(200)
    webhook_clock.move(seconds=100)
    drain_webhooks()
    assert count(host, INCIDENT) == 0
    for _ in range(5):
        webhook_receiver.answer(*[200] * 3, 500, *[200] * 3)
        publish(host, *range(7))
        drain_webhooks()
        webhook_clock.move(seconds=100)
        webhook_receiver.answer(200)
        drain_webhooks()

    assert heard == []


@pytest.mark.host(make=hosts.delivering, retry_schedule=[0], pause_after_failures=3, pause_after_days=2)
def test_the_settings_say_when_an_endpoint_is_paused_and_the_host_is_told_a_day_before(
    host, heard, endpoint, fail, webhook_clock
):
    fail(1)
    began = incident(host).began_at
    fail(1)
    webhook_clock.move(days=1)
    fail(1)
    webhook_clock.move(hours=12)
    fail(1)
    assert [name for name, _ in heard] == ["endpoint_failing", "endpoint_pause_pending"]
    assert heard[1][1]["pauses_at"] == began + timedelta(days=2)
    webhook_clock.move(hours=12)
    fail(1)

    assert [name for name, _ in heard][2:] == ["endpoint_paused"]
    assert heard[2][1]["reason"] == "failures"
    assert heard[2][1]["endpoint_id"] == endpoint.id


# Retries that come once a day may leave no attempt between the announcement's time and the pause.
@pytest.mark.host(make=hosts.delivering, retry_schedule=[0], pause_after_failures=3, pause_after_days=2)
@pytest.mark.several_connections
def test_a_pause_is_announced_by_the_hourly_task_once_if_no_attempt_comes(host, heard, endpoint, fail, webhook_clock):
    def hourly() -> None:
        with host.app.app_context():
            tasks.prune()

    for _ in range(3):
        fail()
    began = incident(host).failing_since
    webhook_clock.move(hours=22)
    hourly()
    assert [name for name, _ in heard] == ["endpoint_failing"]
    webhook_clock.move(hours=2)
    at_once([hourly, hourly])
    fail(1)

    assert [name for name, _ in heard] == ["endpoint_failing", "endpoint_pause_pending"]
    assert heard[1][1]["pauses_at"] == began + timedelta(days=2)
    assert heard[1][1]["endpoint_id"] == endpoint.id


@pytest.mark.host(make=hosts.delivering, retry_schedule=[0], pause_after_failures=3, pause_after_days=2)
def test_no_pause_is_announced_of_an_endpoint_that_its_tenant_has_paused(host, heard, endpoint, fail, webhook_clock):
    fail()
    change_endpoint(host.client(), endpoint, status="PAUSED")
    webhook_clock.move(days=2)
    with host.app.app_context():
        tasks.prune()

    assert [name for name, _ in heard] == ["endpoint_paused"]


def test_an_endpoint_that_is_resumed_begins_anew(host, acme, endpoint, fail, heard):
    assert acme.get(endpoint.path).json["failing_since"] is None
    fail(4)
    paused = change_endpoint(acme, endpoint, status="PAUSED")
    assert count(host, INCIDENT) == 1
    assert paused["failing_since"] == format_time(incident(host).failing_since)
    assert [each["failing_since"] for each in acme.get("/v1/endpoints").json] == [paused["failing_since"]]

    resumed = change_endpoint(acme, endpoint, status="ACTIVE")

    assert count(host, INCIDENT) == 0
    assert resumed == acme.get(endpoint.path).json
    assert resumed["failing_since"] is None
    assert [name for name, _ in heard] == ["endpoint_failing", "endpoint_paused"]


def test_an_endpoint_that_a_client_calls_active_though_it_is_goes_on_failing(host, acme, endpoint, fail):
    fail(1)

    changed = change_endpoint(acme, endpoint, status="ACTIVE", name="other")

    assert count(host, INCIDENT) == 1
    assert changed["failing_since"] == format_time(incident(host).failing_since)


def test_a_client_that_has_an_endpoint_from_before_an_incident_reads_it_again(acme, endpoint, fail):
    before = acme.get(endpoint.path).headers["ETag"]
    fail(1)

    failing = acme.get(endpoint.path, headers={"If-None-Match": before})

    tag = failing.headers["ETag"]
    assert (failing.status_code, failing.json["failing_since"] is None) == (200, False)
    assert acme.get(endpoint.path, headers={"If-None-Match": f'W/"other", {tag[:-1]}-gzip"'}).status_code == 304
    # A write is about what requests wrote, which the incident left alone.
    assert acme.patch(endpoint.path, json={"name": "n"}, headers={"If-Match": before}).status_code == 200
    assert acme.patch(endpoint.path, json={"name": "m"}, headers={"If-Match": tag}).status_code == 412


def test_a_deleted_endpoint_leaves_no_incident_and_foreign_requests_change_none(host, acme, globex, endpoint, fail):
    fail(1)
    for answer in (
        globex.patch(endpoint.path, json={"status": "ACTIVE"}),
        globex.delete(endpoint.path),
    ):
        assert answer.status_code == 404
    assert count(host, INCIDENT) == 1

    acme.delete(endpoint.path)

    assert count(host, INCIDENT) == 0


# Nothing looked for incidents of endpoints that are not found.
@pytest.mark.several_connections
@pytest.mark.host(make=hosts.delivering, retry_schedule=[0])
def test_an_incident_that_begins_once_its_endpoint_is_deleted_goes(host, acme, inbox, webhook_clock, drain_webhooks):
    endpoint = create_endpoint(acme, inbox.url())
    publish(host)

    async def answer(arrived):
        await asyncio.to_thread(host.client().delete, endpoint.path)
        return Answer(500)

    inbox.answer = answer
    assert drain_webhooks() == 1
    webhook_clock.move(days=1)
    drain_webhooks()

    assert count(host, INCIDENT) == 0


def test_a_record_of_successes_reads_and_writes_no_incident(host, acme, inbox, drain_webhooks):
    for number in range(3):
        create_endpoint(acme, inbox.url(f"/{number}"))
    publish(host, *range(5))
    with host.app.app_context(), statements_of(host) as sent:
        owner = new_id()
        claimed = claim(state_of(host.app).scope(), owner).deliveries
        host.db.session.commit()
        del sent[:]
        attempts.record(state_of(host.app).scope(), owner, [settle(each) for each in claimed])
        host.db.session.rollback()

    assert len(claimed) == 15
    assert not [statement for statement, _ in sent if "webhook_incident" in statement]


@pytest.mark.host(make=hosts.delivering, retry_schedule=[0])
@pytest.mark.several_connections
def test_workers_that_record_at_once_count_every_failure_of_an_incident(host, acme):
    for _ in range(3):
        create_endpoint(acme)
    publish(host, *range(9))
    state, owners = state_of(host.app), [new_id() for _ in range(3)]
    with host.app.app_context():
        claimed = {owner: state.run_apart(partial(claim, owner=owner, most=9)).deliveries for owner in owners}
    now = state.now()

    def record(owner: UUID) -> None:
        settlements = [settle(each, DeliveryStatus.FAILED, at=now) for each in claimed[owner]]
        with host.app.app_context():
            state.run_apart(partial(attempts.record, owner=owner, settlements=settlements))
            # Once more, as after a commit whose answer was lost.
            state.run_apart(partial(attempts.record, owner=owner, settlements=settlements))

    assert [len(each) for each in claimed.values()] == [9, 9, 9]
    at_once([partial(record, owner) for owner in owners])

    assert rows(host, sa.select(INCIDENT.c.exhausted_in_a_row, INCIDENT.c.balance)) == [(9, 9)] * 3


def test_what_is_rolled_back_begins_no_incident(host, acme):
    create_endpoint(acme)
    publish(host)
    with host.app.app_context():
        owner = new_id()
        [delivery] = claim(state_of(host.app).scope(), owner).deliveries
        host.db.session.commit()
        attempts.record(state_of(host.app).scope(), owner, [settle(delivery, DeliveryStatus.FAILED)])
        host.db.session.rollback()

    assert count(host, INCIDENT) == 0


NOW = datetime(2026, 6, 1, tzinfo=UTC)
DELIVERY = Claimed(
    id=UUID(int=1),
    endpoint_id=UUID(int=2),
    event_id=UUID(int=3),
    attempt=1,
    counted=1,
    tenant_id="acme",
    body=b"{}",
    traceparent=None,
    evt_id="evt_3",
    url=PrivateURL("https://example.com/"),
    headers_encrypted=None,
    timeout_seconds=10,
    failing=True,
    rests=0,
    ep_id="ep_2",
    secrets_encrypted=(),
)


def settle(
    delivery: Claimed, status: DeliveryStatus = DeliveryStatus.DELIVERED, *, at: datetime | None = None
) -> Settlement:
    """Return the result of an attempt that began at a time."""
    return Settlement(
        delivery=delivery,
        status=status,
        next_attempt_at=None,
        attempts_before=0,
        rests_seconds=None,
        gone=False,
        started_at=at or datetime.now(UTC),
        duration_ms=20,
        response_status=200 if status is DeliveryStatus.DELIVERED else 500,
        error=None,
        response_excerpt=None,
    )


@pytest.mark.parametrize(
    ("results", "news"),
    [
        ("", []),
        ("FF", []),
        ("FFF", [News.FAILING]),
        ("SSFFF", [News.FAILING]),
        ("FFFSSS", []),
        ("FFSFFSF", [News.FAILING]),
        ("FSFSFSFSFS", []),
    ],
)
def test_an_incident_is_announced_while_more_than_half_of_its_attempts_fail(results, news):
    began = NOW - timedelta(minutes=5)
    settlements = [
        settle(
            DELIVERY,
            DeliveryStatus.DELIVERED if each == "S" else DeliveryStatus.PENDING,
            at=began + timedelta(seconds=number),
        )
        for number, each in enumerate(results)
    ]

    judgement = incidents.judge(None, settlements, now=NOW, rule=DEFAULT_RULE)

    assert [notice.news for notice in judgement.notices] == news


@pytest.mark.parametrize(
    ("successes", "after", "is_over"),
    [(9, timedelta(seconds=1), False), (10, timedelta(seconds=1), True), (1, incidents.CALM, True)],
    ids=["few", "balance", "calm"],
)
def test_an_incident_is_over_with_ten_successes_or_one_after_calm(successes, after, is_over):
    began = NOW - timedelta(hours=1)
    failures = [settle(DELIVERY, DeliveryStatus.PENDING, at=began)] * 50
    incident = incidents.judge(None, failures, now=NOW, rule=DEFAULT_RULE).incident

    judgement = incidents.judge(incident, [settle(DELIVERY, at=began + after)] * successes, now=NOW, rule=DEFAULT_RULE)

    assert (judgement.incident is None) is is_over
    assert [notice.news for notice in judgement.notices] == ([News.RECOVERED] if is_over else [])
