"""The page of one delivery: its attempts, made and planned, its request, and the buttons that send it again."""

from http import HTTPStatus
from typing import Any, NamedTuple
from uuid import UUID

from flask import Response, request, url_for

from flask_webhook_endpoints import access
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import curl, deliveries, endpoints, redelivery
from flask_webhook_endpoints.core.deliveries import Attempt, Delivery, Details
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import UnreadableSecret, UnreadableValue
from flask_webhook_endpoints.portal import forms, frame, json_text, pages, resending, results
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.resending import Refusal
from flask_webhook_endpoints.portal.results import Words
from flask_webhook_endpoints.portal.texts import gettext
from flask_webhook_endpoints.security.encryption import Secret
from flask_webhook_endpoints.security.private import Private

PAGES: list[Page] = []

_REFRESH_SECONDS = 60
"""The page loads itself again while an attempt is in flight, or due within so many seconds."""


class Made(NamedTuple):
    """An attempt in the timeline."""

    attempt: Attempt
    words: Words | None
    shows_advice: bool
    """The next attempt did not fail in the same way, so that equal failures have one advice."""


@page(PAGES, "GET", "/<ep_id>/deliveries/<dlv_id>")
def show_delivery(ep_id: str, dlv_id: str) -> Response:
    """Show a delivery."""
    caller, endpoint_id, delivery_id = access.enter_delivery("read_delivery", ep_id, dlv_id)
    return _show(caller, endpoint_id, delivery_id)


@page(PAGES, "POST", "/<ep_id>/deliveries/<dlv_id>")
def redeliver_delivery(ep_id: str, dlv_id: str) -> Response:
    """Send a delivery again."""
    caller, endpoint_id, delivery_id = access.enter_delivery("redeliver", ep_id, dlv_id)
    most = caller.state.settings.max_redeliveries_per_minute

    def resend(scope: TenantScope) -> Delivery:
        return redelivery.redeliver(scope, endpoint_id, delivery_id, most_per_minute=most)

    def tell(_: Delivery) -> None:
        pages.tell(gettext("The delivery is sent again. Its retry schedule begins from the start."))

    try:
        url = forms.run_once(caller, resend, lambda _: url_for(".show_delivery", ep_id=ep_id, dlv_id=dlv_id), then=tell)
    except resending.REFUSALS as problem:
        caller.check("read_delivery", ep_id)
        refusal = resending.refusal(problem)
        response = _show(caller, endpoint_id, delivery_id, refusal=refusal)
        response.headers.extend(refusal.headers)
        return response
    return pages.see_url(url)


@page(PAGES, "POST", "/<ep_id>/deliveries/<dlv_id>/curl")
def show_curl(ep_id: str, dlv_id: str) -> Response:
    """Show a delivery with its request as a command, signed at this moment."""
    caller, endpoint_id, delivery_id = access.enter_delivery("read_secret", ep_id, dlv_id)
    # The command has the values of the endpoint's headers.
    caller.check("read_headers", ep_id)
    caller.check("read_delivery", ep_id)
    return _show(caller, endpoint_id, delivery_id, with_curl=True)


def _show(
    caller: Caller, endpoint_id: UUID, delivery_id: UUID, *, refusal: Refusal | None = None, with_curl: bool = False
) -> Response:
    cipher, schedule = caller.state.cipher, caller.state.settings.retry_schedule

    def read(scope: TenantScope) -> tuple[Endpoint, Details, Secret | Refusal | None]:
        details = deliveries.get(scope, endpoint_id, delivery_id, cipher=cipher, schedule=schedule)
        command = _command(scope, caller, details) if with_curl else None
        return endpoints.get(scope, endpoint_id, cipher=cipher), details, command

    endpoint, details, command = caller.run(read, commit=False)
    if isinstance(command, Refusal):
        refusal, command = command, None
    return frame.render(
        "delivery",
        caller,
        endpoint,
        status=refusal.status if refusal else HTTPStatus.OK,
        secret=command is not None,
        refusal=refusal and refusal.message,
        delivery=details.delivery,
        made=_made(details),
        planned=details.planned,
        request_url=details.url,
        # The values of the endpoint's own headers are often credentials; the command has them for who asks for it.
        request_headers=deliveries.shown_headers(details, in_clear=False),
        are_headers_lost=details.headers is None,
        body=_body(details),
        curl=command,
        may_curl=pages.shows(caller, "read_secret", endpoint.id) and pages.shows(caller, "read_headers", endpoint.id),
        may_list_all=pages.shows(caller, "list_deliveries"),
        refreshes=_refreshes(caller, details.delivery),
    )


def _body(details: Details) -> Private[Any]:
    """Return the body as it is sent, and with a member on each line."""
    raw = details.body.decode(errors="replace")
    return Private(raw=raw, pretty=json_text.pretty(raw))


def _command(scope: TenantScope, caller: Caller, details: Details) -> Secret | Refusal:
    """Return the request as a command, or why there is none."""
    try:
        return curl.command(details, curl.signed_headers(scope, details, cipher=caller.state.cipher))
    except (UnreadableSecret, UnreadableValue):
        message = gettext("There is no command: the endpoint's secret or headers can't be decrypted. Write them again.")
        return Refusal(message, HTTPStatus.CONFLICT)


def _made(details: Details) -> list[Made]:
    """Return the attempts that were made, oldest first."""
    found = [results.words(each.response_status, each.error) for each in details.attempts]
    followed_by = [*found[1:], None][: len(found)]
    return [
        Made(attempt, words, shows_advice=words is not None and words != following)
        for attempt, words, following in zip(details.attempts, found, followed_by, strict=True)
    ]


def _refreshes(caller: Caller, delivery: Delivery) -> bool:
    """Return whether the delivery may have another result soon, and its page can be loaded again."""
    # Browsers ask before they send a form again, and the command would be gone.
    if request.method != "GET" or delivery.status != DeliveryStatus.PENDING:
        return False
    due_at = delivery.next_attempt_at
    return due_at is None or (due_at - caller.state.now()).total_seconds() < _REFRESH_SECONDS
