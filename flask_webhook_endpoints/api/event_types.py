"""The view of the events that the host has declared.

Source: RFC 9110 section 13 (conditional requests).
"""

import hashlib
from functools import partial

from flask import Response

from flask_webhook_endpoints import access
from flask_webhook_endpoints.api import event_type_schemas, openapi, responses
from flask_webhook_endpoints.api.event_type_schemas import EventTypeShown
from flask_webhook_endpoints.api.openapi import Route

ROUTES: list[Route] = []

_events = partial(openapi.route, ROUTES, tag="events")


@_events("GET", "/v1/endpoints/event-types", headers=("If-None-Match",), answer=EventTypeShown, many=True)
def list_event_types() -> Response:
    """List the events that an endpoint may choose, by name; empty if the application has declared none."""
    declared = access.enter("list_event_types").state.host.declared
    response = responses.json_answer([event_type_schemas.show(event) for event in declared])
    tag = _tag(response.get_data())
    response.set_etag(tag)
    return responses.unless_known(response, tag)


def _tag(shown: bytes) -> str:
    """Return a number that stands for an answer, of nine digits at most, as the ETags of endpoints are."""
    return str(1 + int.from_bytes(hashlib.sha256(shown).digest()[:8]) % 999_999_999)
