"""How an event loop reaches the database: in one thread, with one connection, a transaction at a time."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID

from flask import Flask
from sqlalchemy.exc import DBAPIError

from flask_webhook_endpoints.core.statistics import Heartbeat
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import DatabaseUnavailable
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.state import EXTENSION, State

T = TypeVar("T")

_log = logging.getLogger("flask_webhook_endpoints.database_thread")


class DatabaseThread:
    """Runs what an engine does in the database, one after another; the engine never waits for a second connection."""

    def __init__(self, app: Flask, heartbeat: Heartbeat) -> None:
        """Take the application, and the heartbeat that is to go with the transactions."""
        self._app = app
        self._state: State = app.extensions[EXTENSION]
        self._heartbeat = heartbeat
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="webhooks-database")

    async def transact(self, operation: Callable[[Scope], T]) -> T:
        """Run an operation of a scope in a transaction of its own, and commit."""

        def beat_and_operate(scope: Scope) -> T:
            self._heartbeat.beat(scope)
            return operation(scope)

        return await self.call(lambda: self._state.run_apart(beat_and_operate))

    async def call(self, function: Callable[[], T]) -> T:
        """Call `function` in the application's context, and close the host's session after it."""

        def in_context() -> T:
            with self._app.app_context():
                try:
                    return function()
                finally:
                    self._state.host.session().close()

        return await asyncio.get_running_loop().run_in_executor(self._thread, in_context)

    def close(self) -> None:
        """Wait for what was begun."""
        self._thread.shutdown()


def log_error(event: str, error: Exception, *, count: int = 0, event_id: UUID | None = None) -> None:
    """Log why something of an engine's failed, without the parameters of statements."""
    extra: dict[str, object] = {"webhooks.count": count}
    if event_id is not None:
        extra["webhooks.event_id"] = format_id(event_id, "evt")
    match error:
        case DatabaseUnavailable():
            # Said in the log already, with its reason.
            return
        case DBAPIError():
            _log.error(event, extra={**extra, "webhooks.error": transactions.refusal(error)})
        case _:
            _log.error(event, extra=extra, exc_info=error)
