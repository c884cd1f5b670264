"""Candidates: the due deliveries among which a claim chooses.

A claim reads the deliveries that are due for the longest time, a few hundred. If more are due, it looks past these,
too, from tenant to tenant and endpoint to endpoint, and at the newest ones, so that no backlog hides the deliveries of
other tenants.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, cast
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import transitions
from flask_webhook_endpoints.core.marks import BEGINNING, LATE, MAX_PAST_SECONDS, REST_OF_TIME, START, Marks
from flask_webhook_endpoints.core.places import Places
from flask_webhook_endpoints.core.queue import Candidate
from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.models import QueueState
from flask_webhook_endpoints.database.scope import Scope, make, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.database.types import Array

LOOKED_AT = 100
"""The number of due deliveries that a claim reads beyond the number that it may take."""

NEWEST_LOOKED_AT = 500
"""The number of the newest deliveries that a claim reads behind a backlog, for their tenants."""

BURST_LOOKED_AT = 10_000
"""The number that it reads now and then, for tenants whose events came just before a burst of another."""

TENANTS_LOOKED_AT = 64
"""The number of tenants that a look past the first deliveries visits."""

STEPS = 8
"""The number of steps of such a look. Each reads up to a cap of deliveries of each tenant, of an endpoint or more."""


def find(
    scope: Scope, marks: Marks, places: Places | None, *, most: int, cap: int
) -> tuple[dict[int, list[Candidate]], bool]:
    """Return due deliveries by the number of their endpoint, and whether these are all that are due.

    Of each endpoint it finds those that are due for the longest time.
    """
    candidates, is_all = _first(scope, most + LOOKED_AT, marks)
    if is_all:
        marks.newest_from = scope.now - LATE
        marks.newcomers, marks.later_newcomers = {}, {}
        return candidates, True
    return _with_others(scope, candidates, marks, places, cap=cap), False


def _first(scope: Scope, most: int, marks: Marks) -> tuple[dict[int, list[Candidate]], bool]:
    """Return what is due for the longest time, by the number of its endpoint, and whether that is all."""
    since = marks.ready_since()

    def look(since: datetime) -> list[Candidate]:
        values = {"now": scope.now, "ready_from": since, "looked_at": marks.looked_at, "most": most}
        return make(Candidate, scope.read(_head(scope), values))

    late = scope.now - LATE
    found = [] if since == BEGINNING else look(since)
    if since == BEGINNING or any(candidate.changed for candidate in found):
        found = marks.timed("all ready", partial(look, BEGINNING))
        marks.looked_at = late
    # Should the claim be rolled back, what it has made ready waits again, from there on.
    marks.ready_from = marks.waiting_from = min(found[0].due_at, late) if found else late
    return _by_endpoint(found), len(found) < most


def _by_endpoint(found: Iterable[Candidate]) -> dict[int, list[Candidate]]:
    # By their numbers, because Python hashes and compares UUIDs slowly.
    candidates: defaultdict[int, list[Candidate]] = defaultdict(list)
    for candidate in found:
        candidates[candidate.endpoint_id.int].append(candidate)
    return candidates


def _with_others(
    scope: Scope, first: dict[int, list[Candidate]], marks: Marks, places: Places | None, *, cap: int
) -> dict[int, list[Candidate]]:
    """Add what a look at the newest deliveries finds, and now and then one past all of them."""
    oldest = next(iter(first.values()))[0].due_at
    found = _merged(first, _newest(scope, first, marks, places, cap=cap, oldest=oldest))
    if not marks.is_time_for("past"):
        return found
    look = partial(_past, scope, marks, places, cap=cap, oldest=oldest)
    others = marks.timed("past", lambda: list(look()), rest=REST_OF_TIME, most=MAX_PAST_SECONDS)
    return _merged(found, others)


def _newest(
    scope: Scope, first: Container[int], marks: Marks, places: Places | None, *, cap: int, oldest: datetime
) -> Iterator[Candidate]:
    """Yield the oldest deliveries of newcomers: tenants that just got a delivery which is not among the first."""
    values = {"now": scope.now, "since": max(oldest, marks.newest_from)}
    marks.newest_from = scope.now - LATE
    come = {**marks.later_newcomers, **marks.newcomers}

    def look(most: int) -> Sequence[Any]:
        return scope.execute(_just_due(scope, most), values).all()

    further = partial(marks.timed, "burst", partial(look, BURST_LOOKED_AT), most=MAX_PAST_SECONDS)
    for tenant_id, endpoint_id in further() if marks.is_time_for("burst") else look(NEWEST_LOOKED_AT):
        if endpoint_id.int not in first:
            come[tenant_id] = min(come.get(tenant_id, endpoint_id), endpoint_id)
    ordered = sorted(filter(partial(_may_have_more, places), come), key=marks.turn_of)
    next_ones, later = ordered[:TENANTS_LOOKED_AT], ordered[TENANTS_LOOKED_AT:]
    # No more, because each claim sorts them. Looks past the backlog find the others.
    marks.newcomers, marks.later_newcomers = {}, {tenant_id: come[tenant_id] for tenant_id in later[:BURST_LOOKED_AT]}
    # From the endpoint on, which is after the id before it.
    asked = {tenant_id: UUID(int=come[tenant_id].int - 1) for tenant_id in next_ones}
    each = min(cap, max(LOOKED_AT // max(len(asked), 1), 2))
    for candidate in _following(scope, asked, cap=each, oldest=oldest) if asked else ():
        marks.newcomers.setdefault(candidate.tenant_id, candidate.endpoint_id)
        yield candidate


def _past(scope: Scope, marks: Marks, places: Places | None, *, cap: int, oldest: datetime) -> Iterator[Candidate]:
    """Yield due deliveries of one tenant and endpoint after another, past any backlog. None is due before `oldest`."""
    after = {"of_tenant": marks.tenant, "oldest": oldest}
    tenants: list[str] = list(scope.execute(_tenants(scope), after).scalars())
    # The look has passed the last tenant: the next one begins at the first.
    marks.tenant = tenants[-1] if len(tenants) == TENANTS_LOOKED_AT else ""
    asked = {
        tenant_id: marks.endpoints.pop(tenant_id, START)
        for tenant_id in filter(partial(_may_have_more, places), tenants)
    }
    for _ in range(STEPS):
        found: Counter[str] = Counter()
        for candidate in _following(scope, asked, cap=cap, oldest=oldest):
            yield candidate
            found[candidate.tenant_id] += 1
            asked[candidate.tenant_id] = candidate.endpoint_id
        asked = {tenant_id: asked[tenant_id] for tenant_id, count in found.items() if count == cap}
        if not asked:
            return
    marks.endpoints |= asked


def _following(scope: Scope, asked: Mapping[str, UUID], *, cap: int, oldest: datetime) -> Iterator[Candidate]:
    """Yield due deliveries of each tenant, `cap` at most, of its endpoints after the one that `asked` names."""
    values = {"now": scope.now, "looked_at": scope.now, "cap": cap, "oldest": oldest}
    if scope.dialect.name in dialects.LATERAL:
        arrays = {"tenants": list(asked), "endpoints": list(asked.values())}
        yield from make(Candidate, scope.read(_turns(scope), {**values, **arrays}))
        return
    for tenant_id, endpoint_id in asked.items():
        one = {"of_tenant": tenant_id, "of_endpoint": endpoint_id}
        yield from make(Candidate, scope.read(_turns(scope), {**values, **one}))


def _merged(first: dict[int, list[Candidate]], past: Iterable[Candidate]) -> dict[int, list[Candidate]]:
    """Add what a look past the first deliveries has found; of an endpoint in both, keep the longer part."""
    longer = {number: found for number, found in _by_endpoint(past).items() if len(found) > len(first.get(number, ()))}
    return {**first, **longer}


def _may_have_more(places: Places | None, tenant_id: str) -> bool:
    return places is None or places.may_have_more(tenant_id)


def _candidates(tables: Tables, due: Any) -> Any:
    """Select due deliveries with what there is of their endpoints, as `Candidate`."""
    endpoint, rest = tables.endpoint, tables.rest
    joined = due.outerjoin(endpoint, endpoint.c.id == due.c.endpoint_id)
    looked_at = sa.bindparam("looked_at", type_=endpoint.c.updated_at.type)
    return sa.select(
        due.c.delivery_id,
        due.c.tenant_id,
        due.c.endpoint_id,
        due.c.due_at,
        endpoint.c.id.is_not(None).label("known"),
        endpoint.c.paused_at.is_not(None).label("paused"),
        rest.c.until,
        sa.func.coalesce(endpoint.c.updated_at >= looked_at, sa.false()).label("changed"),
    ).select_from(joined.outerjoin(rest, rest.c.endpoint_id == due.c.endpoint_id))


def _ready(tables: Tables) -> tuple[Any, sa.Table]:
    queue = tables.queue
    columns = queue.c.delivery_id, queue.c.tenant_id, queue.c.endpoint_id, queue.c.due_at
    is_due = queue.c.state == transitions.constant(QueueState.READY), queue.c.due_at <= sa.bindparam("now")
    return sa.select(*columns).where(*is_due), queue


@statement
def _head(tables: Tables, _dialect: str) -> Any:
    ready, queue = _ready(tables)
    first = ready.where(queue.c.due_at >= sa.bindparam("ready_from")).order_by(queue.c.due_at)
    due = first.limit(sa.bindparam("most", type_=sa.Integer())).subquery("due")
    return _candidates(tables, due).order_by(due.c.due_at)


@statement
def _just_due(tables: Tables, dialect: str, most: int) -> Any:
    queue, ready = tables.queue, transitions.constant(QueueState.READY)
    state, due_at = queue.c.state, queue.c.due_at
    # After `=`, MariaDB finds rows by the state alone, and reads all of a backlog if fewer than `most` came since.
    is_ready = sa.and_(state >= ready, state <= ready) if dialect in dialects.HINTS else state == ready
    is_new = due_at <= sa.bindparam("now"), due_at >= sa.bindparam("since")
    newest = sa.select(queue.c.tenant_id, queue.c.endpoint_id).where(is_ready, *is_new)
    newest = dialects.by_index(dialect, newest, queue, "ix_webhook_queue_state_due_at")
    due = newest.order_by(state.desc(), due_at.desc()).limit(most).subquery("due")
    return sa.select(due).distinct()


@statement
def _turns(tables: Tables, dialect: str) -> Any:
    """Select due deliveries of a tenant, endpoint by endpoint; on PostgreSQL those of several tenants."""
    ready, queue = _ready(tables)
    most = sa.bindparam("cap", type_=sa.Integer())
    if dialect not in dialects.LATERAL:
        which = queue.c.tenant_id == sa.bindparam("of_tenant"), queue.c.endpoint_id > sa.bindparam("of_endpoint")
        due: Any = ready.where(*which).order_by(queue.c.endpoint_id, queue.c.due_at).limit(most).subquery("due")
        return _candidates(tables, due).order_by(due.c.endpoint_id, due.c.due_at)
    arrays = (
        sa.bindparam("tenants", type_=Array(sa.String())),
        sa.bindparam("endpoints", type_=Array(queue.c.endpoint_id.type)),
    )
    asked = sa.func.unnest(*arrays).table_valued("tenant_id", "endpoint_id").render_derived("asked")
    which = queue.c.tenant_id == asked.c.tenant_id, queue.c.endpoint_id > asked.c.endpoint_id
    of_each = (
        ready.where(*which, _is_not_before_oldest(queue, dialect))
        .order_by(queue.c.endpoint_id, queue.c.due_at)
        .limit(most)
    )
    each = of_each.correlate(asked).lateral("each")
    due = sa.select(each).select_from(asked.join(each, sa.true())).subquery("due")
    return _candidates(tables, due).order_by(due.c.tenant_id, due.c.endpoint_id, due.c.due_at)


@statement
def _tenants(tables: Tables, dialect: str) -> Any:
    """Select the tenants after one that have something ready, by steps through an index."""
    queue, following, ready = tables.queue, tables.queue.alias("following"), transitions.constant(QueueState.READY)
    after = queue.c.tenant_id > sa.bindparam("of_tenant"), _is_not_before_oldest(queue, dialect)
    if dialect in dialects.LOOSE_SCANS:
        # No `=`, as in `core/sweep`.
        groups = queue.c.state, queue.c.tenant_id
        loose = sa.select(queue.c.tenant_id).where(queue.c.state >= ready, queue.c.state <= ready, *after)
        return loose.group_by(*groups).order_by(*groups).limit(TENANTS_LOOKED_AT)
    first = sa.select(queue.c.tenant_id).where(queue.c.state == ready, *after)
    step = first.order_by(queue.c.tenant_id).limit(1).scalar_subquery()
    steps = sa.select(step.label("tenant_id")).cte("steps", recursive=True)
    next_step = (
        sa.select(following.c.tenant_id)
        .where(following.c.state == ready, following.c.tenant_id > steps.c.tenant_id)
        .where(_is_not_before_oldest(following, dialect))
        .order_by(following.c.tenant_id)
        .limit(1)
        .correlate(steps)
        .scalar_subquery()
    )
    steps = steps.union_all(sa.select(next_step).where(steps.c.tenant_id.is_not(None)))
    return sa.select(steps.c.tenant_id).where(steps.c.tenant_id.is_not(None)).limit(TENANTS_LOOKED_AT)


def _is_not_before_oldest(queue: Any, dialect: str) -> sa.ColumnElement[bool]:
    """Return a condition that passes by the dead entries of an index. Under an old snapshot these are many."""
    if dialect not in dialects.DEAD_ENTRIES:
        return sa.true()
    # A subquery hides the value from the planner, which may otherwise expect fewer rows than there are, and sort all.
    oldest = sa.select(sa.bindparam("oldest", type_=queue.c.due_at.type)).scalar_subquery()
    return cast("sa.ColumnElement[bool]", queue.c.due_at >= oldest)
