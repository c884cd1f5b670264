"""The embedded engine: one process that claims what is due, sends it concurrently, and has the answers recorded.

The database is the truth; any number of workers may run beside each other on PostgreSQL, MariaDB or MySQL.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Sequence
from typing import Literal, cast
from uuid import UUID

from flask import Flask

from flask_webhook_endpoints.core import retention
from flask_webhook_endpoints.core.attempts import Settlement
from flask_webhook_endpoints.core.leases import LEASE_MARGIN_SECONDS, Claim, Claimed
from flask_webhook_endpoints.core.statistics import Heartbeat
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.settings import DEFAULT_BATCH, DEFAULT_CONCURRENCY
from flask_webhook_endpoints.state import EXTENSION, State
from flask_webhook_endpoints.worker.attempt import Courier
from flask_webhook_endpoints.worker.database_thread import DatabaseThread, log_error
from flask_webhook_endpoints.worker.http_client import Sender
from flask_webhook_endpoints.worker.pruner import prune_hourly
from flask_webhook_endpoints.worker.recorder import Recorder

Until = Literal["stopped", "drained", "once"]
"""When a worker ends: when told to, when nothing is due any more, or after one claim."""

CONTENDED_SECONDS = 0.05
"""Until it looks again for what is due behind deliveries that others took at the same moment; doubled while they hold
them, up to the settings' `poll_seconds`."""

CONTENDED_LOOKS = 6
"""In a row and without success, after which a drain leaves to others what they hold: two to three seconds."""

STOP_MARGIN_SECONDS = LEASE_MARGIN_SECONDS / 3
"""How much longer than the longest timeout a worker that stops waits for what is under way."""

RECORDING_SECONDS = LEASE_MARGIN_SECONDS / 3
"""How long it then waits for a database that is away."""

_log = logging.getLogger("flask_webhook_endpoints.worker")


class Worker:
    """Delivers for one application."""

    def __init__(
        self,
        app: Flask,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        batch: int = DEFAULT_BATCH,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        """Prepare; `concurrency` is how many attempts may be under way, `batch` how many are claimed at once.

        `heartbeat` is that of an engine which outlives this worker, and ends it by itself.
        """
        self._state: State = app.extensions[EXTENSION]
        self._concurrency = concurrency
        self._batch = batch
        self._owner = new_id()
        self._heartbeat = heartbeat or Heartbeat(self._owner, "worker")
        self._own_heartbeat = heartbeat is None
        self._claimed: deque[Claimed] = deque()
        self._under_way: dict[asyncio.Task[None], Claimed] = {}
        self._begun = 0
        self._beginning = False
        self._followed = False
        self._unrecorded: set[UUID] = set()
        self._stopping = False
        self._stirred = asyncio.Event()
        self._database = DatabaseThread(app, self._heartbeat)
        self._recorder = Recorder(
            self._state, self._database, self._owner, is_busy=lambda: bool(self._claimed), recorded=self._recorded
        )

    def stop(self) -> None:
        """Claim no more; `run` returns when what is under way has ended or reached its deadline."""
        self._stopping = True
        self._stirred.set()

    def wake(self) -> None:
        """Look at once whether something is due."""
        self._stirred.set()

    async def run(self, until: Until = "stopped") -> int:
        """Deliver; return how many attempts were begun.

        A worker that runs until it is stopped outlives every error of the database; the others raise it. An error that
        keeps it from recording or pruning ends it, and is raised.
        """
        settings = self._state.settings
        _log.info("webhooks.worker_started", extra={"webhooks.worker": str(self._owner)})
        beside = [asyncio.create_task(self._recorder.run())]
        if until == "stopped":
            steps = retention.steps(retention_days=settings.retention_days, hold_max_days=settings.hold_max_days)
            beside.append(asyncio.create_task(prune_hourly(self._database, steps)))
        for task in beside:
            # None ends before it is cancelled, but by an error.
            task.add_done_callback(lambda _: self.stop())
        try:
            async with Sender(self._state.policy, proxy=settings.proxy, concurrency=self._concurrency) as sender:
                try:
                    await self._deliver(Courier(sender, self._state), until)
                finally:
                    await self._finish()
        finally:
            for task in beside:
                task.cancel()
            self._database.close()
            extra = {"webhooks.worker": str(self._owner), "webhooks.attempts": self._begun}
            _log.info("webhooks.worker_stopped", extra=extra)
        for task in beside:
            if task.done():
                task.result()
        return self._begun

    async def _deliver(self, courier: Courier, until: Until) -> None:
        in_vain = 0
        while not self._stopping:
            self._stirred.clear()
            # Asked before: what is recorded during the claim may have made room for more.
            idle = not self._unrecorded
            claimed, cancelled, contended = await self._claim(until)
            if self._stopping:
                await self._give_back(claimed)
                return
            # One of ours whose lease ended before it was recorded: the lease is ours again, and so is its answer.
            new = [delivery for delivery in claimed if delivery.id not in self._unrecorded]
            self._unrecorded.update([delivery.id for delivery in new])
            self._claimed.extend(new)
            if not self._beginning:
                self._begin(courier)
            in_vain = in_vain + 1 if contended and not claimed else 0
            to_be_seen = cancelled or 0 < in_vain < CONTENDED_LOOKS
            if until == "once" or (until == "drained" and not (claimed or to_be_seen) and idle):
                return
            if not cancelled and len(claimed) < self._batch:
                seconds = CONTENDED_SECONDS * 2 ** min(in_vain, CONTENDED_LOOKS) if contended else math.inf
                await self._rest(min(seconds, self._state.settings.poll_seconds))

    async def _claim(self, until: Until) -> Claim:
        # While there are enough to begin, room grows for a claim that costs less of each.
        if len(self._claimed) > self._batch // 2:
            return Claim([])
        most = min(self._batch, self._concurrency - len(self._unrecorded))
        # What is answered is recorded first: leases that ended meanwhile would be claimed, and sent twice.
        if most <= 0 or self._recorder.is_held_up:
            return Claim([])
        try:
            return await self._database.transact(
                lambda scope: self._state.deliveries.claim(scope.session, self._owner, most=most, now=scope.now)
            )
        except Exception as error:
            if until != "stopped":
                raise
            log_error("webhooks.not_claimed", error)
            return Claim([])

    def _begin(self, courier: Courier) -> None:
        """Begin an attempt, unless one has followed upon another since the last look; look again in the next turn.

        So there are as many at once as keep the loop busy, and those leave their connections to one another.
        """
        if self._claimed and not self._followed:
            delivery = self._next()
            self._under_way[asyncio.create_task(self._attempt(courier, delivery))] = delivery
        self._followed = False
        self._beginning = bool(self._claimed)
        if self._beginning:
            asyncio.get_running_loop().call_soon(self._begin, courier)

    def _next(self) -> Claimed:
        if len(self._claimed) == self._batch // 2 + 1:
            # Room for another claim.
            self._stirred.set()
        self._begun += 1
        return self._claimed.popleft()

    async def _attempt(self, courier: Courier, delivery: Claimed) -> None:
        """Attempt a delivery, and others after it as long as some wait: a task for each would cost more."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        while True:
            answered = False
            try:
                settlement = await courier.attempt(delivery)
                self._recorder.put(settlement)
                answered = settlement.response_status is not None
            except Exception as error:
                # Not to be recorded; its lease ends by itself, and its place is free again.
                self._unrecorded.discard(delivery.id)
                self._stirred.set()
                log_error("webhooks.attempt_broken", error, count=1, event_id=delivery.event_id)
            finally:
                del self._under_way[task]
            if not (self._under_way or self._claimed):
                self._recorder.hurry()
            # One that sent nothing has not waited either: the answers to others and their deadlines get their turn.
            if not (answered and self._claimed):
                return
            self._followed = True
            self._under_way[task] = delivery = self._next()

    def _recorded(self, settlements: Sequence[Settlement]) -> None:
        self._unrecorded.difference_update(settlement.delivery.id for settlement in settlements)
        self._stirred.set()

    async def _rest(self, seconds: float) -> None:
        """Wait until something was recorded, `stop` was called, or it is time to look again."""
        try:
            await asyncio.wait_for(self._stirred.wait(), seconds)
        except TimeoutError:
            return

    async def _finish(self) -> None:
        """Wait for what is under way, and until it is recorded; break off and give back what passes every deadline."""
        if self._stopping:
            not_begun = list(self._claimed)
            self._claimed.clear()
            self._unrecorded.difference_update([delivery.id for delivery in not_begun])
            await self._give_back(not_begun)
        while self._claimed:
            await asyncio.sleep(0)
        if self._under_way:
            grace_seconds = self._state.settings.max_timeout_seconds + STOP_MARGIN_SECONDS
            await asyncio.wait(list(self._under_way), timeout=grace_seconds)
        late = dict(self._under_way)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        # One that has ended at this very moment is answered all the same.
        broken_off = [delivery for task, delivery in late.items() if task.cancelled()]
        self._unrecorded.difference_update(delivery.id for delivery in broken_off)
        await self._give_back(broken_off)
        try:
            await asyncio.wait_for(self._recorder.join(), RECORDING_SECONDS)
        except TimeoutError:
            # The database is away. Their leases end by themselves, and they are attempted again.
            _log.error("webhooks.not_recorded", extra={"webhooks.count": len(self._unrecorded)})
        if self._own_heartbeat:
            await self._sign_off()

    async def _sign_off(self) -> None:
        try:
            await self._database.transact(self._heartbeat.end)
        except Exception as error:
            # Seen for a while yet, and then forgotten.
            log_error("webhooks.not_signed_off", error)

    async def _give_back(self, deliveries: Sequence[Claimed]) -> None:
        if not deliveries:
            return
        try:
            await self._database.transact(
                lambda scope: self._state.deliveries.give_back(scope.session, self._owner, deliveries, now=scope.now)
            )
        except Exception as error:
            log_error("webhooks.not_given_back", error, count=len(deliveries))
