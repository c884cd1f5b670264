"""A tenant that has something on every page of the portal: declared events, and endpoints in each state."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa

from flask_webhook_endpoints.core import roll_ups
from flask_webhook_endpoints.database.models import PauseReason
from flask_webhook_endpoints.testing import Receiver
from tests.support import deliveries
from tests.support.api import Endpoint, change_endpoint, create_endpoint
from tests.support.database import ATTEMPT, DELIVERY, ENDPOINT, HOUR, execute
from tests.support.hosts import Host

DAYS = 30
ADDRESS = {"type": "object", "properties": {"city": {"type": "string"}, "postcode": {"type": "string"}}}
ORDER = {
    "type": "object",
    "required": ["id", "total"],
    "properties": {
        "id": {"type": "integer", "description": "The number that your customer sees."},
        "total": {"type": "string", "pattern": r"^\d+\.\d\d$"},
        "ship_to": ADDRESS,
        "items": {"type": "array", "items": {"type": "object", "properties": {"sku": {"type": "string"}}}},
    },
}
EXAMPLE = {
    "id": 4711,
    "total": "129.90",
    "ship_to": {"city": "Łódź", "postcode": "90-001"},
    "items": [{"sku": "TEA-250"}, {"sku": "CUP-2"}],
}


class Clock(Protocol):
    """The application's clock."""

    def __call__(self) -> datetime: ...

    def move(self, **by: float) -> None: ...


def declare(host: Host) -> None:
    """Declare the events that the host publishes, before anybody uses it."""
    declare = host.webhooks.event_type
    declare("order.created", description="A customer has placed an order.", schema=ORDER, example=EXAMPLE)
    declare("order.shipped", description="The carrier has taken the parcel.", schema=ORDER, example=EXAMPLE)
    declare("order.cancelled", description="Somebody has cancelled the order before it was shipped.", schema=ORDER)
    declare("invoice.paid", description="The whole amount has arrived.", example={"id": 88, "amount": "129.90"})
    declare("invoice.overdue", description="An invoice is fourteen days late.")
    declare("stock.low", description="Fewer than ten are left of an article.", deprecated=True)


def fill(host: Host, clock: Clock, receiver: Receiver, drain: Callable[[], int]) -> dict[str, str]:
    """Create the endpoints and let things happen to them; return the parts of the paths of the first one's pages."""
    client = host.client()
    orders = create_endpoint(
        client,
        f"{receiver.url}hooks/orders",
        name="Order fulfilment",
        event_types=["order.*", "invoice.paid"],
        description="Prints a label for each parcel.",
        metadata={"team": "Logistics", "region": "EU"},
        headers_json={"x-warehouse": "WAW-2", "x-api-key": "a key"},
    )
    billing = create_endpoint(
        client,
        f"{receiver.url}v2/billing",
        name="Billing (staging)",
        event_types=["invoice.paid", "invoice.overdue", "order.created", "order.cancelled", "stock.low"],
    )
    everything = create_endpoint(client, name="Data warehouse", url="https://ingest.acme.example/webhooks")
    bridge = create_endpoint(client, name="Chat bridge", url="https://chat.acme.example/in", event_types=["stock.low"])
    create_endpoint(client, name="Mobile app", url="https://push.acme.example/v1/events", event_types=["order.shipped"])
    change_endpoint(client, everything, status="PAUSED")
    failed = {"pause_reason": PauseReason.FAILURES, "paused_at": clock() - timedelta(days=2)}
    execute(host, sa.update(ENDPOINT).where(ENDPOINT.c.id == bridge.uuid).values(failed))
    for endpoint, most in (orders, 90), (billing, 12):
        _fill_hours(host, endpoint, clock(), most)

    _publish_and_deliver(host, clock, receiver, drain)
    _look_like_any_other(host, orders, billing)
    shown = client.get(f"{orders.path}/deliveries").get_json()
    retried = [each for each in shown if each["attempts"] > 1]
    return {"ep_id": orders.id, "dlv_id": retried[0]["id"]}


def _publish_and_deliver(host: Host, clock: Clock, receiver: Receiver, drain: Callable[[], int]) -> None:
    for number, event_type in enumerate(("order.created", "invoice.paid", "order.shipped", "order.created")):
        deliveries.publish(host, {**EXAMPLE, "id": 4700 + number}, event_type=event_type)
        drain()
        clock.move(minutes=7)
    receiver.answer(503, 500, headers={"Server": "nginx"})
    deliveries.publish(host, EXAMPLE, event_type="order.created")
    for _ in range(3):
        drain()
        clock.move(minutes=6)
    receiver.answer(200)
    deliveries.publish(host, EXAMPLE, event_type="order.shipped")
    drain()
    clock.move(minutes=2)


def _fill_hours(host: Host, endpoint: Endpoint, now: datetime, most: int) -> None:
    numbers = random.Random(7)
    hour = now.replace(minute=0, second=0, microsecond=0)
    rows = []
    for hours in range(1, 24 * DAYS):
        delivered, failed = numbers.randint(most // 3, most), numbers.choice([0, 0, 0, 0, 1, most // 9])
        at = hour - timedelta(hours=hours)
        rows.append(
            {
                "tenant_id": "acme",
                "endpoint_id": endpoint.uuid,
                "hour": at,
                "latency": roll_ups.range_of(numbers.choice([60, 80, 80, 120, 300])),
                "attempts": delivered + failed,
                "failed_attempts": failed,
                "delivered": delivered,
                "failed": failed,
                "last_at": at,
            }
        )
    execute(host, sa.insert(HOUR), rows)


def _look_like_any_other(host: Host, *endpoints: Endpoint) -> None:
    """Take from the rows what differs from one run to the next: the receiver's port, and how long it took."""
    for endpoint in endpoints:
        url = f"https://shop.acme.example/{endpoint['url'].split('/', 3)[3]}"
        execute(host, sa.update(ENDPOINT).where(ENDPOINT.c.id == endpoint.uuid).values(url=url))
        theirs = sa.select(DELIVERY.c.id).where(DELIVERY.c.endpoint_id == endpoint.uuid)
        execute(host, sa.update(ATTEMPT).where(ATTEMPT.c.delivery_id.in_(theirs)).values(url=url))
    times: Any = {"last_duration_ms": 84}
    execute(host, sa.update(DELIVERY).where(DELIVERY.c.last_duration_ms.is_not(None)).values(times))
    execute(host, sa.update(ATTEMPT).values(duration_ms=100 + ATTEMPT.c.number * 17))
