"""The JSON of endpoints and secrets: marshmallow schemas that check input, and describe what answers show."""

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates

from flask_webhook_endpoints.api.requests import Cursor, Limit
from flask_webhook_endpoints.core.endpoints import HIDDEN, MAX_HEADERS_BYTES, TOO_LARGE, Endpoint, fit
from flask_webhook_endpoints.core.secrets import DEFAULT_OVERLAP_SECONDS, MAX_OVERLAP_SECONDS
from flask_webhook_endpoints.database.models import EndpointStatus
from flask_webhook_endpoints.errors import InvalidURL
from flask_webhook_endpoints.identifiers import (
    EVENT_PATTERN,
    HEADER_NAME,
    MAX_EVENT_TYPE_LENGTH,
    UUID_PATTERN,
    format_time,
)
from flask_webhook_endpoints.security import signing
from flask_webhook_endpoints.security.egress import MAX_URL_LENGTH, EgressPolicy
from flask_webhook_endpoints.security.encryption import Headers, Secret
from flask_webhook_endpoints.settings import Settings

MAX_HEADERS = 20
"""The number of custom headers that an endpoint may have."""

MAX_HEADER_NAME_LENGTH = 128
"""Characters that the name of a custom header may have."""

MAX_HEADER_VALUE_LENGTH = 4096
"""Characters that the value of a custom header may have."""

MAX_EVENT_TYPES = 100
"""The number of event types that an endpoint may choose."""

TIME = {"type": "string", "format": "date-time"}
"""The JSON Schema of a time."""

TIME_OR_NULL = {"type": ["string", "null"], "format": "date-time"}
"""The JSON Schema of a time that may be absent."""

_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# These headers frame the message, belong to the connection, or are ours to set. WSGI receivers read `_` as `-`.
_REFUSED_HEADERS = re.compile(
    r"host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect|accept-encoding|user-agent"
    r"|(?:proxy|content|webhook)-.*",
)

# The same rules in the regular expressions of JSON Schema (ECMA-262), which has no flags and no full match. They leave
# lone surrogates out, because JSON that was read into Unicode has none.
_STORABLE = r"[^\u0000-\u001f\u007f-\u009f]"
_NAME_PATTERN = rf"^[^\S\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f]{_STORABLE}*$"
_REFUSED_PATTERN = re.sub(
    "[a-z]", lambda letter: f"[{letter[0].upper()}{letter[0]}]", _REFUSED_HEADERS.pattern.replace("-", "[-_]")
)
_KEY_PATTERN = (
    "whsec_(?:(?:[A-Za-z0-9+/]{4}){8,21}(?:[A-Za-z0-9+/][AQgw]==)?"
    "|(?:[A-Za-z0-9+/]{4}){8,20}[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)"
)
_RAW_PATTERN = "(?!whsec_[A-Za-z0-9+/=]*$)(?!wh[sp]k_)[!-~][ -~]{14,126}[!-~]"
ID_PATTERN = f"^ep_{UUID_PATTERN}$"


class _Text(fields.String):
    """A string without control characters and lone surrogates, which databases or headers can't hold."""

    json_schema = {"type": "string", "pattern": f"^{_STORABLE}*$"}
    default_error_messages = {"unstorable": "Must not contain control characters or lone surrogates."}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if _UNSTORABLE.search(text):
            raise self.make_error("unstorable")
        return text


class _Whole(fields.Integer):
    """An integer, also where JSON spells it as `10.0`, as JSON Schema allows."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return super()._deserialize(whole, attr, data, **kwargs)


class _SecretText(fields.String):
    """A signing secret, wrapped in a `Secret` as soon as it is checked."""

    json_schema = {
        "type": "string",
        "pattern": f"^(?:{_KEY_PATTERN}|{_RAW_PATTERN})$",
        "writeOnly": True,
        "description": "Signing secret. `whsec_` and the base64 of 24 to 64 bytes is a Standard Webhooks key: those "
        "bytes sign. Base64 after `whsec_` of another length or spelling is refused, because verifiers decode it. Any "
        "other text signs with its own bytes. An endpoint in an answer never has the secret.",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if fault := signing.fault_of(text):
            raise ValidationError(fault)
        return Secret(text)


class _Headers(fields.Field[Headers]):
    """Custom headers: an object of strings, or null for none."""

    json_schema = {
        "type": ["object", "null"],
        "maxProperties": MAX_HEADERS,
        "propertyNames": {
            "pattern": f"^(?!(?:{_REFUSED_PATTERN})$){HEADER_NAME.pattern[:-1]}{{1,{MAX_HEADER_NAME_LENGTH}}}$"
        },
        "additionalProperties": {
            "type": "string",
            "maxLength": MAX_HEADER_VALUE_LENGTH,
            "pattern": r"^[ -~\u00a0-\u00ff]*$",
        },
        "description": f"Custom headers of each delivery, {MAX_HEADERS_BYTES} bytes in all at most. Null means none. "
        "No two names may differ only in case.",
    }
    default_error_messages = {"invalid": "Must be an object of strings."}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Headers:
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if faults := [fault for name, text in value.items() for fault in _header_faults(name, text)]:
            raise ValidationError(faults)
        if len({name.lower() for name in value}) < len(value):
            raise ValidationError("Must not have names that differ only in case.")
        if len(value) > MAX_HEADERS:
            raise ValidationError(f"Must have {MAX_HEADERS} headers at most.")
        if not fit(value):
            raise ValidationError(TOO_LARGE)
        return Headers(value)


def _header_faults(name: str, text: Any) -> list[str]:
    if len(name) > MAX_HEADER_NAME_LENGTH or not HEADER_NAME.fullmatch(name):
        return [f"Must have names of 1 to {MAX_HEADER_NAME_LENGTH} letters, digits or !#$%&'*+-.^_`|~ (RFC 9110)."]
    if _REFUSED_HEADERS.fullmatch(name.lower().replace("_", "-")):
        return [f"{name}: this header may not be set."]
    if not isinstance(text, str):
        return [f"{name}: must be a string."]
    if len(text) > MAX_HEADER_VALUE_LENGTH:
        return [f"{name}: longer than maximum length {MAX_HEADER_VALUE_LENGTH}."]
    if _UNSTORABLE.search(text) or max(text, default="") > "\xff":
        return [f"{name}: must not contain control characters or characters outside Latin-1."]
    return []


class NewEndpoint(Schema):
    """The body of `POST /v1/endpoints`."""

    name = _Text(
        required=True,
        validate=[validate.Length(min=1, max=255), validate.Regexp(r"\s*\S", error="Must not be only white space.")],
        metadata={"description": "Display name for the endpoint.", "pattern": _NAME_PATTERN},
    )
    url = _Text(required=True, validate=validate.Length(max=MAX_URL_LENGTH))
    secret = _SecretText()
    headers_json = _Headers(load_default=Headers, allow_none=True, metadata={"default": {}})
    timeout_seconds = _Whole(
        strict=True, metadata={"description": "Time limit of one attempt in seconds, from name lookup to answer."}
    )
    event_types = fields.List(
        _Text(metadata={"maxLength": MAX_EVENT_TYPE_LENGTH, "pattern": f"^{EVENT_PATTERN.pattern}$"}),
        allow_none=True,
        validate=validate.Length(min=1, max=MAX_EVENT_TYPES),
        metadata={
            "uniqueItems": True,
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


class EndpointChanges(NewEndpoint):
    """The body of `PATCH /v1/endpoints/{ep_id}`: absent fields stay as they are."""

    status = fields.Enum(
        EndpointStatus,
        by_value=True,
        metadata={"type": "string", "description": "`PAUSED` holds deliveries, `ACTIVE` resumes them."},
    )

    def __init__(self, settings: Settings, policy: EgressPolicy, **options: Any) -> None:
        super().__init__(settings, policy, partial=True, **options)


class NewSecret(Schema):
    """The body of `POST /v1/endpoints/{ep_id}/secret/rotate`."""

    secret = _SecretText()
    overlap_seconds = _Whole(
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
