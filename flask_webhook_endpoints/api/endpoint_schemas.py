"""The JSON of endpoints and secrets: marshmallow schemas that check input, and describe what answers show."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates

from flask_webhook_endpoints.api.endpoint_fields import VISIBLE_PATTERN, CustomHeaders, SecretText, Text, Whole
from flask_webhook_endpoints.api.requests import Body, Cursor, Limit
from flask_webhook_endpoints.core.endpoints import Endpoint
from flask_webhook_endpoints.core.headers import HIDDEN
from flask_webhook_endpoints.core.secrets import DEFAULT_OVERLAP_SECONDS, MAX_OVERLAP_SECONDS
from flask_webhook_endpoints.database.models import EndpointStatus
from flask_webhook_endpoints.errors import InvalidURL
from flask_webhook_endpoints.identifiers import (
    EVENT_PATTERN,
    MAX_EVENT_TYPE_LENGTH,
    UUID_PATTERN,
    format_time,
)
from flask_webhook_endpoints.security import signing
from flask_webhook_endpoints.security.egress import MAX_URL_LENGTH, EgressPolicy
from flask_webhook_endpoints.security.encryption import Headers
from flask_webhook_endpoints.settings import Settings

MAX_EVENT_TYPES = 100
"""The number of event types that an endpoint may choose."""

TIME = {"type": "string", "format": "date-time"}
"""The JSON Schema of a time."""

TIME_OR_NULL = {"type": ["string", "null"], "format": "date-time"}
"""The JSON Schema of a time that may be absent."""

ID_PATTERN = f"^ep_{UUID_PATTERN}$"


class EndpointInput(Body):
    """The body of `POST /v1/endpoints`."""

    name = Text(
        required=True,
        validate=[validate.Length(min=1, max=255), validate.Regexp(r"\s*\S", error="Must not be only white space.")],
        metadata={"description": "Display name for the endpoint.", "pattern": VISIBLE_PATTERN},
    )
    url = Text(required=True, validate=validate.Length(max=MAX_URL_LENGTH))
    secret = SecretText()
    headers_json = CustomHeaders(load_default=Headers, allow_none=True)
    timeout_seconds = Whole(
        strict=True, metadata={"description": "Time limit of one attempt in seconds, from name lookup to answer."}
    )
    event_types = fields.List(
        Text(metadata={"maxLength": MAX_EVENT_TYPE_LENGTH, "pattern": f"^{EVENT_PATTERN.pattern}$"}),
        allow_none=True,
        validate=validate.Length(min=1, max=MAX_EVENT_TYPES),
        metadata={
            "description": "Event types to deliver: exact names, or `prefix.*`. Null means all.",
        },
    )

    def __init__(self, settings: Settings, policy: EgressPolicy, **options: Any) -> None:
        super().__init__(**options)
        self._policy = policy
        # New values: the class shares its own values with the schemas of other applications.
        url = self.fields["url"]
        url.metadata = {
            "pattern": policy.url_pattern,
            "description": "The URL that receives webhooks. An IP address in it must be public.",
        }
        timeout = self.fields["timeout_seconds"]
        timeout.load_default = settings.default_timeout_seconds
        timeout.validators = [validate.Range(min=1, max=settings.max_timeout_seconds)]

    @validates("url")
    def _check_url(self, value: str, data_key: str) -> None:
        try:
            self._policy.check_url(value)
        except InvalidURL as error:
            raise ValidationError(error.rule) from None

    @validates("event_types")
    def _check_event_types(self, value: list[str] | None, data_key: str) -> None:
        names = value or []
        if not all(len(name) <= MAX_EVENT_TYPE_LENGTH and EVENT_PATTERN.fullmatch(name) for name in names):
            raise ValidationError(
                f"Must be names like invoice.paid or invoice.*, of {MAX_EVENT_TYPE_LENGTH} characters at most;"
                " null stands for all events."
            )
        if len(set(names)) < len(names):
            raise ValidationError("Must not name an event type twice.")

    @post_load
    def _without_headers(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if "headers_json" in data and data["headers_json"] is None:
            data["headers_json"] = Headers()
        return data


class EndpointChanges(EndpointInput):
    """The body of `PATCH /v1/endpoints/{ep_id}`: absent fields stay as they are."""

    status = fields.Enum(
        EndpointStatus,
        by_value=True,
        metadata={"type": "string", "description": "`PAUSED` holds deliveries, `ACTIVE` resumes them."},
    )

    def __init__(self, settings: Settings, policy: EgressPolicy, **options: Any) -> None:
        super().__init__(settings, policy, partial=True, **options)


class SecretInput(Body):
    """The body of `POST /v1/endpoints/{ep_id}/secret/rotate`."""

    secret = SecretText()
    overlap_seconds = Whole(
        strict=True,
        load_default=DEFAULT_OVERLAP_SECONDS,
        validate=validate.Range(min=0, max=MAX_OVERLAP_SECONDS),
        metadata={
            "description": "How long deliveries are also signed with the previous secret, in seconds. "
            "0 ends all previous secrets at once."
        },
    )


class EndpointQuery(Schema):
    """The query of `GET /v1/endpoints`."""

    limit = Limit(metadata={"description": "How many endpoints the page has at most. Without it, all are shown."})
    cursor = Cursor("ep", attribute="after")
    status = fields.Enum(
        EndpointStatus, by_value=True, metadata={"type": "string", "description": "Only endpoints of this status."}
    )


def shown_time(name: str, schema: Mapping[str, Any] = TIME, **metadata: str) -> fields.Function:
    """Return the field that shows the time of this name."""
    return fields.Function(
        lambda shown: format_time(getattr(shown, name)), required=True, metadata={**schema, **metadata}
    )


class SecretShown(Schema):
    """The secret in force, in an answer that no cache may store."""

    secret = fields.Function(lambda in_force: in_force.secret.reveal(), required=True, metadata={"type": "string"})
    format = fields.Function(
        lambda in_force: "whsec" if signing.is_key(in_force.secret.reveal()) else "raw",
        required=True,
        metadata={
            "type": "string",
            "enum": ["whsec", "raw"],
            "description": "`whsec`: the bytes that its base64 encodes sign. `raw`: its own characters sign.",
        },
    )
    created_at = shown_time("created_at")
    previous_expires_at = shown_time(
        "previous_expires_at",
        TIME_OR_NULL,
        description="When the last previous secret stops signing. Null if none signs.",
    )


class EndpointShown(Schema):
    """An endpoint in an answer: the fields of `Endpoint`, in its order."""

    id = fields.String(required=True, metadata={"pattern": ID_PATTERN})
    name = fields.String(required=True)
    url = fields.String(required=True)
    headers_json = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        attribute="headers",
        required=True,
        allow_none=True,
        metadata={
            "description": f"Null if the key that encrypted them is lost. Each value is `{HIDDEN}` for users who may "
            "not read the values."
        },
    )
    timeout_seconds = fields.Integer(required=True)
    event_types = fields.List(fields.String(), required=True, allow_none=True)
    status = fields.Enum(EndpointStatus, by_value=True, required=True, metadata={"type": "string"})
    paused_at = fields.String(
        required=True,
        metadata={**TIME_OR_NULL, "description": "Since when deliveries are held. Null while the endpoint is active."},
    )
    created_at = fields.String(required=True, metadata=TIME)
    updated_at = fields.String(required=True, metadata=TIME)


_NAMES = tuple(EndpointShown().fields)
_values = attrgetter(*(field.attribute or name for name, field in EndpointShown().fields.items()))


def show(endpoint: Endpoint, *, headers: bool = True) -> dict[str, Any]:
    """Return an endpoint as `EndpointShown` dumps it, but many times as fast; hide header values unless `headers`."""
    shown: dict[str, Any] = dict(zip(_NAMES, _values(endpoint)))  # noqa: B905 - `strict` is slow
    if endpoint.headers is not None:
        shown["headers_json"] = dict(endpoint.headers) if headers else dict.fromkeys(endpoint.headers, HIDDEN)
    return shown
