"""Rows that a statement is given as parameters: arrays on PostgreSQL, one JSON text elsewhere.

So their number has no limit, as the number of parameters has on SQLite.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.types import Array, ExactString, UTCTime

Columns = Mapping[str, sa.types.TypeEngine[Any]]
"""The name and the type of each column."""


class Each(sa.types.UserDefinedType[Any]):
    """The type of a column that is given as lists on MariaDB and MySQL. Each value of a list makes a row."""

    cache_ok = True

    def __init__(self, of: sa.types.TypeEngine[Any]) -> None:
        """Take the type of a value."""
        self.of = of


_NAME = "given"

# Without it, MariaDB would not know whose collation counts beside a column's.
_EXACTLY = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"


def rows_of(dialect: str, columns: Columns) -> sa.FromClause:
    """Return the rows as a statement reads them; `parameters` makes its parameters."""
    if dialect in dialects.ARRAYS:
        arrays = [sa.bindparam(f"{_NAME}_{name}", type_=Array(kind)) for name, kind in columns.items()]
        named = [sa.column(name, kind) for name, kind in columns.items()]
        return sa.func.unnest(*arrays).table_valued(*named).render_derived(_NAME)
    if dialect in dialects.JSON_EACH:
        read = ", ".join(f"json_extract(value, '$[{number}]') AS {name}" for number, name in enumerate(columns))
        text = f"SELECT {read} FROM json_each(:{_NAME})"  # noqa: S608 - names of ours
    else:
        read = ", ".join(_read_json(number, *column) for number, column in enumerate(columns.items()))
        # The text is ASCII, and becomes UTF-8 here: a host may have another character set for its connection.
        whole = f"CONVERT(:{_NAME} USING utf8mb4)"
        text = f"SELECT * FROM JSON_TABLE({whole}, '$[*]' COLUMNS ({read})) AS {_NAME}"  # noqa: S608 - as above
    types = {name: kind.of if isinstance(kind, Each) else kind for name, kind in columns.items()}
    return sa.text(text).columns(**types).subquery(_NAME)


def parameters(dialect: Dialect, columns: Columns, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return the parameters for rows, of which there is one at least, with a value for each column."""
    by_column = list(zip(*rows, strict=True))
    if dialect.name in dialects.ARRAYS:
        return {f"{_NAME}_{name}": values for name, values in zip(columns, by_column, strict=True)}
    writers = [kind.dialect_impl(dialect).bind_processor(dialect) for kind in columns.values()]
    written = [
        values if write is None else [write(value) for value in values]
        for write, values in zip(writers, by_column, strict=True)
    ]
    return {_NAME: json.dumps(list(zip(*written, strict=True)), default=_as_text)}


def _as_text(value: bytes | datetime) -> str:
    """Return as text what MariaDB's drivers take as it is: bytes of an `ExactString`, times in UTC."""
    return value.decode() if isinstance(value, bytes) else value.replace(tzinfo=None).isoformat(" ")


def _read_json(number: int, name: str, kind: sa.types.TypeEngine[Any]) -> str:
    """Return what reads a column in MariaDB's and MySQL's JSON_TABLE."""
    if isinstance(kind, Each):
        return f"NESTED PATH '$[{number}][*]' COLUMNS ({name} {_json_type(kind.of)} PATH '$')"
    return f"{name} {_json_type(kind)} PATH '$[{number}]'"


def _json_type(kind: sa.types.TypeEngine[Any]) -> str:
    """Return the type in MariaDB's and MySQL's JSON_TABLE."""
    match kind:
        case ExactString():
            return "VARBINARY(1020)"
        case UTCTime():
            return "DATETIME(6)"
        case sa.Integer():
            return "INTEGER"
        case sa.Uuid():
            return f"CHAR(32) {_EXACTLY}"
        case sa.Text():
            return f"TEXT {_EXACTLY}"
        case _:
            raise TypeError(f"No column of JSON_TABLE for {kind!r}.")


def columns_of(
    columns: Mapping[str, Sequence[Any]],
) -> tuple[tuple[str, ...], frozenset[str], dict[str, Any]]:
    """Return what `update_of_columns` takes, and its parameters: one value where all rows of a column have the same."""
    key, *others = names = tuple(columns)
    same = frozenset(name for name in others if columns[name].count(columns[name][0]) == len(columns[name]))
    values = {f"{name}s": columns[name][0] if name in same else columns[name] for name in others}
    return names, same, {f"{key}s": columns[key], **values}


def rows_of_columns(table: sa.Table, names: tuple[str, ...], same: frozenset[str]) -> Any:
    """Return PostgreSQL's rows of the columns that `columns_of` gives as arrays."""
    arrays = [name for name in names if name not in same]
    given = [sa.bindparam(f"{name}s", type_=Array(table.c[name].type)) for name in arrays]
    return sa.func.unnest(*given).table_valued(*arrays).render_derived("source")


def update_of_columns(table: sa.Table, names: tuple[str, ...], same: frozenset[str], source: Any) -> sa.Update:
    """Return PostgreSQL's UPDATE by `rows_of_columns`, of which the first column is the primary key."""
    key, *others = names
    values = {
        name: sa.bindparam(f"{name}s", type_=table.c[name].type) if name in same else source.c[name] for name in others
    }
    return sa.update(table).where(table.c[key] == source.c[key]).values(values)
