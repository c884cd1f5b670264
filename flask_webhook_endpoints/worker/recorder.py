"""The recorder of a worker: it gathers results for some milliseconds, and records each batch in one transaction."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from uuid import UUID

from flask_webhook_endpoints import logs, signals
from flask_webhook_endpoints.core import attempts, recent_counts
from flask_webhook_endpoints.core.attempts import Settled
from flask_webhook_endpoints.core.incidents import PauseRule
from flask_webhook_endpoints.core.results import Settlement
from flask_webhook_endpoints.database.models import PauseReason
from flask_webhook_endpoints.errors import DatabaseUnavailable
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.worker import news
from flask_webhook_endpoints.worker.database_thread import AWAY_SECONDS, DatabaseThread, log_error

MAX_RECORDED_AT_ONCE = 500
"""The number of results that one transaction records at most."""

RECORDED_WITHIN_SECONDS = 0.005
"""Seconds that a result waits for others to be recorded with, while more attempts are in flight."""

BUSY_RECORDED_WITHIN_SECONDS = 0.012
"""The same while claimed deliveries wait to be begun. No claim waits for room then; larger records cost less."""

PAUSED_WITHIN_SECONDS = 1.0
"""Seconds until the next try to pause an endpoint that a host's transaction has locked."""

_log = logs.logger("flask_webhook_endpoints.recorder")  # the name that hosts have configured


class Recorder:
    """Records the results of one worker, one batch after another."""

    def __init__(
        self,
        database: DatabaseThread,
        owner: UUID,
        *,
        is_busy: Callable[[], bool],
        recorded: Callable[[Sequence[Settlement]], None],
        rule: PauseRule,
    ) -> None:
        """Prepare to record for the worker `owner`.

        `is_busy` returns whether claimed deliveries wait to be begun. `recorded` takes each batch that is recorded, or
        that the database refuses; the leases of a refused batch end by themselves. `rule` says when endpoints that fail
        are paused.
        """
        self.is_held_up = False
        """True while results wait for a database that is away."""
        self._database = database
        self._owner = owner
        self._is_busy = is_busy
        self._recorded = recorded
        self._rule = rule
        # A list, because a queue of asyncio's takes a dozen calls for each result.
        self._answered: list[Settlement] = []
        self._is_any = asyncio.Event()
        self._worth_recording = asyncio.Event()
        self._all_recorded = asyncio.Event()
        self._all_recorded.set()
        self._to_pause: dict[UUID, PauseReason] = {}
        """Endpoints that another transaction had locked when they were to be paused."""
        self._to_pause_at = 0.0

    def put(self, settlement: Settlement) -> None:
        """Take a result."""
        if not self._answered:
            self._is_any.set()
            self._all_recorded.clear()
        self._answered.append(settlement)
        if len(self._answered) >= MAX_RECORDED_AT_ONCE:
            self._worth_recording.set()

    def hurry(self) -> None:
        """Record at once, because no other attempt is in flight."""
        self._worth_recording.set()

    async def join(self) -> None:
        """Wait until all results are recorded, and try once more to pause what is to be paused."""
        await self._all_recorded.wait()
        if self._to_pause:
            await self._pause()

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSED_WITHIN_SECONDS if self._to_pause else None):
                    await self._is_any.wait()
            if self._to_pause and time.monotonic() >= self._to_pause_at:
                await self._pause()
            if self._answered:
                await self._record_some()

    async def _record_some(self) -> None:
        # Wait for others: until no more attempts are in flight, there are enough results, or the time is over.
        seconds = BUSY_RECORDED_WITHIN_SECONDS if self._is_busy() else RECORDED_WITHIN_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._worth_recording.wait()
        self._worth_recording.clear()
        settlements = self._answered[:MAX_RECORDED_AT_ONCE]
        del self._answered[:MAX_RECORDED_AT_ONCE]
        if not self._answered:
            self._is_any.clear()
        if not await self._record(settlements) and len(settlements) > 1:
            # One by one, so that a result that can't be recorded does not have the others sent again.
            for settlement in settlements:
                await self._record([settlement])
        self._recorded(settlements)
        if not self._answered:
            self._all_recorded.set()
        if recent_counts.is_time_to_add_up(len(settlements)):
            await self._add_up()

    async def _record(self, settlements: Sequence[Settlement]) -> bool:
        """Record once the database can be reached; return False if it refuses."""
        while True:
            try:
                record = partial(attempts.record, owner=self._owner, settlements=settlements, rule=self._rule)
                settled = await self._database.transact(record)
            except DatabaseUnavailable:
                self.is_held_up = True
                await asyncio.sleep(AWAY_SECONDS)
            except Exception as error:
                self.is_held_up = False
                log_error("webhooks.not_recorded", error, count=len(settlements))
                return False
            else:
                self.is_held_up = False
                await self._report(settled)
                return True

    async def _pause(self) -> None:
        """Try to pause endpoints. If that fails, a delivery to them that fails later has them paused."""
        reasons, self._to_pause = self._to_pause, {}
        # A worker that stops meanwhile waits, or its host would not hear of them.
        self._all_recorded.clear()
        try:
            settled = await self._database.transact(partial(attempts.pause, reasons=reasons))
        except Exception as error:
            log_error("webhooks.not_paused", error, count=len(reasons))
        else:
            await self._report(settled)
        if not self._answered:
            self._all_recorded.set()

    async def _add_up(self) -> None:
        """Add up recent counts. If that fails, this or another worker does it later."""
        try:
            await self._database.transact(partial(recent_counts.add_up, owner=self._owner))
        except Exception as error:
            log_error("webhooks.not_added_up", error)

    async def _report(self, settled: Settled) -> None:
        """Log which endpoints were paused, and send the host's signals, in the database's thread and so in order.

        Note those that are to be paused later.
        """
        if settled.to_pause:
            self._to_pause.update(settled.to_pause)
            self._to_pause_at = time.monotonic() + PAUSED_WITHIN_SECONDS
        for paused in settled.paused:
            extra = {"webhooks.endpoint_id": format_id(paused.endpoint_id), "webhooks.reason": paused.reason.value}
            _log.warning("webhooks.endpoint_paused", extra=extra)
        for notice in settled.notices:
            news.log(notice)
        try:
            if signals.concern(settled):
                await self._database.call(partial(signals.send_settled, settled))
        except Exception as error:
            log_error("webhooks.not_signalled", error, count=len(settled.settlements))
