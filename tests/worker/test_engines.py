"""What every engine keeps, and what Celery's adds: real brokers, real processes that are killed under load."""

import json
import os
import re
import secrets
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from kombu import Connection
from sqlalchemy.engine import make_url

from flask_webhook_endpoints.core import wakeups
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.testing import drain
from tests.support import celery_host, docs, hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.commands import run_command
from tests.support.database import ENDPOINT, WORKER, execute, rows
from tests.support.deliveries import all_are, in_flight, publish, statuses
from tests.support.inbox import Answer, Arrived, accept, after, hang
from tests.support.proxy import Proxy
from tests.support.waiting import PATIENCE_SECONDS, SLOWNESS, wait_until
from tests.support.workers import Forked, deliver, run_celery, workers

SOAK = int(os.environ.get("WEBHOOK_TESTS_SOAK") or 0)
"""Deliveries of the soak, if there is one."""

FULL = SOAK or "WEBHOOK_TESTS_FULL" in os.environ

ENGINES = sa.select(WORKER.c.engine)

pytestmark = pytest.mark.several_connections

FAST = {"poll_seconds": 0.2, "max_timeout_seconds": 1, "max_in_flight_per_endpoint": 25}
LEASE_MARGIN_SECONDS = 2


class Engine:
    """Celery's or our own processes, for one database."""

    def __init__(self, url: str, broker: str | None, folder: Path) -> None:
        self.url = url
        self.settings: dict[str, Any] = dict(FAST)
        self.queue = f"test_{secrets.token_hex(6)}"
        self.broker = broker
        self.folder = folder
        self.claiming_seconds: float | None = None
        self.proxy: Proxy | None = None
        self.processes: list[Forked] = []
        self.commands: list[subprocess.Popen[bytes]] = []
        if broker is not None:
            where = make_url(broker)
            assert where.host is not None
            self.proxy = Proxy((where.host, where.port or {"amqp": 5672, "redis": 6379}[where.drivername]))
            proxied = where.set(host="127.0.0.1", port=self.proxy.port).render_as_string(hide_password=False)
            self.celery = celery_host.celery_config(proxied, self.queue)

    def make_host(self) -> hosts.Host:
        if self.broker is None:
            return hosts.delivering(self.url, **self.settings)
        return celery_host.make_host(self.url, self.celery, **self.settings)

    def start(self, *args: str) -> Forked:
        """Start a process that delivers; or another command of Celery's."""
        process = self._start_celery(*args) if self.broker else self._start_worker()
        self.processes.append(process)
        return process

    def _start_worker(self) -> Forked:
        return Forked(deliver, self.url, self.settings, lease_margin_seconds=LEASE_MARGIN_SECONDS)

    def _start_celery(self, *args: str) -> Forked:
        given = {
            "url": self.url,
            "celery": self.celery,
            "settings": self.settings,
            "lease_margin_seconds": LEASE_MARGIN_SECONDS,
            "claiming_seconds": self.claiming_seconds,
        }
        command = args or ("worker", "--concurrency=2", "--without-mingle", "--without-gossip")
        # The names of two on one broker must differ.
        name = [f"--hostname={secrets.token_hex(6)}@%h"] if command[0] == "worker" else []
        return Forked(run_celery, given, *command, "--loglevel=WARNING", *name)

    def start_all(self) -> list[Forked]:
        """Start two that deliver, and beat."""
        if self.broker is not None:
            self.start("beat", f"--schedule={self.folder}/beat", "--pidfile=")
        return [self.start(), self.start()]

    def messages(self) -> int:
        """Return how many wakes wait in the queue."""
        with Connection(self.broker) as connection:
            return int(connection.channel().queue_declare(self.queue, durable=True, auto_delete=False).message_count)

    def say_that_celery_was_seen(self, host: hosts.Host, ago: timedelta = timedelta(0)) -> None:
        at = datetime.now(UTC) - ago
        row = {"id": new_id(), "engine": "celery", "hostname": "h", "pid": 1, "started_at": at, "seen_at": at}
        execute(host, sa.insert(WORKER), row)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for command in self.commands:
            kill(command)
        if self.broker is not None:
            wakeups.flush(5)
            assert self.proxy
            self.proxy.close()
            with Connection(self.broker) as connection:
                channel = connection.channel()
                channel.queue_delete(self.queue)


def kill(command: subprocess.Popen[bytes]) -> None:
    """Kill a command and what it has forked."""
    with suppress(ProcessLookupError):
        os.killpg(command.pid, signal.SIGKILL)
    command.wait(PATIENCE_SECONDS)


@pytest.fixture
def engine(database: str, broker: str | None, tmp_path: Path) -> Iterator[Engine]:
    with closing(Engine(database, broker, tmp_path)) as engine:
        yield engine


@pytest.fixture
def host(engine: Engine) -> Iterator[hosts.Host]:
    with closing(engine.make_host()) as host:
        yield host


# Every engine


@pytest.mark.every_engine
def test_commits_are_delivered_retries_included_and_rollbacks_never(engine, host, inbox):
    async def refuse_first(arrived: Arrived) -> Answer:
        return Answer(500 if len(inbox.arrived) == 1 else 200)

    engine.settings |= {"retry_schedule": [0, 0.5], "retry_jitter": 0}
    inbox.answer = refuse_first
    endpoint = create_endpoint(host.client(), inbox.url())
    engine.start_all()
    [retried] = publish(host, "retried")
    wait_until(lambda: len(inbox.arrived) == 2)
    with host.app.app_context():
        host.webhooks.publish("invoice.paid", "rolled back", tenant_id="acme")
        host.db.session.rollback()
    change_endpoint(host.client(), endpoint, status="PAUSED")
    [held] = publish(host, "held")
    change_endpoint(host.client(), endpoint, status="ACTIVE")

    wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED))

    assert [arrived.id for arrived in inbox.arrived] == [retried, retried, held]


@pytest.mark.every_engine
def test_nothing_is_lost_though_processes_are_killed_under_load(engine, host, inbox):
    if SOAK:
        number, endpoints, kills, every = SOAK, 100, 10_000, 10.0
    else:
        # `test_delivery_guarantees` kills the worker as often.
        number, endpoints, kills, every = 2000, 10, 20 if FULL and engine.broker else 3, 2.0
        # Four in a second to each: not all are delivered before the last process is killed.
        engine.settings["max_in_flight_per_endpoint"] = 2
    paths = [f"/{count}" for count in range(endpoints)]
    for path in paths:
        create_endpoint(host.client(), inbox.url(path))
    inbox.answer = after(0.02 if SOAK else 0.5)
    started = time.monotonic()
    processes = engine.start_all()
    ids: list[str] = []
    publisher = threading.Thread(
        target=lambda: [ids.extend(publish(host, *range(10))) for _ in range(number // endpoints // 10)]
    )
    publisher.start()
    wait_until(lambda: inbox.arrived)
    killed = 0
    while killed < kills and (publisher.is_alive() or not all_are(host, DeliveryStatus.DELIVERED)):
        time.sleep(every)
        processes[killed % 2].kill()
        processes[killed % 2] = engine.start()
        killed += 1
    publisher.join()
    assert SOAK or killed == kills
    inbox.answer = accept

    wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED), 3600 if SOAK else 120)

    times = inbox.times()
    assert set(times) == {(path, event_id) for path in paths for event_id in ids}
    assert len(ids) == number // endpoints
    assert len({(arrived.id, arrived.body) for arrived in inbox.arrived}) == len(ids)
    # What was in flight.
    assert times.total() - len(times) <= killed * endpoints * engine.settings["max_in_flight_per_endpoint"]
    print(
        f"{engine.broker or 'worker'}: {len(times)} deliveries, none lost, {killed} kills, "
        f"{times.total() - len(times)} duplicates, {time.monotonic() - started:.0f} s"
    )


@pytest.mark.every_engine
def test_a_pause_holds_and_what_it_held_is_sent_once_and_in_order(engine, host, inbox):
    number, cap = 600, FAST["max_in_flight_per_endpoint"]
    # An attempt that fails is made again later, and so out of order: none may run out of time on a busy machine.
    engine.settings["max_timeout_seconds"] = 30
    endpoint = create_endpoint(host.client(), inbox.url())
    execute(host, sa.update(ENDPOINT).values(timeout_seconds=30))
    inbox.answer = after(0.2)
    engine.start_all()
    ids = publish(host, *range(number))
    wait_until(lambda: len(inbox.arrived) > cap)
    change_endpoint(host.client(), endpoint, status="PAUSED")
    wait_until(lambda: in_flight(host) == 0)
    came = len(inbox.arrived)
    assert came < number

    # More looks of each process than one.
    time.sleep(5 * FAST["poll_seconds"])
    assert len(inbox.arrived) == came
    change_endpoint(host.client(), endpoint, status="ACTIVE")
    wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED))

    order = [arrived.id for arrived in inbox.arrived]
    assert sorted(order) == sorted(ids)
    # Those in flight together arrive in any order.
    assert max(abs(order.index(event_id) - place) for place, event_id in enumerate(ids)) < 2 * cap


@pytest.mark.every_engine
def test_what_pauses_hold_is_sent_though_processes_are_killed_meanwhile(engine, host, inbox):
    # More than a resumption releases.
    number, kills, cap = 450, 6 if FULL else 2, 3
    engine.settings["max_in_flight_per_endpoint"] = cap
    endpoint = create_endpoint(host.client(), inbox.url())
    change_endpoint(host.client(), endpoint, status="PAUSED")
    ids = publish(host, *range(number))
    inbox.answer = after(0.05)
    processes = engine.start_all()
    for turn in range(kills):
        came = len(inbox.arrived)
        change_endpoint(host.client(), endpoint, status="ACTIVE")
        wait_until(lambda came=came: len(inbox.arrived) > came)
        change_endpoint(host.client(), endpoint, status="PAUSED")
        processes[turn % 2].kill()
        processes[turn % 2] = engine.start()
    change_endpoint(host.client(), endpoint, status="ACTIVE")
    wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED), 120)

    times = inbox.times()
    assert set(times) == {("/", event_id) for event_id in ids}
    assert times.total() - number <= kills * cap


# Celery


def test_a_commit_sends_one_wake_and_a_rollback_none(engine, host, inbox):
    engine.say_that_celery_was_seen(host)
    create_endpoint(host.client(), inbox.url())
    with host.app.app_context():
        host.webhooks.publish("invoice.paid", 1, tenant_id="acme")
        host.db.session.rollback()
        host.db.session.execute(sa.text("SELECT 1"))
        host.db.session.commit()
        wakeups.flush()
        assert engine.messages() == 0

        with host.db.session.begin_nested():
            host.webhooks.publish("invoice.paid", 2, tenant_id="acme")
        with suppress(ZeroDivisionError), host.db.session.begin_nested():
            host.webhooks.publish("invoice.paid", 3, tenant_id="acme")
            raise ZeroDivisionError
        wakeups.flush()
        assert engine.messages() == 0
        host.db.session.commit()
        wakeups.flush()

    assert engine.messages() == 1


def test_a_request_that_makes_deliveries_due_wakes_as_well_and_a_pause_does_not(engine, host, inbox):
    engine.say_that_celery_was_seen(host)
    client = host.client()
    endpoint = create_endpoint(host.client(), inbox.url())
    publish(host, 1)
    assert drain(host.app) == 1
    [delivery] = client.get(f"{endpoint.path}/deliveries").json
    wakeups.flush()
    before = engine.messages()
    change_endpoint(host.client(), endpoint, status="PAUSED")
    requests = [
        ("PATCH", endpoint.path, {"status": "ACTIVE"}),
        ("POST", f"{endpoint.path}/deliveries/{delivery['id']}/redeliver", None),
    ]

    for number, (method, where, body) in enumerate([*requests, ("POST", f"{endpoint.path}/ping", None)], start=1):
        assert client.open(where, method=method, json=body).status_code in (200, 202)
        wakeups.flush()
        assert engine.messages() == before + number, where


def test_wakes_and_messages_of_beat_expire_within_a_minute(engine, host, inbox):
    engine.say_that_celery_was_seen(host)
    create_endpoint(host.client(), inbox.url())
    engine.start("beat", f"--schedule={engine.folder}/beat", "--pidfile=")
    wait_until(lambda: engine.messages() == 1)
    publish(host)
    wakeups.flush()

    with Connection(engine.broker) as connection:
        queue = connection.SimpleQueue(engine.queue)
        headers = [queue.get(timeout=5).headers for _ in range(2)]
        queue.close()
    expire_in = [datetime.fromisoformat(each["expires"]) - datetime.now(UTC) for each in headers]
    assert max(expire_in) <= timedelta(minutes=1)


def test_a_celery_that_is_stopped_ends_within_the_timeout_and_five_seconds(engine, host, inbox):
    inbox.answers["/hang"] = hang
    inbox.answer = after(0.3)
    create_endpoint(host.client(), inbox.url("/hang"), timeout_seconds=1)
    create_endpoint(host.client(), inbox.url("/slow"), timeout_seconds=1)
    # More than it sends in a minute.
    publish(host, *range(2500))
    process = engine.start("worker", "--concurrency=1", "--without-mingle", "--without-gossip")
    wakeups.flush()
    wait_until(lambda: len(inbox.at("/slow")) > 50)

    process.terminate()
    began = time.monotonic()
    process.wait(60)

    print(f"It ended after {time.monotonic() - began:.1f} s.")
    assert time.monotonic() - began < engine.settings["max_timeout_seconds"] + 5
    assert in_flight(host) == 0


def test_attempts_that_outlast_their_task_end_before_a_celery_that_is_stopped(engine, host, inbox):
    engine.claiming_seconds = 1
    inbox.answer = after(3)
    engine.settings["max_timeout_seconds"] = 5
    with closing(engine.make_host()) as patient:
        create_endpoint(patient.client(), inbox.url(), timeout_seconds=5)
    publish(host, 1)
    process = engine.start("worker", "--concurrency=1", "--without-mingle", "--without-gossip")
    wakeups.flush()
    wait_until(lambda: inbox.arrived)
    # The task is over then, and the process idle.
    time.sleep(1.5)
    assert in_flight(host) == 1

    process.terminate()

    assert process.wait(60) == 0
    assert statuses(host) == {"DELIVERED": 1}


@pytest.mark.parametrize("processes", [1, 2])
def test_tasks_of_the_host_run_beside_receivers_that_hang(engine, host, inbox, processes):
    engine.claiming_seconds = 2
    engine.settings["max_timeout_seconds"] = 20
    inbox.answer = hang
    with closing(engine.make_host()) as patient:
        for number in range(3):
            create_endpoint(patient.client(), inbox.url(f"/{number}"), timeout_seconds=20)
    celery, notes, took = host.app.extensions["celery"], engine.folder / "notes", []
    publish(host, 0)
    engine.start("worker", f"--concurrency={processes}", "--without-mingle", "--without-gossip")
    engine.start("beat", f"--schedule={engine.folder}/beat", "--pidfile=")
    wait_until(lambda: inbox.arrived)

    for number in range(1, 51 if processes > 1 else 11):
        publish(host, number)
        sent = time.time()
        celery.send_task(celery_host.NOTE, [str(notes)])
        wait_until(lambda number=number: notes.exists() and len(notes.read_text().split()) == number)
        took.append(float(notes.read_text().split()[-1]) - sent)

    print(f"{engine.broker}, {processes} processes: a task of the host's waits for {max(took) * 1000:.0f} ms at most")
    assert max(took) < (0.5 if processes > 1 else engine.claiming_seconds + 0.5) * SLOWNESS


def test_a_thousand_commits_are_a_few_wakes(engine, host, inbox):
    engine.say_that_celery_was_seen(host)
    create_endpoint(host.client(), inbox.url())
    started = time.monotonic()
    for count in range(1000 if SOAK else 200):
        publish(host, count)
    seconds = time.monotonic() - started
    wakeups.flush()

    assert 1 <= engine.messages() <= seconds / wakeups.INTERVAL_SECONDS + 2


def test_at_most_one_message_waits_in_a_queue_of_our_own(engine, host, inbox):
    engine.celery["task_routes"] = {"flask_webhook_endpoints.*": {"queue": engine.queue}}
    engine.celery["task_default_queue"] = f"{engine.queue}_of_the_host"
    with closing(engine.make_host()) as own:
        engine.say_that_celery_was_seen(own)
        create_endpoint(own.client(), inbox.url())
        for count in range(10):
            publish(own, count)
            wakeups.flush()
            assert engine.messages() == 1
        with Connection(engine.broker) as connection:
            connection.channel().queue_purge(engine.queue)
        publish(own)
        wakeups.flush()

    assert engine.messages() == 1


def test_a_broker_that_no_celery_of_ours_listens_to_does_not_fill(engine, host, inbox, monkeypatch):
    monkeypatch.setattr(wakeups, "LOOK_SECONDS", 0)
    create_endpoint(host.client(), inbox.url())

    def publish_in_vain(expected: int) -> None:
        for _ in range(3):
            publish(host)
            wakeups.flush()
            # The thread ends meanwhile.
            time.sleep(wakeups.INTERVAL_SECONDS)
            assert engine.messages() == expected

    publish_in_vain(0)
    # A Celery that has died gets one, in case it runs without a beat.
    engine.say_that_celery_was_seen(host, timedelta(hours=1))
    publish_in_vain(1)
    monkeypatch.setattr(wakeups, "IDLE_SECONDS", 0)
    publish_in_vain(1)
    engine.say_that_celery_was_seen(host)
    publish(host)
    wakeups.flush()
    assert engine.messages() == 2


def test_a_broker_that_goes_silent_is_warned_of_and_woken_when_it_is_back(engine, host, inbox, caplog):
    engine.say_that_celery_was_seen(host)
    create_endpoint(host.client(), inbox.url())
    publish(host)
    wakeups.flush()
    assert engine.messages() == 1

    # While the connection is open.
    engine.proxy.hang()
    publish(host)
    wait_until(lambda: "webhooks.not_woken" in [record.msg for record in caplog.records])
    engine.proxy.restore()

    wait_until(lambda: engine.messages() == 2)
    assert [record.msg for record in caplog.records].count("webhooks.not_woken") == 1


@pytest.mark.parametrize("mode", ["dropped", "hanging"])
def test_while_the_broker_is_away_no_commit_fails_or_waits_and_nothing_is_lost(engine, host, inbox, mode):
    create_endpoint(host.client(), inbox.url())
    engine.start_all()
    publish(host, "before")
    wait_until(lambda: inbox.arrived)
    seconds = 30 if SOAK else 3
    took = []

    engine.proxy.cut(mode)
    away_until = time.monotonic() + seconds
    number = 1
    while time.monotonic() < away_until:
        started = time.monotonic()
        publish(host, number)
        took.append(time.monotonic() - started)
        number += 1
        time.sleep(0.01)
    engine.proxy.restore()
    publish(host, "after")

    wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED), 90)
    print(f"{engine.broker}: {number} published, {seconds} s without broker, slowest commit {max(took) * 1000:.0f} ms")
    assert max(took) < SLOWNESS
    assert len(inbox.times()) == number + 1


def test_worker_and_celery_take_turns_there_and_back_and_share_the_rows_at_once(engine, database, host, inbox):
    paths = [f"/{count}" for count in range(5)]
    for path in paths:
        create_endpoint(host.client(), inbox.url(path))
    inbox.answer = after(0.01)
    ids = publish(host, *range(40))
    with workers(1, database, engine.settings):
        wait_until(lambda: len(inbox.arrived) > 20)
    came = len(inbox.arrived)
    ids += publish(host, *range(40))
    engine.start_all()
    wait_until(lambda: len(inbox.arrived) > came + 20)
    # What a process has begun it finishes; the rest is the worker's again.
    for process in engine.processes:
        process.terminate()
    for process in engine.processes:
        process.wait(PATIENCE_SECONDS)
    ids += publish(host, *range(40))
    assert statuses(host)[DeliveryStatus.PENDING] >= 200
    with workers(1, database, engine.settings):
        wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED))
    engine.start_all()
    with workers(1, database, engine.settings):
        ids += publish(host, *range(40))
        wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED))

    assert inbox.times() == {(path, event_id): 1 for path in paths for event_id in ids}


def test_what_the_page_on_celery_tells_to_run_delivers_and_ends_cleanly(engine, host, inbox):
    page = (docs.ROOT / "docs" / "celery.md").read_text()
    for example in docs.examples(docs.ROOT / "docs" / "celery.md"):
        # A queue of this test alone.
        code = example.code.replace("redis://localhost", engine.broker).replace('"webhooks"}', f'"{engine.queue}"}}')
        with (engine.folder / (example.file or "make_celery.py")).open("a") as file:
            file.write(code)
    pushed = "import make_celery, shop; make_celery.flask_app.app_context().push(); "
    publish = "shop.webhooks.publish('invoice.paid', {}, tenant_id='acme'); shop.db.session.commit()"
    environment = {
        **os.environ,
        "FLASK_SECRET_KEY": "host secret",
        "FLASK_SQLALCHEMY_DATABASE_URI": engine.url,
        "FLASK_WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS": json.dumps(hosts.LOOPBACK),
    }

    def run(*command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=engine.folder, env=environment, start_new_session=True
        )
        engine.commands.append(process)
        return process

    assert run("-c", f"{pushed}shop.db.create_all()").wait(PATIENCE_SECONDS) == 0
    create_endpoint(host.client(), inbox.url())
    commands = re.findall(r"^\$ (celery .+)$", page, re.MULTILINE)
    assert len(commands) == 2
    started = [run("-m", *shlex.split(command.replace("webhooks", engine.queue))) for command in commands]
    wait_until(lambda: any(row.engine == "celery" for row in rows(host, ENGINES)))
    assert run("-c", pushed + publish).wait(PATIENCE_SECONDS) == 0
    wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED))
    for process in started:
        process.terminate()

    assert [process.wait(PATIENCE_SECONDS) for process in started] == [0, 0]
    assert [arrived.path for arrived in inbox.arrived] == ["/"]


# Every engine, again


@pytest.mark.every_engine
def test_an_idle_engine_soon_sends_what_is_committed(engine, host, inbox):
    if engine.broker is not None:
        engine.start_all()
    else:
        engine.commands.append(flask_worker(engine))
    create_endpoint(host.client(), inbox.url())
    publish(host, "first")
    wait_until(lambda: inbox.arrived)
    took = []
    for count in range(30):
        time.sleep(0.15)
        publish(host, count)
        committed = time.monotonic()
        wait_until(lambda count=count: len(inbox.arrived) == count + 2)
        took.append(inbox.arrived[-1].at - committed)

    print(f"{engine.broker or 'worker'}: commit to arrival, median {statistics.median(took) * 1000:.0f} ms")
    # Beat alone, every five seconds, has a median of more than two seconds.
    assert statistics.median(took) < 0.25 * SLOWNESS


def flask_worker(engine: Engine) -> subprocess.Popen[bytes]:
    """Start `flask webhooks worker`, which looks as often as it does by default."""
    config = {"url": engine.url, "celery": {}, "settings": {"max_timeout_seconds": 1}}
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "tests.support.celery_host:flask_app", "webhooks", "worker"],
        env={**os.environ, "CELERY_HOST": json.dumps(config), "PYTHONPATH": str(docs.ROOT)},
        cwd=docs.ROOT,
        start_new_session=True,
    )


def of_celery(host: hosts.Host) -> dict[str, tuple[str, str]]:
    """Return level and message of what doctor finds of Celery at work."""
    findings = run_command(host, "doctor", "--json").stdout
    shown = [each for each in json.loads(findings) if each["check"] in ("broker", "consumers", "beat")]
    return {each["check"]: (each["level"], each["message"]) for each in shown}


def test_doctor_tells_nobody_on_the_queue_no_beat_and_no_broker_apart(engine, host, inbox):
    with host.app.app_context():
        host.db.create_all()
    assert of_celery(host) == {
        "consumers": ("fail", f"no Celery worker takes from the queue {engine.queue!r}, so no task of ours runs")
    }

    engine.start()
    wait_until(lambda: of_celery(host).get("consumers") == ("ok", f"1 take from the queue {engine.queue!r}"))
    # At its start, the worker has run a task by itself.
    execute(host, sa.update(WORKER).values(seen_at=datetime.now(UTC) - timedelta(minutes=2)))
    level, message = of_celery(host)["beat"]
    assert (level, message.rpartition(": ")[2]) == ("warn", "beat does not run")

    engine.start("beat", f"--schedule={engine.folder}/beat", "--pidfile=")
    wait_until(lambda: list(of_celery(host)) == ["consumers"])

    engine.proxy.close()
    assert of_celery(host)["broker"][0] == "fail"
