"""The log of failed attempts: a warning for each endpoint and minute, information about the others.

The workers of a process share the times of warnings, because Celery makes a worker for each task.
"""

import threading
from collections import OrderedDict
from datetime import datetime, timedelta
from uuid import UUID

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core.results import Settlement
from flask_webhook_endpoints.identifiers import format_id

MAX_KEPT = 4096
"""The number of endpoints whose last warning is remembered."""

_EVERY = timedelta(minutes=1)

_log = logs.logger("flask_webhook_endpoints.delivery")  # the name that hosts have configured

_warned: OrderedDict[UUID, tuple[datetime, int]] = OrderedDict()
"""The time of each endpoint's last warning, and how many of its attempts failed since."""

_lock = threading.Lock()


def log(settlement: Settlement, *, now: datetime) -> None:
    """Log a failed attempt: as a warning if the endpoint's last warning is a minute old, else as information."""
    delivery = settlement.delivery
    extra = {
        "webhooks.delivery_id": format_id(delivery.id, "dlv"),
        "webhooks.endpoint_id": format_id(delivery.endpoint_id),
        "webhooks.event_id": format_id(delivery.event_id, "evt"),
        "webhooks.attempt": delivery.attempt,
        "webhooks.response_status": settlement.response_status,
        "webhooks.error": settlement.error,
        "webhooks.status": settlement.status.value,
    }
    with _lock:
        count = _counted(delivery.endpoint_id, now)
    if count is None:
        _log.info("webhooks.attempt_failed", extra=extra)
    else:
        _log.warning("webhooks.attempt_failed", extra={**extra, "webhooks.count": count})


def _counted(endpoint_id: UUID, now: datetime) -> int | None:
    """Count a failed attempt. Return how many there were since the last warning if it is time for another one."""
    warned_at, since = _warned.pop(endpoint_id, (None, 0))
    warns = warned_at is None or abs(now - warned_at) >= _EVERY
    _warned[endpoint_id] = (now, 0) if warned_at is None or warns else (warned_at, since + 1)
    if len(_warned) > MAX_KEPT:
        _warned.popitem(last=False)
    return since + 1 if warns else None
