"""Celery as the engine: the task that delivers what is due, and the beat entry that sweeps.

To be imported where the host makes its Celery in the way of Flask's documentation (`FlaskTask`,
`app.extensions["celery"]`), in every process that publishes or works: the task exists then, and commits wake it.
"""

import asyncio
from typing import Any, cast

from celery import shared_task
from flask import Flask, current_app
from sqlalchemy.exc import DBAPIError

from flask_webhook_endpoints import transactions, wakes
from flask_webhook_endpoints.state import EXTENSION, State
from flask_webhook_endpoints.worker import Worker

SWEEP_SECONDS = 5.0
"""Between two looks of beat at what no commit wakes for: retries that have become due, and wakes that got lost."""

BEAT_SCHEDULE = {"webhooks-sweep": {"task": wakes.TASK, "schedule": SWEEP_SECONDS}}
"""For `beat_schedule` in the host's Celery configuration."""

CLAIMING_SECONDS = 30.0
"""How long a task takes on more; what is due then is the next one's, so that processes can be stopped and replaced."""

TASK_SECONDS = 3600
"""Above whatever a task may take, in place of limits of the host's, which would break off attempts."""


def deliver() -> int:
    """Deliver what is due; return how many attempts were begun."""
    app: Flask = cast(Any, current_app)._get_current_object()
    try:
        return asyncio.run(_deliver(app)) if _anything_due(app) else 0
    except DBAPIError as error:
        # The driver's own error alone: SQLAlchemy's repeats the statement's parameters.
        raise RuntimeError(f"The database refused: {error.orig}") from None


# Nothing of Celery's is needed beyond running it: the rows say what is due, their leases what a process left behind.
task = shared_task(name=wakes.TASK, ignore_result=True, soft_time_limit=TASK_SECONDS, time_limit=TASK_SECONDS)(deliver)


def _anything_due(app: Flask) -> bool:
    """Look before an event loop and a sender are made: wakes come more often than there is something left to do."""
    state: State = app.extensions[EXTENSION]
    session = state.host.session()
    try:
        return transactions.read(session, lambda session: state.deliveries.is_any_due(session, now=state.now()))
    finally:
        session.close()


async def _deliver(app: Flask) -> int:
    state: State = app.extensions[EXTENSION]
    worker = Worker(app)
    out_of_time = False

    def end() -> None:
        nonlocal out_of_time
        out_of_time = True
        worker.stop()
        # Another process may go on while this one waits for its last answers.
        state.wakes.now()

    timer = asyncio.get_running_loop().call_later(CLAIMING_SECONDS, end)
    begun = await worker.run("drained")
    timer.cancel()
    if out_of_time:
        # Those answers held places in the caps of their endpoints.
        state.wakes.now()
    return begun
