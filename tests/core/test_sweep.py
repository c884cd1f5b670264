"""The sweep: it finds what is held though its endpoint takes deliveries, which no claim would ever look at."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints import NewEvent
from flask_webhook_endpoints.core import sweep
from flask_webhook_endpoints.core.marks import START
from flask_webhook_endpoints.core.sweep import Swept
from flask_webhook_endpoints.database.models import QueueState
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from flask_webhook_endpoints.worker.loop import Worker
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import ENDPOINT, QUEUE, REST, execute, plan, rows, statements_of
from tests.support.deliveries import claim, publish, statuses
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
        return current_state().run_apart(lambda scope: sweep.sweep(scope, after))


@pytest.mark.parametrize(("at_once", "sweeps"), [(1000, 1), (1, 5)], ids=["all at once", "one at a time"])
def test_a_sweep_releases_what_is_held_for_nothing_and_cancels_what_nobody_gets(
    host, held, monkeypatch, at_once, sweeps
):
    monkeypatch.setattr(sweep, "AT_ONCE", at_once)
    after = ("", START)

    for _ in range(sweeps):
        after = swept(host, after).to

    assert after == ("", START)
    assert dict(rows(host, sa.select(QUEUE.c.endpoint_id, QUEUE.c.state))) == held
    assert statuses(host) == {"PENDING": 3, "CANCELLED": 1}


# A worker without work never claimed, and only claims swept.
@pytest.mark.several_connections
@pytest.mark.host(make=hosts.delivering)
def test_an_idle_worker_sweeps(host, acme, inbox, monkeypatch):
    monkeypatch.setattr(sweep, "EVERY_SECONDS", 0.2)
    endpoint = create_endpoint(acme, inbox.url())
    change_endpoint(acme, endpoint, status="PAUSED")
    publish(host)
    with in_thread(Worker(host.app)):
        wait_until(lambda: rows(host, sa.select(QUEUE.c.state)) == [(QueueState.HELD,)])
        # Resumed behind our back, so that nothing releases what is held.
        execute(host, sa.update(ENDPOINT).values(paused_at=None, pause_reason=None))

        wait_until(lambda: statuses(host) == {"DELIVERED": 1}, 20)


def hold_of_three(host, url):
    """Hold a delivery of each of three tenants."""
    for tenant_id in "abc":
        client = host.client(tenant_id)
        change_endpoint(client, create_endpoint(client, url), status="PAUSED")
        publish(host, tenant_id=tenant_id)
    drain(host.app)


# A drain from cron has no marks of the one before, and each swept the first thousand endpoints again.
@pytest.mark.host(make=hosts.delivering)
def test_a_drain_sweeps_all_endpoints(host, webhook_receiver, monkeypatch):
    monkeypatch.setattr(sweep, "AT_ONCE", 1)
    hold_of_three(host, webhook_receiver.url)
    execute(host, sa.update(ENDPOINT).where(ENDPOINT.c.tenant_id != "a").values(paused_at=None, pause_reason=None))

    assert drain(host.app) == 2
    assert statuses(host) == {"DELIVERED": 2, "PENDING": 1}


@pytest.mark.several_connections
@pytest.mark.host(make=hosts.delivering)
def test_a_sweep_that_fails_keeps_no_worker_from_its_deliveries(host, acme, webhook_receiver, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(sweep, "sweep", fail)
    create_endpoint(acme, webhook_receiver.url)
    publish(host)

    with in_thread(Worker(host.app)):
        wait_until(lambda: statuses(host) == {"DELIVERED": 1}, 20)


# A worker that had no room when a sweep was due asked again and again whether it had some, and let nothing else run.
@pytest.mark.several_connections
@pytest.mark.host(make=hosts.delivering)
def test_a_worker_without_room_goes_on_until_it_can_sweep(host, acme, webhook_receiver, monkeypatch):
    monkeypatch.setattr(sweep, "EVERY_SECONDS", 0.001)
    create_endpoint(acme, webhook_receiver.url)
    publish(host, *range(100))
    with in_thread(Worker(host.app, batch=10)):
        wait_until(lambda: statuses(host) == {"DELIVERED": 100}, 20)


@pytest.mark.host(make=hosts.delivering)
def test_a_drain_of_a_backlog_sweeps_all_endpoints(host, webhook_receiver, monkeypatch):
    monkeypatch.setattr(sweep, "AT_ONCE", 1)
    hold_of_three(host, webhook_receiver.url)
    create_endpoint(host.client("d"), webhook_receiver.url)
    publish(host, *range(40), tenant_id="d")

    asyncio.run(asyncio.wait_for(Worker(host.app, batch=10).run("drained"), 30))
    assert statuses(host) == {"DELIVERED": 40, "PENDING": 3}


# A sweep was part of a claim, and no other worker claims during a claim.
@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.host(make=hosts.delivering)
def test_another_worker_claims_during_a_sweep(host, acme, inbox, monkeypatch):
    create_endpoint(acme, inbox.url())
    publish(host)
    claims = []

    def claim_meanwhile(_, after):
        with ThreadPoolExecutor(1) as thread:
            claims.append(thread.submit(claimed, host).result())
        return Swept(after, released=False)

    def claimed(host):
        with host.app.app_context():
            return current_state().run_apart(partial(claim, alone=True))

    monkeypatch.setattr(sweep, "sweep", claim_meanwhile)
    drain(host.app)

    assert [len(each.deliveries) for each in claims] == [1]


STEPS = {
    "sqlite": (r"state=\? AND \(tenant_id,endpoint_id\)>\(\?,\?\)", 2),
    "postgresql": (r"Index Cond: .*ROW\(.*> ROW\(", 2),
    "mysql": (r"Using index for group-by'", 1),
}
"""Steps of a plan, by dialect, that go on at the next endpoint, and how many there are."""


# Each step went past all that the tenant held before: a sweep of 2,000 endpoints with 50 deliveries each took a minute.
def test_a_step_of_the_sweep_passes_by_what_the_endpoint_holds(host, acme):
    for _ in range(4):
        create_endpoint(acme)
    with host.app.app_context():
        host.webhooks.publish_many([NewEvent("invoice.paid", 7, tenant_id="acme")] * 500)
        host.db.session.commit()
        backend = host.db.engine.dialect.name
    execute(host, sa.update(QUEUE).values(state=QueueState.HELD))
    if backend != "sqlite":
        execute(host, sa.text(f"ANALYZE {'TABLE' if backend != 'postgresql' else ''} webhook_queue"))

    with statements_of(host) as sent:
        swept(host, ("acme", START))

    [found] = [plan(host, *each) for each in sent if "webhook_endpoint" in each[0] and "'HELD'" in each[0]]
    step, number = STEPS[backend]
    assert len(re.findall(step, found)) == number, found
