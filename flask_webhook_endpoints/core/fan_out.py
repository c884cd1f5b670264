"""The fan-out of an event: a delivery to each endpoint that gets it, in the log and in the queue.

The database makes the ids and the rows, so that an event costs as many statements for a thousand endpoints as for one.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from flask_webhook_endpoints.core import transitions
from flask_webhook_endpoints.database import given
from flask_webhook_endpoints.database.scope import Scope, TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.identifiers import patterns_of

_INDEXES = {
    "webhook_endpoint": "ix_webhook_endpoint_tenant_id_id",
    "webhook_event": "ix_webhook_event_tenant_id_idempotency_key",
    "webhook_delivery": "PRIMARY",
}
"""The index by which MariaDB reads each table."""

_AFTER_HEX: sa.ColumnElement[Any] = sa.literal_column("'g'")
"""A character that comes after all that ids have."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


class Published(NamedTuple):
    """An event of several that are published at once."""

    tenant_id: str
    id: UUID
    type: str
    created_at: datetime


def to_wanting(
    scope: TenantScope, event_id: UUID, created_at: datetime, patterns: Mapping[str, str], *, delay_seconds: float
) -> int:
    """Write a delivery to each endpoint of the tenant that wants one of the patterns; return how many."""
    inserts = _to_wanting(scope, len(patterns), delayed=delay_seconds > 0)
    due = scope.now + timedelta(seconds=delay_seconds)
    return _fan_out(scope, inserts, event_id, created_at, {"of_tenant": scope.tenant_id, **patterns, "due": due})


def to_active(scope: TenantScope, event_id: UUID, created_at: datetime, endpoint_id: UUID) -> int:
    """Write a delivery to one endpoint, whatever it wants; return 0 if it is paused or unknown."""
    chosen = {"of_tenant": scope.tenant_id, "of_id": endpoint_id, "due": scope.now}
    return _fan_out(scope, _to_active(scope), event_id, created_at, chosen)


def to_wanting_each(scope: Scope, events: Sequence[Published], *, delay_seconds: float) -> int:
    """Write the deliveries of several events, of any tenants, to the endpoints that want them; return how many."""
    delay = timedelta(seconds=delay_seconds)
    patterns = padded_patterns([event.type for event in events])
    rows = [
        (event.id, event.tenant_id, event.created_at, event.created_at + delay, _head_of_id(event.created_at), *wanted)
        for event, wanted in zip(events, patterns, strict=True)
    ]
    depth = len(patterns[0])
    values = given.parameters(scope.dialect, _columns_of_events(scope.tables, depth), rows)
    return _execute(scope, _to_wanting_each(scope, depth, delayed=delay_seconds > 0), values)


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


def in_order(dialect: str, columns: Sequence[Any], *rows: sa.FromClause) -> sa.Select[Any]:
    """Return a SELECT that reads the tables in this order, each by the keys of what it has read before."""
    select: Any = sa.select(*columns).select_from(*rows)
    if dialect in ("postgresql", "sqlite") or isinstance(rows[0], sa.Table):
        return cast("sa.Select[Any]", select)
    # MariaDB locks all that it reads on the way, and beside rows that are given it reads small tables whole.
    for table in rows:
        if isinstance(table, sa.Table):
            select = select.with_hint(table, f"FORCE INDEX ({_INDEXES[table.name]})", dialect)
    return cast("sa.Select[Any]", select.prefix_with("STRAIGHT_JOIN"))


def _fan_out(
    scope: TenantScope, inserts: Sequence[sa.Insert], event_id: UUID, created_at: datetime, chosen: Mapping[str, Any]
) -> int:
    of_event = {"event": event_id, "event_hex": event_id.hex, "head_of_id": _head_of_id(created_at)}
    return _execute(scope, inserts, {**chosen, **of_event, "published_at": created_at})


def _execute(scope: Scope, inserts: Sequence[sa.Insert], values: Mapping[str, Any]) -> int:
    first, *others = inserts
    count = scope.execute(first, values).rowcount
    if count:
        for insert in others:
            scope.execute(insert, values)
        scope.wake_at_commit()
    return count


class _Source(NamedTuple):
    """Events as a statement reads them, and the condition that finds the endpoints of each."""

    rows: tuple[sa.FromClause, ...]
    """The table of the events, where there are several."""
    event: sa.ColumnElement[Any]
    event_text: sa.ColumnElement[Any]
    created_at: sa.ColumnElement[Any]
    due: sa.ColumnElement[Any]
    head_of_id: sa.ColumnElement[Any]
    chosen: sa.ColumnElement[bool]


def _one(tables: Tables, chosen: sa.ColumnElement[bool]) -> _Source:
    """Return one event, whose values are parameters."""
    delivery, text = tables.delivery, sa.String()
    return _Source(
        rows=(),
        event=sa.bindparam("event", type_=delivery.c.event_id.type),
        event_text=sa.bindparam("event_hex", type_=text),
        created_at=sa.bindparam("published_at", type_=delivery.c.created_at.type),
        due=sa.bindparam("due", type_=tables.queue.c.due_at.type),
        head_of_id=sa.bindparam("head_of_id", type_=text),
        chosen=chosen,
    )


def _columns_of_events(tables: Tables, depth: int) -> given.Columns:
    event = tables.event
    return {
        "event": event.c.id.type,
        "tenant_id": event.c.tenant_id.type,
        "created_at": event.c.created_at.type,
        "due": event.c.created_at.type,
        "head_of_id": sa.Text(),
        **pattern_columns(depth),
    }


@statement
def _to_wanting(tables: Tables, dialect: str, depth: int, *, delayed: bool) -> tuple[sa.Insert, ...]:
    return _inserts(tables, dialect, _one(tables, wanting_one(tables, depth)), delayed=delayed)


@statement
def _to_wanting_each(tables: Tables, dialect: str, depth: int, *, delayed: bool) -> tuple[sa.Insert, ...]:
    rows = given.rows_of(dialect, _columns_of_events(tables, depth))
    source = _Source(
        rows=(rows,),
        event=rows.c.event,
        event_text=rows.c.event,
        created_at=rows.c.created_at,
        due=rows.c.due,
        head_of_id=rows.c.head_of_id,
        chosen=wanting(tables, rows.c.tenant_id, [rows.c[name] for name in pattern_columns(depth)]),
    )
    return _inserts(tables, dialect, source, delayed=delayed)


@statement
def _to_active(tables: Tables, dialect: str) -> tuple[sa.Insert, ...]:
    endpoint = tables.endpoint
    chosen = (endpoint.c.tenant_id == sa.bindparam("of_tenant"), endpoint.c.id == sa.bindparam("of_id"))
    return _inserts(tables, dialect, _one(tables, sa.and_(*chosen, endpoint.c.paused_at.is_(None))), delayed=False)


def _inserts(tables: Tables, dialect: str, source: _Source, *, delayed: bool) -> tuple[sa.Insert, ...]:
    """Return what writes the deliveries to the chosen endpoints; the first counts them."""
    endpoint, delivery = tables.endpoint, tables.delivery
    made_id = sa.type_coerce(_DeliveryId(source.head_of_id, source.event_text, endpoint.c.id), delivery.c.id.type)
    values = {
        delivery.c.id: made_id,
        delivery.c.tenant_id: endpoint.c.tenant_id,
        delivery.c.event_id: source.event,
        delivery.c.endpoint_id: endpoint.c.id,
        **transitions.published(tables),
        delivery.c.created_at: source.created_at,
    }
    chosen = in_order(dialect, list(values.values()), *source.rows, endpoint).where(source.chosen)
    insert = sa.insert(delivery).from_select(list(values), chosen)
    state = transitions.queued(tables, source.due, delayed=delayed)

    def enqueue(written: Any, *rows: sa.FromClause, where: Sequence[sa.ColumnElement[bool]]) -> sa.Insert:
        columns = [written.c.id, written.c.tenant_id, written.c.endpoint_id, written.c.event_id, *state.values()]
        select = in_order(dialect, columns, *source.rows, *rows, written).where(*where)
        queue = tables.queue.c
        into = [queue.delivery_id, queue.tenant_id, queue.endpoint_id, queue.event_id, *state]
        return sa.insert(tables.queue).from_select(into, select)

    if dialect == "postgresql":
        returned = insert.returning(delivery.c.id, delivery.c.tenant_id, delivery.c.endpoint_id, delivery.c.event_id)
        written = returned.cte("written")
        where = [written.c.event_id == source.event] if source.rows else []
        inserts: tuple[sa.Insert, ...] = (enqueue(written, where=where),)
    elif dialect == "sqlite":
        # By the range of their ids. Without a function around the event, SQLite would make an index of the whole log.
        text, head = sa.type_coerce(delivery.c.id, sa.String), source.head_of_id
        of_event = sa.func.coalesce(delivery.c.event_id, sa.literal_column("''")) == source.event
        inserts = insert, enqueue(delivery, where=[text > head, text < head.concat(_AFTER_HEX), of_event])
    else:
        # By their ids, because a range of them would be locked, and the host's other transactions would wait.
        inserts = insert, enqueue(delivery, endpoint, where=[source.chosen, delivery.c.id == made_id])
    # Without the option an INSERT may report -1 rows.
    return tuple(each.execution_options(preserve_rowcount=True) for each in inserts)


class _DeliveryId(FunctionElement[Any]):
    """A UUIDv7 with a given head; the rest is made of the event's and the endpoint's id, or at random."""

    inherit_cache = True
    name = "delivery_id"


@compiles(_DeliveryId)
def _delivery_id(element: Any, compiler: Any, **options: Any) -> str:
    head, event_id, endpoint_id = (compiler.process(clause, **options) for clause in element.clauses)
    if compiler.dialect.name == "sqlite":
        return f"{head} || SUBSTR(LOWER(HEX(RANDOMBLOB(16))), 18)"
    # MD5 only spreads what is unique already; no security depends on it.
    made = f"CONCAT({head}, SUBSTR(MD5(CONCAT({event_id}, {endpoint_id})), 18))"
    if compiler.dialect.name == "postgresql":
        return f"CAST({made} AS uuid)"
    # Text in ASCII compares with an id in any character set that a database may have, such as MariaDB's own latin1.
    return f"CONVERT({made} USING ascii)"


def of_events(tables: Tables, events: Mapping[UUID, datetime]) -> sa.ColumnElement[bool]:
    """Return whether a delivery is one of these events, each given with its time.

    The log has no index of events: the ids of an event's deliveries begin with its time.
    """
    delivery = tables.delivery
    ranges = [delivery.c.id.between(first_id(moment), last_id(moment)) for moment in sorted(set(events.values()))]
    return sa.and_(sa.or_(*ranges), delivery.c.event_id.in_(list(events)))


def first_id(moment: datetime) -> UUID:
    """Return the first id that a delivery of an event of this time may have; of times before 1970, the first of all."""
    return UUID(f"{_head_of_id(max(moment, _EPOCH))}{'0' * 15}")


def last_id(moment: datetime) -> UUID:
    """Return the last id that a delivery of an event of this time may have."""
    return UUID(f"{_head_of_id(moment)}{'f' * 15}")


def _head_of_id(moment: datetime) -> str:
    """Return the first 17 digits of a UUIDv7: the time, to the microsecond (RFC 9562 section 6.2, method 3)."""
    milliseconds, microseconds = divmod((moment - _EPOCH) // _MICROSECOND, 1000)
    return f"{milliseconds:012x}7{microseconds * 4096 // 1000:03x}8"
