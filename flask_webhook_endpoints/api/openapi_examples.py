"""The prose and the examples of the OpenAPI document.

Source: RFC 9457 (problem documents). The examples of endpoints are the product specification's.
"""

from typing import Any

from marshmallow import Schema

from flask_webhook_endpoints import errors
from flask_webhook_endpoints.api import (
    delivery_schemas,
    endpoint_schemas,
    event_type_schemas,
    requests,
    statistics_schemas,
)
from flask_webhook_endpoints.core.endpoint_row import ID_PATTERN
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
    "events": "The events that an endpoint may choose, as the application has declared them.",
    "secrets": "The keys that sign an endpoint's deliveries.",
    "description": "This API as a document.",
    "webhooks": "What a receiver gets.",
}

IDS = {
    "ep_id": {
        "description": "The endpoint's id.",
        "schema": {"type": "string", "pattern": ID_PATTERN},
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
        "description": "If what the path names has one of these ETags, or any for `*`, answer GET 304 without a body, "
        "and PATCH and DELETE 412 (RFC 9110).",
        "schema": {"type": "string", "pattern": _TAGS},
    },
    "Idempotency-Key": {
        "description": "A text that only this request uses. If the same key comes with the same path and body within a"
        " day, the answer is the first one again, with `Idempotent-Replayed`, and nothing is done twice. A request that"
        " was refused or failed does not use its key.",
        "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
    },
}


def _always(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": "string", **schema}}


ANSWER_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": _always("The version of what is shown, for If-Match and If-None-Match.", pattern='^"[0-9a-f~]+"$'),
    "Location": _always("The URL of the endpoint.", format="uri-reference"),
    "Link": {
        "description": 'The absolute URL of the next page, as `<…>; rel="next"` (RFC 8288). Absent on the last page.',
        "schema": {"type": "string"},
    },
    "Cache-Control": _always("Which caches may store the answer (RFC 9111)."),
    "Idempotent-Replayed": {
        "description": "Present if this is the first answer again, because the `Idempotency-Key` came again.",
        "schema": {"type": "string", "const": "true"},
    },
    "Accept-Encoding": {"description": "The codings that a body may have.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "A challenge (RFC 9110).", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
}

PROBLEM = {
    "type": "object",
    "description": "An error (RFC 9457). The application around this API may answer errors of its own, in which any "
    "member may be absent.",
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "The kind of problem; `about:blank` if the status says it.",
        },
        "title": {"type": "string", "description": "The name of the status."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599, "description": "The status of the answer."},
        "detail": {"type": "string", "description": "A sentence for people."},
        "code": {"$ref": "#/components/schemas/ProblemCode"},
        "errors": {
            "type": "object",
            "description": "With the code `invalid_fields`, the messages of each field: a list of texts, or for a "
            "list of values an object of such lists by position. `_schema` has those about the body as a whole.",
            "additionalProperties": True,
        },
    },
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
    errors.TooManyIdempotencyKeys(10_000, seconds=3600),
    errors.DatabaseUnavailable(),
)

_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the one of Standard Webhooks' own examples

_ENDPOINT: dict[str, Any] = {
    **dict.fromkeys(endpoint_schemas.EndpointShown().fields),
    "id": "ep_550e8400-e29b-41d4-a716-446655440000",
    "name": "my-webhook",
    "url": "https://example.com/webhook",
    "headers_json": {},
    "timeout_seconds": 10,
    "status": "ACTIVE",
    "created_at": "2024-01-01T00:00:00Z",
    "updated_at": "2024-01-01T00:00:00Z",
    "metadata": {},
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
    "last_attempt_at": "2024-01-01T00:00:00Z",
    "last_response_status": 500,
    "last_error": None,
    "endpoint_id": "ep_550e8400-e29b-41d4-a716-446655440000",
}

EXAMPLES: dict[type[Schema], dict[str, Any]] = {
    endpoint_schemas.EndpointInput: {
        "The least": {"name": "my-webhook", "url": "https://example.com/webhook"},
        "My own key": {
            "name": "my-webhook",
            "url": "https://example.com/webhook",
            "secret": _KEY,
            "headers_json": {"X-Team": "billing"},
            "timeout_seconds": 10,
        },
        "Some events": {
            "name": "invoices",
            "url": "https://example.com/webhook",
            "headers_json": {"X-Team": "billing"},
            "event_types": ["invoice.*", "customer.created"],
            "description": "Books what was paid.",
            "metadata": {"customer": "cus_7"},
        },
        "A secret of any characters": {
            "name": "my-webhook",
            "url": "https://example.com/webhook",
            "secret": "whsec_your_signing_secret",
            "headers_json": {},
            "timeout_seconds": 10,
        },
    },
    endpoint_schemas.EndpointChanges: {
        "Rename and pause": {"name": "updated-name", "status": "PAUSED"},
        "Resume": {"status": "ACTIVE"},
    },
    endpoint_schemas.SecretInput: {
        "Generate one": {},
        "My own, at once": {"secret": _KEY, "overlap_seconds": 0},
    },
    event_type_schemas.PingInput: {
        "Try the endpoint out": {},
        "An event": {"event_type": "invoice.paid", "data": {"id": 7}},
    },
    event_type_schemas.EventTypeShown: {
        "An event": {
            "name": "invoice.paid",
            "description": "A customer has paid an invoice.",
            "deprecated": False,
            "schema": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
            "example": {"id": 7},
        }
    },
    endpoint_schemas.EndpointShown: {"An endpoint": _ENDPOINT},
    endpoint_schemas.SecretShown: {
        "A secret": {
            "secret": _KEY,
            "format": "whsec",
            "created_at": "2024-01-01T12:00:00Z",
            "previous_expires_at": "2024-01-02T12:00:00Z",
        }
    },
    delivery_schemas.RecoveryInput: {
        "How many": {"since": "2024-01-01T00:00:00Z", "dry_run": True},
        "All of a day": {"since": "2024-01-01T00:00:00Z", "until": "2024-01-02T00:00:00Z"},
        "Some that failed": {"since": "2024-01-01T00:00:00Z", "statuses": ["FAILED"], "event_types": ["invoice.*"]},
    },
    delivery_schemas.RecoveryShown: {"All were found": {"count": 42, "more": False}},
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
                    "url": None,
                    "response_headers": {"content-type": "text/plain", "server": "nginx"},
                }
            ],
            "request": {
                "method": "POST",
                "url": "https://example.com/webhook",
                "headers": {
                    "content-type": "application/json",
                    "user-agent": "flask-webhook-endpoints/0.1.0",
                    "accept-encoding": "identity",
                    "webhook-id": "evt_0190b2a4-7c1e-7b52-9c0d-6a1f3e5d7b92",
                    "webhook-timestamp": "1704067200",
                    "webhook-signature": "***",
                },
            },
            "planned_attempts": ["2024-01-01T00:05:00Z", "2024-01-01T00:35:00Z"],
        }
    },
    statistics_schemas.StatisticsShown: {
        "A day": {
            "delivered": 97,
            "failed": 3,
            "attempts": 118,
            "success_ratio": 0.97,
            "latency_ms": {"p50": 76, "p95": 430},
            "pending": 2,
            "held": 0,
            "oldest_pending_at": "2024-01-01T22:58:03Z",
            "series": [
                {"starts_at": "2024-01-01T22:00:00Z", "delivered": 40, "failed": 3},
                {"starts_at": "2024-01-01T23:00:00Z", "delivered": 57, "failed": 0},
            ],
        }
    },
}
