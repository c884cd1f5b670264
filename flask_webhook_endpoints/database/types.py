"""Column types of the tables, of ids and times as answers show them, and of arrays as parameters.

Making UUID and datetime objects was most of what a list of a thousand endpoints cost.
"""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import Dialect
from sqlmodel.sql.sqltypes import UTCDateTime

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.dialects import MYSQL
from flask_webhook_endpoints.identifiers import MAX_KEY_LENGTH, format_time

# Not native on MariaDB: SQLAlchemy 2.0 and 2.1 store `Uuid` differently there, and an upgrade must not lose rows.
ID = sa.Uuid().with_variant(sa.Uuid(native_uuid=False), *MYSQL)
# MariaDB's and MySQL's plain DATETIME drops microseconds.
TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *MYSQL)
# MariaDB's and MySQL's plain BLOB and TEXT end at 64 KiB.
BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), *MYSQL)
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), *MYSQL)
ANY_LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL)
# SQLAlchemy 2.0 has no words for it. There, `flask webhooks db upgrade` and `tune` set it.
HALF_FULL: dict[str, Any] = (
    {"postgresql_with": {"fillfactor": 45}} if "with" in dict(PGDialect.construct_arguments or ())[sa.Table] else {}
)


def any_text(length: int) -> sa.types.TypeEngine[str]:
    """Return a string type that holds any character, also where the database's default character set does not."""
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL)


class UTCTime(UTCDateTime):
    """A time, aware and in UTC on every database. SQLAlchemy's wrapper would take four times as long to read it."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that puts a time into UTC. SQLite has text, which SQLAlchemy reads first."""
        match dialect.name:
            case dialects.SQLITE:
                return super().result_processor(dialect, coltype)
            case dialects.POSTGRESQL:
                return lambda moment: moment and moment.astimezone(UTC)
            case _:
                return lambda moment: moment and moment.replace(tzinfo=UTC)


class ExactString(sa.TypeDecorator[str]):
    """A string that compares exactly: case, accents and spaces at the end count.

    MySQL and MariaDB have no collation of a common name that compares exactly, so they store bytes, which do.
    """

    impl = sa.String(MAX_KEY_LENGTH).with_variant(mysql.VARBINARY(4 * MAX_KEY_LENGTH), *MYSQL)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Encode for the databases that store bytes."""
        return value.encode() if value is not None and dialect.name in dialects.BYTES_FOR_TEXT else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that decodes bytes, without SQLAlchemy's wrapper; other databases have text."""
        return _decoded if dialect.name in dialects.BYTES_FOR_TEXT else None


def _decoded(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


class EventTypes(sa.TypeDecorator[list[str]]):
    """A list of event types, stored as ` a.b c.* `: SQL finds a whole name by the spaces around it."""

    impl = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL)
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> str | None:
        """Join the names with a space on either side of each."""
        return None if value is None else f" {' '.join(value)} "

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that splits the names, without SQLAlchemy's wrapper, which makes long lists slow."""
        return lambda text: None if text is None else text.split()


class Metadata(sa.TypeDecorator[dict[str, str]]):
    """An object of strings, stored as JSON; an empty one is null."""

    impl = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL)
    cache_ok = True

    def process_bind_param(self, value: dict[str, str] | None, dialect: Dialect) -> str | None:
        """Write the object as JSON."""
        return json.dumps(value, ensure_ascii=False) if value else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that reads the JSON, without SQLAlchemy's wrapper, which makes long lists slow."""
        return lambda text: {} if text is None else json.loads(text)


def shown(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return an endpoint's column, read as an answer shows it: ids and times as text."""
    match column.type:
        case sa.Uuid():
            return sa.type_coerce(column, _ShownId()).label(column.name)
        case UTCTime():
            return sa.type_coerce(column, _ShownTime()).label(column.name)
        case _:
            return column


class _ShownId(sa.types.UserDefinedType[str]):
    """An id as text: of the database's own type on PostgreSQL, of 32 digits elsewhere."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return what reads a value, which is never null."""
        if dialect.name == dialects.POSTGRESQL:
            return lambda value: f"ep_{value}"
        return lambda text: f"ep_{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class _ShownTime(sa.types.UserDefinedType[str]):
    """A time as text: `YYYY-MM-DD HH:MM:SS.ffffff` on SQLite, without a zone on MariaDB and MySQL; always UTC."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return what reads a value."""
        match dialect.name:
            case dialects.SQLITE:
                return lambda text: text and text.replace(" ", "T") + "Z"
            case dialects.POSTGRESQL:
                return format_time
            case _:
                return lambda moment: moment and f"{moment.isoformat(timespec='microseconds')}Z"


class Array(sa.types.UserDefinedType[Iterable[Any]]):
    """Several of a column's values, as one parameter on PostgreSQL; drivers take three times as long over a list."""

    cache_ok = True
    # PostgreSQL would read a parameter that is cast from text again for each row that it looks at.
    render_bind_cast = True

    def __init__(self, of: sa.types.TypeEngine[Any]) -> None:
        """Take the column's type."""
        self.of = of

    def get_col_spec(self, **options: Any) -> str:
        """Return the type's name."""
        return f"{self.of.compile(postgresql.dialect())}[]"  # type: ignore[no-untyped-call]

    def bind_processor(self, dialect: Dialect) -> Any:
        """Return what writes an array as PostgreSQL reads it."""
        if isinstance(self.of, sa.Uuid):
            return _array_of_ids
        write = _writer(self.of)

        def process(values: Iterable[Any] | None) -> str:
            written, last, text = list[str](), None, "NULL"
            for value in values or ():
                # Statuses, and the time of a transaction, are one object in row after row.
                if value is not last:
                    last, text = value, "NULL" if value is None else write(value)
                written.append(text)
            return f"{{{','.join(written)}}}"

        return process


def _array_of_ids(ids: Iterable[UUID | None] | None) -> str:
    # Format their numbers, because `hex` is computed by Python's own code.
    return "{" + ",".join(["NULL" if each is None else f"{each.int:032x}" for each in ids or ()]) + "}"


def _writer(of: sa.types.TypeEngine[Any]) -> Callable[[Any], str]:
    match of:
        case sa.Integer():
            return str
        case sa.DateTime() | UTCTime():
            return datetime.isoformat
        case sa.LargeBinary():
            return lambda value: f'"\\\\x{value.hex()}"'
        case sa.String() | ExactString():
            return _quoted
        case _:
            raise TypeError(f"No array of {of!r}.")


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
