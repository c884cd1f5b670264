"""Recovery: what failed or expired is sent again, each delivery once."""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_webhook_endpoints.core import redelivery, transitions
from flask_webhook_endpoints.database.models import DeliveryStatus, WebhookDelivery, WebhookEvent, new_id
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import PATH, Endpoint, change_endpoint, create_endpoint
from tests.support.database import (
    ATTEMPT,
    DELIVERY,
    QUEUE,
    UNDELIVERED,
    count,
    engine_of,
    on_sqlite,
    rows,
    statements_of,
)
from tests.support.deliveries import finish, publish, statuses

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK, retry_schedule=[0])

LONG_AGO = "2020-01-01T00:00:00Z"
NO_ENDPOINT = "ep_00000000-0000-7000-8000-000000000000"


def recover(client: FlaskClient, endpoint: Endpoint, **fields: Any) -> TestResponse:
    return client.post(f"{endpoint.path}/recover", json={"since": LONG_AGO, **fields})


@pytest.fixture
def failed(host, webhook_clock) -> Callable[..., list[str]]:
    """Let an event of each type fail, or come to another status, a second apart; return their times."""

    def failed(*event_types: str, status: DeliveryStatus = DeliveryStatus.FAILED, tenant_id: str = "acme") -> list[str]:
        times = []
        for event_type in event_types:
            times.append(webhook_clock().isoformat())
            publish(host, event_type=event_type, tenant_id=tenant_id)
            finish(host, status, attempts=1)
            webhook_clock.move(seconds=1)
        return times

    return failed


def test_what_failed_or_expired_is_sent_again_once(host, acme, webhook_receiver, failed):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    failed("a", "b")
    failed("c", status=DeliveryStatus.EXPIRED)
    failed("d", status=DeliveryStatus.CANCELLED)
    failed("e", status=DeliveryStatus.DELIVERED)

    counted = recover(acme, endpoint, dry_run=True)
    assert (counted.status_code, counted.json) == (200, {"count": 3})
    assert statuses(host)[DeliveryStatus.FAILED] == 2
    answer = recover(acme, endpoint)

    assert (answer.status_code, answer.json) == (202, {"count": 3, "more": False})
    assert recover(acme, endpoint).json == {"count": 0, "more": False}
    assert recover(acme, endpoint, dry_run=True).json == {"count": 0}
    assert drain(host.app) == 3
    assert sorted(received.type for received in webhook_receiver.received) == ["a", "b", "c"]


def test_a_recovered_delivery_has_its_whole_schedule_and_can_fail_again(host, acme, webhook_receiver):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(500)
    publish(host)
    for number in (1, 2, 3):
        assert drain(host.app) == 1
        (shown,) = acme.get(f"{PATH}/deliveries?status=FAILED").json
        assert shown["attempts"] == number
        assert recover(acme, endpoint).json["count"] == 1

    shown = acme.get(f"{endpoint.path}/deliveries/{shown['id']}").json
    assert [attempt["number"] for attempt in shown["attempt_log"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "abcd"),
        ({"statuses": ["EXPIRED"]}, "d"),
        ({"statuses": ["FAILED", "EXPIRED"]}, "abcd"),
        ({"statuses": None, "event_types": None, "until": None, "dry_run": None}, "abcd"),
        ({"event_types": ["a", "c.*", "d"]}, "ad"),
        ({"since": 1}, "bcd"),
        ({"until": 2}, "ab"),
        ({"since": 2, "until": 1}, ""),
        ({"since": 1, "until": 3, "event_types": ["c"]}, "c"),
    ],
    ids=str,
)
def test_fields_choose_what_is_recovered(host, acme, failed, fields, expected):
    endpoint = create_endpoint(acme)
    times = failed(*"abc") + failed("d", status=DeliveryStatus.EXPIRED)
    fields = {name: times[value] if isinstance(value, int) else value for name, value in fields.items()}

    assert recover(acme, endpoint, **{**fields, "dry_run": True}).json == {"count": len(expected)}
    assert recover(acme, endpoint, **fields).json == {"count": len(expected), "more": False}

    due = acme.get(f"{endpoint.path}/deliveries?status=PENDING").json
    assert sorted(delivery["event_type"] for delivery in due) == list(expected)
    assert count(host, QUEUE) == len(expected)


def test_other_endpoints_and_tenants_are_left_alone(host, acme, globex, failed):
    endpoint, _ = create_endpoint(acme), create_endpoint(acme)
    foreign = create_endpoint(globex)
    failed("a")
    failed("a", tenant_id="globex")

    assert recover(acme, endpoint).json["count"] == 1
    assert statuses(host) == {DeliveryStatus.FAILED: 2, DeliveryStatus.PENDING: 1}
    for dry_run in (False, True):
        answers = [
            acme.post(f"{PATH}/{ep_id}/recover", json={"since": LONG_AGO, "dry_run": dry_run})
            for ep_id in (foreign.id, NO_ENDPOINT)
        ]
        assert {(answer.status_code, answer.data) for answer in answers} == {(404, answers[0].data)}
        assert answers[0].headers.to_wsgi_list() == answers[1].headers.to_wsgi_list()
    assert recover(globex, foreign).json["count"] == 1


def test_a_paused_endpoint_is_409_and_nothing_changes(host, acme, failed):
    endpoint = create_endpoint(acme)
    failed("a")
    change_endpoint(acme, endpoint, status="PAUSED")

    answers = [recover(acme, endpoint), recover(acme, endpoint, dry_run=True)]

    assert [(answer.status_code, answer.json["code"]) for answer in answers] == [(409, "endpoint_paused")] * 2
    assert statuses(host) == {DeliveryStatus.FAILED: 1}


@on_sqlite
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "since"),
        ({"since": None}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"since": 1}, "since"),
        ({"since": "2026-01-01T00:00:00"}, "since"),
        ({"since": LONG_AGO, "until": ["2029-01-01T00:00:00Z"]}, "until"),
        ({"since": LONG_AGO, "statuses": []}, "statuses"),
        ({"since": LONG_AGO, "statuses": "FAILED"}, "statuses"),
        ({"since": LONG_AGO, "statuses": ["DELIVERED"]}, "statuses"),
        ({"since": LONG_AGO, "statuses": ["FAILED", "PENDING"]}, "statuses"),
        ({"since": LONG_AGO, "statuses": [{}]}, "statuses"),
        ({"since": LONG_AGO, "event_types": []}, "event_types"),
        ({"since": LONG_AGO, "event_types": ["*"]}, "event_types"),
        ({"since": LONG_AGO, "event_types": ["\ud800"]}, "event_types"),
        ({"since": LONG_AGO, "event_types": ["a" * 129]}, "event_types"),
        ({"since": LONG_AGO, "event_types": ["a"] * 101}, "event_types"),
        ({"since": LONG_AGO, "dry_run": "true"}, "dry_run"),
        ({"since": LONG_AGO, "dry_run": 1}, "dry_run"),
        ({"since": LONG_AGO, "colour": "blue"}, "colour"),
        ([], "_schema"),
        (None, "_schema"),
    ],
    ids=str,
)
def test_a_body_that_breaks_a_rule_is_422_and_says_which(host, acme, failed, body, field):
    endpoint = create_endpoint(acme)
    failed("a")

    answer = acme.post(f"{endpoint.path}/recover", data=json.dumps(body), content_type="application/json")

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == [field]
    assert statuses(host) == {DeliveryStatus.FAILED: 1}


def test_a_recovery_needs_a_body(acme):
    endpoint = create_endpoint(acme)

    assert acme.post(f"{endpoint.path}/recover").status_code == 415
    assert acme.post(f"{endpoint.path}/recover", data="{", content_type="application/json").status_code == 400


@pytest.mark.host(retry_schedule=[0], max_redeliveries_per_minute=2)
def test_a_recovery_counts_as_a_redelivery_of_the_minute_and_a_dry_run_does_not(host, acme, failed):
    endpoint = create_endpoint(acme)
    failed("a")
    for _ in range(3):
        assert recover(acme, endpoint, dry_run=True).status_code == 200

    answers = [recover(acme, endpoint) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert answers[2].json["code"] == "too_many_redeliveries"
    assert "Retry-After" in answers[2].headers


NUMBER = 100_000 if "WEBHOOK_TESTS_FULL" in os.environ else 100


def fill(host: hosts.Host, endpoint: Endpoint, number: int) -> None:
    """Give an endpoint so many deliveries that have failed."""
    now = datetime.now(UTC) - timedelta(days=1)
    with host.app.app_context():
        session, event_id = host.db.session, new_id()
        event = {"id": event_id, "tenant_id": "acme", "type": "a", "body": b"{}", "created_at": now}
        session.execute(sa.insert(WebhookEvent), event)
        delivery = {"tenant_id": "acme", "event_id": event_id, "endpoint_id": endpoint.uuid, "attempts": 1}
        delivery |= {"status": DeliveryStatus.FAILED, "created_at": now, "finished_at": now}
        for start in range(0, number, 10_000):
            made = [{**delivery, "id": new_id()} for _ in range(min(10_000, number - start))]
            session.execute(sa.insert(WebhookDelivery), made)
        noted = sa.select(DELIVERY.c.id, DELIVERY.c.tenant_id, DELIVERY.c.endpoint_id, DELIVERY.c.status)
        session.execute(sa.insert(UNDELIVERED).from_select([column.name for column in UNDELIVERED.c], noted))
        session.commit()


@pytest.fixture
def tenth(monkeypatch) -> int:
    """Let a request recover a tenth of all, and a statement a tenth of that."""
    monkeypatch.setattr(redelivery, "MAX_RECOVERED", NUMBER // 10)
    monkeypatch.setattr(redelivery, "_AT_ONCE", NUMBER // 100)
    return NUMBER // 10


@pytest.mark.full_size
@pytest.mark.several_connections
@pytest.mark.host(retry_schedule=[0], max_redeliveries_per_minute=None)
def test_each_delivery_is_due_once_however_requests_break_off_and_are_repeated(host, acme, tenth, monkeypatch):
    endpoint = create_endpoint(acme)
    fill(host, endpoint, NUMBER)
    forget = transitions.forget_undelivered
    left = iter([3, 0, 7])

    def breaking(scope: Any, ids: Any) -> None:
        nonlocal steps
        if steps == 0:
            raise ConnectionError("The server dies.")
        steps -= 1
        forget(scope, ids)

    monkeypatch.setattr(transitions, "forget_undelivered", breaking)
    counts, seconds = [], []
    for _ in range(10):
        # Three of the requests break off at some step, and are repeated.
        if (steps := next(left, -1)) >= 0:
            with pytest.raises(ConnectionError):
                recover(acme, endpoint)
        steps = -1
        began = time.monotonic()
        answer = recover(acme, endpoint)
        seconds.append(time.monotonic() - began)
        counts.append((answer.json["count"], answer.json["more"]))

    assert counts == [(tenth, True)] * 9 + [(tenth, False)]
    assert recover(acme, endpoint).json == {"count": 0, "more": False}
    assert statuses(host) == {DeliveryStatus.PENDING: NUMBER}
    assert count(host, QUEUE) == NUMBER
    assert count(host, UNDELIVERED) == 0
    print(f"\nrecover of {tenth:,}: {sorted(seconds)[5]:.2f} s, at most {max(seconds):.2f} s")


@pytest.mark.several_connections
@pytest.mark.host(retry_schedule=[0], max_redeliveries_per_minute=None)
def test_of_requests_at_once_each_delivery_is_recovered_by_one(host, acme, tenth):
    endpoint = create_endpoint(acme)
    fill(host, endpoint, 100)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: recover(host.client(), endpoint), range(12)))

    assert {answer.status_code for answer in answers} == {202}
    while recover(acme, endpoint).json["count"]:
        pass
    assert count(host, QUEUE) == 100
    assert statuses(host) == {DeliveryStatus.PENDING: 100}


def test_a_recovery_takes_a_constant_number_of_statements_for_a_thousand(host, acme, monkeypatch):
    endpoint = create_endpoint(acme)
    fill(host, endpoint, 50)
    costs = []
    for most in (1, 2, 40):
        monkeypatch.setattr(redelivery, "MAX_RECOVERED", most)
        with statements_of(host) as statements:
            assert recover(acme, endpoint).json["count"] == most
        costs.append(len(statements))

    # The count of the minute, which the first one inserts; the endpoint; the ids; the log, which MariaDB reads before;
    # the queue, the undelivered.
    asks = int(engine_of(host).dialect.name == "mysql")
    assert costs == [7 + asks, 6 + asks, 6 + asks]
    with statements_of(host) as statements:
        recover(acme, endpoint, dry_run=True)
    assert len(statements) == 2
    assert rows(host, sa.select(ATTEMPT)) == []
