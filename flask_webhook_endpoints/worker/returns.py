"""Returns: deliveries that the worker could not attempt, because it lacked something, and gives back after a pause."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core.results import Claimed

PAUSE_SECONDS = 0.5
"""Seconds until such a delivery may be claimed again, so that a worker in need does not spin."""

WARNING_SECONDS = 60.0
"""Seconds between two warnings."""

_log = logs.logger("flask_webhook_endpoints.worker")  # the name that hosts have configured


class Returns:
    """Keeps deliveries for a pause, then gives them back together; the log tells the cause once a minute."""

    def __init__(self, give_back: Callable[[Sequence[Claimed]], Awaitable[None]]) -> None:
        self._give_back = give_back
        self._kept: list[Claimed] = []
        self._returning: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()
        self._causes: Counter[str] = Counter()
        self._warned_at = -math.inf

    def put(self, delivery: Claimed, cause: str) -> None:
        """Give a delivery back after the pause."""
        self._kept.append(delivery)
        self._causes[cause] += 1
        if self._returning is None:
            self._returning = asyncio.create_task(self._return())
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= WARNING_SECONDS:
            self._warned_at = now
            (most, _), count = self._causes.most_common(1)[0], self._causes.total()
            self._causes.clear()
            _log.warning("webhooks.worker_lacks", extra={"webhooks.error": most, "webhooks.count": count})

    async def hurry(self) -> None:
        """Give back at once what is kept, and wait until it is done."""
        self._hurried.set()
        if self._returning is not None:
            await self._returning

    async def _return(self) -> None:
        while self._kept:
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_SECONDS):
                    await self._hurried.wait()
            kept, self._kept = self._kept, []
            await self._give_back(kept)
        self._returning = None
