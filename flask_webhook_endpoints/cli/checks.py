"""The checks of the database itself: tables, migrations, clock, and what SQLite wants."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.cli.findings import Finding, fail, ok, warn
from flask_webhook_endpoints.core.leases import LEASE_MARGIN_SECONDS
from flask_webhook_endpoints.database.models import WebhookModel
from flask_webhook_endpoints.database.tables import Tables

MIGRATE = (
    "Run your migrations (`flask db migrate`, `flask db upgrade`), or `flask webhooks db upgrade`;"
    " where whole tables are missing, create_all() makes them, too."
)
SHORT_TIMEOUT_MS = 1000
"""Below which SQLite gives up on another writer too soon; Python's driver waits for 5 seconds."""

SKEW_SECONDS = 5
"""Between two clocks, beyond which schedules and leases begin to lie."""


def check_tables(session: Session, tables: Tables) -> list[Finding]:
    """Compare tables, columns and indexes with those that this version of the library needs."""
    inspector = sa.inspect(tables.connection(session))
    missing = [lack for table in _expected(tables) for lack in _missing(inspector, table)]
    if missing:
        return [fail("tables", f"missing: {', '.join(missing)}", MIGRATE)]
    return [ok("tables", "all tables, columns and indexes are there")]


def check_migrations(session: Session, tables: Tables) -> list[Finding]:
    """Compare the revision that the tables are at with the newest, unless the host has migrations of its own."""
    try:
        from flask_webhook_endpoints.database.migrate import VERSION_TABLE, Revisions  # noqa: PLC0415 - Alembic may be missing
    except ModuleNotFoundError:
        return []
    connection = tables.connection(session)
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=tables.bind.schema):
        return []
    revisions = Revisions(connection.engine, tables.bind)
    current, head = revisions.current(), revisions.head()
    if current == head:
        return [ok("migrations", f"at the newest revision, {head}")]
    advice = "Run: flask webhooks db upgrade. If it says that there is no such revision, a newer version was here."
    return [warn("migrations", f"at {current or 'none'}, the newest is {head}", advice)]


def check_clock(session: Session, tables: Tables, now: Callable[[], datetime]) -> list[Finding]:
    """Compare this machine's clock with the server's."""
    match tables.dialect(session).name:
        case "sqlite":
            return []
        case "postgresql":
            asked = sa.select(sa.func.clock_timestamp())
        case _:
            asked = sa.select(sa.func.utc_timestamp(sa.text("6")))
    before = now()
    theirs = tables.execute(session, asked).scalar_one()
    ours = before + (now() - before) / 2
    theirs = theirs.replace(tzinfo=UTC) if theirs.tzinfo is None else theirs
    skew = abs((ours - theirs).total_seconds())
    message = f"{skew:.1f} seconds from the database's"
    advice = "Synchronize the clocks of all machines (NTP): times of attempts and the ends of leases come from them."
    if skew > LEASE_MARGIN_SECONDS:
        return [fail("clock", f"{message}; engines may take each other's deliveries and send them twice", advice)]
    return [warn("clock", message, advice) if skew > SKEW_SECONDS else ok("clock", message)]


def check_connections(session: Session, tables: Tables, *, engines_at_work: int) -> Iterator[Finding]:
    """Say what of the way to the database would hurt."""
    pool = tables.connection(session).engine.pool
    if tables.dialect(session).name == "sqlite":
        yield from _check_sqlite(session, tables, engines_at_work=engines_at_work)
    elif isinstance(pool, sa.NullPool):
        yield warn("pool", "none: every transaction of a worker connects anew", "Leave SQLAlchemy's default pool on.")
    else:
        yield ok("pool", f"{type(pool).__name__}; a worker holds one connection")


def _check_sqlite(session: Session, tables: Tables, *, engines_at_work: int) -> Iterator[Finding]:
    def pragma(name: str) -> Any:
        return tables.execute(session, sa.text(f"PRAGMA {name}")).scalar_one()

    if (mode := pragma("journal_mode")) == "memory":
        yield warn("sqlite", "the database is in memory", "Use a file: a worker is another process.")
    elif mode != "wal":
        advice = "Run once on the file: PRAGMA journal_mode = WAL. Requests and the worker then read beside a writer."
        yield warn("sqlite", f"journal_mode is {mode}", advice)
    if (milliseconds := pragma("busy_timeout")) < SHORT_TIMEOUT_MS:
        advice = 'Leave the driver its 5 seconds, or set SQLALCHEMY_ENGINE_OPTIONS = {"connect_args": {"timeout": 5}}.'
        yield warn("sqlite", f"busy_timeout is {milliseconds} ms", advice)
    if engines_at_work > 1:
        advice = "Run one, or move to PostgreSQL or MariaDB: SQLite has one writer at a time."
        yield warn("sqlite", f"{engines_at_work} workers share the file", advice)


def _missing(inspector: sa.Inspector, table: sa.Table) -> Iterator[str]:
    if not inspector.has_table(table.name, schema=table.schema):
        yield f"table {table.name}"
        return
    columns = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
    yield from (f"column {table.name}.{column.name}" for column in table.columns if column.name not in columns)
    # By what they hold: the host's naming convention may call them otherwise.
    found = {tuple(index["column_names"]) for index in inspector.get_indexes(table.name, schema=table.schema)}
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if (names := tuple(column.name for column in index.columns)) not in found:
            yield f"index {table.name} ({', '.join(names)})"


def _expected(tables: Tables) -> list[sa.Table]:
    schema = tables.bind.schema
    prefix = "" if schema is None else f"{schema}."
    return [tables.bind.metadata.tables[f"{prefix}{name}"] for name in WebhookModel.metadata.tables]
