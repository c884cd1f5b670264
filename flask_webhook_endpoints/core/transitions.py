"""Every change of a delivery's status, and every pause of an endpoint. Nothing else writes them."""

from collections.abc import Collection, Mapping
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables

_PENDING, _SENDING = DeliveryStatus.PENDING, DeliveryStatus.SENDING
_DELIVERED, _FAILED = DeliveryStatus.DELIVERED, DeliveryStatus.FAILED
_CANCELLED, _EXPIRED = DeliveryStatus.CANCELLED, DeliveryStatus.EXPIRED
_FINISHED = (_DELIVERED, _FAILED, _CANCELLED, _EXPIRED)


class Transition(Enum):
    """A change of a delivery's status: why, from which statuses, to which one."""

    PUBLISHED = ("`publish` writes it for an endpoint that wants the event.", (), _PENDING)
    CLAIMED = ("A worker leases it for one attempt.", (_PENDING,), _SENDING)
    RETURNED = ("Its lease ended before the worker recorded a result; the attempt counts.", (_SENDING,), _PENDING)
    GIVEN_BACK = ("The worker did not finish the attempt, which does not count.", (_SENDING,), _PENDING)
    PUT_OFF = ("The attempt failed, and the retry schedule has another one.", (_SENDING,), _PENDING)
    DELIVERED = ("The receiver answered 2xx.", (_SENDING,), _DELIVERED)
    EXHAUSTED = ("The attempt failed, and the retry schedule has no more.", (_SENDING,), _FAILED)
    ABANDONED = ("Its endpoint or event was deleted; the attempt does not count.", (_SENDING,), _CANCELLED)
    CANCELLED = ("Its endpoint was deleted.", (_PENDING,), _CANCELLED)
    EXPIRED = ("A paused endpoint held it for longer than `HOLD_MAX_DAYS`.", (_PENDING,), _EXPIRED)
    REDELIVERED = ("A tenant or an operator asked for it again.", (_PENDING, *_FINISHED), _PENDING)

    def __init__(self, why: str, sources: tuple[DeliveryStatus, ...], target: DeliveryStatus) -> None:
        self.why = why
        self.sources = sources
        """The statuses that the delivery may have before."""
        self.target = target
        """The status that the delivery has afterwards."""


_NOT_COUNTED = (Transition.GIVEN_BACK, Transition.ABANDONED)


def is_source(tables: Tables, transition: Transition, *, by_index: bool = True) -> sa.ColumnElement[bool]:
    """Return whether a delivery has a status that the transition starts from.

    With `by_index=False` no planner looks the status up in an index: deliveries chosen by id are few, and a million
    others may have the same status.
    """
    status: sa.ColumnElement[Any] = tables.delivery.c.status
    if not by_index:
        status = sa.func.coalesce(status, "")
    return status == transition.sources[0] if len(transition.sources) == 1 else status.in_(transition.sources)


def update(tables: Tables, transition: Transition, *which: sa.ColumnElement[bool], by_index: bool = True) -> sa.Update:
    """Return the UPDATE of the deliveries that `which` chooses and that the transition may start from.

    Parameters of the statement, by its target: `due` (PENDING; not of `RETURNED`), `owner` and `lease_until` (SENDING),
    `now` (finished).
    """
    delivery = tables.delivery
    statement = sa.update(delivery).where(*which, is_source(tables, transition, by_index=by_index))
    return statement.values({delivery.c[name]: value for name, value in _values(tables, transition).items()})


def _values(tables: Tables, transition: Transition) -> Mapping[str, Any]:
    delivery, target = tables.delivery, transition.target
    values: dict[str, Any] = {"status": target, "lease_owner": None}
    if target is _SENDING:
        values |= {
            "attempts": delivery.c.attempts + 1,
            "next_attempt_at": sa.bindparam("lease_until"),
            "lease_owner": sa.bindparam("owner"),
        }
    elif target in _FINISHED:
        values |= {"next_attempt_at": None, "finished_at": sa.bindparam("now")}
    elif transition is not Transition.RETURNED:
        # A lease that ended leaves the time of its end: the delivery is due since then.
        values["next_attempt_at"] = sa.bindparam("due")
    if transition in _NOT_COUNTED:
        values["attempts"] = delivery.c.attempts - 1
    if transition is Transition.REDELIVERED:
        values |= {"attempts_before": delivery.c.attempts, "finished_at": None}
    return values


def published(tables: Tables) -> Mapping[sa.Column[Any], sa.ColumnElement[Any]]:
    """Return what `publish` writes for a new delivery; `due` is a parameter."""
    delivery = tables.delivery
    return {
        # Text, because SQLAlchemy makes a parameter of a constant, and prepares it at each execution.
        delivery.c.status: sa.literal_column(f"'{Transition.PUBLISHED.target}'"),
        delivery.c.attempts: sa.literal_column("0"),
        delivery.c.next_attempt_at: sa.bindparam("due", type_=delivery.c.next_attempt_at.type),
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
    return {"paused_at": None, "pause_reason": None, "failing_since": None, "exhausted_in_a_row": 0}


def cancel(scope: Scope, endpoint_ids: Collection[UUID]) -> None:
    """Cancel the deliveries that wait for deleted endpoints; those in flight may finish."""
    for endpoint_id in endpoint_ids:
        scope.execute(_cancel(scope), {"of_endpoint": endpoint_id, "now": scope.now})


@statement
def _cancel(tables: Tables, _dialect: str) -> sa.Update:
    return update(tables, Transition.CANCELLED, tables.delivery.c.endpoint_id == sa.bindparam("of_endpoint"))
