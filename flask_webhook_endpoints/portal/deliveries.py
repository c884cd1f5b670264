"""The lists of deliveries, of an endpoint and of a tenant, and the button that redelivers the ticked ones."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from uuid import UUID

from flask import Response, request, url_for

from flask_webhook_endpoints import access, identifiers
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import delivery_lists as lists
from flask_webhook_endpoints.core import endpoints, redelivery
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.core.redelivery import Resent
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.portal import delivery_filters, forms, frame, pages, resending, results
from flask_webhook_endpoints.portal.delivery_filters import CURSOR, Filters
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.resending import Refusal
from flask_webhook_endpoints.portal.texts import gettext, ngettext

PAGES: list[Page] = []

_ON_PAGE = lists.DEFAULT_PAGE
"""The number of deliveries on a page, and of those that one form may send again."""

_TICKED = "delivery"
"""The field of the form that has the id of each ticked delivery."""

_NOTHING = lists.Page((), None)


@page(PAGES, "GET", "/deliveries")
def list_all_deliveries() -> Response:
    """Show the deliveries to all endpoints of the tenant, newest first."""
    caller = access.enter("list_deliveries")
    filters = delivery_filters.read(request.args)

    def read(scope: TenantScope) -> tuple[lists.Page, Mapping[UUID, str]]:
        found = _page(scope, filters)
        return found, lists.endpoint_names(scope, found)

    found, names = caller.run(read, commit=False)
    opened = {each: pages.shows(caller, "read_delivery", identifiers.format_id(each)) for each in names}
    shown = _shown(caller, filters, found, ".list_all_deliveries")
    return pages.render("all_deliveries", status=_status(filters), names=names, opened=opened, **shown)


@page(PAGES, "GET", "/<ep_id>/deliveries")
def list_deliveries(ep_id: str) -> Response:
    """Show the deliveries to an endpoint, newest first."""
    caller, endpoint_id = access.enter_one("list_deliveries", ep_id)
    return _show(caller, endpoint_id)


@page(PAGES, "POST", "/<ep_id>/deliveries")
def redeliver_deliveries(ep_id: str) -> Response:
    """Send the ticked deliveries again, all in one transaction."""
    caller, endpoint_id = access.enter_one("redeliver", ep_id)
    given = request.form.getlist(_TICKED)
    ids = {found for text in given if (found := identifiers.parse_id(text, "dlv")) is not None}
    if (fault := _fault(ids, given)) is not None:
        return _refuse(caller, endpoint_id, Refusal(fault))
    most = caller.state.settings.max_redeliveries_per_minute

    def resend(scope: TenantScope) -> Resent:
        return redelivery.redeliver_several(scope, endpoint_id, ids, most_per_minute=most)

    def here(_: Resent) -> str:
        return url_for(".list_deliveries", ep_id=ep_id, **delivery_filters.read(request.args).typed)

    try:
        url = forms.run_once(caller, resend, here, then=resending.tell_resent)
    except resending.REFUSALS as problem:
        return _refuse(caller, endpoint_id, resending.refusal(problem))
    return pages.see_url(url)


def _refuse(caller: Caller, endpoint_id: UUID, refusal: Refusal) -> Response:
    """Show the list again, with what was ticked and why nothing was sent."""
    caller.check("list_deliveries", identifiers.format_id(endpoint_id))
    response = _show(caller, endpoint_id, refusal)
    response.headers.extend(refusal.headers)
    return response


def _show(caller: Caller, endpoint_id: UUID, refusal: Refusal | None = None) -> Response:
    filters, cipher = delivery_filters.read(request.args), caller.state.cipher

    def read(scope: TenantScope) -> tuple[Endpoint, lists.Page]:
        return endpoints.get(scope, endpoint_id, cipher=cipher), _page(scope, filters, endpoint_id)

    endpoint, found = caller.run(read, commit=False)
    return frame.render(
        "deliveries",
        caller,
        endpoint,
        status=refusal.status if refusal else _status(filters),
        refusal=refusal and refusal.message,
        ticked=frozenset(request.form.getlist(_TICKED)),
        **_shown(caller, filters, found, ".list_deliveries", ep_id=endpoint.id),
    )


def _page(scope: TenantScope, filters: Filters, endpoint_id: UUID | None = None) -> lists.Page:
    """Return the page that the filters choose: nothing where one of them can't be read."""
    if filters.faults:
        return _NOTHING
    return lists.page(scope, filters.chosen(endpoint_id), limit=_ON_PAGE, after=filters.after)


def _status(filters: Filters) -> HTTPStatus:
    return HTTPStatus.UNPROCESSABLE_ENTITY if filters.faults else HTTPStatus.OK


def _shown(caller: Caller, filters: Filters, found: lists.Page, view: str, **ids: Any) -> dict[str, Any]:
    """Return the variables of a list's template."""
    following: dict[str, Any] = {CURSOR: found.cursor and identifiers.format_id(found.cursor, "dlv")}
    names_events = pages.shows(caller, "list_event_types")
    return {
        "deliveries": found.deliveries,
        "filters": filters,
        "unfiltered": url_for(view, **ids),
        "here": url_for(view, **ids, **filters.typed),
        "first": url_for(view, **ids, **filters.address) if filters.after else None,
        "next": url_for(view, **ids, **filters.address, **following) if found.cursor else None,
        "event_types": caller.state.host.declared.patterns() if names_events and caller.state.host.declared else [],
        "scanned": lists.SCANNED,
        "words": results.words,
        "local_time": delivery_filters.shown_time,
    }


def _fault(ids: set[UUID], given: list[str]) -> str | None:
    """Return what is wrong with the ticked ids; None if nothing is."""
    if not given:
        return gettext("Nothing was sent: tick the deliveries that are to be sent again.")
    if len(given) > _ON_PAGE:
        return ngettext(
            "Nothing was sent: more than %(num)s delivery was ticked. Recover sends all of a time again.",
            "Nothing was sent: more than %(num)s deliveries were ticked. Recover sends all of a time again.",
            _ON_PAGE,
        )
    if len(ids) < len(set(given)):
        return gettext("Nothing was sent: one of the ticked ids is no id of a delivery. Tick them again.")
    return None
