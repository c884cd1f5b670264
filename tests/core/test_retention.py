"""What has served its time goes; nothing that waits, is held or is under way does."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints import NewEvent
from flask_webhook_endpoints.core import events, references, retention, tenants
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.models import QueueState
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from flask_webhook_endpoints.worker import pruning
from flask_webhook_endpoints.worker.loop import Worker
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.commands import run_json
from tests.support.database import ATTEMPT, DELIVERY, EVENT, QUEUE, WHOLE, count, execute, plan, statements_of
from tests.support.deliveries import claim, publish, statuses
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK, retry_schedule=[0])


@pytest.fixture
def deliver(host, drain_webhooks):
    """Publish so many events, and deliver what is due."""

    def deliver(number=1):
        publish(host, *range(number))
        drain_webhooks()

    return deliver


@pytest.fixture
def prune(host):
    """Run the command, and return its figures that are not 0, but those of statistics."""

    def prune():
        figures = run_json(host, "prune").items()
        return {name: figure for name, figure in figures if figure and name != "statistics_deleted"}

    return prune


@pytest.fixture
def endpoint(acme, webhook_receiver):
    return lambda: create_endpoint(acme, webhook_receiver.url)


@pytest.fixture
def failing(endpoint, webhook_receiver):
    """An endpoint whose attempts fail, and therefore have rows of their own."""
    webhook_receiver.answer(500)
    return endpoint()


# On SQLite, whose SELECT locks no row, pruning deleted a delivery that a request had just made pending.
@pytest.mark.several_connections
def test_what_is_sent_again_while_it_is_pruned_is_not_lost(host, endpoint, webhook_clock, deliver, monkeypatch):
    created = endpoint()
    deliver()
    webhook_clock.move(days=31)
    [delivery] = host.client().get(f"{created.path}/deliveries").json
    redeliver, answers = f"{created.path}/deliveries/{delivery['id']}/redeliver", []
    delete = references.delete_unreferenced

    def send_again(*given):
        if not answers:
            answers.append(thread.submit(host.client().post, redeliver))
            # It waits, or is answered in between.
            wait(answers, 1)
        return delete(*given)

    monkeypatch.setattr(references, "delete_unreferenced", send_again)
    with ThreadPoolExecutor(1) as thread:
        run_json(host, "prune")

    answer = answers[0].result()
    assert (answer.status_code, statuses(host), count(host, QUEUE)) in [(404, {}, 0), (202, {"PENDING": 1}, 1)]


@pytest.mark.usefixtures("failing")
def test_what_finished_goes_after_retention_days_with_all_that_belongs_to_it(host, webhook_clock, deliver, prune):
    deliver(3)
    webhook_clock.move(days=29)
    deliver(1)
    assert prune() == {}
    webhook_clock.move(days=2)

    assert prune() == {"deliveries_deleted": 3}
    assert [count(host, table) for table in (DELIVERY, EVENT, ATTEMPT)] == [1, 1, 1]
    assert prune() == {}


@pytest.mark.usefixtures("webhook_receiver")
def test_what_was_cancelled_goes_likewise(host, acme, webhook_clock, deliver, prune):
    paused = create_endpoint(acme)
    change_endpoint(acme, paused, status="PAUSED")
    deliver()
    acme.delete(f"/v1/endpoints/{paused['id']}")
    assert statuses(host) == {"CANCELLED": 1}
    webhook_clock.move(days=31)

    assert prune() == {"deliveries_deleted": 1}
    assert [count(host, table) for table in (DELIVERY, EVENT, ATTEMPT)] == [0, 0, 0]


@pytest.mark.parametrize("state", QueueState)
def test_what_waits_or_is_under_way_stays_however_old(host, endpoint, webhook_clock, prune, state):
    endpoint()
    publish(host)
    execute(host, sa.update(QUEUE).values(state=state))
    webhook_clock.move(days=400)

    assert prune() == {}
    assert statuses(host) == {"PENDING": 1}
    assert [count(host, table) for table in (QUEUE, EVENT)] == [1, 1]


def test_an_event_stays_until_its_last_delivery_has_gone(host, acme, endpoint, webhook_clock, deliver):
    endpoint()
    held = endpoint()
    acme.patch(f"/v1/endpoints/{held['id']}", json={"status": "PAUSED"})
    deliver()
    webhook_clock.move(days=29)
    acme.patch(f"/v1/endpoints/{held['id']}", json={"status": "ACTIVE"})
    acme.patch(f"/v1/endpoints/{held['id']}", json={"status": "PAUSED"})
    webhook_clock.move(days=2)

    with host.app.app_context():
        state = current_state()
        for step in retention.steps(retention_days=30, hold_max_days=30):
            step.prune(state.scope())
        host.db.session.commit()

    assert (count(host, DELIVERY), count(host, EVENT), statuses(host)) == (1, 1, {"PENDING": 1})


def test_what_is_held_too_long_expires_can_be_sent_again_and_goes_at_last(
    acme, endpoint, webhook_clock, deliver, prune
):
    path = endpoint().path
    acme.patch(path, json={"status": "PAUSED"})
    deliver(2)
    webhook_clock.move(days=31)
    deliver(1)

    assert prune() == {"deliveries_expired": 2}
    young, *expired = acme.get(f"{path}/deliveries").json
    assert young["status"] == "HELD"
    assert [each["status"] for each in expired] == ["EXPIRED", "EXPIRED"]
    assert all(each["finished_at"] for each in expired)
    acme.patch(path, json={"status": "ACTIVE"})
    assert acme.post(f"{path}/deliveries/{expired[0]['id']}/redeliver").status_code == 202
    webhook_clock.move(days=31)
    assert prune() == {"deliveries_deleted": 1}


def test_the_settings_say_for_how_long(database, webhook_receiver):
    days = {"WEBHOOK_ENDPOINTS_RETENTION_DAYS": 2, "WEBHOOK_ENDPOINTS_HOLD_MAX_DAYS": 5}
    host = hosts.flask_sqlalchemy(database, allowed_networks=hosts.LOOPBACK, **days)
    with closing(host), hosts.moved(host.app) as clock:
        create_endpoint(host.client(), webhook_receiver.url)
        change_endpoint(host.client(), create_endpoint(host.client(), webhook_receiver.url), status="PAUSED")
        publish(host, 1)
        drain(host.app)

        def left():
            assert host.app.test_cli_runner().invoke(args=["webhooks", "prune"]).exit_code == 0
            return {status: number for status, number in statuses(host).items() if number}

        clock.move(days=2, seconds=-60)
        assert left() == {"DELIVERED": 1, "PENDING": 1}
        clock.move(seconds=120)
        assert left() == {"PENDING": 1}
        clock.move(days=3, seconds=-120)
        assert left() == {"PENDING": 1}
        clock.move(seconds=120)
        assert left() == {"EXPIRED": 1}
        clock.move(days=2)
        assert left() == {}


def test_a_pause_that_began_lately_expires_nothing_however_old(acme, endpoint, webhook_clock, deliver, prune):
    path = endpoint().path
    acme.patch(path, json={"status": "PAUSED"})
    deliver()
    webhook_clock.move(days=29)
    acme.patch(path, json={"status": "ACTIVE"})
    acme.patch(path, json={"status": "PAUSED"})
    webhook_clock.move(days=2)

    assert prune() == {}


def test_events_that_lost_their_last_delivery_otherwise_go_too(host, endpoint, webhook_clock, deliver, prune):
    endpoint()
    deliver(2)
    with host.app.app_context():
        host.db.session.execute(sa.delete(DELIVERY))
        host.db.session.commit()
    webhook_clock.move(days=31)

    assert prune() == {"events_deleted": 2}


def test_pruning_goes_batch_by_batch(monkeypatch, endpoint, webhook_clock, deliver, prune):
    monkeypatch.setattr(transactions, "BATCH", 2)
    endpoint()
    deliver(5)
    webhook_clock.move(days=31)

    assert prune() == {"deliveries_deleted": 5}


def taken(batch):
    return 0 if batch is None else batch.taken


@pytest.mark.only_on("postgresql", "mariadb")
def test_others_publish_claim_and_prune_while_a_batch_is_open(host, endpoint, webhook_clock, deliver, monkeypatch):
    monkeypatch.setattr(transactions, "BATCH", 2)
    endpoint()
    deliver(5)
    webhook_clock.move(days=31)
    with host.app.app_context():
        state = current_state()
        now = state.now()
        with Session(host.db.engine) as session:
            scope = replace(state.scope(), session=session)
            scope.hold_no_gaps()
            assert taken(retention.prune_deliveries(scope, retention_days=30)) == 2

            with Session(host.db.engine) as other:
                _wait_for_no_lock(other)
                beside = replace(scope, session=other)
                beside.hold_no_gaps()
                assert taken(retention.prune_deliveries(beside, retention_days=30)) == 2
                event = events.publish(beside.of("acme"), "invoice.paid", 1, max_body_bytes=100, delay_seconds=0)
                assert event is not None
                other.commit()
            with Session(host.db.engine) as other:
                _wait_for_no_lock(other)
                beside = replace(scope, session=other, now=now + timedelta(seconds=1))
                beside.hold_no_gaps()
                assert len(claim(beside).deliveries) == 1
                other.commit()
            session.commit()


def _wait_for_no_lock(session):
    postgresql = session.get_bind().dialect.name == "postgresql"
    session.execute(sa.text("SET lock_timeout = '1s'" if postgresql else "SET innodb_lock_wait_timeout = 1"))
    session.commit()


# The log has no index of events, whose deliveries are found by their ids.
def test_publishing_pruning_and_forgetting_read_no_whole_log(host, acme, webhook_clock):
    with host.app.app_context():
        backend = host.db.engine.dialect.name
    create_endpoint(host.client("globex"))
    publish(host, 0, tenant_id="globex")
    webhook_clock.move(days=40)
    create_endpoint(acme)
    publish(host, *range(400))
    execute(host, sa.update(DELIVERY).where(DELIVERY.c.tenant_id == "globex").values(finished_at=DELIVERY.c.created_at))
    if backend != "sqlite":
        execute(host, sa.text(f"ANALYZE {'TABLE' if backend != 'postgresql' else ''} webhook_delivery"))

    with statements_of(host) as statements, host.app.app_context():
        host.webhooks.publish_many([NewEvent("a.b", {}, tenant_id="acme") for _ in range(3)])
        scope = current_state().scope()
        assert tenants.forget_events(scope.of("globex"))
        host.db.session.rollback()
        assert retention.prune_deliveries(scope, retention_days=30)
        assert retention.prune_events(scope, retention_days=30) is None
        host.db.session.rollback()

    of_log = [each for each in statements if "webhook_delivery" in each[0] and "VALUES" not in each[0]]
    assert len(of_log) >= 5
    for statement in of_log:
        steps = [step for step in plan(host, *statement).splitlines() if "webhook_delivery" in step]
        assert not re.search(WHOLE[backend], "".join(steps)), (statement, steps)


@pytest.mark.several_connections  # On a single one, whoever looks would end the worker's transaction.
def test_a_worker_prunes_by_itself(host, endpoint, webhook_clock, deliver, monkeypatch):
    endpoint()
    deliver(3)
    webhook_clock.move(days=31)
    monkeypatch.setattr(pruning, "PRUNE_SECONDS", 0.1)

    async def run():
        worker = Worker(host.app)
        running = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await asyncio.to_thread(count, host, DELIVERY):
                    await asyncio.sleep(0.05)
        finally:
            worker.stop()
        await running

    with ThreadPoolExecutor(1) as executor:
        executor.submit(lambda: asyncio.run(run())).result()

    assert count(host, EVENT) == 0


# The savepoint's own error hid the deadlock, and pruning stopped for an hour.
@pytest.mark.only_on("mariadb")
def test_a_deadlock_within_a_savepoint_is_tried_again(host):
    tries = []

    def prune(scope: Scope) -> None:
        tries.append(scope)
        with scope.session.begin_nested():
            if len(tries) == 1:
                # What a deadlock does.
                scope.execute(sa.text("ROLLBACK"))
                scope.execute(sa.text("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"))

    with host.app.app_context():
        current_state().run_apart(prune)

    assert len(tries) == 2
