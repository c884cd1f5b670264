"""The page of one endpoint: its state, what waits for it, and its results."""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from flask import Response, request

from flask_webhook_endpoints import access
from flask_webhook_endpoints.core import delivery_lists, endpoint_statistics, endpoints, recent_results
from flask_webhook_endpoints.core.deliveries import Delivery
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.core.endpoint_statistics import Statistics, Step, Window
from flask_webhook_endpoints.core.recent_results import RecentResults
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.portal import charts, frame, pages, results, texts
from flask_webhook_endpoints.portal.charts import Chart
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.security.encryption import Cipher

PAGES: list[Page] = []

_FAILED_SHOWN = 5
"""The number of failed deliveries on the page, the newest ones."""

_MOST_ROWS = 20
"""The number of event types, and of responses, that the page has."""

_CHART_WIDTH, _CHART_HEIGHT = 1_000, 160
"""The units of the drawing; the page stretches its width."""

_BAR_SHARE, _MAX_BAR = 0.8, 72
"""The share of a bar in the width of its step, and the units that it has at most."""


class _Seen(NamedTuple):
    """All that the page reads in one transaction."""

    endpoint: Endpoint
    statistics: Statistics | None
    """None: the person may not read statistics."""
    recent: RecentResults | None
    failed: Sequence[Delivery]


@page(PAGES, "GET", "/<ep_id>")
def show_endpoint(ep_id: str) -> Response:
    """Show an endpoint: its state, what waits for it, and its results."""
    caller, endpoint_id = access.enter_one("read", ep_id)
    window = _window()
    operation = _reading(
        endpoint_id,
        cipher=caller.state.cipher,
        window=window if pages.reads(caller, "read_stats", ep_id) else None,
        failed=pages.reads(caller, "list_deliveries", ep_id),
    )
    seen = caller.run(operation, commit=False)
    settings = caller.state.settings
    return frame.render(
        "endpoint",
        caller,
        seen.endpoint,
        window=window,
        windows=_windows(),
        statistics=seen.statistics,
        chart=seen.statistics and _chart(seen.statistics.series),
        step_text=texts.moment if window is Window.DAY else texts.day,
        recent=seen.recent,
        most_rows=_MOST_ROWS,
        failed=seen.failed,
        words=results.title,
        most_counted=endpoint_statistics.MOST_COUNTED,
        at_once=settings.max_in_flight_per_endpoint,
        hold_days=settings.hold_max_days,
    )


def _window() -> Window:
    """Return the window that the page is asked for, or the last day where there is no such window."""
    asked = request.args.get("window")
    return next((each for each in Window if each == asked), Window.DAY)


def _windows() -> Sequence[tuple[Window, str]]:
    """Return the windows, and how the page names them."""
    return (
        (Window.DAY, texts.gettext("24 hours")),
        (Window.WEEK, texts.gettext("7 days")),
        (Window.MONTH, texts.gettext("30 days")),
    )


def _reading(
    endpoint_id: UUID, *, cipher: Cipher, window: Window | None, failed: bool
) -> Callable[[TenantScope], _Seen]:
    """Return the operation that reads the page: statistics of a window if there is one, and `failed` deliveries."""
    chosen = delivery_lists.Filter(endpoint_id=endpoint_id, status=DeliveryStatus.FAILED)

    def read(scope: TenantScope) -> _Seen:
        endpoint = endpoints.get(scope, endpoint_id, cipher=cipher)
        statistics = recent = None
        if window is not None:
            statistics = endpoint_statistics.of_endpoint(scope, endpoint_id, window=window)
            recent = recent_results.of_endpoint(scope, endpoint_id, since=statistics.series[0].starts_at)
        newest = delivery_lists.page(scope, chosen, limit=_FAILED_SHOWN).deliveries if failed else ()
        return _Seen(endpoint, statistics, recent, newest)

    return read


def _chart(series: Sequence[Step]) -> Chart:
    step = _CHART_WIDTH // len(series)
    bar_width = min(round(step * _BAR_SHARE), _MAX_BAR)
    numbers = [(each.delivered, each.failed) for each in series]
    return charts.stacked(numbers, bar_width=bar_width, gap=step - bar_width, height=_CHART_HEIGHT)
