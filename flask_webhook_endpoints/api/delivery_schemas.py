"""JSON of deliveries: the query of their list, and deliveries in answers."""

from typing import Any, cast

from marshmallow import EXCLUDE, Schema, fields, validate

from flask_webhook_endpoints.api.endpoint_schemas import TIME_OR_NULL, shown_time
from flask_webhook_endpoints.api.requests import Cursor, Limit
from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.core.deliveries import Attempt, Delivery
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.identifiers import UUID_PATTERN, format_id

DELIVERY_ID_PATTERN = f"^dlv_{UUID_PATTERN}$"
DEFAULT_PAGE = 50
"""The number of deliveries on a page, unless the request names another."""

_STATUSES = [status.value for status in DeliveryStatus]


class DeliveryQuery(Schema):
    """The query of `GET /v1/endpoints/{ep_id}/deliveries`."""

    limit = Limit(
        load_default=DEFAULT_PAGE,
        metadata={"description": "Deliveries that the page has at most."},
    )
    cursor = Cursor("dlv", attribute="after")
    status = fields.String(
        validate=validate.OneOf(_STATUSES), metadata={"description": "Only deliveries of this status."}
    )


def _about(description: str) -> dict[str, Any]:
    return {"required": True, "metadata": {"description": description}}


def _id(name: str, prefix: str, **metadata: str) -> fields.Function:
    pattern = {"type": "string", "pattern": f"^{prefix}_{UUID_PATTERN}$"}
    return fields.Function(
        lambda shown: format_id(getattr(shown, name), prefix), required=True, metadata={**pattern, **metadata}
    )


class DeliveryShown(Schema):
    """A delivery in an answer."""

    id = _id("id", "dlv")
    event_id = _id("event_id", "evt", description="The `webhook-id` that every attempt carries.")
    event_type = fields.String(required=True)
    status = fields.String(
        validate=validate.OneOf(_STATUSES),
        **_about(
            "`PENDING`: waits for an attempt or its result. `DELIVERED`: the receiver answered 2xx. "
            "`FAILED`: every attempt failed. `CANCELLED`: the endpoint or event was deleted. "
            "`EXPIRED`: held for too long."
        ),
    )
    attempts = fields.Integer(**_about("Attempts begun."))
    next_attempt_at = shown_time(
        "next_attempt_at",
        TIME_OR_NULL,
        description="When the next attempt is due, held while the endpoint is paused; null while one is under way and "
        "once the delivery is finished.",
    )
    created_at = shown_time("created_at")
    finished_at = shown_time("finished_at", TIME_OR_NULL)


class AttemptShown(Schema):
    """An attempt in an answer."""

    number = fields.Integer(**_about("Counted from 1, redeliveries included."))
    started_at = shown_time("started_at")
    duration_ms = fields.Integer(required=True)
    response_status = fields.Integer(allow_none=True, **_about("Null where no response came."))
    error = fields.String(
        allow_none=True,
        **_about(
            "Why no complete response came; null if one did. Codes may be added. "
            + " ".join(f"`{error}`: {error.meaning}" for error in SendError)
        ),
    )
    response_excerpt = fields.Function(
        lambda attempt: None if attempt.response_excerpt is None else attempt.response_excerpt.decode(errors="replace"),
        required=True,
        metadata={
            "type": ["string", "null"],
            "description": "The first KiB of the response's body, U+FFFD for what is not UTF-8.",
        },
    )


class DeliveryDetailsShown(DeliveryShown):
    """A delivery in an answer about it alone."""

    body = fields.String(**_about("The JSON document that is signed and sent."))
    attempt_log = fields.List(
        fields.Nested(AttemptShown(unknown=EXCLUDE)), **_about("Attempts whose result is recorded, oldest first.")
    )


_shown = DeliveryShown()
_attempts_shown = AttemptShown(many=True)


def show(delivery: Delivery) -> dict[str, Any]:
    """Return a delivery as JSON shows it in lists."""
    return cast(dict[str, Any], _shown.dump(delivery))


def show_details(delivery: Delivery, body: bytes, attempts: list[Attempt]) -> dict[str, Any]:
    """Return a delivery as JSON shows it alone."""
    return {**show(delivery), "body": body.decode(), "attempt_log": _attempts_shown.dump(attempts)}
