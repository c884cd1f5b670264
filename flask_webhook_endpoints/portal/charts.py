"""Charts of results: bars in whole units of a drawing, delivered below and failed on top."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

LEAST = 2
"""The height of the smallest part of a bar. A single failure among a million deliveries is to be seen."""


class Bar(NamedTuple):
    """A bar of a chart. Its parts stand upon each other; `y` is the upper edge of each, as in SVG."""

    x: int
    width: int
    delivered_y: int
    delivered_height: int
    failed_y: int
    failed_height: int


class Chart(NamedTuple):
    """A drawing of bars, the oldest on the left."""

    width: int
    height: int
    bars: Sequence[Bar]
    most: int
    """The number of results that a bar of the whole height has."""
    delivered: str
    """The path of the lower parts: one element, because a list of endpoints has hundreds of bars."""
    failed: str
    """The path of the upper parts."""


def stacked(results: Sequence[tuple[int, int]], *, bar_width: int, gap: int, height: int) -> Chart:
    """Return the chart of pairs of numbers, delivered and failed; `height` is `2 * LEAST` at least."""
    most = max((delivered + failed for delivered, failed in results), default=0)
    bars = [
        _bar(number * (bar_width + gap), bar_width, delivered, failed, most=most, height=height)
        for number, (delivered, failed) in enumerate(results)
    ]
    return Chart(
        width=max(len(bars) * (bar_width + gap) - gap, 0),
        height=height,
        bars=bars,
        most=most,
        delivered=_path((bar.x, bar.delivered_y, bar.width, bar.delivered_height) for bar in bars),
        failed=_path((bar.x, bar.failed_y, bar.width, bar.failed_height) for bar in bars),
    )


def _bar(x: int, width: int, delivered: int, failed: int, *, most: int, height: int) -> Bar:
    # Each part that there is has its least height, whatever the others have.
    least_delivered, least_failed = LEAST * bool(delivered), LEAST * bool(failed)
    whole = max(_scaled(delivered + failed, most, height), least_delivered + least_failed)
    failed_height = min(max(_scaled(failed, most, height), least_failed), whole - least_delivered)
    return Bar(
        x=x,
        width=width,
        delivered_y=height - whole + failed_height,
        delivered_height=whole - failed_height,
        failed_y=height - whole,
        failed_height=failed_height,
    )


def _scaled(number: int, most: int, height: int) -> int:
    return round(number * height / most) if most else 0


def _path(rectangles: Iterable[tuple[int, int, int, int]]) -> str:
    return "".join(f"M{x} {y}h{width}v{height}h-{width}z" for x, y, width, height in rectangles if height)
