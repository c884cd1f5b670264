"""Hosts that have begun their transaction before we are asked: a second try would lose what they set in it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.engine import make_url

from flask_webhook_endpoints import WebhookEndpoints
from tests.support import docs, hosts
from tests.support.api import NEW, create_endpoint, post_endpoint

servers_only = pytest.mark.only_on("postgresql", "mariadb")

CONFLICTS = {
    # In the server, so that its transaction ends as in a deadlock.
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END $$",
    "mysql": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'",
}


class Host:
    """A host with hooks of its own."""

    def __init__(self, url: str, **hooks: Callable[[], Any]) -> None:
        self.db = SQLAlchemy(metadata=hosts.shared_metadata())
        self.before: Callable[[], Any] = lambda: None
        tenant = hooks.pop("tenant", hosts.tenant_header)
        webhooks = WebhookEndpoints(session=self.db.session, tenant=tenant, metadata=self.db.metadata, **hooks)
        self.app = Flask("host")
        self.app.config.update(TESTING=True, SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI=url)
        self.db.init_app(self.app)
        self.app.before_request(lambda: self.before() and None)
        self.app.register_blueprint(webhooks.blueprint)
        with self.app.app_context():
            hosts.create_tables(self.db)
            self.engine = self.db.engine
        self.acme = hosts.client(self.app, "acme")

    def close(self) -> None:
        self.engine.dispose()

    def run(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    @contextmanager
    def failing_once(self, at: str, how: str = "conflict") -> Iterator[list[str]]:
        """Have the first statement that has `at` in it fail; yield all those that have it."""
        tried: list[str] = []

        def fail(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            if at not in statement:
                return
            tried.append(statement)
            if len(tried) == 1:
                _fail(how, context, cursor)

        for event in ("do_execute", "do_execute_no_params"):
            sa.event.listen(self.engine, event, _adapted(fail, event))
        yield tried
        for event in ("do_execute", "do_execute_no_params"):
            sa.event.remove(self.engine, event, _listeners.pop())


_listeners: list[Any] = []


def _adapted(fail: Any, event: str) -> Any:
    if event == "do_execute":

        def listener(cursor, statement, parameters, context):
            fail(cursor, statement, parameters, context)

    else:

        def listener(cursor, statement, context):
            fail(cursor, statement, None, context)

    _listeners.insert(0, listener)
    return listener


def _fail(how: str, context: Any, cursor: Any) -> None:
    name = context.dialect.name
    if how == "lost":
        # The server ends the session, as a failover or an administrator does.
        kill(context.root_connection)
        return
    if name == "sqlite":
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error
    cursor.execute(CONFLICTS["postgresql" if name == "postgresql" else "mysql"])


def kill(connection: sa.Connection) -> None:
    url = connection.engine.url
    driver: Any = connection.connection.dbapi_connection
    other = sa.create_engine(url, poolclass=sa.NullPool)
    with other.connect() as admin:
        if admin.dialect.name == "postgresql":
            admin.exec_driver_sql(f"SELECT pg_terminate_backend({driver.info.backend_pid})")
        else:
            admin.exec_driver_sql(f"KILL {driver.thread_id()}")


@contextmanager
def serving(host: Host) -> Iterator[Host]:
    with closing(host):
        yield host


def is_503(answer: Any) -> bool:
    return (
        answer.status_code == 503
        and answer.mimetype == "application/problem+json"
        and answer.headers["Retry-After"] == "1"
    )


def every_write(host: Host) -> dict[str, Callable[[], Any]]:
    path = create_endpoint(host.acme).path
    return {
        "INSERT INTO webhook_endpoint": lambda: post_endpoint(host.acme),
        "UPDATE webhook_endpoint": lambda: host.acme.patch(path, json={"name": "m"}),
        "INSERT INTO webhook_secret": lambda: host.acme.post(f"{path}/secret/rotate"),
        "INTO webhook_event": lambda: host.acme.post(f"{path}/ping"),
        "DELETE FROM webhook_endpoint": lambda: host.acme.delete(path),
    }


def reads_something(host: Host) -> None:
    host.db.session.execute(sa.text("SELECT 1"))


# --- the fault itself


@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize("setting", ["SET search_path TO {0}", "SET LOCAL search_path TO {0}"])
def test_after_a_deadlock_nothing_lands_in_another_tenants_schema(database, setting):
    # A host with a schema for each tenant: globex is where connections are until it says otherwise.
    host = Host(database)
    with serving(host):
        globex = make_url(database).query["options"].rpartition("=")[2]
        acme = f"{globex}_acme"
        host.run(f"CREATE SCHEMA {acme}")
        try:
            engine = sa.create_engine(make_url(database).set(query={"options": f"-csearch_path={acme}"}))
            host.db.metadata.create_all(engine)
            engine.dispose()
            host.before = lambda: host.db.session.execute(sa.text(setting.format(acme)))

            with host.failing_once("INSERT INTO webhook_endpoint") as tried:
                answer = post_endpoint(host.acme)

            assert is_503(answer)
            assert len(tried) == 1
            count = "SELECT (SELECT count(*) FROM {0}.webhook_endpoint) + (SELECT count(*) FROM {1}.webhook_endpoint)"
            with host.engine.connect() as connection:
                assert connection.exec_driver_sql(count.format(acme, globex)).scalar() == 0
            assert post_endpoint(host.acme).status_code == 201
            with host.engine.connect() as connection:
                assert connection.exec_driver_sql(f"SELECT count(*) FROM {acme}.webhook_endpoint").scalar() == 1
        finally:
            host.run(f"DROP SCHEMA {acme} CASCADE")


@pytest.mark.only_on("postgresql")
def test_after_a_deadlock_row_level_security_still_holds(database):
    # As the recipe of docs/authentication.md has it: `after_begin` sets it in each transaction, the second try's too.
    host = Host(database)
    with serving(host):

        @sa.event.listens_for(host.db.session, "after_begin")
        def set_tenant(session, transaction, connection):
            if tenant := request.headers.get("X-Tenant"):
                connection.execute(sa.text("SELECT set_config('app.tenant', :tenant, true)"), {"tenant": tenant})

        host.run("ALTER TABLE webhook_endpoint ADD COLUMN seen_as TEXT DEFAULT current_setting('app.tenant', true)")
        with host.failing_once("INSERT INTO webhook_endpoint") as tried:
            answer = post_endpoint(host.acme)

        assert answer.status_code == 201
        assert len(tried) == 2
        with host.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT seen_as FROM webhook_endpoint").scalar() == "acme"


@pytest.mark.only_on("mariadb")
def test_after_a_lost_connection_nothing_lands_in_another_tenants_database(database):
    host = Host(database)
    with serving(host):
        globex = make_url(database).database
        acme = f"{globex}_acme"
        host.run(f"CREATE SCHEMA {acme}")
        try:
            engine = sa.create_engine(make_url(database).set(database=acme))
            host.db.metadata.create_all(engine)
            engine.dispose()
            host.before = lambda: host.db.session.execute(sa.text(f"USE {acme}"))

            with host.failing_once("INSERT INTO webhook_endpoint", "lost"):
                written = post_endpoint(host.acme)
            with host.failing_once("FROM webhook_endpoint", "lost"):
                read = host.acme.get("/v1/endpoints")

            assert is_503(written)
            assert is_503(read)
            for schema in (acme, globex):
                with host.engine.connect() as connection:
                    assert connection.exec_driver_sql(f"SELECT count(*) FROM {schema}.webhook_endpoint").scalar() == 0
        finally:
            host.run(f"DROP SCHEMA {acme}")


# --- every write, whatever the host has done


@pytest.mark.parametrize(
    "at", ["INSERT INTO webhook_endpoint", "UPDATE webhook_endpoint", "INSERT INTO webhook_secret"]
)
def test_a_conflict_in_a_transaction_that_the_host_began_is_503_without_a_second_try(database, at):
    host = Host(database)
    with serving(host):
        write = every_write(host)[at]
        host.before = lambda: reads_something(host)

        with host.failing_once(at) as tried:
            answer = write()

        assert is_503(answer)
        assert len(tried) == 1
        assert write().status_code in (200, 201)


@pytest.mark.parametrize(
    "at",
    [
        "INSERT INTO webhook_endpoint",
        "UPDATE webhook_endpoint",
        "INSERT INTO webhook_secret",
        "INTO webhook_event",
        "DELETE FROM webhook_endpoint",
    ],
)
@pytest.mark.parametrize("hook", [None, "tenant", "authorize", "committed"])
def test_a_conflict_in_a_transaction_of_ours_is_tried_again(database, at, hook):
    def tenant() -> str:
        if hook == "tenant":
            reads_something(host)
        return "acme"

    def authorize(action: str, endpoint_id: str | None) -> bool:
        if hook == "authorize":
            reads_something(host)
        return True

    def before() -> None:
        reads_something(host)
        host.db.session.commit()

    host = Host(database, tenant=tenant, authorize=authorize)
    with serving(host):
        write = every_write(host)[at]
        if hook == "committed":
            host.before = before

        with host.failing_once(at) as tried:
            answer = write()

        assert answer.status_code in (200, 201, 202, 204), answer.text
        assert len(tried) == 2


@servers_only
def test_a_read_after_a_lost_connection_has_no_second_try_where_the_host_began(database):
    host = Host(database)
    with serving(host):
        path = create_endpoint(host.acme).path
        paths = ("/v1/endpoints", path, f"{path}/secret", f"{path}/deliveries")
        for asked in paths:
            with host.failing_once("FROM webhook_", "lost") as tried:
                assert host.acme.get(asked).status_code == 200
            assert len(tried) > 1, asked
        host.before = lambda: reads_something(host)

        for asked in paths:
            with host.failing_once("FROM webhook_", "lost") as tried:
                assert is_503(host.acme.get(asked)), asked
            assert len(tried) == 1
            assert host.acme.get(asked).status_code == 200


# What `tenant` itself sets for its transaction is set again, because it is asked again.
@pytest.mark.only_on("postgresql")
def test_what_tenant_sets_for_its_transaction_is_set_in_the_second_try(database):
    def tenant() -> str:
        host.db.session.execute(sa.text("SELECT set_config('app.tenant', 'acme', true)"))
        return "acme"

    host = Host(database, tenant=tenant)
    with serving(host):
        host.run("ALTER TABLE webhook_endpoint ADD COLUMN seen_as TEXT DEFAULT current_setting('app.tenant', true)")

        with host.failing_once("INSERT INTO webhook_endpoint") as tried:
            assert post_endpoint(host.acme).status_code == 201

        assert len(tried) == 2
        with host.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT seen_as FROM webhook_endpoint").scalar() == "acme"


def test_a_tenant_that_is_another_one_when_asked_again_is_served_by_no_second_try(database):
    names = iter(["acme", "globex"])
    host = Host(database, tenant=lambda: next(names))
    with serving(host):
        with host.failing_once("INSERT INTO webhook_endpoint") as tried:
            answer = post_endpoint(host.acme)

        assert is_503(answer)
        assert len(tried) == 1
        with host.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM webhook_endpoint").scalar() == 0


@pytest.mark.only_on("postgresql")
def test_the_recipe_of_the_documentation_sets_the_tenant_in_every_try(database, monkeypatch):
    monkeypatch.setenv("FLASK_SECRET_KEY", "a secret of the reader's own, long enough")
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", database)
    example = docs.example("docs/authentication.md", "after_begin")
    app = example.create_app()
    with app.app_context():
        example.db.create_all()
        engine = example.db.engine
        example.db.session.add(example.ApiKey(digest=example.digest("key"), org_id=7))
        example.db.session.commit()
    host = Host.__new__(Host)
    host.engine = engine
    with serving(host):
        host.run("ALTER TABLE webhook_endpoint ADD COLUMN seen_as TEXT DEFAULT current_setting('app.org_id', true)")
        client = app.test_client()

        with host.failing_once("INSERT INTO webhook_endpoint") as tried:
            answer = client.post("/v1/endpoints", json=NEW, headers={"Authorization": "Bearer key"})

        assert (answer.status_code, len(tried)) == (201, 2)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT seen_as FROM webhook_endpoint").scalar() == "7"
