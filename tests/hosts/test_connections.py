"""Hosts that do things to connections of their own: listeners on their pool, throw-away engines, outer transactions."""

import gc
import json
import weakref
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import g
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import flask_webhook_endpoints
from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.contract import life_of_an_endpoint
from tests.support.hosts import client, new_app, tenant_header
from tests.support.waiting import wait_until

# A listener that ran a statement when a connection was checked out left it in a transaction, and no wake was sent.


@contextmanager
def listening(url):
    """Listen as a worker does, on a connection of the driver's own."""
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg.connect(address, autocommit=True)) as connection:
        query = "SELECT 'webhook_endpoints_' || to_regclass('webhook_delivery')::oid"
        [channel] = connection.execute(query).fetchone()
        connection.execute(f'LISTEN "{channel}"')
        yield lambda: len(list(connection.notifies(timeout=5, stop_after=1)))


def ask(connection, record, proxy):
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 1")


def break_once(connection, record, proxy, state=[]):  # noqa: B006 - it remembers
    if not state:
        state.append(True)
        raise sa.exc.DisconnectionError


@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize("listener", [ask, break_once])
@pytest.mark.parametrize("name", ["checkout", "connect"])
def test_a_listener_on_the_hosts_pool_does_not_end_the_wakes(database, name, listener):
    host = hosts.flask_sqlalchemy(database)
    create_endpoint(host.client())
    with host.app.app_context():
        heard = listener if name == "checkout" else lambda connection, record: ask(connection, record, None)
        event.listen(host.db.engine, name, heard)
        with listening(database) as notified:
            host.webhooks.publish("invoice.paid", 1, tenant_id="acme")
            host.db.session.commit()

            assert notified() == 1
    host.close()


# Engines that a host makes for a request, or a test for itself, stayed alive with all that they hold.


@pytest.mark.several_connections
def test_an_engine_that_the_host_throws_away_is_not_kept_alive(database):
    with sa.create_engine(database, poolclass=sa.NullPool).begin() as connection:
        flask_webhook_endpoints.metadata.create_all(connection)
    engines: list[weakref.ref[sa.Engine]] = []

    def session() -> Session:
        if "session" not in g:
            engine = sa.create_engine(database, poolclass=sa.NullPool)
            engines.append(weakref.ref(engine))
            g.session = Session(engine)
        return g.session

    webhooks = WebhookEndpoints(session=session, tenant=tenant_header)
    app = new_app()
    app.register_blueprint(webhooks.blueprint)
    app.teardown_appcontext(lambda error: session().close())
    acme = client(app, "acme")
    path = create_endpoint(acme).path
    acme.post(f"{path}/ping")
    for _ in range(5):
        with app.app_context():
            webhooks.publish("invoice.paid", 1, tenant_id="acme")
            session().commit()
    assert drain(app) == 6

    def all_gone() -> bool:
        gc.collect()
        return all(engine() is None for engine in engines)

    assert len(engines) >= 8
    wait_until(all_gone, 10)


# Recipes for tests that roll back: all sessions join one transaction of a connection. SET TRANSACTION fails in it.


@contextmanager
def rolled_back(database, **options) -> Any:
    """Make a host whose sessions join an outer transaction, as SQLAlchemy's documentation has it for test suites."""
    arguments = {"connect_args": {"check_same_thread": False}} if database.startswith("sqlite") else {}
    engine = sa.create_engine(database, poolclass=sa.NullPool, **arguments)
    if database.startswith("sqlite"):
        # As the documentation has it for SAVEPOINT on pysqlite.
        event.listen(engine, "connect", lambda connection, record: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.begin() as connection:
        flask_webhook_endpoints.metadata.create_all(connection)
    with engine.connect() as connection:
        outer = connection.begin()
        session = scoped_session(sessionmaker(connection, **options))
        webhooks = WebhookEndpoints(session=session, tenant=tenant_header)
        app = new_app()
        app.register_blueprint(webhooks.blueprint)
        app.teardown_appcontext(lambda error: session.remove())
        yield app, webhooks, session
        outer.rollback()
        rows = [connection.execute(table.select()).all() for table in flask_webhook_endpoints.metadata.tables.values()]
    assert rows == [[]] * len(rows)


def walk(app, webhooks, session, receiver):
    """Publish, deliver, retry, and run what operators run."""
    acme = client(app, "acme")
    path = create_endpoint(acme, receiver.url).path
    receiver.answer(500, 200)
    with app.app_context():
        webhooks.publish("invoice.paid", 1, tenant_id="acme")
        session.commit()
    assert drain(app) == 1
    with hosts.moved(app) as clock:
        clock.move(seconds=10)
        assert drain(app) == 1
    assert [each["status"] for each in acme.get(f"{path}/deliveries").json] == ["DELIVERED"]
    for command in (
        ["status", "--json"],
        ["prune", "--json"],
        ["rotate-keys", "--json"],
        ["redeliver", "--tenant", "acme", "--status", "FAILED", "--yes", "--json"],
        ["forget-tenant", "acme", "--yes", "--json"],
    ):
        done = app.test_cli_runner().invoke(args=["webhooks", *command])
        assert done.exit_code == 0, (command, done.output)
        json.loads(done.stdout)
    assert acme.get("/v1/endpoints").json == []


@pytest.mark.several_connections
def test_a_suite_that_rolls_back_an_outer_transaction_runs_everything(database, webhook_receiver):
    with rolled_back(database, join_transaction_mode="create_savepoint") as (app, webhooks, session):
        life_of_an_endpoint(client(app, "acme"), client(app, "globex"))
        walk(app, webhooks, session, webhook_receiver)


@pytest.mark.only_on("mariadb")
def test_sessions_of_two_phases_run_everything(database, webhook_receiver):
    with hosts.plain_engine(database) as engine:
        flask_webhook_endpoints.metadata.create_all(engine)
        session = scoped_session(sessionmaker(engine, twophase=True))
        webhooks = WebhookEndpoints(session=session, tenant=tenant_header)
        app = new_app()
        app.register_blueprint(webhooks.blueprint)
        app.teardown_appcontext(lambda error: session.remove())
        life_of_an_endpoint(client(app, "acme"), client(app, "globex"))
        walk(app, webhooks, session, webhook_receiver)


@pytest.mark.only_on("mariadb")
def test_a_worker_elsewhere_still_locks_no_gaps(host):
    sent, failed = [], []
    with host.app.app_context():
        event.listen(host.db.engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
        event.listen(host.db.engine, "handle_error", failed.append)
    drain(host.app)

    assert sent[0] == "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
    assert failed == []


@pytest.mark.only_on("mariadb")
def test_the_hosts_own_transactions_keep_their_isolation(database):
    host = hosts.flask_sqlalchemy(database, SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0})
    levels = partial(sa.text, "SELECT @@session.tx_isolation, @@global.tx_isolation")
    drain(host.app)
    with host.app.app_context():
        [[own, default]] = host.db.session.execute(levels()).all()
    host.close()

    assert own == default
