"""The results of attempts, and what follows from them for deliveries and endpoints."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import incidents, leases, queue, rests, roll_ups, transitions
from flask_webhook_endpoints.core.incidents import DEFAULT_RULE, Notice, PauseRule
from flask_webhook_endpoints.core.results import Settlement
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database import dialects, given, plans
from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables

MAX_LOGGED = 100
"""The number of attempts that are kept of a delivery: the last ones."""


class Paused(NamedTuple):
    """An endpoint that was paused because of the results."""

    endpoint_id: UUID
    tenant_id: str
    reason: PauseReason


class Settled(NamedTuple):
    """The results whose lease still held, and what followed from them."""

    settlements: Sequence[Settlement]
    paused: Sequence[Paused]
    notices: Sequence[Notice] = ()
    """Changes of the health of endpoints, of which the worker tells the host."""
    to_pause: Mapping[UUID, PauseReason] = MappingProxyType({})
    """Endpoints to `pause` later, because another transaction has locked them."""


def record(scope: Scope, owner: UUID, settlements: Sequence[Settlement], *, rule: PauseRule = DEFAULT_RULE) -> Settled:
    """Record results, and what follows from them for the deliveries whose lease still holds, and for their endpoints.

    `rule` says when endpoints that fail are paused. A second call with the same results changes nothing: a commit may
    have succeeded though its answer was lost.
    """
    # Write first (SQLite).
    _insert_attempts(scope, owner, settlements)
    kept: list[UUID] = []
    for transition in (Transition.DELIVERED, Transition.EXHAUSTED):
        if finished := [each for each in settlements if each.status is transition.target]:
            kept += _finish(scope, owner, transition, finished)
    if due := {each.delivery.id: each for each in settlements if each.status is DeliveryStatus.PENDING}:
        kept += _put_off(scope, owner, due)
    if len(kept) < len(settlements):
        ids_kept = set(kept)
        _forget_erased(scope, {each.delivery.id for each in settlements} - ids_kept)
        settlements = [settlement for settlement in settlements if settlement.delivery.id in ids_kept]
    _log(scope, settlements)
    _note_rests(scope, settlements)
    noted = incidents.note(scope, settlements, rule=rule)
    gone = {each.delivery.endpoint_id for each in settlements if each.gone}
    reasons = {**dict.fromkeys(gone, PauseReason.GONE), **dict.fromkeys(noted.to_pause, PauseReason.FAILURES)}
    paused = pause(scope, reasons) if reasons else Settled([], [])
    if settlements:
        roll_ups.count(scope, settlements)
    return Settled(settlements, paused.paused, noted.notices, paused.to_pause)


def pause(scope: Scope, reasons: Mapping[UUID, PauseReason]) -> Settled:
    """Pause the endpoints that are active, each for its reason, and leave those that another transaction has locked.

    A host's transaction may last, and would keep the results of all other endpoints waiting. One that deletes or
    resumes an endpoint has locked its row, and waits for its incident, which a record has locked before.
    """
    endpoint = scope.tables.endpoint
    active = sa.select(endpoint.c.id, endpoint.c.tenant_id)
    active = active.where(endpoint.c.paused_at.is_(None), endpoint.c.id.in_(reasons))
    # Lock before writing, so that of several workers and tenants at once only one has paused the endpoint.
    rows = scope.execute(active.with_for_update(skip_locked=True, key_share=True)).all()
    paused = [Paused(row.id, row.tenant_id, reasons[row.id]) for row in rows]
    for reason in sorted({each.reason for each in paused}):
        _pause(scope, reason, [each.endpoint_id for each in paused if each.reason is reason])
    if len(paused) == len(reasons):
        return Settled([], paused)
    still_active = {row.id for row in scope.execute(active)} - {each.endpoint_id for each in paused}
    return Settled([], paused, to_pause={each: reasons[each] for each in still_active})


def _insert_attempts(scope: Scope, owner: UUID, settlements: Sequence[Settlement]) -> None:
    """Insert a row for each attempt that was no success at once."""
    rows = [_attempt_row(settlement) for settlement in settlements if not _is_at_once(settlement)]
    if not rows:
        return
    if scope.dialect.name not in dialects.RETURNING:
        # Lock all leases before any attempt, in the order of their ids, as retention does, or MariaDB deadlocks.
        leases.still_leased(scope, owner, [each.delivery.id for each in settlements])
    scope.insert_those_absent(scope.tables.attempt, rows)
    _forget_oldest(scope, rows)


def _is_at_once(settlement: Settlement) -> bool:
    """Return whether the first attempt succeeded: it has no row of its own."""
    return settlement.delivery.attempt == 1 and settlement.status is DeliveryStatus.DELIVERED


def _attempt_row(settlement: Settlement) -> dict[str, Any]:
    return {
        "delivery_id": settlement.delivery.id,
        "number": settlement.delivery.attempt,
        "started_at": settlement.started_at,
        "duration_ms": settlement.duration_ms,
        "response_status": settlement.response_status,
        "error": settlement.error,
        "response_excerpt": settlement.response_excerpt,
        "url": settlement.delivery.url.reveal(),
        # In ASCII, which every character set has.
        "response_headers": json.dumps(dict(settlement.response_headers)) if settlement.response_headers else None,
    }


def _forget_oldest(scope: Scope, rows: Sequence[Mapping[str, Any]]) -> None:
    """Delete the attempts before the last `MAX_LOGGED` of each delivery: it may be sent again any number of times."""
    attempt = scope.tables.attempt
    for row in rows:
        if (last := row["number"] - MAX_LOGGED) > 0:
            of_delivery = attempt.c.delivery_id == row["delivery_id"]
            scope.execute(sa.delete(attempt).where(of_delivery, attempt.c.number <= last))


def _put_off(scope: Scope, owner: UUID, settlements: Mapping[UUID, Settlement]) -> set[UUID]:
    """Put off those of the deliveries that are still leased, and return them."""
    if leased := leases.still_leased(scope, owner, list(settlements)):
        put_off = {
            "delivery_id": list(leased),
            **transitions.put_off([settlements[each].next_attempt_at for each in leased]),
            "attempts_before": [settlements[each].attempts_before for each in leased],
        }
        scope.update_each(scope.tables.queue, put_off)
    return leased


def _finish(scope: Scope, owner: UUID, transition: Transition, settlements: Sequence[Settlement]) -> Collection[UUID]:
    """Take finished deliveries out of the queue; return those that were still leased. On PostgreSQL, log these, too."""
    ids = [each.delivery.id for each in settlements]
    if not _logs_with_queue(scope):
        return leases.end(scope, owner, transition, ids)
    names, same, values = given.columns_of(_logged(settlements, now=scope.now))
    plans.plan_again(scope)
    logged = scope.execute(_end_and_log(scope, transition, names, same), {**values, "owner": owner})
    # Read them only if some are missing, because that takes longer than to count them.
    return ids if logged.rowcount == len(ids) else logged.scalars().all()


def _logs_with_queue(scope: Scope) -> bool:
    """Return whether one statement takes deliveries out of the queue and logs them."""
    return scope.dialect.name in dialects.WRITES_IN_CTES


@statement
def _end_and_log(
    tables: Tables, dialect: str, transition: Transition, names: tuple[str, ...], same: frozenset[str]
) -> Any:
    delivery, queue = tables.delivery, tables.queue
    ended = transitions.leave(tables, transition, *leases.of_owner(tables, dialect)).returning(queue.c.delivery_id)
    # Each row of the queue is locked before its row of the log, because what was deleted is read first. Within
    # `coalesce`, or PostgreSQL joins it: of the owner and the state it concludes on one row, and compares each with
    # each.
    source = given.rows_of_columns(delivery, names, same)
    has_ended = sa.func.coalesce(source.c.id.in_(sa.select(ended.cte("ended").c.delivery_id)), sa.false())
    return given.update_of_columns(delivery, names, same, source).where(has_ended).returning(delivery.c.id)


def _log(scope: Scope, settlements: Sequence[Settlement]) -> None:
    """Write the status and the last attempt of each delivery into the log, unless `_finish` has."""
    along = _logs_with_queue(scope)
    if unlogged := [each for each in settlements if not along or each.status is DeliveryStatus.PENDING]:
        scope.update_each(scope.tables.delivery, _logged(unlogged, now=scope.now))
    if failed := [each.delivery.id for each in settlements if each.status is DeliveryStatus.FAILED]:
        transitions.note_undelivered(scope, failed)


def _logged(settlements: Sequence[Settlement], *, now: datetime) -> dict[str, list[Any]]:
    """Return the columns of the log that an attempt changes, each with the values of all deliveries."""
    return {
        "id": [each.delivery.id for each in settlements],
        **transitions.attempted([each.status for each in settlements], now=now),
        "attempts": [each.delivery.attempt for each in settlements],
        "last_attempt_at": [each.started_at for each in settlements],
        "last_duration_ms": [each.duration_ms for each in settlements],
        "last_response_status": [each.response_status for each in settlements],
        "last_error": [each.error for each in settlements],
        "last_response_excerpt": [
            each.response_excerpt if each.response_excerpt is not None and _is_at_once(each) else None
            for each in settlements
        ],
    }


def _forget_erased(scope: Scope, ids: Collection[UUID]) -> None:
    """Delete the attempts of deliveries that were erased while they were in flight."""
    attempt, delivery = scope.tables.attempt, scope.tables.delivery
    known = sa.select(1).where(delivery.c.id == attempt.c.delivery_id).exists()
    scope.execute(sa.delete(attempt).where(attempt.c.delivery_id.in_(ids), ~known))


def _note_rests(scope: Scope, settlements: Sequence[Settlement]) -> None:
    """Note which endpoints have asked for rest, and end the rest of those that answered something else."""
    asked: dict[UUID, tuple[float, int]] = {}
    for each in settlements:
        if each.rests_seconds is not None:
            seconds, times = asked.get(each.delivery.endpoint_id, (0, 0))
            # Count requests for rest by attempts in flight together as one.
            asked[each.delivery.endpoint_id] = max(seconds, each.rests_seconds), max(times, each.delivery.rests + 1)
    # Lock in id order, or two workers deadlock.
    for endpoint_id, (seconds, times) in sorted(asked.items()):
        rests.begin(scope, endpoint_id, seconds=seconds, times=times)
    tried_out = [each for each in settlements if each.delivery.rests]
    if rested := _endpoints(each for each in tried_out if each.delivery.endpoint_id not in asked):
        queue.end_rests(scope, rested)
    # Another one must try an endpoint out where this one comes back later than the rest ends, or never. A claim lets
    # one of those released here wait for that end.
    ends = {endpoint_id: scope.now + timedelta(seconds=seconds) for endpoint_id, (seconds, _) in asked.items()}
    resting = [each for each in tried_out if each.delivery.endpoint_id in ends]
    if left := _endpoints(each for each in resting if not _comes_back(each, by=ends[each.delivery.endpoint_id])):
        queue.release(scope, sorted(left))


def _comes_back(settlement: Settlement, *, by: datetime) -> bool:
    """Return whether the delivery has another attempt, and not after this time."""
    return settlement.next_attempt_at is not None and settlement.next_attempt_at <= by


def _endpoints(settlements: Iterable[Settlement]) -> set[tuple[str, UUID]]:
    return {(each.delivery.tenant_id, each.delivery.endpoint_id) for each in settlements}


def _pause(scope: Scope, reason: PauseReason, endpoint_ids: Collection[UUID]) -> None:
    endpoint = scope.tables.endpoint
    values = {
        **transitions.paused(scope.tables, reason, sa.bindparam("now", type_=endpoint.c.paused_at.type)),
        "version": endpoint.c.version + 1,
        "updated_at": scope.tables.update_time(scope.dialect.name, "now"),
    }
    scope.execute(sa.update(endpoint).where(endpoint.c.id.in_(endpoint_ids)).values(values), {"now": scope.now})
