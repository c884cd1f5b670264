"""Wait for a condition, and start calls at the same moment: nothing sleeps to wait."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SLOWNESS = 4
"""How many times slower a machine may be, or be made by what runs beside the tests, than limits of time expect."""

PATIENCE_SECONDS = 60
"""Seconds that a test waits at most for what takes a few on a quick machine that does nothing else."""


POLL_SECONDS = 0.01
"""Seconds between the first looks at a condition."""

LATER = 20
"""A test notices a condition later than it came true by at most one part in so many of its wait."""


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
    """Look at a condition until it is true: ever less often, because most looks ask a database that is at work."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < seconds, "waited in vain"
        time.sleep(max(POLL_SECONDS, waited / LATER))


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what the calls return, each from a thread of its own, all started at the same moment."""
    barrier = threading.Barrier(len(calls))

    def start(call: Callable[[], Any]) -> Any:
        barrier.wait(PATIENCE_SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(start, calls))
