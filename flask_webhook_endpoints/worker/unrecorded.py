"""The deliveries that a worker has claimed and not yet recorded, and the memory that their bodies take."""

from collections import Counter
from collections.abc import Iterable

from flask_webhook_endpoints.core.places import Places
from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.core.room import SMALL_BYTES, Room


class Unrecorded:
    """Keeps the deliveries that one worker has claimed, until they are recorded or given back."""

    def __init__(self, *, max_body_bytes: int) -> None:
        """Begin with none; no body has more bytes than `max_body_bytes`."""
        self._max_body_bytes = max_body_bytes
        # By their numbers, because Python hashes UUIDs slowly.
        self._ids: set[int] = set()
        self._by_tenant: Counter[str] = Counter()
        self._large: dict[int, Claimed] = {}
        self._rests: dict[int, int] = {}
        """How often the endpoint of a delivery rested when the worker claimed it again, during the attempt."""

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def room(self) -> Room:
        """The room that is left for further bodies."""
        held: Counter[str] = Counter()
        for delivery in self._large.values():
            held[delivery.tenant_id] += len(delivery.body)
        return Room(held, self._max_body_bytes)

    def places(self, concurrency: int) -> Places:
        """Return the places that are free and taken, of so many in all."""
        return Places(concurrency - len(self._ids), self._by_tenant)

    def add(self, deliveries: Iterable[Claimed]) -> list[Claimed]:
        """Take deliveries that the worker has claimed; return those that it had not claimed already."""
        new = []
        for delivery in deliveries:
            if delivery.id.int in self._ids:
                self._rests[delivery.id.int] = delivery.rests
                continue
            new.append(delivery)
            self._ids.add(delivery.id.int)
            self._by_tenant[delivery.tenant_id] += 1
            if len(delivery.body) > SMALL_BYTES:
                self._large[delivery.id.int] = delivery
        return new

    def with_last_rests(self, settlement: Settlement) -> Settlement:
        """Return a result that ends its endpoint's rest, if the last claim was to try it out."""
        if rests := self._rests and self._rests.get(settlement.delivery.id.int):
            return settlement._replace(delivery=settlement.delivery._replace(rests=rests))
        return settlement

    def remove(self, deliveries: Iterable[Claimed]) -> None:
        """Forget deliveries that are recorded or given back."""
        for delivery in deliveries:
            number = delivery.id.int
            if number not in self._ids:
                continue
            self._ids.remove(number)
            self._large.pop(number, None)
            self._rests.pop(number, None)
            self._by_tenant[delivery.tenant_id] -= 1
            if not self._by_tenant[delivery.tenant_id]:
                del self._by_tenant[delivery.tenant_id]
