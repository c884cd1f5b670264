"""The test of an endpoint: a person sends one event to it alone, and finds receivers to copy."""

from typing import Any
from uuid import UUID

from flask import Response, request, url_for

from flask_webhook_endpoints import access
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import deliveries, endpoints, secrets, validation
from flask_webhook_endpoints.core.deliveries import PING, Delivery
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import (
    EndpointPaused,
    EventWaiting,
    IdempotencyKeyReused,
    InvalidFields,
    InvalidRequest,
    Problem,
)
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.portal import forms, frame, json_text, pages, problems, snippets
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.texts import gettext
from flask_webhook_endpoints.security.private import Private

PAGES: list[Page] = []


@page(PAGES, "GET", "/<ep_id>/test")
def show_test(ep_id: str) -> Response:
    """Show the form that sends an event, with the example of the event that was chosen."""
    caller, endpoint_id = access.enter_one("ping", ep_id)
    return _render(caller, endpoint_id)


@page(PAGES, "POST", "/<ep_id>/test")
def send_test(ep_id: str) -> Response:
    """Send an event to the endpoint, whatever its event types, and go to the page of the delivery."""
    caller, endpoint_id = access.enter_one("ping", ep_id)
    try:
        event = _event(caller, ep_id)
        url = forms.run_once(
            caller,
            lambda scope: deliveries.ping(scope, endpoint_id, **dict(event)),
            lambda delivery: _url_of(caller, delivery, ep_id),
            then=lambda _: pages.tell(gettext("The event is on its way.")),
        )
    except (InvalidFields, IdempotencyKeyReused, EndpointPaused, EventWaiting) as problem:
        return _render(caller, endpoint_id, problem=problem)
    return pages.see_url(url)


def _event(caller: Caller, ep_id: str) -> Private[Any]:
    """Return the type and the data of the form, as `deliveries.ping` takes them; raise `InvalidFields`."""
    event_type = request.form.get("event_type", PING)
    if event_type == PING:
        if forms.typed("data").strip():
            fault = gettext("A webhook.ping takes no data of yours. Leave it empty, or name another event.")
            raise InvalidFields({"data": [fault]})
        return Private()
    caller.check("ping_event", ep_id)
    return validation.load_private(caller.state.ping_input, Private(_data(), event_type=event_type))


def _data() -> Private[Any]:
    if not forms.typed("data").strip():
        return Private()
    try:
        return Private(data=validation.read_json(forms.typed("data")))
    except InvalidRequest:
        fault = gettext("This is not JSON, names a member twice, or is nested too deeply.")
        raise InvalidFields({"data": [fault]}) from None


def _url_of(caller: Caller, delivery: Delivery, ep_id: str) -> str:
    """Return where the person sees the result."""
    if pages.reads(caller, "read_delivery", ep_id):
        return url_for(".show_delivery", ep_id=ep_id, dlv_id=format_id(delivery.id, "dlv"))
    return url_for(".show_test", ep_id=ep_id)


def _render(caller: Caller, endpoint_id: UUID, *, problem: Problem | None = None) -> Response:
    cipher = caller.state.cipher

    def read(scope: TenantScope) -> tuple[Endpoint, str | None]:
        endpoint = endpoints.get(scope, endpoint_id, cipher=cipher)
        return endpoint, secrets.format_of(secrets.all_of(scope, endpoint_id, cipher=cipher)[0].secret)

    endpoint, secret_format = caller.run(read, commit=False)
    may_choose = pages.shows(caller, "ping_event", endpoint.id)
    chosen = request.values.get("event_type", PING) if may_choose else PING
    return frame.render(
        "test",
        caller,
        endpoint,
        status=200 if problem is None else problem.status,
        declared=list(caller.state.host.declared) if may_choose else [],
        may_choose=may_choose,
        ping=PING,
        chosen=chosen,
        example=_example(caller, chosen),
        format=secret_format,
        snippets=snippets.receivers(),
        problem=problem,
        errors=problems.faults_of(problem),
    )


def _example(caller: Caller, event_type: str) -> str:
    """Return the declared example of an event as JSON to edit; empty where there is none."""
    event = caller.state.host.declared.get(event_type)
    return "" if event is None or event.example is None else json_text.indented(event.example)
