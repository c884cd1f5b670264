"""Drains: workers for Celery's tasks, each in a thread that finishes slow attempts after its task.

So a receiver that hangs keeps no process of Celery's from the host's own tasks.
"""

import asyncio
import fcntl
import mmap
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from flask import Flask

from flask_webhook_endpoints.core.heartbeats import Heartbeat
from flask_webhook_endpoints.core.marks import Marks
from flask_webhook_endpoints.worker.database_thread import log_error
from flask_webhook_endpoints.worker.loop import Worker

CLAIMING_SECONDS = 10.0
"""Seconds after which a drain claims no more. The next one goes on, because the host's tasks need the process, too."""

STOPPING_SECONDS = 0.2
"""Seconds between two looks of a drain whether Celery's process is told to stop."""

_threads: set[threading.Thread] = set()


class DrainLock:
    """The lock by which one process of a Celery worker drains at a time, once `limit` was called."""

    def __init__(self) -> None:
        """Let all processes drain at once. Make this object, and call `limit`, before Celery forks its processes."""
        self._file: int | None = None
        # A byte that all processes share. It changes whenever one of them asks for the lock.
        self._shared = mmap.mmap(-1, 1)
        self._asked = 0

    def limit(self) -> None:
        """Let one process drain at a time."""
        if self._file is None:
            # The system leaves this lock for a process that dies.
            self._file, path = tempfile.mkstemp()
            Path(path).unlink()

    def take(self) -> bool:
        """Take the lock, or return False if another process has it."""
        self._shared[0] = self._asked = (self._shared[0] + 1) % 256
        if self._file is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def leave(self) -> bool:
        """Leave the lock; return whether another process has asked for it meanwhile."""
        if self._file is None:
            return False
        fcntl.lockf(self._file, fcntl.LOCK_UN)
        return self._shared[0] != self._asked


class Drain:
    """One worker, and the thread that it runs in."""

    def __init__(
        self,
        app: Flask,
        heartbeat: Heartbeat,
        marks: Marks,
        *,
        is_stopping: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        """Begin to deliver what is due.

        The drain claims no more when `is_stopping` says so. It calls `wake` when it leaves something to the next drain.
        """
        self._app, self._heartbeat, self._marks = app, heartbeat, marks
        self._is_stopping, self._wake = is_stopping, wake
        self._over = threading.Event()
        self._begun = 0
        self._error: Exception | None = None
        thread = threading.Thread(target=self._run, name="webhooks-drain")
        _threads.add(thread)
        thread.start()

    def claimed(self) -> int:
        """Wait until the drain claims no more, and return how many attempts it has begun.

        If it has not run out of time, all of them are recorded then. Raise what has ended it.
        """
        self._over.wait()
        if self._error is not None:
            raise self._error
        return self._begun

    def _run(self) -> None:
        try:
            asyncio.run(self._deliver())
        except Exception as error:
            if self._over.is_set():
                log_error("webhooks.drain_broken", error)
            self._error = error
        finally:
            self._over.set()
            _threads.discard(threading.current_thread())

    async def _deliver(self) -> None:
        worker = Worker(self._app, heartbeat=self._heartbeat, marks=self._marks)

        def end() -> None:
            worker.stop()
            self._begun = worker.begun
            self._over.set()
            # Another process may go on while this one waits for its last answers.
            self._wake()

        timer = asyncio.get_running_loop().call_later(CLAIMING_SECONDS, end)
        watch = asyncio.create_task(self._watch(worker))
        try:
            self._begun = await worker.run("drained")
        finally:
            timer.cancel()
            watch.cancel()
        if self._over.is_set():
            # The last attempts held places of their endpoints' caps, for which deliveries may wait.
            self._wake()

    async def _watch(self, worker: Worker) -> None:
        while not self._is_stopping():
            await asyncio.sleep(STOPPING_SECONDS)
        worker.stop()


def join(**_: object) -> None:
    """Wait until all drains of this process have recorded their attempts."""
    for thread in list(_threads):
        thread.join()
