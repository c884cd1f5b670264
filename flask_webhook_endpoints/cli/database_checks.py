"""Checks of the database: whether it answers, its tables, where statements go, and its connections."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flask_webhook_endpoints.cli.findings import Finding, fail, ok, warn
from flask_webhook_endpoints.database import dialects, failures
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import DatabaseUnavailable, RegistrationError
from flask_webhook_endpoints.state import State

SHORT_TIMEOUT_MS = 1000
"""Milliseconds; with a shorter busy timeout SQLite gives up on another writer too soon. Python's default is 5000."""

_ROUTE = "See where `session` sends an UPDATE of webhook_endpoint (its get_bind), and whether it may write there."

_MIGRATE = (
    "Run your migrations (`flask db migrate`, `flask db upgrade`), or `flask webhooks db upgrade`;"
    " where whole tables are missing, create_all() makes them, too."
)

_WRITABLE = (
    "Let this user write the file and its folder, where SQLite keeps its journal; a URL with mode=ro never writes."
)

# Parts of what libpq, PyMySQL and SQLite say, in lower case, and what to do then. The first that fits counts.
_ADVICE = {
    "The folder must exist, and this user must be able to write there.": ("open database file",),
    _WRITABLE: ("readonly database",),
    "Correct the options in the database's URL, or in the engine's connect_args.": (
        *("connection option", "configuration parameter", "invalid sslmode", "keyword argument", "no such file"),
    ),
    "Correct user and password in the database's URL, or let the user in.": (
        *("role", "password", "access denied", "authentication", "no pg_hba.conf entry"),
    ),
    "Wait, and see who uses the database: its connections, and transactions that stay open.": (
        *("lock", "busy", "too many", "slots", "pool"),
    ),
    "Create the database, or correct its name in the URL.": ("database", "catalog"),
    "Correct the host in the database's URL, or its entry in DNS.": (
        *("resolve", "translate host", "name or service", "getaddrinfo"),
    ),
    "Start the server, or correct host and port in the database's URL; a firewall may be between.": (
        *("connect", "timeout", "timed out"),
    ),
}
_SEE_LOG = "See the server's log, and the engine of your session."


def refused(error: Exception, state: State) -> Finding:
    """Return what the database or its driver says, without passwords, and what to do about it."""
    match error:
        case DBAPIError():
            said = failures.refusal(error)
        case DatabaseUnavailable():
            said = error.reason
        case _:
            said = f"{type(error).__name__}: {error}"
    said = " ".join(said.split())
    try:
        url = state.host.session().get_bind(clause=state.host.tables.bind_of_writes).engine.url
    except SQLAlchemyError:
        return fail("database", said, _SEE_LOG)
    if url.password:
        said = said.replace(str(url.password), "***")
    fitting = (advice for advice, parts in _ADVICE.items() if any(part in said.lower() for part in parts))
    return fail("database", f"{_without_query(url)}: {said}", next(fitting, _SEE_LOG))


def check_routing(scope: Scope, reading: Scope) -> Finding:
    """Write a row, read it and roll back; say where a writing scope and a reading one have gone."""
    # Write first (SQLite).
    scope.session.rollback()
    try:
        scope.require_transaction()
        written_to, read_from = scope.connection().engine, reading.connection().engine
        found = _write_and_read(scope)
        reading.execute(sa.select(scope.tables.worker.c.id).limit(1)).all()
    except RegistrationError as error:
        message, _, advice = str(error).partition(": ")
        return fail("routing", message, f"{advice[:1].upper()}{advice[1:]}")
    except DBAPIError as error:
        said = failures.refusal(error)
        advice = _WRITABLE if "readonly database" in said else _ROUTE
        return fail("routing", f"a row can't be written and read: {said}", advice)
    finally:
        scope.session.rollback()
    if not found:
        return fail("routing", f"a row written to {_shown(written_to)} can't be read there", _ROUTE)
    if written_to is read_from:
        return ok("routing", f"writes and reads go to {_shown(written_to)}")
    advice = "Clients may miss in a GET what they have just written. Workers, publish and commands ask the first alone."
    return warn("routing", f"writes go to {_shown(written_to)}, GET requests to {_shown(read_from)}", advice)


def _write_and_read(scope: Scope) -> bool:
    worker, worker_id = scope.tables.worker, new_id()
    row = {"id": worker_id, "engine": "doctor", "hostname": "", "pid": 0}
    scope.execute(sa.insert(worker), {**row, "started_at": scope.now, "seen_at": scope.now})
    return scope.execute(sa.select(worker.c.id).where(worker.c.id == worker_id)).first() is not None


def _shown(engine: sa.Engine) -> str:
    return _without_query(engine.url)


def _without_query(url: sa.URL) -> str:
    # A query may hold passwords, too.
    return url.set(query={}).render_as_string()


def check_migrations(scope: Scope) -> Iterator[Finding]:
    """Compare the tables' revision with the newest one, unless the host has migrations of its own."""
    try:
        from flask_webhook_endpoints.database.migrate import VERSION_TABLE, Revisions  # noqa: PLC0415 - Alembic may be missing
    except ModuleNotFoundError:
        return
    connection, bind = scope.connection(), scope.tables.bind
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=bind.schema):
        return
    revisions = Revisions(connection.engine, bind)
    current, head = revisions.current(), revisions.head()
    if current == head:
        yield ok("migrations", f"at the newest revision, {head}")
        return
    advice = "Run: flask webhooks db upgrade. If it says that there is no such revision, a newer version was here."
    yield warn("migrations", f"at {current or 'none'}, the newest is {head}", advice)


def check_tables(scope: Scope) -> Finding:
    """Compare tables, columns and indexes with those that this version of the library needs."""
    inspector = sa.inspect(scope.connection())
    tables = scope.tables.endpoint.metadata.tables.values()
    missing = [lack for table in tables for lack in _missing(inspector, table, scope.schema_of(table))]
    if missing:
        return fail("tables", f"missing: {', '.join(missing)}", _MIGRATE)
    return ok("tables", "all tables, columns and indexes are there")


def _missing(inspector: sa.Inspector, table: sa.Table, schema: str | None) -> Iterator[str]:
    if not inspector.has_table(table.name, schema=schema):
        yield f"table {table.name}"
        return
    columns = {column["name"] for column in inspector.get_columns(table.name, schema=schema)}
    yield from (f"column {table.name}.{column.name}" for column in table.columns if column.name not in columns)
    # Find indexes by their columns: the host's naming convention may give them other names.
    found = {tuple(index["column_names"]) for index in inspector.get_indexes(table.name, schema=schema)}
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if (names := tuple(column.name for column in index.columns)) not in found:
            yield f"index {table.name} ({', '.join(names)})"


def check_connections(scope: Scope, *, at_work: int) -> Iterator[Finding]:
    """Check the connection pool, or SQLite's settings; `at_work` is the number of workers."""
    pool = scope.connection().engine.pool
    if scope.dialect.name == dialects.SQLITE:
        yield from _check_sqlite(scope, at_work=at_work)
    elif isinstance(pool, sa.NullPool):
        advice = "Leave SQLAlchemy's default pool on, for workers at least."
        yield warn("pool", "none: a worker connects again for each claim and each record", advice)
    else:
        yield ok("pool", f"{type(pool).__name__}; a worker holds one connection")


def _check_sqlite(scope: Scope, *, at_work: int) -> Iterator[Finding]:
    def pragma(name: str) -> Any:
        return scope.execute(sa.text(f"PRAGMA {name}")).scalar_one()

    if (mode := pragma("journal_mode")) == "memory":
        yield warn("sqlite", "the database is in memory", "Use a file: a worker is another process.")
    elif mode != "wal":
        advice = "Run once on the file: PRAGMA journal_mode = WAL. Requests and the worker then read beside a writer."
        yield warn("sqlite", f"journal_mode is {mode}", advice)
    if (milliseconds := pragma("busy_timeout")) < SHORT_TIMEOUT_MS:
        advice = 'Leave the driver its 5 seconds, or set SQLALCHEMY_ENGINE_OPTIONS = {"connect_args": {"timeout": 5}}.'
        yield warn("sqlite", f"busy_timeout is {milliseconds} ms", advice)
    if at_work > 1:
        advice = "Run one, or move to PostgreSQL or MariaDB: SQLite has one writer at a time."
        yield warn("sqlite", f"{at_work} workers share the file", advice)
