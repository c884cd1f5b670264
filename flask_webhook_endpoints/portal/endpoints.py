"""The list of a tenant's endpoints, and the buttons that pause and resume one of them."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from flask import Response, request

from flask_webhook_endpoints import access, identifiers, signals
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import endpoints
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.database.models import EndpointStatus
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.portal import pages
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.texts import gettext
from flask_webhook_endpoints.security.private import Private

PAGES: list[Page] = []

_ON_PAGE = 25
"""The number of endpoints on a page."""


class Row(NamedTuple):
    """An endpoint in the list, with what the person may do to it."""

    endpoint: Endpoint
    may_open: bool
    may_update: bool


@page(PAGES, "GET", "/")
def list_endpoints() -> Response:
    """Show the tenant's endpoints, oldest first: those that the search and the state choose."""
    caller = access.enter("list")
    cipher, quota = caller.state.cipher, caller.state.settings.max_endpoints_per_tenant

    def read(scope: TenantScope) -> tuple[Sequence[Endpoint], int]:
        found = endpoints.page(scope, cipher=cipher, after=after, limit=_ON_PAGE + 1)
        return found, endpoints.count(scope)

    after = identifiers.parse_id(request.args.get("after", ""))
    found, number = caller.run(read, commit=False)
    rows = [_row(caller, each) for each in found[:_ON_PAGE]]
    return pages.render(
        "endpoints",
        rows=rows,
        number=number,
        quota=quota,
        next_after=rows[-1].endpoint.id if len(found) > _ON_PAGE else None,
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


def _row(caller: Caller, endpoint: Endpoint) -> Row:
    shows = partial(pages.shows, caller, ep_id=endpoint.id)
    return Row(
        endpoint=endpoint,
        may_open=shows("read"),
        may_update=shows("update"),
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
        return pages.see("list_endpoints", _anchor=ep_id)
    return pages.see("show_endpoint", ep_id=ep_id)
