"""Whether a slow endpoint, or one tenant's backlog, delays the others: latencies from publish to attempt."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, quantiles

import sqlalchemy as sa

from benchmarks import hosts, receivers
from flask_webhook_endpoints.models import DeliveryStatus, WebhookAttempt, WebhookDelivery
from flask_webhook_endpoints.worker import Worker

GOOD = 99
EVENTS = 20
QUEUED = 1000
BACKLOG = 50_000
BUSY = 50
"""Endpoints that it is for."""

SINGLES = 20
ROUNDS = 3


def main() -> None:
    """Print both cases."""
    options = hosts.arguments(__doc__).parse_args()
    with receivers.slow_receiver(0) as url:
        alone, beside = [], []
        for _ in range(ROUNDS):
            alone.append(good_endpoints(options.database, url, hanging=False))
            beside.append(good_endpoints(options.database, url, hanging=True))
        ratio = median(slow / fast for slow, fast in zip(beside, alone, strict=True))
        print(f"{GOOD * EVENTS} deliveries to {GOOD} good endpoints take {median(alone):.2f} s;")
        print(f"beside one that hangs with {QUEUED} queued {median(beside):.2f} s: {ratio:.2f} times")
        backlog(options.database, url)


def good_endpoints(database: str | None, url: str, *, hanging: bool) -> float:
    """Return the seconds until the good endpoints have everything."""
    with hosts.host(database) as host:
        if hanging:
            host.register([f"{url}hang"], tenant_id="hanging", timeout_seconds=5)
            host.publish(QUEUED, tenant_id="hanging")
        host.register([f"{url}{number}" for number in range(GOOD)])
        host.publish(EVENTS)
        left = sa.select(sa.func.count()).where(
            WebhookDelivery.tenant_id == "acme", WebhookDelivery.status != DeliveryStatus.DELIVERED
        )
        with _worker(host):
            started = time.perf_counter()
            while host.execute(left)[0][0]:
                time.sleep(0.05)
            return time.perf_counter() - started


def backlog(database: str | None, url: str) -> None:
    """Print how long single events of one tenant take while another has a backlog."""
    with hosts.host(database) as host:
        host.register([f"{url}{number}" for number in range(BUSY)], tenant_id="busy")
        host.register([f"{url}quiet"], tenant_id="quiet")
        host.publish(BACKLOG // BUSY, tenant_id="busy")
        with _worker(host):
            for _ in range(SINGLES):
                host.publish(1, tenant_id="quiet")
                time.sleep(0.3)
        latencies = sorted(
            (started_at - created_at).total_seconds()
            for started_at, created_at in host.execute(
                sa.select(WebhookAttempt.started_at, WebhookDelivery.created_at)
                .join(WebhookDelivery, WebhookDelivery.id == WebhookAttempt.delivery_id)
                .where(WebhookDelivery.tenant_id == "quiet")
            )
        )
        left = host.execute(sa.select(sa.func.count()).where(WebhookDelivery.status == DeliveryStatus.PENDING))[0][0]
    cuts = quantiles(latencies, n=20)
    print(
        f"\n{len(latencies)} single events beside {BACKLOG} queued of another tenant, {left} of them left at the end:"
    )
    print(f"begun after {cuts[9]:.3f} s (median), {cuts[18]:.3f} s (95 %), {latencies[-1]:.3f} s (most)")


@contextmanager
def _worker(host: hosts.Host) -> Iterator[None]:
    loop, worker = asyncio.new_event_loop(), Worker(host.app)
    thread = threading.Thread(target=loop.run_until_complete, args=(worker.run(),))
    thread.start()
    try:
        yield
    finally:
        # What hangs would be waited for.
        loop.call_soon_threadsafe(worker.stop)
        thread.join()
        loop.close()


if __name__ == "__main__":
    main()
