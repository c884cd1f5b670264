"""The results of attempts, and what follows from them for deliveries and endpoints."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import leases, transitions
from flask_webhook_endpoints.core.leases import Claimed
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.database.types import Array

EXHAUSTED_IN_A_ROW = 10
"""The number of deliveries in a row that used up their attempts before an endpoint is paused."""

FAILING_FOR = timedelta(days=5)
"""The time for which an endpoint must have failed, too, before it is paused."""


class Settlement(NamedTuple):
    """The result of an attempt."""

    delivery: Claimed
    status: DeliveryStatus
    next_attempt_at: datetime | None
    gone: bool
    started_at: datetime
    duration_ms: int
    response_status: int | None
    error: str | None
    response_excerpt: bytes | None


class Paused(NamedTuple):
    """An endpoint that was paused because of the results."""

    endpoint_id: UUID
    tenant_id: str
    reason: PauseReason


class Settled(NamedTuple):
    """The results whose lease still held, and the endpoints that were paused because of them."""

    settlements: Sequence[Settlement]
    paused: Sequence[Paused]


def record(scope: Scope, owner: UUID, settlements: Sequence[Settlement]) -> Settled:
    """Record results, and what follows from them for the deliveries whose lease still holds, and for their endpoints.

    A second call with the same results changes nothing: a commit may have succeeded though its answer was lost.
    """
    # Write first (SQLite).
    scope.insert_those_absent(scope.tables.attempt, [_attempt_row(settlement) for settlement in settlements])
    lost: set[UUID] = set()
    for transition in (Transition.DELIVERED, Transition.EXHAUSTED):
        if ids := [each.delivery.id for each in settlements if each.status is transition.target]:
            lost |= _finish(scope, owner, ids, transition)
    if due := {each.delivery.id: each.next_attempt_at for each in settlements if each.status is DeliveryStatus.PENDING}:
        lost |= _put_off(scope, owner, due)
    if lost:
        _forget_erased(scope, lost)
        settlements = [settlement for settlement in settlements if settlement.delivery.id not in lost]
    return Settled(settlements, _judge_endpoints(scope, settlements))


def _attempt_row(settlement: Settlement) -> dict[str, Any]:
    return {
        "delivery_id": settlement.delivery.id,
        "number": settlement.delivery.attempt,
        "started_at": settlement.started_at,
        "duration_ms": settlement.duration_ms,
        "response_status": settlement.response_status,
        "error": settlement.error,
        "response_excerpt": settlement.response_excerpt,
    }


def _finish(scope: Scope, owner: UUID, ids: Sequence[UUID], transition: Transition) -> set[UUID]:
    """Finish those of the deliveries that are still leased; return the others, whose lease is lost."""
    values = {"ids": ids, "owner": owner, "now": scope.now}
    if scope.dialect.name == "postgresql":
        return set(scope.execute(_finish_and_select_lost(scope, transition), values).scalars().all())
    if scope.dialect.update_returning:
        finished = scope.execute(leases.end(scope, transition, returning=True), values)
        return set(ids).difference(finished.scalars().all())
    leased = _still_leased(scope, owner, ids)
    scope.execute(leases.end(scope, transition), values)
    return set(ids) - leased


def _put_off(scope: Scope, owner: UUID, due: Mapping[UUID, datetime | None]) -> set[UUID]:
    """Put off those of the deliveries that are still leased; return the others, whose lease is lost."""
    if leased := _still_leased(scope, owner, list(due)):
        scope.execute(_put_off_one(scope), [{"of_id": delivery_id, "due": due[delivery_id]} for delivery_id in leased])
    return set(due) - leased


def _still_leased(scope: Scope, owner: UUID, ids: Sequence[UUID]) -> set[UUID]:
    return set(scope.execute(_lock_leased(scope), {"ids": ids, "owner": owner}).scalars().all())


def _forget_erased(scope: Scope, ids: Collection[UUID]) -> None:
    """Delete the attempts of deliveries that were erased while they were in flight."""
    attempt, delivery = scope.tables.attempt, scope.tables.delivery
    known = sa.select(1).where(delivery.c.id == attempt.c.delivery_id).exists()
    scope.execute(sa.delete(attempt).where(attempt.c.delivery_id.in_(ids), ~known))


def _judge_endpoints(scope: Scope, settlements: Iterable[Settlement]) -> list[Paused]:
    """Note which endpoints fail and which recover, and pause those that are gone or have failed for days."""
    # An endpoint that has begun to fail since the claim goes on failing until a delivery claimed later succeeds.
    recovered = {
        each.delivery.endpoint_id
        for each in settlements
        if each.delivery.failing and each.status is DeliveryStatus.DELIVERED
    }
    gone = {each.delivery.endpoint_id for each in settlements if each.gone}
    exhausted = Counter(each.delivery.endpoint_id for each in settlements if each.status is DeliveryStatus.FAILED)
    endpoint = scope.tables.endpoint
    if recovered:
        _recover(scope, recovered)
    # Lock in id order, or workers that lock the same endpoints one by one deadlock.
    for endpoint_id, count in sorted(exhausted.items()):
        values = {
            "failing_since": sa.func.coalesce(endpoint.c.failing_since, scope.now),
            "exhausted_in_a_row": endpoint.c.exhausted_in_a_row + count,
        }
        scope.execute(sa.update(endpoint).where(endpoint.c.id == endpoint_id).values(values))
    paused: list[Paused] = []
    if exhausted:
        for_days = endpoint.c.failing_since <= scope.now - FAILING_FOR
        in_a_row = endpoint.c.exhausted_in_a_row >= EXHAUSTED_IN_A_ROW
        paused += _pause(scope, PauseReason.FAILURES, endpoint.c.id.in_(list(exhausted)), in_a_row, for_days)
    if gone:
        paused += _pause(scope, PauseReason.GONE, endpoint.c.id.in_(gone))
    return paused


def _recover(scope: Scope, endpoint_ids: Collection[UUID]) -> None:
    endpoint = scope.tables.endpoint
    # Look them up first: on MariaDB and MySQL, an UPDATE waits for the host's open transactions that have published to
    # the endpoint, even where it changes nothing.
    failing = sa.select(endpoint.c.id).where(endpoint.c.id.in_(endpoint_ids), endpoint.c.failing_since.is_not(None))
    if found := scope.execute(failing).scalars().all():
        recover = sa.update(endpoint).where(endpoint.c.id.in_(found))
        scope.execute(recover.values(failing_since=None, exhausted_in_a_row=0))


def _pause(scope: Scope, reason: PauseReason, *which: sa.ColumnElement[bool]) -> list[Paused]:
    endpoint = scope.tables.endpoint
    # Lock before writing, so that of several workers and tenants at once only one has paused the endpoint.
    active = sa.select(endpoint.c.id, endpoint.c.tenant_id).where(endpoint.c.paused_at.is_(None), *which)
    # Lock in id order, or two workers deadlock.
    rows = scope.execute(active.order_by(endpoint.c.id).with_for_update()).all()
    if rows:
        values = {
            **transitions.paused(scope.tables, reason, sa.bindparam("now", type_=endpoint.c.paused_at.type)),
            "version": endpoint.c.version + 1,
            "updated_at": scope.tables.update_time(scope.dialect.name, "now"),
        }
        pause = sa.update(endpoint).where(endpoint.c.id.in_([row.id for row in rows])).values(values)
        scope.execute(pause, {"now": scope.now})
    return [Paused(row.id, row.tenant_id, reason) for row in rows]


@statement
def _put_off_one(tables: Tables, _dialect: str) -> sa.Update:
    is_one = tables.delivery.c.id == sa.bindparam("of_id")
    return transitions.update(tables, Transition.PUT_OFF, is_one, by_index=False)


@statement
def _lock_leased(tables: Tables, dialect: str) -> sa.Select[Any]:
    is_leased = transitions.is_source(tables, Transition.PUT_OFF, by_index=False)
    return sa.select(tables.delivery.c.id).where(*leases.of_owner(tables, dialect), is_leased).with_for_update()


@statement
def _finish_and_select_lost(tables: Tables, dialect: str, transition: Transition) -> sa.Select[Any]:
    """Finish deliveries on PostgreSQL; select the lost ones, because reading those that it finished costs."""
    ids = sa.bindparam("ids", type_=Array(tables.delivery.c.id.type))
    asked = sa.func.unnest(ids).table_valued("id").render_derived("asked")
    finished = leases.ending(tables, dialect, transition, returning=True).cte("finished")
    return sa.select(asked.c.id).where(asked.c.id.not_in(sa.select(finished.c.id)))
