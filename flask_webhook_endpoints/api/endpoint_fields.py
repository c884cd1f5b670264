"""Kinds of fields that requests write, each with its rule as code and as a JSON Schema.

Source: RFC 9110 section 5 (names and values of headers), Standard Webhooks 1.0.0 (secrets).
"""

import json
import re
from typing import Any, ClassVar

from marshmallow import ValidationError, fields

from flask_webhook_endpoints.core import headers
from flask_webhook_endpoints.identifiers import HEADER_NAME
from flask_webhook_endpoints.security import signing
from flask_webhook_endpoints.security.encryption import Headers, Secret

MAX_HEADERS = 20
"""The number of custom headers that an endpoint may have."""

MAX_HEADER_NAME_LENGTH = 128
"""Characters that the name of a custom header may have."""

MAX_HEADER_VALUE_LENGTH = 4096
"""Characters that the value of a custom header may have."""

MAX_METADATA_KEYS = 20
"""The number of keys that the metadata of an endpoint may have."""

MAX_METADATA_KEY_LENGTH = 64
"""Characters that a key of the metadata may have."""

MAX_METADATA_BYTES = 4096
"""Bytes that the metadata may have in all, as compact JSON in UTF-8."""

_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSTORABLE_IN_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

# These headers frame the message, belong to the connection, or are ours to set. WSGI receivers read `_` as `-`.
_REFUSED_HEADERS = re.compile(
    r"host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect|accept-encoding|user-agent"
    r"|(?:proxy|content|webhook)-.*",
)

# The same rules in the regular expressions of JSON Schema (ECMA-262), which has no full match. Marks are
# escaped for the flag `v`. The rules leave lone surrogates out, because JSON that was read into Unicode has none.
_STORABLE = r"[^\u0000-\u001f\u007f-\u009f]"
_STORABLE_IN_LINES = r"[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]"
VISIBLE_PATTERN = rf"^[^\S\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f]{_STORABLE}*$"
"""The pattern of a text that is not only white space."""

_REFUSED_PATTERN = re.sub(
    "[a-z]", lambda letter: f"[{letter[0].upper()}{letter[0]}]", _REFUSED_HEADERS.pattern.replace("-", r"[_\-]")
)
_BASE64 = r"[A-Za-z0-9+\/]"
_KEY_PATTERN = (
    rf"whsec_(?:(?:{_BASE64}{{4}}){{8,21}}(?:{_BASE64}[AQgw]==)?"
    rf"|(?:{_BASE64}{{4}}){{8,20}}{_BASE64}{{2}}[AEIMQUYcgkosw048]=)"
)
_RAW_PATTERN = r"(?!whsec_[A-Za-z0-9+\/=]*$)(?!wh[sp]k_)[!-~][ -~]{14,126}[!-~]"


class Text(fields.String):
    """A string without control characters and lone surrogates, which databases or headers can't hold."""

    json_schema: ClassVar[dict[str, Any]] = {"type": "string", "pattern": f"^{_STORABLE}*$"}
    default_error_messages = {"unstorable": "Must not contain control characters or lone surrogates."}

    unstorable = _UNSTORABLE

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if self.unstorable.search(text):
            raise self.make_error("unstorable")
        return text


class Lines(Text):
    """A text that may have several lines and tabs."""

    json_schema = {"type": ["string", "null"], "pattern": f"^{_STORABLE_IN_LINES}*$"}
    default_error_messages = {
        "unstorable": "Must not contain lone surrogates, or control characters other than tab and line ends."
    }
    unstorable = _UNSTORABLE_IN_LINES


class Whole(fields.Integer):
    """An integer, also where JSON spells it as `10.0`, as JSON Schema allows."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return super()._deserialize(whole, attr, data, **kwargs)


class SecretText(fields.String):
    """A signing secret, wrapped in a `Secret` as soon as it is checked."""

    json_schema = {
        "type": "string",
        "pattern": f"^(?:{_KEY_PATTERN}|{_RAW_PATTERN})$",
        "description": "Signing secret. `whsec_` and the base64 of 24 to 64 bytes is a Standard Webhooks key: those "
        "bytes sign. Base64 after `whsec_` of another length or spelling is refused, because verifiers decode it. Any "
        "other text signs with its own bytes. An endpoint in an answer never has the secret.",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if fault := signing.fault_of(text):
            raise ValidationError(fault)
        return Secret(text)


class CustomHeaders(fields.Field[Headers]):
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
        "description": f"Custom headers of each delivery, {headers.MAX_BYTES} bytes in all at most. Null means none. "
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
        if not headers.fit(value):
            raise ValidationError(headers.TOO_LARGE)
        return Headers(value)


class MetadataObject(fields.Field[dict[str, str]]):
    """The tenant's own strings: an object of strings, or null for none."""

    json_schema = {
        "type": ["object", "null"],
        "maxProperties": MAX_METADATA_KEYS,
        "propertyNames": {"pattern": f"^{_STORABLE}{{1,{MAX_METADATA_KEY_LENGTH}}}$"},
        "additionalProperties": {"type": "string", "pattern": f"^{_STORABLE_IN_LINES}*$"},
    }
    default_error_messages = {"invalid": "Must be an object of strings."}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if faults := [fault for key, text in value.items() for fault in _metadata_faults(key, text)]:
            raise ValidationError(faults)
        if len(value) > MAX_METADATA_KEYS:
            raise ValidationError(f"Must have {MAX_METADATA_KEYS} keys at most.")
        if len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) > MAX_METADATA_BYTES:
            raise ValidationError(f"Must have {MAX_METADATA_BYTES} bytes as JSON at most.")
        return dict(value)


def _metadata_faults(key: Any, text: Any) -> list[str]:
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_METADATA_KEY_LENGTH or _UNSTORABLE.search(key):
        return [f"Must have keys of 1 to {MAX_METADATA_KEY_LENGTH} characters, without control characters."]
    if not isinstance(text, str):
        return [f"{key}: must be a string."]
    if _UNSTORABLE_IN_LINES.search(text):
        return [f"{key}: must not contain lone surrogates, or control characters other than tab and line ends."]
    return []


def _header_faults(name: Any, text: Any) -> list[str]:
    if not isinstance(name, str) or len(name) > MAX_HEADER_NAME_LENGTH or not HEADER_NAME.fullmatch(name):
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
