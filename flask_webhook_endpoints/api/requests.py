"""Reading a request: its body, its query, its preconditions.

Source: RFC 8259 (JSON), RFC 9110 section 13 (preconditions).
"""

import json
import logging
import re
from typing import Any

from flask import request
from marshmallow import Schema, ValidationError, fields
from werkzeug.exceptions import RequestEntityTooLarge

from flask_webhook_endpoints.core.idempotency import IdempotencyKey
from flask_webhook_endpoints.errors import BodyTooLarge, InvalidFields, InvalidRequest, UnsupportedMediaType
from flask_webhook_endpoints.identifiers import MAX_KEY_LENGTH, UUID_PATTERN, parse_id
from flask_webhook_endpoints.security.encryption import Secret

_log = logging.getLogger("flask_webhook_endpoints.wire")

MAX_BODY_BYTES = 65_536
MAX_PAGE = 250

_BROKEN_OFF = "The body broke off, or its chunks are not well-formed."


def read_body(*, optional: bool = False) -> Any:
    """Return the JSON value of the request's body; `{}` for no body where it is `optional`."""
    length = request.content_length
    data = _bounded_data(length)
    if optional and not (data or length):
        return {}
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    if length is not None and len(data) < length:
        # Some servers, such as gunicorn, pass on a body that broke off. Even where the rest is JSON, the client did not
        # send it.
        raise InvalidRequest(_BROKEN_OFF)
    try:
        return _decoder.decode(data.decode())
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not JSON (RFC 8259) in UTF-8, or too deeply nested.") from None


def _bounded_data(length: int | None) -> bytes:
    if length is not None and length > MAX_BODY_BYTES:
        raise BodyTooLarge(MAX_BODY_BYTES)
    try:
        # `get_data` keeps a body that the host has already read.
        data = (_streamed_data() if length is None else b"") or request.get_data()
    except RequestEntityTooLarge:
        raise BodyTooLarge(min(MAX_BODY_BYTES, request.max_content_length or MAX_BODY_BYTES)) from None
    except Exception as error:  # each server has errors of its own for a body that breaks off or has broken chunks
        _log.info("webhooks.body_unreadable", extra={"webhooks.error": type(error).__name__})
        raise InvalidRequest(_BROKEN_OFF) from None
    if len(data) > MAX_BODY_BYTES:
        raise BodyTooLarge(MAX_BODY_BYTES)
    return data


def _streamed_data() -> bytes:
    """Return a body sent in chunks, which may never end: one byte more than allowed at most."""
    data = b""
    # A server may return what has arrived so far, which is less than we ask for.
    while part := request.stream.read(MAX_BODY_BYTES + 1 - len(data)):
        data += part
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidRequest("The body names a member of an object twice.")
    return members


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)


def read_query(schema: Schema) -> Any:
    """Return the parameters of the request's query as `schema` loads them; raise `InvalidFields`."""
    return load(schema, request.args.to_dict())


def load(schema: Schema, data: Any) -> Any:
    """Return `data` as `schema` loads it; raise `InvalidFields`."""
    try:
        return schema.load(data)
    except ValidationError as error:
        raise InvalidFields(error.messages_dict) from None


def idempotency_key(body: Any) -> IdempotencyKey | None:
    """Return the `Idempotency-Key` with the request's body; None where it is absent."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not re.fullmatch(rf"[ -~]{{1,{MAX_KEY_LENGTH}}}", key):
        raise InvalidRequest(f"Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable ASCII characters.")
    return IdempotencyKey(key, Secret(json.dumps(body, sort_keys=True)))


def if_match() -> list[int] | None:
    """Return the versions that `If-Match` names; None where it is absent or `*`."""
    if "HTTP_IF_MATCH" not in request.environ or request.if_match.star_tag:
        return None
    # Werkzeug reads the empty tag, `""`, as None.
    return [int(tag) for tag in request.if_match.as_set() if re.fullmatch(r"[1-9][0-9]{0,8}", tag or "")]


class Limit(fields.String):
    """The number of items on a page, in ASCII digits."""

    json_schema = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}
    default_error_messages = {"rule": f"Must be from 1 to {MAX_PAGE}."}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not re.fullmatch(r"[0-9]{1,3}", value) or not 1 <= int(value) <= MAX_PAGE:
            raise self.make_error("rule")
        return int(value)


class Cursor(fields.String):
    """The id of the last item of the previous page."""

    default_error_messages = {"rule": "Must be a cursor from a Link header."}

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(**options)
        self._prefix = prefix
        self.json_schema = {
            "type": "string",
            "pattern": f"^{prefix}_{UUID_PATTERN}$",
            "description": "The place where the page begins. Take it from the `Link` header of the previous page.",
        }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        last_id = parse_id(value, self._prefix)
        if last_id is None:
            raise self.make_error("rule")
        return last_id
