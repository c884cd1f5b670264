"""Ids of deliveries, which the database makes: they begin with the time of their event.

So the log needs no index of times or of events.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.tables import Tables

_AFTER_HEX: sa.ColumnElement[Any] = sa.literal_column("'g'")
"""A character that comes after all that ids have."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


def head(moment: datetime) -> str:
    """Return the first 17 digits of a UUIDv7: the time, to the microsecond (RFC 9562 section 6.2, method 3)."""
    milliseconds, microseconds = divmod((moment - _EPOCH) // _MICROSECOND, 1000)
    return f"{milliseconds:012x}7{microseconds * 4096 // 1000:03x}8"


def made(
    tables: Tables, head: sa.ColumnElement[Any], event_id: sa.ColumnElement[Any], endpoint_id: sa.ColumnElement[Any]
) -> sa.ColumnElement[Any]:
    """Return the SQL that makes a UUIDv7 with this head, and the rest from both ids or at random."""
    return sa.type_coerce(_Made(head, event_id, endpoint_id), tables.delivery.c.id.type)


class _Made(FunctionElement[Any]):
    inherit_cache = True
    name = "delivery_id"


@compiles(_Made)
def _make(element: Any, compiler: Any, **options: Any) -> str:
    head, event_id, endpoint_id = (compiler.process(clause, **options) for clause in element.clauses)
    if compiler.dialect.name == dialects.SQLITE:
        return f"{head} || SUBSTR(LOWER(HEX(RANDOMBLOB(16))), 18)"
    # MD5 only spreads what is unique already; no security depends on it.
    made = f"CONCAT({head}, SUBSTR(MD5(CONCAT({event_id}, {endpoint_id})), 18))"
    if compiler.dialect.name == dialects.POSTGRESQL:
        return f"CAST({made} AS uuid)"
    # Text in ASCII compares with an id in any character set that a database may have, such as MariaDB's own latin1.
    return f"CONVERT({made} USING ascii)"


def begin_with(tables: Tables, head: sa.ColumnElement[Any]) -> tuple[sa.ColumnElement[bool], ...]:
    """Return which deliveries have ids with this head, where ids are text."""
    text = sa.type_coerce(tables.delivery.c.id, sa.String)
    return text > head, text < head.concat(_AFTER_HEX)


def of_events(tables: Tables, events: Mapping[UUID, datetime]) -> sa.ColumnElement[bool]:
    """Return which deliveries are of these events, each given with its time."""
    delivery = tables.delivery
    ranges = [delivery.c.id.between(first(moment), last(moment)) for moment in sorted(set(events.values()))]
    return sa.and_(sa.or_(*ranges), delivery.c.event_id.in_(list(events)))


def of_event(tables: Tables) -> sa.ColumnElement[bool]:
    """Return which deliveries are of one event, by the parameters that `parameters` returns."""
    id_, event_id = tables.delivery.c.id, tables.delivery.c.event_id
    begin, end = (sa.bindparam(name, type_=id_.type) for name in ("first_of_event", "last_of_event"))
    return sa.and_(id_.between(begin, end), event_id == sa.bindparam("of_event"))


def parameters(event_id: UUID, moment: datetime) -> dict[str, UUID]:
    """Return the parameters of `of_event` for an event of this time."""
    return {"of_event": event_id, "first_of_event": first(moment), "last_of_event": last(moment)}


def first(moment: datetime) -> UUID:
    """Return the first id that a delivery of an event of this time may have. Before 1970, it is the first of all."""
    return UUID(f"{head(max(moment, _EPOCH))}{'0' * 15}")


def last(moment: datetime) -> UUID:
    """Return the last id that a delivery of an event of this time may have."""
    return UUID(f"{head(moment)}{'f' * 15}")
