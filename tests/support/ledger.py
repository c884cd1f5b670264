"""Every delivery as the log and the queue have it at one moment, and what holds of them at any moment."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState
from tests.support.database import DELIVERY, ENDPOINT, QUEUE, REST, UNDELIVERED

UNDELIVERED_STATUSES = (DeliveryStatus.FAILED, DeliveryStatus.EXPIRED, DeliveryStatus.CANCELLED)


class Entry(NamedTuple):
    """A delivery: its rows in the log, in the queue and among the undelivered."""

    id: UUID
    tenant_id: str
    endpoint_id: UUID
    created_at: datetime
    status: DeliveryStatus
    finished_at: datetime | None
    recorded: int
    """The number of the attempt that was recorded last."""
    undelivered: DeliveryStatus | None
    """The status that the table of the undelivered has."""
    state: QueueState | None
    """None: the queue does not have it."""
    due_at: datetime | None
    owner: UUID | None
    begun: int | None
    """Attempts that have begun."""
    uncounted: int | None
    """Number of these that do not count in the retry schedule."""

    def is_leased(self, now: datetime) -> bool:
        """Return whether a worker has a lease that holds."""
        return self.state == QueueState.LEASED and self.due_at is not None and self.due_at > now

    def is_due(self, now: datetime) -> bool:
        """Return whether a worker may claim it, or its lease has ended."""
        return self.state not in (None, QueueState.HELD) and self.due_at is not None and self.due_at <= now

    def finished(self, status: DeliveryStatus, at: datetime | None) -> "Entry":
        """Return it as it is out of the queue."""
        out = self._replace(state=None, due_at=None, owner=None, begun=None, uncounted=None)
        return out._replace(status=status, finished_at=at)

    def ready(self) -> "Entry":
        """Return it as it is when a worker may claim it."""
        return self._replace(state=QueueState.READY, owner=None)


class Rest(NamedTuple):
    """A rest that an endpoint has asked for."""

    until: datetime
    times: int


class Ledger(NamedTuple):
    """All deliveries, the endpoints that there are, and their rests."""

    entries: Mapping[UUID, Entry]
    paused: Mapping[UUID, datetime | None]
    """Since when each endpoint is paused; None: it is active."""
    rests: Mapping[UUID, Rest]

    def of(self, endpoint_id: UUID) -> list[Entry]:
        """Return the deliveries to an endpoint."""
        return [each for each in self.entries.values() if each.endpoint_id == endpoint_id]

    def is_sent_to(self, endpoint_id: UUID, now: datetime) -> bool:
        """Return whether the endpoint takes deliveries now."""
        rest = self.rests.get(endpoint_id)
        return self.paused.get(endpoint_id, now) is None and (rest is None or rest.until <= now)

    def in_flight(self, endpoint_id: UUID, now: datetime) -> int:
        """Return how many deliveries to an endpoint workers have."""
        return sum(each.is_leased(now) for each in self.of(endpoint_id))

    def changes(self, after: "Ledger") -> Iterator[tuple[Entry | None, Entry | None]]:
        """Yield each delivery that is another one afterwards, as it was and as it is."""
        for delivery_id in self.entries.keys() | after.entries.keys():
            old, new = self.entries.get(delivery_id), after.entries.get(delivery_id)
            if old != new:
                yield old, new

    def check(self) -> None:
        """Assert what holds at any moment: nothing is lost, finished twice, or left where nobody looks."""
        states: defaultdict[UUID, set[QueueState | None]] = defaultdict(set)
        for each in self.entries.values():
            states[each.endpoint_id].add(each.state)
            is_pending = each.status == DeliveryStatus.PENDING
            assert (each.state is not None, each.finished_at is None) == (is_pending, is_pending), each
            assert (each.state == QueueState.LEASED) == (each.owner is not None), each
            undelivered = each.status if each.status in UNDELIVERED_STATUSES else None
            # Of a deleted endpoint none needs to be known.
            assert each.undelivered == undelivered or (each.endpoint_id not in self.paused and not each.undelivered), (
                each
            )
        for endpoint_id, of_endpoint in states.items():
            if QueueState.HELD in of_endpoint:
                # A claim releases it that takes what is ready, or a record that ends the rest.
                takes = {QueueState.READY} if endpoint_id not in self.rests else of_endpoint - {QueueState.HELD, None}
                assert endpoint_id in self.paused
                assert self.paused[endpoint_id] or takes & of_endpoint, self.of(endpoint_id)


def read(engine: sa.Engine) -> Ledger:
    """Read what the database has now."""
    columns = (
        *(DELIVERY.c[name] for name in ("id", "tenant_id", "endpoint_id", "created_at", "status", "finished_at")),
        DELIVERY.c.attempts,
        UNDELIVERED.c.status,
        *(QUEUE.c[name] for name in ("state", "due_at", "lease_owner", "attempts", "attempts_before")),
    )
    joined = DELIVERY.outerjoin(QUEUE, QUEUE.c.delivery_id == DELIVERY.c.id)
    joined = joined.outerjoin(UNDELIVERED, UNDELIVERED.c.delivery_id == DELIVERY.c.id)
    endpoints = ENDPOINT.outerjoin(REST, REST.c.endpoint_id == ENDPOINT.c.id)
    with engine.connect() as connection:
        entries = {row[0]: Entry._make(row) for row in connection.execute(sa.select(*columns).select_from(joined))}
        known = connection.execute(
            sa.select(ENDPOINT.c.id, ENDPOINT.c.paused_at, REST.c.until, REST.c.times).select_from(endpoints)
        ).all()
        queued = connection.execute(sa.select(sa.func.count()).select_from(QUEUE)).scalar_one()
    assert queued == sum(each.state is not None for each in entries.values())
    rests = {endpoint_id: Rest(until, times) for endpoint_id, _, until, times in known if until is not None}
    return Ledger(entries, {endpoint_id: paused_at for endpoint_id, paused_at, *_ in known}, rests)
