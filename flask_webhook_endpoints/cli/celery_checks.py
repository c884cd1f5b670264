"""Checks of the host's Celery: its settings, its broker, and who takes our tasks from their queue."""

from collections.abc import Iterator
from typing import Any

from flask_webhook_endpoints.cli.findings import Finding, fail, ok, warn
from flask_webhook_endpoints.core import wakeups
from flask_webhook_endpoints.core.wakeups import TASK

LONGEST_TASK_SECONDS = 60
"""Seconds that a Celery task of ours may take.

It claims deliveries for 10. If it is told to stop meanwhile, it waits for the longest attempt.
"""

REPLY_SECONDS = 2.0
"""Seconds that the broker, and the workers behind it, have for an answer."""


def check_celery(celery: Any) -> Iterator[Finding]:
    """Check the settings of the host's Celery, unless Celery is absent or does not deliver.

    This imports nothing of Celery.
    """
    if celery is None or TASK not in celery.tasks:
        return
    queue = celery.amqp.router.route({}, TASK)["queue"].name
    message = f"it delivers, and its settings do no harm; run a worker for the queue {queue!r} alone"
    yield from list(_celery_faults(celery.conf, queue)) or [ok("celery", message)]


def _celery_faults(conf: Any, queue: str) -> Iterator[Finding]:
    if conf.task_always_eager:
        yield fail(
            "celery", "task_always_eager is on: no worker delivers", "Leave it off; tests have `drain_webhooks`."
        )
    entries = (conf.beat_schedule or {}).values()
    if not any(entry.get("task") == TASK for entry in entries):
        yield warn(
            "celery",
            "beat_schedule has no entry that delivers: retries wait for the next event that is published",
            'Add it: beat_schedule={"webhooks-sweep": {"task": "flask_webhook_endpoints.deliver", "schedule": 5.0}}, '
            "and run one `celery beat`. Not needed beside a `flask webhooks worker`.",
        )
    if queue == conf.task_default_queue:
        yield warn(
            "celery",
            f"webhooks share the default queue {queue!r} with your tasks: one process delivers at a time, and a worker"
            " with one process makes your tasks wait",
            'Give them a queue, task_routes={"flask_webhook_endpoints.*": {"queue": "webhooks"}}, and a worker for it.',
        )
    visible_seconds = (conf.broker_transport_options or {}).get("visibility_timeout")
    if conf.task_acks_late and visible_seconds is not None and visible_seconds < LONGEST_TASK_SECONDS:
        yield warn(
            "celery",
            f"visibility_timeout of {visible_seconds} s is shorter than a task may take: it is run twice",
            f"Set broker_transport_options' visibility_timeout to {LONGEST_TASK_SECONDS} seconds or more.",
        )


def check_consumers(celery: Any, *, instead: bool, beats: bool) -> Iterator[Finding]:
    """Ask the broker who takes our tasks from their queue.

    Args:
        celery: The host's Celery, if it has one.
        instead: True if a `flask webhooks worker` is at work, so that no delivery waits for Celery.
        beats: True if a task of ours ran lately, which beat sends every few seconds.

    """
    if celery is None or TASK not in celery.tasks or celery.conf.task_always_eager:
        return
    queue = celery.amqp.router.route({}, TASK)["queue"].name
    missing = warn if instead else fail
    try:
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=REPLY_SECONDS, interval_start=0)
            asked = celery.control.inspect(timeout=REPLY_SECONDS, connection=connection)
            consumers = [name for name, queues in (asked.active_queues() or {}).items() if queue in _names(queues)]
            faults = list(_consumer_faults(celery, connection, consumers)) if consumers else []
    except Exception as error:
        advice = (
            "Start the broker, or correct Celery's broker_url; in its password, / is written as %2F, # as %23, [ as %5B"
            " and @ as %40."
        )
        yield missing("broker", f"it can't be reached: {wakeups.said(error, celery)}", advice)
        return
    if not consumers:
        message = f"no Celery worker takes from the queue {queue!r}, so no task of ours runs"
        yield missing("consumers", message, f"Start one: `celery --app … worker --queues {queue}`.")
        return
    yield from faults or [ok("consumers", f"{len(consumers)} take from the queue {queue!r}")]
    if not beats and not faults:
        message = "no task of ours ran within a minute, though beat sends one every 5 seconds: beat does not run"
        yield warn("beat", message, "Start one, and only one: `celery --app … beat`. Without it, no retry is sent.")


def _consumer_faults(celery: Any, connection: Any, consumers: list[str]) -> Iterator[Finding]:
    asked = celery.control.inspect(consumers, timeout=REPLY_SECONDS, connection=connection)
    for name, tasks in (asked.registered() or {}).items():
        if TASK not in tasks:
            advice = "Import flask_webhook_endpoints.celery in the module that this worker starts from."
            yield fail("consumers", f"{name} takes from our queue, and does not know our tasks: it drops them", advice)
    for name, figures in (asked.stats() or {}).items():
        pool = str((figures.get("pool") or {}).get("implementation", "")).partition(":")[0].rpartition(".")[2]
        if pool in ("gevent", "eventlet"):
            advice = "Run it with --pool prefork: webhooks are delivered by asyncio, which does not work there."
            yield fail("consumers", f"{name} has the pool {pool}", advice)
        elif pool and pool != "prefork":
            yield warn("consumers", f"{name} has the pool {pool}, which is untried", "Run it with --pool prefork.")


def _names(queues: Any) -> list[str]:
    return [each["name"] for each in queues or ()]
