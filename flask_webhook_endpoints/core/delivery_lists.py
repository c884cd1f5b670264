"""Lists of deliveries, newest first: to one endpoint of a tenant or to all of them, filtered.

A page costs the same whatever the log has. It takes candidates in the order of an index, and looks at `SCANNED` of them
at most, so that it may have few deliveries, or none, though more follow. Times of publication are ranges of ids, which
begin with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import deliveries, transitions
from flask_webhook_endpoints.core.deliveries import HELD, Delivery
from flask_webhook_endpoints.core.newest import Newest
from flask_webhook_endpoints.database import delivery_ids, dialects
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.database.tables import Tables

DEFAULT_PAGE = 50
"""The number of deliveries on a page, unless the caller names another."""

SCANNED = 2_000
"""The number of candidates that a page looks at."""

FEW = 1_000
"""The number of pending deliveries that are looked at first. Where more are pending, the newest of the log are."""

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
    """Where the next page begins; None: this is the last one."""


class _Candidates(NamedTuple):
    """The ids of deliveries to look at, in the order of an index."""

    id: sa.Column[Any]
    owner: str | None
    """The first column of the index; None: it is the primary key."""
    by_index: str
    """The index that has the order."""
    where: Sequence[sa.ColumnElement[bool]]
    dialect: str

    def select(self, limit: int, *, offset: int = 0) -> sa.Select[Any]:
        """Select ids, the newest first."""
        # With the owner, or PostgreSQL reads what is newer of all owners, where this owner has most of the table.
        order = [self.id.label("id")]
        if self.owner is not None:
            order.insert(0, self.id.table.c[self.owner].label("owner"))
        candidates: sa.Select[Any] = sa.select(*order).where(*self.where).offset(offset).limit(limit)
        candidates = candidates.order_by(*(each.element.desc() for each in order))
        # Of its own accord, MariaDB reads all that is newer than the page, or deliveries of other tenants.
        hinted: sa.Select[Any] = dialects.by_index(self.dialect, candidates, self.id.table, self.by_index)
        return hinted


def page(scope: TenantScope, chosen: Filter, *, limit: int, after: UUID | None = None) -> Page:
    """Return the chosen deliveries of the tenant that are older than `after`, newest first, `limit` at most."""
    candidates = _candidates(scope, chosen, after)
    # Nearly always, the first few are all that a page needs.
    for most in (limit + 1, SCANNED):
        found = _find(scope, chosen, candidates, most=most, limit=limit + 1)
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].id)
        last: Any = scope.execute(candidates.select(1, offset=most - 1)).one_or_none()
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


def _candidates(scope: TenantScope, chosen: Filter, after: UUID | None) -> _Candidates | Newest:
    tables, delivery, dialect = scope.tables, scope.tables.delivery, scope.dialect.name

    def among(
        id_: sa.Column[Any],
        index: str,
        *which: sa.ColumnElement[bool],
        owner: str | None = None,
    ) -> _Candidates:
        first, end = _range_of_ids(chosen.since, chosen.until, after)
        return _Candidates(id_, owner, index, (*which, id_ >= first, id_ < end), dialect)

    if chosen.delivery_id is not None:
        return among(delivery.c.id, "PRIMARY", delivery.c.id == chosen.delivery_id)
    if chosen.event_id is not None:
        return among(delivery.c.id, "PRIMARY", *_of_event(scope, chosen.event_id))
    owner = "tenant_id" if chosen.endpoint_id is None else "endpoint_id"
    if chosen.status in transitions.UNDELIVERED:
        undelivered = tables.undelivered
        which = *_owned(scope, undelivered, chosen), undelivered.c.status == chosen.status
        return among(undelivered.c.delivery_id, f"ix_webhook_undelivered_{owner}_status", *which, owner=owner)
    if chosen.status in (DeliveryStatus.PENDING, HELD) and (ids := _few_pending(scope, chosen)) is not None:
        return among(delivery.c.id, "PRIMARY", tables.among(dialect, delivery.c.id, "ids", ids))
    if chosen.endpoint_id is None and dialect in dialects.LATERAL:
        return Newest(scope, *_range_of_ids(chosen.since, chosen.until, after), at_once=SCANNED)
    return among(delivery.c.id, f"ix_webhook_delivery_{owner}_id", *_owned(scope, delivery, chosen), owner=owner)


def _range_of_ids(since: datetime | None, until: datetime | None, before: UUID | None = None) -> tuple[UUID, UUID]:
    """Return the first id of events published from `since` on, and the end of those before both others."""
    first = _FIRST if since is None else delivery_ids.first(since)
    end = _LAST if until is None else delivery_ids.first(until)
    return first, end if before is None else min(end, before)


def _few_pending(scope: TenantScope, chosen: Filter) -> Sequence[UUID] | None:
    """Return which deliveries are in the queue; None: more than `FEW`."""
    queue, parts = scope.tables.queue, []
    for state in QueueState:
        which = queue.c.state == transitions.constant(state), queue.c.tenant_id == scope.tenant_id
        theirs = sa.select(queue.c.delivery_id).where(*which, *_owned(scope, queue, chosen))
        if state is not QueueState.LEASED:
            # The order of the index that has all but leases, or PostgreSQL may read the queue of all tenants.
            theirs = theirs.order_by(queue.c.endpoint_id, queue.c.due_at)
        # A limit for each part, because MariaDB makes all of a union before it takes the first rows.
        parts.append(sa.select(theirs.limit(FEW + 1).subquery(f"few_{state.lower()}").c.delivery_id))
    ids = scope.execute(sa.union_all(*parts)).scalars().all()
    return ids if len(ids) <= FEW else None


def _of_event(scope: TenantScope, event_id: UUID) -> tuple[sa.ColumnElement[bool], ...]:
    event = scope.tables.event
    time = sa.select(event.c.created_at).where(event.c.id == event_id, event.c.tenant_id == scope.tenant_id)
    published_at = scope.execute(time).scalar_one_or_none()
    if published_at is None:
        return (sa.false(),)
    return (delivery_ids.of_events(scope.tables, {event_id: published_at}),)


def _owned(scope: TenantScope, table: sa.Table, chosen: Filter) -> tuple[sa.ColumnElement[bool], ...]:
    if chosen.endpoint_id is None:
        return (_is(scope, table.c.tenant_id, scope.tenant_id),)
    endpoint = scope.tables.endpoint
    # Asked once: nothing of another tenant's endpoint is looked at.
    is_theirs = sa.select(1).where(endpoint.c.id == chosen.endpoint_id, endpoint.c.tenant_id == scope.tenant_id)
    return _is(scope, table.c.endpoint_id, chosen.endpoint_id), is_theirs.exists()


def _is(scope: TenantScope, owner: sa.Column[Any], value: UUID | str) -> sa.ColumnElement[bool]:
    # The queue's index has the state first: before version 17, PostgreSQL would sort what ANY finds in it.
    if owner.table is scope.tables.queue:
        return owner == value
    return scope.tables.is_one(scope.dialect.name, owner, sa.literal(value, owner.type))


def _find(
    scope: TenantScope, chosen: Filter, candidates: _Candidates | Newest, *, most: int, limit: int
) -> list[Delivery]:
    """Return those of so many candidates that the filter lets pass and whose endpoint the tenant has."""
    delivery, event, endpoint, queue = (
        scope.tables.delivery,
        scope.tables.event,
        scope.tables.endpoint,
        scope.tables.queue,
    )
    looked = candidates.select(most).subquery("looked")
    # The whole order of the index: by the id alone, PostgreSQL would join all candidates before it sorts them.
    newest = [each.desc() for each in looked.c]
    through = looked.join(delivery, delivery.c.id == looked.c.id)
    # An outer join, or PostgreSQL may begin with the few paused endpoints, and read all deliveries to them.
    through = through.outerjoin(endpoint, endpoint.c.id == delivery.c.endpoint_id)
    of_queue = through.outerjoin(queue, queue.c.delivery_id == delivery.c.id)
    of_event = of_queue.join(event, event.c.id == delivery.c.event_id)
    found = sa.select(*deliveries.shown_columns(scope.tables)).select_from(of_event)
    is_theirs = sa.func.coalesce(endpoint.c.tenant_id, "") == scope.tenant_id
    found = dialects.in_order(scope.dialect.name, found.where(is_theirs, *_conditions(scope.tables, chosen)))
    rows = scope.execute(found.order_by(*newest).limit(limit)).all()
    return [Delivery._make(row) for row in rows]


def _conditions(tables: Tables, chosen: Filter) -> list[sa.ColumnElement[bool]]:
    conditions = []
    if chosen.endpoint_id is not None:
        conditions.append(tables.delivery.c.endpoint_id == chosen.endpoint_id)
    if chosen.event_type is not None:
        conditions.append(is_of_type(tables.event, chosen.event_type))
    if chosen.status in (DeliveryStatus.PENDING, HELD):
        conditions.append(deliveries.shown_status(tables) == chosen.status)
    elif chosen.status is not None:
        conditions.append(tables.delivery.c.status == chosen.status)
    return conditions
