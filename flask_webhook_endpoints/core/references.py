"""References from the host's tables: rows to which a foreign key refers stay, and the others are deleted."""

from collections.abc import Callable, Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.scope import Scope


def delete_unreferenced(scope: Scope, ids: Sequence[UUID], delete: Callable[[Sequence[UUID]], object]) -> list[UUID]:
    """Delete the rows of these ids. Return the ids that stay, because a table of the host refers to them."""
    if not ids or is_done(scope, lambda: delete(ids)):
        return []
    if len(ids) == 1:
        return list(ids)
    middle = len(ids) // 2
    return [
        *delete_unreferenced(scope, ids[:middle], delete),
        *delete_unreferenced(scope, ids[middle:], delete),
    ]


def is_done(scope: Scope, delete: Callable[[], object]) -> bool:
    """Delete, or undo that and return False where a table of the host refers to one of the rows."""
    try:
        # Read before the savepoint, which begins a transaction on SQLite: one that begins by a read may fail to write.
        broken = _broken_references(scope)
        # A savepoint of the session, because the host may have given it several connections.
        with scope.session.begin_nested() as savepoint:
            delete()
            # References whose check the host has deferred would fail at the commit.
            if scope.dialect.name == dialects.POSTGRESQL:
                scope.execute(sa.text("SET CONSTRAINTS ALL IMMEDIATE"))
            elif _broken_references(scope) > broken:
                savepoint.rollback()
                return False
    except IntegrityError:
        return False
    return True


def _broken_references(scope: Scope) -> int:
    """Return how many deferred references from tables of the host lead to no row of ours. Only SQLite counts them.

    SQLite reads the host's tables for that; without deferred references to ours, it reads the schema alone.
    """
    if scope.dialect.name != dialects.SQLITE:
        return 0
    tables = scope.tables
    ours = [table.name for table in (tables.delivery, tables.attempt, tables.event, tables.secret)]
    return int(scope.execute(_BROKEN_REFERENCES, {"ours": ours}).scalar_one())


_BROKEN_REFERENCES = sa.text("""
    SELECT count(*)
    FROM (
        SELECT DISTINCT host.name
        FROM sqlite_master AS host, pragma_foreign_key_list(host.name) AS reference
        WHERE host.type = 'table' AND host.sql LIKE '%DEFERRED%' AND reference."table" IN :ours
    ) AS host, pragma_foreign_key_check(host.name) AS broken
    WHERE broken.parent IN :ours AND (SELECT foreign_keys FROM pragma_foreign_keys)
""").bindparams(sa.bindparam("ours", expanding=True))
