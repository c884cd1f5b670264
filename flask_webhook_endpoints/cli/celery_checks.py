"""The checks of a host's Celery, where it is our engine: settings that would hurt.

Read as a host made it: nothing of Celery is imported.
"""

from collections.abc import Iterator
from typing import Any

from flask_webhook_endpoints.cli.findings import Finding, fail, ok, warn
from flask_webhook_endpoints.core.wakeups import TASK

LONGEST_TASK_SECONDS = 90
"""That a task of ours may take: as long as it takes on more, and then the longest attempt."""


def check_celery(celery: Any) -> Iterator[Finding]:
    """Say what of the settings would hurt; nothing where Celery is absent or does not deliver."""
    if celery is None or TASK not in celery.tasks:
        return
    yield from list(_faults(celery.conf)) or [ok("celery", "it delivers, and its settings do no harm")]


def _faults(conf: Any) -> Iterator[Finding]:
    if conf.task_always_eager:
        yield fail(
            "celery",
            "task_always_eager is on: no worker delivers",
            "Leave it off; tests have `drain_webhooks`.",
        )
    entries = (conf.beat_schedule or {}).values()
    if not any(entry.get("task") == TASK for entry in entries):
        yield warn(
            "celery",
            "beat_schedule has no entry that delivers: retries wait for the next event that is published",
            'Add it: beat_schedule={"webhooks-sweep": {"task": "flask_webhook_endpoints.deliver", "schedule": 5.0}}, '
            "and run one `celery beat`. Not needed beside a `flask webhooks worker`.",
        )
    visible_seconds = (conf.broker_transport_options or {}).get("visibility_timeout")
    if conf.task_acks_late and visible_seconds is not None and visible_seconds < LONGEST_TASK_SECONDS:
        yield warn(
            "celery",
            f"visibility_timeout of {visible_seconds} s is shorter than a task may take: it is run twice",
            f"Set broker_transport_options' visibility_timeout to {LONGEST_TASK_SECONDS} seconds or more.",
        )
