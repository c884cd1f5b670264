"""A worker's claims: when it looks for due deliveries, and when it claims some."""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Literal, TypeVar
from uuid import UUID

from flask_webhook_endpoints.core import leases, queue, sweep
from flask_webhook_endpoints.core.leases import Claim, Left
from flask_webhook_endpoints.core.marks import BEGINNING, START, Marks
from flask_webhook_endpoints.core.results import Claimed
from flask_webhook_endpoints.errors import RegistrationError
from flask_webhook_endpoints.state import State
from flask_webhook_endpoints.worker.database_thread import AWAY_SECONDS, DatabaseThread, log_error
from flask_webhook_endpoints.worker.pace import Pace
from flask_webhook_endpoints.worker.unrecorded import Unrecorded

T = TypeVar("T")

Until = Literal["stopped", "drained", "once"]
"""The end of a worker's run: when it is stopped, when nothing is due, or after one claim."""

CONTENDED_SECONDS = 0.05
"""Seconds until a worker looks again after deliveries that others have locked; doubled each time in a row."""

MAX_DOUBLINGS = 4
"""Doublings of that time at most, to 0.8 seconds: meanwhile the worker sees no other delivery."""

CONTENDED_LOOKS = 6
"""Claims in vain, two to three seconds, after which a worker claims beside another, and a drain ends."""


class Claims:
    """Claims deliveries for one run of a worker, again and again."""

    def __init__(
        self,
        state: State,
        database: DatabaseThread,
        pace: Pace,
        marks: Marks,
        unrecorded: Unrecorded,
        *,
        owner: UUID,
        until: Until,
        batch: int,
        concurrency: int,
        room: Callable[[], int],
    ) -> None:
        """Take what the worker has; `room` returns how many more deliveries it can take now, at most `batch`."""
        self._state = state
        self._database = database
        self._pace = pace
        self._marks = marks
        self._unrecorded = unrecorded
        self._owner = owner
        self._until: Until = until
        self._batch = batch
        self._concurrency = concurrency
        self._room = room
        self._in_vain = 0
        """Claims in a row that got nothing, because other workers were quicker."""

    async def each(self) -> AsyncIterator[Sequence[Claimed]]:
        """Yield the deliveries of each claim, maybe none, until the run of the worker ends.

        The worker adds them to `unrecorded` before it asks for the next.
        """
        found = False
        while not self._pace.is_stopped:
            self._pace.look()
            # Ask before the claim: what is recorded during it may make room for more.
            all_recorded = not self._unrecorded
            claim = await self._claim()
            yield claim.deliveries
            self._note(claim, found=found)
            if self._has_ended(claim, all_recorded=all_recorded):
                return
            found = await self._is_due(claim)

    async def _claim(self) -> Claim:
        most, settings = self._room(), self._state.settings
        if most <= 0:
            return Claim([])
        if self._is_time_to_sweep():
            await self._sweep()
        claim = partial(
            leases.claim,
            owner=self._owner,
            most=most,
            cap=settings.max_in_flight_per_endpoint,
            max_timeout_seconds=settings.max_timeout_seconds,
            room=self._unrecorded.room,
            places=self._unrecorded.places(self._concurrency),
            # One claim alone can't wait for an answer before it sends more.
            marks=None if self._until == "once" else self._marks,
            # A worker that hangs in its claim must not keep the others from theirs.
            alone=self._until != "once" and self._in_vain < CONTENDED_LOOKS,
        )
        return await self._ask(partial(self._database.transact, claim), failed=Claim([]))

    def _is_time_to_sweep(self) -> bool:
        return self._until != "once" and self._marks.is_time_for("sweep")

    async def _sweep(self) -> None:
        """Sweep in a transaction of its own, because no other worker claims during a claim.

        A worker's first sweeps follow each other until they have passed all endpoints: a drain from cron has new marks
        each time. A sweep that fails keeps no worker from its claim.
        """
        self._marks.wait("sweep", sweep.EVERY_SECONDS)
        try:
            swept = await self._database.transact(partial(sweep.sweep, after=self._marks.swept_to))
        except Exception as error:
            log_error("webhooks.not_swept", error)
            return
        self._marks.swept_to = swept.to
        self._marks.has_swept_all |= swept.to == ("", START)
        if not self._marks.has_swept_all:
            self._marks.wait("sweep", 0)
        if swept.released:
            # What was released may be due since before the mark.
            self._marks.released(BEGINNING)

    def _note(self, claim: Claim, *, found: bool) -> None:
        """Learn from a claim; `found` says that it followed a look that had found something due."""
        if claim.deliveries:
            self._pace.worked()
        elif found and claim.left in (Left.NOTHING, Left.DUE):
            self._marks.claimed_in_vain(self._state.now())
        self._in_vain = self._in_vain + 1 if claim.left is Left.CONTENDED and not claim.deliveries else 0

    def _has_ended(self, claim: Claim, *, all_recorded: bool) -> bool:
        """Return whether the run ends here; `all_recorded` is True if nothing was left to record before the claim."""
        if self._until == "drained":
            gets_more = claim.left is Left.MOVED or 0 < self._in_vain < CONTENDED_LOOKS or self._is_time_to_sweep()
            return all_recorded and not claim.deliveries and not gets_more
        return self._until == "once"

    async def _is_due(self, claim: Claim) -> bool:
        """Wait until it is time for the next claim; return True if a look has found something due."""
        if claim.left is Left.MOVED or len(claim.deliveries) == self._batch:
            return False
        # Without room there is no sweep, and nothing else here would let attempts end and make some.
        if self._is_time_to_sweep() and self._room() > 0:
            return False
        if claim.left is Left.CONTENDED:
            await self._pace.is_stirred(within_seconds=CONTENDED_SECONDS * 2 ** min(self._in_vain, MAX_DOUBLINGS))
            return False
        return await self._look(nothing_left=claim.left is Left.NOTHING)

    async def _look(self, *, nothing_left: bool) -> bool:
        """Look for due deliveries until there are some, or something stirs the worker; return whether there are.

        Where the last claim has left nothing that is due, what stirs the worker leads to a look, which costs a tenth of
        a claim.
        """
        is_any_due = partial(queue.is_any_due, marks=self._marks)
        watch = partial(self._database.watch, is_any_due, lambda: self._pace.seconds)
        look = partial(self._database.look, is_any_due)
        while True:
            if self._pace.was_stirred:
                is_drained = self._until == "drained" and not self._unrecorded
                if not nothing_left or is_drained or self._pace.is_stopped:
                    return False
                self._pace.look()
            elif not self._unrecorded:
                # Nothing is in flight: only a look, or what stirs the worker, finds something new.
                if await self._ask(watch, failed=False):
                    return True
                continue
            elif await self._pace.is_stirred():
                continue
            if self._room() > 0 and await self._ask(look, failed=False):
                return True

    async def _ask(self, ask: Callable[[], Coroutine[Any, Any, T]], *, failed: T) -> T:
        """Return what the database says to a claim or a look. Where it fails, log why, pause, and return `failed`."""
        try:
            return await ask()
        except Exception as error:
            # No other try helps against a wrong setting.
            if self._until != "stopped" or isinstance(error, RegistrationError):
                raise
            log_error("webhooks.not_claimed", error)
            await self._pace.is_stirred(within_seconds=AWAY_SECONDS)
            return failed
