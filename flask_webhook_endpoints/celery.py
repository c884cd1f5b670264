"""Celery as the engine: the task that delivers what is due, and the beat entry that sweeps.

To be imported where the host makes its Celery in the way of Flask's documentation (`FlaskTask`,
`app.extensions["celery"]`), in every process that publishes or works: the task exists then, and commits wake it.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, cast
from uuid import NAMESPACE_OID, uuid5

from celery import shared_task
from flask import Flask, current_app
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from flask_webhook_endpoints.core import retention, wakeups
from flask_webhook_endpoints.core.statistics import Heartbeat
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.state import EXTENSION, State, current_state
from flask_webhook_endpoints.worker.loop import Worker

SWEEP_SECONDS = 5.0
"""Between two looks of beat at what no commit wakes for: retries that have become due, and wakes that got lost."""

PRUNE_SECONDS = 3600.0
"""Between two prunings, as the worker does them."""

PRUNE_TASK = "flask_webhook_endpoints.prune"

BEAT_SCHEDULE = {
    "webhooks-sweep": {"task": wakeups.TASK, "schedule": SWEEP_SECONDS},
    "webhooks-prune": {"task": PRUNE_TASK, "schedule": PRUNE_SECONDS},
}
"""For `beat_schedule` in the host's Celery configuration."""

CLAIMING_SECONDS = 30.0
"""How long a task takes on more; what is due then is the next one's, so that processes can be stopped and replaced."""

TASK_SECONDS = 3600
"""Above whatever a task may take, in place of limits of the host's, which would break off attempts."""

_IMPORTING_PROCESS = os.getpid()
_OF_PARENT: list[Session] = []


def deliver() -> int:
    """Deliver what is due; return how many attempts were begun."""
    app: Flask = cast(Any, current_app)._get_current_object()
    state: State = app.extensions[EXTENSION]
    _leave_connections(app, os.getpid())
    # Of Celery's own process, whichever of its pool runs this.
    heartbeat = _heartbeat(app, socket.gethostname(), os.getppid())
    with _messages():
        return asyncio.run(_deliver(app, heartbeat)) if _anything_due(state, heartbeat) else 0


def prune() -> None:
    """Delete what has served its time, and expire what was held for too long."""
    state = current_state()
    _leave_connections(cast(Any, current_app)._get_current_object(), os.getpid())
    with _messages():
        for step in retention.steps(
            retention_days=state.settings.retention_days, hold_max_days=state.settings.hold_max_days
        ):
            for _ in state.in_batches(step.prune):
                pass


# Nothing of Celery's is needed beyond running them: the rows say what is due, their leases what a process left behind.
_task = partial(shared_task, ignore_result=True, soft_time_limit=TASK_SECONDS, time_limit=TASK_SECONDS)
_task(name=wakeups.TASK)(deliver)
_task(name=PRUNE_TASK)(prune)


@lru_cache
def _leave_connections(app: Flask, pid: int) -> None:
    """Leave to the process that has imported the app what it had connected to, in one that was forked from it.

    A host that queries while it is imported has connections by then, over which all of them would talk.
    """
    if pid == _IMPORTING_PROCESS:
        return
    host = current_state().host
    session = host.session()
    engine = session.get_bind(clause=host.tables.bind).engine
    if session.in_transaction() and (registry := getattr(host.session, "registry", None)) is not None:
        # A thread's own, still open: whoever closed it, or let it be collected, would roll back in the parent's place.
        _OF_PARENT.append(session)
        registry.clear()
    # Those pools have the only connection to a database in memory, and none to anybody else.
    if not isinstance(engine.pool, SingletonThreadPool | StaticPool):
        engine.dispose(close=False)


@lru_cache
def _heartbeat(app: Flask, hostname: str, pid: int) -> Heartbeat:
    # Of one application: another one in this process may have another database.
    return Heartbeat(uuid5(NAMESPACE_OID, f"celery {hostname} {pid}"), "celery", pid=pid)


def _anything_due(state: State, heartbeat: Heartbeat) -> bool:
    """Look before an event loop and a sender are made: wakes come more often than there is something left to do."""

    def look(scope: Scope) -> bool:
        heartbeat.beat(scope)
        return state.deliveries.is_any_due(scope.session, now=scope.now)

    return state.run_apart(look)


@contextmanager
def _messages() -> Iterator[None]:
    """Leave out of the task's traceback what SQLAlchemy's errors repeat: the parameters of the statement."""
    try:
        yield
    except DBAPIError as error:
        raise RuntimeError(f"The database refused: {transactions.refusal(error)}") from None
    finally:
        current_state().host.session().close()


async def _deliver(app: Flask, heartbeat: Heartbeat) -> int:
    state: State = app.extensions[EXTENSION]
    worker = Worker(app, heartbeat=heartbeat)
    out_of_time = False

    def end() -> None:
        nonlocal out_of_time
        out_of_time = True
        worker.stop()
        # Another process may go on while this one waits for its last answers.
        state.wakeups.now()

    timer = asyncio.get_running_loop().call_later(CLAIMING_SECONDS, end)
    begun = await worker.run("drained")
    timer.cancel()
    if out_of_time:
        # Those answers held places in the caps of their endpoints.
        state.wakeups.now()
    return begun
