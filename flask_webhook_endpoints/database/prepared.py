"""Statements that requests repeat: compiled once, and handed to the driver as text.

For each execution SQLAlchemy derives a key from a statement, looks its compiled form up and prepares for its rows; over
a single row this takes longer than the database does. SQLAlchemy executes them as any other where the host has hooks or
options that act on statements before they are text, and where the session has something to flush first.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
import sqlmodel
from sqlalchemy.engine import CursorResult, Dialect
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import ExecutableReturnsRows

from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.tables import Tables

_EXECUTES = (Session.execute, sqlmodel.Session.execute)
"""SQLModel's passes everything on."""

_MAX_TEXTS = 1024
"""Of one statement: for each engine, as hosts may have one for each tenant, and each set of names."""


class Prepared:
    """A statement for one set of values at a time; named as the values are in its parameters and columns."""

    def __init__(self, tables: Tables, statement: ExecutableReturnsRows) -> None:
        """Take the statement; it is compiled when it is first executed, for each dialect and each set of names."""
        self._tables = tables
        self._statement = statement
        self._text = lru_cache(_MAX_TEXTS)(self._compile)

    def fetch(self, session: Session, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Execute it, and return the rows that it selects or returns."""
        result, text = self._run(session, values)
        rows = result.all()
        return rows if text is None else text.read(rows)

    def execute(self, session: Session, values: Mapping[str, Any]) -> int:
        """Execute it, and return how many rows it has written."""
        result, _ = self._run(session, values)
        return result.rowcount

    def _run(self, session: Session, values: Mapping[str, Any]) -> tuple[CursorResult[Any], "_Text | None"]:
        if not _concerns(session):
            connection = self._tables.connection(session)
            if not _acts_on_statements(connection):
                text = self._text(connection.dialect, tuple(values))
                if text is not None:
                    return text.execute(connection, values), text
        return self._tables.execute(session, self._statement, values), None

    def _compile(self, dialect: Dialect, names: tuple[str, ...]) -> "_Text | None":
        compiled = self._statement.compile(dialect=dialect, column_keys=list(names))
        if compiled.post_compile_params:
            # Its text depends on the values, as that of IN does.
            return None
        # Those in `binds` have two names, if they are part of the statement.
        places = compiled.positiontup or list(dict.fromkeys(compiled.bind_names.values()))
        parameters = [compiled.binds[place] for place in places]
        return _Text(
            sql=compiled.string,
            places=None if compiled.positional else places,
            writers=[
                (parameter.key, parameter.type.dialect_impl(dialect).bind_processor(dialect))
                for parameter in parameters
            ],
            constants={parameter.key: parameter.value for parameter in parameters if not parameter.required},
            readers=[
                column.type.dialect_impl(dialect).result_processor(dialect, None)
                for column in self._statement.exported_columns
            ],
        )


class _Text(NamedTuple):
    """A statement as the driver takes it."""

    sql: str
    places: Sequence[str] | None
    """The names of the values in the text; None where they go by their order."""
    writers: Sequence[tuple[str, Callable[[Any], Any] | None]]
    """For each place, which value goes there, and what writes it as the driver takes it."""
    constants: Mapping[str, Any]
    """Values that are part of the statement."""
    readers: Sequence[Callable[[Any], Any] | None]
    """For each column of a row, what reads what the driver returns."""

    def execute(self, connection: sa.Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        values = {**self.constants, **values}
        written = tuple([values[name] if write is None else write(values[name]) for name, write in self.writers])
        return connection.exec_driver_sql(
            self.sql, written if self.places is None else dict(zip(self.places, written, strict=True))
        )

    def read(self, rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
        return [
            [value if read is None else read(value) for read, value in zip(self.readers, row, strict=True)]
            for row in rows
        ]


def _concerns(session: Session) -> bool:
    """Return whether the session has something to do before a statement, or the host has in its name."""
    return bool(
        # A class of the host's, or the proxy that a `scoped_session` is, whose hooks are not to be seen.
        type(session).execute not in _EXECUTES
        or session.dispatch.do_orm_execute
        # SQLAlchemy 2.1 flushes first.
        or transactions.has_pending(session)
    )


def _acts_on_statements(connection: sa.Connection) -> bool:
    hooks = connection.dispatch
    return bool(
        hooks.before_execute or hooks.after_execute or "schema_translate_map" in connection.get_execution_options()
    )
