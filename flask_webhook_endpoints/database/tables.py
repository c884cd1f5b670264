"""The tables as statements use them, and how they join a host's MetaData.

What a host creates and migrates are copies made of SQLAlchemy's own types alone, so that a generated migration needs no
import of ours and does not change when this library does. Statements are written on the models' own tables, whose types
convert.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from flask_webhook_endpoints.database import dialects, queue_models  # noqa: F401 - its tables join WebhookModel.metadata
from flask_webhook_endpoints.database.models import WebhookModel
from flask_webhook_endpoints.database.types import TIME, Array, UTCTime
from flask_webhook_endpoints.errors import RegistrationError

_NOT_OURS = (
    "The MetaData has a table {name!r} already, which is not ours. Give our tables a MetaData of their own, in a schema"
    ' such as MetaData(schema="webhooks"), or in a database of their own, such as'
    ' db.metadatas.setdefault("webhooks", MetaData(info={{"bind_key": "webhooks"}})) with Flask-SQLAlchemy.'
)

_MICROSECOND_LATER = {
    dialects.POSTGRESQL: "updated_at + INTERVAL '1 microsecond'",
    # Text, `YYYY-MM-DD HH:MM:SS.ffffff`; SQLite's own functions know milliseconds.
    dialects.SQLITE: "datetime(substr(updated_at, 1, 19),"
    " printf('+%d seconds', (CAST(substr(updated_at, 21) AS INTEGER) + 1) / 1000000))"
    " || printf('.%06d', (CAST(substr(updated_at, 21) AS INTEGER) + 1) % 1000000)",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Tables:
    """The tables that statements are written on, in the schema where the host has them."""

    endpoint: sa.Table
    secret: sa.Table
    event: sa.Table
    delivery: sa.Table
    undelivered: sa.Table
    queue: sa.Table
    rest: sa.Table
    attempt: sa.Table
    redelivery_count: sa.Table
    idempotency_key: sa.Table
    worker: sa.Table
    endpoint_hour: sa.Table
    worker_minute: sa.Table
    recent_count: sa.Table
    incident: sa.Table
    bind: sa.Table
    """The host's own copy of a table: sessions with several databases find ours by it."""
    statements: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Statements on these tables, each built once (`database.scope.statement`)."""

    @cached_property
    def bind_of_writes(self) -> sa.Update:
        """An UPDATE of `bind`, by which sessions find the leader if they send reads to a follower."""
        return sa.update(self.bind)

    def among(
        self, dialect: str, column: sa.Column[Any], parameter: str, values: Sequence[Any] | None = None
    ) -> sa.ColumnElement[bool]:
        """Return whether the column's value is one of those that the parameter of that name has.

        Without `values` here, the execution of the statement gives them.
        """
        if dialect in dialects.ARRAYS:
            # One parameter, however many values: quicker to send, and the same statement each time.
            return column == sa.any_(sa.bindparam(parameter, values, type_=Array(column.type), required=values is None))
        given: Any = sa.bindparam(parameter, values, column.type, expanding=True, required=values is None)
        return column.in_(given)

    def is_one(self, dialect: str, column: sa.Column[Any], value: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        """Return whether the column has the value, for queries in the order of an index that it begins."""
        if dialect != dialects.POSTGRESQL:
            return column == value
        # After `=`, PostgreSQL leaves the column out of the order, and may read all of another index that has the rest
        # of it. BETWEEN would read what the value has outside of a range of that rest, too.
        return column == sa.any_(postgresql.array([value]))

    def found(self, dialect: str, column: sa.Column[Any], query: sa.Select[Any]) -> sa.ColumnElement[bool]:
        """Return whether the column's value is one of those that the query finds."""
        if dialect == dialects.POSTGRESQL:
            # An array, because in place of a join with what is found PostgreSQL reads the whole index of a table that
            # was empty when it was analysed, dead rows included.
            return column == sa.any_(sa.func.array(query.scalar_subquery()))
        return column.in_(query)

    def update_time(self, dialect: str, parameter: str) -> Any:
        """Return what an UPDATE writes as the endpoint's `updated_at`: the parameter of that name, the time now.

        If that is not later than the stored time, the UPDATE writes the stored time and a microsecond: another request
        may have written since this one took the time, and its clock may differ.
        """
        updated_at = self.endpoint.c.updated_at
        # As text, because SQLAlchemy makes a parameter of each constant again for every request.
        following: Any = sa.literal_column(_MICROSECOND_LATER.get(dialect, "updated_at + INTERVAL 1 MICROSECOND"))
        given = sa.bindparam(parameter, type_=updated_at.type)
        return sa.case((updated_at < given, given), else_=following)


def join_metadata(metadata: sa.MetaData) -> Tables:
    """Add our tables to `metadata`, once; raise `RegistrationError` where one of their names is taken."""
    models = WebhookModel.metadata
    # Not in the tables' own info, which Alembic writes into the migrations that it generates.
    ours = metadata.info.setdefault("webhook_endpoints", {})
    prefix = "" if metadata.schema is None else f"{metadata.schema}."
    names = {table: f"{prefix}{table.name}" for table in models.sorted_tables}
    for table, name in names.items():
        known = metadata.tables.get(name)
        if known is not None and known is not ours.get(name) and not _is_reflected(table, known):
            raise RegistrationError(_NOT_OURS.format(name=name))
    for table, name in names.items():
        if name not in metadata.tables:
            ours[name] = _plain(table.to_metadata(metadata, schema=cast(str, metadata.schema)))
    queried = models if metadata.schema is None else _in_schema(metadata.schema)
    fields: dict[str, Any] = {table.name.removeprefix("webhook_"): table for table in queried.tables.values()}
    return Tables(**fields, bind=metadata.tables[f"{prefix}webhook_endpoint"])


def _is_reflected(table: sa.Table, known: sa.Table) -> bool:
    """Return whether a host's table is a reflection of ours: it has our columns that must have a value."""
    return {column.name for column in table.c if not column.nullable} <= {column.name for column in known.c}


def _plain(table: sa.Table) -> sa.Table:
    for column in table.columns:
        if isinstance(column.type, UTCTime):
            column.type = TIME
        elif isinstance(column.type, sa.TypeDecorator):
            column.type = cast(Any, type(column.type).impl)
    return table


def _in_schema(schema: str) -> sa.MetaData:
    copies = sa.MetaData(schema=schema)
    for table in WebhookModel.metadata.sorted_tables:
        table.to_metadata(copies, schema=schema)
    return copies


metadata = sa.MetaData()
"""Our tables for a host that lists this beside its own MetaData (Alembic's `target_metadata`)."""
DEFAULT_TABLES = join_metadata(metadata)
