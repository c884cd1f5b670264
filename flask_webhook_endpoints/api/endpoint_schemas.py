"""The JSON of endpoints and secrets: marshmallow schemas that check input, and describe what answers show."""

from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates

from flask_webhook_endpoints.api.endpoint_fields import (
    MAX_METADATA_BYTES,
    VISIBLE_PATTERN,
    CustomHeaders,
    Lines,
    MetadataObject,
    SecretText,
    Text,
    Whole,
)
from flask_webhook_endpoints.api.requests import Body, Cursor, Limit
from flask_webhook_endpoints.core.declarations import Declarations
from flask_webhook_endpoints.core.endpoint_row import Endpoint, description_of
from flask_webhook_endpoints.core.secrets import DEFAULT_OVERLAP_SECONDS, MAX_OVERLAP_SECONDS
from flask_webhook_endpoints.database.models import EndpointStatus
from flask_webhook_endpoints.errors import InvalidURL
from flask_webhook_endpoints.identifiers import (
    EVENT_PATTERN,
    MAX_EVENT_TYPE_LENGTH,
    is_event_pattern,
)
from flask_webhook_endpoints.security.egress import MAX_URL_LENGTH, EgressPolicy
from flask_webhook_endpoints.security.encryption import Headers
from flask_webhook_endpoints.settings import Settings

MAX_EVENT_TYPES = 100
"""The number of event types that an endpoint may choose."""

MAX_DESCRIPTION_LENGTH = 1000
"""Characters that an endpoint's description may have."""

ALL_EVENTS = "*"
"""Stands for all events where it is among the event types."""

TIME = {"type": "string", "format": "date-time"}
"""The JSON Schema of a time."""

TIME_OR_NULL = {"type": ["string", "null"], "format": "date-time"}
"""The JSON Schema of a time that may be absent."""


class EndpointInput(Body):
    """The body of `POST /v1/endpoints`. Descriptions are those of `Endpoint`, and what holds for input alone."""

    name = Text(
        required=True,
        validate=[validate.Length(min=1, max=255), validate.Regexp(r"\s*\S", error="Must not be only white space.")],
        metadata={"description": description_of("name"), "pattern": VISIBLE_PATTERN},
    )
    url = Text(required=True, validate=validate.Length(max=MAX_URL_LENGTH))
    secret = SecretText()
    headers_json = CustomHeaders(load_default=Headers, allow_none=True)
    timeout_seconds = Whole(strict=True, metadata={"description": description_of("timeout_seconds")})
    event_types = fields.List(
        Text(metadata={"maxLength": MAX_EVENT_TYPE_LENGTH, "pattern": rf"^(?:\*|{EVENT_PATTERN.pattern})$"}),
        allow_none=True,
        validate=validate.Length(min=1, max=MAX_EVENT_TYPES),
        metadata={
            "description": f"{description_of('event_types')} So does `*` among them. A name that comes twice counts "
            "once.",
        },
    )
    description = Lines(
        allow_none=True,
        validate=validate.Length(max=MAX_DESCRIPTION_LENGTH),
        metadata={"description": f"{description_of('description')} It may have several lines."},
    )
    metadata = MetadataObject(
        load_default=dict,
        allow_none=True,
        metadata={
            "description": f"{description_of('metadata')} They are not encrypted, so that they must hold no "
            f"credentials. {MAX_METADATA_BYTES} bytes as JSON at most. Null means none.",
        },
    )

    def __init__(self, settings: Settings, policy: EgressPolicy, declared: Declarations, **options: Any) -> None:
        super().__init__(**options)
        self._policy = policy
        self._declared = declared
        # New values: the class shares its own values with the schemas of other applications.
        url = self.fields["url"]
        url.metadata = {
            "pattern": policy.url_pattern,
            "description": f"{description_of('url')} An IP address in it must be public.",
        }
        timeout = self.fields["timeout_seconds"]
        timeout.load_default = settings.default_timeout_seconds
        timeout.validators = [validate.Range(min=1, max=settings.max_timeout_seconds)]
        if declared:
            event_types: Any = self.fields["event_types"]
            event_types.inner.metadata = {"title": "EventPattern", "enum": [ALL_EVENTS, *declared.patterns()]}

    @validates("url")
    def _check_url(self, value: str, data_key: str) -> None:
        try:
            self._policy.check_url(value)
        except InvalidURL as error:
            raise ValidationError(error.rule) from None

    @validates("event_types")
    def _check_event_types(self, value: list[str] | None, data_key: str) -> None:
        names = [name for name in value or [] if name != ALL_EVENTS]
        if not all(map(is_event_pattern, names)):
            raise ValidationError(
                f"Must be names like invoice.paid or invoice.*, of {MAX_EVENT_TYPE_LENGTH} characters at most;"
                " null or * stands for all events."
            )
        if refusals := self._declared.refusals(names):
            raise ValidationError(refusals)

    @post_load
    def _with_one_spelling(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Give what may be spelt in several ways the spelling that is stored."""
        if "headers_json" in data and data["headers_json"] is None:
            data["headers_json"] = Headers()
        if "metadata" in data and data["metadata"] is None:
            data["metadata"] = {}
        if names := data.get("event_types"):
            data["event_types"] = None if ALL_EVENTS in names else list(dict.fromkeys(names))
        return data


class EndpointChanges(EndpointInput):
    """The body of `PATCH /v1/endpoints/{ep_id}`: absent fields stay as they are."""

    status = fields.Enum(
        EndpointStatus,
        by_value=True,
        metadata={"type": "string", "description": "`PAUSED` holds deliveries, `ACTIVE` resumes them."},
    )

    def __init__(self, settings: Settings, policy: EgressPolicy, declared: Declarations, **options: Any) -> None:
        super().__init__(settings, policy, declared, partial=True, **options)


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


def about(description: str, **options: Any) -> dict[str, Any]:
    """Return the options of a field that every answer has."""
    return {"required": True, "metadata": {"description": description}, **options}


def text(schema: Mapping[str, Any], description: str) -> fields.Raw:
    """Return the field that describes a text in an answer, by its JSON Schema."""
    return fields.Raw(required=True, metadata={**schema, "description": description})


class SecretShown(Schema):
    """The secret in force, in an answer that no cache may store. `responses` writes it without this schema."""

    secret = fields.String(**about("The current signing secret."))
    format = text(
        {"type": "string", "enum": ["whsec", "raw"]},
        "`whsec`: the bytes that its base64 encodes sign. `raw`: its own characters sign.",
    )
    created_at = text(TIME, "When the secret was put in force.")
    previous_expires_at = text(TIME_OR_NULL, "When the last previous secret stops signing. Null if none signs.")


def _shown(annotation: Any) -> fields.Raw:
    """Return the field that describes one of `Endpoint`: its type as JSON Schema, and what stands beside the type."""
    plain, *beside = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    described = {name: value for each in beside for name, value in each.schema.items()}
    return fields.Raw(required=True, metadata={**_json_schema(plain), **described})


def _json_schema(plain: Any) -> dict[str, Any]:
    *kinds, last = get_args(plain) if isinstance(plain, UnionType) else (plain,)
    if kinds and last is NoneType:
        schema = _json_schema(kinds[0])
        return {**schema, "type": [schema["type"], "null"]}
    if get_origin(plain) is list:
        return {"type": "array", "items": _json_schema(get_args(plain)[0])}
    if plain is Headers or get_origin(plain) is dict:
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if isinstance(plain, type) and issubclass(plain, Enum):
        return {"type": "string", "enum": [each.value for each in plain]}
    return {"type": {str: "string", int: "integer"}[plain]}


EndpointShown: type[Schema] = Schema.from_dict(
    {
        name: _shown(annotation)
        for name, annotation in get_type_hints(Endpoint, include_extras=True).items()
        if not name.startswith("_")
    },
    name="EndpointShown",
)
"""An endpoint in an answer: the fields of `Endpoint`, in its order. `responses` writes them without this schema."""
