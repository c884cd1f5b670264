"""The prose and the examples of the OpenAPI document.

Source: RFC 9457 (problem documents). The examples of endpoints are the product specification's.
"""

from typing import Any

from marshmallow import Schema

from flask_webhook_endpoints import errors
from flask_webhook_endpoints.api import delivery_schemas, endpoint_schemas, requests
from flask_webhook_endpoints.errors import Problem
from flask_webhook_endpoints.identifiers import IDEMPOTENCY_KEY

DESCRIPTION = """\
The URLs that receive webhooks. Each tenant manages its own.

The application that serves this API decides how to log in. Without a login the answer is 401.

Every error is answered with a problem document (RFC 9457). HEAD works wherever GET does. OPTIONS answers 204 with
`Allow`, any other method 405 with `Allow`."""

TAGS = {
    "endpoints": "URLs that receive deliveries: create, change, pause and delete them.",
    "deliveries": "Events on their way to an endpoint, and the result of each attempt.",
    "secrets": "The keys that sign an endpoint's deliveries.",
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

# A list may be empty, and so may its elements (RFC 9110 section 5.6.1).
_TAG = r'[ \t]*(?:(?:W/)?"[!#-~\u0080-\u00ff]*"[ \t]*)?'
_TAGS = rf"^(?:\*|{_TAG}(?:,{_TAG})*)$"

REQUEST_HEADERS: dict[str, dict[str, Any]] = {
    "If-Match": {
        "description": "Answer 412 unless the endpoint has one of these ETags, or any for `*` (RFC 9110). A tag that a "
        'proxy made weak or marked with a coding, such as `W/"1"` or `"1-gzip"`, stands for `"1"`.',
        "schema": {"type": "string", "pattern": _TAGS},
    },
    "If-None-Match": {
        "description": "If the endpoint has one of these ETags, or any for `*`, answer GET 304 without a body, and "
        "PATCH and DELETE 412 (RFC 9110).",
        "schema": {"type": "string", "pattern": _TAGS},
    },
    "Idempotency-Key": {
        "description": "A text that only this request uses. If the same key comes with the same body within a day, the"
        " answer is the first one again, and nothing new is created.",
        "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
    },
}


def _always(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": "string", **schema}}


ANSWER_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": _always("The endpoint's version, for If-Match and If-None-Match.", pattern='^"[0-9]+"$'),
    "Location": _always("The URL of the endpoint.", format="uri-reference"),
    "Link": {
        "description": 'The next page, as `<…>; rel="next"` (RFC 8288). Absent on the last page.',
        "schema": {"type": "string"},
    },
    "Cache-Control": _always("Which caches may store the answer (RFC 9111)."),
    "Accept-Encoding": {"description": "The codings that a body may have.", "schema": {"type": "string"}},
    "WWW-Authenticate": _always("A challenge (RFC 9110)."),
    "Retry-After": _always("Seconds to wait.", type="integer", minimum=0),
}

_CODES = sorted(each.code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Problem))

PROBLEM = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "code": {
            "type": "string",
            "enum": [code for code in _CODES if code != Problem.code],
            "description": "A name of the problem for programs. Later versions may add names.",
        },
    },
    "required": ["code", "detail", "status", "title", "type"],
}

_MESSAGES = {"type": "array", "items": {"type": "string"}}
FIELD_PROBLEM = {
    "description": "The fields that broke a rule.",
    "allOf": [{"$ref": "#/components/schemas/Problem"}],
    "type": "object",
    "properties": {
        "errors": {
            "type": "object",
            "description": "The messages of each field, or for a list the messages of each position. "
            "`_schema` has the messages about the body as a whole.",
            "additionalProperties": {"anyOf": [_MESSAGES, {"type": "object", "additionalProperties": _MESSAGES}]},
        }
    },
    "required": ["errors"],
}

# In the order of their status.
PROBLEMS: tuple[Problem, ...] = (
    errors.InvalidRequest("The body is not JSON (RFC 8259) in UTF-8, or too deeply nested."),
    errors.NoTenant(),
    errors.NotAuthorized(),
    errors.CrossSiteRequest(),
    errors.WebhookLoop(),
    errors.UnknownEndpoint(),
    errors.UnknownDelivery(),
    errors.QuotaExceeded(100),
    errors.UnreadableSecret(),
    errors.EndpointPaused(),
    errors.DeliveryInFlight(),
    errors.EventWaiting(),
    errors.Referenced(),
    errors.LengthRequired(),
    errors.StaleEndpoint(),
    errors.BodyTooLarge(requests.MAX_BODY_BYTES),
    errors.UnsupportedMediaType(),
    errors.UnsupportedCoding(),
    errors.InvalidFields({"url": ["Must be an absolute URL that starts with http:// or https://."]}),
    errors.IdempotencyKeyReused(),
    errors.TooManyRedeliveries(60, seconds=17),
    errors.DatabaseUnavailable(),
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
            "format": "raw",
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
