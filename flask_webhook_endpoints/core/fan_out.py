"""The fan-out of an event: a delivery to each endpoint that gets it, in the log and in the queue.

The database makes the ids and the rows, so that an event costs as many statements for a thousand endpoints as for one.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from flask_webhook_endpoints.core import transitions
from flask_webhook_endpoints.database.scope import TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables

_EPOCH = datetime.fromtimestamp(0, UTC)


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


def _fan_out(
    scope: TenantScope, inserts: tuple[sa.Insert, ...], event_id: UUID, created_at: datetime, chosen: Mapping[str, Any]
) -> int:
    of_event = {"event": event_id, "event_hex": event_id.hex, "head_of_id": _head_of_id(created_at)}
    values = {**chosen, **of_event, "published_at": created_at}
    first, *others = inserts
    count = scope.execute(first, values).rowcount
    if count:
        for insert in others:
            scope.execute(insert, values)
        scope.wake_at_commit()
    return count


def wanting(tables: Tables, patterns: int) -> sa.ColumnElement[bool]:
    """Return whether an endpoint of the tenant wants an event whose type matches so many patterns."""
    endpoint = tables.endpoint
    names = sa.type_coerce(endpoint.c.event_types, sa.Text)
    given = [sa.bindparam(f"pattern_{number}", type_=sa.Text()) for number in range(patterns)]
    # REPLACE compares exactly on every database; LIKE ignores case on some.
    wanted = [sa.func.replace(names, pattern, sa.literal_column("''")) != names for pattern in given]
    of_tenant = endpoint.c.tenant_id == sa.bindparam("of_tenant")
    return sa.and_(of_tenant, sa.or_(endpoint.c.event_types.is_(None), *wanted))


@statement
def _to_wanting(tables: Tables, dialect: str, patterns: int, *, delayed: bool) -> tuple[sa.Insert, ...]:
    return _inserts(tables, dialect, wanting(tables, patterns), delayed=delayed)


@statement
def _to_active(tables: Tables, dialect: str) -> tuple[sa.Insert, ...]:
    endpoint = tables.endpoint
    chosen = (endpoint.c.tenant_id == sa.bindparam("of_tenant"), endpoint.c.id == sa.bindparam("of_id"))
    return _inserts(tables, dialect, sa.and_(*chosen, endpoint.c.paused_at.is_(None)), delayed=False)


def _inserts(tables: Tables, dialect: str, chosen: sa.ColumnElement[bool], *, delayed: bool) -> tuple[sa.Insert, ...]:
    """Return what writes the deliveries to the chosen endpoints; the first counts them."""
    endpoint, delivery, queue = tables.endpoint, tables.delivery, tables.queue
    made_id = _DeliveryId(
        sa.bindparam("head_of_id", type_=sa.String()), sa.bindparam("event_hex", type_=sa.String()), endpoint.c.id
    )
    values = {
        delivery.c.id: sa.type_coerce(made_id, delivery.c.id.type),
        delivery.c.tenant_id: endpoint.c.tenant_id,
        delivery.c.event_id: sa.bindparam("event", type_=delivery.c.event_id.type),
        delivery.c.endpoint_id: endpoint.c.id,
        **transitions.published(tables),
        delivery.c.created_at: sa.bindparam("published_at", type_=delivery.c.created_at.type),
    }
    insert = sa.insert(delivery).from_select(list(values), sa.select(*values.values()).where(chosen))
    into = queue.c.delivery_id, queue.c.tenant_id, queue.c.endpoint_id, queue.c.event_id
    state = transitions.queued(tables, delayed=delayed)

    def enqueue(rows: Any, *where: sa.ColumnElement[bool]) -> sa.Insert:
        columns = rows.c.id, rows.c.tenant_id, rows.c.endpoint_id, rows.c.event_id
        return sa.insert(queue).from_select([*into, *state], sa.select(*columns, *state.values()).where(*where))

    if dialect == "postgresql":
        written = insert.returning(delivery.c.id, delivery.c.tenant_id, delivery.c.endpoint_id, delivery.c.event_id)
        inserts: tuple[sa.Insert, ...] = (enqueue(written.cte("written")),)
    elif dialect == "sqlite":
        inserts = insert, enqueue(delivery, delivery.c.event_id == sa.bindparam("event"))
    else:
        # By their ids, because a range of them would be locked, and the host's other transactions would wait.
        inserts = insert, enqueue(delivery, delivery.c.id == sa.type_coerce(made_id, delivery.c.id.type), chosen)
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


def last_id(moment: datetime) -> UUID:
    """Return the last id that a delivery of an event of this time may have."""
    return UUID(f"{_head_of_id(moment)}{'f' * 15}")


def _head_of_id(moment: datetime) -> str:
    """Return the first 17 digits of a UUIDv7: the time, to the microsecond (RFC 9562 section 6.2, method 3)."""
    milliseconds, microseconds = divmod((moment - _EPOCH) // timedelta(microseconds=1), 1000)
    return f"{milliseconds:012x}7{microseconds * 4096 // 1000:03x}8"
