"""The frame of an endpoint's pages: its heading, its tabs, and which of its buttons the person may use."""

from typing import Any, get_args

from flask import Response

from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.portal import pages
from flask_webhook_endpoints.state import Action

_ACTIONS = frozenset(get_args(Action))


def render(template: str, caller: Caller, endpoint: Endpoint, **values: Any) -> Response:
    """Answer with a page of an endpoint; its template extends `endpoint_frame.html`."""
    return pages.render(template, endpoint=endpoint, may=_May(caller, endpoint), **values)


class _May:
    """The actions that a page may offer, as attributes. The host is asked once for each that the template looks at."""

    def __init__(self, caller: Caller, endpoint: Endpoint) -> None:
        self._caller = caller
        self._ep_id = endpoint.id

    def __getattr__(self, action: Any) -> bool:
        if action not in _ACTIONS:
            raise AttributeError(f"No such action: {action}")
        answer = self.__dict__[action] = pages.shows(self._caller, action, self._ep_id)
        return answer
