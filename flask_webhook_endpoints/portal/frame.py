"""The frame of an endpoint's pages: its heading, its tabs, and which of its buttons the person may use."""

from types import SimpleNamespace
from typing import Any

from flask import Response

from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.portal import pages
from flask_webhook_endpoints.state import Action

_OFFERED: tuple[Action, ...] = (
    "read",
    "update",
    "delete",
    "list_deliveries",
    "read_delivery",
    "read_secret",
    "rotate_secret",
    "ping",
    "redeliver",
    "recover",
    "read_stats",
)


def render(template: str, caller: Caller, endpoint: Endpoint, **values: Any) -> Response:
    """Answer with a page of an endpoint; its template extends `endpoint_frame.html`."""
    # No dict, because `may.update` would be its method in a template.
    may = SimpleNamespace(**{action: pages.shows(caller, action, endpoint.id) for action in _OFFERED})
    return pages.render(template, endpoint=endpoint, may=may, **values)
