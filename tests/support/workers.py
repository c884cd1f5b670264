"""Workers, and Celery's processes, as processes of their own, that tests start, stop and kill."""

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, Literal

from flask_webhook_endpoints.core import attempts, leases, queue
from flask_webhook_endpoints.worker import attempt, loop, recorder
from tests.support import hosts
from tests.support.waiting import PATIENCE_SECONDS

Step = Literal["claimed", "answered", "recording", "recorded", "claiming", "parking", "releasing"]
"""Where a worker kills itself: before it sends, before it records, before and after that is committed, before the claim
that follows, before it commits what it has moved out of the way of its claims, or back."""

# Processes start in milliseconds from a server that has imported everything.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.support.workers"])


def start(call: Callable[..., None], *args: Any, **options: Any) -> Any:
    """Run a function in a process of its own."""
    process = _processes.Process(target=call, args=args, kwargs=options, daemon=True)
    process.start()
    return process


class Forked:
    """A process that leads a group, with what it forks itself, and has imported all that Celery's processes do."""

    def __init__(self, call: Callable[..., None], *args: Any, **options: Any) -> None:
        # It counts for the first process of the tests' own process: the server is started for that one.
        _processes.set_forkserver_preload(["tests.support.workers", *CELERY])
        self._process = _processes.Process(target=_lead, args=(call, args, options))
        self._process.start()

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, seconds: float) -> int:
        """Return the exit code, once the process has ended."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, "it has not ended"
        return self._process.exitcode

    def kill(self) -> None:
        """Kill the process and what it has forked."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # It may not lead its group yet.
        self._process.kill()
        self.wait(PATIENCE_SECONDS)


CELERY = (
    "celery.__main__",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.worker.consumer",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
)
"""What Celery's processes import, beside what workers do: a second of a core, which one that is forked need not spend.

It is without `flask_webhook_endpoints.celery`, which has memory that Celery's process and its forks share: each has to
import that by itself.
"""


def _lead(call: Callable[..., None], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    os.setsid()
    call(*args, **options)


def run_celery(given: dict[str, Any], *arguments: str) -> None:
    """Be `celery --app tests.support.celery_host`, for the host that is described."""
    os.environ["CELERY_HOST"] = json.dumps(given)
    sys.argv = ["celery", "--app", "tests.support.celery_host", "--quiet", *arguments]
    import_module("celery.__main__").main()


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE_SECONDS)


@contextmanager
def workers(number: int, url: str, settings: dict[str, Any]) -> Iterator[list[Any]]:
    """Let workers deliver, and end as they should."""
    processes = [start(deliver, url, settings) for _ in range(number)]
    try:
        yield processes
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(PATIENCE_SECONDS)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()


@contextmanager
def in_thread(worker: loop.Worker) -> Iterator[None]:
    """Let a worker run in a thread of this process, and stop it at last."""
    event_loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(event_loop.run_until_complete, worker.run())
        try:
            yield
        finally:
            if not future.done():
                event_loop.call_soon_threadsafe(worker.stop)
            future.result(PATIENCE_SECONDS)
            event_loop.close()


def deliver(
    url: str,
    settings: dict[str, Any],
    *,
    die: tuple[Step, int] | None = None,
    lease_margin_seconds: float = leases.LEASE_MARGIN_SECONDS,
) -> None:
    """Be a worker that kills itself when it comes to a step for the n-th time; its leases may end within the test."""
    # Failed attempts are what the tests are about.
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    leases.LEASE_MARGIN_SECONDS = lease_margin_seconds  # type: ignore[assignment]
    host = hosts.delivering(url, **settings)
    if die is not None:
        _die_at(*die)

    async def run() -> None:
        engine = loop.Worker(host.app)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engine.stop)
        await engine.run()

    asyncio.run(run())
    host.close()


def publish_and_die(url: str, settings: dict[str, Any], number: int) -> None:
    """Publish, commit, and be killed at once."""
    host = hosts.delivering(url, **settings)
    with host.app.app_context():
        for count in range(number):
            host.webhooks.publish("invoice.paid", count, tenant_id="acme")
        host.db.session.commit()
        os.kill(os.getpid(), signal.SIGKILL)


_STEPS: dict[Step, tuple[Any, str]] = {
    "claimed": (loop.Worker, "_next"),
    "answered": (attempt.Courier, "attempt"),
    "recording": (attempts, "record"),
    "recorded": (recorder.Recorder, "_record"),
    "claiming": (leases, "claim"),
    "parking": (queue, "move_away"),
    "releasing": (queue, "release"),
}


def _die_at(step: Step, times: int) -> None:
    left = iter(range(times - 1, -1, -1))
    settled = _settlements() if step == "claiming" else []

    def come() -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    kind, name = _STEPS[step]
    method = getattr(kind, name)

    def call(*args: Any, **options: Any) -> Any:
        if step == "claimed" or settled:
            come()
        result = method(*args, **options)
        # A claim moves nothing, more often than not.
        if step == "recording" or (step in ("parking", "releasing") and args[1]):
            come()
        return result

    async def call_and_wait(*args: Any, **options: Any) -> Any:
        result = await method(*args, **options)
        come()
        return result

    setattr(kind, name, call_and_wait if step in ("answered", "recorded") else call)


def _settlements() -> list[None]:
    """Return a list that gets an entry with each record of this process, whose next claim follows the commit."""
    settled: list[None] = []
    record = attempts.record

    def record_and_note(*args: Any, **options: Any) -> Any:
        result = record(*args, **options)
        settled.append(None)
        return result

    attempts.record = record_and_note
    return settled
