"""The worker: it claims due deliveries, attempts many of them at once, and has the results recorded.

The database is the truth; any number of workers may run at the same time on PostgreSQL, MariaDB or MySQL.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from flask import Flask

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core import leases
from flask_webhook_endpoints.core.heartbeats import Heartbeat
from flask_webhook_endpoints.core.incidents import PauseRule
from flask_webhook_endpoints.core.leases import LEASE_MARGIN_SECONDS
from flask_webhook_endpoints.core.marks import BEGINNING, Marks
from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.settings import DEFAULT_BATCH, DEFAULT_CONCURRENCY
from flask_webhook_endpoints.state import state_of
from flask_webhook_endpoints.worker import descriptors, pruning
from flask_webhook_endpoints.worker.attempt import Courier
from flask_webhook_endpoints.worker.claims import Claims, Until
from flask_webhook_endpoints.worker.database_thread import DatabaseThread, log_error
from flask_webhook_endpoints.worker.http_client import Sender
from flask_webhook_endpoints.worker.pace import Pace
from flask_webhook_endpoints.worker.recorder import Recorder
from flask_webhook_endpoints.worker.returns import Returns
from flask_webhook_endpoints.worker.shortage import Shortage
from flask_webhook_endpoints.worker.unrecorded import Unrecorded

STOP_MARGIN_SECONDS = LEASE_MARGIN_SECONDS / 3
"""Seconds beyond the longest timeout that a worker that stops waits for the attempts in flight."""

RECORDING_SECONDS = LEASE_MARGIN_SECONDS / 3
"""Seconds that it then waits for a database that is away."""

_log = logs.logger("flask_webhook_endpoints.worker")  # the name that hosts have configured


class Worker:
    """Delivers for one application."""

    def __init__(
        self,
        app: Flask,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        batch: int = DEFAULT_BATCH,
        heartbeat: Heartbeat | None = None,
        marks: Marks | None = None,
    ) -> None:
        """Prepare a worker with at most `concurrency` attempts in flight and `batch` deliveries in one claim.

        Celery passes the `heartbeat` and the `marks` of its process, which goes on after this worker.
        """
        self._state = state_of(app)
        settings = self._state.settings
        self._concurrency, self._batch = concurrency, batch
        self._owner = new_id()
        self._heartbeat = heartbeat or Heartbeat(self._owner, "worker")
        self._own_heartbeat = heartbeat is None
        self._claimed: deque[Claimed] = deque()
        """The deliveries whose attempt has not begun."""
        self._in_flight: dict[asyncio.Task[None], Claimed] = {}
        self.begun = 0
        """The number of attempts begun so far."""
        self._beginning = False
        """True while a turn of the loop is to come that begins an attempt."""
        self._followed = False
        """True if a task has gone on to another attempt since the last such turn."""
        self._marks = marks or Marks()
        self._unrecorded = Unrecorded(max_body_bytes=settings.max_body_bytes)
        self._database = DatabaseThread(app, self._heartbeat)
        self._pace = Pace(settings.poll_seconds, interrupt=self._database.interrupt)
        self._returns = Returns(self._give_back)
        self._recorder = Recorder(
            self._database,
            self._owner,
            is_busy=lambda: bool(self._claimed),
            recorded=self._recorded,
            rule=PauseRule(settings.pause_after_failures, settings.pause_after_days),
        )

    def stop(self) -> None:
        """Claim no more; `run` returns when the attempts in flight have ended or reached their deadline."""
        self._pace.stop()

    async def run(self, until: Until = "stopped") -> int:
        """Deliver; return how many attempts were begun.

        A worker that runs until it is stopped survives all errors of the database; otherwise it raises them. An error
        that breaks its recorder or its pruning ends it, and is raised.
        """
        settings = self._state.settings
        room = self._make_room()
        extra = {"webhooks.worker": str(self._owner), "webhooks.concurrency": room.concurrency}
        _log.info("webhooks.worker_started", extra=extra)
        beside = [asyncio.create_task(self._recorder.run())]
        if until == "stopped":
            beside.append(asyncio.create_task(pruning.prune_hourly(self._database, settings)))
        for task in beside:
            # Each runs until it is cancelled, or fails.
            task.add_done_callback(lambda _: self.stop())
        try:
            async with Sender(self._state.policy, proxy=settings.proxy, **room._asdict()) as sender:
                try:
                    await self._deliver(Courier(sender, self._state), self._claims(until))
                finally:
                    await self._finish()
        finally:
            for task in beside:
                task.cancel()
            self._database.close()
            extra = {"webhooks.worker": str(self._owner), "webhooks.attempts": self.begun}
            _log.info("webhooks.worker_stopped", extra=extra)
        for task in beside:
            if task.done():
                task.result()
        return self.begun

    def _make_room(self) -> descriptors.Room:
        """Have the process open as many files as the attempts need; lower the concurrency where it may not."""
        room = descriptors.make_room(self._concurrency)
        if room.concurrency < self._concurrency:
            self._heartbeat.lacked("files", self._state.now())
        self._concurrency = room.concurrency
        if self._own_heartbeat:
            self._heartbeat.concurrency = room.concurrency
        return room

    def _claims(self, until: Until) -> Claims:
        return Claims(
            self._state,
            self._database,
            self._pace,
            self._marks,
            self._unrecorded,
            owner=self._owner,
            until=until,
            batch=self._batch,
            concurrency=self._concurrency,
            room=self._room,
        )

    async def _deliver(self, courier: Courier, claims: Claims) -> None:
        """Claim again and again, and have the claimed deliveries attempted and recorded meanwhile."""
        async for claimed in claims.each():
            if self._pace.is_stopped:
                await self._give_back(claimed)
                return
            # A lease that ended before its result was recorded is this worker's again, and so is the result.
            new = self._unrecorded.add(claimed)
            courier.prepare(new)
            self._claimed.extend(new)
            if not self._beginning:
                self._begin(courier)

    def _room(self) -> int:
        """Return how many deliveries the worker may claim now."""
        # While there are enough to begin, wait for room: a larger claim costs less for each delivery.
        # Record first: deliveries whose lease ends before that would be claimed, and sent twice.
        if len(self._claimed) > self._batch // 2 or self._recorder.is_held_up:
            return 0
        return min(self._batch, self._concurrency - len(self._unrecorded))

    def _begin(self, courier: Courier) -> None:
        """Begin an attempt, unless a task has gone on to another one since the last look. Look again in the next turn.

        So as many tasks run as keep the loop busy, and each attempt leaves its connection to the next one.
        """
        if self._claimed and not self._followed:
            delivery = self._next()
            self._in_flight[asyncio.create_task(self._attempt(courier, delivery))] = delivery
        self._followed = False
        self._beginning = bool(self._claimed)
        if self._beginning:
            asyncio.get_running_loop().call_soon(self._begin, courier)

    def _next(self) -> Claimed:
        if len(self._claimed) == self._batch // 2 + 1:
            # There is room for another claim now.
            self._pace.stir()
        self.begun += 1
        return self._claimed.popleft()

    async def _attempt(self, courier: Courier, delivery: Claimed) -> None:
        """Attempt a delivery, and others after it as long as some wait: a task for each would cost more."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        while True:
            answered = False
            try:
                settlement = self._unrecorded.with_last_rests(await courier.attempt(delivery))
                self._recorder.put(settlement)
                answered = settlement.response_status is not None
                if settlement.rests_seconds is None:
                    self._marks.attempted(delivery.endpoint_id)
            except (Shortage, MemoryError) as error:
                cause = str(error) or "out of memory"
                self._heartbeat.lacked(cause, self._state.now())
                self._returns.put(delivery, cause)
            except Exception as error:
                # There is nothing to record: the lease ends by itself, and its place is free.
                self._unrecorded.remove([delivery])
                self._marks.attempted(delivery.endpoint_id)
                self._pace.stir()
                log_error("webhooks.attempt_broken", error, count=1, event_id=delivery.event_id)
            finally:
                del self._in_flight[task]
            if not (self._in_flight or self._claimed):
                self._recorder.hurry()
            # An attempt that sent nothing has not waited: let other attempts read their answers and meet deadlines.
            if not (answered and self._claimed):
                return
            self._followed = True
            self._in_flight[task] = delivery = self._next()

    def _recorded(self, settlements: Sequence[Settlement]) -> None:
        self._unrecorded.remove([settlement.delivery for settlement in settlements])
        if any(settlement.delivery.rests for settlement in settlements):
            # What waited for an endpoint that was tried out may be ready now.
            self._marks.released(BEGINNING)
        self._pace.stir()

    async def _finish(self) -> None:
        """Wait until all attempts are recorded; give back those not begun, and those that pass every deadline."""
        if self._pace.is_stopped:
            not_begun = list(self._claimed)
            self._claimed.clear()
            await self._give_back(not_begun)
        while self._claimed:
            await asyncio.sleep(0)
        if self._in_flight:
            grace_seconds = self._state.settings.max_timeout_seconds + STOP_MARGIN_SECONDS
            await asyncio.wait(list(self._in_flight), timeout=grace_seconds)
        late = dict(self._in_flight)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self._returns.hurry()
        # An attempt that has ended at this very moment is recorded all the same.
        await self._give_back([delivery for task, delivery in late.items() if task.cancelled()])
        try:
            await asyncio.wait_for(self._recorder.join(), RECORDING_SECONDS)
        except TimeoutError:
            # The database is away. The leases end by themselves, and the deliveries are attempted again.
            _log.error("webhooks.not_recorded", extra={"webhooks.count": len(self._unrecorded)})
        if self._own_heartbeat:
            # Delete the worker's row, or operators would see it for a while longer.
            await self._try(self._heartbeat.end, "webhooks.not_signed_off")

    async def _give_back(self, deliveries: Sequence[Claimed]) -> None:
        self._unrecorded.remove(deliveries)
        if deliveries:
            give_back = partial(leases.give_back, owner=self._owner, deliveries=deliveries)
            await self._try(give_back, "webhooks.not_given_back", count=len(deliveries))
            self._pace.stir()

    async def _try(self, operation: Callable[[Scope], None], failure: str, *, count: int = 0) -> None:
        try:
            await self._database.transact(operation)
        except Exception as error:
            log_error(failure, error, count=count)
