"""Moves of many rows within a shipped revision, batch by batch, with a line of progress after each.

Revisions are history. They give their statements whole, and this module only says how many rows a statement takes.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic import context, op

BATCH = 50_000
"""Rows that are read between two lines of progress."""

Within = tuple[sa.ColumnElement[bool], ...]
"""The conditions of one range of the key; none for all rows."""


def move(what: str, key: sa.ColumnClause[Any], statement: Callable[[Within], Any]) -> None:
    """Execute a statement for each range of `key`, and print how far it is.

    Where SQL is printed, the statement is there once, for all rows.

    Args:
        what: The fate of the rows, such as "moved into webhook_queue".
        key: The primary key of the table that is read.
        statement: Returns the statement for a range.

    """
    if context.is_offline_mode():
        op.execute(statement(()))
        return
    table: Any = key.table
    read = done = 0
    for within, count in _ranges(key):
        # Without the option an INSERT may report -1 rows.
        done += op.get_bind().execute(statement(within).execution_options(preserve_rowcount=True)).rowcount
        read += count
        say(f"{table.name}: {read} rows read, {done} {what}")


def say(text: str) -> None:
    """Print a line of progress, unless SQL is printed."""
    if not context.is_offline_mode():
        sys.stderr.write(f"  {text}\n")
        sys.stderr.flush()


def _ranges(key: sa.ColumnClause[Any]) -> Iterator[tuple[Within, int]]:
    """Yield the ranges of the key, each with its number of rows."""
    after: Within = ()
    while True:
        keys = sa.select(key).where(*after).order_by(key)
        last = op.get_bind().execute(keys.offset(BATCH - 1).limit(1)).scalar_one_or_none()
        if last is None:
            rest = op.get_bind().execute(sa.select(sa.func.count()).select_from(keys.subquery())).scalar_one()
            if rest:
                yield after, rest
            return
        yield (*after, key <= last), BATCH
        after = (key > last,)
