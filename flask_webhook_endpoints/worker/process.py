"""The process of `flask webhooks worker`: its signals, its garbage collection, and its log."""

import asyncio
import gc
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.worker.claims import Until
from flask_webhook_endpoints.worker.loop import Worker

GARBAGE_THRESHOLD = 50_000
"""Objects made between two collections: a thousand deliveries in flight are more than Python's 700 to 2000."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOGGER = logging.getLogger("flask_webhook_endpoints")


def run(app: Flask, *, concurrency: int, batch: int, until: Until) -> int:
    """Deliver until a signal comes, or as `until` says; return how many attempts were begun."""

    async def deliver() -> int:
        worker = Worker(app, concurrency=concurrency, batch=batch)
        with _stopped_by_signals(worker):
            return await worker.run(until)

    with collecting_rarely(), _heard():
        return asyncio.run(deliver())


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Have Python collect garbage less often, and only among objects made from here on.

    Otherwise each thousand deliveries would have Python search all that the host has imported. What the host has frozen
    by itself stays frozen.
    """
    is_frozen_by_host = gc.get_freeze_count() > 0
    if not is_frozen_by_host:
        gc.collect()
        gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(GARBAGE_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not is_frozen_by_host:
            gc.unfreeze()


@contextmanager
def _stopped_by_signals(worker: Worker) -> Iterator[None]:
    """Stop the worker at the first signal; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(worker.stop)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _heard() -> Iterator[None]:
    """Write our log to stderr if the host has configured no logging."""
    if _LOGGER.hasHandlers():
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logs.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)
