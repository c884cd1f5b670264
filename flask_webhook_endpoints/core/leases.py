"""Leases: a worker claims deliveries for one attempt each, and gives back those that it does not attempt.

A claim and its record are two transactions with the network between them. A lease says which worker may record, and it
ends by itself where that worker dies.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from operator import attrgetter
from typing import Any, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import queue, transitions
from flask_webhook_endpoints.core.room import Room, fitting
from flask_webhook_endpoints.core.secrets import current_first
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.security import encryption
from flask_webhook_endpoints.security.private import PrivateURL

LEASE_MARGIN_SECONDS = 30
"""Seconds that a lease lasts beyond the longest timeout: for the record, and for clocks that differ."""


class Claimed(NamedTuple):
    """A delivery that a worker may attempt now, with all that it needs; headers and secrets are still encrypted."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    attempt: int
    """The attempt's number, counted from 1."""
    turn: int
    """The attempt's place in the retry schedule, counted from 1."""
    tenant_id: str
    body: bytes
    traceparent: str | None
    """The trace in which the host published the event."""
    url: PrivateURL
    headers_encrypted: str | None
    timeout_seconds: int
    failing: bool
    """True if deliveries to the endpoint were failing when the worker claimed this one."""
    ep_id: str
    """The endpoint's id as text."""
    secrets_encrypted: tuple[tuple[str, str], ...]
    """Each with its place, the current secret first, then the previous ones that have not expired."""


class Claim(NamedTuple):
    """The deliveries that a worker got by one claim."""

    deliveries: Sequence[Claimed]
    cancelled: bool = False
    """True if the claim cancelled some deliveries instead; more may be due after them."""
    contended: bool = False
    """True if another worker claimed some of them first; more may be due after them."""


class _Lease(NamedTuple):
    """A leased delivery: the first fields of `Claimed`."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    attempt: int
    turn: int
    tenant_id: str


def claim(
    scope: Scope, owner: UUID, *, most: int, cap: int, max_timeout_seconds: int, room: Room | None = None
) -> Claim:
    """Lease up to `most` due deliveries of active endpoints with fewer than `cap` in flight, the longest due first.

    With `room`, those whose bodies do not fit into it stay due.
    """
    # First return the deliveries whose lease ended before a worker recorded a result.
    scope.execute(_return_expired(scope), {"now": scope.now})
    chosen, orphaned = queue.choose(scope, most=most, cap=cap)
    if orphaned:
        transitions.cancel(scope, orphaned)
    if room is not None and chosen:
        chosen = fitting(scope, chosen, room)
    lasting = timedelta(seconds=max_timeout_seconds + LEASE_MARGIN_SECONDS)
    leased = _lease(scope, owner, chosen, lasting) if chosen else []
    loaded = _load(scope, leased) if leased else []
    if abandons := len(loaded) < len(leased):
        ids = {lease.id for lease in leased} - {claimed.id for claimed in loaded}
        scope.execute(end(scope, Transition.ABANDONED), {"ids": ids, "owner": owner, "now": scope.now})
    return Claim(loaded, cancelled=bool(orphaned) or abandons, contended=len(leased) < len(chosen))


def is_any_due(scope: Scope, *, cap: int) -> bool:
    """Return whether a claim would find a delivery."""
    expired = scope.execute(_expired(scope), {"now": scope.now}).first()
    return expired is not None or queue.is_any_due(scope, cap=cap)


def give_back(scope: Scope, owner: UUID, deliveries: Collection[Claimed]) -> None:
    """Return leased deliveries whose attempt the worker did not begin or did not finish; it does not count."""
    ids = [claimed.id for claimed in deliveries]
    scope.execute(end(scope, Transition.GIVEN_BACK), {"ids": ids, "owner": owner, "due": scope.now})


def _lease(scope: Scope, owner: UUID, chosen: Sequence[UUID], lasting: timedelta) -> list[_Lease]:
    """Lease those of the chosen deliveries that no other worker has claimed; return the oldest first."""
    free, rows = {"ids": chosen, "now": scope.now}, cast(Sequence[Any], ())
    lease = {"lease_until": scope.now + lasting, "owner": owner}
    if scope.dialect.update_returning:
        rows = scope.execute(_lease_free(scope), {**free, **lease}).all()
    elif ids := scope.execute(_free(scope), free).scalars().all():
        scope.execute(_lease_locked(scope), {"ids": ids, **lease})
        rows = scope.execute(_leased(scope), {"ids": ids}).all()
    # Ids begin with a time. The rows become tuples, because looking at a row by name costs an exception each time.
    return sorted(map(_Lease._make, rows), key=attrgetter("id.int"))


def _load(scope: Scope, leased: Sequence[_Lease]) -> list[Claimed]:
    """Add events and receivers, each read once however many deliveries share it; leave out those that were deleted."""
    # By their numbers, because Python hashes and compares UUIDs slowly, some of them for each delivery.
    event_ids = {lease.event_id.int: lease.event_id for lease in leased}
    endpoint_ids = {lease.endpoint_id.int: lease.endpoint_id for lease in leased}
    found: Sequence[Any] = scope.execute(_events(scope), {"ids": event_ids.values()}).all()
    events = {event_id.int: event for event_id, *event in found}
    receivers = _load_receivers(scope, endpoint_ids.values())
    return [
        Claimed._make((*lease, *event, *receiver))
        for lease in leased
        if (event := events.get(lease.event_id.int)) is not None
        and (receiver := receivers.get(lease.endpoint_id.int)) is not None
    ]


def _load_receivers(scope: Scope, endpoint_ids: Collection[UUID]) -> dict[int, tuple[Any, ...]]:
    """Return the last fields of `Claimed` by the number of the endpoint, which all its deliveries share."""
    receivers: dict[int, tuple[Any, ...]] = {}
    rows: Sequence[Any] = scope.execute(_receivers(scope), {"ids": endpoint_ids, "now": scope.now}).all()
    for endpoint_id, url, *receiver, secret_id, token in rows:
        *_, newer = receivers.get(endpoint_id.int, ((),))
        ep_id = format_id(endpoint_id)
        place = encryption.place_of_secret(secret_id, ep_id)
        receivers[endpoint_id.int] = (
            PrivateURL(url),
            *receiver,
            ep_id,
            newer if token is None else (*newer, (token, place)),
        )
    return receivers


def ending(tables: Tables, dialect: str, transition: Transition, *, returning: bool = False) -> Any:
    """Return the UPDATE that ends the worker's leases on some deliveries; it passes by those whose lease is lost.

    Parameters: `ids` and `owner`, beside those of the transition.
    """
    update = transitions.update(tables, transition, *of_owner(tables, dialect), by_index=False)
    return update.returning(tables.delivery.c.id) if returning else update


def of_owner(tables: Tables, dialect: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for deliveries among `ids` whose lease is `owner`'s."""
    delivery = tables.delivery
    return tables.among(dialect, delivery.c.id, "ids"), delivery.c.lease_owner == sa.bindparam("owner")


end = statement(ending)


@statement
def _expired(tables: Tables, _dialect: str) -> sa.Select[Any]:
    is_leased = transitions.is_source(tables, Transition.RETURNED)
    return sa.select(tables.delivery.c.id).where(is_leased, _has_come(tables)).limit(1)


@statement
def _return_expired(tables: Tables, _dialect: str) -> sa.Update:
    return transitions.update(tables, Transition.RETURNED, _has_come(tables))


def _select_free(tables: Tables, dialect: str) -> sa.Select[Any]:
    """Select and lock those of the chosen deliveries that no other worker has locked."""
    delivery = tables.delivery
    is_pending = transitions.is_source(tables, Transition.CLAIMED, by_index=False)
    # Another worker may have attempted a delivery since, and put it off.
    which = tables.among(dialect, delivery.c.id, "ids"), is_pending, _has_come(tables)
    return sa.select(delivery.c.id).where(*which).with_for_update(skip_locked=True)


_free = statement(_select_free)


@statement
def _lease_free(tables: Tables, dialect: str) -> Any:
    # A table of its own, or PostgreSQL may lock them all again for each row that it looks at.
    free = _select_free(tables, dialect).cte("free")
    which = tables.delivery.c.id.in_(sa.select(free.c.id))
    return transitions.update(tables, Transition.CLAIMED, which, by_index=False).returning(*_of_lease(tables))


@statement
def _lease_locked(tables: Tables, dialect: str) -> sa.Update:
    among = tables.among(dialect, tables.delivery.c.id, "ids")
    return transitions.update(tables, Transition.CLAIMED, among, by_index=False)


@statement
def _leased(tables: Tables, dialect: str) -> Any:
    return sa.select(*_of_lease(tables)).where(tables.among(dialect, tables.delivery.c.id, "ids"))


def _has_come(tables: Tables) -> sa.ColumnElement[bool]:
    """Return whether the time has come when a delivery is due, or when its lease ends."""
    return tables.delivery.c.next_attempt_at <= sa.bindparam("now")


def _of_lease(tables: Tables) -> list[Any]:
    """Return the columns of `_Lease`."""
    delivery = tables.delivery
    turn = (delivery.c.attempts - delivery.c.attempts_before).label("turn")
    ids = delivery.c.id, delivery.c.endpoint_id, delivery.c.event_id
    return [*ids, delivery.c.attempts, turn, delivery.c.tenant_id]


@statement
def _events(tables: Tables, dialect: str) -> Any:
    event = tables.event
    return sa.select(event.c.id, event.c.body, event.c.traceparent).where(tables.among(dialect, event.c.id, "ids"))


@statement
def _receivers(tables: Tables, dialect: str) -> Any:
    endpoint, secret = tables.endpoint, tables.secret
    is_live = sa.or_(secret.c.expires_at.is_(None), secret.c.expires_at > sa.bindparam("now"))
    return (
        sa.select(
            endpoint.c.id,
            endpoint.c.url,
            endpoint.c.headers_encrypted,
            endpoint.c.timeout_seconds,
            endpoint.c.failing_since.is_not(None).label("failing"),
            secret.c.id.label("secret_id"),
            secret.c.secret_encrypted,
        )
        .select_from(endpoint.outerjoin(secret, sa.and_(secret.c.endpoint_id == endpoint.c.id, is_live)))
        .where(tables.among(dialect, endpoint.c.id, "ids"))
        .order_by(*current_first(tables))
    )
