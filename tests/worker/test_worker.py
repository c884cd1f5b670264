"""`flask webhooks worker`: the real process, and the engine in it, against real receivers and databases."""

import asyncio
import dataclasses
import gc
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

import flask_webhook_endpoints
from flask_webhook_endpoints import testing
from flask_webhook_endpoints.core import attempts, leases, marks
from flask_webhook_endpoints.core.leases import Claim
from flask_webhook_endpoints.core.marks import COLD_CAP
from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.security.encryption import Cipher, derive_key
from flask_webhook_endpoints.state import EXTENSION, state_of
from flask_webhook_endpoints.worker import loop
from flask_webhook_endpoints.worker.attempt import Courier
from flask_webhook_endpoints.worker.http_client import Answer, Sender
from flask_webhook_endpoints.worker.loop import Worker
from flask_webhook_endpoints.worker.process import GARBAGE_THRESHOLD, collecting_rarely
from tests.support import deliveries, hosts
from tests.support.api import create_endpoint
from tests.support.commands import run_command
from tests.support.database import DELIVERY, ENDPOINT, EVENT, QUEUE, REST, SECRET, engine_of, execute, on_sqlite, rows
from tests.support.deliveries import attempts_of, in_flight, publish, set_due, statuses
from tests.support.names import NameServer
from tests.support.proxy import Proxy
from tests.support.receivers import Receivers
from tests.support.waiting import PATIENCE_SECONDS, SLOWNESS, wait_until

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK, poll_seconds=0.05)

HOST = """
import os
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_webhook_endpoints import WebhookEndpoints

db = SQLAlchemy()
webhooks = WebhookEndpoints(session=db.session, tenant=lambda: "acme", metadata=db.metadata)
app = Flask("host")
app.config.from_prefixed_env()
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
db.init_app(app)
app.register_blueprint(webhooks.blueprint)
"""

Start = Callable[..., subprocess.Popen[str]]


class Held:
    """A receiver that holds its answers until it is released."""

    def __init__(self, receivers: Receivers) -> None:
        self._released = threading.Event()
        self.receiver = receivers.start(self._answer)
        self.url = f"http://127.0.0.1:{self.receiver.port}/"

    @property
    def ids(self) -> list[str]:
        """The `webhook-id` of every request that has come."""
        return [
            line.partition(b": ")[2].decode()
            for request in list(self.receiver.requests)
            for line in request.split(b"\r\n")
            if line.lower().startswith(b"webhook-id:")
        ]

    def release(self) -> None:
        self._released.set()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        while not self._released.is_set():
            await asyncio.sleep(0.01)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()


@pytest.fixture
def held() -> Iterator[Held]:
    with closing(Receivers()) as receivers:
        yield Held(receivers)


@pytest.fixture
def start(database: str, tmp_path: Path) -> Iterator[Start]:
    """Starts `flask webhooks worker` in a process, and ends what is left of it."""
    (tmp_path / "host.py").write_text(HOST)
    started: list[subprocess.Popen[str]] = []

    def start(*args: str, url: str = database, **settings: Any) -> subprocess.Popen[str]:
        settings = {"ALLOWED_NETWORKS": hosts.LOOPBACK, "POLL_SECONDS": 0.05, **settings}
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", str(tmp_path / "host.py"), "webhooks", "worker", *args],
            env={
                **os.environ,
                "DATABASE_URL": url,
                "FLASK_SECRET_KEY": "host secret",
                "PYTHONPATH": str(Path(flask_webhook_endpoints.__file__).parent.parent),
                **{f"FLASK_WEBHOOK_ENDPOINTS_{name}": json.dumps(value) for name, value in settings.items()},
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def in_thread(host: hosts.Host) -> Iterator[Callable[[Worker], "Future[int]"]]:
    """Runs a worker in a thread, and stops it at last."""
    running: list[tuple[asyncio.AbstractEventLoop, Worker, Future[int]]] = []

    def begin(worker: Worker) -> "Future[int]":
        event_loop = asyncio.new_event_loop()
        future = executor.submit(event_loop.run_until_complete, worker.run())
        running.append((event_loop, worker, future))
        return future

    with ThreadPoolExecutor() as executor:
        yield begin
        for event_loop, started, future in running:
            if not future.done():
                event_loop.call_soon_threadsafe(started.stop)
                future.result(PATIENCE_SECONDS)
            event_loop.close()


@pytest.fixture
def collector_untouched() -> Iterator[None]:
    yield
    gc.freeze()


@pytest.mark.several_connections
def test_a_worker_delivers_what_is_published_while_it_runs_and_says_so_without_secrets(host, start, webhook_receiver):
    create_endpoint(
        host.client(), webhook_receiver.url, secret="my own secret key", headers_json={"X-Key": "header value"}
    )
    webhook_receiver.answer(500, 200)
    process = start(RETRY_SCHEDULE=[0, 0])
    publish(host, "data of an event")
    wait_until(lambda: statuses(host) == Counter(DELIVERED=1))
    publish(host, *["data of an event"] * 3)
    wait_until(lambda: statuses(host) == Counter(DELIVERED=4))

    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 0
    for received in webhook_receiver.received:
        received.verify("my own secret key")
    lines = said.splitlines()
    assert len(lines) == 3, said
    assert "INFO webhooks.worker_started worker=" in lines[0]
    assert "WARNING webhooks.attempt_failed delivery_id=dlv_" in lines[1]
    assert f" event_id={webhook_receiver.received[0].id} " in lines[1]
    assert "response_status=500" in lines[1]
    assert "INFO webhooks.worker_stopped worker=" in lines[2]
    assert lines[2].endswith("attempts=5")
    for hidden in ("my own secret key", "header value", "host secret", "data of an event"):
        assert hidden not in said


@pytest.mark.slow
@pytest.mark.several_connections
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_finishes_what_is_under_way_and_claims_no_more(host, start, held, number):
    for event_type, count in (("a", 3), ("b", 2)):
        create_endpoint(host.client(), held.url, event_types=[event_type])
        publish(host, *range(count), event_type=event_type)
    process = start("--concurrency", "3")
    wait_until(lambda: len(held.ids) == 3)

    process.send_signal(number)
    time.sleep(SLOWNESS * 0.2)
    held.release()
    _, said = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 0, said
    assert len(held.ids) == 3
    assert statuses(host) == Counter(DELIVERED=3, PENDING=2)
    assert run_command(host, "worker", "--drain").exit_code == 0
    assert len(set(held.ids)) == len(held.ids) == 5
    assert statuses(host) == Counter(DELIVERED=5)


def test_what_was_claimed_and_not_begun_when_a_worker_stops_is_given_back_and_not_sent(host, webhook_receiver):
    for _ in range(20):
        create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(10))

    class Stopping(Worker):
        def _next(self) -> Claimed:
            self.stop()
            return super()._next()

    begun = asyncio.run(Stopping(host.app).run())

    assert 1 <= begun <= 50
    assert statuses(host) == Counter(DELIVERED=begun, PENDING=200 - begun)
    assert Counter(rows(host, sa.select(DELIVERY.c.status, DELIVERY.c.attempts))) == Counter(
        {("DELIVERED", 1): begun, ("PENDING", 0): 200 - begun}
    )


def test_attempts_that_send_nothing_leave_the_loop_its_turns(host):
    for _ in range(31):
        create_endpoint(host.client(), "http://127.0.0.1:1025/")
    publish(host, *range(10))
    # Refused by now.
    execute(host, sa.update(ENDPOINT).values(url="http://10.0.0.1/"))
    turns, begun_in = 0, Counter[int]()

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    class Counted(Worker):
        def _next(self) -> Claimed:
            begun_in[turns] += 1
            return super()._next()

    async def run() -> int:
        turn()
        return await Counted(host.app).run("once")

    assert asyncio.run(run()) == 310 == begun_in.total()
    assert max(begun_in.values()) == 1


@pytest.mark.parametrize("has_host_frozen", [False, True])
def test_a_worker_collects_garbage_seldom_and_leaves_python_as_it_was(has_host_frozen, collector_untouched):
    if not has_host_frozen:
        gc.unfreeze()
    before = gc.get_threshold()

    with collecting_rarely():
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] == GARBAGE_THRESHOLD

    # Not the number: a frozen object that nothing refers to is gone, whoever has frozen it.
    assert (gc.get_freeze_count() > 0) is has_host_frozen
    assert gc.get_threshold() == before


@pytest.mark.slow
@pytest.mark.several_connections
def test_a_second_signal_ends_at_once(host, start, held):
    create_endpoint(host.client(), held.url)
    publish(host)
    process = start()
    wait_until(lambda: held.ids)

    process.send_signal(signal.SIGTERM)
    time.sleep(SLOWNESS * 0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)

    assert process.wait(PATIENCE_SECONDS) == -signal.SIGTERM
    held.release()


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    with closing(NameServer()) as server:
        yield server


@pytest.mark.slow
@pytest.mark.several_connections
def test_names_that_hang_delay_neither_other_deliveries_nor_the_end(
    host, start, webhook_receiver, tmp_path, name_server
):
    (tmp_path / "host.py").write_text(f"from tests.support import names\nnames.ask({name_server.port})\n{HOST}")
    for number in range(10):
        create_endpoint(host.client(), f"http://hang{number}.test/", timeout_seconds=1)
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(2))
    process = start("--concurrency", "20", MAX_TIMEOUT_SECONDS=SLOWNESS)
    wait_until(lambda: statuses(host) == Counter(DELIVERED=2, PENDING=20))
    publish(host)
    wait_until(lambda: statuses(host)["DELIVERED"] == 3)

    process.send_signal(signal.SIGTERM)

    # The names hang for an hour.
    assert process.wait(PATIENCE_SECONDS) == 0
    wait_until(lambda: statuses(host) == Counter(DELIVERED=3, PENDING=30))
    assert {error for _, error in attempts_of(host)} == {None, "timeout"}


@pytest.mark.several_connections
def test_what_keeps_a_worker_from_recording_ends_it_loudly(host, webhook_receiver, in_thread, monkeypatch):
    monkeypatch.setattr(loop, "RECORDING_SECONDS", 0.2)

    def refuse(record: logging.LogRecord) -> bool:
        # As a host's own may, which expects what our records do not have.
        if record.msg == "webhooks.endpoint_paused":
            raise LookupError("no request")
        return True

    log = logging.getLogger("flask_webhook_endpoints.recorder")
    log.addFilter(refuse)
    try:
        create_endpoint(host.client(), webhook_receiver.url)
        webhook_receiver.answer(410)
        publish(host)

        with pytest.raises(LookupError, match="no request"):
            in_thread(Worker(host.app)).result(PATIENCE_SECONDS)
    finally:
        log.removeFilter(refuse)


@pytest.mark.several_connections
def test_what_passes_the_deadline_of_a_stop_is_given_back_and_does_not_count(host, held, in_thread, monkeypatch):
    monkeypatch.setattr(loop, "STOP_MARGIN_SECONDS", -29.7)
    for _ in range(3):
        create_endpoint(host.client(), held.url)
    publish(host)
    engine = Worker(host.app)
    done = in_thread(engine)
    wait_until(lambda: len(held.ids) == 3)

    engine.stop()

    assert done.result(PATIENCE_SECONDS) == 3
    assert [tuple(row) for row in rows(host, sa.select(DELIVERY.c.status, DELIVERY.c.attempts))] == [("PENDING", 0)] * 3
    assert attempts_of(host) == []
    held.release()
    assert testing.drain(host.app) == 3
    assert statuses(host) == Counter(DELIVERED=3)


@pytest.mark.several_connections
def test_what_a_stop_finds_claimed_and_not_begun_is_given_back_at_once(host, webhook_receiver, in_thread, monkeypatch):
    claimed, go_on = threading.Event(), threading.Event()
    claim = leases.claim

    def slow_claim(*args: Any, **options: Any) -> Claim:
        found = claim(*args, **options)
        claimed.set()
        go_on.wait(PATIENCE_SECONDS)
        return found

    monkeypatch.setattr(leases, "claim", slow_claim)
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host)
    engine = Worker(host.app)
    done = in_thread(engine)
    assert claimed.wait(PATIENCE_SECONDS)

    engine.stop()
    go_on.set()

    assert done.result(PATIENCE_SECONDS) == 0
    assert webhook_receiver.received == []
    assert [tuple(row) for row in rows(host, sa.select(DELIVERY.c.status, DELIVERY.c.attempts))] == [("PENDING", 0)]


@pytest.mark.several_connections
def test_what_was_claimed_beside_a_record_when_a_worker_stops_is_given_back_and_not_sent(
    host, webhook_receiver, in_thread, monkeypatch
):
    claimed, go_on, calls = threading.Event(), threading.Event(), iter(range(100))
    claim = leases.claim

    def slow_second_claim(*args: Any, **options: Any) -> Claim:
        found = claim(*args, **options)
        if next(calls) == 1:
            claimed.set()
            go_on.wait(PATIENCE_SECONDS)
        return found

    monkeypatch.setattr(leases, "claim", slow_second_claim)
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(3))
    # There is no room for a claim before the first is recorded.
    engine = Worker(host.app, concurrency=1)
    done = in_thread(engine)
    assert claimed.wait(PATIENCE_SECONDS)

    engine.stop()
    go_on.set()

    assert done.result(PATIENCE_SECONDS) == 1
    assert len(webhook_receiver.received) == 1
    assert Counter(rows(host, sa.select(DELIVERY.c.status, DELIVERY.c.attempts))) == Counter(
        {("DELIVERED", 1): 1, ("PENDING", 0): 2}
    )


@pytest.mark.several_connections
def test_a_claim_that_fails_keeps_no_answer_from_being_recorded(host, held, in_thread, caplog):
    create_endpoint(host.client(), held.url)
    publish(host, *range(3))
    in_thread(Worker(host.app, concurrency=1))
    wait_until(lambda: len(held.ids) == 1)

    # A claim reads the secrets, a record does not.
    execute(host, sa.text("ALTER TABLE webhook_secret RENAME TO webhook_secret_away"))
    held.release()

    wait_until(lambda: statuses(host) == Counter(DELIVERED=1, PENDING=2))
    wait_until(lambda: "webhooks.not_claimed" in [record.msg for record in caplog.records])
    execute(host, sa.text("ALTER TABLE webhook_secret_away RENAME TO webhook_secret"))
    wait_until(lambda: statuses(host) == Counter(DELIVERED=3))
    assert len(set(held.ids)) == len(held.ids) == 3


def test_drain_ends_when_nothing_is_due(host, webhook_receiver):
    assert run_command(host, "worker", "--drain").exit_code == 0
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(25))
    webhook_receiver.answer(500, 200)

    drained = run_command(host, "worker", "--drain", "--batch", "10")

    assert (drained.exit_code, drained.exception) == (0, None)
    assert len(webhook_receiver.received) == 25
    assert statuses(host) == Counter(DELIVERED=24, PENDING=1)


@pytest.mark.parametrize(("concurrency", "batch"), [(1000, 500), (5, 2), (2, 500)])
def test_nothing_that_is_due_waits_for_the_next_look(host, webhook_receiver, concurrency, batch):
    look_seldom(host)
    for _ in range(3):
        create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(25))

    async def drain() -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await Worker(host.app, concurrency=concurrency, batch=batch).run("drained")

    assert asyncio.run(drain()) == 75
    assert statuses(host) == Counter(DELIVERED=75)


def test_a_drain_goes_on_behind_what_it_cancels(host, webhook_receiver):
    look_seldom(host)
    for _ in range(2):
        create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(2))
    execute(host, sa.delete(SECRET))
    execute(host, sa.delete(ENDPOINT))
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(5))

    async def drain() -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await Worker(host.app, batch=2).run("drained")

    assert asyncio.run(drain()) == 5
    assert statuses(host) == Counter(CANCELLED=4, DELIVERED=5)


@pytest.mark.several_connections
def test_a_worker_looks_again_at_once_behind_what_another_one_took(host, webhook_receiver, in_thread):
    look_seldom(host)
    for _ in range(8):
        create_endpoint(host.client(), webhook_receiver.url)
    publish(host)
    state = state_of(host.app)
    with host.app.app_context():
        taken = deliveries.claim(state.scope(), most=4).deliveries
        in_thread(Worker(host.app, batch=4))
        # Long enough for a look that passes by.
        time.sleep(0.5)
        host.db.session.commit()

    wait_until(lambda: statuses(host) == Counter(PENDING=4, DELIVERED=4) and in_flight(host) == 4)
    assert len(taken) == 4


@contextmanager
def locked(host: hosts.Host) -> Iterator[None]:
    """Hold the locks of all that is in the queue, as a transaction of the host's may."""
    with engine_of(host).connect() as connection:
        connection.execute(sa.select(QUEUE.c.delivery_id).with_for_update()).all()
        yield


@pytest.mark.several_connections
@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.parametrize("in_time", [True, False])
def test_a_drain_waits_a_while_for_what_others_hold(host, webhook_receiver, in_time):
    look_seldom(host)
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(2))

    with ThreadPoolExecutor(1) as executor:
        with locked(host):
            drained = executor.submit(lambda: asyncio.run(Worker(host.app).run("drained")))
            if in_time:
                time.sleep(1)
                assert not drained.done()
            else:
                wait_until(drained.done)
        assert drained.result(PATIENCE_SECONDS) == (2 if in_time else 0)


@pytest.mark.several_connections
@pytest.mark.only_on("postgresql", "mariadb")
def test_what_others_hold_for_long_is_looked_at_seldom(host, webhook_receiver, in_thread, monkeypatch):
    look_seldom(host)
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host)
    looks: list[float] = []
    claim = leases.claim

    def watched(*args: Any, **options: Any) -> Claim:
        looks.append(time.monotonic())
        return claim(*args, **options)

    with locked(host):
        monkeypatch.setattr(leases, "claim", watched)
        in_thread(Worker(host.app))
        wait_until(lambda: len(looks) == 5)

    gaps = [later - earlier for earlier, later in pairwise(looks)]
    assert all(gap >= planned for gap, planned in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=True))
    wait_until(lambda: statuses(host) == Counter(DELIVERED=1))


@pytest.mark.several_connections
def test_all_that_caps_let_be_in_flight_is_though_a_batch_is_less(host, in_thread, monkeypatch):
    look_seldom(host)
    # As if each endpoint had answered before.
    monkeypatch.setattr(marks, "COLD_CAP", 10)
    released, arrived = threading.Event(), iter(range(1000))

    async def hold(writer: asyncio.StreamWriter) -> None:
        if next(arrived) < 30:
            while not released.is_set():
                await asyncio.sleep(0.01)
        else:
            await asyncio.sleep(PATIENCE_SECONDS)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    with closing(Receivers()) as receivers:
        receiver = receivers.start(hold)
        for _ in range(3):
            create_endpoint(host.client(), f"http://127.0.0.1:{receiver.port}/", timeout_seconds=30)
        publish(host, *range(15))
        in_thread(Worker(host.app, batch=4))
        wait_until(lambda: len(receiver.requests) == 30)

        released.set()

        # Well before an attempt times out.
        wait_until(lambda: len(receiver.requests) == 45, seconds=20)
    wait_until(lambda: statuses(host)["DELIVERED"] == 30)


def look_seldom(host: hosts.Host) -> None:
    state = state_of(host.app)
    settings = dataclasses.replace(state.settings, poll_seconds=3600)
    host.app.extensions[EXTENSION] = dataclasses.replace(state, settings=settings)


def test_once_attempts_one_batch(host, webhook_receiver):
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(5))

    assert run_command(host, "worker", "--once", "--batch", "3").exit_code == 0

    assert len(webhook_receiver.received) == 3
    assert statuses(host) == Counter(DELIVERED=3, PENDING=2)


@on_sqlite
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--once", "--drain"), "--once and --drain exclude each other"),
        (("--concurrency", "0"), "Invalid value for '--concurrency'"),
        (("--concurrency", "10001"), "Invalid value for '--concurrency'"),
        (("--batch", "0"), "Invalid value for '--batch'"),
        (("--batch", "1001"), "Invalid value for '--batch'"),
    ],
)
def test_options_out_of_range_are_named(host, args, message):
    result = run_command(host, "worker", *args)

    assert result.exit_code == 2
    assert message in result.output


def test_without_aiohttp_the_worker_names_the_extra(host, monkeypatch):
    wing = importlib.import_module("flask_webhook_endpoints.worker")
    for name in ("process", "loop", "attempt", "http_client"):
        monkeypatch.delitem(sys.modules, f"flask_webhook_endpoints.worker.{name}", raising=False)
        monkeypatch.delattr(wing, name, raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    result = run_command(host, "worker", "--drain")

    assert result.exit_code == 1
    assert "pip install 'flask-webhook-endpoints[worker]'" in result.output


@pytest.mark.parametrize("option", ["--drain", "--once"])
def test_a_run_that_ends_by_itself_fails_where_it_can_not_look(host, option):
    with host.app.app_context():
        host.db.drop_all()

    result = run_command(host, "worker", option)

    assert result.exit_code == 1
    assert "Error: The database refused: " in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.several_connections
def test_a_worker_waits_for_tables_that_are_not_there_yet(host, webhook_receiver, in_thread, caplog):
    with host.app.app_context():
        host.db.drop_all()
    in_thread(Worker(host.app))
    wait_until(lambda: "webhooks.not_claimed" in [record.msg for record in caplog.records])
    (why, *_) = [vars(record)["webhooks.error"] for record in caplog.records if record.msg == "webhooks.not_claimed"]
    assert "or `flask webhooks db upgrade`." in why

    with host.app.app_context():
        host.db.create_all()
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host)

    wait_until(lambda: statuses(host) == Counter(DELIVERED=1))


@pytest.mark.only_on("postgresql", "mariadb")
def test_a_worker_outlives_its_database_and_sends_nothing_twice(database, host, start, webhook_receiver, held):
    url = make_url(database)
    default = {"postgresql": 5432, "mysql": 3306}[url.get_backend_name()]
    with closing(Proxy((str(url.host), url.port or default))) as proxy:
        proxied = url.set(host="127.0.0.1", port=proxy.port)
        create_endpoint(host.client(), held.url)
        publish(host, *range(2))
        process = start(url=proxied.render_as_string(hide_password=False))
        wait_until(lambda: len(held.ids) == 2)

        proxy.cut()
        held.release()
        create_endpoint(host.client(), webhook_receiver.url)
        publish(host, *range(2))
        # The leases end during the outage.
        set_due(host, datetime.now(UTC), QUEUE.c.state == "LEASED")
        time.sleep(0.5)
        assert process.poll() is None
        proxy.restore()

        wait_until(lambda: statuses(host) == Counter(DELIVERED=6))
        assert len(set(held.ids)) == len(held.ids) == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0


# The attempt had begun before the endpoint asked for rest, and its result ended none: all others waited for a sweep.
@pytest.mark.several_connections
def test_an_attempt_that_outlives_its_lease_may_try_out_an_endpoint_that_rests(host, held, in_thread):
    endpoint = create_endpoint(host.client(), held.url)
    publish(host)
    in_thread(Worker(host.app))
    wait_until(lambda: held.ids)
    now = datetime.now(UTC)
    execute(host, sa.insert(REST).values(endpoint_id=endpoint.uuid, until=now + timedelta(hours=1), times=1))
    publish(host, *range(2))
    states = sa.select(QUEUE.c.state)
    wait_until(lambda: {state for (state,) in rows(host, states)} == {"HELD", "LEASED", "WAITING"})
    # As if the delivery that was to try it out had failed for good.
    execute(host, sa.update(QUEUE).where(QUEUE.c.state == "WAITING").values(state="HELD", due_at=now))
    execute(host, sa.update(REST).values(until=now))

    set_due(host, now, QUEUE.c.state == "LEASED")
    wait_until(lambda: rows(host, states.where(QUEUE.c.state == "LEASED", QUEUE.c.due_at > now)) != [])
    held.release()

    # Long before the next sweep.
    wait_until(lambda: statuses(host) == Counter(DELIVERED=3), 20)
    assert len(set(held.ids)) == len(held.ids) == 3


@pytest.mark.only_on("postgresql", "mariadb")
def test_a_worker_stops_although_its_database_is_away(database, host, held, in_thread, monkeypatch):
    monkeypatch.setattr(loop, "RECORDING_SECONDS", 0.2)
    url = make_url(database)
    default = {"postgresql": 5432, "mysql": 3306}[url.get_backend_name()]
    with closing(Proxy((str(url.host), url.port or default))) as proxy:
        proxied = hosts.flask_sqlalchemy(
            url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False),
            allowed_networks=hosts.LOOPBACK,
        )
        create_endpoint(host.client(), held.url)
        publish(host)
        engine = Worker(proxied.app)
        done = in_thread(engine)
        wait_until(lambda: held.ids)

        proxy.cut()
        held.release()
        engine.stop()

        assert done.result(PATIENCE_SECONDS) == 1
        proxied.close()
    assert in_flight(host) == 1


@pytest.mark.only_on("postgresql")
def test_a_worker_holds_one_connection(database, host, start, webhook_receiver):
    url = make_url(database).update_query_dict({"application_name": f"worker {new_id()}"})
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(50))
    start(url=url.render_as_string(hide_password=False))
    theirs = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
    theirs = theirs.bindparams(name=url.query["application_name"])

    def connections() -> int:
        return int(rows(host, theirs)[0][0])

    wait_until(lambda: statuses(host) == Counter(DELIVERED=50))
    wait_until(lambda: connections() == 1)
    publish(host, *range(50))
    wait_until(lambda: statuses(host) == Counter(DELIVERED=100))
    assert connections() == 1


def lose_the_key(host: hosts.Host) -> None:
    token = Cipher([derive_key("another")]).encrypt("my own secret key")
    execute(host, sa.update(SECRET).values(secret_encrypted=token))


def lose_the_key_of_the_headers(host: hosts.Host) -> None:
    token = Cipher([derive_key("another")]).encrypt('{"X-Key": "v"}')
    execute(host, sa.update(ENDPOINT).values(headers_encrypted=token))


def garble_the_headers(host: hosts.Host) -> None:
    token = Cipher([derive_key("host secret")]).encrypt("[1, 2")
    execute(host, sa.update(ENDPOINT).values(headers_encrypted=token))


def garble_the_secret(host: hosts.Host) -> None:
    execute(host, sa.update(SECRET).values(secret_encrypted="no token é"))


def lose_the_secret(host: hosts.Host) -> None:
    execute(host, sa.delete(SECRET))


def store_a_url_of_old_rules(host: hosts.Host) -> None:
    execute(host, sa.update(ENDPOINT).values(url="http://user@[::1/ \\"))


def store_a_url_that_is_blocked_now(host: hosts.Host) -> None:
    execute(host, sa.update(ENDPOINT).values(url="http://10.1.2.3/"))


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lose_the_key, "unreadable_secret"),
        (lose_the_key_of_the_headers, "unreadable_secret"),
        (garble_the_secret, "unreadable_secret"),
        (lose_the_secret, "unreadable_secret"),
        (garble_the_headers, "unreadable_secret"),
        (store_a_url_of_old_rules, "invalid_url"),
        (store_a_url_that_is_blocked_now, "blocked_address"),
    ],
)
@pytest.mark.host(allowed_networks=hosts.LOOPBACK, retry_schedule=[0, 3600])
def test_what_a_broken_row_brings_is_a_failed_attempt_beside_good_ones(host, webhook_receiver, break_it, error):
    create_endpoint(host.client(), webhook_receiver.url)
    break_it(host)
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host)

    assert testing.drain(host.app) == 2
    assert testing.drain(host.app) == 0

    assert sorted(attempts_of(host), key=str) == [(1, error), (1, None)]
    assert statuses(host) == Counter(DELIVERED=1, PENDING=1)
    assert len(webhook_receiver.received) == 1


def test_all_that_a_claim_needs_is_decrypted_once_before_its_first_attempt(host, webhook_receiver, monkeypatch):
    decrypt, post, steps = Cipher.decrypt, Sender.post, list[str]()

    def decrypt_noted(self: Cipher, *stored: Any) -> str:
        steps.append("decrypt")
        return decrypt(self, *stored)

    async def post_noted(self: Sender, *args: Any, **options: Any) -> Answer:
        steps.append("post")
        return await post(self, *args, **options)

    monkeypatch.setattr(Cipher, "decrypt", decrypt_noted)
    monkeypatch.setattr(Sender, "post", post_noted)
    for _ in range(3):
        create_endpoint(host.client(), webhook_receiver.url, headers_json={"X-Key": "a key"})
    publish(host, 1, 2)
    steps.clear()
    testing.drain(host.app)

    # A secret and headers of each endpoint.
    assert steps == ["decrypt"] * 6 + ["post"] * 6


@pytest.mark.parametrize("table", [ENDPOINT, EVENT], ids=["endpoint", "event"])
def test_a_delivery_whose_endpoint_or_event_vanished_is_cancelled(host, webhook_receiver, table):
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host)
    execute(host, sa.delete(SECRET))
    execute(host, sa.delete(table))

    assert testing.drain(host.app) == 0

    assert [tuple(row) for row in rows(host, sa.select(DELIVERY.c.status, DELIVERY.c.attempts))] == [("CANCELLED", 0)]


@pytest.mark.several_connections
def test_what_spoils_the_record_of_one_costs_no_other_and_is_sent_again(host, webhook_receiver, in_thread, monkeypatch):
    record = attempts.record
    spoiled: list[Any] = []

    def spoil(scope: Any, owner: Any, settlements: Any, **options: Any) -> Any:
        settled = record(scope, owner, settlements, **options)
        if not spoiled:
            spoiled.append(settlements[0].delivery.id)
        if spoiled[0] in [settlement.delivery.id for settlement in settlements] and len(spoiled) < 5:
            raise RuntimeError("spoiled")
        return settled

    monkeypatch.setattr(attempts, "record", spoil)
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(10))
    in_thread(Worker(host.app))
    wait_until(lambda: statuses(host) == Counter(DELIVERED=9, PENDING=1))

    spoiled.extend(range(5))
    set_due(host, datetime.now(UTC), QUEUE.c.state == "LEASED")

    wait_until(lambda: statuses(host) == Counter(DELIVERED=10))
    ids = [received.id for received in webhook_receiver.received]
    assert (len(ids), len(set(ids))) == (11, 10)


@pytest.mark.several_connections
def test_an_attempt_that_is_never_answered_for_does_not_stall_the_worker(
    host, webhook_receiver, in_thread, monkeypatch, caplog
):
    attempt = Courier.attempt
    failures = iter(range(4))

    async def fail_at_first(self: Courier, delivery: Claimed) -> Settlement:
        if next(failures, None) is not None:
            raise RuntimeError("a bug")
        return await attempt(self, delivery)

    monkeypatch.setattr(Courier, "attempt", fail_at_first)
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(10))

    in_thread(Worker(host.app, concurrency=4))

    wait_until(lambda: statuses(host) == Counter(DELIVERED=6, PENDING=4))
    assert [record.msg for record in caplog.records].count("webhooks.attempt_broken") == 4


@pytest.mark.several_connections
def test_a_worker_holds_no_more_than_its_concurrency(host, webhook_receiver, in_thread):
    for _ in range(3):
        create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(30))
    most: list[int] = []

    class Watched(Worker):
        def _next(self) -> Claimed:
            # It is under way itself from here.
            most.append(max(len(self._in_flight) + 1 + len(self._recorder._answered), len(self._unrecorded)))
            return super()._next()

    engine = Watched(host.app, concurrency=7)
    in_thread(engine)
    wait_until(lambda: statuses(host) == Counter(DELIVERED=90))

    # The last place is kept for another tenant.
    assert max(most) == 6
    wait_until(lambda: not engine._in_flight and not engine._unrecorded)


@pytest.mark.several_connections
def test_no_transaction_is_open_while_a_receiver_holds_its_answer(database, host, held, in_thread):
    create_endpoint(host.client(), held.url)
    publish(host, *range(COLD_CAP))
    engine = engine_of(host)
    in_thread(Worker(host.app))
    wait_until(lambda: len(held.ids) == COLD_CAP)

    # Looks for work come and go; what a claim left open would stay.
    wait_until(lambda: nothing_is_open(engine, database))
    assert len(held.ids) == COLD_CAP
    held.release()
    wait_until(lambda: statuses(host) == Counter(DELIVERED=COLD_CAP))


def nothing_is_open(engine: sa.Engine, database: str) -> bool:
    name = f"test_{database.rpartition('test_')[2]}"
    with engine.connect() as connection:
        match engine.dialect.name:
            case "sqlite":
                connection.exec_driver_sql("PRAGMA busy_timeout = 20")
                try:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                except sa.exc.OperationalError:
                    return False
                return True
            case "postgresql":
                # Ours are known by the schema of the tables that they have touched.
                open_ones = (
                    "SELECT 1 FROM pg_stat_activity a JOIN pg_locks l USING (pid) JOIN pg_class c ON c.oid = l.relation"
                    f" WHERE c.relnamespace = '{name}'::regnamespace AND a.state LIKE 'idle in transaction%%'"
                )
            case _:
                open_ones = (
                    "SELECT 1 FROM information_schema.innodb_trx t JOIN information_schema.processlist p"
                    f" ON p.id = t.trx_mysql_thread_id WHERE p.db = '{name}'"
                )
        return connection.exec_driver_sql(open_ones).first() is None
