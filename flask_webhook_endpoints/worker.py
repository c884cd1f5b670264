"""The embedded engine: one process that claims what is due, sends it concurrently, and records in batches.

The database is the truth; any number of workers may run beside each other on PostgreSQL, MariaDB or MySQL.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from flask import Flask
from sqlalchemy.orm import Session

from flask_webhook_endpoints import transactions
from flask_webhook_endpoints.deliveries import LEASE_MARGIN_SECONDS, Claimed, Settlement
from flask_webhook_endpoints.delivery import Courier
from flask_webhook_endpoints.errors import DatabaseUnavailable
from flask_webhook_endpoints.models import new_id
from flask_webhook_endpoints.sender import Sender
from flask_webhook_endpoints.state import EXTENSION, State

T = TypeVar("T")

Until = Literal["stopped", "drained", "once"]
"""When a worker ends: when told to, when nothing is due any more, or after one claim."""

MAX_RECORDED_AT_ONCE = 500

_log = logging.getLogger(__name__)


class Worker:
    """Delivers for one application."""

    def __init__(self, app: Flask, *, concurrency: int = 100, batch: int = 100) -> None:
        """Prepare; `concurrency` is how many attempts may be under way, `batch` how many are claimed at once."""
        self._app = app
        self._state: State = app.extensions[EXTENSION]
        self._concurrency = concurrency
        self._batch = batch
        self._owner = new_id()
        self._under_way: dict[asyncio.Task[None], Claimed] = {}
        self._answered: asyncio.Queue[Settlement] = asyncio.Queue()
        self._unrecorded = 0
        self._stopping = False
        self._stirred = asyncio.Event()
        # One thread, one connection: a worker never waits for a second one of its own.
        self._database = ThreadPoolExecutor(max_workers=1, thread_name_prefix="webhooks-database")

    def stop(self) -> None:
        """Claim no more; `run` returns when what is under way has ended or reached its deadline."""
        self._stopping = True
        self._stirred.set()

    async def run(self, until: Until = "stopped") -> int:
        """Deliver; return how many attempts were begun."""
        settings = self._state.settings
        _log.info("webhooks.worker_started", extra={"webhooks.worker": str(self._owner)})
        recorder = asyncio.create_task(self._record_all())
        try:
            async with Sender(self._state.policy, proxy=settings.proxy, concurrency=self._concurrency) as sender:
                courier = Courier(sender, self._state)
                attempts = await self._deliver(courier, until)
                await self._finish()
            await self._answered.join()
        finally:
            recorder.cancel()
            self._database.shutdown()
        _log.info("webhooks.worker_stopped", extra={"webhooks.worker": str(self._owner), "webhooks.attempts": attempts})
        return attempts

    async def _deliver(self, courier: Courier, until: Until) -> int:
        attempts = 0
        while not self._stopping:
            self._stirred.clear()
            claimed = await self._claim(min(self._batch, self._concurrency - self._unrecorded))
            attempts += len(claimed)
            for delivery in claimed:
                self._begin(courier, delivery)
            if until == "once" or (until == "drained" and not claimed and not self._unrecorded):
                break
            if len(claimed) < self._batch:
                await self._rest()
        return attempts

    async def _claim(self, most: int) -> list[Claimed]:
        if most <= 0:
            return []
        try:
            return await self._in_transaction(
                lambda session: self._state.deliveries.claim(session, self._owner, most=most, now=self._state.now())
            )
        except DatabaseUnavailable:
            # Said in the log already; the next look is after a rest.
            return []

    def _begin(self, courier: Courier, delivery: Claimed) -> None:
        self._unrecorded += 1
        task = asyncio.create_task(self._attempt(courier, delivery))
        self._under_way[task] = delivery
        task.add_done_callback(self._under_way.pop)

    async def _attempt(self, courier: Courier, delivery: Claimed) -> None:
        self._answered.put_nowait(await courier.attempt(delivery))

    async def _rest(self) -> None:
        """Wait until something was recorded, `stop` was called, or it is time to look again."""
        try:
            await asyncio.wait_for(self._stirred.wait(), self._state.settings.poll_seconds)
        except TimeoutError:
            return

    async def _finish(self) -> None:
        """Wait for what is under way; break off and give back what passes every deadline."""
        if not self._under_way:
            return
        grace_seconds = self._state.settings.max_timeout_seconds + LEASE_MARGIN_SECONDS / 2
        await asyncio.wait(self._under_way, timeout=grace_seconds)
        late = dict(self._under_way)
        for task in late:
            task.cancel()
        if late:
            await self._in_transaction(
                lambda session: self._state.deliveries.give_back(
                    session, self._owner, list(late.values()), now=self._state.now()
                )
            )

    async def _record_all(self) -> None:
        while True:
            settlements = [await self._answered.get()]
            while not self._answered.empty() and len(settlements) < MAX_RECORDED_AT_ONCE:
                settlements.append(self._answered.get_nowait())
            try:
                await self._record(settlements)
            except Exception:
                # The lease ends by itself, and they are attempted again.
                _log.exception("webhooks.not_recorded", extra={"webhooks.count": len(settlements)})
            self._unrecorded -= len(settlements)
            for _ in settlements:
                self._answered.task_done()
            self._stirred.set()

    async def _record(self, settlements: Sequence[Settlement]) -> None:
        while True:
            try:
                return await self._in_transaction(
                    lambda session: self._state.deliveries.settle(
                        session, self._owner, settlements, now=self._state.now()
                    )
                )
            except DatabaseUnavailable:
                await asyncio.sleep(self._state.settings.poll_seconds)

    async def _in_transaction(self, operation: Callable[[Session], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._database, self._transact, operation)

    def _transact(self, operation: Callable[[Session], T]) -> T:
        with self._app.app_context():
            session = self._state.host.session()
            try:
                return transactions.write(session, operation)
            finally:
                session.close()
