"""How soon a worker sees what is due, and what an idle one asks of its database meanwhile."""

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import appcontext_pushed

from flask_webhook_endpoints.core import heartbeats, leases, marks
from flask_webhook_endpoints.core.heartbeats import Heartbeat
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.worker import pace
from flask_webhook_endpoints.worker.database_thread import AWAY_SECONDS, DatabaseThread
from flask_webhook_endpoints.worker.loop import Worker
from flask_webhook_endpoints.worker.pace import Pace
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.database import ENDPOINT, QUEUE, count, engine_of, statements_of
from tests.support.deliveries import publish
from tests.support.inbox import Answer, Arrived
from tests.support.waiting import SLOWNESS, wait_until
from tests.support.workers import in_thread

pytestmark = [pytest.mark.several_connections, pytest.mark.host(allowed_networks=hosts.LOOPBACK)]

ROUNDS = 15
SOON_SECONDS = 0.06
"""Seconds from the commit to the receiver that half of the events may take."""


def delays(host, inbox, tenant_id):
    """Publish one event after another; return the seconds from each commit to the receiver."""
    for number in range(ROUNDS):
        # Long enough to be idle, and never in step with the worker's looks.
        time.sleep(0.1 + number * 0.003)
        publish(host, number, tenant_id=tenant_id)
        committed = time.monotonic()
        wait_until(lambda number=number: len(inbox.at("/")) == number + 1)
        yield inbox.at("/")[-1].at - committed


def test_an_idle_worker_soon_sends_what_is_committed(host, inbox):
    # Only PostgreSQL told of commits; with another database, an event waited for half a second.
    create_endpoint(host.client(), inbox.url())
    with in_thread(Worker(host.app)):
        took = statistics.median(delays(host, inbox, "acme"))

    assert took < SOON_SECONDS * SLOWNESS


@pytest.fixture
def released(inbox):
    """An event until which the receiver at `/hang` does not answer."""
    released = threading.Event()

    async def hold(arrived: Arrived) -> Answer:
        while not released.is_set():
            await asyncio.sleep(0.01)
        return Answer()

    inbox.answers["/hang"] = hold
    yield released
    released.set()


def test_a_worker_that_waits_for_answers_soon_sends_another_tenants_event(host, inbox, released):
    create_endpoint(host.client(), inbox.url("/hang"), timeout_seconds=30)
    create_endpoint(host.client("globex"), inbox.url())
    publish(host, *range(20))
    with in_thread(Worker(host.app)):
        wait_until(lambda: len(inbox.at("/hang")) == 2)
        took = statistics.median(delays(host, inbox, "globex"))
        released.set()

    assert took < SOON_SECONDS * SLOWNESS


def test_tenants_whose_receivers_all_hang_leave_a_place_for_another_tenant(host, inbox, released):
    tenants = [f"hanging {number}" for number in range(4)]
    for tenant_id in tenants:
        for _ in range(10):
            create_endpoint(host.client(tenant_id), inbox.url("/hang"), timeout_seconds=30)
        publish(host, *range(2), tenant_id=tenant_id)
    create_endpoint(host.client("globex"), inbox.url())
    with in_thread(Worker(host.app, concurrency=50)):
        # 80 are due. Each of the four may have four times as many places as stay free.
        wait_until(lambda: len(inbox.at("/hang")) >= 44)
        took = statistics.median(delays(host, inbox, "globex"))
        assert len(inbox.at("/hang")) < 50
        released.set()

    assert took < SOON_SECONDS * SLOWNESS


def test_an_idle_worker_writes_nothing_but_its_heartbeat(host):
    with in_thread(Worker(host.app)), statements_of(host) as statements:
        wait_until(lambda: len(statements) > 40)
        # The first sweep and the first claim are over.
        del statements[:]
        wait_until(lambda: len(statements) > 40)
        asked = {" ".join(statement.split()) for statement, _ in statements}

    writes = {each for each in asked if not each.startswith(("SELECT ", "WITH ", "SET TRANSACTION ISOLATION LEVEL "))}
    assert {each for each in writes if "webhook_worker" not in each} == set()
    assert not any("FOR UPDATE" in each for each in asked)


# Each look set an isolation, committed, and made the way to the thread of the database and back.
def test_an_idle_worker_looks_by_one_statement_without_leaving_the_thread(host, monkeypatch):
    calls: list[None] = []
    monkeypatch.setattr(DatabaseThread, "call", _counted(DatabaseThread.call, calls))
    with in_thread(Worker(host.app)), statements_of(host) as statements:
        wait_until(lambda: len(statements) > 40)
        # The first claim, with its heartbeat, is over.
        del statements[:], calls[:]
        wait_until(lambda: len(statements) >= 20)
        asked, left = {" ".join(statement.split()) for statement, _ in statements}, len(calls)

    assert len(asked) == 1
    assert left == 0


@contextmanager
def noted(target: Any, *names: str) -> Iterator[list[str]]:
    """Note the names of the events that SQLAlchemy tells of an engine, a pool or a session."""
    happened: list[str] = []
    listeners = [(target, name, lambda *_, name=name: happened.append(name)) for name in names]
    for listener in listeners:
        sa.event.listen(*listener)
    try:
        yield happened
    finally:
        for listener in listeners:
            sa.event.remove(*listener)


# The host's session and its pool made each look a quarter dearer, and its BEGIN and ROLLBACK as much as the look.
def test_an_idle_worker_keeps_its_connection_and_no_transaction(host):
    engine, drivers = engine_of(host), []
    # Of its own, because the events of the host's are counted.
    asking = sa.create_engine(engine.url)
    sa.event.listen(engine, "checkout", lambda driver, *_: drivers.append(driver))
    with in_thread(Worker(host.app)), statements_of(host) as statements:
        wait_until(lambda: len(statements) > 40)
        with noted(engine, "rollback") as ended:
            before, drivers[:], open_ones = len(statements), drivers[-1:], []

            def looked_on() -> bool:
                open_ones.append(transactions_open_at(asking, drivers))
                return len(statements) >= before + 40

            wait_until(looked_on)
            ends = len(ended)
    asking.dispose()

    # A heartbeat may have come in between, and the connection taken again after it.
    assert len(drivers) <= 1 + 2
    assert statistics.median(open_ones) == 0
    # SQLite's driver begins none to read, and SQLAlchemy tells of a ROLLBACK that it need not do.
    assert ends <= 4 or engine.dialect.name == "sqlite"


def transactions_open_at(engine, drivers):
    """Return how many of these connections are idle in a transaction; 0 for SQLite."""
    if engine.dialect.name == "sqlite":
        return 0
    query = "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx"
    if engine.dialect.name == "postgresql":
        query = "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in %%'"
    with engine.connect() as connection:
        return len({*connection.exec_driver_sql(query).scalars()} & {*map(number_of, drivers)})


def number_of(driver):
    """Return the number by which the server knows a connection."""
    return driver.info.backend_pid if hasattr(driver, "info") else driver.thread_id()


@pytest.mark.only_on("postgresql", "mariadb")
def test_connections_go_back_to_the_hosts_pool_as_they_were(host):
    engine = engine_of(host)
    is_postgresql = engine.dialect.name == "postgresql"
    create_endpoint(host.client(), "https://example.com/")

    @sa.event.listens_for(engine, "connect")
    def choose_level(driver: Any, _: Any) -> None:
        level = "CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"
        driver.cursor().execute(f"SET SESSION {level if is_postgresql else 'TRANSACTION ISOLATION LEVEL SERIALIZABLE'}")
        driver.commit()

    engine.dispose()
    with in_thread(Worker(host.app)), statements_of(host) as statements:
        wait_until(lambda: len(statements) > 40)

    asked = "SHOW transaction_isolation" if is_postgresql else "SELECT @@tx_isolation"
    assert engine.pool.checkedin() > 0
    with ExitStack() as stack:
        for connection in [stack.enter_context(engine.connect()) for _ in range(engine.pool.checkedin())]:
            assert connection.exec_driver_sql(asked).scalar_one().upper() == "SERIALIZABLE"
            connection.execute(sa.delete(ENDPOINT))
            connection.rollback()
    assert count(host, ENDPOINT) == 1


@pytest.mark.parametrize("of_engine", [True, False], ids=["engine", "session"])
def test_where_a_host_begins_each_transaction_itself_every_look_has_one(host, inbox, of_engine):
    """A host may tell PostgreSQL then who asks, and see nothing otherwise."""
    create_endpoint(host.client(), inbox.url())
    listening, name = (engine_of(host), "begin") if of_engine else (host.db.session.session_factory, "after_begin")
    with noted(listening, name) as begun, in_thread(Worker(host.app)), statements_of(host) as statements:
        wait_until(lambda: len(statements) > 60)
        # The first sweep and the first claim, which have several statements in a transaction, are over.
        del begun[:], statements[:]
        wait_until(lambda: len(statements) > 20)
        assert len(begun) >= 20
        publish(host)
        wait_until(lambda: inbox.at("/"))


def test_an_idle_worker_goes_on_where_a_host_asks_something_of_each_connection(host, inbox, caplog):
    create_endpoint(host.client(), inbox.url())
    sa.event.listen(engine_of(host), "checkout", lambda driver, *_: driver.cursor().execute("SELECT 1"))
    with in_thread(Worker(host.app)), statements_of(host) as statements:
        wait_until(lambda: len(statements) > 20)
        publish(host)
        wait_until(lambda: inbox.at("/"))

    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_an_idle_worker_holds_one_connection_though_a_host_reads_in_each_context(host):
    engine = engine_of(host)

    def read(_app: Any, **_: Any) -> None:
        host.db.session.execute(sa.text("SELECT 1"))

    with appcontext_pushed.connected_to(read, host.app), in_thread(Worker(host.app)), statements_of(host) as statements:
        wait_until(lambda: len(statements) > 20)
        held = []
        wait_until(lambda: held.append(engine.pool.checkedout()) or len(held) > 20)

    assert max(held) <= 1


@pytest.mark.only_on("postgresql", "mariadb")
def test_an_idle_worker_whose_connection_is_cut_goes_on_by_another_one(host, inbox, caplog):
    create_endpoint(host.client(), inbox.url())
    engine, taken = engine_of(host), []
    sa.event.listen(engine, "checkout", lambda driver, *_: taken.append(driver))
    with in_thread(Worker(host.app)), statements_of(host) as statements:
        wait_until(lambda: len(statements) > 40)
        with engine.connect() as connection:
            for driver in {id(each): each for each in taken[:-1]}.values():
                cut(connection, driver)
        before = len(statements)
        wait_until(lambda: len(statements) > before + 20)
        publish(host)
        wait_until(lambda: inbox.at("/"))

    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def cut(connection, driver):
    """End another connection, unless it is this one or has ended."""
    if connection.dialect.name == "postgresql":
        others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND pid ="
        connection.exec_driver_sql(f"{others} {driver.info.backend_pid}")
        return
    asked = "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND id ="
    for number in connection.exec_driver_sql(f"{asked} {driver.thread_id()}").scalars().all():
        connection.exec_driver_sql(f"KILL {number}")


def _counted(method, calls):
    def call(*arguments):
        calls.append(None)
        return method(*arguments)

    return call


def test_other_work_interrupts_a_watch_and_so_does_the_end(host):
    async def watch_beside_work() -> tuple[bool, str]:
        database = DatabaseThread(host.app, Heartbeat(new_id(), "worker"))
        watching = asyncio.create_task(database.watch(lambda _: True, lambda: 60.0))
        await asyncio.sleep(0)
        worked = await database.call(lambda: "worked")
        found = await watching
        # One that is cancelled leaves its thread free to end.
        watching = asyncio.create_task(database.watch(lambda _: True, lambda: 60.0))
        await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await asyncio.to_thread(database.close)
        return found, worked

    assert asyncio.run(asyncio.wait_for(watch_beside_work(), 30)) == (False, "worked")


@pytest.mark.parametrize("every_seconds", [0, 60])
def test_a_watch_waits_once_before_each_look(host, monkeypatch, every_seconds):
    monkeypatch.setattr(heartbeats, "EVERY", timedelta(seconds=every_seconds))
    waits, looks = iter(range(1, 100)), iter(range(1, 100))

    async def watch() -> bool:
        database = DatabaseThread(host.app, Heartbeat(new_id(), "worker"))
        found = await database.watch(lambda _: next(looks) == 5, lambda: next(waits) * 0.0)
        await asyncio.to_thread(database.close)
        return found

    assert asyncio.run(asyncio.wait_for(watch(), 30))
    assert next(waits) == next(looks) == 6


@pytest.mark.only_on("sqlite")
def test_an_idle_worker_goes_on_beside_a_long_write(host, caplog):
    with in_thread(Worker(host.app)), statements_of(host) as statements:
        # Its first claim writes.
        wait_until(lambda: len(statements) > 40)
        with engine_of(host).connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            before = len(statements)
            wait_until(lambda: len(statements) > before + 20)

    assert [record.msg for record in caplog.records].count("webhooks.database_unavailable") == 0


def test_a_worker_without_room_asks_nothing(host, inbox, released):
    create_endpoint(host.client(), inbox.url("/hang"), timeout_seconds=30)
    publish(host, *range(2))
    with in_thread(Worker(host.app, concurrency=1)):
        wait_until(lambda: inbox.at("/hang"))
        with statements_of(host) as statements:
            # As long as a dozen looks.
            time.sleep(0.5)
            asked = list(statements)
        released.set()

    assert asked == []


def test_a_worker_asks_a_database_that_refuses_once_a_second(host, caplog):
    def refused() -> int:
        return [record.msg for record in caplog.records].count("webhooks.not_claimed")

    with in_thread(Worker(host.app)), statements_of(host) as statements:
        wait_until(lambda: len(statements) > 10)
        with host.app.app_context():
            host.db.drop_all()
        wait_until(refused)
        began, before = time.monotonic(), refused()
        wait_until(lambda: refused() == before + 2)

    # The first one may have been on its way.
    assert time.monotonic() - began > AWAY_SECONDS


def test_a_worker_claims_nothing_after_a_result_where_nothing_else_was_due(host, inbox, monkeypatch):
    # Each result made room, and led to a claim in vain.
    create_endpoint(host.client(), inbox.url())
    claims: list[int] = []
    claim = leases.claim

    def counted(*args, **options):
        made = claim(*args, **options)
        claims.append(len(made.deliveries))
        return made

    monkeypatch.setattr(leases, "claim", counted)
    with in_thread(Worker(host.app)):
        for number in range(ROUNDS):
            publish(host, number)
            wait_until(lambda: not count(host, QUEUE))
            # As long as a claim in vain would take to begin.
            time.sleep(0.02)

    assert sum(claims) == ROUNDS
    assert claims.count(0) <= ROUNDS / 3


@pytest.mark.slow
def test_a_worker_claims_seldom_while_all_that_is_due_waits_for_its_endpoint(host, inbox, released, monkeypatch):
    # It claimed at each look, twenty times a second.
    create_endpoint(host.client(), inbox.url("/hang"), timeout_seconds=30)
    publish(host, *range(30))
    claims: list[float] = []
    claim = leases.claim

    def counted(*args, **options):
        claims.append(time.monotonic())
        return claim(*args, **options)

    monkeypatch.setattr(leases, "claim", counted)
    with in_thread(Worker(host.app)):
        wait_until(lambda: len(inbox.at("/hang")) == 2)
        # Until what was published is no longer new.
        time.sleep(marks.LATE.total_seconds() + marks.IN_VAIN_SECONDS)
        before = len(claims)
        time.sleep(2)
        seldom = len(claims) - before
        released.set()
        wait_until(lambda: len(inbox.at("/hang")) == 30)

    assert seldom <= 4


@pytest.mark.parametrize(
    ("poll_seconds", "quiet_seconds", "seconds"),
    [(0.05, 0, 0.05), (0.05, 49, 0.05), (0.05, 80, 0.08), (0.05, 86400, 0.09), (5, 0, 5), (5, 86400, 5)],
)
def test_after_minutes_without_work_a_worker_looks_less_often(monkeypatch, poll_seconds, quiet_seconds, seconds):
    now = 1000.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    worker = Pace(poll_seconds)
    now += quiet_seconds

    assert worker.seconds == pytest.approx(seconds)
    worker.worked()
    assert worker.seconds == poll_seconds


def test_a_host_without_celery_has_no_hook_on_its_sessions():
    # A thread told the workers of PostgreSQL of each commit.
    program = (
        "import flask_webhook_endpoints, flask_webhook_endpoints.state\n"
        "from sqlalchemy.orm import Session\n"
        "hooks = Session().dispatch\n"
        "assert not hooks.after_commit and not hooks.after_transaction_end\n"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
