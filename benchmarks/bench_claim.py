"""The cost of a claim beside deliveries that it must not take, and what follows for single events.

Each table has the ratio to its own first line, because machines differ and other programs run beside.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from uuid import UUID

import sqlalchemy as sa

from benchmarks import arrivals, filling, hosts, processes, receivers, rounds
from flask_webhook_endpoints import settings
from flask_webhook_endpoints.core import leases, results
from flask_webhook_endpoints.core.marks import Marks
from flask_webhook_endpoints.database.models import WebhookEndpoint, new_id
from flask_webhook_endpoints.worker import process

BESIDE = (0, 1_000, 10_000, 100_000)
"""Endpoints that have one delivery each, which a claim must not take."""

DUE_ENDPOINTS, DUE_EACH = 100, 10
MOST = 100
"""Deliveries of one claim."""

CLAIMS = 3
"""Claims of one round; what each claims is given back, which is not measured."""

DELIVERED = 1_000_000

RETRYING = 20_000
SINGLES = 60
"""Single events of one round."""

APART_SECONDS = 0.05
WIDE = 20_000
"""Endpoints that get one event each, against as many deliveries to `NARROW` endpoints."""

NARROW = 100
DRAINS = 3
"""Rounds at most of what takes seconds."""

SNAPSHOT_ENDPOINTS = 50
SNAPSHOT_AFTER = (0, 10_000, 20_000, 30_000, 40_000)
"""Deliveries under one snapshot, after which the buffers of the next `SNAPSHOT_MEASURED` are counted."""

SNAPSHOT_MEASURED = 2_000
SNAPSHOT_EVENTS = 20
"""Events that are published at once there."""

SNAPSHOT_SECONDS = 2
"""Seconds after which PostgreSQL's statistics have all that its connections did. An idle worker's looks count, too."""


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="  # noqa: S105 - signs nothing that matters


def main() -> None:
    """Print the tables."""
    parser = hosts.arguments(__doc__)
    tables: dict[str, Callable[[str | None, int], None]] = {
        "put-off": put_off,
        "held": held,
        "finished": finished,
        "latency": latency,
        "wide": wide,
        "snapshot": snapshot,
    }
    parser.add_argument("--only", choices=tables, action="append")
    options = parser.parse_args()
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    for name in options.only or tables:
        tables[name](options.database, options.rounds)


def put_off(database: str | None, turns: int) -> None:
    """Compare claims beside endpoints that have one delivery put off each."""

    def fill(host: hosts.Host, number: int) -> None:
        filling.endpoints(host, number, tenants="later")
        filling.deliveries(host, tenants="later", put_off=True)

    _claims(database, turns, "put off for an hour, one of each of so many endpoints", fill, BESIDE)


def held(database: str | None, turns: int) -> None:
    """Compare claims beside paused endpoints that hold one delivery each, which was due before all others."""

    def fill(host: hosts.Host, number: int) -> None:
        filling.endpoints(host, number, tenants="held")
        filling.deliveries(host, tenants="held")
        paused = sa.update(WebhookEndpoint).where(WebhookEndpoint.tenant_id.startswith("held"))  # type: ignore[attr-defined]
        host.execute(paused.values(paused_at=WebhookEndpoint.created_at))

    _claims(database, turns, "held, one of each of so many paused endpoints", fill, BESIDE, put_aside=True)


def finished(database: str | None, turns: int) -> None:
    """Compare claims beside finished deliveries."""

    def fill(host: hosts.Host, number: int) -> None:
        filling.endpoints(host, DUE_ENDPOINTS, tenants="done")
        filling.finished(host, tenants="done", each=number // DUE_ENDPOINTS)

    _claims(database, turns, "finished", fill, (0, DELIVERED))


def _claims(
    database: str | None,
    turns: int,
    what: str,
    fill: Callable[[hosts.Host, int], None],
    beside: tuple[int, ...],
    *,
    put_aside: bool = False,
) -> None:
    with ExitStack() as stack:
        programs = {}
        for number in beside:
            host = stack.enter_context(hosts.host(database))
            if number:
                fill(host, number)
            host.register([f"https://example.com/{each}" for each in range(DUE_ENDPOINTS)])
            filling.deliveries(host, tenants="acme", each=DUE_EACH)
            filling.settle(host)
            if put_aside and number:
                _put_aside(host, number)
            programs[f"{number:,}"] = partial(_claim_repeatedly, host, Marks(knows_all=True))
        costs = rounds.interleave(programs, turns)
    print(f"A claim of {MOST}, with its commit, beside deliveries {what}")
    _show(costs)


def _put_aside(host: hosts.Host, number: int) -> None:
    """Claim until claims have moved all that is held out of their way, and print how long that took."""
    owner, marks, seconds, moved = new_id(), Marks(knows_all=True), list[float](), True
    while moved:
        took, claim = _claim(host, owner, marks)
        seconds.append(took)
        moved = claim.left is leases.Left.MOVED
        _give_back(host, owner, claim.deliveries)
    took, most = sum(seconds), max(seconds) * 1000
    print(f"{number:,}: moved out of the way by {len(seconds)} claims in {took:.1f} s; the slowest took {most:.0f} ms")


def _claim_repeatedly(host: hosts.Host, marks: Marks) -> rounds.Cost:
    owner, cpu, wall = new_id(), 0.0, 0.0
    for _ in range(CLAIMS):
        began = time.process_time()
        seconds, claim = _claim(host, owner, marks)
        cpu, wall = cpu + time.process_time() - began, wall + seconds
        if len(claim.deliveries) != MOST:
            raise RuntimeError(f"{len(claim.deliveries)} were claimed.")
        _give_back(host, owner, claim.deliveries)
    return rounds.Cost(cpu / CLAIMS * 1e6, wall / CLAIMS * 1e6)


def _claim(host: hosts.Host, owner: UUID, marks: Marks) -> tuple[float, leases.Claim]:
    """Return the seconds of a claim and of its commit, and the claim."""
    settings = host.state.settings
    limits = {"cap": settings.max_in_flight_per_endpoint, "max_timeout_seconds": settings.max_timeout_seconds}
    with host.app.app_context():
        began = time.perf_counter()
        claim = host.state.run_apart(lambda scope: leases.claim(scope, owner, most=MOST, marks=marks, **limits))
        return time.perf_counter() - began, claim


def _give_back(host: hosts.Host, owner: UUID, claimed: Sequence[results.Claimed]) -> None:
    with host.app.app_context():
        host.state.run_apart(lambda scope: leases.give_back(scope, owner, claimed))


def latency(database: str | None, turns: int) -> None:
    """Compare how soon single events arrive, alone and beside endpoints with a retry that is put off."""
    with receivers.slow_receiver(0) as receiver, hosts.host(database) as alone, hosts.host(database) as beside:
        for host in (alone, beside):
            arrivals.register(host, receiver)
        filling.endpoints(beside, RETRYING, tenants="later")
        filling.deliveries(beside, tenants="later", put_off=True)
        programs = {"alone": alone, f"beside {RETRYING:,} endpoints with one retry each": beside}
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for host in programs.values():
            filling.settle(host)
        for _ in range(min(turns, DRAINS)):
            for name, host in programs.items():
                with processes.worker(host):
                    seconds[name] += arrivals.of_singles(host, receiver, SINGLES, apart_seconds=APART_SECONDS)
    first, *_ = (median(each) for each in seconds.values())
    print(f"Single events, one each {APART_SECONDS * 1000:.0f} ms: from the commit to the arrival, median and most")
    for name, each in seconds.items():
        most, ratio = max(each) * 1000, median(each) / first
        print(f"{name:<44}{median(each) * 1000:>10.1f} ms{most:>10.1f} ms{ratio:>9.2f} times")
    print(flush=True)


def wide(database: str | None, turns: int) -> None:
    """Compare deliveries of one event to many endpoints with as many deliveries to few endpoints."""
    with receivers.receiver() as receiver, ExitStack() as stack:
        programs = {}
        for number in (NARROW, WIDE):
            host = stack.enter_context(hosts.host(database))
            filling.endpoints(host, number, tenants="wide", url=receiver.url, signed=True)
            programs[f"{WIDE // number} to each of {number:,} endpoints"] = partial(_drain, host, WIDE // number)
        costs = rounds.interleave(programs, min(turns, DRAINS))
    print(f"{WIDE:,} deliveries, each of them")
    _show(costs)


def _drain(host: hosts.Host, each: int) -> rounds.Cost:
    filling.clear(host)
    filling.deliveries(host, tenants="wide", each=each)
    filling.settle(host)
    cost = rounds.measure(lambda: _deliver_all(host))
    if left := filling.unfinished(host, "wide"):
        raise RuntimeError(f"{left} were not delivered.")
    return cost


def _deliver_all(host: hosts.Host) -> int:
    limits = {"concurrency": settings.DEFAULT_CONCURRENCY, "batch": settings.DEFAULT_BATCH}
    return process.run(host.app, until="drained", **limits)


def snapshot(database: str | None, turns: int) -> None:
    """Count the buffers of a delivery while one transaction holds a snapshot, as a dump does. PostgreSQL only."""
    with receivers.slow_receiver(0) as receiver, hosts.host(database) as host:
        with host.app.app_context():
            if host.db.engine.dialect.name != "postgresql":
                return
        host.register([f"{receiver.url}{arrivals.PATH}{each}" for each in range(SNAPSHOT_ENDPOINTS)], secret=SECRET)
        filling.settle(host)
        print(f"Buffers of a delivery while one snapshot is held, {SNAPSHOT_ENDPOINTS} endpoints an event")
        buffers: list[float] = []
        with _snapshot(host), processes.worker(host):
            delivered = 0
            for after in SNAPSHOT_AFTER:
                delivered = _deliver_up_to(host, receiver, after, delivered)
                before = _buffers(host)
                delivered = _deliver_up_to(host, receiver, delivered + SNAPSHOT_MEASURED, delivered)
                buffers.append((_buffers(host) - before) / SNAPSHOT_MEASURED)
                print(f"after {after:>6,}{buffers[-1]:>10.1f}{buffers[-1] / buffers[0]:>9.2f} times", flush=True)
    print(flush=True)


@contextmanager
def _snapshot(host: hosts.Host) -> Iterator[None]:
    with host.app.app_context(), host.db.engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        connection.exec_driver_sql("SELECT count(*) FROM webhook_delivery")
        yield


def _deliver_up_to(host: hosts.Host, receiver: receivers.Receiver, number: int, delivered: int) -> int:
    """Publish until so many deliveries have been made in all, and wait until the last one is recorded."""
    # In small transactions, and without asking the tables, whose buffers are counted.
    while delivered < number:
        events = min(SNAPSHOT_EVENTS, (number - delivered) // SNAPSHOT_ENDPOINTS)
        host.publish(events)
        delivered += events * SNAPSHOT_ENDPOINTS
        while len(receiver.arrivals()) < delivered:
            time.sleep(0.1)
    time.sleep(SNAPSHOT_SECONDS)
    return delivered


def _buffers(host: hosts.Host) -> int:
    """Return the buffers of our tables that were read so far: by requests, publishers and workers."""
    columns = ("heap_blks", "idx_blks", "toast_blks", "tidx_blks")
    total = " + ".join(f"coalesce({column}_{kind}, 0)" for column in columns for kind in ("read", "hit"))
    asked = f"SELECT sum({total}) FROM pg_statio_user_tables WHERE schemaname = current_schema()"  # noqa: S608 - constants
    with host.app.app_context():
        # A connection tells its figures when it ends.
        host.db.session.remove()
        host.db.engine.dispose()
        time.sleep(SNAPSHOT_SECONDS)
    return int(host.execute(sa.text(asked))[0][0])


def _show(costs: rounds.Costs) -> None:
    first, *_ = costs
    for name, cost in rounds.medians(costs):
        ratio = rounds.ratio(costs, name, to=first)
        print(f"{name:<44}{cost.wall / 1000:>10.2f} ms{ratio.wall:>9.2f} times{cost.cpu / 1000:>10.2f} ms of CPU")
    print(flush=True)


if __name__ == "__main__":
    main()
