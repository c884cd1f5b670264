"""The thread in which a worker uses the database: one connection, one transaction at a time."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar
from uuid import UUID

from flask import Flask
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core.heartbeats import Heartbeat
from flask_webhook_endpoints.database import failures
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import DatabaseUnavailable
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.security.private import forget_locals
from flask_webhook_endpoints.state import state_of

T = TypeVar("T")

AWAY_SECONDS = 1.0
"""Seconds until a worker asks its database again after an error."""

_log = logs.logger("flask_webhook_endpoints.database_thread")  # the name that hosts have configured


class DatabaseThread:
    """Runs the transactions of a worker, one after another, so that it never waits for a second connection."""

    def __init__(self, app: Flask, heartbeat: Heartbeat) -> None:
        """Take the heartbeat that every transaction begins with, as often as it is due."""
        self._app = app
        self._state = state_of(app)
        self._heartbeat = heartbeat
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="webhooks-database")
        self._interrupted = threading.Event()

    async def transact(self, operation: Callable[[Scope], T]) -> T:
        """Run an operation of a scope in a transaction of its own, and commit."""
        return await self.call(partial(self._state.run_apart, operation, first=self._heartbeat.beat))

    async def look(self, operation: Callable[[Scope], T]) -> T:
        """Run an operation that locks and writes nothing."""
        return await self.call(partial(self._look, operation))

    async def watch(self, operation: Callable[[Scope], bool], seconds: Callable[[], float]) -> bool:
        """Look each time that so many seconds have passed; return True once a look does, False if interrupted before.

        The thread itself waits, because the way to it and back costs as much as a look, and it keeps its connection,
        because the host's session and its pool cost a quarter of one. All other work interrupts it.
        """
        self._interrupted.clear()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._watch, operation, seconds)
        finally:
            # Interrupt if this was cancelled, too, or the thread would never end.
            self.interrupt()

    def interrupt(self) -> None:
        """End a `watch`."""
        self._interrupted.set()

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function in the application's context, and close the host's session afterwards."""
        self.interrupt()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, function)

    def _watch(self, operation: Callable[[Scope], bool], seconds: Callable[[], float]) -> bool:
        while not self._interrupted.wait(seconds()):
            if self._call(partial(self._look, operation)):
                return True
            if self._call(partial(self._look_on, operation, seconds)):
                return True
        return False

    def _look_on(self, operation: Callable[[Scope], bool], seconds: Callable[[], float]) -> bool:
        """Look by one connection until the next heartbeat, each time at what is committed then.

        If a look fails, the next one, by the host's session, succeeds or says why.
        """
        # The host's hooks may have read in this context, and hold a connection.
        self._state.host.session().rollback()
        scope = self._state.scope()
        with suppress(SQLAlchemyError), scope.kept_connection() as end:
            while end is not None and not self._heartbeat.is_due(self._state.now()):
                if self._interrupted.wait(seconds()):
                    break
                scope.now = self._state.now()
                if operation(scope):
                    return True
                end()
        return False

    def _look(self, operation: Callable[[Scope], T]) -> T:
        if self._heartbeat.is_due(self._state.now()):
            return self._state.run_apart(operation, first=self._heartbeat.beat)
        return self._state.look(operation)

    def _call(self, function: Callable[[], T]) -> T:
        with self._app.app_context():
            try:
                return function()
            finally:
                self._state.host.session().close()

    def close(self) -> None:
        """Wait until the transactions that have begun end."""
        self._thread.shutdown()


def log_error(event: str, error: Exception, *, count: int = 0, event_id: UUID | None = None) -> None:
    """Log why a worker failed at something, without the parameters of statements."""
    extra: dict[str, object] = {"webhooks.count": count}
    if event_id is not None:
        extra["webhooks.event_id"] = format_id(event_id, "evt")
    if isinstance(error, DBAPIError):
        _log.error(event, extra={**extra, "webhooks.error": failures.refusal(error)})
    elif not isinstance(error, DatabaseUnavailable):
        # `DatabaseUnavailable` is in the log already, with its reason.
        forget_locals(error)
        _log.error(event, extra=extra, exc_info=error)
