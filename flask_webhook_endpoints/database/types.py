"""Ids and times read as they are outside, without the values between: an answer needs their text alone.

A thousand endpoints are three thousand times and a thousand ids, which are most of what listing them costs.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from flask_webhook_endpoints.identifiers import format_time


def shown_id(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    """Return the column, an endpoint's id, read as `format_id` shows it."""
    return sa.type_coerce(column, _ShownId()).label(column.name)


def shown_time(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    """Return the column, read as `format_time` shows it."""
    return sa.type_coerce(column, _ShownTime()).label(column.name)


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
