"""Deliveries per second to slow receivers, as a share of what their latency allows.

The baseline is bare aiohttp without a database: its share shows what the core can do. Both have the first core, the
receivers the others.
"""

import logging

from benchmarks import cores, hosts, receivers, rounds
from benchmarks.bench_delivery import BARE, SECRET, drain, post

LATENCY_SECONDS = 0.2
RECEIVERS = 50

IN_FLIGHT = (200, 500)
"""Values of the worker's `--concurrency`; with a cap of 10, fifty receivers have at most 500 in flight."""

WAVES = 12
"""Waves of deliveries in one round; all deliveries of a wave are in flight at once."""


def main() -> None:
    """Print a table for each concurrency."""
    options = hosts.arguments(__doc__).parse_args()
    logging.getLogger("flask_webhook_endpoints").setLevel(logging.ERROR)
    with receivers.slow_receiver(LATENCY_SECONDS) as url, hosts.host(options.database) as host, cores.first():
        host.register([f"{url}{number}" for number in range(RECEIVERS)], secret=SECRET)
        for in_flight in IN_FLIGHT:
            _compare(host, url, in_flight, options.rounds)


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
