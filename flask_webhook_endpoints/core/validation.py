"""Fields that come from outside, a request or the host's code: read from JSON, checked by a marshmallow schema.

Source: RFC 8259 (JSON).
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from marshmallow import Schema, ValidationError

from flask_webhook_endpoints.errors import InvalidFields, InvalidRequest
from flask_webhook_endpoints.security.private import Private, forget_locals

MAX_FAULTS = 10
"""The number of faults that one answer names."""

MAX_DEPTH = 200
"""Objects and arrays that a JSON text may nest, so that each reader of it has stack left."""

_FIRST_FAULTS = f"Many fields are not valid; see errors for the first {MAX_FAULTS} faults."


def read_json(text: str) -> Any:
    """Return the value of a JSON text that is the body of a request; raise `InvalidRequest`."""
    try:
        value = _decoder.decode(text)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not JSON (RFC 8259) in UTF-8, or too deeply nested.") from None
    # Most bodies open fewer objects and arrays in all.
    if text.count("{") + text.count("[") > MAX_DEPTH and _is_too_deep(value):
        raise InvalidRequest(f"The body is nested more than {MAX_DEPTH} levels deep.")
    return value


def load(schema: Schema, data: Any, *, unknown: Literal["exclude"] | None = None) -> Any:
    """Return `data` as `schema` loads it; raise `InvalidFields`."""
    try:
        return schema.load(data, unknown=unknown)
    except ValidationError as error:
        raise _invalid_fields(error.messages_dict) from None


def load_private(schema: Schema, fields: Private[Any]) -> Private[Any]:
    """Return fields as `schema` loads them, and keep their values out of tracebacks; raise `InvalidFields`."""
    try:
        return Private(load(schema, dict(fields.items())))
    except Exception as error:
        forget_locals(error)
        raise


def _invalid_fields(found: Mapping[Any, Any]) -> InvalidFields:
    """Return the problem that names the first of the faults: thousands fit into a body."""
    left = MAX_FAULTS

    def first(faults: Any) -> Any:
        nonlocal left
        if not isinstance(faults, dict):
            taken = faults[:left]
            left -= len(taken)
            return taken
        return {name: taken for name, inner in faults.items() if left and (taken := first(inner))}

    named = first(found)
    return InvalidFields(named) if named == found else InvalidFields(named, detail=_FIRST_FAULTS)


def _is_too_deep(value: Any) -> bool:
    level, depth = [value], 0
    while containers := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            return True
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
    return False


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidRequest("The body names a member of an object twice.")
    return members


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)
