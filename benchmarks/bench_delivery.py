"""Deliveries per second and core, and what a delivery costs: the worker, the database, the receiver, memory.

The baselines of the speed are bare aiohttp, which posts the same signed bodies without a database, and a Celery task
with `requests.post` for each delivery. Each program has the first core, the receiver the others, the database any.
"""

import asyncio
import hmac
import logging
import multiprocessing
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from benchmarks import cores, filling, hosts, processes, receivers, rounds
from flask_webhook_endpoints import settings
from flask_webhook_endpoints.core import wakeups
from flask_webhook_endpoints.database.models import DeliveryStatus, WebhookDelivery
from flask_webhook_endpoints.security import signing
from flask_webhook_endpoints.worker import process

if TYPE_CHECKING:
    from celery import Celery

    from benchmarks.celery_worker import CeleryWorker

ENDPOINTS = 100
EVENTS = 60
"""Events of one round; each goes to every endpoint."""

TASKS = 200
"""Deliveries of one round with a Celery task for each."""

TASK_EVENTS = 30
"""Deliveries of one round with our Celery task, which makes all of them."""

BROKER = "redis://127.0.0.1:6379/0"
BARE, CELERY = "bare aiohttp, no database", "Celery, one requests.post per task"

MANY = 100_000

SHARING = 50
"""Endpoints that each event goes to where the database's cost is measured."""

COSTING = 20_000
"""Deliveries of one round there."""

WORKERS = (1, 2)
"""Workers that deliver the same backlog, on all cores."""

BODY = b'{"type":"invoice.paid","timestamp":"2026-01-01T00:00:00.000000Z","data":"' + b"x" * 1024 + b'"}'
MESSAGE_ID = "evt_01a209e2-452f-766f-bf3f-ad795c4b44f4"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="  # noqa: S105 - signs nothing that matters


def main() -> None:
    """Print the tables."""
    parser = hosts.arguments(__doc__)
    parser.add_argument("--broker", default=BROKER, help=f"of Celery; default: {BROKER}")
    parser.add_argument("--only", choices=("speed", "cost", "memory"))
    options = parser.parse_args()
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    if options.only in (None, "speed"):
        speed(options.database, options.broker, options.rounds)
    if options.only in (None, "cost"):
        cost(options.database, options.rounds)
    if options.only in (None, "memory"):
        memory(options.database)


def speed(database: str | None, broker: str, turns: int) -> None:
    """Compare worker and Celery with the baselines."""
    with receivers.receiver() as receiver, hosts.host(database) as host, cores.first():
        name, url = receiver.name, receiver.url
        host.register([f"{url}{number}" for number in range(ENDPOINTS)], secret=SECRET)
        with ExitStack() as stack:
            celery = _celery(stack, broker, host)
            programs: dict[str, Callable[[], rounds.Cost]] = {
                BARE: lambda: post(url, EVENTS * ENDPOINTS, connections=CONNECTIONS),
                "worker": lambda: drain(host, events=EVENTS),
            }
            if celery is not None:
                programs[CELERY] = lambda: celery.measure(lambda app: _post_by_tasks(app, url))
                programs["Celery, our task"] = lambda: _deliver(
                    host, lambda: celery.measure(_deliver_by_task), events=TASK_EVENTS
                )
            costs = rounds.interleave(programs, turns)
    print(f"{EVENTS * ENDPOINTS} deliveries of 1 KiB to {ENDPOINTS} endpoints, {name} answers 204; {turns} rounds")
    print("The worker without its start, about 0.1 s once; CPU and wall: the share of bare aiohttp's speed")
    print(rounds.table(costs, share_of=BARE))
    if CELERY in costs:
        print(f"\nTimes faster than Celery with requests.post (prefork, concurrency 1; {TASKS} tasks):")
        for program in ("worker", "Celery, our task"):
            times = rounds.ratio(costs, CELERY, to=program)
            print(f"{program:<44}{times.cpu:>10.1f} by CPU{times.wall:>10.1f} by time")


def _celery(stack: ExitStack, broker: str, host: hosts.Host) -> "CeleryWorker | None":
    try:
        from benchmarks.celery_worker import celery_worker  # noqa: PLC0415 - may be missing

        return stack.enter_context(celery_worker(broker, host.app.config["SQLALCHEMY_DATABASE_URI"]))
    except ModuleNotFoundError as error:
        print(f"Without Celery: {error.name} is not installed.")
    except ConnectionError as error:
        print(f"Without Celery: no broker at {broker} ({error}).")
    return None


def _post_by_tasks(app: "Celery", url: str) -> int:
    body = BODY.decode()
    for number in range(TASKS):
        app.send_task("bench.post", [f"{url}{number % ENDPOINTS}", SECRET, MESSAGE_ID, body])
    return TASKS


def _deliver_by_task(app: "Celery") -> int:
    app.send_task(wakeups.TASK)
    return TASK_EVENTS * ENDPOINTS


def drain(host: hosts.Host, *, events: int, concurrency: int = settings.DEFAULT_CONCURRENCY) -> rounds.Cost:
    """Measure a worker that delivers these events, without its start, which takes about 0.1 s."""
    made: list[int] = []

    def run() -> int:
        made.append(_drain(host, concurrency))
        return made[0]

    def without_start() -> rounds.Cost:
        whole, start = rounds.measure(run), rounds.measure(run)
        return rounds.Cost(whole.cpu - start.cpu, whole.wall - start.wall)

    return _deliver(host, without_start, events=events)


def _drain(host: hosts.Host, concurrency: int) -> int:
    return process.run(host.app, concurrency=concurrency, batch=settings.DEFAULT_BATCH, until="drained")


def _deliver(host: hosts.Host, measure: Callable[[], rounds.Cost], *, events: int) -> rounds.Cost:
    filling.clear(host)
    host.publish(events)
    cost = measure()
    _refuse_undelivered(host)
    return cost


def _refuse_undelivered(host: hosts.Host) -> None:
    left = host.execute(sa.select(sa.func.count()).where(WebhookDelivery.status != DeliveryStatus.DELIVERED))[0][0]
    if left:
        raise RuntimeError(f"{left} were not delivered.")


CONNECTIONS = 100
"""Posts of bare aiohttp in flight: with fewer it is no faster, with more it is slower."""


def post(url: str, number: int, *, connections: int) -> rounds.Cost:
    """Measure bare aiohttp, which collects garbage as rarely as the worker does."""
    with process.collecting_rarely():
        return rounds.measure(lambda: asyncio.run(_post_all(url, number, connections=connections)))


async def _post_all(url: str, number: int, *, connections: int) -> int:
    """Sign and post, as one would write it."""
    left = iter(range(number))
    key = signing.key_of(SECRET)

    async def post(session: aiohttp.ClientSession) -> None:
        for _ in left:
            timestamp = int(time.time())
            signature = b64encode(hmac.digest(key, b"%b.%d.%b" % (MESSAGE_ID.encode(), timestamp, BODY), "sha256"))
            headers = {
                "content-type": "application/json",
                "webhook-id": MESSAGE_ID,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": f"v1,{signature.decode()}",
            }
            async with session.post(url, data=BODY, headers=headers) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=settings.DEFAULT_CONCURRENCY)) as session:
        await asyncio.gather(*[post(session) for _ in range(connections)])
    return number


def cost(database: str | None, turns: int) -> None:
    """Print what publishing and delivering cost the database's server, the workers and the receiver, a delivery."""
    with receivers.receiver() as receiver, hosts.host(database) as host:
        host.register([f"{receiver.url}{number}" for number in range(SHARING)], secret=SECRET)
        _checkpoint(host)
        spent: dict[int, list[tuple[_Spent, _Spent, processes.Drained]]] = {number: [] for number in WORKERS}
        for turn in range(turns + 1):
            for number in WORKERS:
                published = _spent(host, receiver, lambda: host.publish(COSTING // SHARING))
                drained: list[processes.Drained] = []
                delivered = _spent(host, receiver, lambda: drained.append(processes.drain_by(number, host)))  # noqa: B023
                _refuse_undelivered(host)
                if turn:
                    spent[number].append((published, delivered, drained[0]))
    _show_cost(spent, turns)


def _show_cost(spent: Mapping[int, Sequence["tuple[_Spent, _Spent, processes.Drained]"]], turns: int) -> None:
    print(f"{COSTING} deliveries of 1 KiB, {SHARING} endpoints an event, on all cores; {turns} rounds, medians")
    print("The worker without the start of its process. The aims for both together: 90 µs on PostgreSQL, and 1300 B")
    print(f"{'':<12}{'':>9}{'publish:':>12}{'':>9}{'deliver:':>12}{'':>34}{'both:':>12}")
    database = f"{'server µs':>12}{'WAL B':>9}"
    print(f"{'':<12}{'per s':>9}{database}{database}{'worker µs':>12}{'receiver µs':>13}{database}")
    for number, of_number in spent.items():
        published, delivered = (_median([each[index] for each in of_number]) for index in (0, 1))
        name, speed = f"{number} worker{'s' * (number > 1)}", median(COSTING / each[2].seconds for each in of_number)
        worker = median(each[2].cpu for each in of_number) / COSTING * 1e6
        both = _median([_Spent._make(map(sum, zip(*each[:2], strict=True))) for each in of_number])
        print(
            f"{name:<12}{speed:>9.0f}{published.server:>12.1f}{published.wal:>9.0f}"
            f"{delivered.server:>12.1f}{delivered.wal:>9.0f}{worker:>12.1f}{delivered.receiver:>13.1f}"
            f"{both.server:>12.1f}{both.wal:>9.0f}"
        )
    print(flush=True)


class _Spent(NamedTuple):
    """What a delivery has cost."""

    server: float
    """Microseconds of CPU of the database's server."""
    receiver: float
    """Microseconds of CPU of the receiver."""
    wal: float
    """Bytes that PostgreSQL has written ahead."""


def _spent(host: hosts.Host, receiver: receivers.Receiver, run: Callable[[], object]) -> _Spent:
    before = processes.cpu_of_server(host), receiver.cpu(), _wal(host)
    run()
    after = processes.cpu_of_server(host), receiver.cpu(), _wal(host)
    server, of_receiver, wal = (late - early for early, late in zip(before, after, strict=True))
    return _Spent(server / COSTING * 1e6, of_receiver / COSTING * 1e6, wal / COSTING)


def _checkpoint(host: hosts.Host) -> None:
    """Have no checkpoint begin soon, if the role may: after one, PostgreSQL writes each changed page whole."""
    if _is_postgresql(host):
        with suppress(SQLAlchemyError):
            host.execute(sa.text("CHECKPOINT"))


def _is_postgresql(host: hosts.Host) -> bool:
    with host.app.app_context():
        return host.db.engine.dialect.name == "postgresql"


def _wal(host: hosts.Host) -> float:
    if not _is_postgresql(host):
        return 0.0
    return float(host.execute(sa.text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))[0][0])


def _median(spent: Sequence[_Spent]) -> _Spent:
    return _Spent._make(map(median, zip(*spent, strict=True)))


def memory(database: str | None) -> None:
    """Print how much memory a worker's process takes at most until it has delivered a backlog."""
    with receivers.receiver() as receiver, hosts.host(database) as host:
        host.register([f"{receiver.url}{number}" for number in range(ENDPOINTS)], secret=SECRET)
        host.publish(MANY // ENDPOINTS)
        started, spawn = time.perf_counter(), multiprocessing.get_context("spawn")
        reports = spawn.SimpleQueue()
        process = spawn.Process(target=_work_at_backlog, args=(host.app.config["SQLALCHEMY_DATABASE_URI"], reports.put))
        process.start()
        process.join()
        _refuse_undelivered(host)
        print(f"\n{MANY} due, all delivered in {time.perf_counter() - started:.0f} s: ", end="")
        print(f"the worker's process took {reports.get():.0f} MiB at most (peak RSS)")


def _work_at_backlog(database_url: str, report: Callable[[float], None]) -> None:
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    _drain(hosts.open_host(database_url), settings.DEFAULT_CONCURRENCY)
    report(_peak_mebibytes())


def _peak_mebibytes() -> float:
    # Linux only. `getrusage` would begin with the peak of the parent process.
    _, _, after = Path("/proc/self/status").read_text().partition("VmHWM:")
    return int(after.split()[0]) / 1024


if __name__ == "__main__":
    main()
