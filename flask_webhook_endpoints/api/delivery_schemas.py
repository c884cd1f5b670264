"""JSON of deliveries: the queries of their lists, what recovers them, and deliveries in answers."""

from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from flask_webhook_endpoints.api.endpoint_fields import Text
from flask_webhook_endpoints.api.endpoint_schemas import MAX_EVENT_TYPES, TIME, TIME_OR_NULL, about, text
from flask_webhook_endpoints.api.requests import Body, Cursor, Id, Limit, Moment
from flask_webhook_endpoints.core import deliveries
from flask_webhook_endpoints.core import headers as request_headers
from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.core.attempts import MAX_LOGGED
from flask_webhook_endpoints.core.deliveries import Attempt, Delivery, Details
from flask_webhook_endpoints.core.delivery_lists import DEFAULT_PAGE
from flask_webhook_endpoints.core.redelivery import MAX_RECOVERED, RECOVERABLE
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.identifiers import (
    EVENT_PATTERN,
    MAX_EVENT_TYPE_LENGTH,
    UUID_PATTERN,
    format_id,
    format_time,
    is_event_pattern,
)

DELIVERY_ID_PATTERN = f"^dlv_{UUID_PATTERN}$"


class EventPattern(Text):
    """An event type, or `prefix.*`."""

    json_schema = {"type": "string", "pattern": f"^{EVENT_PATTERN.pattern}$"}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.metadata = {"maxLength": MAX_EVENT_TYPE_LENGTH, **self.metadata}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if not is_event_pattern(text):
            raise ValidationError(
                f"Must be a name like invoice.paid or invoice.*, of {MAX_EVENT_TYPE_LENGTH} characters at most."
            )
        return text


class RecoverableStatus(fields.String):
    """A status of `RECOVERABLE`."""

    # No enum: in some languages two enums can't have the same value.
    json_schema = {"type": "string", "pattern": f"^(?:{'|'.join(RECOVERABLE)})$"}
    default_error_messages = {"rule": f"Must be one of: {', '.join(RECOVERABLE)}."}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if value not in RECOVERABLE:
            raise self.make_error("rule")
        return DeliveryStatus(value)


class Flag(fields.Boolean):
    """True or false, and nothing that looks like it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class _Period(Schema):
    """Two times between which events were published."""

    since = Moment(metadata={"description": "Only what was published at this time or later."})
    until = Moment(metadata={"description": "Only what was published before this time."})


class DeliveryQuery(_Period):
    """The query of `GET /v1/endpoints/{ep_id}/deliveries`."""

    limit = Limit(
        load_default=DEFAULT_PAGE,
        metadata={"description": "Deliveries that the page has at most."},
    )
    cursor = Cursor("dlv", attribute="after")
    status = fields.String(
        validate=validate.OneOf(deliveries.STATUSES), metadata={"description": "Only deliveries of this status."}
    )
    event_type = EventPattern(metadata={"description": "Only of this event type, or of those below `prefix.*`."})
    event_id = Id("evt", metadata={"description": "Only of this event."})


class TenantDeliveryQuery(DeliveryQuery):
    """The query of `GET /v1/endpoints/deliveries`."""

    endpoint_id = Id("ep", metadata={"description": "Only to this endpoint. None, if there is no such endpoint."})


class RecoveryInput(Body, _Period):
    """The body of `POST /v1/endpoints/{ep_id}/recover`."""

    since = Moment(required=True, metadata={"description": "Only what was published at this time or later."})
    until = Moment(metadata={"description": "Only what was published before this time. Without it, up to now."})
    statuses = fields.List(
        RecoverableStatus(),
        validate=validate.Length(min=1, max=len(RECOVERABLE)),
        load_default=lambda: RECOVERABLE,
        metadata={"description": "The statuses that the deliveries have. Without it, both."},
    )
    event_types = fields.List(
        EventPattern(),
        validate=validate.Length(min=1, max=MAX_EVENT_TYPES),
        load_default=tuple,
        metadata={"description": "Event types: exact names, or `prefix.*`. Without it, all."},
    )
    dry_run = Flag(
        load_default=lambda: False,
        metadata={"description": "Only count."},
    )


class RecoveryShown(Schema):
    """The answer to a recovery."""

    count = fields.Integer(required=True, metadata={"description": "Deliveries that are sent again, or would be."})
    more = fields.Boolean(
        metadata={
            "description": f"True if there are more than {MAX_RECOVERED:,}: ask again. Absent in a dry run, which "
            "counts all."
        },
    )


def _id(prefix: str, description: str) -> fields.Raw:
    return text({"type": "string", "pattern": f"^{prefix}_{UUID_PATTERN}$"}, description)


class DeliveryShown(Schema):
    """A delivery in an answer: the fields of `Delivery`, in its order. `show` writes them without this schema."""

    id = _id("dlv", "The delivery's id.")
    event_id = _id("evt", "The `webhook-id` that every attempt carries.")
    event_type = fields.String(**about("The type of the event that is delivered."))
    status = fields.String(
        validate=validate.OneOf(deliveries.STATUSES),
        **about(
            "`PENDING`: waits for an attempt or its result. `DELIVERED`: the receiver answered 2xx. "
            "`FAILED`: every attempt failed. `CANCELLED`: the endpoint or event was deleted. "
            "`EXPIRED`: held for too long. `HELD`: waits, because the endpoint is paused."
        ),
    )
    attempts = fields.Integer(**about("Attempts begun."))
    next_attempt_at = text(
        TIME_OR_NULL,
        "When the next attempt is due; null while one is in flight, while the delivery is held, and once it is "
        "finished.",
    )
    created_at = text(TIME, "When the event was published.")
    finished_at = text(TIME_OR_NULL, "When the delivery was finished. Null before.")
    last_attempt_at = text(TIME_OR_NULL, "When the last attempt began whose result is recorded.")
    last_response_status = fields.Integer(allow_none=True, **about("Of that attempt; null where no response came."))
    last_error = fields.String(allow_none=True, **about("Of that attempt, as `error` in `attempt_log`."))
    endpoint_id = _id("ep", "The endpoint that receives the delivery.")


class AttemptShown(Schema):
    """An attempt in an answer: the fields of `Attempt`, in its order."""

    number = fields.Integer(**about("Counted from 1, redeliveries included."))
    started_at = text(TIME, "When the attempt began.")
    duration_ms = fields.Integer(**about("Milliseconds from the beginning of the attempt to its result."))
    response_status = fields.Integer(allow_none=True, **about("Null where no response came."))
    error = fields.String(
        allow_none=True,
        **about(
            "Why no complete response came; null if one did. Codes may be added. "
            + " ".join(f"`{error}`: {error.meaning}" for error in SendError)
        ),
    )
    response_excerpt = text(
        {"type": ["string", "null"]}, "The first KiB of the response's body, U+FFFD for what is not UTF-8."
    )
    url = text(
        {"type": ["string", "null"]},
        "The URL that it was sent to, where that is not the endpoint's present one. Null, too, for a first attempt "
        "that succeeded.",
    )
    response_headers = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        allow_none=True,
        metadata={
            "description": "`content-type`, `location`, `retry-after` and `server` of a response that is no success, "
            "each if it has 1024 characters at most. Null for none."
        },
    )


class RequestShown(Schema):
    """The request of a delivery in an answer."""

    method = fields.String(**about("Always `POST`."))
    url = fields.String(**about("The endpoint's present URL."))
    headers = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={
            "description": "The endpoint's present headers, and ours: `webhook-timestamp` as the last recorded attempt "
            f"sent it, absent before one; `{request_headers.HIDDEN}` for the signature, and for the values of the "
            "endpoint's headers if the user may not read them. The endpoint's headers are absent if the key that "
            "encrypted them is lost."
        },
    )


class DeliveryDetailsShown(DeliveryShown):
    """A delivery in an answer about it alone."""

    body = fields.String(**about("The JSON document that is signed and sent."))
    attempt_log = fields.List(
        fields.Nested(AttemptShown(unknown=EXCLUDE)),
        **about(f"The last {MAX_LOGGED} attempts whose result is recorded, oldest first."),
    )
    request = fields.Nested(RequestShown(unknown=EXCLUDE), **about("The request that each attempt sends."))
    planned_attempts = fields.List(
        fields.String(metadata=TIME),
        **about(
            "When the attempts are due that are still to come, if each of them fails: the next one, and the others by "
            "the retry schedule, whose waits vary at random. Empty once the delivery is finished, and while it is held."
        ),
    )


def show(delivery: Delivery) -> dict[str, Any]:
    """Return a delivery as JSON shows it in lists."""
    return {
        **delivery._asdict(),
        "id": format_id(delivery.id, "dlv"),
        "event_id": format_id(delivery.event_id, "evt"),
        "next_attempt_at": format_time(delivery.next_attempt_at),
        "created_at": format_time(delivery.created_at),
        "finished_at": format_time(delivery.finished_at),
        "last_attempt_at": format_time(delivery.last_attempt_at),
        "endpoint_id": format_id(delivery.endpoint_id),
    }


def show_details(details: Details, *, headers: bool) -> dict[str, Any]:
    """Return a delivery as JSON shows it alone; hide the values of the endpoint's headers unless `headers`."""
    sent = deliveries.shown_headers(details, in_clear=headers)
    return {
        **show(details.delivery),
        "body": details.body.decode(),
        "attempt_log": [_show_attempt(attempt) for attempt in details.attempts],
        "request": {"method": "POST", "url": details.url.reveal(), "headers": dict(sent.items())},
        "planned_attempts": [format_time(moment) for moment in details.planned],
    }


def _show_attempt(attempt: Attempt) -> dict[str, Any]:
    excerpt, url = attempt.response_excerpt, attempt.url
    return {
        **attempt._asdict(),
        "started_at": format_time(attempt.started_at),
        "response_excerpt": None if excerpt is None else excerpt.decode(errors="replace"),
        "url": None if url is None else url.reveal(),
    }
