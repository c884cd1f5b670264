"""What a host's database holds, what it is sent, and how it would run that."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.database.models import WebhookModel
from tests.support.hosts import Host

on_sqlite = pytest.mark.only_on("sqlite", "sqlite-memory")
"""Marks a test of what no database has a part in, such as how a request is read: other databases show nothing new."""

_REVISIONS = files("flask_webhook_endpoints") / "database" / "migrations" / "versions"
NEWEST_REVISION = max(each.name[:4] for each in _REVISIONS.iterdir() if each.name[0] == "0")

TABLES = WebhookModel.metadata.tables
(
    ENDPOINT,
    SECRET,
    EVENT,
    DELIVERY,
    UNDELIVERED,
    QUEUE,
    REST,
    ATTEMPT,
    WORKER,
    IDEMPOTENCY_KEY,
    REDELIVERY_COUNT,
    HOUR,
    MINUTE,
    RECENT_COUNT,
    INCIDENT,
) = (
    TABLES[f"webhook_{name}"]
    for name in (
        "endpoint",
        "secret",
        "event",
        "delivery",
        "undelivered",
        "queue",
        "rest",
        "attempt",
        "worker",
        "idempotency_key",
        "redelivery_count",
        "endpoint_hour",
        "worker_minute",
        "recent_count",
        "incident",
    )
)

WHOLE = {
    "sqlite": r"'SCAN (?!webhook_recent_count)",
    "postgresql": r"Seq Scan(?! on webhook_recent_count)",
    "mysql": r"'table': '(?!webhook_recent_count|given)[^']*'.*'type': '(ALL|index)'",
}
"""Steps of a plan, by dialect, that read a whole table or a whole index.

Recent counts are few, and are read whole, as is what the statement itself gives.
"""

SORTED = {"sqlite": r"TEMP B-TREE", "postgresql": r"Sort", "mysql": r"filesort|temporary"}
"""Steps of a plan, by dialect, that sort rows though an index could have sorted them."""


def execute(host: Host, statement: sa.Executable, values: Any = None) -> None:
    """Execute a statement and commit it."""
    with host.app.app_context():
        host.db.session.execute(statement, values)
        host.db.session.commit()


def rows(host: Host, statement: sa.Executable) -> list[Any]:
    """Return the rows that a query finds."""
    with host.app.app_context():
        return list(host.db.session.execute(statement).all())


def count(host: Host, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    [(number,)] = rows(host, sa.select(sa.func.count()).select_from(table).where(*where))
    return int(number)


def engine_of(host: Host) -> sa.Engine:
    with host.app.app_context():
        return host.db.engine


@contextmanager
def statements_of(host: Host) -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements that the host's database is sent, each with its parameters, as the driver gets them."""
    statements: list[tuple[str, Any]] = []

    def note(*execution: Any) -> None:
        statements.append(execution[2:4])

    engine = engine_of(host)
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


@contextmanager
def partitioned(host: Host, table: str) -> Iterator[list[str]]:
    """Put a partitioned table of PostgreSQL in the place of one of ours, and yield the names of its partitions."""
    key = "id" if table in ("webhook_delivery", "webhook_event") else "delivery_id"
    # Unique indexes have to have the key of the partitions, which that of idempotency keys has not.
    indexes = "" if table == "webhook_event" else "INCLUDING INDEXES"
    parts = ["part_0", '"Part 1"']
    for statement in (
        f"ALTER TABLE {table} RENAME TO whole",
        f"CREATE TABLE {table} (LIKE whole {indexes}) PARTITION BY HASH ({key})",
        *(
            f"CREATE TABLE {part} PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER {number})"
            for number, part in enumerate(parts)
        ),
    ):
        execute(host, sa.text(statement))
    try:
        yield parts
    finally:
        execute(host, sa.text(f"DROP TABLE {table}"))
        execute(host, sa.text(f"ALTER TABLE whole RENAME TO {table}"))


def plan(host: Host, statement: str, parameters: Any) -> str:
    """Return how the database would run a statement, a step a line."""
    with host.app.app_context():
        connection = host.db.session.connection()
        explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        steps = connection.exec_driver_sql(f"{explain} {statement}", parameters).mappings().all()
        return "\n".join(repr(dict(step)) for step in steps)
