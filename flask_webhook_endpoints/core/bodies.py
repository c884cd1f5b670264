"""The body of an event: the exact bytes that are signed and sent.

Source: Standard Webhooks 1.0.0, "Payload structure" (`type`, `timestamp`, `data`); RFC 8259 (JSON).
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson

from flask_webhook_endpoints.errors import InvalidEvent
from flask_webhook_endpoints.identifiers import EVENT_NAME, MAX_EVENT_TYPE_LENGTH, format_time

Encode = Callable[[Any], str]
"""Returns compact JSON; raises `TypeError`, `ValueError` or `RecursionError` for data that is not JSON."""

_SPACED = re.compile(r"[\s][\]:,{}[]|[\]:,{}[][\s]")
_STRINGS_AND_SPACES = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|\s+')


def encode(data: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return data as compact JSON; `default` encodes what `json` cannot."""
    return json.dumps(data, default=default, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def compact(encoded: str | bytes) -> str:
    """Return JSON of another encoder without the spaces between its tokens; raise `ValueError` if it is not JSON."""
    orjson.loads(encoded)
    text = (encoded.decode() if isinstance(encoded, bytes) else str(encoded)).strip()
    # Most encoders write no spaces.
    return _STRINGS_AND_SPACES.sub(r"\1", text) if _SPACED.search(text) else text


def body(event_type: str, data: Any, *, now: datetime, encode: Encode) -> bytes:
    """Return the body of an event; raise `InvalidEvent` if the type breaks a rule or the data is not JSON."""
    if not (
        isinstance(event_type, str) and len(event_type) <= MAX_EVENT_TYPE_LENGTH and EVENT_NAME.fullmatch(event_type)
    ):
        raise InvalidEvent(
            f"{event_type!r} is no event type: write one like invoice.paid, {MAX_EVENT_TYPE_LENGTH} characters at most."
        )
    try:
        return f'{{"type":"{event_type}","timestamp":"{format_time(now)}","data":{encode(data)}}}'.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"The data of {event_type} is not JSON: {error}") from error
