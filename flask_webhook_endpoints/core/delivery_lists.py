"""Lists of deliveries, newest first: to one endpoint of a tenant or to all of them, filtered.

A page costs the same whatever the log has. It takes candidates in the order of an index, and looks at `SCANNED` of them
at most, so that it may have few deliveries, or none, though more follow. Times of publication are ranges of ids, which
begin with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import deliveries, transitions
from flask_webhook_endpoints.core.deliveries import HELD, Delivery
from flask_webhook_endpoints.core.newest import Newest
from flask_webhook_endpoints.database import delivery_ids, dialects
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState
from flask_webhook_endpoints.database.scope import TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables

DEFAULT_PAGE = 50
"""The number of deliveries on a page, unless the caller names another."""

SCANNED = 2_000
"""The number of candidates that a page looks at."""

FEW = 1_000
"""A list finds up to so many pending deliveries in the queue. If there are more, it reads the log."""

_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """The deliveries of a list; None lets all pass."""

    endpoint_id: UUID | None = None
    status: str | None = None
    """A `DeliveryStatus`, or `HELD`."""
    event_type: str | None = None
    """A name, or `prefix.*`."""
    event_id: UUID | None = None
    delivery_id: UUID | None = None
    since: datetime | None = None
    """Published at this time or later."""
    until: datetime | None = None
    """Published before this time."""


class Page(NamedTuple):
    """A page of a list."""

    deliveries: Sequence[Delivery]
    cursor: UUID | None
    """The cursor of the next page. None: this is the last one."""


class _Source(Enum):
    """The source of the ids of deliveries that a list looks at, in the order of an index."""

    GIVEN = auto()
    """The ids are known before."""
    EVENT = auto()
    UNDELIVERED = auto()
    NEWEST = auto()
    """`Newest` reads them."""
    LOG = auto()


class _Shape(NamedTuple):
    """The choices that decide the text of a list's statements. All other values are parameters."""

    source: _Source
    of_endpoint: bool
    """The list is of one endpoint, and not of all of the tenant."""
    status: str | None


class _Candidates(NamedTuple):
    """The deliveries to look at, the newest first."""

    source: _Source
    values: Mapping[str, Any]
    """The parameters that find them."""
    newest: Newest | None = None

    def parameters(self, limit: int, *, offset: int = 0) -> dict[str, Any]:
        """Return the parameters of a statement that looks at so many of them."""
        ids = {} if self.newest is None else {"ids": self.newest.ids(limit, offset=offset)}
        return {**self.values, **ids, "looked_at": limit, "passed_by": offset}


def page(scope: TenantScope, chosen: Filter, *, limit: int, after: UUID | None = None) -> Page:
    """Return the chosen deliveries of the tenant that are older than `after`, newest first, `limit` at most."""
    candidates = _candidates(scope, chosen, after)
    shape = _Shape(candidates.source, chosen.endpoint_id is not None, chosen.status)
    ids = _ids(scope, shape)
    select = _found(scope, shape, ids)
    if chosen.event_type is not None:
        select = select.where(is_of_type(scope.tables.event, chosen.event_type))
    # Nearly always, the first few are all that a page needs.
    for most in (limit + 1, SCANNED):
        rows = scope.execute(select, {**candidates.parameters(most), "shown": limit + 1}).all()
        found = [Delivery._make(row) for row in rows]
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].id)
        last: Any = scope.execute(ids, candidates.parameters(1, offset=most - 1)).one_or_none()
        if last is None:
            return Page(found, None)
    return Page(found, last.id)


def page_of(scope: TenantScope, endpoint_id: UUID, chosen: Filter, *, limit: int, after: UUID | None = None) -> Page:
    """Return a page of the deliveries to one endpoint; raise `UnknownEndpoint`."""
    found = page(scope, chosen, limit=limit, after=after)
    if not found.deliveries:
        deliveries.is_paused(scope, endpoint_id)
    return found


def endpoint_names(scope: TenantScope, found: Page) -> dict[UUID, str]:
    """Return the name of each endpoint that a page has deliveries to."""
    ids = {each.endpoint_id for each in found.deliveries}
    if not ids:
        return {}
    endpoint = scope.tables.endpoint
    names = sa.select(endpoint.c.id, endpoint.c.name).where(
        endpoint.c.tenant_id == scope.tenant_id, endpoint.c.id.in_(ids)
    )
    return {row.id: row.name for row in scope.execute(names)}


def ids_between(
    id_: sa.Column[Any], since: datetime | None, until: datetime | None
) -> tuple[sa.ColumnElement[bool], ...]:
    """Return which ids are of events that were published from `since` on and before `until`."""
    first, end = _range_of_ids(since, until)
    return id_ >= first, id_ < end


def is_of_type(event: sa.Table, pattern: str) -> sa.ColumnElement[bool]:
    """Return whether an event has the type, or for `prefix.*` one that begins with `prefix.`."""
    text = pattern.removesuffix("*")
    # REPLACE compares exactly on every database; `=` and LIKE ignore case on some.
    begins = sa.func.replace(sa.func.substr(event.c.type, 1, len(text)), text, "") == ""
    is_as_long = sa.func.length(event.c.type)
    return sa.and_(begins, is_as_long > len(text) if text != pattern else is_as_long == len(text))


def _candidates(scope: TenantScope, chosen: Filter, after: UUID | None) -> _Candidates:
    first, end = _range_of_ids(chosen.since, chosen.until, after)
    values = {"of_tenant": scope.tenant_id, "of_endpoint": chosen.endpoint_id, "first": first, "end": end}
    if chosen.delivery_id is not None:
        return _Candidates(_Source.GIVEN, {**values, "ids": [chosen.delivery_id]})
    if chosen.event_id is not None:
        return _of_event(scope, chosen.event_id, values)
    if chosen.status in transitions.UNDELIVERED:
        return _Candidates(_Source.UNDELIVERED, values)
    if chosen.status in (DeliveryStatus.PENDING, HELD):
        ids = scope.execute(_pending(scope, of_endpoint=chosen.endpoint_id is not None), values).scalars().all()
        if len(ids) <= FEW:
            return _Candidates(_Source.GIVEN, {**values, "ids": ids})
    if chosen.endpoint_id is None and scope.dialect.name in dialects.LATERAL:
        return _Candidates(_Source.NEWEST, values, Newest(scope, first, end, at_once=SCANNED))
    return _Candidates(_Source.LOG, values)


def _range_of_ids(since: datetime | None, until: datetime | None, before: UUID | None = None) -> tuple[UUID, UUID]:
    """Return the first id, by `since`, and the id before which a list ends, by `until` and `before`."""
    first = _FIRST if since is None else delivery_ids.first(since)
    end = _LAST if until is None else delivery_ids.first(until)
    return first, end if before is None else min(end, before)


def _of_event(scope: TenantScope, event_id: UUID, values: Mapping[str, Any]) -> _Candidates:
    event = scope.tables.event
    time = sa.select(event.c.created_at).where(event.c.id == event_id, event.c.tenant_id == scope.tenant_id)
    published_at = scope.execute(time).scalar_one_or_none()
    if published_at is None:
        return _Candidates(_Source.GIVEN, {**values, "ids": []})
    return _Candidates(_Source.EVENT, {**values, **delivery_ids.parameters(event_id, published_at)})


@statement
def _pending(tables: Tables, dialect: str, *, of_endpoint: bool) -> Any:
    """Select the deliveries in the queue, or more than `FEW` of them."""
    queue, parts = tables.queue, []
    for state in QueueState:
        which = queue.c.state == transitions.constant(state), queue.c.tenant_id == sa.bindparam("of_tenant")
        theirs = sa.select(queue.c.delivery_id).where(*which, *_owned(tables, dialect, queue, of_endpoint=of_endpoint))
        if state is not QueueState.LEASED:
            # The order of the index that has all but leases, or PostgreSQL may read the queue of all tenants.
            theirs = theirs.order_by(queue.c.endpoint_id, queue.c.due_at)
        # A limit for each part, because MariaDB makes all of a union before it takes the first rows.
        parts.append(sa.select(theirs.limit(FEW + 1).subquery(f"few_{state.lower()}").c.delivery_id))
    return sa.union_all(*parts)


def _owned(tables: Tables, dialect: str, table: sa.Table, *, of_endpoint: bool) -> tuple[sa.ColumnElement[bool], ...]:
    if not of_endpoint:
        return (_is(tables, dialect, table.c.tenant_id, "of_tenant"),)
    # Asked once: nothing of another tenant's endpoint is looked at.
    is_theirs = sa.select(1).where(*deliveries.of_endpoint(tables))
    return _is(tables, dialect, table.c.endpoint_id, "of_endpoint"), is_theirs.exists()


def _is(tables: Tables, dialect: str, owner: sa.Column[Any], parameter: str) -> sa.ColumnElement[bool]:
    value = sa.bindparam(parameter, type_=owner.type)
    # The queue's index has the state first: before version 17, PostgreSQL would sort what ANY finds in it.
    return owner == value if owner.table is tables.queue else tables.is_one(dialect, owner, value)


@statement
def _ids(tables: Tables, dialect: str, shape: _Shape) -> sa.Select[Any]:
    """Select the ids of deliveries to look at, the newest first."""
    id_, of_endpoint = tables.delivery.c.id, shape.of_endpoint
    owner = "endpoint_id" if of_endpoint else "tenant_id"
    match shape.source:
        case _Source.EVENT:
            return _newest(dialect, id_, delivery_ids.of_event(tables))
        case _Source.GIVEN:
            return _newest(dialect, id_, tables.among(dialect, id_, "ids"))
        case _Source.NEWEST:
            return sa.select(id_).where(tables.among(dialect, id_, "ids")).order_by(id_.desc())
        case _Source.UNDELIVERED:
            undelivered, index = tables.undelivered, f"ix_webhook_undelivered_{owner}_status"
            owned = _owned(tables, dialect, undelivered, of_endpoint=of_endpoint)
            which = *owned, undelivered.c.status == shape.status
            return _newest(dialect, undelivered.c.delivery_id, *which, owner=owner, index=index)
        case _Source.LOG:
            owned = _owned(tables, dialect, tables.delivery, of_endpoint=of_endpoint)
            return _newest(dialect, id_, *owned, owner=owner, index=f"ix_webhook_delivery_{owner}_id")


def _newest(
    dialect: str, id_: sa.Column[Any], *which: sa.ColumnElement[bool], owner: str | None = None, index: str = "PRIMARY"
) -> sa.Select[Any]:
    """Select ids in the order of an index, whose first column is `owner` unless it is the primary key."""
    order = [id_.label("id")]
    # Order by the owner, too, or PostgreSQL reads newer rows of all owners, if this owner has most of the table.
    if owner is not None:
        order.insert(0, id_.table.c[owner].label("owner"))
    within = id_ >= sa.bindparam("first"), id_ < sa.bindparam("end")
    candidates: sa.Select[Any] = sa.select(*order).where(*which, *within)
    candidates = candidates.offset(sa.bindparam("passed_by", type_=sa.Integer)).limit(
        sa.bindparam("looked_at", type_=sa.Integer)
    )
    candidates = candidates.order_by(*(each.element.desc() for each in order))
    # Of its own accord, MariaDB reads all that is newer than the page, or deliveries of other tenants.
    hinted: sa.Select[Any] = dialects.by_index(dialect, candidates, id_.table, index)
    return hinted


@statement
def _found(tables: Tables, dialect: str, shape: _Shape, ids: sa.Select[Any]) -> sa.Select[Any]:
    """Select those of these ids that the status lets pass and whose endpoint the tenant has."""
    delivery, event, endpoint, queue = tables.delivery, tables.event, tables.endpoint, tables.queue
    looked = ids.subquery("looked")
    # The whole order of the index: by the id alone, PostgreSQL would join all candidates before it sorts them.
    newest = [each.desc() for each in looked.c]
    through = looked.join(delivery, delivery.c.id == looked.c.id)
    # An outer join, or PostgreSQL may begin with the few paused endpoints, and read all deliveries to them.
    through = through.outerjoin(endpoint, endpoint.c.id == delivery.c.endpoint_id)
    of_queue = through.outerjoin(queue, queue.c.delivery_id == delivery.c.id)
    of_event = of_queue.join(event, event.c.id == delivery.c.event_id)
    found = sa.select(*deliveries.shown_columns(tables)).select_from(of_event)
    is_theirs = sa.func.coalesce(endpoint.c.tenant_id, sa.literal_column("''")) == sa.bindparam("of_tenant")
    found = dialects.in_order(dialect, found.where(is_theirs, *_conditions(tables, shape)))
    shown: sa.Select[Any] = found.order_by(*newest).limit(sa.bindparam("shown", type_=sa.Integer))
    return shown


def _conditions(tables: Tables, shape: _Shape) -> list[sa.ColumnElement[bool]]:
    conditions = []
    if shape.of_endpoint:
        conditions.append(tables.delivery.c.endpoint_id == sa.bindparam("of_endpoint"))
    if shape.status in (DeliveryStatus.PENDING, HELD):
        conditions.append(deliveries.shown_status(tables) == shape.status)
    elif shape.status is not None:
        conditions.append(tables.delivery.c.status == shape.status)
    return conditions
