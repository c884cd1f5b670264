"""Processes: workers of their own, and the CPU time that workers, receivers and databases' servers have used.

Linux only.
"""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from benchmarks import hosts
from flask_webhook_endpoints import settings
from flask_webhook_endpoints.database.queue_models import WebhookWorker
from flask_webhook_endpoints.worker import pace, process

_TICKS = os.sysconf("SC_CLK_TCK")
_spawn = multiprocessing.get_context("spawn")


@contextmanager
def worker(
    host: hosts.Host, *, concurrency: int = settings.DEFAULT_CONCURRENCY, quiet_share: float = pace.QUIET_SHARE
) -> Iterator[int]:
    """Run a worker until the end. Yield its process id when the worker has asked the database for the first time.

    With a larger `quiet_share`, it soon looks as rarely as after minutes without work. It is killed at the end, because
    a worker that stops waits for attempts that hang.
    """
    url = host.app.config["SQLALCHEMY_DATABASE_URI"]
    # Those that earlier rounds have killed.
    host.execute(sa.delete(WebhookWorker))
    running = _spawn.Process(target=_work, args=(url, concurrency, quiet_share), daemon=True)
    running.start()
    try:
        _wait_until(lambda: host.execute(sa.select(WebhookWorker.id)))
        yield running.pid or 0
    finally:
        running.kill()
        running.join()


def _work(url: str, concurrency: int, quiet_share: float) -> None:
    pace.QUIET_SHARE = quiet_share
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.CRITICAL)
    process.run(hosts.open_host(url).app, concurrency=concurrency, batch=settings.DEFAULT_BATCH, until="stopped")


class Drained(NamedTuple):
    """What it took some workers to deliver all that was due."""

    seconds: float
    """The time from when all of them began until all ended."""
    cpu: float
    """Seconds of CPU of all of them in that time, without their start as processes."""


def drain_by(number: int, host: hosts.Host) -> Drained:
    """Deliver all that is due by so many workers."""
    url, barrier = host.app.config["SQLALCHEMY_DATABASE_URI"], _spawn.Barrier(number + 1)
    cpu = _spawn.SimpleQueue()
    workers = [_spawn.Process(target=_drain, args=(url, barrier, cpu.put), daemon=True) for _ in range(number)]
    for each in workers:
        each.start()
    barrier.wait()
    began = time.perf_counter()
    for each in workers:
        each.join()
    return Drained(time.perf_counter() - began, sum(cpu.get() for _ in workers))


def _drain(url: str, barrier: Any, report: Callable[[float], None]) -> None:
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    app = hosts.open_host(url).app
    barrier.wait()
    began = time.process_time()
    process.run(app, concurrency=settings.DEFAULT_CONCURRENCY, batch=settings.DEFAULT_BATCH, until="drained")
    report(time.process_time() - began)


def cpu_of_server(host: hosts.Host) -> float:
    """Return the seconds of CPU that the database's server has used so far; 0 for SQLite, which has none.

    All that it serves counts: let no other program use it.
    """
    with host.app.app_context():
        dialect = host.db.engine.dialect.name
    if dialect == "sqlite":
        return 0.0
    if dialect == "postgresql":
        backend = int(host.execute(sa.text("SELECT pg_backend_pid()"))[0][0])
        postmaster = int(_fields(backend)[1])
        return _cpu(postmaster, with_ended=True) + cpu_seconds(children(postmaster))
    return cpu_seconds([int(Path(host.execute(sa.text("SELECT @@pid_file"))[0][0]).read_text())])


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the seconds of CPU that these processes have used so far."""
    return sum(_cpu(pid) for pid in pids)


def children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    return [pid for pid in _pids() if (fields := _fields(pid)) and int(fields[1]) == parent]


def _cpu(pid: int, *, with_ended: bool = False) -> float:
    fields = _fields(pid)
    # The CPU of the process, and that of its children that have ended.
    return sum(map(int, fields[11 : 15 if with_ended else 13])) / _TICKS


def _fields(pid: int) -> list[str]:
    """Return what the system tells about a process, from its state on; nothing if it has ended."""
    try:
        # Its name, which may have spaces, stands in brackets before that.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return []


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError("The worker did not start.")
        time.sleep(0.02)
