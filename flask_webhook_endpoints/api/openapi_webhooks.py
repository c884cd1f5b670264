"""The `webhooks` of the OpenAPI document: the deliveries that a receiver gets.

Source: OpenAPI 3.1.1 section 4.8.1 (`webhooks`), Standard Webhooks 1.0.0 (headers and the body's shape).
"""

import re
from collections.abc import Mapping
from typing import Any

from flask_webhook_endpoints.core.deliveries import PING
from flask_webhook_endpoints.identifiers import UUID_PATTERN

TAG = "webhooks"

_PING_DATA = {
    "type": "object",
    "properties": {"endpoint_id": {"type": "string", "description": "The endpoint that was pinged."}},
    "required": ["endpoint_id"],
}

_HEADERS: dict[str, dict[str, Any]] = {
    "webhook-id": {
        "description": "The event's id, the same in every attempt. A receiver that has seen it answers 2xx and does "
        "nothing else.",
        "schema": {"type": "string", "pattern": f"^evt_{UUID_PATTERN}$"},
    },
    "webhook-timestamp": {
        "description": "When this attempt was signed, in seconds since 1970. Refuse what is over five minutes off.",
        "schema": {"type": "integer", "format": "int64"},
    },
    "webhook-signature": {
        "description": "A signature for each secret in force, with spaces between them: `v1,` and the base64 of the "
        "HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}`. Accept the delivery if one of them is right.",
        "schema": {"type": "string"},
    },
}

_RESPONSES = {
    "2XX": {"description": "Received. Anything else is retried later."},
    "410": {"description": "The receiver wants no more: the endpoint is paused."},
    "429": {"description": "Too much at once: the endpoint rests for the seconds of `Retry-After`, an hour at most."},
}


def described() -> dict[str, Any]:
    """Return the members of the document that describe deliveries."""
    described = {PING: ("Tries out an endpoint", "The answer to a request for a ping.", _PING_DATA)}
    return {
        "webhooks": {name: {"post": _operation(name, *texts)} for name, (*texts, _) in described.items()},
        "components": {
            "schemas": {_component(name): _envelope(name, data) for name, (*_, data) in described.items()},
            "parameters": {
                name: {"in": "header", "name": name, "required": True, **header} for name, header in _HEADERS.items()
            },
        },
    }


def _operation(name: str, summary: str, description: str) -> dict[str, Any]:
    return {
        "operationId": f"receive_{re.sub(r'[.-]', '_', name)}",
        "summary": f"{summary}.",
        "description": description,
        "tags": [TAG],
        "security": [],
        "parameters": [{"$ref": f"#/components/parameters/{header}"} for header in _HEADERS],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_component(name)}"}}},
        },
        "responses": _RESPONSES,
    }


def _envelope(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": f"The body of a `{name}` delivery.",
        "properties": {
            "type": {"type": "string", "const": name, "description": "The event's type."},
            "timestamp": {"type": "string", "format": "date-time", "description": "When the event was published."},
            "data": data,
        },
        "required": ["type", "timestamp", "data"],
    }


def _component(name: str) -> str:
    """Return the name of an event's component: `InvoicePaidEvent` for `invoice.paid`."""
    words = re.split(r"[._-]+", name)
    return "".join(word[:1].upper() + word[1:] for word in words) + "Event"
