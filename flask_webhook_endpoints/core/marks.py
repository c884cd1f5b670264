"""Marks: a worker remembers how far its claims have read, so that the next one reads from there."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

T = TypeVar("T")

COLD_CAP = 2
"""The cap of an endpoint that has not answered yet, because it may ask for rest."""

COLD_SECONDS = 1.0
"""Seconds after the first claim for an endpoint, for which that cap holds unless it answers."""

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
        """Begin with nothing; with `knows_all`, every endpoint counts as one that has answered."""
        self._knows_all = knows_all
        self.ready_from: datetime | None = None
        """No ready delivery is due before this time, unless its transaction committed late."""
        self.looked_at = BEGINNING
        """The time of the last look at all that is ready, or a little earlier."""
        self.in_vain_from = BEGINNING
        """A claim could take none of the ready deliveries that were due before this time."""
        self.leased_from: datetime | None = None
        """Every lease in force ends at this time or later."""
        self.ended_from: datetime | None = None
        """Looks for leases that have ended begin at this time."""
        self.tenant = ""
        """The tenant at which the last look past the first deliveries ended."""
        self.endpoints: dict[str, UUID] = {}
        """The endpoint at which it ended, for each tenant that has more."""
        self.is_trying_out = False
        """True once an endpoint got less than its cap, because it has not answered yet."""
        self.swept_to: tuple[str, UUID] = ("", START)
        """The tenant and the endpoint at which the last sweep of held deliveries ended."""
        # By the endpoint's number, because Python hashes UUIDs slowly.
        self._first_claimed: dict[int, float] = {}
        self._next: dict[str, float] = {}

    def is_time_for(self, look: str) -> bool:
        """Return whether an expensive look may be taken again."""
        return time.monotonic() >= self._next.get(look, 0)

    def looked_in_vain(self, now: datetime, *, from_mark: bool, is_whole: bool) -> None:
        """Note that a look found nothing due; the next one need not step over the same dead rows.

        `from_mark` tells that it began at `ready_from` or before, and `is_whole` that it looked at the whole queue.
        """
        self.ended_from = now - LATE
        if from_mark:
            self.ready_from = now - LATE
            if is_whole:
                self.looked_at = self.ready_from

    def wait(self, look: str, seconds: float) -> None:
        """Let the next look of this name wait for so many seconds."""
        self._next[look] = time.monotonic() + seconds

    def ready_since(self) -> datetime:
        """Return the due time from which a claim reads what is ready."""
        return BEGINNING if self.is_time_for("all ready") else self.ready_from or BEGINNING

    def released(self, since: datetime) -> None:
        """Note that deliveries are ready which were due since a time that may be before the mark."""
        if self.ready_from is not None:
            self.ready_from = min(self.ready_from, since)
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

    def answered(self, endpoint_id: UUID) -> None:
        """Note that an endpoint has answered, and has asked for no rest."""
        self._first_claimed[endpoint_id.int] = 0

    def cap(self, endpoint_id: UUID, cap: int) -> int:
        """Return how many deliveries an endpoint may have in flight, of `cap` once it is known."""
        if self._knows_all:
            return cap
        if len(self._first_claimed) > KNOWN:
            self._first_claimed.clear()
        now = time.monotonic()
        if now - self._first_claimed.setdefault(endpoint_id.int, now) >= COLD_SECONDS:
            return cap
        self.is_trying_out = True
        return min(cap, COLD_CAP)
