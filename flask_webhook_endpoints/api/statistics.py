"""The view of an endpoint's statistics."""

from flask import Response

from flask_webhook_endpoints import access
from flask_webhook_endpoints.api import openapi, requests, responses, statistics_schemas
from flask_webhook_endpoints.api.openapi import Route
from flask_webhook_endpoints.api.statistics_schemas import StatisticsQuery, StatisticsShown
from flask_webhook_endpoints.core import endpoint_statistics
from flask_webhook_endpoints.core.endpoint_statistics import Window

ROUTES: list[Route] = []

_query = StatisticsQuery()


@openapi.route(
    ROUTES, "GET", "/v1/endpoints/<ep_id>/stats", tag="deliveries", query=StatisticsQuery, answer=StatisticsShown
)
def read_stats(ep_id: str) -> Response:
    """Read how many deliveries succeeded and failed, how quickly the receiver answered, and what waits."""
    caller, endpoint_id = access.enter_one("read_stats", ep_id)
    window = Window(requests.read_query(_query).get("window", Window.DAY))
    found = caller.run(lambda scope: endpoint_statistics.of_endpoint(scope, endpoint_id, window=window), commit=False)
    return responses.json_answer(statistics_schemas.show(found))
