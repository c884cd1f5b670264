"""The headers of requests: ours, and the custom ones of an endpoint, whose values may be hidden."""

from collections.abc import Mapping
from importlib.metadata import version

from flask_webhook_endpoints.errors import InvalidFields
from flask_webhook_endpoints.security.encryption import Headers

MAX_BYTES = 8192
"""Bytes that the custom headers of an endpoint may have in all."""

TOO_LARGE = f"Must have {MAX_BYTES} bytes in all at most."
"""The message for custom headers beyond `MAX_BYTES`."""

HIDDEN = "***"
"""Shown in place of each header's value to users who may not read the values. From them it keeps the stored value."""


_USER_AGENT = f"flask-webhook-endpoints/{version('flask-webhook-endpoints')}"


def request_headers(
    custom: Headers | None,
    *,
    message_id: str,
    timestamp: int,
    signature: str,
    trace: Mapping[str, str] | None = None,
) -> Headers:
    """Return the headers of one attempt: ours, and the tenant's `custom` ones of other names in any spelling."""
    ours = {
        "content-type": "application/json",
        "user-agent": _USER_AGENT,
        # Excerpts of compressed answers would be unreadable, and unpacked ones might grow without bounds.
        "accept-encoding": "identity",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
        **(trace or {}),
    }
    if not custom:
        return Headers(ours)
    return Headers({name: value for name, value in custom.items() if name.lower() not in ours} | ours)


def fit(headers: Headers | Mapping[str, str]) -> bool:
    """Return whether the headers are small enough in all."""
    return sum(len(name) + len(value) for name, value in headers.items()) <= MAX_BYTES


def keep_hidden(given: Headers, stored: Headers | None) -> Headers:
    """Return the given headers, with the stored value of the same name where a value is `HIDDEN`.

    Raises `InvalidFields` where no such value is stored, or where the headers are too large in all.
    """
    known = {name.lower(): value for name, value in (stored or Headers()).items()}
    hidden = [name for name, value in given.items() if value == HIDDEN]
    if unknown := [name for name in hidden if name.lower() not in known]:
        raise InvalidFields({"headers_json": [f"There is no stored value to keep: {', '.join(unknown)}."]})
    headers = Headers({**given, **{name: known[name.lower()] for name in hidden}})
    if not fit(headers):
        raise InvalidFields({"headers_json": [TOO_LARGE]})
    return headers
