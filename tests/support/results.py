"""Results and held deliveries of endpoints, made up by the thousand."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from flask_webhook_endpoints.core import roll_ups
from flask_webhook_endpoints.database.models import QueueState, new_id
from tests.support.api import Endpoint
from tests.support.database import HOUR, QUEUE, execute
from tests.support.hosts import Host


def add_hour(host: Host, endpoint: Endpoint, *, delivered: int = 0, failed: int = 0, hours_ago: int = 0) -> None:
    """Let an endpoint of `acme` have had results, whose answers took 19 ms."""
    now = datetime.now(UTC)
    hour = roll_ups.beginning_of_hour(now) - timedelta(hours=hours_ago)
    numbers = {"attempts": delivered + failed, "failed_attempts": failed, "delivered": delivered, "failed": failed}
    key = {"tenant_id": "acme", "endpoint_id": endpoint.uuid, "hour": hour, "latency": 10}
    execute(host, sa.insert(HOUR), {**key, **numbers, "last_at": now})


def hold(host: Host, endpoint: Endpoint, number: int) -> None:
    """Let a paused endpoint of `acme` hold this many deliveries."""
    queued = {"tenant_id": "acme", "endpoint_id": endpoint.uuid, "state": QueueState.HELD}
    times = {"due_at": datetime.now(UTC), "attempts": 0, "attempts_before": 0}
    execute(host, sa.insert(QUEUE), [{**queued, **times, "delivery_id": new_id()} for _ in range(number)])
