"""The pace of a worker: how long it waits between two looks for due deliveries, unless something stirs it."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

QUIET_SHARE = 0.001
"""The share of the time since its last work that a worker waits between two looks, `POLL_SECONDS` at least."""

MAX_QUIET_SECONDS = 0.09
"""Seconds that a worker without work waits at most, unless `POLL_SECONDS` is longer."""


class Pace:
    """Tells one worker when to look again."""

    def __init__(self, poll_seconds: float, *, interrupt: Callable[[], None] = lambda: None) -> None:
        """Begin as a worker that has just worked; all that stirs it calls `interrupt`, too."""
        self._poll_seconds = poll_seconds
        self._interrupt = interrupt
        self._stirred = asyncio.Event()
        self.is_stopped = False
        """True once the worker must not claim again."""
        self.worked()

    def stir(self) -> None:
        """Have the worker look at once, because it may find more than at its last look."""
        self._stirred.set()
        self._interrupt()

    def stop(self) -> None:
        """Have the worker end its looks and claims."""
        self.is_stopped = True
        self.stir()

    def look(self) -> None:
        """Begin a look: only what stirs the worker from now on leads to another one."""
        self._stirred.clear()

    def worked(self) -> None:
        """Note that the last look found deliveries."""
        self._worked_at = time.monotonic()

    @property
    def was_stirred(self) -> bool:
        """True if something has stirred the worker since it began its look."""
        return self._stirred.is_set()

    async def is_stirred(self, *, within_seconds: float | None = None) -> bool:
        """Wait until something stirs the worker; return False if nothing does by the time of its next look."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds if within_seconds is None else within_seconds):
                await self._stirred.wait()
        return self._stirred.is_set()

    @property
    def seconds(self) -> float:
        """The seconds until the next look, unless something stirs the worker."""
        quiet_seconds = (time.monotonic() - self._worked_at) * QUIET_SHARE
        return max(self._poll_seconds, min(quiet_seconds, MAX_QUIET_SECONDS))
