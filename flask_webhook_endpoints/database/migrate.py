"""The shipped Alembic revisions of our tables, for hosts that don't generate migrations of their own.

The revisions run in the database and schema where the host has our tables. A version table of their own keeps the
revision that ran last, so that the host may have other migrations there.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TextIO

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.types import UTCTime
from flask_webhook_endpoints.errors import MigrationError

VERSION_TABLE = "webhook_endpoints_alembic_version"

_VERSION_TABLE_OF_HOST = "alembic_version"
"""The version table of a host's own migrations, unless it has named it otherwise."""

_LOCK = VERSION_TABLE
"""The name of the lock that one process at a time holds; PostgreSQL names locks by numbers."""

_LOCK_SECONDS = 3600

_SEEN_LATELY = timedelta(seconds=60)
"""A worker that was seen within this time still works. It writes that every ten seconds."""


class Revisions:
    """The revisions for the database of `engine` and the schema of `table`, which is one of our tables."""

    def __init__(self, engine: sa.Engine, table: sa.Table) -> None:
        self._engine = engine
        self._table = table

    def current(self) -> str | None:
        """Return the revision of the tables; None where no revision has run."""
        with self._engine.connect() as connection:
            return self._current(connection)

    def head(self) -> str | None:
        """Return the newest revision."""
        return ScriptDirectory.from_config(self._config()).get_current_head()

    def upgrade(self, revision: str) -> None:
        """Run the revisions up to this one; raise `MigrationError` where other migrations made the tables."""
        with self._connected() as (connection, config):
            if self._current(connection) is None and self._has_tables(connection):
                raise MigrationError(
                    f"The table {self._table.fullname} is there, but these migrations did not make it. If your own"
                    " migrations keep these tables, go on with them (`flask db upgrade`) and leave this command alone."
                    " If create_all() of this version made them, run `flask webhooks db stamp`."
                )
            config.attributes["told"] = partial(self._told, connection)
            command.upgrade(config, revision)

    def downgrade(self, revision: str) -> None:
        """Undo the revisions after this one; `base` undoes all."""
        with self._connected() as (connection, config):
            config.attributes["told"] = partial(self._told, connection)
            command.downgrade(config, revision)

    def stamp(self, revision: str, *, is_sure: bool = False) -> None:
        """Record this revision as the revision of the tables, without running any.

        Raise `MigrationError` where the host's own migrations have the tables, or may have them and nobody `is_sure`
        that create_all() made them.
        """
        with self._connected() as (connection, config):
            if self._current(connection) is None and self._is_beside_migrations_of_host(connection):
                if self._is_in_metadata_of_host():
                    raise MigrationError(
                        f"Your own migrations have the table {self._table.fullname}: your MetaData has it, and"
                        f" {_VERSION_TABLE_OF_HOST} is there. Go on with them (`flask db upgrade`) and leave this"
                        " command alone, or two histories would change the same tables. If they leave our tables out,"
                        " leave these out of your MetaData, too: pass no `metadata=`."
                    )
                if not is_sure:
                    raise MigrationError(
                        f"The table {self._table.fullname} and {_VERSION_TABLE_OF_HOST} of your own migrations are"
                        " there. If a revision of yours made the table, go on with your migrations (`alembic upgrade"
                        " head`) and leave this command alone, or two histories would change the same tables. If"
                        " create_all() made it, add --yes."
                    )
            command.stamp(config, revision)

    def write_sql(self, revision: str, output: TextIO) -> None:
        """Write the SQL that `upgrade` executes on an empty database, or between two revisions such as `0001:0002`."""
        with _as_migration_error():
            command.upgrade(self._config(output, dialect_name=self._engine.dialect.name), revision, sql=True)

    @contextmanager
    def _connected(self) -> Iterator[tuple[sa.Connection, Config]]:
        with self._engine.connect() as connection, _as_migration_error(), _alone(connection):
            yield connection, self._config(connection=connection)
            connection.commit()

    def _config(self, output: TextIO | None = None, **where: Any) -> Config:
        config = Config(output_buffer=output)
        config.set_main_option("script_location", "flask_webhook_endpoints.database:migrations")
        config.attributes["schema"] = self._table.schema
        config.attributes["configure"] = {**where, **self._version_table()}
        return config

    def _version_table(self) -> dict[str, Any]:
        return {"version_table": VERSION_TABLE, "version_table_schema": self._table.schema}

    def _current(self, connection: sa.Connection) -> str | None:
        return MigrationContext.configure(connection, opts=self._version_table()).get_current_revision()

    def _has_tables(self, connection: sa.Connection) -> bool:
        return sa.inspect(connection).has_table(self._table.name, schema=self._table.schema)

    def _told(self, connection: sa.Connection, steps: Iterable[Any]) -> Iterator[Any]:
        """Yield Alembic's steps, and print the name of each as it begins; first, what must be stopped."""
        steps = list(steps)
        if self._current(connection) is not None and any(list(map(_say_before, steps))):
            for worker in self._workers(connection):
                _say(f"A worker was seen a moment ago and must not go on: pid {worker.pid} of {worker.hostname}")
        for step in steps:
            _say(f"{_direction(step)} {step.revision.revision}: {step.doc}")
            yield step

    def _workers(self, connection: sa.Connection) -> Sequence[Any]:
        """Return the workers that were seen lately, as any revision has them."""
        schema, names = self._table.schema, ("hostname", "pid")
        if not sa.inspect(connection).has_table("webhook_worker", schema=schema):
            return ()
        worker = sa.table("webhook_worker", *map(sa.column, names), sa.column("seen_at", UTCTime), schema=schema)
        lately = datetime.now(UTC) - _SEEN_LATELY
        return connection.execute(sa.select(*(worker.c[name] for name in names)).where(worker.c.seen_at > lately)).all()

    def _is_in_metadata_of_host(self) -> bool:
        return not all(table.name.startswith("webhook_") for table in self._table.metadata.tables.values())

    def _is_beside_migrations_of_host(self, connection: sa.Connection) -> bool:
        inspector, schemas = sa.inspect(connection), (None, self._table.schema)
        has_theirs = any(inspector.has_table(_VERSION_TABLE_OF_HOST, schema=schema) for schema in schemas)
        return has_theirs and self._has_tables(connection)


def _say_before(step: Any) -> bool:
    """Print what must be done before a step, and return whether that is anything."""
    what = getattr(step.revision.module, "before_upgrade" if step.is_upgrade else "before_downgrade", None)
    if what:
        _say(f"Before {_direction(step).lower()} {step.revision.revision}: {what}")
    return bool(what)


def _direction(step: Any) -> str:
    return "Upgrade" if step.is_upgrade else "Downgrade"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """Wait until no other process migrates this database, and hold the others back."""
    match connection.dialect.name:
        case dialects.POSTGRESQL:
            # A snapshot from before the wait would not show what the other process did.
            connection.execution_options(isolation_level="READ COMMITTED")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(_LOCK))))
            yield
        case dialects.SQLITE:
            if not getattr(connection.connection.dbapi_connection, "in_transaction", False):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield
        case _:
            # The server has the locks of all its databases together.
            name = sa.func.md5(sa.func.concat(_LOCK, sa.func.coalesce(sa.func.database(), "")))
            # 0 after that time, NULL if the server could not wait: in neither case we have the lock.
            if connection.scalar(sa.select(sa.func.get_lock(name, _LOCK_SECONDS))) != 1:
                raise MigrationError(
                    "Another process migrates this database, and did not end while this one waited for it."
                    " Try again when it has ended; SHOW PROCESSLIST names it."
                )
            try:
                yield
            finally:
                # Where the connection is lost, the server has released it.
                with suppress(DBAPIError):
                    connection.execute(sa.select(sa.func.release_lock(name)))


@contextmanager
def _as_migration_error() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise MigrationError(str(error)) from error
