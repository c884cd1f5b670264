"""The fan-out of an event: a delivery to each endpoint that gets it, in log and queue.

The database makes the ids and the rows, so that an event costs as many statements for a thousand endpoints as for one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import subscriptions, transitions
from flask_webhook_endpoints.database import delivery_ids, dialects, given
from flask_webhook_endpoints.database.scope import Scope, TenantScope, as_committed, statement
from flask_webhook_endpoints.database.tables import Tables

MOST_GIVEN = 100_000
"""Deliveries of one statement at most where the endpoints are given: MariaDB takes 16 MiB at once."""


class Published(NamedTuple):
    """An event of several that are published at once."""

    tenant_id: str
    id: UUID
    type: str
    created_at: datetime
    wanting: subscriptions.Ids
    """The endpoints that want it, as `subscriptions.wanting_ids` returns them."""


def to_wanting(
    scope: TenantScope,
    event_id: UUID,
    created_at: datetime,
    patterns: Mapping[str, str],
    wanting: subscriptions.Ids,
    *,
    delay_seconds: float,
) -> int:
    """Write a delivery to each endpoint of the tenant that wants one of the patterns; return how many.

    `wanting` is what `subscriptions.wanting_ids` returned.
    """
    inserts = _to_wanting(scope, len(patterns), delayed=delay_seconds > 0)
    due = scope.now + timedelta(seconds=delay_seconds)
    return _fan_out(scope, inserts, {**_of_event(event_id, created_at), **patterns, "due": due}, wanting)


def to_active(scope: TenantScope, event_id: UUID, created_at: datetime, endpoint_id: UUID) -> int:
    """Write a delivery to one endpoint, whatever it wants; return 0 if it is paused or unknown."""
    chosen = {"of_tenant": scope.tenant_id, "of_id": endpoint_id}
    active: subscriptions.Ids = ()
    if _is_given(scope.dialect.name):
        active = scope.execute(_active(scope), chosen).scalars().all()
        if not active:
            return 0
    values = {**_of_event(event_id, created_at), **chosen, "due": scope.now}
    return _fan_out(scope, _to_active(scope), values, active)


def to_wanting_each(scope: Scope, events: Sequence[Published], *, delay_seconds: float) -> int:
    """Write the deliveries of several events, of any tenants, to the endpoints that want them; return how many."""
    delay = timedelta(seconds=delay_seconds)
    patterns = subscriptions.padded_patterns([event.type for event in events])
    depth = len(patterns[0])
    columns = _columns_of_events(scope.tables, scope.dialect.name, depth)
    is_given = _is_given(scope.dialect.name)
    rows = [
        (
            event.id,
            event.tenant_id,
            event.created_at,
            event.created_at + delay,
            delivery_ids.head(event.created_at),
            *found,
        )
        for event, wanted in zip(events, patterns, strict=True)
        for found in ([(ids,) for ids in _portions(event.wanting)] if is_given else (wanted,))
    ]
    inserts = _to_wanting_each(scope, depth, delayed=delay_seconds > 0)
    chunks = _chunks(rows) if is_given else [rows]
    return sum(_execute(scope, inserts, given.parameters(scope.dialect, columns, chunk)) for chunk in chunks)


def _is_given(dialect: str) -> bool:
    """Return whether the INSERTs are given the endpoints, because they would lock what they read."""
    return dialect in dialects.LOCKS_WHAT_IT_READS


def _of_event(event_id: UUID, created_at: datetime) -> dict[str, Any]:
    head = delivery_ids.head(created_at)
    return {"event": event_id, "event_hex": event_id.hex, "head_of_id": head, "published_at": created_at}


def _fan_out(
    scope: TenantScope, inserts: Sequence[sa.Insert], values: Mapping[str, Any], found: subscriptions.Ids
) -> int:
    values = {"of_tenant": scope.tenant_id, **values}
    if not _is_given(scope.dialect.name):
        return _execute(scope, inserts, values)
    rows = (given.parameters(scope.dialect, _columns_of_ids(scope.tables), [(ids,)]) for ids in _portions(found))
    return sum(_execute(scope, inserts, {**values, **row}) for row in rows)


def _portions(ids: subscriptions.Ids) -> Iterator[subscriptions.Ids]:
    return (ids[start : start + MOST_GIVEN] for start in range(0, len(ids), MOST_GIVEN))


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield rows together that end with `MOST_GIVEN` ids at most."""
    chunk: list[Any] = []
    count = 0
    for row in rows:
        if chunk and count + len(row[-1]) > MOST_GIVEN:
            yield chunk
            chunk, count = [], 0
        chunk.append(row)
        count += len(row[-1])
    if chunk:
        yield chunk


def _execute(scope: Scope, inserts: Sequence[sa.Insert], values: Mapping[str, Any]) -> int:
    first, *others = inserts
    count = scope.execute(first, values).rowcount
    if count:
        for insert in others:
            scope.execute(insert, values)
        scope.wake_at_commit()
    return count


class _Source(NamedTuple):
    """Events as a statement reads them, and the endpoints of each."""

    rows: tuple[sa.FromClause, ...]
    """The rows that the statement is given: several events, and on MariaDB the endpoints of each."""
    endpoints: tuple[sa.FromClause, ...]
    """The table that the statement finds them in; none on MariaDB."""
    chosen: tuple[sa.ColumnElement[bool], ...]
    """The condition that finds them there."""
    endpoint: sa.ColumnElement[Any]
    tenant: sa.ColumnElement[Any]
    event: sa.ColumnElement[Any]
    event_text: sa.ColumnElement[Any]
    created_at: sa.ColumnElement[Any]
    due: sa.ColumnElement[Any]
    head_of_id: sa.ColumnElement[Any]


def _one(tables: Tables, dialect: str, chosen: sa.ColumnElement[bool]) -> _Source:
    """Return one event, whose values are parameters."""
    delivery, endpoint, text = tables.delivery, tables.endpoint, sa.String()
    is_given = _is_given(dialect)
    rows = given.rows_of(dialect, _columns_of_ids(tables)) if is_given else None
    return _Source(
        rows=() if rows is None else (rows,),
        endpoints=() if is_given else (endpoint,),
        chosen=() if is_given else (chosen,),
        endpoint=endpoint.c.id if rows is None else rows.c.endpoint,
        tenant=endpoint.c.tenant_id if rows is None else sa.bindparam("of_tenant", type_=endpoint.c.tenant_id.type),
        event=sa.bindparam("event", type_=delivery.c.event_id.type),
        event_text=sa.bindparam("event_hex", type_=text),
        created_at=sa.bindparam("published_at", type_=delivery.c.created_at.type),
        due=sa.bindparam("due", type_=tables.queue.c.due_at.type),
        head_of_id=sa.bindparam("head_of_id", type_=text),
    )


def _columns_of_ids(tables: Tables) -> given.Columns:
    return {"endpoint": given.Each(tables.endpoint.c.id.type)}


def _columns_of_events(tables: Tables, dialect: str, depth: int) -> given.Columns:
    event = tables.event
    return {
        "event": event.c.id.type,
        "tenant_id": event.c.tenant_id.type,
        "created_at": event.c.created_at.type,
        "due": event.c.created_at.type,
        "head_of_id": sa.Text(),
        **(_columns_of_ids(tables) if _is_given(dialect) else subscriptions.pattern_columns(depth)),
    }


@statement
def _active(tables: Tables, _dialect: str) -> sa.Select[Any]:
    # Read as committed, because another request may have paused or deleted the endpoint.
    return as_committed(sa.select(sa.type_coerce(tables.endpoint.c.id, sa.String)).where(*_is_active(tables)))


def _is_active(tables: Tables) -> tuple[sa.ColumnElement[bool], ...]:
    endpoint = tables.endpoint
    chosen = endpoint.c.tenant_id == sa.bindparam("of_tenant"), endpoint.c.id == sa.bindparam("of_id")
    return *chosen, endpoint.c.paused_at.is_(None)


@statement
def _to_wanting(tables: Tables, dialect: str, depth: int, *, delayed: bool) -> tuple[sa.Insert, ...]:
    return _inserts(tables, dialect, _one(tables, dialect, subscriptions.wanting_one(tables, depth)), delayed=delayed)


@statement
def _to_wanting_each(tables: Tables, dialect: str, depth: int, *, delayed: bool) -> tuple[sa.Insert, ...]:
    rows = given.rows_of(dialect, _columns_of_events(tables, dialect, depth))
    endpoint, is_given = tables.endpoint, _is_given(dialect)
    patterns = [] if is_given else [rows.c[name] for name in subscriptions.pattern_columns(depth)]
    source = _Source(
        rows=(rows,),
        endpoints=() if is_given else (endpoint,),
        chosen=() if is_given else (subscriptions.wanting(tables, rows.c.tenant_id, patterns),),
        endpoint=rows.c.endpoint if is_given else endpoint.c.id,
        tenant=rows.c.tenant_id if is_given else endpoint.c.tenant_id,
        event=rows.c.event,
        event_text=rows.c.event,
        created_at=rows.c.created_at,
        due=rows.c.due,
        head_of_id=rows.c.head_of_id,
    )
    return _inserts(tables, dialect, source, delayed=delayed)


@statement
def _to_active(tables: Tables, dialect: str) -> tuple[sa.Insert, ...]:
    return _inserts(tables, dialect, _one(tables, dialect, sa.and_(*_is_active(tables))), delayed=False)


def _inserts(tables: Tables, dialect: str, source: _Source, *, delayed: bool) -> tuple[sa.Insert, ...]:
    """Return what writes the deliveries to the chosen endpoints; the first counts them."""
    delivery, queue = tables.delivery, tables.queue
    made_id = delivery_ids.made(tables, source.head_of_id, source.event_text, source.endpoint)
    values = {
        delivery.c.id: made_id,
        delivery.c.tenant_id: source.tenant,
        delivery.c.event_id: source.event,
        delivery.c.endpoint_id: source.endpoint,
        **transitions.published(tables),
        delivery.c.created_at: source.created_at,
    }
    chosen = sa.select(*values.values()).select_from(*source.rows, *source.endpoints).where(*source.chosen)
    insert = sa.insert(delivery).from_select(list(values), chosen)
    state = transitions.queued(tables, source.due, delayed=delayed)

    def enqueue(*ids: sa.ColumnElement[Any], rows: Any, where: Sequence[sa.ColumnElement[bool]] = ()) -> sa.Insert:
        select = sa.select(*ids, *state.values()).select_from(*rows).where(*where)
        into = [queue.c.delivery_id, queue.c.tenant_id, queue.c.endpoint_id, *state]
        return sa.insert(queue).from_select(into, select)

    columns = delivery.c.id, delivery.c.tenant_id, delivery.c.endpoint_id
    if dialect in dialects.WRITES_IN_CTES:
        written = insert.returning(*columns, delivery.c.event_id).cte("written")
        where = [written.c.event_id == source.event] if source.rows else []
        of_written = written.c.id, written.c.tenant_id, written.c.endpoint_id
        inserts: tuple[sa.Insert, ...] = (enqueue(*of_written, rows=(*source.rows, written), where=where),)
    elif not _is_given(dialect):
        # Found by the range of their ids. Without a function around the event, SQLite would make an index of all the
        # log.
        of_event = sa.func.coalesce(delivery.c.event_id, sa.literal_column("''")) == source.event
        where = [*delivery_ids.begin_with(tables, source.head_of_id), of_event]
        inserts = insert, enqueue(*columns, rows=(*source.rows, delivery), where=where)
    else:
        # Made a second time, because what is read here would be locked, and the host's other transactions would wait.
        inserts = insert, enqueue(made_id, source.tenant, source.endpoint, rows=source.rows)
    # Without the option an INSERT may report -1 rows.
    return tuple(each.execution_options(preserve_rowcount=True) for each in inserts)
