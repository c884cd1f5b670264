"""How soon single events arrive at their receiver, after the commit that publishes them."""

import time

from benchmarks import hosts, receivers

QUIET = "quiet"
"""The tenant of single events."""

PATH = "timed"
"""The path at the receiver that tells when deliveries arrived."""

PATIENCE_SECONDS = 60
"""Seconds after the last event for which its arrival is awaited. An event that does not arrive counts with these."""


def register(host: hosts.Host, receiver: receivers.Receiver) -> None:
    """Create the endpoint that single events go to."""
    host.register([f"{receiver.url}{PATH}"], tenant_id=QUIET)


def of_singles(host: hosts.Host, receiver: receivers.Receiver, number: int, *, apart_seconds: float) -> list[float]:
    """Publish single events, and return the seconds from each commit to the arrival."""
    committed: dict[str, float] = {}
    with host.app.app_context():
        for _ in range(number):
            event = host.webhooks.publish("invoice.paid", {"text": "x" * 1024}, tenant_id=QUIET)
            host.db.session.commit()
            committed[f"evt_{event.id} /{PATH}"] = time.monotonic()
            time.sleep(apart_seconds)
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        arrived = receiver.arrivals()
        if committed.keys() <= arrived.keys() or time.monotonic() > give_up_at:
            return [arrived.get(each, at + PATIENCE_SECONDS) - at for each, at in committed.items()]
        time.sleep(0.1)
