"""Little host applications that our blueprint is registered on."""

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import sqlalchemy as sa
from flask import Blueprint, Flask, request
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.engine import make_url

from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.state import EXTENSION, Authorize, State, set_clock
from flask_webhook_endpoints.testing import Clock
from tests.support.waiting import wait_until

OUR_TABLES = {
    "webhook_endpoint",
    "webhook_secret",
    "webhook_worker",
    "webhook_event",
    "webhook_delivery",
    "webhook_undelivered",
    "webhook_queue",
    "webhook_rest",
    "webhook_attempt",
    "webhook_redelivery_count",
    "webhook_endpoint_hour",
    "webhook_worker_minute",
    "webhook_recent_count",
    "webhook_incident",
    "webhook_idempotency_key",
}

_SHARED_METADATA = sa.MetaData()

LOOPBACK = ("127.0.0.0/8", "::1/128")


@sa.event.listens_for(sa.Engine, "connect")
def _write_without_waiting(connection: object, record: object) -> None:
    """Have SQLite leave to the system when the disk gets a commit: no test ends the power."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


@dataclass
class Host:
    """An application with our blueprint, and what tests need of it."""

    app: Flask
    webhooks: WebhookEndpoints
    db: SQLAlchemy
    engines: list[sa.Engine] = field(default_factory=list)

    def client(self, tenant_id: str | None = "acme") -> FlaskClient:
        """Return a client that asks as this tenant."""
        return client(self.app, tenant_id)

    def close(self) -> None:
        """Give all connections back, once the threads that wake Celery have theirs no more."""
        state = self.app.extensions.get(EXTENSION)
        for waker in state.wakeups.wakers.values() if isinstance(state, State) else ():
            waker.flush(1)
            if waker._sent != waker._asked:
                # Its broker hangs. It would ask the closed host's database again, and leave a connection open.
                waker._sent = waker._asked
                wait_until(lambda waker=waker: not waker._running)
        with self.app.app_context():
            for engine in self.db.engines.values():
                engine.dispose()


def client(app: Flask, tenant_id: str | None) -> FlaskClient:
    """Return a client that asks as this tenant."""
    client = app.test_client()
    if tenant_id is not None:
        client.environ_base["HTTP_X_TENANT"] = tenant_id
    return client


@contextmanager
def moved(app: Flask) -> Iterator[Clock]:
    """Move the clock of an application that is not the fixture's."""
    clock = Clock()
    before = set_clock(app, clock)
    yield clock
    set_clock(app, before)


def tenant_header() -> str | None:
    """Say who is asking, as a gateway in front of the host would."""
    return request.headers.get("X-Tenant")


def flask_sqlalchemy(
    url: str,
    *,
    register: bool = True,
    tenant: Callable[[], object] = tenant_header,
    authorize: Authorize | None = None,
    **config: Any,
) -> Host:
    """Make a host of the usual kind: Flask-SQLAlchemy and `metadata=db.metadata`.

    What is named in lower case are settings of ours: `retry_schedule` is `WEBHOOK_ENDPOINTS_RETRY_SCHEDULE`.
    """
    config = {f"WEBHOOK_ENDPOINTS_{key.upper()}" if key.islower() else key: value for key, value in config.items()}
    db = SQLAlchemy(metadata=shared_metadata())
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant, metadata=db.metadata, authorize=authorize)
    app = Flask("host")
    app.config.update({"TESTING": True, "SECRET_KEY": "host secret", "SQLALCHEMY_DATABASE_URI": url, **config})
    db.init_app(app)
    if register:
        app.register_blueprint(webhooks.blueprint)
    with app.app_context():
        create_tables(db)
    return Host(app, webhooks, db)


def shared_metadata() -> sa.MetaData:
    """Return the metadata of most hosts: to copy our tables into another takes as long as all else that makes a host.

    Tables that a test has added are removed again.
    """
    for table in set(_SHARED_METADATA.tables) - OUR_TABLES:
        _SHARED_METADATA.remove(_SHARED_METADATA.tables[table])
    return _SHARED_METADATA


def create_tables(db: SQLAlchemy) -> None:
    """Make our tables in a database that has none, for a host that has no tables of its own."""
    if sa.inspect(db.engine).has_table("webhook_endpoint"):
        return
    if db.engine.url.get_backend_name() == "sqlite":
        with db.engine.connect() as connection:
            _tables_in_memory().backup(cast(sqlite3.Connection, connection.connection.driver_connection))
    else:
        db.create_all()


@cache
def _tables_in_memory() -> sqlite3.Connection:
    """Make a database that has our tables alone: to copy it is quicker than to make them."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    engine = sa.create_engine("sqlite://", creator=lambda: database, poolclass=sa.StaticPool)
    _SHARED_METADATA.create_all(engine)
    return database


def busy(url: str, **config: Any) -> Host:
    """Make a host as one that many use at once is set up: a pool they share, and on SQLite WAL and patience."""
    database = make_url(url)
    if database.get_backend_name() == "sqlite" and database.database is None:
        return flask_sqlalchemy(url, **config)
    options: dict[str, Any] = {"pool_size": 12, "max_overflow": 0, "pool_timeout": 60}
    if database.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": 30}
        with closing(sqlite3.connect(str(database.database))) as connection:
            _write_without_waiting(connection, None)
            connection.execute("PRAGMA journal_mode=WAL")
    return flask_sqlalchemy(url, SQLALCHEMY_ENGINE_OPTIONS=options, **config)


def delivering(url: str, **config: Any) -> Host:
    """Make a busy host that all processes of a test share, and that may deliver to loopback."""
    return busy(url, **{"allowed_networks": LOOPBACK, **config})


def new_app(**config: Any) -> Flask:
    """Make an application that has no database yet, nor our blueprint."""
    app = Flask("host")
    allowed = {"WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS": LOOPBACK}
    app.config.update({"TESTING": True, "SECRET_KEY": "host secret", **allowed, **config})
    return app


@contextmanager
def plain_engine(url: str) -> Iterator[sa.Engine]:
    """Make an engine of SQLAlchemy's alone."""
    # One connection is one database in memory.
    pool = {"poolclass": sa.StaticPool, "connect_args": {"check_same_thread": False}} if url == "sqlite://" else {}
    engine = sa.create_engine(url, **pool)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def serving(db: Any, app: Flask, *blueprints: Blueprint) -> Iterator[Flask]:
    """Set up a host of Flask-SQLAlchemy or Flask-SQLAlchemy-Lite; give its connections back at the end."""
    db.init_app(app)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    with app.app_context():
        if isinstance(db, SQLAlchemy):
            db.create_all()
        engines = list(db.engines.values())
    try:
        yield app
    finally:
        for engine in engines:
            engine.dispose()


@contextmanager
def own_schema(database: str, prefix: str = "app") -> Iterator[str]:
    """Make a schema, where the database is a server; to MariaDB a schema and a database are the same thing."""
    name = f"{prefix}_{secrets.token_hex(6)}"
    if database.startswith("sqlite"):
        yield name
        return
    engine = sa.create_engine(database, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    try:
        yield name
    finally:
        cascade = " CASCADE" if engine.dialect.name == "postgresql" else ""
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP SCHEMA {name}{cascade}"))


@contextmanager
def attaching(database: str, name: str) -> Iterator[None]:
    """Attach a second file under this name to each connection, where the database is SQLite."""
    if not database.startswith("sqlite"):
        yield
        return
    file = make_url(database).database

    def attach(connection: Any, record: Any) -> None:
        connection.execute(f"ATTACH DATABASE '{f'{file}.{name}' if file else ':memory:'}' AS {name}")

    sa.event.listen(sa.Engine, "connect", attach)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "connect", attach)
