"""The HTTP face of deliveries: `/v1/endpoints/{ep_id}/deliveries` and the ping."""

from uuid import UUID

from flask import Response

from flask_webhook_endpoints import access, identifiers
from flask_webhook_endpoints.api import delivery_schemas, requests, responses
from flask_webhook_endpoints.api.openapi import Route
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.errors import DeliveryInFlight, EndpointPaused, UnknownDelivery
from flask_webhook_endpoints.state import Action, State

_delivery_query = delivery_schemas.DeliveryQuery()


def list_deliveries(ep_id: str) -> Response:
    """List deliveries to an endpoint, newest first; the `Link` header names the next page."""
    (state, tenant_id), endpoint_id = access.enter_one("list_deliveries", ep_id)
    query = requests.read_query(_delivery_query)
    limit = query.pop("limit")
    page = transactions.read(
        state.host.session(),
        lambda session: state.delivery_log.page(session, tenant_id, endpoint_id, limit=limit + 1, **query),
    )
    return responses.page_answer([delivery_schemas.show(delivery) for delivery in page], limit=limit)


def read_delivery(ep_id: str, dlv_id: str) -> Response:
    """Read a delivery, with its body and what came of each attempt."""
    state, tenant_id, endpoint_id, delivery_id = _enter("read_delivery", ep_id, dlv_id)
    delivery, body, attempts = transactions.read(
        state.host.session(), lambda session: state.delivery_log.get(session, tenant_id, endpoint_id, delivery_id)
    )
    return responses.json_answer(delivery_schemas.show_details(delivery, body, attempts))


def redeliver(ep_id: str, dlv_id: str) -> Response:
    """Send a delivery again, whatever came of it: at once, and with the whole retry schedule.

    The `webhook-id` stays, the timestamp and the signature are new. One that waits for its next attempt gets it now.
    """
    state, tenant_id, endpoint_id, delivery_id = _enter("redeliver", ep_id, dlv_id)
    delivery = transactions.write(
        state.host.session(),
        lambda session: state.delivery_log.redeliver(session, tenant_id, endpoint_id, delivery_id, now=state.now()),
    )
    return responses.json_answer(delivery_schemas.show(delivery), status=202)


def ping(ep_id: str) -> Response:
    """Send a `webhook.ping` event to an endpoint, and to no other, whatever its `event_types`."""
    (state, tenant_id), endpoint_id = access.enter_one("ping", ep_id)
    delivery = transactions.write(
        state.host.session(),
        lambda session: state.delivery_log.ping(session, tenant_id, endpoint_id, now=state.now()),
    )
    return responses.json_answer(delivery_schemas.show(delivery), status=202)


ROUTES = (
    Route(
        method="GET",
        path="/v1/endpoints/<ep_id>/deliveries",
        view=list_deliveries,
        tag="deliveries",
        query=delivery_schemas.DeliveryQuery,
        answer=delivery_schemas.DeliveryShown,
        many=True,
    ),
    Route(
        method="GET",
        path="/v1/endpoints/<ep_id>/deliveries/<dlv_id>",
        view=read_delivery,
        tag="deliveries",
        answer=delivery_schemas.DeliveryDetailsShown,
    ),
    Route(
        method="POST",
        path="/v1/endpoints/<ep_id>/deliveries/<dlv_id>/redeliver",
        view=redeliver,
        tag="deliveries",
        status=202,
        answer=delivery_schemas.DeliveryShown,
        problems=(EndpointPaused, DeliveryInFlight),
    ),
    Route(
        method="POST",
        path="/v1/endpoints/<ep_id>/ping",
        view=ping,
        tag="deliveries",
        status=202,
        answer=delivery_schemas.DeliveryShown,
        problems=(EndpointPaused,),
    ),
)


def _enter(action: Action, ep_id: str, dlv_id: str) -> tuple[State, str, UUID, UUID]:
    """Enter for one endpoint; raise `UnknownDelivery` for what is no id of a delivery."""
    (state, tenant_id), endpoint_id = access.enter_one(action, ep_id)
    delivery_id = identifiers.parse_id(dlv_id, "dlv")
    if delivery_id is None:
        raise UnknownDelivery
    return state, tenant_id, endpoint_id, delivery_id
