"""The list of a tenant's endpoints, and the buttons that pause and resume one of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from flask import Response, request

from flask_webhook_endpoints import access, signals
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import endpoint_lists, endpoint_statistics, endpoints
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.core.endpoint_statistics import Day
from flask_webhook_endpoints.database.models import EndpointStatus
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.identifiers import parse_id
from flask_webhook_endpoints.portal import charts, pages
from flask_webhook_endpoints.portal.charts import Chart
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.texts import gettext
from flask_webhook_endpoints.security.private import Private

PAGES: list[Page] = []

_ON_PAGE = 25
"""The number of endpoints on a page."""

_STATES: Mapping[str, Mapping[str, Any]] = {
    "active": {"status": EndpointStatus.ACTIVE},
    "paused": {"status": EndpointStatus.PAUSED},
    "failing": {"failing": True},
}
"""The values of `state`, and how core names them."""

_CHOICE = ("q", "state")
"""The parameters that choose endpoints; an unknown state chooses all."""

_PLACE = (*_CHOICE, "after")
"""The parameters that name a page of the list."""


class Row(NamedTuple):
    """An endpoint in the list, with what the person may see of it and do to it."""

    endpoint: Endpoint
    day: Day | None
    """None: the person may not read statistics."""
    chart: Chart | None
    may_open: bool
    may_update: bool
    may_test: bool


@page(PAGES, "GET", "/")
def list_endpoints() -> Response:
    """Show the tenant's endpoints, oldest first: those that the search and the state choose."""
    caller = access.enter("list")
    cipher, quota = caller.state.cipher, caller.state.settings.max_endpoints_per_tenant
    place = _place(request.args)
    after, search = parse_id(place.get("after", "")), place.get("q")
    chosen = _STATES.get(place.get("state", ""), {})

    def read(scope: TenantScope) -> tuple[Sequence[Endpoint], int]:
        found = endpoint_lists.page(scope, cipher=cipher, after=after, limit=_ON_PAGE + 1, search=search, **chosen)
        return found, endpoint_lists.count(scope)

    found, number = caller.run(read, commit=False)
    shown = found[:_ON_PAGE]
    days = _days(caller, shown)
    return pages.render(
        "endpoints",
        rows=[_row(caller, each, days.get(each.id)) for each in shown],
        has_days=bool(days),
        most_held=endpoint_statistics.MOST_LISTED,
        number=number,
        quota=quota,
        place=place,
        choice={name: place[name] for name in _CHOICE if name in place},
        next_after=shown[-1].id if len(found) > _ON_PAGE else None,
        is_first_page=after is None,
        may_create=pages.shows(caller, "create"),
    )


@page(PAGES, "POST", "/<ep_id>/pause")
def pause_endpoint(ep_id: str) -> Response:
    """Pause an endpoint: its deliveries are held from now on."""
    endpoint = _set_status(ep_id, EndpointStatus.PAUSED)
    pages.tell(gettext("%(name)s is paused. Its deliveries are held until you resume it.", name=endpoint.name))
    return _back(ep_id)


@page(PAGES, "POST", "/<ep_id>/resume")
def resume_endpoint(ep_id: str) -> Response:
    """Resume an endpoint: the deliveries that it holds are sent, the oldest first."""
    endpoint = _set_status(ep_id, EndpointStatus.ACTIVE)
    pages.tell(gettext("%(name)s is active. What was held is sent now, the oldest first.", name=endpoint.name))
    return _back(ep_id)


def _place(values: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that name a page of the list, without empty ones."""
    given = {name: values.get(name, "").strip() for name in _PLACE}
    return {name: value for name, value in given.items() if value and (name != "state" or value in _STATES)}


def _days(caller: Caller, shown: Sequence[Endpoint]) -> Mapping[str, Day]:
    """Return the last day of the endpoints whose statistics the person may read, by the ids of the page."""
    ids = {uuid: each.id for each in shown if (uuid := parse_id(each.id)) and _may_read_stats(caller, each)}
    days = caller.run(lambda scope: endpoint_statistics.of_endpoints(scope, ids), commit=False)
    return {ids[uuid]: day for uuid, day in days.items()}


def _may_read_stats(caller: Caller, endpoint: Endpoint) -> bool:
    return pages.reads(caller, "read_stats", endpoint.id)


def _row(caller: Caller, endpoint: Endpoint, day: Day | None) -> Row:
    shows = partial(pages.shows, caller, ep_id=endpoint.id)
    numbers = [(step.delivered, step.failed) for step in day.series] if day else []
    return Row(
        endpoint=endpoint,
        day=day,
        chart=charts.stacked(numbers, bar_width=5, gap=1, height=32) if day else None,
        may_open=shows("read"),
        may_update=shows("update"),
        may_test=shows("ping"),
    )


def _set_status(ep_id: str, status: EndpointStatus) -> Endpoint:
    caller, endpoint_id = access.enter_one("update", ep_id)
    fields = Private(status=status)
    changed = caller.run(
        lambda scope: endpoints.update(scope, endpoint_id, fields, cipher=caller.state.cipher), commit=True
    )
    signals.send_changed(caller.tenant_id, changed)
    return changed.endpoint


def _back(ep_id: str) -> Response:
    """Send the browser to the page that had the button: the list, or the endpoint's own."""
    if request.form.get("from") == "list":
        return pages.see("list_endpoints", **_place(request.form), _anchor=ep_id)
    return pages.see("show_endpoint", ep_id=ep_id)
