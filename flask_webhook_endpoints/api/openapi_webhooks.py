"""The `webhooks` of the OpenAPI document: the deliveries that a receiver gets.

Source: OpenAPI 3.1.1 section 4.8.1 (`webhooks`), Standard Webhooks 1.0.0 (headers and the body's shape).
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Any
from urllib.parse import unquote

from flask_webhook_endpoints.core.declarations import DeclaredEvent
from flask_webhook_endpoints.core.deliveries import PING
from flask_webhook_endpoints.core.event_schemas import DATA_WORDS, NAMED_WORDS
from flask_webhook_endpoints.identifiers import UUID_PATTERN

TAG = "webhooks"

_PING = DeclaredEvent(
    name=PING,
    description="Tries out an endpoint, when its tenant asks for it.",
    deprecated=False,
    schema={
        "type": "object",
        "properties": {"endpoint_id": {"type": "string", "description": "The endpoint that was pinged."}},
        "required": ["endpoint_id"],
    },
    example={"endpoint_id": "ep_550e8400-e29b-41d4-a716-446655440000"},
)

_HEADERS: dict[str, dict[str, Any]] = {
    "webhook-id": {
        "description": "The event's id, the same in every attempt. A receiver that has seen it answers 2xx and does "
        "nothing else.",
        "schema": {"type": "string", "pattern": f"^evt_{UUID_PATTERN}$"},
    },
    "webhook-timestamp": {
        "description": "When this attempt was signed, in seconds since 1970. Refuse what is over five minutes off.",
        "schema": {"type": "integer", "format": "int64"},
    },
    "webhook-signature": {
        "description": "A signature for each secret in force, with spaces between them: `v1,` and the base64 of the "
        "HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}`. Accept the delivery if one of them is right.",
        "schema": {"type": "string"},
    },
}

_RESPONSES = {
    "2XX": {"description": "Received. Anything else is retried later."},
    "410": {"description": "The receiver wants no more: the endpoint is paused."},
    "429": {"description": "Too much at once: the endpoint rests for the seconds of `Retry-After`, an hour at most."},
}


def described(declared: Iterable[DeclaredEvent], taken: Collection[str]) -> dict[str, Any]:
    """Return the members of the document that describe deliveries; no component gets a name that is `taken`."""
    webhooks: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for event in (_PING, *declared):
        names = _Names(event, {*taken, *schemas})
        schemas[names.envelope] = _envelope(event, names)
        schemas.update(_data_schemas(event, names))
        webhooks[event.name] = {"post": _operation(event, names)}
    parameters = {name: {"in": "header", "name": name, "required": True, **header} for name, header in _HEADERS.items()}
    return {"webhooks": webhooks, "components": {"schemas": schemas, "parameters": parameters}}


class _Names:
    """The names of an event's components: `InvoicePaidEvent`, `InvoicePaidData`, and `InvoicePaid…` for its `$defs`."""

    def __init__(self, event: DeclaredEvent, taken: set[str]) -> None:
        begin = _camel(event.name)
        self.envelope = _free(f"{begin}Event", taken)
        self.data = _free(f"{begin}Data", taken)
        self.defs = {name: _free(begin + _camel(name), taken) for name in (event.schema or {}).get("$defs", {})}

    def reference(self, pointer: str) -> str:
        """Return where a reference within the event's schema leads in the document."""
        parts = pointer.removeprefix("#").split("/")
        # A pointer in a URI (RFC 6901 section 6).
        name = unquote(parts[2]).replace("~1", "/").replace("~0", "~") if parts[1:2] == ["$defs"] else None
        if name in self.defs:
            return "/".join(["#/components/schemas", self.defs[name], *parts[3:]])
        return "/".join(["#/components/schemas", self.data, *parts[1:]])


def _free(name: str, taken: set[str]) -> str:
    numbered = (f"{name}{number}" for number in count(2))
    free = next(each for each in chain([name], numbered) if each not in taken)
    taken.add(free)
    return free


def _camel(name: str) -> str:
    return "".join(word[0].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", name))


def _data_schemas(event: DeclaredEvent, names: _Names) -> Iterator[tuple[str, Any]]:
    """Yield the components of an event's schema. Those of its `$defs` are its own, as most generators need."""
    if event.schema is None:
        return
    moved = _moved(event.schema, names)
    # A component is no document of its own.
    for word in ("$schema", "$id"):
        moved.pop(word, None)
    for name, schema in moved.pop("$defs", {}).items():
        yield names.defs[name], schema
    yield names.data, moved


def _moved(schema: Any, names: _Names) -> Any:
    """Return a copy of a schema with references to where its parts are in the document."""
    if isinstance(schema, list):
        return [_moved(part, names) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {word: _moved_part(word, part, names) for word, part in schema.items()}


def _moved_part(word: str, part: Any, names: _Names) -> Any:
    if word == "$ref":
        return names.reference(part)
    if word in NAMED_WORDS:
        return {name: _moved(each, names) for name, each in part.items()}
    return part if word in DATA_WORDS else _moved(part, names)


def _operation(event: DeclaredEvent, names: _Names) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{names.envelope}"}}
    if event.example is not None:
        body = {"type": event.name, "timestamp": "2024-01-01T00:00:00Z", "data": event.example}
        content["examples"] = {"A delivery": {"value": body}}
    operation = {
        "operationId": f"receive_{re.sub(r'[.-]', '_', event.name)}",
        "summary": f"Receive `{event.name}`.",
        "tags": [TAG],
        "security": [],
        "parameters": [{"$ref": f"#/components/parameters/{header}"} for header in _HEADERS],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": _RESPONSES,
    }
    if event.description:
        operation["description"] = event.description
    return {**operation, "deprecated": True} if event.deprecated else operation


def _envelope(event: DeclaredEvent, names: _Names) -> dict[str, Any]:
    about = "The data that the application published."
    data = {"description": f"{about} Any JSON."}
    if event.schema is not None:
        data = {"$ref": f"#/components/schemas/{names.data}", "description": about}
    return {
        "type": "object",
        "description": f"The body of a `{event.name}` delivery.",
        "properties": {
            "type": {"type": "string", "const": event.name, "description": "The event's type."},
            "timestamp": {"type": "string", "format": "date-time", "description": "When the event was published."},
            "data": data,
        },
        "required": ["type", "timestamp", "data"],
    }
