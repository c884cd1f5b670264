"""Hosts that do things to connections of their own: throw-away engines, outer transactions."""

import gc
import json
import weakref
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from flask import g
from sqlalchemy import event
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import flask_webhook_endpoints
from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.contract import life_of_an_endpoint
from tests.support.deliveries import publish, statuses
from tests.support.hosts import client, new_app, tenant_header
from tests.support.waiting import wait_until

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


# Of a cursor that the server keeps, SQLAlchemy reads the first row by itself: deliveries that lost it were cancelled.


@pytest.mark.only_on("postgresql")
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
# SQLAlchemy closes its results, but not these cursors.
@pytest.mark.filterwarnings("ignore:.*ServerCursor:ResourceWarning")
@pytest.mark.host(SQLALCHEMY_ENGINE_OPTIONS={"server_side_cursors": True}, allowed_networks=hosts.LOOPBACK)
def test_nothing_is_lost_where_the_server_keeps_the_cursors(host, acme, inbox):
    for number in range(2):
        create_endpoint(acme, inbox.url(f"/{number}"))
    publish(host, 1, 2)

    assert drain(host.app) == 4

    assert statuses(host) == {"DELIVERED": 4}
