"""Deliveries per second and core: the worker, beside bare aiohttp that posts the same bodies without a database."""

import asyncio
import multiprocessing
import os
import resource
import time
from collections.abc import Callable

import aiohttp
import sqlalchemy as sa

from benchmarks import hosts, receivers, rounds
from flask_webhook_endpoints import signing, worker, worker_process
from flask_webhook_endpoints.models import WebhookDelivery

ENDPOINTS = 100
EVENTS = 50
"""Of one round; each goes to every endpoint."""

LATENCY_SECONDS = 0.2
SLOW_RECEIVERS = 50
MANY = 100_000
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="  # noqa: S105 - signs nothing that matters


def main() -> None:
    """Print the tables."""
    parser = hosts.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=rounds.ROUNDS)
    parser.add_argument("--only", choices=("speed", "latency", "memory"))
    options = parser.parse_args()
    if options.only in (None, "latency"):
        latency(options.database)
    if options.only in (None, "memory"):
        memory(options.database)
    if options.only in (None, "speed"):
        speed(options.database, options.rounds)


def speed(database: str | None, number: int) -> None:
    """Compare with bare aiohttp. A Celery task per delivery belongs beside it, as one more of the programs."""
    with receivers.receiver() as (name, url), hosts.host(database) as host:
        host.register([f"{url}{number}" for number in range(ENDPOINTS)], secret=SECRET)
        programs = {
            "bare aiohttp": lambda: rounds.measure(lambda: asyncio.run(_post_all(url, EVENTS * ENDPOINTS))),
            "worker": lambda: _deliver(host),
        }
        # One core for the worker and its baselines; the receiver and the database's server have the others.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(f"{EVENTS * ENDPOINTS} deliveries of 1 KiB to {ENDPOINTS} endpoints, {name} answers 204")
        print(rounds.table(rounds.interleave(programs, number), share_of="bare aiohttp"))


def _deliver(host: hosts.Host) -> rounds.Cost:
    host.execute(sa.delete(WebhookDelivery))
    host.publish(EVENTS)
    return rounds.measure(lambda: _drain(host))


def _drain(host: hosts.Host) -> int:
    return worker_process.run(
        host.app, concurrency=worker.DEFAULT_CONCURRENCY, batch=worker.DEFAULT_BATCH, until="drained"
    )


async def _post_all(url: str, number: int) -> int:
    """Sign and post, over as many connections as the worker may have."""
    left = iter(range(number))
    body = b'{"type":"invoice.paid","timestamp":"2026-01-01T00:00:00.000000Z","data":"' + b"x" * 1024 + b'"}'

    async def post(session: aiohttp.ClientSession) -> None:
        for _ in left:
            message_id, timestamp = "evt_01a209e2-452f-766f-bf3f-ad795c4b44f4", int(time.time())
            headers = {
                "content-type": "application/json",
                "webhook-id": message_id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signing.sign([SECRET], message_id=message_id, timestamp=timestamp, body=body),
            }
            async with session.post(url, data=body, headers=headers) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=worker.DEFAULT_CONCURRENCY)) as session:
        await asyncio.gather(*[post(session) for _ in range(CONNECTIONS)])
    return number


CONNECTIONS = 100
"""Of bare aiohttp."""


def latency(database: str | None) -> None:
    """Compare with what the latency of the receivers allows, at the deliveries that may be in flight to them."""
    with receivers.slow_receiver(LATENCY_SECONDS) as url, hosts.host(database) as host:
        host.register([f"{url}{number}" for number in range(SLOW_RECEIVERS)], secret=SECRET)
        in_flight = min(worker.DEFAULT_CONCURRENCY, SLOW_RECEIVERS * host.state.settings.max_in_flight_per_endpoint)
        host.publish(200)
        started = time.perf_counter()
        deliveries = _drain(host)
        seconds = time.perf_counter() - started
        allowed = in_flight / LATENCY_SECONDS
        print(
            f"\n{deliveries} deliveries to {SLOW_RECEIVERS} receivers that take 200 ms, {in_flight} in flight at most"
        )
        print(
            f"{deliveries / seconds:.0f} per s, of {allowed:.0f} that it allows: {deliveries / seconds / allowed:.2f}"
        )


def memory(database: str | None) -> None:
    """Say what a worker's process holds at most while it delivers a backlog."""
    with receivers.receiver() as (_, url), hosts.host(database) as host:
        host.register([f"{url}{number}" for number in range(ENDPOINTS)], secret=SECRET)
        host.publish(MANY // ENDPOINTS)
        database_url = host.app.config["SQLALCHEMY_DATABASE_URI"]
        queue = (spawn := multiprocessing.get_context("spawn")).Queue()
        process = spawn.Process(target=_deliver_backlog, args=(database_url, queue.put))
        process.start()
        deliveries, seconds, cpu_seconds, mebibytes = queue.get()
        process.join()
        print(f"\n{deliveries} due, to {ENDPOINTS} endpoints: {mebibytes:.0f} MiB of memory at most,")
        print(f"{deliveries / seconds:.0f} per s, {cpu_seconds / deliveries * 1e6:.0f} µs of CPU each")


def _deliver_backlog(database_url: str, report: Callable[[tuple[int, float, float, float]], None]) -> None:
    host = hosts.open_host(database_url)
    started, cpu = time.perf_counter(), time.process_time()
    deliveries = _drain(host)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    report((deliveries, seconds, cpu_seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


if __name__ == "__main__":
    main()
