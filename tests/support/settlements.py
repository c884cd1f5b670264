"""Results of attempts, made by hand."""

from datetime import UTC, datetime
from typing import Any

from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.database.models import DeliveryStatus


def settle(delivery: Claimed, **changed: Any) -> Settlement:
    """Return the result of an attempt that succeeded, or another one."""
    result = Settlement(
        delivery=delivery,
        status=DeliveryStatus.DELIVERED,
        next_attempt_at=None,
        attempts_before=0,
        rests_seconds=None,
        gone=False,
        started_at=datetime.now(UTC),
        duration_ms=20,
        response_status=200,
        error=None,
        response_excerpt=None,
    )
    return result._replace(**changed)
