"""Turns: which due deliveries a worker attempts next, so that no tenant and no endpoint waits for another's.

`candidates` finds the deliveries among which it chooses.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import candidates, queue, transitions
from flask_webhook_endpoints.core.marks import BEGINNING, LATE, Marks
from flask_webhook_endpoints.core.places import Places, may_have
from flask_webhook_endpoints.core.queue import Candidate
from flask_webhook_endpoints.database.models import QueueState
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables


class Next(NamedTuple):
    """The choice of one claim."""

    delivery_ids: Sequence[UUID]
    """The deliveries that the worker may attempt next."""
    resting: Collection[UUID]
    """Endpoints that are tried out after a rest."""
    plenty: Mapping[UUID, datetime]
    """Endpoints with more ready deliveries than two claims take, and since when the first one beyond these is due."""
    moved: bool
    """True if others were moved out of the way; more may be due after them."""
    left: bool
    """True if others are due, and stay where they are."""


def choose(
    scope: Scope, *, most: int, cap: int, shortest_lease: timedelta, places: Places | None, marks: Marks | None
) -> Next:
    """Choose up to `most` due deliveries, and move out of the way what is due but can't be sent.

    First come the tenants with the fewest deliveries in flight, behind a backlog by turns, then the endpoints, then
    what is due the longest. No endpoint gets more than `cap` in flight, no tenant more places than `may_have` allows.
    """
    marks = marks or Marks(knows_all=True)
    due, is_all = candidates.find(scope, marks, places, most=most, cap=cap)
    # Count after reading the deliveries, so that what another worker leases in between counts as in flight.
    in_flight = _in_flight(scope, marks, shortest_lease)
    blocked, endpoints = list[Candidate](), list[_Waiting]()
    resting, plenty = set[UUID](), dict[UUID, datetime]()
    # One loop, because each delivery may have an endpoint of its own.
    for number, waiting in due.items():
        endpoint_id = waiting[0].endpoint_id
        if waiting[0].is_blocked(scope.now):
            blocked += waiting
            continue
        of_endpoint = in_flight.get(number, 0)
        if waiting[0].rests_until is None:
            most_in_flight = marks.cap(endpoint_id, cap, in_flight=of_endpoint)
        else:
            most_in_flight = 1
            resting.add(endpoint_id)
        if most_in_flight > of_endpoint:
            endpoints.append(_Waiting(of_endpoint, waiting[: most_in_flight - of_endpoint]))
        if len(waiting) > 2 * cap:
            plenty[endpoint_id] = waiting[2 * cap].due_at
    chosen = _fairly(endpoints, most=most, places=places, marks=marks)
    if not is_all:
        _note_turns(marks, endpoints, chosen)
    left = not is_all or sum(map(len, due.values())) > len(blocked) + len(chosen)
    return Next(chosen, resting, plenty, queue.move_away(scope, blocked), left)


def _in_flight(scope: Scope, marks: Marks, shortest_lease: timedelta) -> dict[int, int]:
    """Return how many deliveries each endpoint, by its number, has in flight, of all workers."""
    since = BEGINNING if marks.is_time_for("all leases") else marks.leased_from or BEGINNING

    def look() -> Sequence[Any]:
        return scope.read(_leased(scope), {"leased_from": since})

    rows = marks.timed("all leases", look) if since == BEGINNING else look()
    # Leases that begin later end later, but for clocks that differ, for claims that commit late, and for workers whose
    # `MAX_TIMEOUT_SECONDS` is lower. Where there is none, a look from now on finds all that begin.
    begun_now = scope.now + (shortest_lease if rows else timedelta(0))
    marks.leased_from = min([begun_now, *(first for _, _, first in rows)]) - LATE
    return {endpoint_id.int: count for endpoint_id, count, _ in rows}


class _Waiting(NamedTuple):
    """The deliveries that an endpoint may have next: as many as its cap leaves room for."""

    in_flight: int
    due: Sequence[Candidate]


def _fairly(waiting: Iterable[_Waiting], *, most: int, places: Places | None, marks: Marks) -> list[UUID]:
    """Choose one delivery after another: of the tenant, then the endpoint, with the fewest in flight.

    Of tenants that have as many, first comes the one whose last turn behind a backlog was the longest ago.
    """
    of_tenants: defaultdict[str, list[Any]] = defaultdict(list)
    in_flight: Counter[str] = Counter()
    for endpoint in waiting:
        tenant_id = endpoint.due[0].tenant_id
        in_flight[tenant_id] += endpoint.in_flight
        # With each delivery, how many its endpoint has in flight once those before it are chosen.
        of_tenants[tenant_id] += [
            (count, each.due_at, each.id.int, each.id) for count, each in enumerate(endpoint.due, endpoint.in_flight)
        ]
    turns = []
    for tenant_id, of_tenant in of_tenants.items():
        taken = places.taken.get(tenant_id, 0) if places else in_flight[tenant_id]
        turn = marks.turn_of(tenant_id)
        turns += [(count, turn, *each[1:]) for count, each in enumerate(sorted(of_tenant), taken)]
    if len(of_tenants) > 1:
        turns.sort()
    free, kept = (places.free, places.kept) if places else (math.inf, 0)
    # From turn to turn, `count`, the places that the tenant has, grows, and the free places become fewer. So once a
    # tenant has its share of them, every tenant has.
    return [
        delivery_id
        for number, (count, *_, delivery_id) in enumerate(turns[:most])
        if may_have(count, free - number, kept)
    ]


def _note_turns(marks: Marks, waiting: Iterable[_Waiting], chosen: Iterable[UUID]) -> None:
    """Note which tenants have a turn behind a backlog, and which newcomers could have one."""
    tenants = {each.id.int: each.tenant_id for endpoint in waiting for each in endpoint.due}
    marks.note_turns(Counter([tenants[delivery_id.int] for delivery_id in chosen]), Counter(tenants.values()))


@statement
def _leased(tables: Tables, _dialect: str) -> Any:
    queue = tables.queue
    is_leased = queue.c.state == transitions.constant(QueueState.LEASED), queue.c.due_at >= sa.bindparam("leased_from")
    first = sa.func.min(queue.c.due_at)
    return sa.select(queue.c.endpoint_id, sa.func.count(), first).where(*is_leased).group_by(queue.c.endpoint_id)
