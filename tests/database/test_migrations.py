"""Our tables in a host's own migrations, and in the ones that we ship."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import alembic.command
import flask_migrate
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from click.testing import Result
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import flask_webhook_endpoints
from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.database import migrate, moving
from flask_webhook_endpoints.database.migrate import VERSION_TABLE
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.types import ID, UTCTime
from tests.support import docs, hosts
from tests.support.api import PATH, post_endpoint
from tests.support.database import NEWEST_REVISION

# The env.py that Flask-Migrate generates.
pytestmark = [
    pytest.mark.usefixtures("logging_untouched"),
    pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning"),
]

OUR_TABLES = set(flask_webhook_endpoints.metadata.tables)
NAMING_CONVENTION = {
    "ix": "ix__%(table_name)s__%(column_0_N_name)s",
    "uq": "uq__%(table_name)s__%(column_0_N_name)s",
    "ck": "ck__%(table_name)s__%(constraint_name)s",
    "fk": "fk__%(table_name)s__%(column_0_N_name)s__%(referred_table_name)s",
    "pk": "pk__%(table_name)s",
}


@dataclass
class MigratingHost:
    """An application with Flask-Migrate, models of its own and our blueprint."""

    app: Flask
    db: SQLAlchemy
    versions: Path

    def migrate(self) -> list[str]:
        """Run `flask db migrate` and return the text of every migration there is."""
        flask_migrate.migrate()
        return [path.read_text() for path in sorted(self.versions.glob("*.py"))]

    def register(self) -> None:
        register(self.app)
        # The session lives as long as the test's own application context, and its locks with it.
        self.db.session.remove()

    def table_names(self) -> set[str]:
        return set(sa.inspect(self.db.engine).get_table_names(schema=self.db.metadata.schema))


def flask_migrate_host(url: str, folder: Path, metadata: sa.MetaData) -> MigratingHost:
    db = SQLAlchemy(metadata=metadata)

    class Invoice(db.Model):  # type: ignore[name-defined, misc]
        id: Any = sa.Column(sa.Integer, primary_key=True)
        number = sa.Column(sa.String(30), nullable=False, unique=True)

    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header, metadata=db.metadata)
    app = Flask("migrating_host")
    app.config.update(TESTING=True, SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI=url)
    db.init_app(app)
    options: dict[str, Any] = {}
    if metadata.schema is not None:
        # As a host writes it: without the filter Alembic looks at every schema of the server.
        options = {
            "include_schemas": True,
            "include_name": lambda name, kind, _: kind != "schema" or name in (None, metadata.schema),
        }
    flask_migrate.Migrate(app, db, directory=str(folder / "migrations"), compare_type=True, **options)
    app.register_blueprint(webhooks.blueprint)
    return MigratingHost(app, db, folder / "migrations" / "versions")


def register(app: Flask, *, tenant_id: str = "acme") -> None:
    client = hosts.client(app, tenant_id)

    answer = post_endpoint(client, key="k", headers_json={"X-Key": "v"})

    assert answer.status_code == 201
    assert client.get(PATH).json == [answer.json]


@pytest.fixture(params=["plain", "naming-convention", "schema"])
def migrating_host(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[MigratingHost]:
    match request.param:
        case "plain":
            metadata = sa.MetaData()
        case "naming-convention":
            metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
        case _:
            metadata = sa.MetaData(schema=request.getfixturevalue("schema"))
    host = flask_migrate_host(database, tmp_path, metadata)
    with host.app.app_context():
        yield host
        host.db.session.remove()
        host.db.engine.dispose()


@pytest.fixture
def schema(database: str) -> Iterator[str]:
    with hosts.own_schema(database) as name, hosts.attaching(database, name):
        yield name


def test_autogenerate_finds_our_tables_once_and_makes_them_work(migrating_host):
    flask_migrate.init()

    (migration,) = migrating_host.migrate()
    assert all(migration.count(f"op.create_table('{name}'") == 1 for name in OUR_TABLES)
    assert "sqlmodel" not in migration
    assert "flask_webhook_endpoints" not in migration

    flask_migrate.upgrade()
    assert migrating_host.table_names() >= OUR_TABLES
    migrating_host.register()
    assert migrating_host.migrate() == [migration]

    flask_migrate.downgrade(revision="base")
    assert not migrating_host.table_names() & OUR_TABLES
    flask_migrate.upgrade()
    migrating_host.register()


# Two histories would change the same tables from then on.
def test_stamp_refuses_where_the_hosts_own_migrations_have_our_tables(migrating_host):
    flask_migrate.init()
    migrating_host.migrate()
    flask_migrate.upgrade()

    refused = migrating_host.app.test_cli_runner().invoke(args=["webhooks", "db", "stamp"])

    assert refused.exit_code == 1
    assert "Your own migrations have the table" in refused.stderr
    assert "`flask db upgrade`" in refused.stderr
    assert VERSION_TABLE not in migrating_host.table_names()


def test_the_recipe_for_taking_the_library_out_drops_all_tables(migrating_host):
    db = migrating_host.db
    db.create_all()
    migrating_host.register()
    recipe = docs.example("docs/migrations.md", "take_out")
    recipe.SCHEMA = db.metadata.schema

    with db.engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        recipe.upgrade()

    assert not migrating_host.table_names() & OUR_TABLES
    assert "invoice" in migrating_host.table_names()
    # Without our tables in its MetaData, the host's next migration finds no change.
    for name in OUR_TABLES:
        db.metadata.remove(db.metadata.tables[name if db.metadata.schema is None else f"{db.metadata.schema}.{name}"])
    schema = db.metadata.schema
    options = {
        "include_schemas": schema is not None,
        "include_name": lambda name, kind, _: kind != "schema" or name == schema,
    }
    with db.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), db.metadata) == []


@pytest.mark.several_connections
def test_autogenerate_of_a_plain_alembic_host_finds_our_tables_once(database, tmp_path, monkeypatch):
    folder = tmp_path / "alembic"
    config = Config(str(tmp_path / "alembic.ini"))
    alembic.command.init(config, str(folder))
    (tmp_path / "billing_models.py").write_text(
        "import sqlalchemy as sa\n\n"
        "metadata = sa.MetaData()\n"
        "invoice = sa.Table('invoice', metadata, sa.Column('id', sa.Integer, primary_key=True))\n"
    )
    env = (folder / "env.py").read_text()
    lists_ours = "import billing_models\nimport flask_webhook_endpoints\n\n"
    lists_ours += "target_metadata = [billing_models.metadata, flask_webhook_endpoints.metadata]\n"
    (folder / "env.py").write_text(env.replace("target_metadata = None\n", lists_ours))
    monkeypatch.syspath_prepend(tmp_path)
    config.set_main_option("sqlalchemy.url", database.replace("%", "%%"))

    def migrate() -> list[str]:
        alembic.command.revision(config, "tables", autogenerate=True)
        return [path.read_text() for path in sorted((folder / "versions").glob("*.py"))]

    (migration,) = migrate()
    assert "'invoice'" in migration
    assert "sqlmodel" not in migration
    assert "flask_webhook_endpoints" not in migration

    alembic.command.upgrade(config, "head")
    engine = sa.create_engine(database)
    app, session = plain_host(engine)
    register(app)
    session.remove()
    alembic.command.check(config)
    # Two histories would have changed the same tables.
    refused = app.test_cli_runner().invoke(args=["webhooks", "db", "stamp"])
    assert refused.exit_code == 1
    assert "create_all() made it, add --yes" in refused.stderr
    assert VERSION_TABLE not in sa.inspect(engine).get_table_names()

    alembic.command.downgrade(config, "base")
    assert not set(sa.inspect(engine).get_table_names()) & (OUR_TABLES | {"invoice"})
    engine.dispose()


def test_stamp_beside_migrations_of_the_hosts_other_tables_wants_a_yes(database):
    engine = sa.create_engine(database)
    app, session = plain_host(engine)
    flask_webhook_endpoints.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")

    refused, stamped, again = (
        app.test_cli_runner().invoke(args=["webhooks", "db", "stamp", *more]) for more in ([], ["--yes"], [])
    )

    assert [each.exit_code for each in (refused, stamped, again)] == [1, 0, 0]
    session.remove()
    engine.dispose()


def plain_host(engine: sa.Engine) -> tuple[Flask, scoped_session[Session]]:
    session = scoped_session(sessionmaker(engine))
    webhooks = WebhookEndpoints(session=session, tenant=hosts.tenant_header)
    app = Flask("plain_host")
    app.config.update(TESTING=True, SECRET_KEY="host secret")
    app.register_blueprint(webhooks.blueprint)
    return app, session


@dataclass
class ShippedHost:
    """An application that leaves the migrations of our tables to `flask webhooks db`."""

    app: Flask
    metadata: sa.MetaData
    engine: sa.Engine

    def run(self, *args: str) -> Result:
        return self.app.test_cli_runner().invoke(args=["webhooks", "db", *args])

    def differences(self) -> list[Any]:
        """Return what Alembic would change to make the database as the models are."""
        options = {
            "version_table": VERSION_TABLE,
            "version_table_schema": self.metadata.schema,
            "compare_type": True,
            "include_schemas": self.metadata.schema is not None,
            "include_name": lambda name, kind, _: kind != "schema" or name == self.metadata.schema,
        }
        with self.engine.connect() as connection:
            return compare_metadata(MigrationContext.configure(connection, opts=options), self.metadata)

    def described(self) -> dict[str, Any]:
        """Return all that the database says of our tables, types as it spells them."""
        inspector = sa.inspect(self.engine)
        schema = self.metadata.schema
        return {
            name: (
                [
                    {**column, "type": column["type"].compile(self.engine.dialect)}
                    for column in inspector.get_columns(name, schema=schema)
                ],
                inspector.get_pk_constraint(name, schema=schema),
                inspector.get_foreign_keys(name, schema=schema),
                inspector.get_unique_constraints(name, schema=schema),
                inspector.get_indexes(name, schema=schema),
            )
            for name in sorted(OUR_TABLES & set(inspector.get_table_names(schema=schema)))
        }


@pytest.fixture(params=["no-metadata", "naming-convention", "schema", "second-bind"])
def shipped_host(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[ShippedHost]:
    db = SQLAlchemy()
    app = Flask("shipped_host")
    app.config.update(TESTING=True, SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI=database)
    metadata: sa.MetaData | None = None
    match request.param:
        case "naming-convention":
            metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
        case "schema":
            metadata = sa.MetaData(schema=request.getfixturevalue("schema"))
        case "second-bind":
            metadata = sa.MetaData(info={"bind_key": "webhooks"})
            app.config.update(
                SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/other.db", SQLALCHEMY_BINDS={"webhooks": database}
            )
    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header, metadata=metadata)
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint)
    with app.app_context():
        engines = dict(db.engines)
    engine = engines["webhooks" if request.param == "second-bind" else None]
    yield ShippedHost(app, flask_webhook_endpoints.metadata if metadata is None else metadata, engine)
    for used in engines.values():
        used.dispose()


def test_shipped_migrations_go_up_down_and_up(shipped_host):
    up = shipped_host.run("upgrade")
    assert (up.exit_code, up.stdout) == (0, f"Revision: {NEWEST_REVISION}\n")
    register(shipped_host.app)

    down = shipped_host.run("downgrade", "base")
    assert (down.exit_code, down.stdout) == (0, "Revision: none\n")
    assert shipped_host.described() == {}

    shipped_host.run("upgrade")
    register(shipped_host.app)


def test_shipped_migrations_make_what_the_models_say(shipped_host):
    shipped_host.metadata.create_all(shipped_host.engine)
    created = shipped_host.described()
    shipped_host.metadata.drop_all(shipped_host.engine)

    shipped_host.run("upgrade")

    assert shipped_host.differences() == []
    if "fk" not in shipped_host.metadata.naming_convention:
        assert shipped_host.described() == created


def test_a_second_upgrade_changes_nothing(shipped_host):
    shipped_host.run("upgrade")
    register(shipped_host.app)

    again = shipped_host.run("upgrade")

    assert (again.exit_code, again.stdout) == (0, f"Revision: {NEWEST_REVISION}\n")
    assert shipped_host.app.test_client().get("/v1/endpoints", headers={"X-Tenant": "acme"}).json


def test_endpoints_live_through_the_revision_that_brings_deliveries(shipped_host):
    shipped_host.run("upgrade")
    register(shipped_host.app)
    register(shipped_host.app, tenant_id="globex")
    client, as_acme = shipped_host.app.test_client(), {"headers": {"X-Tenant": "acme"}}
    path = f"/v1/endpoints/{client.get('/v1/endpoints', **as_acme).json[0]['id']}"
    before = client.patch(path, json={"status": "PAUSED"}, **as_acme).json
    reason = sa.column("pause_reason")
    endpoint = sa.table("webhook_endpoint", reason, schema=shipped_host.metadata.schema)

    assert shipped_host.run("downgrade", "0001").stdout == "Revision: 0001\n"
    assert "pause_reason" not in {column["name"] for column in shipped_host.described()["webhook_endpoint"][0]}
    assert shipped_host.run("upgrade").stdout == f"Revision: {NEWEST_REVISION}\n"

    assert client.get(path, **as_acme).json == before
    with shipped_host.engine.connect() as connection:
        rows = connection.execute(sa.select(endpoint).order_by(reason.is_(None))).all()
    assert rows == [("user",), (None,)]
    assert client.patch(path, json={"status": "ACTIVE"}, **as_acme).status_code == 200
    assert shipped_host.differences() == []


def test_endpoints_that_fail_live_through_the_revision_that_brings_incidents(shipped_host):
    shipped_host.run("upgrade")
    for tenant_id in ("acme", "globex"):
        register(shipped_host.app, tenant_id=tenant_id)
    schema, since = shipped_host.metadata.schema, datetime(2026, 1, 1)  # noqa: DTZ001 - as stored
    names = ("tenant_id", "failing_since", "exhausted_in_a_row")
    endpoint, incident = (
        sa.table(name, *map(sa.column, (*names, *more)), schema=schema)
        for name, more in (("webhook_endpoint", ()), ("webhook_incident", ("began_at", "balance")))
    )
    assert shipped_host.run("downgrade", "0007").stdout == "Revision: 0007\n"
    with shipped_host.engine.begin() as connection:
        failing = sa.update(endpoint).where(endpoint.c.tenant_id == _stored(connection, "globex"))
        connection.execute(failing.values(failing_since=sa.literal(since, sa.DateTime()), exhausted_in_a_row=7))

    assert shipped_host.run("upgrade").stdout == f"Revision: {NEWEST_REVISION}\n"

    with shipped_host.engine.connect() as connection:
        rows = connection.execute(sa.select(incident.c.exhausted_in_a_row, incident.c.balance)).all()
        same = connection.execute(sa.select(incident.c.began_at == incident.c.failing_since)).scalars().all()
    assert (rows, [bool(each) for each in same]) == ([(7, 10)], [True])
    assert shipped_host.run("downgrade", "0007").stdout == "Revision: 0007\n"
    with shipped_host.engine.connect() as connection:
        back = connection.execute(sa.select(endpoint.c.exhausted_in_a_row, endpoint.c.failing_since.is_(None))).all()
    assert sorted((number, bool(is_null)) for number, is_null in back) == [(0, True), (7, False)]


def test_on_postgresql_a_revision_empties_the_index_of_a_tenants_deliveries(shipped_host):
    def predicates():
        indexes = sa.inspect(shipped_host.engine).get_indexes("webhook_delivery", schema=shipped_host.metadata.schema)
        named = [each for each in indexes if each["name"] == "ix_webhook_delivery_tenant_id_id"]
        return [each.get("dialect_options", {}).get("postgresql_where") for each in named]

    shipped_host.run("upgrade")
    assert predicates() == ["false" if shipped_host.engine.dialect.name == "postgresql" else None]

    shipped_host.run("downgrade", "0012")
    assert predicates() == [None]


def test_the_revision_that_takes_events_out_of_the_queue_can_be_undone(shipped_host):
    shipped_host.run("upgrade")
    for tenant_id in ("acme", "globex"):
        register(shipped_host.app, tenant_id=tenant_id)
        ping(shipped_host.app, tenant_id)
    schema, names = shipped_host.metadata.schema, ("tenant_id", "event_id")
    queue, delivery = (
        sa.table(f"webhook_{name}", *map(sa.column, names), schema=schema) for name in ("queue", "delivery")
    )
    with shipped_host.engine.begin() as connection:
        # Of the host's own: nothing can deliver it any more.
        connection.execute(sa.delete(delivery).where(delivery.c.tenant_id == _stored(connection, "globex")))

    assert shipped_host.run("downgrade", "0013").stdout == "Revision: 0013\n"

    with shipped_host.engine.connect() as connection:
        of_queue, of_log = (connection.execute(sa.select(table)).all() for table in (queue, delivery))
    assert of_queue == of_log != []
    assert shipped_host.run("upgrade").stdout == f"Revision: {NEWEST_REVISION}\n"
    assert shipped_host.differences() == []


MOVES = {
    "upgrade": {
        "0004": "webhook_delivery: 3 rows read, 3 moved into webhook_queue",
        "0008": "webhook_endpoint: 3 rows read, 0 moved into webhook_incident",
        "0011": "webhook_delivery: 3 rows read, 0 noted in webhook_undelivered",
    },
    "downgrade": {
        "0014": "webhook_queue: 3 rows read, 3 with their event",
        "0008": "webhook_endpoint: 3 rows read, 0 that fail",
        "0004": "webhook_delivery: 3 rows read, 3 with what the queue had",
    },
}


# They were silent for eleven seconds, and where all had finished, always.
@pytest.mark.parametrize("way", MOVES)
def test_each_revision_is_named_as_it_begins_and_one_that_moves_rows_says_how_far_it_is(shipped_host, monkeypatch, way):
    shipped_host.run("upgrade")
    for tenant_id in ("acme", "globex", "initech"):
        register(shipped_host.app, tenant_id=tenant_id)
        ping(shipped_host.app, tenant_id)
    monkeypatch.setattr(moving, "BATCH", 2)

    down, up = shipped_host.run("downgrade", "0003"), shipped_host.run("upgrade")

    lines = {"downgrade": down, "upgrade": up}[way].stderr.splitlines()
    begins = [number for number, line in enumerate(lines) if re.match(rf"{way.capitalize()} \d{{4}}: .", line)]
    revisions = [lines[number].split()[1].rstrip(":") for number in begins]
    expected = [f"{number:04}" for number in range(4, int(NEWEST_REVISION) + 1)]
    assert revisions == (expected if way == "upgrade" else expected[::-1])
    told = {
        revision: lines[first + 1 : last]
        for revision, first, last in zip(revisions, begins, [*begins[1:], None], strict=True)
    }
    for revision, line in MOVES[way].items():
        assert f"  {line}" in told[revision]
    # A batch of two, and then the rest.
    assert f"  {MOVES[way]['0004'].replace('3', '2')}" in told["0004"]
    assert {row["status"] for row in deliveries_of(shipped_host.app, "acme")} == {"PENDING"}


# It stood in the documentation alone.
@pytest.mark.parametrize("way", MOVES)
def test_what_must_be_stopped_is_said_before_the_first_revision_and_a_worker_that_goes_on_is_named(shipped_host, way):
    shipped_host.run("upgrade")
    args = ["downgrade", "0003"] if way == "downgrade" else ["upgrade"]
    if way == "upgrade":
        shipped_host.run("downgrade", "0003")
    schema = shipped_host.metadata.schema
    names = {"id": ID, "seen_at": UTCTime, "started_at": UTCTime, "engine": None, "hostname": None, "pid": None}
    worker = sa.table("webhook_worker", *(sa.column(name, kind) for name, kind in names.items()), schema=schema)
    now = datetime.now(UTC)
    row = {"engine": "worker", "pid": 4711, "started_at": now}
    with shipped_host.engine.begin() as connection:
        for hostname, seen_at in (("alive", now), ("dead", now - timedelta(minutes=5))):
            connection.execute(sa.insert(worker).values(**row, id=new_id(), hostname=hostname, seen_at=seen_at))

    lines = shipped_host.run(*args).stderr.splitlines()

    first = next(number for number, line in enumerate(lines) if line.startswith(way.capitalize()))
    said = lines[:first]
    revisions = ["0004", "0008", "0011", "0014"] if way == "upgrade" else ["0014", "0012", "0011", "0008", "0004"]
    assert [line.split(": ")[0] for line in said[:-1]] == [f"Before {way} {revision}" for revision in revisions]
    assert all("Stop the" in line for line in said[:-1])
    assert said[-1] == "A worker was seen a moment ago and must not go on: pid 4711 of alive"


def test_an_empty_database_has_nothing_to_stop(shipped_host):
    assert "Stop" not in shipped_host.run("upgrade").stderr


@pytest.mark.parametrize("how", ["shipped", "recipe"])
def test_what_is_pending_lives_through_the_revision_that_brings_the_queue(shipped_host, how):
    shipped_host.run("upgrade")
    schema = shipped_host.metadata.schema
    shown = {}
    for tenant_id in ("acme", "globex"):
        register(shipped_host.app, tenant_id=tenant_id)
        shown[tenant_id] = ping(shipped_host.app, tenant_id)

    assert shipped_host.run("downgrade", "0003").stdout == "Revision: 0003\n"

    names = ("id", "status", "attempts", "attempts_before", "next_attempt_at", "lease_owner")
    delivery = sa.table("webhook_delivery", *map(sa.column, ("tenant_id", *names)), schema=schema)
    with shipped_host.engine.begin() as connection:
        before = connection.execute(sa.select(delivery)).all()
        assert [(row.status, row.attempts, row.attempts_before) for row in before] == [("PENDING", 0, 0)] * 2
        assert all(row.next_attempt_at is not None for row in before)
        # As a worker of the older version does.
        leased = sa.update(delivery).where(delivery.c.tenant_id == _stored(connection, "globex"))
        connection.execute(leased.values(status="SENDING", attempts=1))
    if how == "recipe":
        move_by_recipe(shipped_host)
    else:
        assert shipped_host.run("upgrade").stdout == f"Revision: {NEWEST_REVISION}\n"

    queue = sa.table("webhook_queue", sa.column("state"), sa.column("attempts"), schema=schema)
    with shipped_host.engine.connect() as connection:
        rows = connection.execute(sa.select(queue).order_by(queue.c.attempts)).all()
    assert rows == [("WAITING", 0), ("LEASED", 1)]
    if how == "shipped":
        assert deliveries_of(shipped_host.app, "acme") == [shown["acme"]]
        assert deliveries_of(shipped_host.app, "globex") == [
            {**shown["globex"], "attempts": 1, "next_attempt_at": None}
        ]
        assert shipped_host.differences() == []


def move_by_recipe(shipped_host: ShippedHost) -> None:
    recipe = docs.example("docs/migrations.md", "move_pending")
    recipe.SCHEMA = shipped_host.metadata.schema
    prefix = f"{recipe.SCHEMA}." if recipe.SCHEMA else ""
    with shipped_host.engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        shipped_host.metadata.tables[f"{prefix}webhook_queue"].create(connection)
        recipe.move_pending()


# After the generated downgrade nobody ever sent what was pending.
def test_the_recipe_for_the_way_back_gives_the_log_what_the_queue_has(shipped_host):
    shipped_host.run("upgrade")
    for tenant_id in ("acme", "globex", "initech"):
        register(shipped_host.app, tenant_id=tenant_id)
        ping(shipped_host.app, tenant_id)
    schema, time = shipped_host.metadata.schema, sa.column("last_attempt_at", UTCTime)
    names = ("tenant_id", "status", "attempts", "last_duration_ms", "attempts_before", "next_attempt_at")
    delivery = sa.table("webhook_delivery", time, *map(sa.column, names), schema=schema)
    queue = sa.table("webhook_queue", *map(sa.column, ("tenant_id", "state", "attempts")), schema=schema)
    attempt = sa.table("webhook_attempt", *map(sa.column, ("number", "duration_ms")), schema=schema)
    with shipped_host.engine.begin() as connection:
        globex, initech = (_stored(connection, tenant_id) for tenant_id in ("globex", "initech"))
        connection.execute(sa.update(queue).where(queue.c.tenant_id == globex).values(state="LEASED", attempts=2))
        connection.execute(sa.delete(queue).where(queue.c.tenant_id == initech))
        delivered = {"status": "DELIVERED", "attempts": 1, "last_attempt_at": datetime.now(UTC), "last_duration_ms": 7}
        connection.execute(sa.update(delivery).where(delivery.c.tenant_id == initech).values(delivered))

    with recipe_of(shipped_host, "move_back") as (connection, recipe):
        before = sa.Column("attempts_before", sa.Integer, nullable=False, server_default="0")
        for column in (before, sa.Column("next_attempt_at", UTCTime), sa.Column("lease_owner", ID)):
            operations(connection).add_column("webhook_delivery", column, schema=schema)
        recipe.move_back()
        columns = delivery.c.status, delivery.c.attempts, delivery.c.next_attempt_at.is_not(None)
        rows = connection.execute(sa.select(*columns).order_by(delivery.c.tenant_id)).all()
        attempts = connection.execute(sa.select(attempt)).all()

    assert [tuple(row) for row in rows] == [("PENDING", 0, True), ("SENDING", 2, True), ("DELIVERED", 1, False)]
    assert attempts == [(1, 7)]


def test_the_recipe_for_what_failed_before_notes_what_the_revision_notes(shipped_host):
    shipped_host.run("upgrade")
    schema = shipped_host.metadata.schema
    for tenant_id in ("acme", "globex"):
        register(shipped_host.app, tenant_id=tenant_id)
        ping(shipped_host.app, tenant_id)
    names = ("tenant_id", "endpoint_id", "status")
    delivery = sa.table("webhook_delivery", *map(sa.column, ("id", *names)), schema=schema)
    undelivered = sa.table("webhook_undelivered", *map(sa.column, ("delivery_id", *names)), schema=schema)
    with shipped_host.engine.begin() as connection:
        of_globex = delivery.c.tenant_id == _stored(connection, "globex")
        connection.execute(sa.update(delivery).where(of_globex).values(status="FAILED"))

    with recipe_of(shipped_host, "note_undelivered") as (connection, recipe):
        recipe.note_undelivered()
        noted = connection.execute(sa.select(undelivered)).all()
        expected = connection.execute(sa.select(delivery).where(of_globex)).all()

    assert noted == expected != []


def test_the_recipe_for_the_events_of_the_queue_fills_them_from_the_log(shipped_host):
    shipped_host.run("upgrade")
    register(shipped_host.app)
    ping(shipped_host.app, "acme")
    schema = shipped_host.metadata.schema
    delivery, queue = (
        sa.table(f"webhook_{name}", sa.column("event_id"), schema=schema) for name in ("delivery", "queue")
    )

    with recipe_of(shipped_host, "give_events_back") as (connection, recipe):
        kind = shipped_host.metadata.tables[f"{schema}.webhook_event" if schema else "webhook_event"].c.id.type
        operations(connection).add_column("webhook_queue", sa.Column("event_id", kind), schema=schema)
        recipe.give_events_back()
        of_queue, of_log = (connection.execute(sa.select(table)).all() for table in (queue, delivery))

    assert of_queue == of_log != []


def operations(connection: sa.Connection) -> Operations:
    return Operations(MigrationContext.configure(connection))


@contextmanager
def recipe_of(shipped_host: ShippedHost, name: str) -> Iterator[tuple[sa.Connection, Any]]:
    """Yield a recipe of the documentation as a migration of the host's runs it."""
    recipe = docs.example("docs/migrations.md", name)
    recipe.SCHEMA = shipped_host.metadata.schema
    with shipped_host.engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        yield connection, recipe


def _stored(connection: sa.Connection, tenant_id: str) -> Any:
    return tenant_id.encode() if connection.dialect.name == "mysql" else tenant_id


def ping(app: Flask, tenant_id: str) -> dict[str, Any]:
    client, as_tenant = app.test_client(), {"headers": {"X-Tenant": tenant_id}}
    ep_id = client.get("/v1/endpoints", **as_tenant).json[0]["id"]
    client.post(f"/v1/endpoints/{ep_id}/ping", **as_tenant)
    return deliveries_of(app, tenant_id)[0]


def deliveries_of(app: Flask, tenant_id: str) -> list[dict[str, Any]]:
    client, as_tenant = app.test_client(), {"headers": {"X-Tenant": tenant_id}}
    ep_id = client.get("/v1/endpoints", **as_tenant).json[0]["id"]
    return client.get(f"/v1/endpoints/{ep_id}/deliveries", **as_tenant).json


def test_an_upgrade_leaves_tables_alone_that_it_did_not_make(shipped_host):
    shipped_host.metadata.create_all(shipped_host.engine)
    created = shipped_host.described()

    refused = shipped_host.run("upgrade")

    assert refused.exit_code == 1
    assert "webhook_endpoint is there, but these migrations did not make it" in refused.output
    # It once told those who have migrations of their own to stamp, and so to have both.
    assert "If your own migrations keep these tables, go on with them (`flask db upgrade`)" in refused.output
    assert "If create_all() of this version made them, run `flask webhooks db stamp`.\n" in refused.output
    assert shipped_host.described() == created
    assert shipped_host.run("current").stdout == "Revision: none\n"
    assert shipped_host.run("stamp").stdout == f"Revision: {NEWEST_REVISION}\n"
    assert shipped_host.run("upgrade").exit_code == 0
    assert shipped_host.described() == created


def test_the_printed_sql_makes_the_tables_and_their_revision(shipped_host):
    printed = shipped_host.run("upgrade", "--sql")
    assert printed.exit_code == 0
    assert shipped_host.described() == {}

    with shipped_host.engine.begin() as connection:
        for statement in printed.stdout.split(";"):
            if statement.strip() not in ("", "BEGIN", "COMMIT"):
                connection.exec_driver_sql(statement)

    assert shipped_host.differences() == []
    assert shipped_host.run("current").stdout == f"Revision: {NEWEST_REVISION}\n"


@pytest.mark.parametrize("args", [("upgrade", "0815"), ("downgrade", "0815"), ("upgrade", "0815", "--sql")])
def test_an_unknown_revision_is_named_without_a_traceback(host, args):
    host.app.test_cli_runner().invoke(args=["webhooks", "db", "stamp"])

    result = host.app.test_cli_runner().invoke(args=["webhooks", "db", *args])

    assert result.exit_code == 1
    assert "Error: Can't locate revision identified by '0815'" in result.output
    assert isinstance(result.exception, SystemExit)


def test_without_alembic_the_commands_name_the_extra(host, monkeypatch):
    monkeypatch.delitem(sys.modules, "flask_webhook_endpoints.database.migrate", raising=False)
    monkeypatch.setitem(sys.modules, "alembic", None)

    result = host.app.test_cli_runner().invoke(args=["webhooks", "db", "current"])

    assert result.exit_code == 1
    assert "pip install 'flask-webhook-endpoints[migrations]'" in result.output


@pytest.mark.slow
@pytest.mark.several_connections
def test_upgrades_at_the_same_time_wait_for_each_other(database, tmp_path):
    (tmp_path / "host.py").write_text(
        "import os\n"
        "from flask import Flask\n"
        "from sqlalchemy import create_engine\n"
        "from sqlalchemy.orm import scoped_session, sessionmaker\n"
        "from flask_webhook_endpoints import WebhookEndpoints\n"
        "session = scoped_session(sessionmaker(create_engine(os.environ['DATABASE_URL'])))\n"
        "app = Flask('host')\n"
        "app.config['SECRET_KEY'] = 'host secret'\n"
        "app.register_blueprint(WebhookEndpoints(session=session, tenant=lambda: 'acme').blueprint)\n"
    )
    package = str(Path(flask_webhook_endpoints.__file__).parent.parent)
    upgrades = [
        subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", str(tmp_path / "host.py"), "webhooks", "db", "upgrade"],
            env={**os.environ, "DATABASE_URL": database, "PYTHONPATH": package},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [upgrade.communicate(timeout=60)[0] for upgrade in upgrades]

    assert outputs == [f"Revision: {NEWEST_REVISION}\n"] * 3
    assert [upgrade.returncode for upgrade in upgrades] == [0] * 3
    engine = sa.create_engine(database)
    app, session = plain_host(engine)
    host = ShippedHost(app, flask_webhook_endpoints.metadata, engine)
    assert host.run("upgrade").stdout == f"Revision: {NEWEST_REVISION}\n"
    assert host.differences() == []
    session.remove()
    engine.dispose()


# MariaDB answers 0 in place of the lock: the revisions ran beside those of the other process.
@pytest.mark.only_on("mariadb")
def test_an_upgrade_that_waited_in_vain_for_another_one_changes_nothing(database, monkeypatch):
    monkeypatch.setattr(migrate, "_LOCK_SECONDS", 0)
    engine = sa.create_engine(database)
    app, session = plain_host(engine)
    host = ShippedHost(app, flask_webhook_endpoints.metadata, engine)
    lock = sa.func.md5(sa.func.concat(VERSION_TABLE, sa.func.database()))
    with engine.connect() as other:
        assert other.scalar(sa.select(sa.func.get_lock(lock, 0))) == 1
        refused = host.run("upgrade")

        assert refused.exit_code == 1
        assert "Another process migrates this database" in refused.output
        assert host.described() == {}
        assert other.scalar(sa.select(sa.func.release_lock(lock))) == 1
    assert host.run("upgrade").exit_code == 0
    session.remove()
    engine.dispose()


def test_shipped_revisions_import_nothing_that_may_change():
    folder = Path(flask_webhook_endpoints.__file__).parent / "database" / "migrations" / "versions"
    revisions = [path.read_text() for path in folder.glob("*.py")]

    assert revisions
    # This one only makes batches of the statements that a revision has.
    shared = "from flask_webhook_endpoints.database import moving\n"
    texts = [text.replace(shared, "") for text in revisions]
    assert not any("flask_webhook_endpoints" in text or "sqlmodel" in text for text in texts)
