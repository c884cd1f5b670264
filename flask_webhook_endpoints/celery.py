"""The Celery tasks that deliver and prune, and their entries for beat.

Import this module where the host makes its Celery in the way of Flask's documentation (`FlaskTask`,
`app.extensions["celery"]`), in every process that publishes or works. The tasks exist then, and commits wake them.
"""

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

from flask_webhook_endpoints.core import incidents, queue, retention, wakeups
from flask_webhook_endpoints.core.heartbeats import Heartbeat
from flask_webhook_endpoints.core.incidents import PauseRule
from flask_webhook_endpoints.core.marks import Marks
from flask_webhook_endpoints.database import failures, sessions
from flask_webhook_endpoints.state import State, current_state
from flask_webhook_endpoints.worker import drains, news
from flask_webhook_endpoints.worker.pruning import PRUNE_SECONDS

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

TASK_SECONDS = 3600
"""Seconds that no task takes; they replace limits of the host, which would break off attempts."""

_stopping = mmap.mmap(-1, 1)
"""A byte in memory that Celery's process shares with its forks. It is 1 once that process is told to stop."""

_drain_lock = drains.DrainLock()

_IMPORTING_PROCESS = os.getpid()
_OF_PARENT: list[Session] = []


def deliver() -> int:
    """Deliver what is due; return how many attempts were begun."""
    app, state = _begin()
    # The heartbeat is that of Celery's own process, whichever process of its pool runs the task.
    heartbeat = _heartbeat(app, socket.gethostname(), os.getppid())
    if _stopping[0] or not _drain_lock.take():
        return 0
    try:
        with _messages():
            return _drain(app, state, heartbeat)
    finally:
        if _drain_lock.leave():
            state.wakeups.now()


def prune() -> None:
    """Delete rows whose time is over, expire deliveries that were held for too long, and announce pauses."""
    _, state = _begin()
    settings = state.settings
    days = {"retention_days": settings.retention_days, "hold_max_days": settings.hold_max_days}
    rule = PauseRule(settings.pause_after_failures, settings.pause_after_days)
    with _messages():
        news.tell(state.run_apart(partial(incidents.announce_pauses, rule=rule)))
        for step in retention.steps(**days):
            for _ in state.in_batches(step.prune, cursor=lambda batch: batch.last):
                pass


# Celery only runs them: the rows say what is due, and leases what a process that died has left.
_task = partial(shared_task, ignore_result=True, soft_time_limit=TASK_SECONDS, time_limit=TASK_SECONDS)
_task(name=wakeups.TASK)(deliver)
_task(name=PRUNE_TASK)(prune)
wakeups.follow_commits()


def _stop(**_: object) -> None:
    _stopping[0] = 1


def _set_up(instance: Any, **_: object) -> None:
    """Refuse a pool that does not work with asyncio; leave a worker's other tasks all processes but one."""
    pool = instance.pool_cls.__module__.rpartition(".")[2]
    ours, consumed = _queues(instance.app)
    if pool in ("gevent", "eventlet") and ours in consumed:
        raise SystemExit(
            f"The pool {pool} does not work with asyncio, by which webhooks are delivered."
            f" Run a worker with --pool prefork on the queue {ours!r}, and leave that queue out with --pool {pool}."
        )
    if consumed != {ours} or ours == instance.app.conf.task_default_queue:
        _drain_lock.limit()


def _look_once(sender: Any, **_: object) -> None:
    """Send this worker a message, because nobody sends one before a process of ours was seen."""
    queue, consumed = _queues(sender.app)
    if queue in consumed:
        sender.app.tasks[wakeups.TASK].apply_async(expires=wakeups.EXPIRES_SECONDS)


def _queues(app: Any) -> tuple[str, set[str]]:
    """Return the queue of our task, and those that this worker takes from."""
    return app.amqp.router.route({}, wakeups.TASK)["queue"].name, set(app.amqp.queues.consume_from)


signals.worker_shutting_down.connect(_stop)
signals.celeryd_after_setup.connect(_set_up)
signals.worker_ready.connect(_look_once)
# Attempts that outlast their task end before the process does.
signals.worker_process_shutdown.connect(drains.join)


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
    if not sessions.shares_connections(engine):
        engine.dispose(close=False)


@lru_cache
def _heartbeat(app: Flask, hostname: str, pid: int) -> Heartbeat:
    """Return the heartbeat for one application, because another one in this process may have another database."""
    return Heartbeat(uuid5(NAMESPACE_OID, f"celery {hostname} {pid}"), "celery", pid=pid)


@lru_cache
def _marks(_app: Flask, _pid: int) -> Marks:
    """Return the marks of a process for one application, or each drain would sweep all endpoints again."""
    return Marks()


@contextmanager
def _messages() -> Iterator[None]:
    """Keep the parameters of statements, which SQLAlchemy's errors repeat, out of the task's traceback."""
    try:
        yield
    except DBAPIError as error:
        raise RuntimeError(f"The database refused: {failures.refusal(error)}") from None
    finally:
        current_state().host.session().close()


def _drain(app: Flask, state: State, heartbeat: Heartbeat) -> int:
    marks = _marks(app, os.getpid())
    # What was committed late must not wait for the next drain.
    marks.look_at_all()
    # Look before making an event loop and a sender, because most wakes find nothing left to do.
    if not state.run_apart(partial(queue.is_any_due, marks=marks), first=heartbeat.beat):
        return 0
    drain = drains.Drain(app, heartbeat, marks, is_stopping=lambda: bool(_stopping[0]), wake=state.wakeups.now)
    return drain.claimed()
