"""Fairness: latencies of good endpoints alone, and beside a slow endpoint or another tenant's backlog, in turn."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import Any

import sqlalchemy as sa

from benchmarks import hosts, receivers, rounds
from flask_webhook_endpoints.database.models import DeliveryStatus, WebhookAttempt, WebhookDelivery
from flask_webhook_endpoints.worker.loop import Worker

GOOD = 99
EVENTS = 20
QUEUED = 1000
HANGING_SECONDS = 3
"""Seconds that the hanging endpoint's timeout has, longer than the good endpoints take."""

BACKLOG = 50_000
BUSY = 50
"""Endpoints that the backlog is for."""

SINGLES = 6
"""Single events of one round."""

APART_SECONDS = 0.2
ALONE = "alone"


Percentiles = tuple[float, ...]
"""Seconds within which 50 %, 95 %, 99 % and all of the deliveries came."""


def main() -> None:
    """Print both cases."""
    options = hosts.arguments(__doc__).parse_args()
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    with receivers.slow_receiver(0) as url:
        slow_endpoint(options.database, url, options.rounds)
        backlog(options.database, url, options.rounds)


def slow_endpoint(database: str | None, url: str, turns: int) -> None:
    """Measure deliveries to good endpoints, alone and beside an endpoint that hangs."""
    costs: dict[str, list[rounds.Cost]] = {ALONE: [], f"beside one that hangs, {QUEUED} queued": []}
    latencies: dict[str, list[Percentiles]] = {name: [] for name in costs}
    for _ in range(turns):
        for name, of_name in costs.items():
            percentiles, cost = _good_endpoints(database, url, hanging=name != ALONE)
            latencies[name].append(percentiles)
            of_name.append(cost)
    print(f"{GOOD * EVENTS} deliveries to {GOOD} good endpoints: when they have them, after the worker has begun")
    print(f"{_table(latencies)}\n\nEach of these deliveries\n{rounds.table(costs, share_of=ALONE)}\n", flush=True)


def backlog(database: str | None, url: str, turns: int) -> None:
    """Measure when attempts of single events begin, alone and beside another tenant's backlog."""
    with hosts.host(database) as alone, hosts.host(database) as beside:
        for host in (alone, beside):
            host.register([f"{url}quiet"], tenant_id="quiet")
        beside.register([f"{url}{number}" for number in range(BUSY)], tenant_id="busy")
        programs = {ALONE: alone, f"beside {BACKLOG} queued of another tenant": beside}
        latencies: dict[str, list[Percentiles]] = {name: [] for name in programs}
        left: list[int] = []
        for _ in range(turns):
            beside.publish((BACKLOG - _left(beside, "busy")) // BUSY, tenant_id="busy")
            for name, host in programs.items():
                latencies[name].append(_single_events(host))
            left.append(_left(beside, "busy"))
    print(f"{SINGLES} single events in each round: when they are begun, after they are published")
    print(f"{_table(latencies)}\nAt least {min(left)} of the {BACKLOG} were left after each round")


def _good_endpoints(database: str | None, url: str, *, hanging: bool) -> tuple[Percentiles, rounds.Cost]:
    with hosts.host(database) as host:
        if hanging:
            host.register([f"{url}hang"], tenant_id="hanging", timeout_seconds=HANGING_SECONDS)
            host.publish(QUEUED, tenant_id="hanging")
        host.register([f"{url}{number}" for number in range(GOOD)])
        host.publish(EVENTS)
        begun_at = datetime.now(UTC)
        with _worker(host):
            cost = rounds.measure(lambda: _wait_for_all(host, "acme") or GOOD * EVENTS)
        rows = _attempts(host, "acme", since=begun_at)
    return _percentiles([(row.started_at - begun_at).total_seconds() + row.duration_ms / 1000 for row in rows]), cost


def _single_events(host: hosts.Host) -> Percentiles:
    since = datetime.now(UTC)
    with _worker(host):
        for _ in range(SINGLES):
            time.sleep(APART_SECONDS)
            host.publish(1, tenant_id="quiet")
        _wait_for_all(host, "quiet")
    rows = _attempts(host, "quiet", since=since)
    return _percentiles([(row.started_at - row.created_at).total_seconds() for row in rows])


def _wait_for_all(host: hosts.Host, tenant_id: str) -> None:
    while _left(host, tenant_id):
        time.sleep(0.05)


def _left(host: hosts.Host, tenant_id: str) -> int:
    statement = sa.select(sa.func.count()).where(
        WebhookDelivery.tenant_id == tenant_id, WebhookDelivery.status != DeliveryStatus.DELIVERED
    )
    return host.execute(statement)[0][0]  # type: ignore[no-any-return]


def _attempts(host: hosts.Host, tenant_id: str, *, since: datetime) -> Any:
    statement = sa.select(WebhookAttempt.started_at, WebhookAttempt.duration_ms, WebhookDelivery.created_at)
    of_tenant = (WebhookDelivery.tenant_id == tenant_id, WebhookAttempt.started_at >= since)
    return host.execute(
        statement.join(WebhookDelivery, WebhookDelivery.id == WebhookAttempt.delivery_id).where(*of_tenant)
    )


def _percentiles(seconds: list[float]) -> Percentiles:
    cuts = quantiles(seconds, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98], max(seconds)


def _table(latencies: dict[str, list[Percentiles]]) -> str:
    ratios = [[slow / fast for fast, slow in zip(*pair, strict=True)] for pair in zip(*latencies.values(), strict=True)]
    lines = [f"{f'seconds, medians of {len(ratios)} rounds in turn':<44}{'50 %':>8}{'95 %':>8}{'99 %':>8}{'all':>8}"]
    lines += [f"{name:<44}{_medians(rows, decimals=3)}" for name, rows in latencies.items()]
    return "\n".join([*lines, f"{'ratio':<44}{_medians(ratios, decimals=2)}"])


def _medians(rows: Sequence[Sequence[float]], *, decimals: int) -> str:
    return "".join(f"{median(column):>8.{decimals}f}" for column in zip(*rows, strict=True))


@contextmanager
def _worker(host: hosts.Host) -> Iterator[None]:
    loop, worker = asyncio.new_event_loop(), Worker(host.app)
    thread = threading.Thread(target=loop.run_until_complete, args=(worker.run(),))
    thread.start()
    try:
        yield
    finally:
        # Stop it: a worker that drains would wait for the deliveries that hang.
        loop.call_soon_threadsafe(worker.stop)
        thread.join()
    loop.close()


if __name__ == "__main__":
    main()
