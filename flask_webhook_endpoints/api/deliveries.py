"""The views of deliveries, of an endpoint and of a tenant; the ping."""

from functools import partial
from typing import Any
from uuid import UUID

from flask import Response

from flask_webhook_endpoints import access, identifiers
from flask_webhook_endpoints.api import delivery_schemas, idempotency, openapi, requests, responses
from flask_webhook_endpoints.api.delivery_schemas import (
    DeliveryDetailsShown,
    DeliveryQuery,
    DeliveryShown,
    RecoveryInput,
    RecoveryShown,
    TenantDeliveryQuery,
)
from flask_webhook_endpoints.api.event_type_schemas import PingInput
from flask_webhook_endpoints.api.openapi import Route
from flask_webhook_endpoints.core import deliveries, delivery_lists, redelivery
from flask_webhook_endpoints.core.deliveries import Delivery
from flask_webhook_endpoints.core.delivery_lists import Filter, Page
from flask_webhook_endpoints.core.redelivery import Recovered, Selection
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import (
    DeliveryInFlight,
    EndpointPaused,
    EventWaiting,
    TooManyRedeliveries,
)

ROUTES: list[Route] = []

_deliveries = partial(openapi.route, ROUTES, tag="deliveries")

_TENANTS = "/v1/endpoints/deliveries"
_ALL = "/v1/endpoints/<ep_id>/deliveries"
_ONE = f"{_ALL}/<dlv_id>"

_tenant_query = TenantDeliveryQuery()


@_deliveries("GET", _TENANTS, query=TenantDeliveryQuery, answer=DeliveryShown, many=True)
def list_all_deliveries() -> Response:
    """List deliveries to all endpoints, newest first; the `Link` header names the next page.

    A page may have fewer deliveries than `limit`, or none, though more follow: follow `Link` until it is absent. Any
    other parameter is refused.
    """
    caller = access.enter("list_deliveries")
    limit, after, chosen = _filter(requests.read_filters(_tenant_query))
    page = caller.run(lambda scope: delivery_lists.page(scope, chosen, limit=limit, after=after), commit=False)
    return _page_answer(page)


@_deliveries("GET", _ALL, query=DeliveryQuery, answer=DeliveryShown, many=True)
def list_deliveries(ep_id: str) -> Response:
    """List deliveries to an endpoint, newest first; the `Link` header names the next page.

    A page may have fewer deliveries than `limit`, or none, though more follow: follow `Link` until it is absent. Any
    other parameter is refused.
    """
    caller, endpoint_id = access.enter_one("list_deliveries", ep_id)
    limit, after, chosen = _filter(requests.read_filters(caller.state.delivery_query), endpoint_id=endpoint_id)
    page = caller.run(
        lambda scope: delivery_lists.page_of(scope, endpoint_id, chosen, limit=limit, after=after), commit=False
    )
    return _page_answer(page)


@_deliveries("GET", _ONE, answer=DeliveryDetailsShown)
def read_delivery(ep_id: str, dlv_id: str) -> Response:
    """Read a delivery, with its body, its request, the result of each attempt, and the attempts to come."""
    caller, endpoint_id, delivery_id = access.enter_delivery("read_delivery", ep_id, dlv_id)
    sees_headers = caller.may("read_headers", ep_id)
    cipher, schedule = caller.state.cipher, caller.state.settings.retry_schedule
    found = caller.run(
        lambda scope: deliveries.get(scope, endpoint_id, delivery_id, cipher=cipher, schedule=schedule), commit=False
    )
    response = responses.json_answer(delivery_schemas.show_details(found, headers=sees_headers))
    if found.headers:
        # They may hold credentials.
        response.headers["Cache-Control"] = "no-store"
    return response


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
    caller, endpoint_id, delivery_id = access.enter_delivery("redeliver", ep_id, dlv_id)
    # No field is read yet. Only JSON makes browsers ask the host before they send it for another site.
    body = requests.read_body(optional=True)
    most = caller.state.settings.max_redeliveries_per_minute
    return idempotency.run_once(
        caller,
        body,
        lambda scope: redelivery.redeliver(scope, endpoint_id, delivery_id, most_per_minute=most),
        _accepted,
    )


@_deliveries(
    "POST",
    "/v1/endpoints/<ep_id>/recover",
    body=RecoveryInput,
    status=202,
    dry_status=200,
    answer=RecoveryShown,
    problems=(EndpointPaused, TooManyRedeliveries),
)
def recover(ep_id: str) -> Response:
    """Send again what failed or expired since a time, as if each were redelivered; the oldest 10,000 at most.

    While `more` is true, ask again. A delivery that a request has made due is not found by the next one, so that a
    request that broke off may be repeated. Counts as one redelivery of a minute. With `dry_run` the answer is 200, with
    the number of deliveries.
    """
    caller, endpoint_id = access.enter_one("recover", ep_id)
    body = requests.read_body()
    given = dict(requests.load_body(caller.state.recovery_input, body))
    is_dry, selection = given.pop("dry_run"), Selection(**given)
    most = caller.state.settings.max_redeliveries_per_minute

    def operate(scope: TenantScope) -> Recovered:
        if is_dry:
            return redelivery.count_recoverable(scope, endpoint_id, selection)
        return redelivery.recover(scope, endpoint_id, selection, most_per_minute=most)

    return idempotency.run_once(caller, body, operate, partial(_recovered, is_dry=is_dry))


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


def _recovered(recovered: Recovered, *, is_dry: bool) -> Response:
    if is_dry:
        return responses.json_answer({"count": recovered.count})
    return responses.json_answer({"count": recovered.count, "more": recovered.more}, status=202)


def _filter(query: dict[str, Any], **chosen: Any) -> tuple[int, UUID | None, Filter]:
    """Return what the query of a list asks for: so many deliveries, after that one, of these."""
    return query.pop("limit"), query.pop("after", None), Filter(**query, **chosen)


def _page_answer(page: Page) -> Response:
    shown = [delivery_schemas.show(delivery) for delivery in page.deliveries]
    return responses.cursor_answer(
        shown, after=None if page.cursor is None else identifiers.format_id(page.cursor, "dlv")
    )
