"""Latency: how soon an idle worker delivers, what it costs to be awake, and deliveries to slow receivers.

Deliveries per second to slow receivers are shown as a share of what their latency allows. The baseline is bare aiohttp
without a database: its share shows what the core can do. Both have the first core, the receivers the others.
"""

import logging
import random
import time
from statistics import median

from benchmarks import arrivals, cores, hosts, processes, receivers, rounds
from benchmarks.bench_delivery import BARE, SECRET, drain, post
from flask_webhook_endpoints.worker import pace

LATENCY_SECONDS = 0.2
RECEIVERS = 50

IN_FLIGHT = (200, 500)
"""Values of the worker's `--concurrency`; with a cap of 10, fifty receivers have at most 500 in flight."""

WAVES = 12
"""Waves of deliveries in one round; all deliveries of a wave are in flight at once."""

SINGLES = 60
"""Single events that the idle worker delivers at each pace."""

APART_SECONDS = 0.6
IDLE_SECONDS = 15
"""Seconds for which the CPU of an idle worker and of its database is measured."""

SETTLE_SECONDS = 4
"""Seconds that it has before, in which it begins."""

PACES = {"soon after work": pace.QUIET_SHARE, "after minutes without work": 10.0}
"""Paces of the worker, and the share of the time without work that it waits then: seconds stand for minutes."""


def main() -> None:
    """Print a table for the idle worker and one for each concurrency."""
    parser = hosts.arguments(__doc__)
    parser.add_argument("--only", choices=("idle", "slow"))
    options = parser.parse_args()
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    if options.only in (None, "idle"):
        idle(options.database)
    if options.only in (None, "slow"):
        slow(options.database, options.rounds)


def idle(database: str | None) -> None:
    """Print how soon an idle worker's deliveries arrive, and the CPU that it and its database use meanwhile."""
    with receivers.slow_receiver(0) as receiver, hosts.host(database) as host:
        arrivals.register(host, receiver)
        print(f"An idle worker: {SINGLES} single events, from commit to arrival; and shares of a core before")
        print(f"{'':<44}{'median':>9}{'most':>9}{'worker':>9}{'server':>9}{'both':>9}")
        for name, quiet_share in PACES.items():
            with processes.worker(host, quiet_share=quiet_share) as worker:
                time.sleep(SETTLE_SECONDS)
                before, began = _cpu(host, worker), time.monotonic()
                time.sleep(IDLE_SECONDS)
                after, lasted = _cpu(host, worker), time.monotonic() - began
                seconds: list[float] = []
                for _ in range(SINGLES):
                    # Not in step with how often the worker looks.
                    apart_seconds = APART_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 - guards nothing
                    seconds += arrivals.of_singles(host, receiver, 1, apart_seconds=apart_seconds)
            shares = [(late - early) / lasted * 100 for early, late in zip(before, after, strict=True)]
            print(f"{name:<44}{median(seconds) * 1000:>6.0f} ms{max(seconds) * 1000:>6.0f} ms", end="")
            print("".join(f"{share:>7.2f} %" for share in (*shares, sum(shares))), flush=True)
    print(flush=True)


def _cpu(host: hosts.Host, worker: int) -> tuple[float, float]:
    """Return the seconds of CPU that the worker and the database's server have used so far."""
    return processes.cpu_seconds([worker]), processes.cpu_of_server(host)


def slow(database: str | None, turns: int) -> None:
    """Print the deliveries per second to slow receivers."""
    with receivers.slow_receiver(LATENCY_SECONDS) as receiver, hosts.host(database) as host, cores.first():
        host.register([f"{receiver.url}{number}" for number in range(RECEIVERS)], secret=SECRET)
        for in_flight in IN_FLIGHT:
            _compare(host, receiver.url, in_flight, turns)


def _compare(host: hosts.Host, url: str, in_flight: int, turns: int) -> None:
    events = in_flight * WAVES // RECEIVERS
    programs = {
        BARE: lambda: post(url, events * RECEIVERS, connections=in_flight),
        "worker": lambda: drain(host, events=events, concurrency=in_flight),
    }
    costs = rounds.interleave(programs, turns)
    allowed = in_flight / LATENCY_SECONDS
    print(f"{RECEIVERS} receivers of 200 ms, {in_flight} in flight at most: {allowed:.0f} per s allowed")
    print(rounds.table(costs, share_of=BARE))
    for name, cost in rounds.medians(costs):
        share = 1e6 / cost.wall / allowed
        print(f"{name}: {share:.2f} of what is allowed; the core is busy for {cost.cpu / cost.wall:.2f} of the time")
    print(flush=True)


if __name__ == "__main__":
    main()
