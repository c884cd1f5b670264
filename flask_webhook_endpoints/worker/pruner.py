"""The pruning that a worker does beside its deliveries, once an hour."""

import asyncio
import logging
import random
from collections.abc import Sequence

from flask_webhook_endpoints.core.retention import Step
from flask_webhook_endpoints.worker.database_thread import DatabaseThread, log_error

PRUNE_SECONDS = 3600.0
"""Between two prunings; the first comes at random within it, so that many workers do not prune at once."""

PRUNE_PAUSE_SECONDS = 0.05
"""Between two batches, for claims and records: they share the one connection."""

_log = logging.getLogger("flask_webhook_endpoints.pruner")


async def prune_hourly(database: DatabaseThread, steps: Sequence[Step]) -> None:
    """Prune until cancelled; what fails is logged, and tried again an hour later."""
    await asyncio.sleep(random.uniform(0, PRUNE_SECONDS))  # noqa: S311 - spreads load, guards nothing
    while True:
        try:
            await _prune(database, steps)
        except Exception as error:
            log_error("webhooks.not_pruned", error)
        await asyncio.sleep(PRUNE_SECONDS)


async def _prune(database: DatabaseThread, steps: Sequence[Step]) -> None:
    """Prune batch by batch; a claim or a record waits for one of them at most."""
    figures: dict[str, int] = {}
    for step in steps:
        while taken := await database.transact(step.prune):
            figures[f"webhooks.{step.name}"] = figures.get(f"webhooks.{step.name}", 0) + taken
            await asyncio.sleep(PRUNE_PAUSE_SECONDS)
    if figures:
        _log.info("webhooks.pruned", extra=figures)
