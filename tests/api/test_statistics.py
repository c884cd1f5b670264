"""What `GET /v1/endpoints/{ep_id}/stats` counts, for whom, and at which cost."""

import re
import sys
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import endpoint_statistics, roll_ups
from flask_webhook_endpoints.core.endpoint_statistics import MOST_COUNTED
from flask_webhook_endpoints.database.models import QueueState, new_id
from tests.support import hosts
from tests.support.api import Endpoint, change_endpoint, create_endpoint
from tests.support.database import DELIVERY, HOUR, QUEUE, WHOLE, execute, on_sqlite, plan, statements_of
from tests.support.deliveries import publish

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600])


@pytest.fixture
def endpoint(acme, webhook_receiver):
    return create_endpoint(acme, webhook_receiver.url)


def uuid_of(endpoint: Endpoint) -> UUID:
    return UUID(endpoint.id[3:])


def fill(host: hosts.Host, endpoint: Endpoint, *hours: datetime, latency_ms: int = 100, **numbers: int) -> None:
    """Let results have been recorded within each of these hours."""
    counts = {"attempts": 1, "failed_attempts": 0, "delivered": 1, "failed": 0, **numbers}
    keys = {"tenant_id": "acme", "endpoint_id": uuid_of(endpoint), "latency": roll_ups.range_of(latency_ms)}
    execute(host, sa.insert(HOUR), [{**keys, **counts, "hour": hour, "last_at": hour} for hour in hours])


def test_an_endpoint_without_results_has_zeros_and_every_hour(acme, endpoint, webhook_clock):
    shown = acme.get(f"{endpoint.path}/stats").json

    assert list(shown) == [
        "delivered",
        "failed",
        "attempts",
        "success_ratio",
        "latency_ms",
        "pending",
        "held",
        "oldest_pending_at",
        "series",
    ]
    numbers = {name: shown[name] for name in ("delivered", "failed", "attempts", "pending", "held")}
    assert numbers == dict.fromkeys(numbers, 0)
    assert (shown["success_ratio"], shown["oldest_pending_at"]) == (None, None)
    assert shown["latency_ms"] == {"p50": None, "p95": None}
    last = webhook_clock().replace(minute=0, second=0, microsecond=0)
    starts = [last - timedelta(hours=hours) for hours in reversed(range(24))]
    assert [datetime.fromisoformat(step["starts_at"]) for step in shown["series"]] == starts
    assert {(step["delivered"], step["failed"]) for step in shown["series"]} == {(0, 0)}


def test_it_counts_right_to_the_last_recorded_attempt(host, endpoint, webhook_receiver, webhook_clock, drain_webhooks):
    acme = host.client()
    webhook_receiver.answer(500, 500, 200, 500)
    publish(host, *range(3))
    drain_webhooks()
    webhook_receiver.answer(500)
    publish(host, "waits")
    drain_webhooks()
    shown = acme.get(f"{endpoint.path}/stats").json
    assert (shown["attempts"], shown["delivered"], shown["failed"], shown["pending"]) == (4, 1, 0, 3)
    assert shown["oldest_pending_at"] is not None
    assert shown["latency_ms"]["p50"] is not None
    webhook_clock.move(hours=2)
    drain_webhooks()

    shown = acme.get(f"{endpoint.path}/stats").json
    assert (shown["attempts"], shown["delivered"], shown["failed"], shown["pending"]) == (7, 1, 3, 0)
    assert (shown["success_ratio"], shown["oldest_pending_at"]) == (0.25, None)
    assert [(step["delivered"], step["failed"]) for step in shown["series"]][-3:] == [(1, 0), (0, 0), (0, 3)]


def test_what_waits_is_held_while_the_endpoint_is_paused(host, acme, endpoint):
    publish(host, *range(3))
    before = acme.get(f"{endpoint.path}/stats").json
    change_endpoint(acme, endpoint, status="PAUSED")

    shown = acme.get(f"{endpoint.path}/stats").json

    assert (before["pending"], before["held"], shown["pending"], shown["held"]) == (3, 0, 0, 3)
    first = acme.get(f"{endpoint.path}/deliveries").json[-1]
    assert shown["oldest_pending_at"] == before["oldest_pending_at"] == first["created_at"]


@pytest.mark.parametrize("asked", [("24h", 24, 1), ("7d", 7, 24), ("30d", 30, 24)], ids=["hours", "week", "month"])
def test_a_window_has_its_steps_and_nothing_before_them(host, acme, endpoint, webhook_clock, asked):
    window, steps, hours = asked
    last = webhook_clock().replace(minute=0, second=0, microsecond=0)
    if hours == 24:
        last = last.replace(hour=0)
    first = last - timedelta(hours=hours * (steps - 1))
    fill(host, endpoint, first - timedelta(hours=1), first, last, delivered=2, attempts=3)

    shown = acme.get(f"{endpoint.path}/stats?window={window}").json

    assert (shown["delivered"], shown["attempts"], len(shown["series"])) == (4, 6, steps)
    assert [step["delivered"] for step in shown["series"]] == [2, *[0] * (steps - 2), 2]
    assert shown["series"][0]["starts_at"] == first.strftime("%Y-%m-%dT%H:00:00.000000Z")


def test_percentiles_are_of_complete_answers_and_nineteen_percent_off_at_most(host, acme, endpoint, webhook_clock):
    hour = roll_ups.beginning_of_hour(webhook_clock())
    fill(host, endpoint, hour, latency_ms=40, attempts=90)
    fill(host, endpoint, hour, latency_ms=2000, attempts=10)
    unanswered = {"tenant_id": "acme", "endpoint_id": uuid_of(endpoint), "hour": hour, "latency": 0, "last_at": hour}
    execute(host, sa.insert(HOUR).values(**unanswered, attempts=500, failed_attempts=500, delivered=0, failed=0))

    latency = acme.get(f"{endpoint.path}/stats").json["latency_ms"]

    assert latency == {"p50": pytest.approx(40, rel=0.19), "p95": pytest.approx(2000, rel=0.19)}


@on_sqlite
@pytest.mark.parametrize("window", ["", "1h", "24H", "24", "30d ", "٢٤h", "\x00", "7d,30d"])
def test_another_window_is_refused_by_name(acme, endpoint, window):
    answer = acme.get(f"{endpoint.path}/stats", query_string={"window": window})

    assert (answer.status_code, list(answer.json["errors"])) == (422, ["window"])


def test_foreign_and_unknown_endpoints_are_answered_alike_and_results_stay_apart(host, acme, globex, endpoint):
    fill(host, endpoint, roll_ups.beginning_of_hour(datetime.now(UTC)))
    own = create_endpoint(globex)

    foreign, unknown = (globex.get(f"/v1/endpoints/{each}/stats") for each in (endpoint.id, f"ep_{new_id()}"))

    assert (foreign.status_code, foreign.data) == (404, unknown.data)
    assert globex.get(f"{own.path}/stats").json["delivered"] == 0
    assert acme.get(f"{endpoint.path}/stats").json["delivered"] == 1


def test_it_costs_the_same_however_much_is_finished_or_held(host, acme, endpoint, webhook_clock):
    few, few_seconds = timed(host, acme, endpoint)
    hour = roll_ups.beginning_of_hour(webhook_clock())
    fill(host, endpoint, *(hour - timedelta(hours=hours) for hours in range(700)))
    other = create_endpoint(acme)
    for _ in range(20):
        others = Endpoint({**other, "id": f"ep_{new_id()}"})
        fill(host, others, *(hour - timedelta(hours=hours) for hours in range(500)))
    wait(host, endpoint, MOST_COUNTED + 2000)
    wait(host, other, 5000)
    change_endpoint(acme, endpoint, status="PAUSED")
    analyze(host)

    many, many_seconds = timed(host, acme, endpoint)

    shown = acme.get(f"{endpoint.path}/stats").json
    assert (shown["held"], shown["pending"]) == (MOST_COUNTED, 0)
    assert len(few) == len(many) == 4
    backend = hosts_backend(host)
    for statement, parameters in many:
        steps = [step for step in plan(host, statement, parameters).splitlines() if "webhook_" in step]
        assert steps
        assert not [step for step in steps if re.search(WHOLE[backend], step)], steps
    # Shown by `pytest -s`.
    sys.stderr.write(f"stats: {1000 * few_seconds:.1f} ms of nothing, {1000 * many_seconds:.1f} ms of 12,000 held\n")


def timed(host: hosts.Host, client, endpoint: Endpoint):
    with statements_of(host) as sent:
        begun = time.process_time()
        assert client.get(f"{endpoint.path}/stats?window=30d").status_code == 200
        seconds = time.process_time() - begun
    return [each for each in sent if "webhook_" in each[0]], seconds


def wait(host: hosts.Host, endpoint: Endpoint, number: int) -> None:
    """Let so many deliveries be held for the endpoint, and as many be finished."""
    now = datetime.now(UTC)
    common = {"tenant_id": "acme", "endpoint_id": uuid_of(endpoint), "attempts": 0}
    ids = [new_id() for _ in range(2 * number)]
    delivery = {**common, "event_id": new_id(), "created_at": now}
    pending = [{**delivery, "id": each, "status": "PENDING", "finished_at": None} for each in ids[:number]]
    finished = [{**delivery, "id": each, "status": "DELIVERED", "finished_at": now} for each in ids[number:]]
    execute(host, sa.insert(DELIVERY), [*pending, *finished])
    held = {**common, "state": QueueState.HELD, "due_at": now, "attempts_before": 0}
    execute(host, sa.insert(QUEUE), [{**held, "delivery_id": each} for each in ids[:number]])


def hosts_backend(host: hosts.Host) -> str:
    with host.app.app_context():
        return host.db.engine.dialect.name.replace("mariadb", "mysql")


def analyze(host: hosts.Host) -> None:
    tables = "webhook_delivery, webhook_queue, webhook_endpoint_hour"
    statement = {"sqlite": "ANALYZE", "postgresql": f"ANALYZE {tables}", "mysql": f"ANALYZE TABLE {tables}"}
    execute(host, sa.text(statement[hosts_backend(host)]))


def test_the_steps_of_a_window_begin_with_whole_hours_and_days_in_utc():
    now = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)

    beginnings = [list(endpoint_statistics._beginnings(now, window)) for window in endpoint_statistics.Window]

    assert [each[0] for each in beginnings] == [
        datetime(2026, 2, 28, 1, tzinfo=UTC),
        datetime(2026, 2, 23, tzinfo=UTC),
        datetime(2026, 1, 31, tzinfo=UTC),
    ]
