"""Engines in AUTOCOMMIT keep what a transaction rolls back: nothing of ours is written on one."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from flask_webhook_endpoints import RegistrationError
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import post_endpoint


def of_driver(database: str) -> dict[str, Any]:
    """Return what has the database's driver commit each statement."""
    if database.startswith("sqlite"):
        return {"isolation_level": None}
    return {"autocommit": True}


WAYS: dict[str, Any] = {
    "isolation_level": lambda database: {"isolation_level": "AUTOCOMMIT"},
    "execution_options": lambda database: {"execution_options": {"isolation_level": "AUTOCOMMIT"}},
    "connect_args": lambda database: {"connect_args": of_driver(database)},
}


@contextmanager
def host_with(database: str, options: dict[str, Any]) -> Iterator[hosts.Host]:
    hosts.flask_sqlalchemy(database).close()
    config = {"SQLALCHEMY_ENGINE_OPTIONS": options, "WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS": hosts.LOOPBACK}
    host = hosts.flask_sqlalchemy(database, max_endpoints_per_tenant=1, **config)
    yield host
    host.close()


def rows(host: hosts.Host) -> int:
    """Return how many rows our tables have."""
    with host.app.app_context(), host.db.engine.connect() as connection:
        tables = [table for name, table in host.db.metadata.tables.items() if name.startswith("webhook_")]
        return sum(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in tables)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_write_is_refused_with_the_name_of_the_setting_and_nothing_is_kept(database, way):
    with host_with(database, WAYS[way](database)) as host:
        acme = host.client()

        with pytest.raises(RegistrationError, match="AUTOCOMMIT") as raised:
            post_endpoint(acme)
        assert ("connect_args" if way == "connect_args" else "isolation_level") in str(raised.value)
        unknown = "/v1/endpoints/ep_00000000-0000-7000-8000-000000000000"
        ping = f"{unknown}/ping"
        for method, path, body in (("PATCH", unknown, {"name": "m"}), ("DELETE", unknown, {}), ("POST", ping, {})):
            with pytest.raises(RegistrationError, match="AUTOCOMMIT"):
                acme.open(path, method=method, json=body)
        with host.app.app_context():
            for write in (
                lambda: host.webhooks.publish("invoice.paid", 7, tenant_id="acme", idempotency_key="k"),
                lambda: host.webhooks.publish("invoice.paid", 7, tenant_id="acme"),
                lambda: host.webhooks.forget_tenant("acme"),
            ):
                with pytest.raises(RegistrationError, match="AUTOCOMMIT"):
                    write()
        with pytest.raises(RegistrationError, match="AUTOCOMMIT"):
            drain(host.app)

        assert rows(host) == 0
        assert acme.get("/v1/endpoints").json == []


def test_doctor_fails_and_names_the_setting(database, way):
    with host_with(database, WAYS[way](database)) as host:
        result = host.app.test_cli_runner().invoke(args=["webhooks", "doctor", "--json"])

        (finding,) = [each for each in json.loads(result.stdout) if each["check"] == "routing"]
        assert finding["level"] == "fail"
        assert "AUTOCOMMIT" in finding["message"]
        assert ("connect_args" if way == "connect_args" else "isolation_level") in finding["advice"]
        assert rows(host) == 0


def test_commands_say_so(database, way):
    with host_with(database, WAYS[way](database)) as host:
        for command in (["worker", "--drain"], ["prune"], ["rotate-keys"], ["forget-tenant", "x", "--yes"]):
            result = host.app.test_cli_runner().invoke(args=["webhooks", *command])

            assert result.exit_code != 0, command
            assert "AUTOCOMMIT" in f"{result.output} {result.exception}", command
        assert rows(host) == 0


# A hook of the host's that asks for it in its own session, for one request.
def test_a_session_that_is_in_autocommit_for_this_request_alone_is_refused_too(database):
    host = hosts.flask_sqlalchemy(database, register=False)
    asked = []

    def choose() -> None:
        if asked:
            host.db.session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})

    host.app.before_request(choose)
    host.app.register_blueprint(host.webhooks.blueprint)
    acme = host.client()
    assert post_endpoint(acme).status_code == 201
    asked.append(True)
    with pytest.raises(RegistrationError, match="AUTOCOMMIT"):
        post_endpoint(acme)
    asked.clear()
    assert post_endpoint(acme).status_code == 201

    assert len(acme.get("/v1/endpoints").json) == 2
    host.close()


@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
@pytest.mark.parametrize("name", ["isolation_level", "execution_options"])
def test_other_isolation_levels_are_fine(database, level, name):
    if database.startswith("sqlite"):
        # Its only one.
        level = "SERIALIZABLE"
    options = {"isolation_level": level} if name == "isolation_level" else {name: {"isolation_level": level}}
    with host_with(database, options) as host:
        assert post_endpoint(host.client()).status_code == 201
        assert post_endpoint(host.client()).status_code == 409
        assert len(host.client().get("/v1/endpoints").json) == 1


# SQLAlchemy's recipe for SQLite: the driver begins nothing, the engine's `begin` event does.
@pytest.mark.only_on("sqlite", "sqlite-memory")
def test_a_driver_without_transactions_of_its_own_is_fine_where_the_host_begins_them(database):
    with host_with(database, {"connect_args": {"isolation_level": None}}) as host:
        with host.app.app_context():

            @sa.event.listens_for(host.db.engine, "begin")
            def begin(connection):
                connection.exec_driver_sql("BEGIN")

        if database == "sqlite://":
            with host.app.app_context():
                host.db.create_all()
        acme = host.client()
        assert post_endpoint(acme).status_code == 201
        assert post_endpoint(acme).status_code == 409
        assert len(acme.get("/v1/endpoints").json) == 1


@pytest.mark.only_on("postgresql", "mariadb")
def test_a_driver_in_autocommit_is_fine_where_the_host_begins_transactions(database):
    with host_with(database, {"connect_args": {"autocommit": True}}) as host:
        with host.app.app_context():

            @sa.event.listens_for(host.db.engine, "begin")
            def begin(connection):
                connection.exec_driver_sql("BEGIN")

        acme = host.client()
        assert post_endpoint(acme).status_code == 201
        assert make_url(database).get_backend_name() in ("postgresql", "mysql")


# Python 3.12 has another switch for the same.
@pytest.mark.only_on("sqlite")
@pytest.mark.skipif(not hasattr(sqlite3, "LEGACY_TRANSACTION_CONTROL"), reason="Python 3.12 or newer")
@pytest.mark.parametrize(("autocommit", "status"), [(True, None), (False, 201)])
def test_sqlites_newer_switch_is_seen(database, autocommit, status):
    with host_with(database, {"connect_args": {"autocommit": autocommit}}) as host:
        acme = host.client()
        if status is None:
            with pytest.raises(RegistrationError, match="AUTOCOMMIT"):
                post_endpoint(acme)
        else:
            assert post_endpoint(acme).status_code == status


def test_the_check_asks_the_database_nothing(database):
    statements: list[str] = []
    with host_with(database, {}) as host:
        acme = host.client()
        post_endpoint(acme)
        with host.app.app_context():

            @sa.event.listens_for(host.db.engine, "before_cursor_execute")
            def keep(connection, cursor, statement, *_):
                statements.append(statement)

        path = f"/v1/endpoints/{acme.get('/v1/endpoints').json[0]['id']}"
        statements.clear()
        acme.patch(path, json={"name": "m"})

    assert not [each for each in statements if "isolation" in each.lower() or "autocommit" in each.lower()]
