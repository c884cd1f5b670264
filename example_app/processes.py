"""The example app's two processes, as an operator would start them: the server and the worker."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO

_FLASK = [sys.executable, "-m", "flask", "--app", "example_app"]

_STOP_SECONDS = 10

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill`, and a terminal that is closed."""


def end_by_signals() -> None:
    """Have every signal that ends us raise `KeyboardInterrupt`, so that our processes are ended, too."""
    for number in _ENDING:
        signal.signal(number, signal.default_int_handler)


def server(port: int) -> list[str]:
    """Return the command of a server at a port of this machine; 0: the system chooses one."""
    return [*_FLASK, "run", "--host", "127.0.0.1", "--port", str(port)]


def worker() -> list[str]:
    """Return the command of a worker."""
    return [*_FLASK, "webhooks", "worker"]


@contextmanager
def running(
    command: list[str], environment: Mapping[str, str], output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as the context lasts; it writes to `output`, or where we do."""
    process = None
    try:
        with _uninterrupted():
            # In a group of its own, so that Ctrl-C in a terminal comes to us alone. We end all of the group.
            process = subprocess.Popen(  # noqa: S603 - no input
                command, env=environment, stdout=output, stderr=output, process_group=0
            )
        yield process
    finally:
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    _signal(process, signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # Once it has been waited for, its number may be another's.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defer signals that end us, because a process that is being started can't be stopped yet."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
