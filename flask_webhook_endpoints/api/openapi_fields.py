"""Fields in the OpenAPI document, in those words of JSON Schema that every generator of clients understands.

A default makes a field required for some generators and drops the operation for others, so that the description tells
it. An enum is a component, so that it has one name. `readOnly`, `writeOnly` and `uniqueItems` are left out.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import missing
from marshmallow.fields import Field

from flask_webhook_endpoints import errors
from flask_webhook_endpoints.core.deliveries import STATUSES
from flask_webhook_endpoints.core.endpoint_statistics import Window
from flask_webhook_endpoints.database.models import EndpointStatus, PauseReason
from flask_webhook_endpoints.errors import Problem

_CODES = sorted(
    {each.code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Problem)}
    - {Problem.code}
)

ENUMS: Mapping[str, tuple[str, Sequence[str]]] = {
    "EndpointStatus": ("Deliveries to a paused endpoint are held.", [status.value for status in EndpointStatus]),
    "PauseReason": (
        "`user`: a request paused the endpoint. `gone`: its receiver answered 410. `failures`: its deliveries have "
        "failed for days.",
        [reason.value for reason in PauseReason],
    ),
    "DeliveryStatus": ("The state of a delivery.", list(STATUSES)),
    "StatisticsWindow": (
        "The hours, or the days, that are counted: the last one has begun.",
        [window.value for window in Window],
    ),
    "SecretFormat": ("How a secret signs.", ["whsec", "raw"]),
    "ProblemCode": ("A name of the problem for programs. Later versions may add names.", _CODES),
}
"""The components for enums: description and values of each."""

_NAMES = {frozenset(values): name for name, (_, values) in ENUMS.items()}

_LEFT_OUT = ("uniqueItems", "readOnly", "writeOnly")


def enum_schemas() -> dict[str, dict[str, Any]]:
    """Return the component of each enum."""
    return {
        name: {"type": "string", "description": description, "enum": list(values)}
        for name, (description, values) in ENUMS.items()
    }


def describe(_: Any, field: Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """Describe a field by its class and, first, its metadata; `ret` is what apispec says, which this empties."""
    given = {name: ret[name] for name in field.metadata if name in ret}
    schema = {**ret, **getattr(field, "json_schema", {}), **given}
    ret.clear()
    default = schema.pop("default", missing)
    # Absent fields of a PATCH stay as they are.
    if default is not missing and not getattr(field.parent, "partial", False):
        schema["description"] = f"{schema.get('description', '')} Default: `{json.dumps(default)}`.".strip()
    for name in _LEFT_OUT:
        schema.pop(name, None)
    if "title" in schema and not _have_names(schema["enum"]):
        del schema["title"], schema["enum"]
    if field.allow_none and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    return _named(schema)


def _named(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with a reference in place of an enum that has a name."""
    values = set(schema.get("enum", ())) - {None}
    name = _NAMES.get(frozenset(values))
    if name is None:
        return schema
    reference = {"$ref": f"#/components/schemas/{name}"}
    described = {"description": schema["description"]} if "description" in schema else {}
    if "null" in schema.get("type", ()) or None in schema["enum"]:
        return {"oneOf": [reference, {"type": "null"}], **described}
    return {**reference, **described}


def _have_names(values: Sequence[str]) -> bool:
    """Return whether generators can name each value: they leave out all but letters and digits."""
    return len({"_".join(re.findall("[a-z0-9]+", value.lower())) for value in values}) == len(values)


def with_named_enums(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with each enum that has a `title` as the component of this name."""
    found: dict[str, Any] = {}

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "enum" in value and isinstance(value.get("title"), str):
            found[value["title"]] = {"type": "string", "enum": value["enum"]}
            return {"$ref": f"#/components/schemas/{value['title']}"}
        return {name: named(inner) for name, inner in value.items()}

    described: dict[str, Any] = named(document)
    described["components"]["schemas"].update(found)
    return described
