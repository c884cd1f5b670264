"""Every change of a delivery, in the queue and in the log, and every pause of an endpoint. Nothing else writes them.

A delivery that is not finished has a row in the queue, and PENDING in the log. Statements lock its row in the queue
before its row in the log, or they deadlock.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason, QueueState
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables

_READY, _WAITING, _HELD, _LEASED = QueueState
_PENDING, _DELIVERED, _FAILED = DeliveryStatus.PENDING, DeliveryStatus.DELIVERED, DeliveryStatus.FAILED
_CANCELLED, _EXPIRED = DeliveryStatus.CANCELLED, DeliveryStatus.EXPIRED
_NOT_IN_FLIGHT = (_READY, _WAITING, _HELD)

FINISHED = tuple(each for each in DeliveryStatus if each is not _PENDING)
"""The statuses of finished deliveries, which have no row in the queue."""

UNDELIVERED = tuple(each for each in FINISHED if each is not _DELIVERED)
"""The statuses of a delivery that finished without success."""


class Transition(Enum):
    """A change of a delivery: why, from which states or statuses, to which one."""

    PUBLISHED = ("`publish` writes it for an endpoint that wants the event.", (), _READY)
    DELAYED = ("The same, where the retry schedule begins with a delay.", (), _WAITING)
    DUE = ("Its time has come.", (_WAITING,), _READY)
    HELD = ("A claim found it in its way: its endpoint is paused, or rests.", (_READY,), _HELD)
    RELEASED = ("Its endpoint takes deliveries again.", (_HELD,), _READY)
    CLAIMED = ("A worker leases it for one attempt.", (_READY,), _LEASED)
    RETURNED = ("Its lease ended before the worker recorded a result; the attempt counts.", (_LEASED,), _READY)
    GIVEN_BACK = ("The worker did not finish the attempt, which does not count.", (_LEASED,), _READY)
    PUT_OFF = ("The attempt failed, and the retry schedule has another one.", (_LEASED,), _WAITING)
    RESTS = ("Its endpoint rests: the first one that waits for it goes first afterwards.", (_READY,), _WAITING)
    RESTED = ("Its endpoint rests no longer: nothing needs to try it out.", (_WAITING,), _READY)
    DELIVERED = ("The receiver answered 2xx.", (_LEASED,), _DELIVERED)
    EXHAUSTED = ("The attempt failed, and the retry schedule has no more.", (_LEASED,), _FAILED)
    ABANDONED = ("Its endpoint or event was deleted; the attempt does not count.", (_LEASED,), _CANCELLED)
    CANCELLED = ("Its endpoint was deleted.", _NOT_IN_FLIGHT, _CANCELLED)
    EXPIRED = ("A paused endpoint held it for longer than `HOLD_MAX_DAYS`.", _NOT_IN_FLIGHT, _EXPIRED)
    REDELIVERED = ("A tenant or an operator asked for it again.", (*_NOT_IN_FLIGHT, *FINISHED), _READY)

    def __init__(
        self,
        why: str,
        sources: tuple[QueueState | DeliveryStatus, ...],
        target: QueueState | DeliveryStatus,
    ) -> None:
        self.why = why
        self.sources = sources
        """The states in the queue that it may have before; statuses in the log where it was finished."""
        self.target = target
        """The state or the status that it has afterwards."""


def is_source(tables: Tables, transition: Transition, *, by_index: bool = True) -> sa.ColumnElement[bool]:
    """Return whether a delivery has a state in the queue that the transition starts from.

    With `by_index=False` no planner looks the state up in an index: deliveries chosen by id are few, and a million
    others may have the same state.
    """
    states = [constant(each) for each in transition.sources if isinstance(each, QueueState)]
    state: sa.ColumnElement[Any] = tables.queue.c.state
    if not by_index:
        state = sa.func.coalesce(state, sa.literal_column("''"))
    return state == states[0] if len(states) == 1 else state.in_(states)


def constant(value: QueueState | DeliveryStatus) -> sa.ColumnElement[Any]:
    """Return a state or a status as text of the statement.

    PostgreSQL uses the index of turns, which has no leases, for constants alone; and SQLAlchemy would make a parameter
    of it, and prepare that at each execution.
    """
    return sa.literal_column(f"'{value}'")


def move(tables: Tables, transition: Transition, *which: sa.ColumnElement[bool]) -> sa.Update:
    """Return the UPDATE of the queue that moves those deliveries chosen by `which` whose state allows it.

    Parameters of the statement: `due` (of `GIVEN_BACK`, `REDELIVERED`, `RESTS`, `RESTED`), `owner` and `lease_until`
    (of `CLAIMED`).
    """
    queue = tables.queue
    values: dict[str, Any] = {"state": transition.target}
    match transition:
        case Transition.CLAIMED:
            values |= {
                "attempts": queue.c.attempts + 1,
                "due_at": sa.bindparam("lease_until"),
                "lease_owner": sa.bindparam("owner"),
            }
        case Transition.RETURNED:
            values |= {"lease_owner": None}
        case Transition.GIVEN_BACK:
            values |= {"lease_owner": None, "attempts": queue.c.attempts - 1, "due_at": sa.bindparam("due")}
        case Transition.REDELIVERED:
            values |= {"attempts_before": queue.c.attempts, "due_at": sa.bindparam("due")}
        case Transition.RESTS | Transition.RESTED:
            values |= {"due_at": sa.bindparam("due")}
    moved = sa.update(queue).where(*which, is_source(tables, transition, by_index=False)).values(values)
    return dialects.by_key(moved, queue)


def put_off(until: Sequence[datetime | None]) -> dict[str, list[Any]]:
    """Return the values by which `PUT_OFF` moves deliveries in the queue, whose leases the caller has locked."""
    count = len(until)
    return {"state": [Transition.PUT_OFF.target] * count, "due_at": list(until), "lease_owner": [None] * count}


def attempted(statuses: Sequence[DeliveryStatus], *, now: datetime) -> dict[str, list[Any]]:
    """Return the statuses of deliveries in the log after an attempt, and when each finished, if it did."""
    return {"status": list(statuses), "finished_at": [now if each in FINISHED else None for each in statuses]}


def leave(tables: Tables, transition: Transition, *which: sa.ColumnElement[bool], by_index: bool = False) -> sa.Delete:
    """Return the DELETE that takes those deliveries chosen by `which` out of the queue whose state allows it."""
    left = sa.delete(tables.queue).where(*which, is_source(tables, transition, by_index=by_index))
    return dialects.by_key(left, tables.queue)


def log(tables: Tables, transition: Transition, *which: sa.ColumnElement[bool]) -> sa.Update:
    """Return the UPDATE of the log that finishes the pending deliveries that `which` chooses, at the time `now`."""
    delivery = tables.delivery
    logged = sa.update(delivery).where(*which, delivery.c.status == DeliveryStatus.PENDING)
    return dialects.by_key(logged.values(status=transition.target, finished_at=sa.bindparam("now")), delivery)


def reopen(tables: Tables, *which: sa.ColumnElement[bool]) -> sa.Update:
    """Return the UPDATE of the log that makes finished deliveries chosen by `which` pending again."""
    delivery = tables.delivery
    reopened = sa.update(delivery).where(*which, delivery.c.status.in_(FINISHED))
    return dialects.by_key(reopened.values(status=DeliveryStatus.PENDING, finished_at=None), delivery)


def requeued(tables: Tables) -> Mapping[str, sa.ColumnElement[Any]]:
    """Return the columns of the queue's row for a delivery that `reopen` made pending; `due` is a parameter."""
    attempts = tables.delivery.c.attempts
    return {
        "state": sa.literal(Transition.REDELIVERED.target, tables.queue.c.state.type),
        "due_at": sa.bindparam("due", type_=tables.queue.c.due_at.type),
        "attempts": attempts,
        # The retry schedule counts from here.
        "attempts_before": attempts,
    }


def finish(scope: Scope, transition: Transition, ids: Collection[UUID]) -> None:
    """Finish those of the deliveries whose state allows it: none that is in flight."""
    tables, values = scope.tables, {"ids": list(ids), "now": scope.now}
    among = tables.among(scope.dialect.name, tables.delivery.c.id, "ids")
    if scope.dialect.name not in dialects.LOCKS_WHAT_IT_READS:
        # The DELETE waits for those that a claim has locked, and passes by them once they are in flight.
        scope.execute(_leave_those(scope, transition), values)
        queued = sa.select(1).where(tables.queue.c.delivery_id == tables.delivery.c.id).exists()
        scope.execute(log(tables, transition, among, ~queued), values)
    elif free := lock_free(scope, transition, ids):
        # By their ids alone, or MariaDB locks what it reads on the way. A later claim or pruning finishes those that
        # were locked.
        values["ids"] = free
        scope.execute(_leave_those(scope, transition), values)
        scope.execute(log(tables, transition, among), values)


def lock_free(scope: Scope, transition: Transition, ids: Collection[UUID]) -> Sequence[UUID]:
    """Lock those of the deliveries that no other transaction has locked and whose state allows it; return them."""
    return scope.execute(_free(scope, transition), {"ids": list(ids)}).scalars().all()


@statement
def _free(tables: Tables, dialect: str, transition: Transition) -> sa.Select[Any]:
    among = tables.among(dialect, tables.queue.c.delivery_id, "ids")
    free = sa.select(tables.queue.c.delivery_id).where(among, is_source(tables, transition, by_index=False))
    return dialects.by_key(free, tables.queue).with_for_update(skip_locked=True)


def note_undelivered(scope: Scope, ids: Collection[UUID]) -> None:
    """Note which of the deliveries have finished without success.

    `cancellations.cancel` notes none, because nobody sees the deliveries of a deleted endpoint.
    """
    scope.execute(_note_undelivered(scope), {"ids": list(ids)})


@statement
def _note_undelivered(tables: Tables, dialect: str) -> sa.Insert:
    delivery, undelivered = tables.delivery, tables.undelivered
    known = sa.select(1).where(undelivered.c.delivery_id == delivery.c.id).exists()
    is_undelivered = delivery.c.status.in_(UNDELIVERED), ~known
    columns = delivery.c.id, delivery.c.tenant_id, delivery.c.endpoint_id, delivery.c.status
    rows = sa.select(*columns).where(tables.among(dialect, delivery.c.id, "ids"), *is_undelivered)
    return sa.insert(undelivered).from_select(["delivery_id", "tenant_id", "endpoint_id", "status"], rows)


def forget_undelivered(scope: Scope, ids: Collection[UUID]) -> None:
    """Take those of the deliveries that are pending again out of the undelivered.

    On MariaDB and MySQL, give only such deliveries: the statement would lock what it reads of the log.
    """
    scope.execute(_forget_undelivered(scope), {"ids": list(ids)})


@statement
def _forget_undelivered(tables: Tables, dialect: str) -> sa.Delete:
    delivery, undelivered = tables.delivery, tables.undelivered
    among = tables.among(dialect, undelivered.c.delivery_id, "ids"), undelivered.c.status.in_(UNDELIVERED)
    forgotten = sa.delete(undelivered).where(*among)
    if dialect not in dialects.LOCKS_WHAT_IT_READS:
        is_pending = delivery.c.id == undelivered.c.delivery_id, delivery.c.status == _PENDING
        forgotten = forgotten.where(sa.select(1).where(*is_pending).exists())
    return dialects.by_key(forgotten, undelivered)


@statement
def _leave_those(tables: Tables, dialect: str, transition: Transition) -> sa.Delete:
    return leave(tables, transition, tables.among(dialect, tables.queue.c.delivery_id, "ids"))


def published(tables: Tables) -> Mapping[sa.Column[Any], sa.ColumnElement[Any]]:
    """Return what `publish` writes into the log for a new delivery."""
    delivery = tables.delivery
    return {
        delivery.c.status: constant(DeliveryStatus.PENDING),
        delivery.c.attempts: sa.literal_column("0"),
    }


def queued(
    tables: Tables, due: sa.ColumnElement[Any], *, delayed: bool
) -> Mapping[sa.Column[Any], sa.ColumnElement[Any]]:
    """Return what `publish` writes into the queue for a new delivery."""
    queue = tables.queue
    state = (Transition.DELAYED if delayed else Transition.PUBLISHED).target
    return {
        queue.c.state: constant(state),
        queue.c.due_at: due,
        queue.c.attempts: sa.literal_column("0"),
        queue.c.attempts_before: sa.literal_column("0"),
    }


def paused(tables: Tables, reason: PauseReason, now: sa.BindParameter[datetime]) -> Mapping[str, Any]:
    """Return what pauses an endpoint: `user` by its tenant, `gone` by a 410, `failures` after days of them.

    Pausing a paused endpoint keeps the time and the reason of the first pause.
    """
    endpoint = tables.endpoint
    return {
        "paused_at": sa.func.coalesce(endpoint.c.paused_at, now),
        "pause_reason": sa.func.coalesce(endpoint.c.pause_reason, reason),
    }


def resumed() -> Mapping[str, Any]:
    """Return what resumes an endpoint, whatever paused it."""
    return {"paused_at": None, "pause_reason": None}
