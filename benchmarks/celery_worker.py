"""A Celery worker in a process of its own, on one queue, for the baseline's task and for ours."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from celery import Celery, Task, shared_task

import flask_webhook_endpoints.celery  # noqa: F401 - registers our task
from benchmarks import hosts, rounds
from flask_webhook_endpoints.security import signing

OPTIONS = ("--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat")
"""The pool: one process works, beside the one that receives. Other pools and numbers are untried."""


class CeleryWorker:
    """A Celery worker that begins when it is told, so that only its work is measured."""

    def __init__(self, app: Celery, folder: Path) -> None:
        self._app = app
        self._folder = folder

    def measure(self, send: Callable[[Celery], int]) -> rounds.Cost:
        """Queue the tasks that `send` sends, let the worker begin, and return the cost of each operation."""
        told, begun, ended = (self._folder / f"{name}-{secrets.token_hex(4)}" for name in ("told", "begun", "ended"))
        begin.delay(str(told), str(begun))
        operations = send(self._app)
        end.delay(str(ended))
        told.touch()
        _wait_for(ended, seconds=120)
        (wall, cpu), (wall_after, cpu_after) = (json.loads(path.read_text()) for path in (begun, ended))
        return rounds.Cost((cpu_after - cpu) / operations * 1e6, (wall_after - wall) / operations * 1e6)


@contextmanager
def celery_worker(broker: str, database: str) -> Iterator[CeleryWorker]:
    """Start a Celery worker for the host at this database; raise `ConnectionError` without a broker."""
    queue = f"bench-{secrets.token_hex(4)}"
    app = _celery(broker, queue)
    _refuse_unreachable(app)
    environment = {**os.environ, "C_FORCE_ROOT": "1", "BENCH_CELERY": json.dumps([broker, queue, database])}
    command = [sys.executable, "-m", "celery", "--quiet", "--app", "benchmarks.celery_worker:app", "worker"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([*command, *OPTIONS, "--loglevel", "ERROR"], env=environment)  # noqa: S603 - ours
        try:
            yield CeleryWorker(app, Path(folder))
        finally:
            process.terminate()
            process.wait()
            with app.connection_for_write() as connection:
                connection.default_channel.queue_delete(queue)


@shared_task(name="bench.begin", ignore_result=True)
def begin(told: str, path: str) -> None:
    """Hold up the tasks behind this one until the benchmark says to go on."""
    _wait_for(Path(told), seconds=60)
    end(path)


@shared_task(name="bench.end", ignore_result=True)
def end(path: str) -> None:
    """Write the time, and the CPU that the worker and its receiving process have used."""
    cpu = sum(_cpu_seconds(pid) for pid in (os.getpid(), os.getppid()))
    unfinished = Path(f"{path}.part")
    unfinished.write_text(json.dumps([time.monotonic(), cpu]))
    unfinished.rename(path)


@shared_task(name="bench.post", ignore_result=True)
def post(url: str, secret: str, message_id: str, body: str) -> None:
    """Sign and post one delivery, as a host would without this library."""
    timestamp, data = int(time.time()), body.encode()
    headers = {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signing.sign([secret], message_id=message_id, timestamp=timestamp, body=data),
    }
    requests.post(url, data=data, headers=headers, timeout=10).raise_for_status()


def _refuse_unreachable(app: Celery) -> None:
    try:
        with app.connection_for_write(connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
    except Exception as error:
        # Each broker's client raises errors of its own.
        raise ConnectionError(str(error)) from error


def _wait_for(path: Path, *, seconds: float) -> None:
    give_up_at = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > give_up_at:
            raise TimeoutError("Celery did not come to the end of its tasks.")
        time.sleep(0.005)


def _cpu_seconds(pid: int) -> float:
    # Linux only: after the name, which may have spaces, utime and stime are the 12th and 13th.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _celery(broker: str, queue: str, **config: Any) -> Celery:
    app = Celery("bench", broker=broker, **config)
    app.conf.update(
        task_default_queue=queue,
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    app.set_default()
    return app


def _host(broker: str, queue: str, database: str) -> Celery:
    flask_app = hosts.open_host(database).app

    class FlaskTask(Task):  # type: ignore[misc]
        def __call__(self, *args: object, **kwargs: object) -> object:
            with flask_app.app_context():
                return self.run(*args, **kwargs)

    app = _celery(broker, queue, task_cls=FlaskTask)
    flask_app.extensions["celery"] = app
    return app


if "BENCH_CELERY" in os.environ:
    app = _host(*json.loads(os.environ["BENCH_CELERY"]))
