"""A schema of a server that has our tables and that tests share one after the other, because it takes long to make."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from flask_webhook_endpoints.database.models import WebhookModel
from tests.support import hosts

TABLES = [table.name for table in reversed(WebhookModel.metadata.sorted_tables)]
"""Names of our tables; one that refers to another stands before it."""

MANY = 1000
"""Rows, after which the statistics of MariaDB's planner would tell of a test that is over."""

LOCK_SECONDS = 2
"""Seconds to wait for a transaction that a killed process has left open."""

_CHANGES = re.compile(r"\s*(ALTER|ANALYZE|CREATE|DROP|GRANT|TRUNCATE|VACUUM)\b", re.IGNORECASE)


def url_of(server: str, schema: str) -> str:
    """Return the URL under which a schema of a server is the one that statements mean.

    PostgreSQL does not wait for its disk there: no test takes the power away, and on a slow disk half the time goes so.
    """
    url = make_url(server)
    if url.get_backend_name() == "postgresql":
        url = url.update_query_dict({"options": f"-csynchronous_commit=off -csearch_path={schema}"})
    else:
        url = url.set(database=schema)
    return url.render_as_string(hide_password=False)


class KeptSchema:
    """A schema with our tables; each test gets it without rows, or another one if a test has changed the tables."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._schemas = ExitStack()
        self._url: str | None = None
        self._engine: sa.Engine | None = None

    @contextmanager
    def lent(self) -> Iterator[str]:
        """Lend the URL of the schema, which has our tables and no rows, to a test."""
        if self._url is None or not self._is_emptied():
            self._url = self._make()
        url = self._url

        def note(*execution: Any) -> None:
            if _CHANGES.match(execution[2]):
                self._url = None

        sa.event.listen(sa.Engine, "before_cursor_execute", note)
        try:
            yield url
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", note)

    def close(self) -> None:
        """Drop the schemas."""
        self._give_back()
        self._schemas.close()

    def _give_back(self) -> None:
        if self._engine is not None:
            self._engine.dispose()

    def _make(self) -> str:
        self._give_back()
        url = url_of(self._server, self._schemas.enter_context(hosts.own_schema(self._server, "test")))
        hosts.flask_sqlalchemy(url).close()
        # Its connection is kept, unless a test closes it: to make another takes longer than to empty the tables.
        self._engine = sa.create_engine(url, pool_size=1, pool_pre_ping=True)
        return url

    def _is_emptied(self) -> bool:
        """Delete all rows; return False if the schema is not as good as new then."""
        assert self._engine
        try:
            with self._engine.begin() as connection:
                return _truncate(connection) if self._engine.dialect.name == "postgresql" else _delete(connection)
        except SQLAlchemyError:
            return False


def _truncate(connection: sa.Connection) -> bool:
    # Only tables with rows, dead ones included: each has files for its indexes, which TRUNCATE makes again.
    connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
    filled = "SELECT relname FROM pg_class WHERE oid = ANY(CAST(:names AS regclass[])) AND pg_relation_size(oid) > 0"
    names = list(connection.scalars(sa.text(filled), {"names": TABLES}))
    if names:
        connection.execute(sa.text(f"TRUNCATE {', '.join(names)} CASCADE"))
    return True


def _delete(connection: sa.Connection) -> bool:
    # MariaDB's TRUNCATE takes as long as to make the table.
    connection.execute(sa.text(f"SET lock_wait_timeout = {LOCK_SECONDS}, innodb_lock_wait_timeout = {LOCK_SECONDS}"))
    filled = " UNION ALL ".join(f"(SELECT '{name}' FROM {name} LIMIT 1)" for name in TABLES)
    names = set(connection.scalars(sa.text(filled)))
    return sum(connection.execute(sa.text(f"DELETE FROM {name}")).rowcount for name in TABLES if name in names) <= MANY
