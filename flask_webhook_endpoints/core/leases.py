"""Leases: a worker claims deliveries for one attempt each, and gives back those that it does not attempt.

A claim and its record are two transactions with the network between them. A lease says which worker may record, and it
ends by itself where that worker dies.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from flask_webhook_endpoints.core import queue, receivers, transitions, turns
from flask_webhook_endpoints.core.marks import Marks
from flask_webhook_endpoints.core.places import Places
from flask_webhook_endpoints.core.results import Claimed
from flask_webhook_endpoints.core.room import Room, fitting
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.core.turns import Next
from flask_webhook_endpoints.database import dialects, plans
from flask_webhook_endpoints.database.models import QueueState
from flask_webhook_endpoints.database.scope import Scope, make, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.identifiers import format_id

LEASE_MARGIN_SECONDS = 30
"""Seconds that a lease lasts beyond the longest timeout: for the record, and for clocks that differ."""


_CLAIMS_LOCK = 0x77656268
"""The first half of PostgreSQL's advisory lock of claims; the second one is the table of the queue."""


class Left(Enum):
    """A claim's word on what is left, by which its worker decides when to claim again."""

    NOTHING = "nothing"
    """Nothing else was due: room for more is no reason to claim again."""
    DUE = "due"
    """More may be due than there was room for."""
    MOVED = "moved"
    """The claim moved some deliveries out of its way; more may be due after them."""
    CONTENDED = "contended"
    """Another worker claims, or has claimed some of them first; more may be due after them."""


class Claim(NamedTuple):
    """The deliveries that a worker got by one claim."""

    deliveries: Sequence[Claimed]
    left: Left = Left.DUE


class _Lease(NamedTuple):
    """A leased delivery: the first fields of `Claimed`."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    """The delivery's own id, which no event has, if the log lacks the delivery."""
    attempt: int
    counted: int
    tenant_id: str


def claim(
    scope: Scope,
    owner: UUID,
    *,
    most: int,
    cap: int,
    max_timeout_seconds: int,
    room: Room | None = None,
    places: Places | None = None,
    marks: Marks | None = None,
    alone: bool = True,
) -> Claim:
    """Lease up to `most` due deliveries of active endpoints with fewer than `cap` in flight, as `turns.choose` does.

    With `room`, deliveries whose bodies do not fit into it stay due. `marks` are the worker's, from claim to claim.
    With `alone` it claims nothing while another worker claims: together they could pass a cap, because neither sees
    what the other one is about to lease.
    """
    if not _may_begin(scope, alone=alone):
        return Claim([], Left.CONTENDED)
    # Write first (SQLite).
    queue.make_ready(scope, marks)
    shortest = timedelta(seconds=LEASE_MARGIN_SECONDS)
    following = turns.choose(scope, most=most, cap=cap, shortest_lease=shortest, places=places, marks=marks)
    chosen = following.delivery_ids
    if chosen and room is not None:
        chosen = fitting(scope, chosen, room)
    lasting = timedelta(seconds=max_timeout_seconds + LEASE_MARGIN_SECONDS)
    leased = _lease(scope, owner, chosen, lasting) if chosen else []
    loaded, held_since = _load(scope, leased) if leased else ([], {})
    if abandons := len(loaded) < len(leased):
        ids = {lease.id for lease in leased} - {claimed.id for claimed in loaded}
        end(scope, owner, Transition.ABANDONED, ids)
    released = _release(scope, held_since, following, marks)
    if following.moved or abandons:
        return Claim(loaded, Left.MOVED)
    if len(leased) < len(chosen):
        return Claim(loaded, Left.CONTENDED)
    is_more_due = following.left or released or len(chosen) < len(following.delivery_ids)
    return Claim(loaded, Left.DUE if is_more_due else Left.NOTHING)


def _release(
    scope: Scope, held_since: Mapping[tuple[str, UUID], datetime], following: Next, marks: Marks | None
) -> bool:
    """Make ready held deliveries of the endpoints that this claim has taken some of. Return whether there were any."""
    # Only if fewer ready ones are due before them than two claims take, so that they never block other endpoints.
    released = sorted(
        each
        for each, since in held_since.items()
        if each[1] not in following.resting and since <= following.plenty.get(each[1], since)
    )
    queue.release(scope, released)
    if released and marks is not None:
        marks.released(min(held_since[each] for each in released))
    return bool(released)


def _may_begin(scope: Scope, *, alone: bool) -> bool:
    """Return whether a claim may go on: if `alone`, only if no other worker claims.

    Then no other claim begins before this transaction ends. From here on, PostgreSQL's planner trusts indexes.
    """
    if not alone:
        plans.trust_indexes(scope)
        return True
    match scope.dialect.name:
        case dialects.SQLITE:
            # SQLite has one writer at a time.
            return True
        case dialects.POSTGRESQL:
            return bool(scope.execute(_lock_claims(scope), {"queue": scope.name_of(scope.tables.queue)}).scalar_one())
        case _:
            # Each claim locks the row of the worker that began first. SKIP LOCKED finds no row if another claim has it.
            worker = scope.tables.worker
            first = scope.execute(sa.select(sa.func.min(worker.c.id))).scalar_one()
            lock = sa.select(worker.c.id).where(worker.c.id == first).with_for_update(skip_locked=True)
            return first is None or scope.execute(lock).first() is not None


@statement
def _lock_claims(_tables: Tables, _dialect: str) -> sa.Select[Any]:
    name = sa.bindparam("queue", type_=sa.Text())
    table = sa.cast(sa.cast(sa.cast(name, postgresql.REGCLASS), postgresql.OID), sa.Integer)
    return sa.select(sa.func.pg_try_advisory_xact_lock(_CLAIMS_LOCK, table), *plans.trusting_indexes())


def give_back(scope: Scope, owner: UUID, deliveries: Collection[Claimed]) -> None:
    """Return leased deliveries whose attempt the worker did not begin or did not finish; it does not count."""
    ids = [claimed.id for claimed in deliveries]
    scope.execute(_give_back(scope), {"ids": ids, "owner": owner, "due": scope.now})


def end(scope: Scope, owner: UUID, transition: Transition, ids: Collection[UUID]) -> Collection[UUID]:
    """Take leased deliveries out of the queue; return those whose lease the worker still had."""
    values = {"ids": list(ids), "owner": owner, "now": scope.now}
    if scope.dialect.name in dialects.RETURNING:
        ended: Collection[UUID] = scope.execute(_end(scope, transition), values).scalars().all()
    else:
        ended = still_leased(scope, owner, ids)
        scope.execute(_end(scope, transition), {**values, "ids": ended})
    if transition is Transition.ABANDONED and ended:
        log = transitions.log(scope.tables, transition, scope.tables.delivery.c.id.in_(ended))
        scope.execute(log, {"now": scope.now})
        transitions.note_undelivered(scope, ended)
    return ended


def still_leased(scope: Scope, owner: UUID, ids: Collection[UUID]) -> set[UUID]:
    """Lock those of the deliveries that the worker still has leased, and return them."""
    return set(scope.execute(_lock_leased(scope), {"ids": list(ids), "owner": owner}).scalars().all())


def _lease(scope: Scope, owner: UUID, chosen: Sequence[UUID], lasting: timedelta) -> list[_Lease]:
    """Lease those of the chosen deliveries that no other worker has claimed; return them in the same order."""
    free, rows = {"ids": chosen, "now": scope.now}, cast(Sequence[Any], ())
    lease = {"lease_until": scope.now + lasting, "owner": owner}
    if scope.dialect.name in dialects.RETURNING:
        rows = scope.read(_lease_free(scope), {**free, **lease})
    elif ids := scope.execute(_free(scope), free).scalars().all():
        scope.execute(_lease_locked(scope), {"ids": ids, **lease})
        rows = scope.read(_leased(scope), {"ids": ids})
    # By their numbers, because Python hashes UUIDs slowly.
    leases = {lease.id.int: lease for lease in make(_Lease, rows)}
    return [leases[delivery_id.int] for delivery_id in chosen if delivery_id.int in leases]


def _load(scope: Scope, leased: Sequence[_Lease]) -> tuple[list[Claimed], dict[tuple[str, UUID], datetime]]:
    """Add events and receivers to leases, each read once. Leave out leases whose event or endpoint was deleted.

    Beside them, return the tenants and endpoints that have held deliveries, too, and since when the first is due.
    """
    # By their numbers, because Python hashes and compares UUIDs slowly, some of them for each delivery.
    event_ids = {lease.event_id.int: lease.event_id for lease in leased}
    tenants = {lease.endpoint_id.int: (lease.tenant_id, lease.endpoint_id) for lease in leased}
    found = scope.read(_events(scope), {"ids": event_ids.values()})
    events = {event_id.int: (*event, format_id(event_id, "evt")) for event_id, *event in found}
    given, held_since = receivers.load(scope, [endpoint_id for _, endpoint_id in tenants.values()])
    claimed = [
        (*lease, *event, *receiver)
        for lease in leased
        if (event := events.get(lease.event_id.int)) is not None
        and (receiver := given.get(lease.endpoint_id.int)) is not None
    ]
    return make(Claimed, claimed), {tenants[number]: since for number, since in held_since.items()}


def of_owner(tables: Tables, dialect: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Return which rows of the queue are leased by the worker `owner`, among `ids`."""
    queue = tables.queue
    return (
        tables.among(dialect, queue.c.delivery_id, "ids"),
        queue.c.lease_owner == sa.bindparam("owner"),
        sa.func.coalesce(queue.c.state, sa.literal_column("''")) == transitions.constant(QueueState.LEASED),
    )


@statement
def _give_back(tables: Tables, dialect: str) -> sa.Update:
    return transitions.move(tables, Transition.GIVEN_BACK, *of_owner(tables, dialect))


@statement
def _end(tables: Tables, dialect: str, transition: Transition) -> Any:
    ended = transitions.leave(tables, transition, *of_owner(tables, dialect))
    return ended.returning(tables.queue.c.delivery_id) if dialect in dialects.RETURNING else ended


@statement
def _lock_leased(tables: Tables, dialect: str) -> sa.Select[Any]:
    leased = sa.select(tables.queue.c.delivery_id).where(*of_owner(tables, dialect))
    return dialects.by_key(leased, tables.queue).with_for_update()


def _select_free(tables: Tables, dialect: str) -> sa.Select[Any]:
    """Select and lock those of the chosen deliveries that no other transaction has locked."""
    free = sa.select(tables.queue.c.delivery_id).where(*_is_free(tables, dialect))
    return dialects.by_key(free, tables.queue).with_for_update(skip_locked=True)


def _is_free(tables: Tables, dialect: str) -> tuple[sa.ColumnElement[bool], ...]:
    queue = tables.queue
    # Since it was chosen, another worker may have attempted the delivery and put it off.
    is_ready = transitions.is_source(tables, Transition.CLAIMED, by_index=False)
    now = sa.bindparam("now", type_=queue.c.due_at.type)
    # `coalesce` keeps the planner from an index of the time, because all of a backlog is due.
    return tables.among(dialect, queue.c.delivery_id, "ids"), is_ready, sa.func.coalesce(queue.c.due_at, now) <= now


_free = statement(_select_free)


@statement
def _lease_free(tables: Tables, dialect: str) -> Any:
    free, delivery_id = _select_free(tables, dialect), tables.queue.c.delivery_id
    if dialect in dialects.ONE_WRITER:
        which: sa.ColumnElement[bool] = delivery_id.in_(free)
    else:
        # To lock a row writes as much ahead as to delete it. So lock only rows that another transaction has locked
        # before, which PostgreSQL notes in `xmax`. In a common table expression, which it runs once.
        before = sa.literal_column("xmax", sa.Integer) != 0
        locked = free.where(before).cte("locked")
        is_locked = tables.found(dialect, delivery_id, sa.select(locked.c.delivery_id))
        which = sa.and_(*_is_free(tables, dialect), sa.or_(~before, is_locked))
    return transitions.move(tables, Transition.CLAIMED, which).returning(*_of_lease(tables))


@statement
def _lease_locked(tables: Tables, dialect: str) -> sa.Update:
    among = tables.among(dialect, tables.queue.c.delivery_id, "ids")
    return transitions.move(tables, Transition.CLAIMED, among)


@statement
def _leased(tables: Tables, dialect: str) -> Any:
    return sa.select(*_of_lease(tables)).where(tables.among(dialect, tables.queue.c.delivery_id, "ids"))


def _of_lease(tables: Tables) -> list[Any]:
    """Return the columns of `_Lease`."""
    queue, delivery = tables.queue, tables.delivery
    of_log = sa.select(delivery.c.event_id).where(delivery.c.id == queue.c.delivery_id).scalar_subquery()
    event_id = sa.func.coalesce(of_log, queue.c.delivery_id)
    counted = (queue.c.attempts - queue.c.attempts_before).label("counted")
    return [queue.c.delivery_id, queue.c.endpoint_id, event_id, queue.c.attempts, counted, queue.c.tenant_id]


@statement
def _events(tables: Tables, dialect: str) -> Any:
    event = tables.event
    return sa.select(event.c.id, event.c.body, event.c.traceparent).where(tables.among(dialect, event.c.id, "ids"))
