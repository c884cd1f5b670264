"""The results of an endpoint's newest deliveries: counted right, of the tenant alone, and as quick in a long log."""

import re
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import recent_results
from flask_webhook_endpoints.core.recent_results import MOST, Results
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.errors import UnknownEndpoint
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.database import DELIVERY, EVENT, WHOLE, engine_of, execute, plan, rows, statements_of
from tests.support.deliveries import publish
from tests.support.waiting import SLOWNESS

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600])

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def endpoint(acme, webhook_receiver):
    return create_endpoint(acme, webhook_receiver.url)


def results(host, endpoint, since=LONG_AGO, tenant_id="acme"):
    with host.app.app_context():
        return current_state().run(
            lambda scope: recent_results.of_endpoint(scope.of(tenant_id), endpoint.uuid, since=since), commit=False
        )


def test_deliveries_are_counted_by_event_type_and_by_the_last_response(host, endpoint, webhook_receiver, webhook_clock):
    publish(host, 1, 2, event_type="order.paid")
    drain(host.app)
    webhook_receiver.answer(500)
    publish(host, 1, event_type="order.paid")
    publish(host, 1, event_type="user.left")
    drain(host.app)
    webhook_clock.move(hours=2)
    drain(host.app)
    webhook_receiver.answer(404)
    publish(host, 2, event_type="user.left")
    drain(host.app)
    publish(host, 3, event_type="user.left")

    found = results(host, endpoint)

    assert found.number == 6
    assert list(found.by_event_type.items()) == [("order.paid", Results(2, 1, 0)), ("user.left", Results(0, 1, 2))]
    assert list(found.by_response.items()) == [("200", 2), ("500", 2), ("404", 1)]


def test_an_error_counts_by_its_code(host, acme):
    endpoint = create_endpoint(acme, "http://no-such-host.invalid/")
    publish(host)
    drain(host.app)

    assert results(host, endpoint).by_response == {"dns": 1}


def test_what_was_published_before_the_time_is_not_counted(host, endpoint, webhook_clock):
    publish(host, 1, 2)
    webhook_clock.move(hours=5)
    since = webhook_clock() - timedelta(hours=1)
    assert results(host, endpoint, since) == (0, {}, {})
    publish(host, 3)

    assert results(host, endpoint, since).by_event_type == {"invoice.paid": Results(pending=1)}
    assert results(host, endpoint).number == 3


def test_the_endpoint_of_another_tenant_is_not_found(host, endpoint):
    publish(host)

    with pytest.raises(UnknownEndpoint):
        results(host, endpoint, tenant_id="globex")


@pytest.mark.slow
def test_it_costs_the_same_in_a_long_log(host, acme, endpoint):
    fill(host, endpoint, 12_000)

    took = []
    for _ in range(10):
        with statements_of(host) as sent:
            began = time.perf_counter()
            found = results(host, endpoint)
            took.append(time.perf_counter() - began)

    assert found.number == MOST
    [(statement, parameters)] = [each for each in sent if "webhook_" in each[0]]
    steps = plan(host, statement, parameters)
    read = [step for step in steps.splitlines() if "webhook_" in step]
    assert read
    assert not [
        step for step in read if re.search(WHOLE[engine_of(host).dialect.name.replace("mariadb", "mysql")], step)
    ]
    # Shown by `pytest -s`.
    sys.stderr.write(f"recent results: {1000 * min(took):.1f} ms\n{steps}\n")
    assert min(took) < 0.03 * SLOWNESS


# PostgreSQL read all entries of the endpoint, however long ago.
@pytest.mark.only_on("postgresql")
def test_an_endpoint_that_went_quiet_costs_nothing_for_what_it_got_before(host, acme, endpoint):
    fill(host, endpoint, 2_000)
    fill(host, create_endpoint(acme), 8_000)
    execute(host, sa.text("ANALYZE webhook_delivery"))

    # All that is newer is another endpoint's.
    [(last,)] = rows(host, sa.select(DELIVERY.c.id).order_by(DELIVERY.c.id).offset(1_999).limit(1))
    since = datetime.fromtimestamp(((last.int >> 80) + 1) / 1000, UTC)
    with statements_of(host) as sent:
        assert results(host, endpoint, since).number == 0

    [(statement, parameters), *_] = [each for each in sent if "webhook_" in each[0]]
    with host.app.app_context():
        explain = f"EXPLAIN (ANALYZE, BUFFERS) {statement}"
        steps = host.db.session.connection().exec_driver_sql(explain, parameters).scalars().all()
    buffers = next(step for step in steps if "Buffers:" in step)
    assert sum(map(int, re.findall(r"(?:hit|read)=(\d+)", buffers))) < 12, steps


def fill(host, endpoint, number):
    """Let the endpoint and another one have been sent so many deliveries of events of their own."""
    now = datetime.now(UTC)
    for endpoint_id in (endpoint.uuid, new_id()):
        ids = [new_id() for _ in range(number)]
        event = {"tenant_id": "acme", "body": b"{}", "created_at": now}
        execute(host, sa.insert(EVENT), [{**event, "id": each, "type": f"a.b{each.int % 7}"} for each in ids])
        common = {"tenant_id": "acme", "endpoint_id": endpoint_id, "attempts": 1, "created_at": now}
        done = {**common, "status": "DELIVERED", "finished_at": now, "last_response_status": 200}
        execute(host, sa.insert(DELIVERY), [{**done, "id": new_id(), "event_id": each} for each in ids])
    tables = "webhook_delivery, webhook_event"
    analyze = {"sqlite": "ANALYZE", "postgresql": f"ANALYZE {tables}", "mysql": f"ANALYZE TABLE {tables}"}
    execute(host, sa.text(analyze[engine_of(host).dialect.name.replace("mariadb", "mysql")]))
