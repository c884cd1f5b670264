"""Pruning beside the deliveries: once an hour a worker runs the steps of `core/retention`, batch by batch."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from functools import partial

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core import incidents, retention
from flask_webhook_endpoints.core.incidents import PauseRule
from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.worker import news
from flask_webhook_endpoints.worker.database_thread import DatabaseThread, log_error

PRUNE_SECONDS = 3600.0
"""Seconds between two prunings. The first comes at random within them, so that many workers do not prune at once."""

PRUNE_PAUSE_SECONDS = 0.05
"""Seconds between two batches of a pruning, for claims and records, which share its connection."""

_log = logs.logger("flask_webhook_endpoints.pruner")  # the name that hosts have configured


async def prune_hourly(database: DatabaseThread, settings: Settings) -> None:
    """Prune and announce pauses until cancelled; log what fails, and try again an hour later."""
    rule = PauseRule(settings.pause_after_failures, settings.pause_after_days)
    steps = retention.steps(retention_days=settings.retention_days, hold_max_days=settings.hold_max_days)
    await asyncio.sleep(random.uniform(0, PRUNE_SECONDS))  # noqa: S311 - spreads load, guards nothing
    while True:
        try:
            notices = await database.transact(partial(incidents.announce_pauses, rule=rule))
            await database.call(partial(news.tell, notices))
            await _prune(database, steps)
        except Exception as error:
            log_error("webhooks.not_pruned", error)
        await asyncio.sleep(PRUNE_SECONDS)


async def _prune(database: DatabaseThread, steps: Sequence[retention.Step]) -> None:
    """Prune batch by batch, so that a claim or a record waits for one batch at most."""
    figures: Counter[str] = Counter()
    for step in steps:
        after = None
        while batch := await database.transact(partial(step.prune, after=after)):
            after = batch.last
            if batch.taken:
                figures[f"webhooks.{step.name}"] += batch.taken
            await asyncio.sleep(PRUNE_PAUSE_SECONDS)
    if figures:
        _log.info("webhooks.pruned", extra=figures)
