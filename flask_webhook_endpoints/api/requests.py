"""Reading a request: its body, its query, its preconditions.

Source: RFC 8259 (JSON), RFC 9110 section 13 (preconditions).
"""

import re
from typing import Any, Literal, cast

from flask import Request, request
from marshmallow import EXCLUDE, Schema, fields, pre_load
from werkzeug.exceptions import RequestEntityTooLarge

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core import validation
from flask_webhook_endpoints.core.endpoints import Versions
from flask_webhook_endpoints.errors import (
    BodyTooLarge,
    InvalidFields,
    InvalidRequest,
    LengthRequired,
    UnsupportedCoding,
    UnsupportedMediaType,
)
from flask_webhook_endpoints.identifiers import UUID_PATTERN, parse_id, parse_time
from flask_webhook_endpoints.security.private import Private, forget_locals

_log = logs.logger("flask_webhook_endpoints.wire")  # the name that hosts have configured

BODY = "body"
"""The name of a body's value."""

MAX_BODY_BYTES = 65_536
"""Bytes that the body of a request may have."""

MAX_PAGE = 250
"""The number of items that a page may have."""

_BROKEN_OFF = "The body broke off, or its chunks are not well-formed."


def read_body(*, optional: bool = False) -> Private[Any]:
    """Return the JSON value of the request's body as `BODY`. If it is `optional`, none and null are `{}`."""
    asked = _request()
    length = asked.content_length
    data = _bounded_data(asked, length)
    passed_on = asked.environ.get("wsgi.input_terminated") and not optional
    if not (data or passed_on) and "HTTP_TRANSFER_ENCODING" in asked.environ:
        # Many servers pass on no body in chunks, and hosts may have read it. It must not count as absent, because a
        # generated secret would replace the one in it.
        raise LengthRequired
    if optional and not (data or length):
        return Private({BODY: {}})
    codings = {coding.strip(" \t").lower() for coding in asked.headers.get("Content-Encoding", "").split(",")}
    if codings - {"", "identity"}:
        raise UnsupportedCoding(asked.method)
    if asked.mimetype != "application/json":
        raise UnsupportedMediaType(asked.method)
    if length is not None and len(data) < length:
        # Some servers, such as gunicorn, pass on a body that broke off. Even where the rest is JSON, the client did not
        # send it.
        raise InvalidRequest(_BROKEN_OFF)
    try:
        # RFC 8259 section 8.1 lets us ignore a byte order mark, which .NET and PowerShell send.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not JSON (RFC 8259) in UTF-8.") from None
    value = validation.read_json(text)
    return Private({BODY: {} if optional and value is None else value})


def _request() -> Request:
    """Return the request itself: each look through Flask's proxy takes as long as reading a header."""
    return cast(Request, cast(Any, request)._get_current_object())


def _bounded_data(asked: Request, length: int | None) -> bytes:
    if length is not None and length > MAX_BODY_BYTES:
        raise BodyTooLarge(MAX_BODY_BYTES)
    try:
        # `get_data` keeps a body that the host has already read.
        data = (_streamed_data(asked) if length is None else b"") or asked.get_data()
    except RequestEntityTooLarge:
        raise BodyTooLarge(min(MAX_BODY_BYTES, asked.max_content_length or MAX_BODY_BYTES)) from None
    except Exception as error:  # each server has errors of its own for a body that breaks off or has broken chunks
        _log.info("webhooks.body_unreadable", extra={"webhooks.error": type(error).__name__})
        raise InvalidRequest(_BROKEN_OFF) from None
    if len(data) > MAX_BODY_BYTES:
        raise BodyTooLarge(MAX_BODY_BYTES)
    return data


def _streamed_data(asked: Request) -> bytes:
    """Return a body sent in chunks, which may never end: one byte more than allowed at most."""
    data = b""
    # A server may return what has arrived so far, which is less than we ask for.
    while part := asked.stream.read(MAX_BODY_BYTES + 1 - len(data)):
        data += part
    return data


def read_query(schema: Schema) -> Any:
    """Return the parameters of the request's query as `schema` loads them, none without a query; raise `InvalidFields`.

    A host may have parameters of its own beside ours.
    """
    given = request.args.to_dict()
    return validation.load(schema, given, unknown=EXCLUDE) if given else {}


def read_filters(schema: Schema) -> Any:
    """Return the query of a list with filters. A misspelt or second one would show too much, and is refused."""
    if twice := [name for name, values in request.args.lists() if len(values) > 1]:
        raise InvalidFields({name: ["Must be given once."] for name in twice[: validation.MAX_FAULTS]})
    return validation.load(schema, request.args.to_dict())


def load_body(schema: Schema, body: Private[Any]) -> Private[Any]:
    """Return the fields of a body as `schema` loads them; raise `InvalidFields`."""
    try:
        return Private(validation.load(schema, body[BODY]))
    except Exception as error:
        forget_locals(error)
        raise


def if_match() -> Versions | None:
    """Return the versions that `If-Match` allows; None where it allows all."""
    named = _versions("If-Match")
    return None if named is None or named == "*" else Versions(named)


def if_none_match() -> Versions | None:
    """Return the versions that `If-None-Match` allows; None where it allows all."""
    named = _versions("If-None-Match")
    if named is None:
        return None
    return Versions(frozenset()) if named == "*" else Versions(named, excluded=True)


def has(tag: str) -> bool:
    """Return whether `If-None-Match` names the tag of the answer, so that the client has the answer already."""
    named = _tags("If-None-Match")
    return named is not None and (named == "*" or tag in named)


def allowed_versions() -> Versions | None:
    """Return the versions of the endpoint that a write may change; None where it may change all."""
    allowed, others = if_match(), if_none_match()
    if allowed is None or others is None:
        return others if allowed is None else allowed
    return Versions(frozenset(version for version in allowed.numbers if version in others))


_TAG = re.compile(r'[ \t]*(?:(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|\Z)')
# `responses` writes the part after `~`. What compression and proxies append to a tag names a coding: `1:gzip`,
# `1-br`, `1--gzip`, `1;gzip`.
_VERSION = re.compile(r"(([1-9][0-9]{0,8})(?:~[0-9]{1,20})?)(?:[-:;/_.+]{1,2}[A-Za-z]+(?:-[A-Za-z]+)*)?")


def _versions(header: str) -> frozenset[int] | Literal["*"] | None:
    """Return the versions whose tags the header names.

    A weak tag counts in `If-Match`, too, though RFC 9110 section 13.1.1 has it match nothing: proxies that compress
    weaken our tags, and every write would be 412 behind them. No two states that requests wrote have the same version.
    """
    tags = _tags(header)
    return frozenset(tags.values()) if isinstance(tags, dict) else tags


def _tags(header: str) -> dict[str, int] | Literal["*"] | None:
    """Return the tags of ours that the header names, each with its version."""
    text = request.environ.get(f"HTTP_{header.upper().replace('-', '_')}")
    if text is None:
        return None
    if text.strip(" \t") == "*":
        return "*"
    tags, position = {}, 0
    while position < len(text):
        element = _TAG.match(text, position)
        if element is None:
            raise InvalidRequest(f'{header} must be * or tags such as "1", with commas between them (RFC 9110).')
        if version := _VERSION.fullmatch(element[1] or ""):
            tags[version[1]] = int(version[2])
        position = element.end()
    return tags


class Body(Schema):
    """The body of a POST, in which null for an optional field is as if it were left out.

    Generated clients of many languages write null for what was not set.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for field in self.fields.values():
            # For the OpenAPI document; `_without_nulls` takes them out.
            field.allow_none = field.allow_none or not (field.required or self.partial)

    @pre_load
    def _without_nulls(self, data: Any, **_: Any) -> Any:
        if self.partial or not isinstance(data, dict) or None not in data.values():
            return data
        optional = {name for name, field in self.fields.items() if not field.required}
        return {name: value for name, value in data.items() if value is not None or name not in optional}


class Limit(fields.String):
    """The number of items on a page, in ASCII digits."""

    json_schema = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}
    default_error_messages = {"rule": f"Must be from 1 to {MAX_PAGE}."}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not re.fullmatch(r"[0-9]{1,3}", value) or not 1 <= int(value) <= MAX_PAGE:
            raise self.make_error("rule")
        return int(value)


class Id(fields.String):
    """An id with this prefix."""

    default_error_messages = {"rule": "Not an id: it must look like {prefix}_0190…."}

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(**options)
        self._prefix = prefix
        self.json_schema: dict[str, Any] = {"type": "string", "pattern": f"^{prefix}_{UUID_PATTERN}$"}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        found = parse_id(value, self._prefix) if isinstance(value, str) else None
        if found is None:
            raise self.make_error("rule", prefix=self._prefix)
        return found


class Cursor(Id):
    """The id of the last item of the previous page."""

    default_error_messages = {"rule": "Must be the id of the last item of the previous page."}

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.json_schema["description"] = (
            "The id of the last item of the previous page, after which this page begins. The `Link` header of the "
            "previous page has it, too."
        )


class Moment(fields.String):
    """A time as RFC 3339 writes it."""

    json_schema = {"type": "string", "format": "date-time"}
    default_error_messages = {"rule": "Must be a time as in RFC 3339, such as 2026-01-31T08:00:00Z."}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        found = parse_time(value) if isinstance(value, str) else None
        if found is None:
            raise self.make_error("rule")
        return found
