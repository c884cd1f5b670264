"""The sweep: it finds what is held though its endpoint takes deliveries, which no claim would ever look at."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import queue
from flask_webhook_endpoints.core.marks import START
from flask_webhook_endpoints.database.models import QueueState
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.worker.loop import Worker
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import ENDPOINT, QUEUE, REST, execute, rows
from tests.support.deliveries import publish, statuses
from tests.support.waiting import wait_until
from tests.support.workers import in_thread


@pytest.fixture
def held(host):
    """Four endpoints with a held delivery each: active, paused, at rest, and deleted behind our back."""
    clients = [host.client(f"tenant {number}") for number in range(4)]
    active, paused, resting, deleted = [create_endpoint(client) for client in clients]
    for number in range(4):
        publish(host, tenant_id=f"tenant {number}")
    change_endpoint(clients[1], paused, status="PAUSED")
    until = datetime.now(UTC) + timedelta(hours=1)
    execute(host, sa.insert(REST).values(endpoint_id=resting.uuid, until=until, times=1))
    execute(host, sa.update(QUEUE).values(state=QueueState.HELD))
    execute(host, sa.text("DELETE FROM webhook_secret"))
    execute(host, sa.delete(ENDPOINT).where(ENDPOINT.c.id == deleted.uuid))
    return {active.uuid: QueueState.READY, paused.uuid: QueueState.HELD, resting.uuid: QueueState.HELD}


def swept(host, after):
    with host.app.app_context():
        return current_state().run_apart(lambda scope: queue.sweep(scope, after))


@pytest.mark.parametrize(("at_once", "sweeps"), [(1000, 1), (1, 5)], ids=["all at once", "one at a time"])
def test_a_sweep_releases_what_is_held_for_nothing_and_cancels_what_nobody_gets(
    host, held, monkeypatch, at_once, sweeps
):
    monkeypatch.setattr(queue, "SWEPT_AT_ONCE", at_once)
    after = ("", START)

    for _ in range(sweeps):
        after = swept(host, after)

    assert after == ("", START)
    assert dict(rows(host, sa.select(QUEUE.c.endpoint_id, QUEUE.c.state))) == held
    assert statuses(host) == {"PENDING": 3, "CANCELLED": 1}


# A worker without work never claimed, and only claims swept.
@pytest.mark.several_connections
@pytest.mark.host(make=hosts.delivering)
def test_an_idle_worker_sweeps(host, acme, inbox, monkeypatch):
    monkeypatch.setattr(queue, "SWEPT_EVERY_SECONDS", 0.2)
    endpoint = create_endpoint(acme, inbox.url())
    change_endpoint(acme, endpoint, status="PAUSED")
    publish(host)
    with in_thread(Worker(host.app)):
        wait_until(lambda: rows(host, sa.select(QUEUE.c.state)) == [(QueueState.HELD,)])
        # Resumed behind our back, so that nothing releases what is held.
        execute(host, sa.update(ENDPOINT).values(paused_at=None, pause_reason=None))

        wait_until(lambda: statuses(host) == {"DELIVERED": 1}, 20)
