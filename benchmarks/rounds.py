"""Interleaved rounds, A B A B …, so that other load on the machine slows all programs alike."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

ROUNDS = 7


@dataclass(frozen=True)
class Cost:
    """The cost of one operation, in microseconds."""

    cpu: float
    wall: float


Programs = Mapping[str, Callable[[], Cost]]
Costs = Mapping[str, list[Cost]]
"""The costs of each program, round by round."""


def measure(run: Callable[[], int]) -> Cost:
    """Run the program once; it returns the number of operations. Return the cost of one."""
    cpu, wall = time.process_time(), time.perf_counter()
    operations = run()
    return Cost((time.process_time() - cpu) / operations * 1e6, (time.perf_counter() - wall) / operations * 1e6)


def interleave(programs: Programs, rounds: int) -> Costs:
    """Run all programs in turn: a round that warms up, and then this many rounds."""
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            cost = program()
            if number:
                costs[name].append(cost)
    return costs


def medians(costs: Costs) -> Iterator[tuple[str, Cost]]:
    """Yield the cost of each program: the medians of its CPU time and its wall time."""
    for name, of_name in costs.items():
        yield name, Cost(median(cost.cpu for cost in of_name), median(cost.wall for cost in of_name))


def ratio(costs: Costs, name: str, *, to: str) -> Cost:
    """Return a program's cost as a multiple of another's: the medians of the ratios of each round."""
    pairs = list(zip(costs[name], costs[to], strict=True))
    return Cost(
        median(cost.cpu / base.cpu for cost, base in pairs), median(cost.wall / base.wall for cost, base in pairs)
    )


def table(costs: Costs, *, share_of: str) -> str:
    """Return a table of the medians: microseconds of CPU and wall time, and the share of the baseline's speed."""
    lines = [f"{'':<44}{'CPU µs':>10}{'wall µs':>10}{'per s':>9}{'CPU':>7}{'wall':>7}"]
    for name, cost in medians(costs):
        share = ratio(costs, share_of, to=name)
        lines.append(
            f"{name:<44}{cost.cpu:>10.1f}{cost.wall:>10.1f}{1e6 / cost.wall:>9.0f}{share.cpu:>7.2f}{share.wall:>7.2f}"
        )
    return "\n".join(lines)
