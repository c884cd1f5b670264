"""The queue: deliveries become ready, are moved out of the way of claims, and come back."""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import cancellations, rests, transitions
from flask_webhook_endpoints.core.marks import BEGINNING, LATE, REST_OF_TIME, REST_OF_WHOLE, Marks
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.models import QueueState
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables

AT_ONCE = 500
"""The number of deliveries that one claim makes ready at most."""

RETURNED_EVERY_SECONDS = 0.5
"""Seconds between two looks for leases that have ended."""

RELEASED_AT_ONCE = 200
"""The number of held deliveries of an endpoint that a resumption or a claim makes ready at most."""


class Candidate(NamedTuple):
    """A delivery that is due, and its endpoint."""

    id: UUID
    tenant_id: str
    endpoint_id: UUID
    due_at: datetime
    known: bool
    """False: the endpoint was deleted."""
    paused: bool
    rests_until: datetime | None
    """The endpoint rests until this time, and is tried out from then on. None: it does not rest."""
    changed: bool
    """The endpoint has changed since the last look at the whole queue. If resumed, it may have older deliveries."""

    def is_blocked(self, now: datetime) -> bool:
        """Return whether it can't be sent now."""
        return self.paused or not self.known or (self.rests_until is not None and self.rests_until > now)


def make_ready(scope: Scope, marks: Marks | None = None) -> None:
    """Make ready what has become due, and what was leased by a worker that died."""
    if marks is None:
        _move_come(scope, Transition.DUE, BEGINNING)
        _move_come(scope, Transition.RETURNED, BEGINNING)
        return
    # A claim that does not read all that is ready would not find what waited before the mark.
    if marks.ready_since() == BEGINNING and marks.is_time_for("all waiting"):
        marks.timed("all waiting", partial(_move_come, scope, Transition.DUE, BEGINNING))
    else:
        _move_come(scope, Transition.DUE, marks.waiting_from or BEGINNING)
    if marks.is_time_for("ended leases"):
        since = BEGINNING if marks.is_time_for("all ended leases") else marks.ended_from or BEGINNING
        look, rest = ("all ended leases", REST_OF_WHOLE) if since == BEGINNING else ("ended leases", REST_OF_TIME)
        move = partial(_move_come, scope, Transition.RETURNED, since)
        if marks.timed(look, move, rest=rest, least=RETURNED_EVERY_SECONDS):
            # They are due since their leases ended, which may be before the mark.
            marks.released(BEGINNING)
        marks.ended_from = scope.now - LATE


def is_any_due(scope: Scope, marks: Marks | None = None) -> bool:
    """Return whether a claim would find something, unless it waits for its endpoint or its tenant.

    It also returns True when it is time for the sweep.
    """
    if marks is not None and marks.is_time_for("sweep"):
        # A worker sweeps before it claims, and nothing else leads one that has no work to a claim.
        return True
    ready_from = waiting_from = ended_from = passed_by = BEGINNING
    # A look that passes by deliveries which wait for their endpoints is no look at the whole queue.
    is_whole = marks is None or (marks.is_time_for("all ready") and marks.is_time_for("what waits"))
    if marks is not None and not is_whole:
        ready_from, ended_from = marks.ready_from or BEGINNING, marks.ended_from or BEGINNING
        waiting_from = marks.waiting_from or BEGINNING
    if marks is not None and not marks.is_time_for("what waits"):
        # The worker knows when it frees a place itself. A place that another worker frees, it finds a second later.
        passed_by = marks.in_vain_from

    def look() -> bool:
        since = {"ready_from": max(ready_from, passed_by), "waiting_from": waiting_from, "ended_from": ended_from}
        return scope.execute(_any_due(scope), {"now": scope.now, **since}).first() is not None

    if marks is None:
        return look()
    found = marks.timed("all ready", look) if is_whole else look()
    if found and is_whole:
        # The claim that follows looks at the whole queue, too, or it would never meet what is from before the mark.
        marks.ready_from = None
    elif not found:
        marks.looked_in_vain(scope.now, from_mark=passed_by <= ready_from, is_whole=is_whole)
    return found


def move_away(scope: Scope, blocked: Sequence[Candidate]) -> bool:
    """Move deliveries out of the way of claims; cancel those of deleted endpoints. Return whether any were moved.

    What another transaction has locked, of deliveries and of paused endpoints, stays, because claims wait for nobody.
    """
    deleted = sorted({(each.tenant_id, each.endpoint_id) for each in blocked if not each.known})
    for tenant_id, endpoint_id in deleted:
        cancellations.cancel(scope, tenant_id, endpoint_id)
    held: list[UUID] = []
    if paused := {each.endpoint_id for each in blocked if each.paused}:
        # Lock the endpoint, or a request that resumes it meanwhile would leave the deliveries held.
        locked = set(scope.execute(_lock_paused(scope), {"ids": paused}).scalars())
        held = [each.id for each in blocked if each.endpoint_id in locked]
    first: dict[UUID, Candidate] = {}
    for each in blocked:
        if each.known and not each.paused and first.setdefault(each.endpoint_id, each) is not each:
            held.append(each.id)
    # One delivery of each endpoint that rests comes back by itself when the time is over, and tries it out.
    waiting = [_move_free(scope, Transition.RESTS, [each.id], due=each.rests_until) for each in first.values()]
    return _move_free(scope, Transition.HELD, held) or any(waiting) or bool(deleted)


def _move_free(scope: Scope, transition: Transition, ids: Sequence[UUID], **values: Any) -> bool:
    """Move those of the deliveries that no other transaction has locked; return whether there were any."""
    free = transitions.lock_free(scope, transition, ids) if ids else []
    if free:
        scope.execute(_move_those(scope, transition), {"ids": free, **values})
    return bool(free)


def end_rests(scope: Scope, endpoints: Collection[tuple[str, UUID]]) -> None:
    """End the rests of endpoints, each given with its tenant, and make their deliveries ready."""
    ordered = sorted(endpoints)
    resting = rests.may_rest(scope, [endpoint_id for _, endpoint_id in ordered])
    # Wake before the rest is forgotten, because `_wake` finds the deliveries by the time at which it ends.
    _wake(scope, [each for each in ordered if each[1] in resting])
    if resting:
        rests.forget_those(scope, resting)
    release(scope, ordered)


def _wake(scope: Scope, endpoints: Collection[tuple[str, UUID]]) -> None:
    """Make ready the deliveries that wait for the end of a rest. A retry waits until a time of its own."""
    for tenant_id, endpoint_id in endpoints:
        if ids := _free_of_endpoint(scope, Transition.RESTED, _to_try_out(scope), tenant_id, endpoint_id):
            scope.execute(_move_those(scope, Transition.RESTED), {"ids": ids, "due": scope.now})


def release(scope: Scope, endpoints: Collection[tuple[str, UUID]]) -> None:
    """Make ready the oldest of the held deliveries of endpoints that take deliveries again."""
    for tenant_id, endpoint_id in endpoints:
        if ids := _free_of_endpoint(scope, Transition.RELEASED, _held(scope), tenant_id, endpoint_id):
            scope.execute(_move_those(scope, Transition.RELEASED), {"ids": ids})


def _free_of_endpoint(
    scope: Scope, transition: Transition, select: sa.Select[Any], tenant_id: str, endpoint_id: UUID
) -> Sequence[UUID]:
    """Lock what a SELECT finds of an endpoint and no other transaction has locked; return the ids."""
    ids = scope.execute(select, {"of_tenant": tenant_id, "of_endpoint": endpoint_id}).scalars().all()
    # Where the SELECT has locked nothing, what it has found may have changed since.
    return transitions.lock_free(scope, transition, ids) if ids and not _locks_by_index(scope.dialect.name) else ids


def _locks_by_index(dialect: str) -> bool:
    """Return whether to lock what an endpoint has where an index finds it.

    MariaDB would lock the gap after it, too. All claims would wait for a host's transaction that resumes an endpoint.
    """
    return dialect not in dialects.LOCKS_WHAT_IT_READS


def _move_come(scope: Scope, transition: Transition, since: datetime) -> bool:
    """Move the deliveries whose time has come, those that no other worker has locked; return whether there were any."""
    values = {"now": scope.now, "come_from": since}
    if scope.dialect.name in dialects.RETURNING:
        return scope.execute(_move_all_come(scope, transition), values).rowcount > 0
    if ids := scope.execute(_come(scope, transition), values).scalars().all():
        scope.execute(_move_those(scope, transition), {"ids": ids})
    return bool(ids)


def _select_come(tables: Tables, transition: Transition) -> sa.Select[Any]:
    queue = tables.queue
    is_come = queue.c.due_at >= sa.bindparam("come_from"), queue.c.due_at <= sa.bindparam("now")
    come = sa.select(queue.c.delivery_id).where(transitions.is_source(tables, transition), *is_come)
    return come.order_by(queue.c.due_at).limit(AT_ONCE).with_for_update(skip_locked=True)


@statement
def _come(tables: Tables, _dialect: str, transition: Transition) -> sa.Select[Any]:
    return _select_come(tables, transition)


@statement
def _move_all_come(tables: Tables, dialect: str, transition: Transition) -> sa.Update:
    come: Any = _select_come(tables, transition)
    if dialect in dialects.LOCKS_AGAIN:
        # In a common table expression, or PostgreSQL may lock them all again for each row that it looks at. Not on
        # SQLite, whose driver begins no transaction before a statement that begins with WITH.
        come = sa.select(come.cte("come").c.delivery_id)
    return transitions.move(tables, transition, tables.found(dialect, tables.queue.c.delivery_id, come))


@statement
def _move_those(tables: Tables, dialect: str, transition: Transition) -> sa.Update:
    return transitions.move(tables, transition, tables.among(dialect, tables.queue.c.delivery_id, "ids"))


@statement
def _any_due(tables: Tables, dialect: str) -> Any:
    """Select a row if something is ready, waits no longer, or was leased for too long. An index tells."""
    queue = tables.queue
    found: sa.ColumnElement[Any] = sa.literal_column("1")
    come = queue.c.due_at <= sa.bindparam("now")
    looks: list[Any] = [
        sa.select(found).where(queue.c.state == transitions.constant(state), come, *more)
        for state, more in (
            (QueueState.READY, [queue.c.due_at >= sa.bindparam("ready_from")]),
            (QueueState.WAITING, [queue.c.due_at >= sa.bindparam("waiting_from")]),
            (QueueState.LEASED, [queue.c.due_at >= sa.bindparam("ended_from")]),
        )
    ]
    if dialect in dialects.SLOW_UNIONS:
        # A union of subqueries takes MariaDB twice as long, and four temporary tables.
        hinted = (dialects.by_index(dialect, look, queue, "ix_webhook_queue_state_due_at") for look in looks)
        return sa.select(found).where(sa.or_(*(look.exists() for look in hinted)))
    # Ordered, or PostgreSQL expects a row soon and reads the whole table, dead rows included.
    firsts = [look.order_by(queue.c.due_at).limit(1).subquery() for look in looks]
    # As subqueries, because SQLite knows no LIMIT within a UNION.
    return sa.union_all(*(sa.select(found).select_from(first) for first in firsts)).limit(1)


@statement
def _lock_paused(tables: Tables, dialect: str) -> sa.Select[Any]:
    endpoint = tables.endpoint
    paused = tables.among(dialect, endpoint.c.id, "ids"), endpoint.c.paused_at.is_not(None)
    locked = sa.select(endpoint.c.id).where(*paused).order_by(endpoint.c.id)
    return locked.with_for_update(skip_locked=True, key_share=True)


@statement
def _to_try_out(tables: Tables, dialect: str) -> sa.Select[Any]:
    queue, rest = tables.queue, tables.rest
    which = queue.c.tenant_id == sa.bindparam("of_tenant"), queue.c.endpoint_id == sa.bindparam("of_endpoint")
    is_waiting = transitions.is_source(tables, Transition.RESTED), queue.c.due_at == rest.c.until
    joined = queue.join(rest, rest.c.endpoint_id == queue.c.endpoint_id)
    waiting = sa.select(queue.c.delivery_id).select_from(joined).where(*which, *is_waiting)
    return waiting.with_for_update(skip_locked=True) if _locks_by_index(dialect) else waiting


@statement
def _held(tables: Tables, dialect: str) -> Any:
    queue = tables.queue
    of_endpoint: Any = (
        sa.bindparam("of_tenant", type_=queue.c.tenant_id.type),
        sa.bindparam("of_endpoint", type_=queue.c.endpoint_id.type),
    )
    held = first_held(dialect, sa.select(queue.c.delivery_id), queue, *of_endpoint)
    held = held.limit(RELEASED_AT_ONCE)
    return held.with_for_update(skip_locked=True) if _locks_by_index(dialect) else held


def first_held(dialect: str, select: Any, queue: Any, tenant_id: Any, endpoint_id: Any) -> Any:
    """Have a SELECT from the queue read what an endpoint holds, in the order in which it was due."""
    pair, one = (queue.c.tenant_id, queue.c.endpoint_id), (tenant_id, endpoint_id)
    held = select.where(queue.c.state == transitions.constant(QueueState.HELD))
    if dialect not in dialects.EXPECTS_EMPTY:
        return held.where(*(column == value for column, value in zip(pair, one, strict=True))).order_by(queue.c.due_at)
    # As a range, in the order of the index of turns, or PostgreSQL reads by the other index what all endpoints hold.
    within = sa.tuple_(*pair) >= sa.tuple_(*one), sa.tuple_(*pair) <= sa.tuple_(*one)
    return held.where(*within).order_by(*pair, queue.c.due_at)
