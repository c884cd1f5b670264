"""The numbers of `status`, of its JSON and of gauges: each means one thing, and costs little."""

import os
import time
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flask_webhook_endpoints.core import heartbeats, numbers, statistics
from flask_webhook_endpoints.database.models import WebhookModel, new_id
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.commands import run_command, run_json
from tests.support.database import QUEUE, WORKER, execute
from tests.support.deliveries import claim, finish, publish, set_due
from tests.support.waiting import SLOWNESS

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600])

FULL = bool(os.environ.get("WEBHOOK_TESTS_FULL"))
CAP = 10


def test_what_a_worker_owes_is_told_from_what_waits_behind_the_cap_of_its_own_endpoint(host):
    create_endpoint(host.client("slow"))
    publish(host, *range(CAP + 5), tenant_id="slow")
    with host.app.app_context():
        current_state().run_apart(partial(claim, most=CAP))
    set_due(host, datetime.now(UTC) - timedelta(hours=1), QUEUE.c.lease_owner.is_(None))

    shown = run_json(host, "status")
    assert (shown["due"], shown["in_flight"]) == (5, CAP)
    assert (shown["owed"], shown["behind_caps"], shown["oldest_owed_seconds"]) == (0, 5, None)
    create_endpoint(host.client("free"))
    publish(host, 1, tenant_id="free")
    set_due(host, datetime.now(UTC) - timedelta(seconds=90), QUEUE.c.tenant_id == "free")
    shown = run_json(host, "status")

    assert (shown["owed"], shown["behind_caps"]) == (1, 5)
    assert 90 <= shown["oldest_owed_seconds"] < 150
    assert shown["oldest_due_seconds"] >= 3600


def test_attempts_and_failures_of_the_last_minutes_are_counted_by_error(host, webhook_receiver, webhook_clock):
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host)
    drain(host.app)
    webhook_receiver.answer(500)
    publish(host)
    drain(host.app)
    webhook_clock.move(minutes=20)

    shown = run_json(host, "status")

    assert (shown["attempts_5m"], shown["failures_5m"], shown["failures_5m_by_error"]) == (0, 0, {})
    assert (shown["attempts_60m"], shown["failures_60m"]) == (2, 1)
    assert shown["failures_60m_by_error"] == {"500": 1}


def test_endpoints_whose_last_attempt_failed_are_counted_with_their_share(host, webhook_receiver, webhook_clock):
    for tenant in ("acme", "globex", "initech"):
        create_endpoint(host.client(tenant), webhook_receiver.url)
    create_endpoint(host.client("umbrella"), webhook_receiver.url)  # without an attempt
    publish(host, tenant_id="acme")
    publish(host, tenant_id="globex")
    drain(host.app)
    webhook_receiver.answer(500)
    publish(host, tenant_id="initech")
    drain(host.app)

    shown = run_json(host, "status")
    assert (shown["endpoints_attempted"], shown["endpoints_failing"], shown["failing_share"]) == (3, 1, 0.333)
    webhook_clock.move(minutes=16)

    assert run_json(host, "status")["endpoints_attempted"] == 0


def test_what_is_past_retention_is_counted(host):
    create_endpoint(host.client())
    publish(host, 1, 2, 3)
    finish(host)
    assert run_json(host, "status")["past_retention"] == 0
    with hosts.moved(host.app) as clock:
        clock.move(days=30, hours=5)
        shown = run_json(host, "status")

    assert shown["past_retention"] == 3
    assert 5 * 3600 - 60 < shown["past_retention_seconds"] < 5 * 3600 + 60


def test_workers_tell_what_they_are_and_what_they_lacked(host):
    beating = heartbeats.Heartbeat(new_id(), "worker")
    beating.concurrency = 1000
    with host.app.app_context():
        state = current_state()
        beating.lacked("EMFILE", state.now())
        state.run_apart(beating.beat)

    shown = run_json(host, "status")

    (worker,) = shown["workers"]
    assert (worker["version"], worker["concurrency"], worker["short_of"]) == (heartbeats.VERSION, 1000, "EMFILE")
    assert worker["file_limit"] > 0
    assert (shown["workers_seen"], shown["celery_seen"], shown["workers_short"]) == (1, 0, 1)
    execute(host, sa.update(WORKER).values(seen_at=datetime.now(UTC) - timedelta(minutes=2)))
    shown = run_json(host, "status")
    assert (shown["workers_seen"], shown["workers_short"]) == (0, 0)


@pytest.mark.only_on("postgresql", "mariadb")
def test_a_workers_clock_that_is_off_is_a_number(host):
    with host.app.app_context(), hosts.moved(host.app) as clock:
        clock.move(seconds=-20)
        current_state().run_apart(heartbeats.Heartbeat(new_id(), "worker").beat)

    shown = run_json(host, "status")

    assert 19 < shown["clock_skew_seconds"] < 21
    assert -21_000 < shown["workers"][0]["clock_skew_ms"] < -19_000


def test_check_is_for_probes(host):
    refused = run_command(host, "status", "--check")
    assert (refused.exit_code, refused.stderr.startswith("Error: No worker on this machine")) == (1, True)
    with host.app.app_context():
        current_state().run_apart(heartbeats.Heartbeat(new_id(), "worker").beat)

    passed = run_command(host, "status", "--check")
    assert (passed.exit_code, passed.output) == (0, "")
    execute(host, sa.update(WORKER).values(hostname="another"))
    assert run_command(host, "status", "--check").exit_code == 1


def gauges(host, monkeypatch):
    """Return the numbers that OpenTelemetry collects, by name and error."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    host.webhooks.observe(host.app)
    data = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    provider.shutdown()
    return {
        (metric.name.removeprefix("webhooks."), point.attributes.get("error")): point.value
        for metric in data
        for point in metric.data.data_points
    }


@pytest.mark.several_connections
def test_gauges_are_the_numbers_of_status(host, webhook_receiver, monkeypatch):
    webhook_receiver.answer(503)
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host)
    drain(host.app)
    publish(host, 1, 2)

    shown, found = run_json(host, "status"), gauges(host, monkeypatch)

    assert found.pop(("database_up", None)) == 1
    assert {name for name, _ in found} == set(numbers.NUMBERS)
    # Clocks move between the two.
    for name in [name for name in numbers.NUMBERS if not name.endswith("_seconds")]:
        if isinstance(shown[name], dict):
            assert {error: value for (each, error), value in found.items() if each == name} == shown[name]
        else:
            assert found[name, None] == shown[name]


@pytest.mark.several_connections
def test_without_a_database_one_gauge_says_so(host, monkeypatch):
    with host.app.app_context():
        host.db.drop_all()

    assert gauges(host, monkeypatch) == {("database_up", None): 0}


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.several_connections
@pytest.mark.only_on("postgresql")
def test_no_number_takes_longer_than_a_tenth_of_a_second_among_a_million_finished_and_200_000_held(host):
    fill(host, *((1_000_000, 200_000) if FULL else (50_000, 10_000)))
    with host.app.app_context():
        state = current_state()
        cap, days, poll = (
            state.settings.max_in_flight_per_endpoint,
            state.settings.retention_days,
            state.settings.poll_seconds,
        )
        parts = {
            "backlog": lambda scope: numbers._backlog(scope, cap),
            "attempts": numbers._attempts,
            "failing": numbers._failing,
            "retention": lambda scope: numbers._retention(scope, days),
            "workers": lambda scope: numbers._workers(scope, poll),
            "endpoints": statistics.worst,
        }
        took = {
            name: min(state.run(lambda scope, part=part: timed(part, scope), commit=False) for _ in range(5))
            for name, part in parts.items()
        }
    print({name: f"{seconds * 1000:.1f} ms" for name, seconds in took.items()})

    assert all(seconds < 0.1 * SLOWNESS for seconds in took.values()), took


def timed(part, scope):
    began = time.perf_counter()
    part(scope)
    return time.perf_counter() - began


def fill(host, finished, held):
    """Fill the tables past the API: half of what is finished is past its retention."""
    with host.app.app_context():
        connection = host.db.session.connection()
        for statement in FILLING:
            connection.execute(sa.text(statement), {"finished": finished, "held": held})
        host.db.session.commit()
    with host.app.app_context(), host.db.engine.connect() as connection:
        # No other test's tables, which would seem empty while it fills them.
        ours = ", ".join(table.name for table in WebhookModel.metadata.sorted_tables)
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(f"VACUUM ANALYZE {ours}")


_AT = "now() - interval '60 days' * (1 - n::float / :finished)"
_MS = "lpad(to_hex((extract(epoch FROM {at}) * 1000)::bigint), 12, '0')"
_ID = f"({_MS} || '70008' || lpad(to_hex(n), 15, '0'))::uuid"
_OLD, _NEW = _ID.format(at=_AT), _ID.format(at="now()")
_ENDPOINT = "('01900000-0000-7000-8000-' || lpad(to_hex(n % {of} + {first}), 12, '0'))::uuid"
_ACTIVE, _PAUSED = _ENDPOINT.format(of=1000, first=0), _ENDPOINT.format(of=200, first=1000)
_HOUR = "n / 4000 * interval '1 hour'"
FILLING = (
    f"""
    INSERT INTO webhook_endpoint
        (id, tenant_id, name, url, timeout_seconds, version, created_at, updated_at, paused_at)
    SELECT {_ENDPOINT.format(of=1200, first=0)}, 't' || n % 100, 'n', 'https://example.com/', 10, 1, now(), now(),
        CASE WHEN n >= 1000 THEN now() END
    FROM generate_series(0, 1199) AS n
    """,
    f"""
    INSERT INTO webhook_delivery
        (id, tenant_id, event_id, endpoint_id, status, attempts, created_at, finished_at)
    SELECT {_OLD}, 't' || n % 100, {_OLD}, {_ACTIVE}, 'DELIVERED', 1, {_AT}, {_AT}
    FROM generate_series(0, :finished - 1) AS n
    """,
    f"""
    INSERT INTO webhook_queue
        (delivery_id, tenant_id, endpoint_id, state, due_at, attempts, attempts_before)
    SELECT {_NEW}, 't' || n % 100, {_PAUSED}, 'HELD', now(), 0, 0
    FROM generate_series(0, :held - 1) AS n
    """,
    f"""
    INSERT INTO webhook_endpoint_hour
        (tenant_id, endpoint_id, hour, latency, attempts, failed_attempts, delivered, failed, last_at)
    SELECT 't' || n % 100, {_ACTIVE}, date_trunc('hour', now()) - {_HOUR}, n / 1000 % 4, 9, 0, 9, 0, now() - {_HOUR}
    FROM generate_series(0, 199999) AS n
    """,
    """
    INSERT INTO webhook_worker_minute (minute, worker_id, error, attempts)
    SELECT date_trunc('minute', now()) - n / 40 * interval '1 minute', lpad(to_hex(n % 4), 32, '0')::uuid,
        n / 4 % 10, 7
    FROM generate_series(0, 4799) AS n
    """,
)
"""Statements that fill the tables."""
