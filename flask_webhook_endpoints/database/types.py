"""Column types: ids and times read straight into the text of an answer, and several values as one parameter.

Making UUID and datetime objects was most of what a list of a thousand endpoints cost.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlmodel.sql.sqltypes import UTCDateTime

from flask_webhook_endpoints.database.models import ExactString
from flask_webhook_endpoints.identifiers import format_time


def shown(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return an endpoint's column, read as an answer shows it: ids and times as text."""
    match column.type:
        case sa.Uuid():
            return sa.type_coerce(column, _ShownId()).label(column.name)
        case UTCDateTime():
            return sa.type_coerce(column, _ShownTime()).label(column.name)
        case _:
            return column


class _ShownId(sa.types.UserDefinedType[str]):
    """An id as text: of the database's own type on PostgreSQL, of 32 digits elsewhere."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return what reads a value, which is never null."""
        if dialect.name == "postgresql":
            return lambda value: f"ep_{value}"
        return lambda text: f"ep_{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class _ShownTime(sa.types.UserDefinedType[str]):
    """A time as text: `YYYY-MM-DD HH:MM:SS.ffffff` on SQLite, without a zone on MariaDB and MySQL; always UTC."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return what reads a value."""
        match dialect.name:
            case "sqlite":
                return lambda text: text and f"{text[:10]}T{text[11:]}Z"
            case "postgresql":
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
        write = _writer(self.of)

        def process(values: Iterable[Any] | None) -> str:
            written = ["NULL" if value is None else write(value) for value in values or ()]
            return f"{{{','.join(written)}}}"

        return process


def _writer(of: sa.types.TypeEngine[Any]) -> Callable[[Any], str]:
    match of:
        case sa.Uuid():
            return attrgetter("hex")
        case sa.Integer():
            return str
        case sa.DateTime() | UTCDateTime():
            return datetime.isoformat
        case sa.LargeBinary():
            return lambda value: f'"\\\\x{value.hex()}"'
        case sa.String() | ExactString():
            return _quoted
        case _:
            raise TypeError(f"No array of {of!r}.")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
