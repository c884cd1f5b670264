"""The last day of each endpoint of a list: right, the tenant's own, and as quick among many."""

import re
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import endpoint_statistics, roll_ups
from flask_webhook_endpoints.core.endpoint_statistics import MOST_LISTED
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.queue_models import QueueState
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import ENDPOINT, HOUR, QUEUE, WHOLE, engine_of, execute, plan, statements_of
from tests.support.deliveries import lease, publish
from tests.support.waiting import SLOWNESS

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600])


def days(host, *endpoint_ids, tenant_id="acme"):
    with host.app.app_context():
        return current_state().run(
            lambda scope: endpoint_statistics.of_endpoints(scope.of(tenant_id), endpoint_ids), commit=False
        )


def test_each_endpoint_of_the_tenant_has_the_numbers_of_its_own_page(host, acme, webhook_receiver, webhook_clock):
    one = create_endpoint(acme, webhook_receiver.url, event_types=["one"])
    two = create_endpoint(acme, webhook_receiver.url, event_types=["two"])
    publish(host, *range(3), event_type="one")
    webhook_receiver.answer(200, 500, 500)
    drain(host.app)
    webhook_clock.move(hours=3)
    publish(host, *range(2), event_type="two")
    change_endpoint(acme, two, status="PAUSED")
    webhook_receiver.answer(500)
    drain(host.app)
    publish(host, *range(4), event_type="one")

    found = days(host, one.uuid, two.uuid)

    assert set(found) == {one.uuid, two.uuid}
    for endpoint in (one, two):
        shown, day = acme.get(f"{endpoint.path}/stats").json, found[endpoint.uuid]
        for name in ("delivered", "failed", "success_ratio", "pending", "held"):
            assert getattr(day, name) == shown[name], name
        assert [(step.delivered, step.failed) for step in day.series] == [
            (step["delivered"], step["failed"]) for step in shown["series"]
        ]
        assert [step.starts_at for step in day.series] == [
            datetime.fromisoformat(step["starts_at"]) for step in shown["series"]
        ]
    assert (found[one.uuid].pending, found[two.uuid].held) == (4, 2)


def test_what_is_in_flight_is_pending_though_the_endpoint_is_paused(host, acme):
    endpoint = create_endpoint(acme)
    publish(host, 1)
    lease(host, datetime.now(UTC) + timedelta(minutes=5))
    publish(host, 2)
    assert days(host, endpoint.uuid)[endpoint.uuid].pending == 2

    change_endpoint(acme, endpoint, status="PAUSED")

    day = days(host, endpoint.uuid)[endpoint.uuid]
    assert (day.pending, day.held) == (1, 1)


def test_endpoints_of_other_tenants_and_unknown_ones_have_none(host, acme, globex):
    own, foreign = create_endpoint(acme), create_endpoint(globex)
    publish(host, 1, tenant_id="globex")

    assert set(days(host, own.uuid, foreign.uuid, new_id())) == {own.uuid}
    assert days(host) == {}
    assert days(host, own.uuid, tenant_id="initech") == {}


@pytest.mark.slow
def test_a_page_of_a_hundred_costs_two_statements_and_little_time_among_many_hours(host, acme):
    ids = fill(host, endpoints=100, waiting=600, of_others=20_000)

    took = []
    for _ in range(5):
        with statements_of(host) as sent:
            began = time.perf_counter()
            found = days(host, *ids)
            took.append(time.perf_counter() - began)

    ours = [each for each in sent if "webhook_" in each[0]]
    assert len(ours) == 2
    assert {(day.held, day.pending, day.delivered) for day in found.values()} == {(MOST_LISTED, 0, 24 * 3)}
    for statement, parameters in ours:
        steps = [step for step in plan(host, statement, parameters).splitlines() if "webhook_" in step]
        assert steps
        assert not [step for step in steps if re.search(WHOLE[backend_of(host)], step)], steps
    # Shown by `pytest -s`.
    sys.stderr.write(f"a page of 100: {1000 * min(took):.1f} ms\n{plan(host, *ours[0])}\n{plan(host, *ours[1])}\n")
    assert min(took) < 0.1 * SLOWNESS


def backend_of(host):
    return engine_of(host).dialect.name.replace("mariadb", "mysql")


def fill(host, *, endpoints, waiting, of_others):
    """Let paused endpoints hold deliveries and have results, among the results of other tenants; return their ids."""
    now, ids = datetime.now(UTC), [new_id() for _ in range(endpoints)]
    hour = roll_ups.beginning_of_hour(now)
    columns = {"tenant_id": "acme", "name": "n", "url": "https://example.com/", "timeout_seconds": 10, "version": 1}
    times = {"created_at": now, "updated_at": now, "paused_at": now}
    theirs = [{**columns, **times, "tenant_id": f"t{n % 997}", "id": new_id()} for n in range(5_000)]
    execute(host, sa.insert(ENDPOINT), [*({**columns, **times, "id": each} for each in ids), *theirs])
    result = {"attempts": 1, "failed_attempts": 0, "delivered": 1, "failed": 0, "last_at": now}
    own = [
        {**result, "tenant_id": "acme", "endpoint_id": each, "hour": hour - timedelta(hours=n), "latency": latency}
        for each in ids
        for n in range(24 * 4)
        for latency in (10, 11, 12)
    ]
    others = [
        {**result, "tenant_id": f"t{n % 997}", "endpoint_id": endpoint_id, "hour": moment, "latency": 10}
        for n in range(of_others // 100)
        for endpoint_id in [new_id()]
        for moment in (hour - timedelta(hours=each) for each in range(100))
    ]
    execute(host, sa.insert(HOUR), [*own, *others])
    queued = {"tenant_id": "acme", "state": QueueState.HELD, "due_at": now, "attempts": 0, "attempts_before": 0}
    for each in ids:
        held = {**queued, "endpoint_id": each}
        execute(host, sa.insert(QUEUE), [{**held, "delivery_id": new_id()} for _ in range(waiting)])
    tables = "webhook_queue, webhook_endpoint_hour, webhook_endpoint"
    analyze = {"sqlite": "ANALYZE", "postgresql": f"ANALYZE {tables}", "mysql": f"ANALYZE TABLE {tables}"}
    execute(host, sa.text(analyze[backend_of(host)]))
    return ids
