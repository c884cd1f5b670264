"""Our tables in a host's own migrations, and in the ones that we ship."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alembic.command
import flask_migrate
import pytest
import sqlalchemy as sa
from alembic.config import Config
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flask_webhook_endpoints import WebhookEndpoints
from tests import hosts

# The env.py that Flask-Migrate generates.
pytestmark = pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning")

OUR_TABLES = {"webhook_endpoint", "webhook_secret", "webhook_idempotency_key"}
NAMING_CONVENTION = {
    "ix": "ix__%(table_name)s__%(column_0_N_name)s",
    "uq": "uq__%(table_name)s__%(column_0_N_name)s",
    "ck": "ck__%(table_name)s__%(constraint_name)s",
    "fk": "fk__%(table_name)s__%(column_0_N_name)s__%(referred_table_name)s",
    "pk": "pk__%(table_name)s",
}


@pytest.fixture(autouse=True)
def _logging_untouched() -> Iterator[None]:
    # The env.py of both generators configures logging, which silences every logger made before.
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.level, root.handlers = level, handlers
    for logger in root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False


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


def flask_migrate_host(url: str, folder: Path, metadata: sa.MetaData, *, attach: Path | None = None) -> MigratingHost:
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
    if attach is not None:
        with app.app_context():
            attach_schema(db.engine, attach, str(metadata.schema))
    return MigratingHost(app, db, folder / "migrations" / "versions")


def attach_schema(engine: sa.Engine, path: Path, schema: str) -> None:
    @sa.event.listens_for(engine, "connect")
    def _attach(connection: Any, _: Any) -> None:
        connection.execute(f"ATTACH DATABASE '{path}' AS {schema}")


def register(app: Flask) -> None:
    client = app.test_client()
    body = {"name": "n", "url": "https://example.com/", "headers_json": {"X-Key": "v"}}

    answer = client.post("/v1/endpoints", json=body, headers={"X-Tenant": "acme", "Idempotency-Key": "k"})

    assert answer.status_code == 201
    assert client.get("/v1/endpoints", headers={"X-Tenant": "acme"}).json == [answer.json]


@pytest.fixture(params=["plain", "naming-convention", "schema"])
def migrating_host(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[MigratingHost]:
    match request.param:
        case "plain":
            metadata, attach = sa.MetaData(), None
        case "naming-convention":
            metadata, attach = sa.MetaData(naming_convention=NAMING_CONVENTION), None
        case _:
            schema = request.getfixturevalue("schema")
            metadata = sa.MetaData(schema=schema)
            attach = tmp_path / "schema.db" if database.startswith("sqlite") else None
    host = flask_migrate_host(database, tmp_path, metadata, attach=attach)
    with host.app.app_context():
        yield host
        host.db.session.remove()
        host.db.engine.dispose()


@pytest.fixture
def schema(database: str) -> Iterator[str]:
    """The name of a second schema beside `database`; SQLite gets it by ATTACH."""
    if database.startswith("sqlite"):
        yield "billing"
        return
    name = "billing_" + sa.make_url(database).render_as_string().rpartition("test_")[2]
    engine = sa.create_engine(database, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    try:
        yield name
    finally:
        cascade = " CASCADE" if engine.dialect.name == "postgresql" else ""
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP SCHEMA {name}{cascade}"))


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

    alembic.command.downgrade(config, "base")
    assert not set(sa.inspect(engine).get_table_names()) & (OUR_TABLES | {"invoice"})
    engine.dispose()


def plain_host(engine: sa.Engine) -> tuple[Flask, scoped_session[Session]]:
    session = scoped_session(sessionmaker(engine))
    webhooks = WebhookEndpoints(session=session, tenant=hosts.tenant_header)
    app = Flask("plain_host")
    app.config.update(TESTING=True, SECRET_KEY="host secret")
    app.register_blueprint(webhooks.blueprint)
    return app, session
