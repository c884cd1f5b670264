"""A host that has its Celery as Flask's documentation makes it; what `celery --app tests.support.celery_host` runs."""

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from flask import Flask

from flask_webhook_endpoints.celery import BEAT_SCHEDULE
from tests.support import hosts

NOTE = "tests.note"
"""The task of the host's that writes the time to a file."""


def celery_init_app(app: Flask) -> Celery:
    class FlaskTask(Task):  # type: ignore[misc]
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app


def celery_config(broker: str, queue: str, **config: Any) -> dict[str, Any]:
    """A queue of this test alone, on a broker that others use too."""
    return {
        "broker_url": broker,
        "task_default_queue": queue,
        "task_ignore_result": True,
        "beat_schedule": BEAT_SCHEDULE,
        "broker_connection_retry_on_startup": True,
        "broker_connection_timeout": 1,
        "worker_hijack_root_logger": False,
        **config,
    }


def make_host(url: str, celery: dict[str, Any], **settings: Any) -> hosts.Host:
    host = hosts.delivering(url, **settings)
    host.app.config["CELERY"] = celery
    celery_init_app(host.app)
    return host


if "CELERY_HOST" in os.environ:
    _given = json.loads(os.environ["CELERY_HOST"])
    if margin := _given.get("lease_margin_seconds"):
        from flask_webhook_endpoints.core import leases

        leases.LEASE_MARGIN_SECONDS = margin
    if claiming := _given.get("claiming_seconds"):
        from flask_webhook_endpoints.worker import drains

        drains.CLAIMING_SECONDS = claiming
    host = make_host(_given["url"], _given["celery"], **_given["settings"])
    # It has made its tables, and has connections open that the processes are forked with.
    with host.app.app_context():
        assert host.db.engine.pool.checkedin()
    flask_app = host.app
    app = flask_app.extensions["celery"]

    @app.task(name=NOTE)
    def note(path: str) -> None:
        """Be a task of the host's."""
        with Path(path).open("a") as notes:
            notes.write(f"{time.time()}\n")
