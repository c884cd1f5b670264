"""The views of an endpoint's deliveries, and the ping."""

from functools import partial
from uuid import UUID

from flask import Response

from flask_webhook_endpoints import access, identifiers
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.api import delivery_schemas, idempotency, openapi, requests, responses
from flask_webhook_endpoints.api.delivery_schemas import DeliveryDetailsShown, DeliveryQuery, DeliveryShown
from flask_webhook_endpoints.api.event_type_schemas import PingInput
from flask_webhook_endpoints.api.openapi import Route
from flask_webhook_endpoints.core import deliveries
from flask_webhook_endpoints.core.deliveries import Delivery
from flask_webhook_endpoints.errors import (
    DeliveryInFlight,
    EndpointPaused,
    EventWaiting,
    TooManyRedeliveries,
    UnknownDelivery,
)
from flask_webhook_endpoints.state import Action

ROUTES: list[Route] = []

_deliveries = partial(openapi.route, ROUTES, tag="deliveries")

_ALL = "/v1/endpoints/<ep_id>/deliveries"
_ONE = f"{_ALL}/<dlv_id>"

_delivery_query = DeliveryQuery()


@_deliveries("GET", _ALL, query=DeliveryQuery, answer=DeliveryShown, many=True)
def list_deliveries(ep_id: str) -> Response:
    """List deliveries to an endpoint, newest first; the `Link` header names the next page."""
    caller, endpoint_id = access.enter_one("list_deliveries", ep_id)
    query = requests.read_query(_delivery_query)
    limit = query.pop("limit")
    page = caller.run(lambda scope: deliveries.page(scope, endpoint_id, limit=limit + 1, **query), commit=False)
    return responses.page_answer([delivery_schemas.show(delivery) for delivery in page], limit=limit)


@_deliveries("GET", _ONE, answer=DeliveryDetailsShown)
def read_delivery(ep_id: str, dlv_id: str) -> Response:
    """Read a delivery, with its body and the result of each attempt."""
    caller, endpoint_id, delivery_id = _enter("read_delivery", ep_id, dlv_id)
    found = caller.run(lambda scope: deliveries.get(scope, endpoint_id, delivery_id), commit=False)
    return responses.json_answer(delivery_schemas.show_details(*found))


@_deliveries(
    "POST",
    f"{_ONE}/redeliver",
    status=202,
    answer=DeliveryShown,
    problems=(EndpointPaused, DeliveryInFlight, TooManyRedeliveries),
)
def redeliver(ep_id: str, dlv_id: str) -> Response:
    """Send a delivery again, whatever its status.

    A pending delivery is sent at once. The whole retry schedule begins again. The `webhook-id` stays, the timestamp and
    the signature are new. Only so many redeliveries may be asked for in a minute.
    """
    caller, endpoint_id, delivery_id = _enter("redeliver", ep_id, dlv_id)
    # No field is read yet. Only JSON makes browsers ask the host before they send it for another site.
    body = requests.read_body(optional=True)
    most = caller.state.settings.max_redeliveries_per_minute
    return idempotency.run_once(
        caller,
        body,
        lambda scope: deliveries.redeliver(scope, endpoint_id, delivery_id, most_per_minute=most),
        _accepted,
    )


@_deliveries(
    "POST",
    "/v1/endpoints/<ep_id>/ping",
    body=PingInput,
    body_required=False,
    status=202,
    answer=DeliveryShown,
    problems=(EndpointPaused, EventWaiting),
)
def ping(ep_id: str) -> Response:
    """Send an event to an endpoint, and to no other, whatever its `event_types`.

    Without a body, the event is a `webhook.ping`. With an `event_type`, it is an event of that type, with `data` or
    with the example that the application has declared.
    """
    caller, endpoint_id = access.enter_one("ping", ep_id)
    body = requests.read_body(optional=True)
    event = requests.load_body(caller.state.ping_input, body)
    if event:
        caller.check("ping_event", ep_id)
    return idempotency.run_once(caller, body, lambda scope: deliveries.ping(scope, endpoint_id, **event), _accepted)


def _accepted(delivery: Delivery) -> Response:
    return responses.json_answer(delivery_schemas.show(delivery), status=202)


def _enter(action: Action, ep_id: str, dlv_id: str) -> tuple[Caller, UUID, UUID]:
    """Enter for a delivery to one endpoint; raise `UnknownDelivery` where `dlv_id` is not a delivery id."""
    caller, endpoint_id = access.enter_one(action, ep_id)
    delivery_id = identifiers.parse_id(dlv_id, "dlv")
    if delivery_id is None:
        raise UnknownDelivery
    return caller, endpoint_id, delivery_id
