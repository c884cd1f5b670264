"""Subscriptions: which endpoints want an event, by the patterns that its type matches."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flask_webhook_endpoints.database import dialects, given
from flask_webhook_endpoints.database.scope import Scope, TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.identifiers import patterns_of

Ids = Sequence[str]
"""Ids of endpoints, of 32 digits each."""

Topic = tuple[str, str]
"""A tenant and a type of events, which decide which endpoints want an event."""

_INDEXES = {
    "webhook_endpoint": "ix_webhook_endpoint_tenant_id_id",
    "webhook_event": "ix_webhook_event_tenant_id_idempotency_key",
}
"""The index by which MariaDB reads each table."""


def wanting_ids(scope: TenantScope, patterns: Mapping[str, str]) -> Ids:
    """Return the endpoints of the tenant that want one of the patterns. On SQLite and PostgreSQL return one at most.

    On those two the INSERT finds them. On MariaDB and MySQL it would lock them until the host commits, with the gaps
    beside them, and requests that change endpoints would wait, or end in a deadlock with the host's transaction.
    """
    found = scope.execute(_wanting_ids(scope, len(patterns)), {"of_tenant": scope.tenant_id, **patterns}).all()
    # Not by `scalars()`, for which SQLAlchemy makes new metadata of the result: a sixtieth of what an event costs.
    return [row[0] for row in found]


def wanting_ids_of(scope: Scope, topics: Sequence[Topic]) -> dict[Topic, Ids]:
    """Return the tenants and types of which an endpoint wants the events, each with what `wanting_ids` returns."""
    patterns = padded_patterns([event_type for _, event_type in topics])
    depth = len(patterns[0])
    rows = [(number, topic[0], *each) for number, (topic, each) in enumerate(zip(topics, patterns, strict=True))]
    values = given.parameters(scope.dialect, _columns_of_topics(scope.tables, depth), rows)
    wanted: dict[Topic, list[str]] = {}
    found: Sequence[Any] = scope.execute(_wanting_ids_of(scope, depth), values).all()
    for number, endpoint_id in found:
        wanted.setdefault(topics[number], []).append(endpoint_id)
    return dict(wanted)


def padded_patterns(event_types: Sequence[str]) -> list[list[str]]:
    """Return the patterns that each type matches as `wanting` compares them, in lists that are equally long."""
    patterns = [[f" {pattern} " for pattern in patterns_of(event_type)] for event_type in event_types]
    depth = max(map(len, patterns))
    return [[*each, *each[:1] * (depth - len(each))] for each in patterns]


def pattern_columns(depth: int) -> dict[str, sa.types.TypeEngine[Any]]:
    """Return the columns of rows that are given with so many patterns each."""
    return {f"pattern_{number}": sa.Text() for number in range(depth)}


def wanting(tables: Tables, tenant_id: sa.ColumnElement[Any], patterns: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Return whether an endpoint of the tenant wants an event whose type matches these patterns."""
    endpoint = tables.endpoint
    names = sa.type_coerce(endpoint.c.event_types, sa.Text)
    # REPLACE compares exactly on every database; LIKE ignores case on some.
    wanted = [sa.func.replace(names, pattern, sa.literal_column("''")) != names for pattern in patterns]
    return sa.and_(endpoint.c.tenant_id == tenant_id, sa.or_(endpoint.c.event_types.is_(None), *wanted))


def wanting_one(tables: Tables, depth: int) -> sa.ColumnElement[bool]:
    """Return whether an endpoint wants an event, by the parameters `of_tenant` and `pattern_0` to `pattern_…`."""
    patterns = [sa.bindparam(name, type_=kind) for name, kind in pattern_columns(depth).items()]
    return wanting(tables, sa.bindparam("of_tenant"), patterns)


def in_order(dialect: str, columns: Sequence[Any], *rows: sa.FromClause) -> Any:
    """Return a SELECT that reads the tables in this order, each by keys that it has read before."""
    select: Any = sa.select(*columns).select_from(*rows)
    if isinstance(rows[0], sa.Table):
        return select
    # MariaDB locks all that it reads on the way, and beside rows that are given it reads small tables whole.
    for table in rows:
        if isinstance(table, sa.Table):
            select = dialects.by_index(dialect, select, table, _INDEXES[table.name])
    return dialects.in_order(dialect, select)


def _columns_of_topics(tables: Tables, depth: int) -> given.Columns:
    return {"number": sa.Integer(), "tenant_id": tables.event.c.tenant_id.type, **pattern_columns(depth)}


@statement
def _wanting_ids_of(tables: Tables, dialect: str, depth: int) -> Any:
    endpoint = tables.endpoint
    rows = given.rows_of(dialect, _columns_of_topics(tables, depth))
    wants = wanting(tables, rows.c.tenant_id, [rows.c[name] for name in pattern_columns(depth)])
    if dialect not in dialects.LOCKS_WHAT_IT_READS:
        # The INSERT finds them.
        one: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(endpoint).where(wants)
        return sa.select(rows.c.number, sa.null()).where(one.correlate(rows).exists())
    return in_order(dialect, (rows.c.number, sa.type_coerce(endpoint.c.id, sa.String)), rows, endpoint).where(wants)


@statement
def _wanting_ids(tables: Tables, dialect: str, depth: int) -> sa.Select[Any]:
    ids = sa.select(sa.type_coerce(tables.endpoint.c.id, sa.String)).where(wanting_one(tables, depth))
    return ids if dialect in dialects.LOCKS_WHAT_IT_READS else ids.limit(sa.literal_column("1", sa.Integer))
