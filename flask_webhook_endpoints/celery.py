"""The Celery tasks that deliver and prune, and their entries for beat.

Import this module where the host makes its Celery in the way of Flask's documentation (`FlaskTask`,
`app.extensions["celery"]`), in every process that publishes or works. The tasks exist then, and commits wake them.
"""

import asyncio
import mmap
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, cast
from uuid import NAMESPACE_OID, uuid5

from celery import shared_task, signals
from flask import Flask, current_app
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from flask_webhook_endpoints.core import leases, retention, wakeups
from flask_webhook_endpoints.core.statistics import Heartbeat
from flask_webhook_endpoints.database import failures
from flask_webhook_endpoints.state import State, current_state
from flask_webhook_endpoints.worker.loop import PRUNE_SECONDS, Worker

SWEEP_SECONDS = 5.0
"""Seconds between two looks of beat for deliveries that no commit wakes for: retries, and those of lost wakes."""

PRUNE_TASK = "flask_webhook_endpoints.prune"

BEAT_SCHEDULE = {
    "webhooks-sweep": {
        "task": wakeups.TASK,
        "schedule": SWEEP_SECONDS,
        "options": {"expires": wakeups.EXPIRES_SECONDS},
    },
    "webhooks-prune": {"task": PRUNE_TASK, "schedule": PRUNE_SECONDS, "options": {"expires": PRUNE_SECONDS}},
}
"""The entries for `beat_schedule` in the host's Celery configuration."""

CLAIMING_SECONDS = 10.0
"""Seconds after which a task claims no more and leaves the rest to the next one, so that processes can be replaced."""

TASK_SECONDS = 3600
"""Seconds that no task takes; they replace limits of the host, which would break off attempts."""

STOPPING_SECONDS = 0.2
"""Seconds between two looks of a task whether Celery's process is told to stop."""

_stopping = mmap.mmap(-1, 1)
"""A byte in memory that Celery's process shares with those that it forks: 1 once it is told to stop."""

_IMPORTING_PROCESS = os.getpid()
_OF_PARENT: list[Session] = []


def deliver() -> int:
    """Deliver what is due; return how many attempts were begun."""
    app, state = _begin()
    # The heartbeat is that of Celery's own process, whichever process of its pool runs the task.
    heartbeat = _heartbeat(app, socket.gethostname(), os.getppid())
    cap = state.settings.max_in_flight_per_endpoint
    if _stopping[0]:
        return 0
    with _messages():
        # Look before making an event loop and a sender, because most wakes find nothing left to do.
        if state.run_apart(partial(leases.is_any_due, cap=cap), first=heartbeat.beat):
            return asyncio.run(_deliver(app, state, heartbeat))
    return 0


def prune() -> None:
    """Delete rows whose time is over, and expire deliveries that were held for too long."""
    _, state = _begin()
    days = {"retention_days": state.settings.retention_days, "hold_max_days": state.settings.hold_max_days}
    with _messages():
        for step in retention.steps(**days):
            for _ in state.in_batches(step.prune, cursor=lambda batch: batch.last):
                pass


# Celery only runs them: the rows say what is due, and leases what a process that died has left.
_task = partial(shared_task, ignore_result=True, soft_time_limit=TASK_SECONDS, time_limit=TASK_SECONDS)
_task(name=wakeups.TASK)(deliver)
_task(name=PRUNE_TASK)(prune)


def _stop(**_: object) -> None:
    _stopping[0] = 1


def _refuse_pool(instance: Any, **_: object) -> None:
    """End a worker of our queue that has a pool which does not work with asyncio."""
    pool = instance.pool_cls.__module__.rpartition(".")[2]
    queues = instance.app.amqp
    queue = queues.router.route({}, wakeups.TASK)["queue"].name
    if pool in ("gevent", "eventlet") and queue in queues.queues.consume_from:
        raise SystemExit(
            f"The pool {pool} does not work with asyncio, by which webhooks are delivered."
            f" Run a worker with --pool prefork on the queue {queue!r}, and leave that queue out with --pool {pool}."
        )


signals.worker_shutting_down.connect(_stop)
signals.celeryd_after_setup.connect(_refuse_pool)


def _begin() -> tuple[Flask, State]:
    app: Flask = cast(Any, current_app)._get_current_object()
    _drop_connections(app, os.getpid())
    return app, current_state()


@lru_cache
def _drop_connections(app: Flask, pid: int) -> None:
    """In a forked process, drop the connections of the process that imported the app: two must not share one."""
    if pid == _IMPORTING_PROCESS:
        return
    host = current_state().host
    session = host.session()
    engine = session.get_bind(clause=host.tables.bind_of_writes).engine
    if session.in_transaction() and (registry := getattr(host.session, "registry", None)) is not None:
        # It is still open. Keep it: if Python closed or collected it, that would roll back the parent's transaction.
        _OF_PARENT.append(session)
        registry.clear()
    # These pools have the only connection to a database in memory, which no other process uses.
    if not isinstance(engine.pool, SingletonThreadPool | StaticPool):
        engine.dispose(close=False)


@lru_cache
def _heartbeat(app: Flask, hostname: str, pid: int) -> Heartbeat:
    """Return the heartbeat for one application, because another one in this process may have another database."""
    return Heartbeat(uuid5(NAMESPACE_OID, f"celery {hostname} {pid}"), "celery", pid=pid)


@contextmanager
def _messages() -> Iterator[None]:
    """Keep the parameters of statements, which SQLAlchemy's errors repeat, out of the task's traceback."""
    try:
        yield
    except DBAPIError as error:
        raise RuntimeError(f"The database refused: {failures.refusal(error)}") from None
    finally:
        current_state().host.session().close()


async def _deliver(app: Flask, state: State, heartbeat: Heartbeat) -> int:
    worker = Worker(app, heartbeat=heartbeat)
    out_of_time = False

    def end() -> None:
        nonlocal out_of_time
        out_of_time = True
        worker.stop()
        # Another process may go on while this one waits for its last answers.
        state.wakeups.now()

    timer = asyncio.get_running_loop().call_later(CLAIMING_SECONDS, end)
    watch = asyncio.create_task(_watch(worker))
    begun = await worker.run("drained")
    timer.cancel()
    watch.cancel()
    if out_of_time:
        # The last answers held places in the caps of their endpoints.
        state.wakeups.now()
    return begun


async def _watch(worker: Worker) -> None:
    """Have the task claim no more once Celery's process is told to stop."""
    while not _stopping[0]:
        await asyncio.sleep(STOPPING_SECONDS)
    worker.stop()
