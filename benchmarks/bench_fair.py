"""Whether a slow endpoint, or one tenant's backlog, delays the others: latencies from publish to attempt."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median, quantiles

import sqlalchemy as sa

from benchmarks import hosts, receivers, rounds
from flask_webhook_endpoints.models import DeliveryStatus, WebhookAttempt, WebhookDelivery
from flask_webhook_endpoints.worker import Worker

GOOD = 99
EVENTS = 20
QUEUED = 1000
BACKLOG = 50_000
BUSY = 50
"""Endpoints that it is for."""

SINGLES = 20


def main() -> None:
    """Print both cases."""
    options = hosts.arguments(__doc__).parse_args()
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    with receivers.slow_receiver(0) as url:
        alone, beside = [], []
        for _ in range(rounds.ROUNDS):
            alone.append(good_endpoints(options.database, url, hanging=False))
            beside.append(good_endpoints(options.database, url, hanging=True))
        print(f"{GOOD * EVENTS} deliveries to {GOOD} good endpoints; {rounds.ROUNDS} rounds of each in turn, medians")
        print(f"{'seconds after the worker has begun':<44}{'50 %':>8}{'95 %':>8}{'99 %':>8}{'all':>8}")
        ratios = [[slow / fast for slow, fast in zip(*pair, strict=True)] for pair in zip(beside, alone, strict=True)]
        for name, percentiles, decimals in (
            ("alone", alone, 3),
            (f"beside one that hangs, {QUEUED} queued", beside, 3),
            ("ratio", ratios, 2),
        ):
            cells = [f"{median(column):>8.{decimals}f}" for column in zip(*percentiles, strict=True)]
            print(f"{name:<44}{''.join(cells)}")
        backlog(options.database, url)


def good_endpoints(database: str | None, url: str, *, hanging: bool) -> tuple[float, ...]:
    """Return when the good endpoints had half of their deliveries, 95 %, 99 % and all, in seconds."""
    with hosts.host(database) as host:
        if hanging:
            host.register([f"{url}hang"], tenant_id="hanging", timeout_seconds=5)
            host.publish(QUEUED, tenant_id="hanging")
        host.register([f"{url}{number}" for number in range(GOOD)])
        host.publish(EVENTS)
        left = sa.select(sa.func.count()).where(
            WebhookDelivery.tenant_id == "acme", WebhookDelivery.status != DeliveryStatus.DELIVERED
        )
        begun_at = datetime.now(UTC)
        with _worker(host):
            while host.execute(left)[0][0]:
                time.sleep(0.05)
        rows = host.execute(
            sa.select(WebhookAttempt.started_at, WebhookAttempt.duration_ms)
            .join(WebhookDelivery, WebhookDelivery.id == WebhookAttempt.delivery_id)
            .where(WebhookDelivery.tenant_id == "acme")
        )
    seconds = sorted((started_at - begun_at).total_seconds() + duration / 1000 for started_at, duration in rows)
    cuts = quantiles(seconds, n=100)
    return cuts[49], cuts[94], cuts[98], seconds[-1]


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
