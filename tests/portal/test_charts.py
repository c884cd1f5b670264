"""The bars of charts: within the drawing, upon each other, and to be seen."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_webhook_endpoints.portal import charts
from flask_webhook_endpoints.portal.charts import LEAST

numbers = st.integers(0, 10) | st.integers(0, 2**63)
results = st.lists(st.tuples(numbers, numbers), max_size=40)


@given(results, st.integers(1, 20), st.integers(0, 5), st.integers(2 * LEAST, 300))
def test_bars_are_within_the_drawing_and_show_each_number_that_is_not_zero(pairs, bar_width, gap, height):
    chart = charts.stacked(pairs, bar_width=bar_width, gap=gap, height=height)

    assert len(chart.bars) == len(pairs)
    for bar, (delivered, failed) in zip(chart.bars, pairs, strict=True):
        assert bar.x >= 0
        assert bar.x + bar.width <= chart.width
        assert 0 <= bar.failed_y <= bar.failed_y + bar.failed_height == bar.delivered_y
        assert bar.delivered_y + bar.delivered_height == height
        for number, part in ((delivered, bar.delivered_height), (failed, bar.failed_height)):
            assert part >= LEAST if number else part == 0
    for one, other in pairwise(chart.bars):
        assert one.x + one.width + gap == other.x


@given(results)
def test_a_bar_of_more_results_is_no_lower(pairs):
    bars = charts.stacked(pairs, bar_width=5, gap=1, height=100).bars
    both = [bar for bar, (delivered, failed) in zip(bars, pairs, strict=True) if delivered and failed]
    sums = [sum(pair) for pair in pairs if all(pair)]

    heights = [100 - bar.failed_y for _, bar in sorted(zip(sums, both, strict=True))]

    assert heights == sorted(heights)


@pytest.mark.parametrize(
    ("pairs", "delivered", "failed"),
    [
        ([], "", ""),
        ([(0, 0)], "", ""),
        ([(3, 1), (0, 0), (1, 0)], "M0 8h5v24h-5zM12 24h5v8h-5z", "M0 0h5v8h-5z"),
        ([(1_000_000, 1)], "M0 2h5v30h-5z", "M0 0h5v2h-5z"),
    ],
    ids=["no-bars", "nothing", "a-quarter", "one-of-a-million"],
)
def test_paths_draw_the_bars(pairs, delivered, failed):
    chart = charts.stacked(pairs, bar_width=5, gap=1, height=32)

    assert (chart.delivered, chart.failed) == (delivered, failed)
