"""Errors of a database: their codes, and what a person can do about them.

Source: PostgreSQL's SQLSTATE codes, MariaDB's and MySQL's error numbers.
"""

import re

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

IN_TRANSACTION = 1568
"""MariaDB's and MySQL's error number: a transaction's isolation can't change once it has begun."""

READ_ONLY_CODES = frozenset({"25006", 1290, 1792, 1836, 1874})
"""SQLSTATE and error numbers of a server, a transaction or a storage engine that does not write now."""

# Undefined table; SQLite has no code of its own for it.
_MISSING_TABLE_CODES = frozenset({"42P01", 1146})
_MISSING_TABLE_ON_SQLITE = "no such table"
# Undefined column, likewise.
_MISSING_COLUMN_CODES = frozenset({"42703", 1054})
_MISSING_COLUMN_ON_SQLITE = ("no such column", "has no column named")
# PostgreSQL's class of data exceptions, whose messages end in the value.
_DATA_SQLSTATE_CLASS = "22"
# As MariaDB and MySQL write a value: "Duplicate entry 'acme' for key …", "Incorrect string value: '…' for column …".
_VALUE_IN_MESSAGE = re.compile(r"""( entry| value:) (?:'.*'(?= for )|'.*'(?=["')]*\Z))""", re.DOTALL)
_UPGRADE_TABLES = (
    "Upgrade the tables, which another version of this library made: your migrations, or `flask webhooks db upgrade`."
    " `flask webhooks doctor` names what is missing."
)
_MAKE_TABLES = (
    "Make the tables: create_all(), your migrations, or `flask webhooks db upgrade`."
    " `flask webhooks doctor` names what is missing."
)


def code(error: DBAPIError | PoolTimeout) -> str | int | None:
    """Return MariaDB's and MySQL's error number, or PostgreSQL's SQLSTATE."""
    orig = getattr(error, "orig", None)
    # The number first: PyMySQL has SQLSTATEs too, which say less.
    if orig is not None and orig.args and isinstance(orig.args[0], int):
        return orig.args[0]
    sqlstate = getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None)
    return sqlstate if isinstance(sqlstate, str) else None


def reason(error: DBAPIError | PoolTimeout) -> str:
    """Return what the driver says, without the values that databases repeat: of a key, or of the whole row."""
    orig = getattr(error, "orig", None)
    if orig is None:
        return type(error).__name__
    # PostgreSQL has the values in the lines below: "DETAIL:  Failing row contains (…)".
    text = getattr(getattr(orig, "diag", None), "message_primary", None) or str(orig)
    sqlstate = code(error)
    if isinstance(sqlstate, str) and sqlstate.startswith(_DATA_SQLSTATE_CLASS):
        text = text.partition(":")[0]
    return _hidden(text)


def refusal(error: DBAPIError) -> str:
    """Return what the driver says, without values, and what to do where a table or column is missing."""
    return "\n".join([reason(error), *_advice(error)])


def advise(error: DBAPIError) -> None:
    """Have the error say what to do where a table or column is missing."""
    for line in _advice(error):
        error.add_note(line)


def hide_values(error: DBAPIError) -> None:
    """Have the error, and the driver's own behind it, show no value, such as the body of an event."""
    error.hide_parameters = True
    error.params = None
    said, shown = str(error.orig), reason(error)
    if error.orig is not None and said != shown:
        error.args = (str(error.args[0]).replace(said, shown),)
        number, *_ = error.orig.args
        error.orig.args = (number, _hidden(str(error.orig.args[-1]))) if isinstance(number, int) else (shown,)


def is_read_only(error: DBAPIError | PoolTimeout) -> bool:
    """Return whether the connection does not write, because after a failover it leads to a standby."""
    return code(error) in READ_ONLY_CODES


def _hidden(message: str) -> str:
    return _VALUE_IN_MESSAGE.sub(r"\1 …", message)


def _advice(error: DBAPIError) -> list[str]:
    missing = code(error) in _MISSING_TABLE_CODES or str(error.orig).startswith(_MISSING_TABLE_ON_SQLITE)
    if missing:
        return [_MAKE_TABLES]
    behind = code(error) in _MISSING_COLUMN_CODES or any(said in str(error.orig) for said in _MISSING_COLUMN_ON_SQLITE)
    return [_UPGRADE_TABLES] if behind else []
