"""Celery's tasks, run where they stand; what brokers and processes add is in `test_engines`."""

import json
import multiprocessing
import os
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from celery import Celery, signals
from flask import Flask
from sqlalchemy.orm import scoped_session, sessionmaker

import flask_webhook_endpoints
from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints import celery as tasks
from flask_webhook_endpoints.core import sweep
from flask_webhook_endpoints.core.heartbeats import FORGOTTEN_AFTER, SEEN_LATELY
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.queue_models import WebhookWorker
from flask_webhook_endpoints.worker import drains
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import DELIVERY, ENDPOINT, WORKER, execute, rows
from tests.support.deliveries import in_flight, publish, statuses
from tests.support.waiting import PATIENCE_SECONDS, SLOWNESS

pytestmark = [pytest.mark.several_connections, pytest.mark.host(make=hosts.delivering)]


def doctors_workers(host: hosts.Host) -> list[str]:
    found = json.loads(host.app.test_cli_runner().invoke(args=["webhooks", "doctor", "--json"]).stdout)
    return [finding["level"] for finding in found if finding["check"] == "workers"]


def run(host: hosts.Host, task):
    return run_in(host.app, task)


def run_in(app: Flask, task):
    tasks._heartbeat.cache_clear()
    with app.app_context():
        return task()


def test_a_sweep_that_finds_nothing_says_that_an_engine_is_at_work(host):
    assert run(host, tasks.deliver) == 0
    assert run(host, tasks.deliver) == 0

    assert rows(host, sa.select(WORKER.c.engine)) == [("celery",)]
    assert doctors_workers(host) == ["ok"]


def test_a_celery_that_has_ended_is_no_worker_that_died(host, webhook_clock):
    run(host, tasks.deliver)
    webhook_clock.move(seconds=2 * SEEN_LATELY.total_seconds())

    assert doctors_workers(host) == ["warn"]

    webhook_clock.move(seconds=FORGOTTEN_AFTER.total_seconds())
    run(host, tasks.deliver)
    assert rows(host, sa.select(WORKER.c.engine)) == [("celery",)]


def test_the_task_delivers_what_is_due(host, webhook_receiver):
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, 1, 2)

    assert run(host, tasks.deliver) == 2
    assert sorted(received.data for received in webhook_receiver.received) == [1, 2]


@pytest.mark.slow
def test_a_task_ends_when_its_time_is_over_and_the_next_one_has_the_rest(database, webhook_receiver, monkeypatch):
    monkeypatch.setattr(drains, "CLAIMING_SECONDS", 1.5)
    webhook_receiver.answer(200, delay_seconds=0.3)
    with closing(hosts.delivering(database, max_in_flight_per_endpoint=1, poll_seconds=0.05)) as host:
        create_endpoint(host.client(), webhook_receiver.url)
        publish(host, *range(20))

        first = run(host, tasks.deliver)
        drains.join()
        assert 0 < first < 20
        assert statuses(host) == {"DELIVERED": first, "PENDING": 20 - first}

        monkeypatch.undo()
        webhook_receiver.answer(200)
        assert run(host, tasks.deliver) == 20 - first
        assert len({received.id for received in webhook_receiver.received}) == len(webhook_receiver.received) == 20


@pytest.mark.slow
def test_a_task_does_not_wait_for_a_receiver_that_hangs(database, webhook_receiver, monkeypatch):
    monkeypatch.setattr(drains, "CLAIMING_SECONDS", 0.5 * SLOWNESS)
    webhook_receiver.answer(200, delay_seconds=2 * SLOWNESS)
    with closing(hosts.delivering(database, poll_seconds=0.05)) as host:
        create_endpoint(host.client(), webhook_receiver.url)
        publish(host, 1)

        assert run(host, tasks.deliver) == 1
        assert in_flight(host) == 1

        drains.join()
        assert statuses(host) == {"DELIVERED": 1}


def test_an_error_of_the_database_ends_the_task_with_it(host, webhook_receiver, monkeypatch):
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, 1)
    # The statements of a claim alone, because a look finds the delivery.
    execute(host, sa.text("ALTER TABLE webhook_secret RENAME TO gone"))

    with pytest.raises(RuntimeError, match="The database refused"):
        run(host, tasks.deliver)


# Each drain began the sweep again, and only when something was due. It never came to what was held beyond the first
# thousand endpoints.
def test_the_sweep_goes_on_from_one_task_to_the_next(host, webhook_receiver, monkeypatch):
    monkeypatch.setattr(sweep, "AT_ONCE", 1)
    endpoints = {}
    for tenant_id in "abc":
        client = host.client(tenant_id)
        endpoint = create_endpoint(client, webhook_receiver.url)
        change_endpoint(client, endpoint, status="PAUSED")
        publish(host, tenant_id=tenant_id)
        endpoints[tenant_id] = endpoint.uuid
    # The first task of a process sweeps all endpoints.
    run(host, tasks.deliver)
    # Resumed behind our back, so that nothing releases what is held.
    resumed = sa.update(ENDPOINT).where(ENDPOINT.c.id == endpoints["c"])
    execute(host, resumed.values(paused_at=None, pause_reason=None))

    def deliver_a_minute_later():
        tasks._marks(host.app, os.getpid()).wait("sweep", 0)
        return run(host, tasks.deliver)

    assert [deliver_a_minute_later() for _ in range(4)] == [0, 0, 1, 0]
    assert statuses(host) == {"DELIVERED": 1, "PENDING": 2}


def deliver_in_a_forked_process(app: Flask) -> None:
    process = multiprocessing.get_context("fork").Process(target=lambda: run_in(app, tasks.deliver))
    process.start()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0


@pytest.mark.only_on("postgresql", "mariadb")
def test_what_was_open_when_processes_were_forked_is_left_to_their_parent(database):
    with hosts.plain_engine(database) as engine:
        flask_webhook_endpoints.metadata.create_all(engine)
        # Each thread has a session of its own, for as long as nobody removes it.
        session = scoped_session(sessionmaker(engine))
        app = hosts.new_app()
        app.register_blueprint(WebhookEndpoints(session=session, tenant=hosts.tenant_header).blueprint)
        now = datetime.now(UTC)
        row = {"id": new_id(), "engine": "of the parent", "hostname": "h", "pid": 1, "started_at": now, "seen_at": now}
        session.execute(sa.insert(WebhookWorker), row)

        deliver_in_a_forked_process(app)
        session.commit()

        with engine.connect() as connection:
            assert sorted(connection.execute(sa.select(WORKER.c.engine)).scalars()) == ["celery", "of the parent"]


@pytest.mark.only_on("sqlite")
def test_a_forked_process_keeps_a_database_in_memory(database):
    with hosts.plain_engine("sqlite://") as engine:
        flask_webhook_endpoints.metadata.create_all(engine)
        app = hosts.new_app()
        session = scoped_session(sessionmaker(engine))
        app.register_blueprint(WebhookEndpoints(session=session, tenant=hosts.tenant_header).blueprint)

        deliver_in_a_forked_process(app)


def test_the_hourly_task_prunes(host, webhook_receiver, webhook_clock):
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, 1)
    run(host, tasks.deliver)
    run(host, tasks.prune)
    assert len(rows(host, sa.select(DELIVERY.c.id))) == 1

    webhook_clock.move(days=31)
    run(host, tasks.prune)

    assert rows(host, sa.select(DELIVERY.c.id)) == []


@pytest.mark.only_on("sqlite")
def test_each_application_of_a_process_says_in_its_own_database_that_it_is_at_work(host, tmp_path):
    other = Flask("other")
    other.config.update(SECRET_KEY="other secret", SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/other.db")
    host.db.init_app(other)
    other.register_blueprint(host.webhooks.blueprint)
    with other.app_context():
        host.db.create_all()
        tasks.deliver()
        host.db.session.remove()
    with host.app.app_context():
        tasks.deliver()

    assert rows(host, sa.select(WORKER.c.engine)) == [("celery",)]
    with other.app_context():
        host.db.engine.dispose()


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "prefork"])
@pytest.mark.parametrize("queue", ["webhooks", "mail"])
def test_a_pool_that_does_not_work_with_asyncio_is_refused_on_our_queue_at_the_start(pool, queue, monkeypatch):
    monkeypatch.setattr(tasks, "_drain_lock", drains.DrainLock())
    celery = Celery("shop", set_as_current=False)
    celery.conf.task_routes = {"flask_webhook_endpoints.*": {"queue": "webhooks"}}
    celery.amqp.queues.select(queue)
    # The class that Celery takes for the name, without the packages that it needs.
    worker = SimpleNamespace(app=celery, pool_cls=type("TaskPool", (), {"__module__": f"celery.concurrency.{pool}"}))

    refused = pool != "prefork" and queue == "webhooks"
    with pytest.raises(SystemExit, match=f"{pool}.*prefork") if refused else nullcontext():
        signals.celeryd_after_setup.send(sender="worker", instance=worker, conf=celery.conf)
