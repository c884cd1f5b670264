"""Checks of the database and of Celery, and the findings that checks return."""

import resource
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flask_webhook_endpoints.core.leases import LEASE_MARGIN_SECONDS
from flask_webhook_endpoints.core.wakeups import TASK
from flask_webhook_endpoints.database import failures
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import RegistrationError
from flask_webhook_endpoints.settings import DEFAULT_CONCURRENCY
from flask_webhook_endpoints.worker import descriptors

LONGEST_TASK_SECONDS = 60
"""Seconds that a Celery task of ours may take: it claims deliveries for 10, or, if it is told to stop meanwhile, waits
for the longest attempt.
"""

SHORT_TIMEOUT_MS = 1000
"""Milliseconds; with a shorter busy timeout SQLite gives up on another writer too soon. Python's default is 5000."""

SKEW_SECONDS = 5
"""Seconds; when two clocks differ by more, retries come at the wrong time."""

_ROUTE = "See where `session` sends an UPDATE of webhook_endpoint (its get_bind), and whether it may write there."

_MIGRATE = (
    "Run your migrations (`flask db migrate`, `flask db upgrade`), or `flask webhooks db upgrade`;"
    " where whole tables are missing, create_all() makes them, too."
)


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    """The system works, and may stop working."""
    FAIL = "fail"
    """The system does not work."""


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    level: Level
    message: str
    advice: str = ""
    """The operator's next step; empty where there is nothing to do."""


def ok(check: str, message: str, advice: str = "") -> Finding:
    """Return a finding of level `OK`."""
    return Finding(check, Level.OK, message, advice)


def warn(check: str, message: str, advice: str) -> Finding:
    """Return a finding of level `WARN`."""
    return Finding(check, Level.WARN, message, advice)


def fail(check: str, message: str, advice: str) -> Finding:
    """Return a finding of level `FAIL`."""
    return Finding(check, Level.FAIL, message, advice)


def check_celery(celery: Any) -> Iterator[Finding]:
    """Check the settings of the host's Celery, unless Celery is absent or does not deliver.

    This imports nothing of Celery.
    """
    if celery is None or TASK not in celery.tasks:
        return
    queue = celery.amqp.router.route({}, TASK)["queue"].name
    message = f"it delivers, and its settings do no harm; run a worker for the queue {queue!r} alone"
    yield from list(_celery_faults(celery.conf, queue)) or [ok("celery", message)]


def _celery_faults(conf: Any, queue: str) -> Iterator[Finding]:
    if conf.task_always_eager:
        yield fail(
            "celery", "task_always_eager is on: no worker delivers", "Leave it off; tests have `drain_webhooks`."
        )
    entries = (conf.beat_schedule or {}).values()
    if not any(entry.get("task") == TASK for entry in entries):
        yield warn(
            "celery",
            "beat_schedule has no entry that delivers: retries wait for the next event that is published",
            'Add it: beat_schedule={"webhooks-sweep": {"task": "flask_webhook_endpoints.deliver", "schedule": 5.0}}, '
            "and run one `celery beat`. Not needed beside a `flask webhooks worker`.",
        )
    if queue == conf.task_default_queue:
        yield warn(
            "celery",
            f"webhooks share the default queue {queue!r} with your tasks: one process delivers at a time, and a worker"
            " with one process makes your tasks wait",
            'Give them a queue, task_routes={"flask_webhook_endpoints.*": {"queue": "webhooks"}}, and a worker for it.',
        )
    visible_seconds = (conf.broker_transport_options or {}).get("visibility_timeout")
    if conf.task_acks_late and visible_seconds is not None and visible_seconds < LONGEST_TASK_SECONDS:
        yield warn(
            "celery",
            f"visibility_timeout of {visible_seconds} s is shorter than a task may take: it is run twice",
            f"Set broker_transport_options' visibility_timeout to {LONGEST_TASK_SECONDS} seconds or more.",
        )


def check_descriptors() -> Iterator[Finding]:
    """Compare the hard limit of open files, which the worker raises its own to, with what a worker needs."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = descriptors.needed(DEFAULT_CONCURRENCY)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        yield ok("files", f"a worker that is started here may open {needed} files")
        return
    yield warn(
        "files",
        f"a worker that is started here may open {limit} files, so it has fewer than {DEFAULT_CONCURRENCY} attempts"
        " in flight",
        "Raise the hard limit: `ulimit -Hn`, or `LimitNOFILE=` in a systemd unit.",
    )


def check_clock(scope: Scope, now: Callable[[], datetime]) -> Iterator[Finding]:
    """Compare this machine's clock with the database server's."""
    match scope.dialect.name:
        case "sqlite":
            return
        case "postgresql":
            asked = sa.select(sa.func.clock_timestamp())
        case _:
            asked = sa.select(sa.func.utc_timestamp(sa.text("6")))
    before = now()
    theirs = scope.execute(asked).scalar_one()
    ours = before + (now() - before) / 2
    theirs = theirs.replace(tzinfo=UTC) if theirs.tzinfo is None else theirs
    skew = abs((ours - theirs).total_seconds())
    message = f"{skew:.1f} seconds from the database's"
    advice = "Synchronize the clocks of all machines (NTP): times of attempts and the ends of leases come from them."
    if skew > LEASE_MARGIN_SECONDS:
        yield fail("clock", f"{message}; workers may claim each other's deliveries and send them twice", advice)
    else:
        yield warn("clock", message, advice) if skew > SKEW_SECONDS else ok("clock", message)


def check_routing(scope: Scope, reading: Scope) -> Finding:
    """Write a row and read it, roll back, and say where a writing scope and a reading one have gone."""
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
        return fail("routing", f"a row can't be written and read: {failures.refusal(error)}", _ROUTE)
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
    # A query may hold passwords, too.
    return engine.url.set(query={}).render_as_string()


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
    missing = [lack for table in tables for lack in _missing(inspector, table)]
    if missing:
        return fail("tables", f"missing: {', '.join(missing)}", _MIGRATE)
    return ok("tables", "all tables, columns and indexes are there")


def _missing(inspector: sa.Inspector, table: sa.Table) -> Iterator[str]:
    if not inspector.has_table(table.name, schema=table.schema):
        yield f"table {table.name}"
        return
    columns = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
    yield from (f"column {table.name}.{column.name}" for column in table.columns if column.name not in columns)
    # Find indexes by their columns: the host's naming convention may give them other names.
    found = {tuple(index["column_names"]) for index in inspector.get_indexes(table.name, schema=table.schema)}
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if (names := tuple(column.name for column in index.columns)) not in found:
            yield f"index {table.name} ({', '.join(names)})"


def check_connections(scope: Scope, *, at_work: int) -> Iterator[Finding]:
    """Check the connection pool, or SQLite's settings; `at_work` is the number of workers."""
    pool = scope.connection().engine.pool
    if scope.dialect.name == "sqlite":
        yield from _check_sqlite(scope, at_work=at_work)
    elif isinstance(pool, sa.NullPool):
        advice = "Leave SQLAlchemy's default pool on, or set WEBHOOK_ENDPOINTS_POLL_SECONDS = 1."
        yield warn("pool", "none: an idle worker connects again at each look, 20 times a second by default", advice)
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
