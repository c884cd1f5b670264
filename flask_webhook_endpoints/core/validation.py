"""Fields that come from outside, a request or the host's code, checked by a marshmallow schema."""

from collections.abc import Mapping
from typing import Any, Literal

from marshmallow import Schema, ValidationError

from flask_webhook_endpoints.errors import InvalidFields
from flask_webhook_endpoints.security.private import Private, forget_locals

MAX_FAULTS = 10
"""The number of faults that one answer names."""

_FIRST_FAULTS = f"Many fields are not valid; see errors for the first {MAX_FAULTS} faults."


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
