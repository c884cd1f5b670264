"""Dialects: what is true of each database. Statements ask for a fact by its name here, and not for a database.

To add a database, decide for each fact whether it holds there. A dialect that is in none of these is written for as
MariaDB is, without its hints. `docs/how-it-works.md` tells what follows from the facts.
"""

from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

S = TypeVar("S", sa.Select[Any], sa.Update, sa.Delete)

POSTGRESQL = "postgresql"
SQLITE = "sqlite"
MYSQL = ("mysql", "mariadb")
"""SQLAlchemy's names for MariaDB and MySQL: the URL of a database decides which of them its dialect has."""

RETURNING = frozenset({POSTGRESQL, SQLITE})
"""INSERT, UPDATE and DELETE return rows, and subqueries there read what is written. MySQL returns none, and MariaDB
reads other tables there as they were. Elsewhere, lock rows, write them, and read them."""

ARRAYS = frozenset({POSTGRESQL})
"""One parameter may be a list of values."""

JSON_EACH = frozenset({SQLITE})
"""`json_each` makes rows of a JSON text. Elsewhere, where there are no arrays, `JSON_TABLE` does."""

ON_CONFLICT = frozenset({POSTGRESQL, SQLITE})
"""ON CONFLICT handles a unique key that another row has. MariaDB and MySQL take IGNORE and ON DUPLICATE KEY UPDATE."""

WRITES_IN_CTES = frozenset({POSTGRESQL})
"""A common table expression may write, so that one statement writes two tables."""

LATERAL = frozenset({POSTGRESQL})
"""A subquery may read the first rows of each row beside it. The log's index of tenants is empty there."""

LOCKS_WHAT_IT_READS = frozenset(MYSQL)
"""A statement that writes locks all that it reads, gaps included. Find the rows first, and write them by their ids."""

SNAPSHOT_OF_TRANSACTION = frozenset(MYSQL)
"""A plain SELECT reads the state at the transaction's first read. `scope.as_committed` reads the present one."""

SNAPSHOT_OF_STATEMENT = frozenset({POSTGRESQL})
"""A statement that has waited for a row sees it as it is now. It sees others as they were when it began."""

ONE_WRITER = frozenset({SQLITE})
"""One transaction writes at a time, without locks of rows. A transaction that has read may not write."""

READS_WITHOUT_BEGIN = frozenset({SQLITE})
"""The driver begins a transaction before the first statement that writes. Elsewhere, before the first statement."""

LOCKS_AGAIN = frozenset({POSTGRESQL})
"""A subquery that locks rows may run again for each row. A common table expression runs once."""

DEAD_ENTRIES = frozenset({POSTGRESQL})
"""An index keeps entries of dead rows until vacuum removes them. Bound scans by an indexed column."""

EXPECTS_EMPTY = frozenset({POSTGRESQL})
"""The planner expects no row where the last ANALYZE found none. It then reads a backlog whole for each few rows."""

LOOSE_SCANS = frozenset(MYSQL)
"""GROUP BY steps through an index from value to value, if no `=` fixes the index's first column. Elsewhere, a recursive
query does."""

SLOW_UNIONS = frozenset(MYSQL)
"""A union makes a temporary table of each part."""

HINTS = frozenset(MYSQL)
"""The planner takes, and needs, hints: which index to read, and in which order to join."""

BYTES_FOR_TEXT = frozenset(MYSQL)
"""Collations of a common name ignore case, accents or spaces at the end. Bytes compare exactly."""


def by_index(dialect: str, select: Any, table: sa.FromClause, index: str) -> Any:
    """Have the planner read the table by this index, where it takes hints."""
    return select.with_hint(table, f"FORCE INDEX ({index})", dialect) if dialect in HINTS else select


def by_key(statement: S, table: sa.Table) -> S:
    """Have a statement that locks rows find them by the primary key, where the planner takes hints.

    Of a small table, it would otherwise read the whole, and so wait for all that others have locked there. In the
    transaction of a host it would also lock the whole, gaps included. The statement must read another column, too: of
    the key alone, MariaDB reads the whole in spite of the hint.
    """
    for name in sorted(HINTS):
        if isinstance(statement, sa.Delete):
            # As a DELETE of several tables, because one of a single table takes no hints.
            statement = statement.prefix_with(_NameOf(table), dialect=name)
        statement = statement.with_hint(*_key_hint(statement, table), name)
    return statement


class _NameOf(sa.TextClause):
    """The name of a table, in the schema to which the host's engine translates it."""

    inherit_cache = True

    def __init__(self, table: sa.Table) -> None:
        super().__init__(table.fullname)
        self.table = table


@compiles(_NameOf)
def _write_name(name: _NameOf, compiler: Any, **_: Any) -> Any:
    return compiler.preparer.format_table(name.table)


def _key_hint(statement: Any, table: sa.Table) -> tuple[Any, Any]:
    hint = "FORCE INDEX (PRIMARY)"
    return (table, hint) if isinstance(statement, sa.Select) else (hint, table)


def in_order(dialect: str, select: Any) -> Any:
    """Have the planner join the tables in the order in which they stand, where it takes hints."""
    return select.prefix_with("STRAIGHT_JOIN") if dialect in HINTS else select
