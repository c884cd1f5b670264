"""What the OpenAPI document says in words and shows by example.

Source: RFC 9457 (problem documents). The examples of endpoints are the product specification's.
"""

from typing import Any

from marshmallow import Schema

from flask_webhook_endpoints.api import delivery_schemas, endpoint_schemas
from flask_webhook_endpoints.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    DeliveryInFlight,
    EndpointPaused,
    IdempotencyKeyReused,
    InvalidFields,
    InvalidRequest,
    NotAuthorized,
    NoTenant,
    Problem,
    QuotaExceeded,
    StaleEndpoint,
    UnknownDelivery,
    UnknownEndpoint,
    UnreadableSecret,
    UnsupportedMediaType,
)

DESCRIPTION = """\
The URLs that receive webhooks, managed by the tenant that whoever asks belongs to.

How to log in is up to the application that serves this API; without a login the answer is 401.

Everything that goes wrong is answered with a problem document (RFC 9457). HEAD works wherever GET does; OPTIONS
answers 204 with `Allow`, any other method 405 with `Allow`."""

TAGS = {
    "endpoints": "URLs that receive deliveries: registered, changed, paused, deleted.",
    "deliveries": "Events on their way to an endpoint, and what came of each attempt.",
    "secrets": "What an endpoint's deliveries are signed with.",
    "description": "This API as a document.",
}

IDS = {
    "ep_id": {
        "description": "The endpoint's id.",
        "schema": {"type": "string", "pattern": endpoint_schemas.ID_PATTERN},
        "example": "ep_550e8400-e29b-41d4-a716-446655440000",
    },
    "dlv_id": {
        "description": "The delivery's id.",
        "schema": {"type": "string", "pattern": delivery_schemas.DELIVERY_ID_PATTERN},
        "example": "dlv_0190b2a4-7c1e-7d3f-8a5b-2f6c9e1d4b70",
    },
}

REQUEST_HEADERS: dict[str, dict[str, Any]] = {
    "If-Match": {
        "description": "Do it only if the endpoint is still at one of these ETags, else answer 412 (RFC 9110).",
        "schema": {"type": "string"},
    },
    "If-None-Match": {
        "description": "Answer 304 without a body if the endpoint is still at one of these ETags (RFC 9110).",
        "schema": {"type": "string"},
    },
    "Idempotency-Key": {
        "description": "Any text that is this request's own. The same key with the same body, within a day, is answered"
        " as the first time and makes nothing new.",
        "schema": {"type": "string", "pattern": "^[!-~](?:[ -~]{0,253}[!-~])?$"},
    },
}

ANSWER_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {
        "description": "The endpoint's version, for If-Match and If-None-Match.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[0-9]+"$'},
    },
    "Location": {
        "description": "Where the endpoint can be read.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Link": {
        "description": 'The next page, as `<…>; rel="next"` (RFC 8288); absent on the last.',
        "schema": {"type": "string"},
    },
    "Cache-Control": {
        "description": "Who may keep the answer (RFC 9111).",
        "required": True,
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "A challenge (RFC 9110).", "required": True, "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 0}},
}

PROBLEM = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
    },
    "required": ["detail", "status", "title", "type"],
}

_MESSAGES = {"type": "array", "items": {"type": "string"}}
FIELD_PROBLEM = {
    "description": "Which fields broke which rules.",
    "allOf": [{"$ref": "#/components/schemas/Problem"}],
    "type": "object",
    "properties": {
        "errors": {
            "type": "object",
            "description": "From each field to its messages, or for a list from each position to its messages; "
            "`_schema` stands for the body as a whole.",
            "additionalProperties": {"anyOf": [_MESSAGES, {"type": "object", "additionalProperties": _MESSAGES}]},
        }
    },
    "required": ["errors"],
}

# In the order of their status.
PROBLEMS: tuple[Problem, ...] = (
    InvalidRequest("The body is not JSON (RFC 8259) in UTF-8, or too deeply nested."),
    NoTenant(),
    NotAuthorized(),
    UnknownEndpoint(),
    UnknownDelivery(),
    QuotaExceeded(1000),
    UnreadableSecret(),
    EndpointPaused(),
    DeliveryInFlight(),
    StaleEndpoint(),
    BodyTooLarge(endpoint_schemas.MAX_BODY_BYTES),
    UnsupportedMediaType(),
    InvalidFields({"url": ["Must be an absolute URL that starts with http:// or https://."]}),
    IdempotencyKeyReused(),
    DatabaseUnavailable(),
)

_ENDPOINT = {
    "id": "ep_550e8400-e29b-41d4-a716-446655440000",
    "name": "my-webhook",
    "url": "https://example.com/webhook",
    "headers_json": {},
    "timeout_seconds": 10,
    "event_types": None,
    "status": "ACTIVE",
    "paused_at": None,
    "created_at": "2024-01-01T00:00:00Z",
    "updated_at": "2024-01-01T00:00:00Z",
}

_DELIVERY = {
    "id": "dlv_0190b2a4-7c1e-7d3f-8a5b-2f6c9e1d4b70",
    "event_id": "evt_0190b2a4-7c1e-7b52-9c0d-6a1f3e5d7b92",
    "event_type": "invoice.paid",
    "status": "PENDING",
    "attempts": 1,
    "next_attempt_at": "2024-01-01T00:05:00Z",
    "created_at": "2024-01-01T00:00:00Z",
    "finished_at": None,
}

EXAMPLES: dict[type[Schema], dict[str, Any]] = {
    endpoint_schemas.NewEndpoint: {
        "Everything": {
            "name": "my-webhook",
            "url": "https://example.com/webhook",
            "secret": "whsec_your_signing_secret",
            "headers_json": {},
            "timeout_seconds": 10,
        },
        "The least": {"name": "my-webhook", "url": "https://example.com/webhook"},
        "Some events": {
            "name": "invoices",
            "url": "https://example.com/webhook",
            "headers_json": {"X-Team": "billing"},
            "event_types": ["invoice.*", "customer.created"],
        },
    },
    endpoint_schemas.EndpointChanges: {
        "Rename and pause": {"name": "updated-name", "status": "PAUSED"},
        "Resume": {"status": "ACTIVE"},
    },
    endpoint_schemas.NewSecret: {
        "Generate one": {},
        "My own, at once": {"secret": "whsec_your_signing_secret", "overlap_seconds": 0},
    },
    endpoint_schemas.EndpointShown: {"An endpoint": _ENDPOINT},
    endpoint_schemas.SecretShown: {
        "A secret": {
            "secret": "whsec_your_signing_secret",
            "created_at": "2024-01-01T12:00:00Z",
            "previous_expires_at": "2024-01-02T12:00:00Z",
        }
    },
    delivery_schemas.DeliveryShown: {"A delivery": _DELIVERY},
    delivery_schemas.DeliveryDetailsShown: {
        "A delivery": {
            **_DELIVERY,
            "body": '{"type":"invoice.paid","timestamp":"2024-01-01T00:00:00Z","data":{"id":7}}',
            "attempt_log": [
                {
                    "number": 1,
                    "started_at": "2024-01-01T00:00:00Z",
                    "duration_ms": 87,
                    "response_status": 500,
                    "error": None,
                    "response_excerpt": "Internal Server Error",
                }
            ],
        }
    },
}
