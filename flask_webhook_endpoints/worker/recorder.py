"""What a worker does with answers: it gathers them for a moment, and records them in batches, whatever fails."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from flask_webhook_endpoints import signals
from flask_webhook_endpoints.core.attempts import Paused, Settled, Settlement
from flask_webhook_endpoints.errors import DatabaseUnavailable
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.state import State
from flask_webhook_endpoints.worker.database_thread import DatabaseThread, log_error

MAX_RECORDED_AT_ONCE = 500

RECORDED_WITHIN_SECONDS = 0.005
"""How long an answer waits for others to be recorded with, while more are under way."""

BUSY_RECORDED_WITHIN_SECONDS = 0.012
"""The same while others wait to be begun, which have room already; fewer and larger records cost less."""

_log = logging.getLogger("flask_webhook_endpoints.recorder")


class Recorder:
    """Records the answers of one worker, one batch after another."""

    def __init__(
        self,
        state: State,
        database: DatabaseThread,
        owner: UUID,
        *,
        is_busy: Callable[[], bool],
        recorded: Callable[[Sequence[Settlement]], None],
    ) -> None:
        """Take who holds the leases, what tells whether deliveries wait to be begun, and whom to tell what is recorded.

        Also told is what the database refused: its leases end by themselves.
        """
        self.is_held_up = False
        """Whether answers wait for a database that is away."""
        self._state = state
        self._database = database
        self._owner = owner
        self._is_busy = is_busy
        self._recorded = recorded
        self._answered: asyncio.Queue[Settlement] = asyncio.Queue()
        self._worth_recording = asyncio.Event()

    def put(self, settlement: Settlement) -> None:
        """Take an answer."""
        self._answered.put_nowait(settlement)
        if self._answered.qsize() >= MAX_RECORDED_AT_ONCE:
            self._worth_recording.set()

    def hurry(self) -> None:
        """Record what has been put at once, as no other answer is to come."""
        self._worth_recording.set()

    async def join(self) -> None:
        """Wait until all that has been put is recorded."""
        await self._answered.join()

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            settlements = [await self._answered.get()]
            await self._gather()
            while not self._answered.empty() and len(settlements) < MAX_RECORDED_AT_ONCE:
                settlements.append(self._answered.get_nowait())
            if not await self._record(settlements) and len(settlements) > 1:
                # What spoils one must not have all of them sent again.
                for settlement in settlements:
                    await self._record([settlement])
            self._recorded(settlements)
            for _ in settlements:
                self._answered.task_done()

    async def _gather(self) -> None:
        """Wait until there is nothing to wait for, enough to record, or no more time."""
        seconds = BUSY_RECORDED_WITHIN_SECONDS if self._is_busy() else RECORDED_WITHIN_SECONDS
        try:
            async with asyncio.timeout(seconds):
                await self._worth_recording.wait()
        except TimeoutError:
            return
        finally:
            self._worth_recording.clear()

    async def _record(self, settlements: Sequence[Settlement]) -> bool:
        """Record, as soon as the database lets us; False where it refuses."""
        while True:
            try:
                settled = await self._database.transact(
                    lambda scope: self._state.settlements.settle(scope.session, self._owner, settlements, now=scope.now)
                )
            except DatabaseUnavailable:
                self.is_held_up = True
                await asyncio.sleep(self._state.settings.poll_seconds)
            except Exception as error:
                self.is_held_up = False
                log_error("webhooks.not_recorded", error, count=len(settlements))
                return False
            else:
                self.is_held_up = False
                _log_paused(settled.paused)
                await self._signal(settled)
                return True

    async def _signal(self, settled: Settled) -> None:
        """Tell the host what was settled, in the database's thread, so that it hears of it in order."""
        try:
            if signals.concern(settled):
                await self._database.call(partial(signals.send_settled, settled))
        except Exception as error:
            log_error("webhooks.not_signalled", error, count=len(settled.settlements))


def _log_paused(endpoints: Sequence[Paused]) -> None:
    for paused in endpoints:
        extra = {"webhooks.endpoint_id": format_id(paused.endpoint_id), "webhooks.reason": paused.reason.value}
        _log.warning("webhooks.endpoint_paused", extra=extra)
