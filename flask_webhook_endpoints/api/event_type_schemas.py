"""The JSON of event types: declared ones in answers, and the one that a ping sends."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validates, validates_schema

from flask_webhook_endpoints.api.endpoint_fields import Text
from flask_webhook_endpoints.api.endpoint_schemas import about
from flask_webhook_endpoints.api.requests import Body
from flask_webhook_endpoints.core import events
from flask_webhook_endpoints.core.declarations import RESERVED, Declarations, DeclaredEvent
from flask_webhook_endpoints.errors import InvalidEvent
from flask_webhook_endpoints.identifiers import EVENT_NAME, MAX_EVENT_TYPE_LENGTH, is_event_type
from flask_webhook_endpoints.settings import Settings


class EventTypeShown(Schema):
    """A declared event in an answer: the fields of `DeclaredEvent`, in its order."""

    name = fields.String(**about("The type of the event, such as `invoice.paid`."))
    description = fields.String(**about("A sentence about the event. Null if there is none.", allow_none=True))
    deprecated = fields.Boolean(**about("True: it is still sent, but another event had better be chosen."))
    schema = fields.Dict(**about("The JSON Schema 2020-12 of the event's `data`.", allow_none=True))
    example = fields.Raw(**about("The `data` of an example. Null if there is none."))


_NAMES = [field.name for field in dataclasses.fields(DeclaredEvent)]


def show(event: DeclaredEvent) -> dict[str, Any]:
    """Return an event as `EventTypeShown` dumps it."""
    return {name: getattr(event, name) for name in _NAMES}


_SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""A time in place of that of an event that is only checked: all are equally long."""


class PingInput(Body):
    """The body of `POST /v1/endpoints/{ep_id}/ping`, which may be absent."""

    event_type = Text(
        metadata={
            "maxLength": MAX_EVENT_TYPE_LENGTH,
            "pattern": f"^{EVENT_NAME.pattern}$",
            "description": "The type of an event that the application publishes. Without it, the event is a "
            "`webhook.ping`.",
        }
    )
    data = fields.Raw(
        metadata={
            "description": "The `data` of the event, as the application would publish it. Without it, the event's "
            "declared example."
        },
    )

    def __init__(self, settings: Settings, declared: Declarations, **options: Any) -> None:
        super().__init__(**options)
        self._max_body_bytes = settings.max_body_bytes
        self._declared = declared

    @validates("event_type")
    def _check_event_type(self, value: str, data_key: str) -> None:
        if not is_event_type(value):
            raise ValidationError(f"Must be a name like invoice.paid, of {MAX_EVENT_TYPE_LENGTH} characters at most.")
        if value.partition(".")[0] == RESERVED:
            raise ValidationError(f"Must not begin with {RESERVED}. To send a webhook.ping, leave out the body.")
        if self._declared and self._declared.get(value) is None:
            raise ValidationError(self._declared.refusal(value))

    @validates_schema(skip_on_field_errors=True)
    def _check_data(self, given: dict[str, Any], **_: Any) -> None:
        if "event_type" not in given:
            if "data" in given:
                raise ValidationError("Needs an event_type beside it.", "data")
            return
        event_type, data = given["event_type"], self._data_of(given)
        if data is None:
            raise ValidationError("Is needed, because the event has no declared example.", "data")
        limits: dict[str, Any] = {"encode": events.compact_json, "max_bytes": self._max_body_bytes}
        try:
            events.make_body(event_type, data, now=_SOME_TIME, **limits)
        except InvalidEvent:
            rule = f"Must be JSON without lone surrogates that fits into {self._max_body_bytes} bytes."
            raise ValidationError(rule, "data") from None
        if fault := self._declared.fault(event_type, events.compact_json(data)):
            raise ValidationError(f"Must keep to the event's schema. {fault}", "data")

    @post_load
    def _with_data(self, given: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**given, "data": self._data_of(given)} if given else given

    def _data_of(self, given: dict[str, Any]) -> Any:
        event = self._declared.get(given["event_type"])
        return given.get("data", event and event.example)
