"""Recovery: choose a time and statuses, see how many deliveries they have, and send all of these again."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, NamedTuple
from uuid import UUID

from flask import Response, request, url_for
from werkzeug.datastructures import MultiDict

from flask_webhook_endpoints import access
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import endpoints, redelivery
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.core.redelivery import MAX_RECOVERED, RECOVERABLE, Recovered, Selection
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.portal import delivery_filters, forms, frame, pages, resending
from flask_webhook_endpoints.portal.delivery_filters import Unreadable
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.problems import Faults
from flask_webhook_endpoints.portal.resending import Refusal
from flask_webhook_endpoints.portal.texts import gettext

PAGES: list[Page] = []

_FIRST_CHOICE = timedelta(days=1)
"""The time that the form proposes."""


class Choice(NamedTuple):
    """The fields of the form: what was typed, and what it means."""

    typed: Mapping[str, str]
    statuses: Sequence[str]
    faults: Faults
    selection: Selection

    @property
    def address(self) -> dict[str, Any]:
        """Return the parameters of a page with these fields."""
        return {**self.typed, "status": list(self.statuses)}


@page(PAGES, "GET", "/<ep_id>/recover")
def recover(ep_id: str) -> Response:
    """Ask which deliveries to recover; once chosen, tell how many they are and ask for consent."""
    caller, endpoint_id = access.enter_one("recover", ep_id)
    if "since" in request.args:
        choice = _choice(request.args)
        return _show(caller, endpoint_id, choice, counts=not choice.faults)
    day_before = (caller.state.now() - _FIRST_CHOICE).replace(second=0, microsecond=0)
    proposed = [("since", day_before.isoformat()), *(("status", each) for each in RECOVERABLE)]
    return _show(caller, endpoint_id, _choice(MultiDict(proposed)))


@page(PAGES, "POST", "/<ep_id>/recover")
def confirm_recovery(ep_id: str) -> Response:
    """Send the chosen deliveries again."""
    caller, endpoint_id = access.enter_one("recover", ep_id)
    choice = _choice(request.form)
    if choice.faults:
        return _show(caller, endpoint_id, choice)
    most = caller.state.settings.max_redeliveries_per_minute

    def operate(scope: TenantScope) -> Recovered:
        return redelivery.recover(scope, endpoint_id, choice.selection, most_per_minute=most)

    def following(recovered: Recovered) -> str:
        if recovered.more:
            return url_for(".recover", ep_id=ep_id, **choice.address)
        return url_for(".list_deliveries", ep_id=ep_id)

    try:
        url = forms.run_once(caller, operate, following, then=resending.tell_recovered)
    except resending.REFUSALS as problem:
        return _show(caller, endpoint_id, choice, refusal=resending.refusal(problem), counts=True)
    return pages.see_url(url)


def _show(
    caller: Caller, endpoint_id: UUID, choice: Choice, *, refusal: Refusal | None = None, counts: bool = False
) -> Response:
    cipher = caller.state.cipher

    def read(scope: TenantScope) -> tuple[Endpoint, int | None]:
        endpoint = endpoints.get(scope, endpoint_id, cipher=cipher)
        if endpoint.paused_at is not None or not counts:
            return endpoint, None
        # The page tells only whether there are more than one request recovers: to count all would take long.
        counted = redelivery.count_recoverable(scope, endpoint_id, choice.selection, most=MAX_RECOVERED + 1)
        return endpoint, counted.count

    endpoint, count = caller.run(read, commit=False)
    status = refusal.status if refusal else HTTPStatus.UNPROCESSABLE_ENTITY if choice.faults else HTTPStatus.OK
    response = frame.render(
        "recover",
        caller,
        endpoint,
        status=status,
        refusal=refusal and refusal.message,
        choice=choice,
        count=count,
        most=MAX_RECOVERED,
        local_time=delivery_filters.shown_time,
    )
    response.headers.extend(refusal.headers if refusal else {})
    return response


def _choice(given: MultiDict[str, str]) -> Choice:
    """Return the fields that the parameters have; each fault is in the result."""
    typed = {name: given.get(name, "").strip() for name in ("since", "until", "event_type")}
    faults, values = Faults(), dict[str, Any]()
    for name, reader in (
        ("since", delivery_filters.read_time),
        ("until", delivery_filters.read_time),
        ("event_type", delivery_filters.read_event_type),
    ):
        if len(given.getlist(name)) > 1:
            faults[name] = [gettext("Choose one value: the address of this page has several.")]
            continue
        try:
            values[name] = reader(typed[name]) if typed[name] else None
        except Unreadable as fault:
            faults[name] = [str(fault)]
    statuses = [each for each in RECOVERABLE if each in given.getlist("status")]
    if not typed["since"]:
        faults["since"] = [gettext("Choose the time from which on deliveries are sent again.")]
    elif values.get("since") and values.get("until") and values["since"] >= values["until"]:
        faults["until"] = [gettext("The end must be later than the beginning.")]
    if not statuses or len(statuses) < len(set(given.getlist("status"))):
        faults["status"] = [gettext("Choose failed or expired deliveries, or both.")]
    event_types = [values["event_type"]] if values.get("event_type") else []
    selection = Selection(
        statuses=statuses, since=values.get("since"), until=values.get("until"), event_types=event_types
    )
    return Choice({name: text for name, text in typed.items() if text}, statuses, faults, selection)
