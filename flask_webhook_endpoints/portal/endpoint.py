"""The page of one endpoint."""

from flask import Response

from flask_webhook_endpoints import access
from flask_webhook_endpoints.core import endpoints
from flask_webhook_endpoints.portal import frame
from flask_webhook_endpoints.portal.pages import Page, page

PAGES: list[Page] = []


@page(PAGES, "GET", "/<ep_id>")
def show_endpoint(ep_id: str) -> Response:
    """Show an endpoint: its state, what waits for it, and its results."""
    caller, endpoint_id = access.enter_one("read", ep_id)
    cipher = caller.state.cipher
    endpoint = caller.run(lambda scope: endpoints.get(scope, endpoint_id, cipher=cipher), commit=False)
    return frame.render("endpoint", caller, endpoint)
