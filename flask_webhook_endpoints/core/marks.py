"""Marks: a worker remembers how far its claims have read, so that the next one reads from there."""

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

T = TypeVar("T")

COLD_CAP = 2
"""The cap of an endpoint to which no attempt has ended lately. Its first answer may ask for rest."""

COLD_SECONDS = 60.0
"""Seconds since the end of the last attempt to an endpoint, after which that cap holds again."""

KNOWN = 100_000
"""The number of endpoints that a worker remembers at most."""

LATE = timedelta(seconds=2)
"""Claims that read from a mark on still find deliveries that were committed this late. Clocks may differ by it."""

REST_OF_TIME = 10
"""A look waits so many times as long as the last one of its kind took. So it takes a tenth of the time."""

REST_OF_WHOLE = 500
"""The same for looks at the whole queue, which find what was committed late. Most that they read may be dead rows."""

IN_VAIN_SECONDS = 1.0
"""Seconds for which looks pass by ready deliveries that a claim could not take. Their endpoint or tenant has enough."""

MAX_PAUSE_SECONDS = 5.0
"""Seconds between two looks of a kind at most, unless one takes longer."""

MAX_PAST_SECONDS = 0.4
"""Seconds between two looks past the first deliveries at most: other tenants wait for them behind a backlog."""

BEGINNING = datetime(1000, 1, 1, tzinfo=UTC)
"""Before everything."""

START = UUID(int=0)
"""Before every id."""


class Marks:
    """Marks of one worker, by which a claim skips what the claims before it have read.

    A worker that loses them loses time, and never a delivery.

    Rows that are gone stay in an index as long as somebody holds an old snapshot. Without marks each claim would step
    over all of them.
    """

    def __init__(self, *, knows_all: bool = False) -> None:
        """Begin with nothing; with `knows_all`, as if an attempt to every endpoint had just ended."""
        self._knows_all = knows_all
        self.ready_from: datetime | None = None
        """No ready delivery is due before this time, unless its transaction committed late."""
        self.looked_at = BEGINNING
        """The time of the last look at all that is ready, or a little earlier."""
        self.in_vain_from = BEGINNING
        """A claim could take none of the ready deliveries that were due before this time."""
        self.waiting_from: datetime | None = None
        """No waiting delivery is due before this time, unless its transaction committed late.

        It is never before `ready_from`, so that claims find what they make ready.
        """
        self.leased_from: datetime | None = None
        """Every lease in force ends at this time or later."""
        self.ended_from: datetime | None = None
        """Looks for leases that have ended begin at this time."""
        self.tenant = ""
        """The tenant at which the last look past the first deliveries ended."""
        self.endpoints: dict[str, UUID] = {}
        """The endpoint at which it ended, for each tenant that has more."""
        self.newest_from = BEGINNING
        """Claims have seen each delivery that became due before this time, or pass it by behind a backlog."""
        self.newcomers: dict[str, UUID] = {}
        """Tenants that came behind a backlog, and may have more, with the first of their endpoints that does."""
        self.later_newcomers: dict[str, UUID] = {}
        """Tenants that came behind a backlog, and for which no look has had time yet, likewise."""
        self._turns: dict[str, int] = {}
        self._turn = 0
        self.swept_to: tuple[str, UUID] = ("", START)
        """The tenant and the endpoint at which the last sweep of held deliveries ended."""
        self.has_swept_all = False
        """True once sweeps have passed all endpoints."""
        # By the endpoint's number, because Python hashes UUIDs slowly.
        self._attempted_at: dict[int, float] = {}
        self._next: dict[str, float] = {}

    def is_time_for(self, look: str) -> bool:
        """Return whether an expensive look may be taken again."""
        return time.monotonic() >= self._next.get(look, 0)

    def look_at_all(self) -> None:
        """Let the next looks be at the whole queue, as those of a new worker are. The sweep keeps its time."""
        self._next = {look: at for look, at in self._next.items() if look == "sweep"}

    def looked_in_vain(self, now: datetime, *, from_mark: bool, is_whole: bool) -> None:
        """Note that a look found nothing due; the next one need not step over the same dead rows.

        `from_mark` tells that it began at `ready_from` or before, and `is_whole` that it looked at the whole queue.
        """
        self.waiting_from = self.ended_from = now - LATE
        if from_mark:
            self.ready_from = now - LATE
            if is_whole:
                self.looked_at = self.ready_from

    def turn_of(self, tenant_id: str) -> int:
        """Return the number of the tenant's last turn behind a backlog; 0 if it had none."""
        return self._turns.get(tenant_id, 0)

    def note_turns(self, chosen: Mapping[str, int], due: Mapping[str, int]) -> None:
        """Note how many deliveries of each tenant a claim has chosen, of those that were due.

        A newcomer that gets a part of them is none any more: it has a backlog itself.
        """
        if len(self._turns) > KNOWN:
            self._turns.clear()
        self._turn += 1
        self._turns.update(dict.fromkeys(chosen, self._turn))
        self.newcomers = {
            tenant_id: endpoint_id
            for tenant_id, endpoint_id in self.newcomers.items()
            if tenant_id in due and chosen.get(tenant_id, 0) in (0, due[tenant_id])
        }

    def wait(self, look: str, seconds: float) -> None:
        """Let the next look of this name wait for so many seconds."""
        self._next[look] = time.monotonic() + seconds

    def ready_since(self) -> datetime:
        """Return the due time from which a claim reads what is ready."""
        return BEGINNING if self.is_time_for("all ready") else self.ready_from or BEGINNING

    def released(self, since: datetime) -> None:
        """Note that deliveries are ready which were due since a time that may be before the mark."""
        # Read once, because the thread of the database may unset it.
        if (ready_from := self.ready_from) is not None:
            self.ready_from = min(ready_from, since)
        self.in_vain_from = BEGINNING

    def claimed_in_vain(self, now: datetime) -> None:
        """Note that something was ready, and that a claim took nothing of it."""
        self.in_vain_from = now - LATE
        self.wait("what waits", IN_VAIN_SECONDS)

    def timed(
        self,
        look: str,
        read: Callable[[], T],
        *,
        rest: int = REST_OF_WHOLE,
        least: float = 0.0,
        most: float = MAX_PAUSE_SECONDS,
    ) -> T:
        """Read, and let the next look of this name wait in proportion to the time that it took."""
        begun = time.monotonic()
        found = read()
        seconds = time.monotonic() - begun
        # After a slow look, wait for as long as it took, or looks would leave no time for what they find.
        self.wait(look, min(max(rest * seconds, least), max(most, seconds)))
        return found

    def attempted(self, endpoint_id: UUID) -> None:
        """Note that an attempt to an endpoint has ended, and that its answer, if any, asks for no rest."""
        if len(self._attempted_at) >= KNOWN:
            self._attempted_at.clear()
        self._attempted_at[endpoint_id.int] = time.monotonic()

    def cap(self, endpoint_id: UUID, cap: int, *, in_flight: int) -> int:
        """Return how many deliveries an endpoint may have in flight: `cap`, if an attempt to it has ended lately.

        Otherwise it has fewer until one ends. If it has more `in_flight`, another worker has seen one end.
        """
        if self._knows_all or in_flight > COLD_CAP:
            return cap
        attempted_at = self._attempted_at.get(endpoint_id.int, -math.inf)
        return cap if time.monotonic() - attempted_at < COLD_SECONDS else min(cap, COLD_CAP)
