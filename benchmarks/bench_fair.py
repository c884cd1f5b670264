"""Fairness: how soon a tenant's deliveries arrive beside endpoints that hang, and behind backlogs of other tenants.

Each figure stands beside the bound that the library promises at the default concurrency.
"""

import logging
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles

from benchmarks import arrivals, filling, hosts, processes, receivers

BOUND_SECONDS = 1.5
"""Seconds from commit to arrival that no other tenant may make an event wait for."""

GOOD = 99
EVENTS = 20
QUEUED = 1000
HANGING_SECONDS = 3
"""Seconds that the hanging endpoint's timeout has, longer than the good endpoints take."""

TENANTS = ((1, 600, 4), (1, 1000, 6), (20, 600, 4))
"""Tenants, hanging endpoints of each, and events for each of these."""

TIMEOUT_SECONDS = 30
"""Seconds that the endpoints of these tenants have: the longest timeout by default."""

STAGGERED = (90, 20, 5, 2, 1)
"""Hanging endpoints of tenants that come one after another."""

STAGGERED_EVENTS, STAGGERED_APART_SECONDS = 10, 3
"""Events for each of these, and seconds between two tenants."""

SINGLES = 20
"""Single events of one case."""

STAGGERED_SINGLES = 5
"""Single events behind these tenants, before the first timeouts."""

APART_SECONDS = 2
"""Seconds between two events beside endpoints that hang; so some come when all of these end at once."""

BACKLOGS = ((50_000, 1), (1_000_000, 1), (1_000_000, 1000))
"""Deliveries of the other tenant, and its endpoints, which answer at once."""

BACKLOG_TENANTS = ((80_000, 1_000), (120_000, 4_000))
"""Deliveries of all other tenants, and the number of these, which have one endpoint each."""

BACKLOG_APART_SECONDS = 0.5
ROUND_SECONDS = 2
"""Seconds between two events behind the backlog of many tenants. Each of these has its turns, too."""

ROUND_SINGLES = 8
"""Single events there, before the backlog has ended."""

BEGIN_SECONDS = 2
"""Seconds that the worker has to begin with the deliveries of the others."""


def main() -> None:
    """Print the tables."""
    parser = hosts.arguments(__doc__)
    tables: dict[str, Callable[[str | None, receivers.Receiver], None]] = {
        "endpoint": hanging_endpoint,
        "tenants": hanging_tenants,
        "staggered": staggered_tenants,
        "backlog": backlog,
        "backlogs": backlogs,
    }
    parser.add_argument("--only", choices=tables, action="append")
    options = parser.parse_args()
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    for name in options.only or tables:
        with receivers.slow_receiver(0) as receiver:
            tables[name](options.database, receiver)


def hanging_endpoint(database: str | None, receiver: receivers.Receiver) -> None:
    """Measure deliveries to good endpoints, alone and beside an endpoint that hangs."""
    print(f"{GOOD * EVENTS} deliveries to {GOOD} good endpoints: seconds until they arrive, after the first one")
    print(f"{'':<44}{'50 %':>9}{'95 %':>9}{'99 %':>9}{'100 %':>9}")
    for name, hanging in (("alone", False), (f"beside one that hangs, {QUEUED} queued", True)):
        seconds = _good_endpoints(database, receiver, hanging=hanging)
        cut = quantiles(seconds, n=100)
        print(f"{name:<44}{cut[49]:>9.2f}{cut[94]:>9.2f}{cut[98]:>9.2f}{max(seconds):>9.2f}", flush=True)
    print()


def _good_endpoints(database: str | None, receiver: receivers.Receiver, *, hanging: bool) -> list[float]:
    path = "timed-beside" if hanging else "timed-alone"
    with hosts.host(database) as host:
        if hanging:
            host.register([f"{receiver.url}hang"], tenant_id="hanging", timeout_seconds=HANGING_SECONDS)
            host.publish(QUEUED, tenant_id="hanging")
        host.register([f"{receiver.url}{path}-{number}" for number in range(GOOD)])
        host.publish(EVENTS)
        with processes.worker(host):
            while len(arrived := [at for key, at in receiver.arrivals().items() if path in key]) < GOOD * EVENTS:
                time.sleep(0.2)
        return [at - min(arrived) for at in arrived]


def hanging_tenants(database: str | None, receiver: receivers.Receiver) -> None:
    """Measure single events beside tenants with many endpoints that hang."""
    print(f"Single events, one each {APART_SECONDS} s, beside tenants whose endpoints hang for {TIMEOUT_SECONDS} s")
    _head()
    for tenants, endpoints, events in TENANTS:
        with hosts.host(database) as host:
            filling.endpoints(
                host,
                tenants * endpoints,
                tenants="busy",
                per_tenant=endpoints,
                url=f"{receiver.url}hang",
                signed=True,
                timeout_seconds=TIMEOUT_SECONDS,
            )
            filling.deliveries(host, tenants="busy", each=events)
            _beside(host, receiver, f"{tenants} x {endpoints:,} endpoints, {events} events each", APART_SECONDS)
    print()


def staggered_tenants(database: str | None, receiver: receivers.Receiver) -> None:
    """Measure single events after tenants whose endpoints hang have come one after another."""
    print(f"Single events after tenants came {STAGGERED_APART_SECONDS} s apart, whose endpoints all hang")
    _head()
    with hosts.host(database) as host:
        for number, endpoints in enumerate(STAGGERED):
            filling.endpoints(
                host,
                endpoints,
                tenants=f"busy{number}-",
                per_tenant=endpoints,
                url=f"{receiver.url}hang",
                signed=True,
                timeout_seconds=TIMEOUT_SECONDS,
            )
        arrivals.register(host, receiver)
        filling.settle(host)
        with processes.worker(host):
            for number in range(len(STAGGERED)):
                host.publish(STAGGERED_EVENTS, tenant_id=f"busy{number}-0")
                time.sleep(STAGGERED_APART_SECONDS)
            seconds = arrivals.of_singles(host, receiver, STAGGERED_SINGLES, apart_seconds=APART_SECONDS)
    name = f"{', '.join(map(str, STAGGERED))} endpoints, {STAGGERED_EVENTS} events each"
    print(f"{name:<44}{_figures(seconds)}\n", flush=True)


def backlog(database: str | None, receiver: receivers.Receiver) -> None:
    """Measure single events behind another tenant's backlog."""
    print(f"Single events, one each {BACKLOG_APART_SECONDS} s, behind another tenant's backlog")
    _head()
    for number, endpoints in BACKLOGS:
        with hosts.host(database) as host:
            filling.endpoints(
                host, endpoints, tenants="busy", per_tenant=endpoints, url=f"{receiver.url}busy", signed=True
            )
            filling.deliveries(host, tenants="busy", each=number // endpoints)
            _beside(host, receiver, f"{number:,} to {endpoints:,} endpoints", BACKLOG_APART_SECONDS)
    print()


def backlogs(database: str | None, receiver: receivers.Receiver) -> None:
    """Measure single events behind the backlogs of many tenants."""
    print(f"Single events, one each {ROUND_SECONDS} s, behind the backlogs of other tenants")
    _head()
    for number, tenants in BACKLOG_TENANTS:
        with hosts.host(database) as host:
            filling.endpoints(host, tenants, tenants="busy", per_tenant=1, url=f"{receiver.url}busy", signed=True)
            filling.deliveries(host, tenants="busy", each=number // tenants)
            _beside(host, receiver, f"{number:,} to {tenants:,} tenants", ROUND_SECONDS, singles=ROUND_SINGLES)
    print()


def _head() -> None:
    print(f"{'seconds from commit to arrival':<44}{'median':>9}{'most':>9}{'bound':>9}")


def _beside(
    host: hosts.Host, receiver: receivers.Receiver, name: str, apart_seconds: float, *, singles: int = SINGLES
) -> None:
    arrivals.register(host, receiver)
    filling.settle(host)
    with processes.worker(host):
        time.sleep(BEGIN_SECONDS)
        seconds = arrivals.of_singles(host, receiver, singles, apart_seconds=apart_seconds)
    left = filling.unfinished(host, "busy")
    print(f"{name:<44}{_figures(seconds)}    {left:,} left", flush=True)


def _figures(seconds: Sequence[float]) -> str:
    kept = "" if max(seconds) <= BOUND_SECONDS else "    OVER"
    return f"{median(seconds):>9.2f}{max(seconds):>9.2f}{BOUND_SECONDS:>9.1f}{kept}"


if __name__ == "__main__":
    main()
