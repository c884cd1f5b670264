"""The schema of an event's data: shown as JSON Schema, and checked without repeating a value of the data.

Source: JSON Schema 2020-12.
"""

import copy
import difflib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields

Declared = type[Schema] | Schema | Mapping[str, Any]
"""A schema as hosts declare it: of marshmallow, or a JSON Schema."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The `$schema` that a JSON Schema may have."""

MAX_FAULTS = 3
"""The number of faults that one message names."""

DATA_WORDS = frozenset({"const", "default", "enum", "examples"})
"""Keywords of JSON Schema whose values are data, not schemas."""

NAMED_WORDS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
"""Keywords of JSON Schema whose values hold schemas by names that are not keywords."""

_ELSEWHERE = ("$anchor", "$dynamicAnchor", "$dynamicRef", "$id")

_MISSING, _UNKNOWN = "Missing data for required field.", "Unknown field."
_REFERENCE = re.compile(r"#/components/schemas/([^/]+)")


class Fault(NamedTuple):
    """A place of the data that breaks a rule."""

    path: tuple[str | int, ...]
    rule: str


class EventSchema(NamedTuple):
    """The schema of the data of one type of events."""

    shown: dict[str, Any]
    """The schema as JSON Schema. References are to places in it: `#/$defs/…`."""
    faults: Callable[[Any], Iterable[Fault]]
    """Returns the faults of data, which is JSON that was decoded."""

    def breach(self, data: Any) -> str | None:
        """Return the first faults of data as one text, in words of the schema alone; None without faults."""
        found = list(islice(self.faults(data), MAX_FAULTS + 1))
        if not found:
            return None
        names = frozenset(_names(self.shown))
        told = [_told(fault, names) for fault in found[:MAX_FAULTS]]
        return " ".join(dict.fromkeys([*told, "There are more."] if len(found) > MAX_FAULTS else told))


def of(declared: Declared) -> EventSchema:
    """Return the schema that a host declares; raise `ValueError` with what is wrong with it.

    Raises:
        ModuleNotFoundError: It is a JSON Schema, and `jsonschema_rs` is not installed.

    """
    if isinstance(declared, type) and issubclass(declared, Schema):
        declared = declared()
    if isinstance(declared, Schema):
        sent = _as_sent(declared)
        return EventSchema(_json_schema(sent), lambda data: _marshmallow_faults(sent, data))
    if not isinstance(declared, Mapping):
        raise ValueError(f"must be a marshmallow schema or a JSON Schema, a dict; not {type(declared).__name__}")
    # A copy of plain JSON, which the host can't change.
    shown = json.loads(json.dumps(dict(declared), allow_nan=False))
    return EventSchema(shown, _json_schema_faults(shown))


def _json_schema_faults(schema: dict[str, Any]) -> Callable[[Any], Iterable[Fault]]:
    if schema.get("$schema", DIALECT).rstrip("#") != DIALECT:
        raise ValueError(f"its $schema must be {DIALECT}, or absent")
    _check_references(schema)
    # Imported here, because hosts without JSON Schemas need not have it.
    import jsonschema_rs  # noqa: PLC0415

    try:
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True, retriever=_never)
    except jsonschema_rs.ValidationError as error:
        raise ValueError(f"is not a JSON Schema 2020-12: {error.message}") from None

    def faults(data: Any) -> Iterator[Fault]:
        if validator.is_valid(data):
            return
        for error in validator.iter_errors(data):
            yield from _faults_of(error)

    return faults


def _check_references(schema: dict[str, Any]) -> None:
    """Raise `ValueError` for a reference that is no pointer: the OpenAPI document can't have the schema then."""
    for part in _schemas(schema):
        reference = part.get("$ref", "#")
        if isinstance(reference, str) and reference.partition("/")[0] != "#":
            raise ValueError(f"a $ref must lead to a place in the schema, such as #/$defs/Line; not {reference}")
        if word := next((each for each in _ELSEWHERE if each in part and (each != "$id" or part is not schema)), None):
            raise ValueError(f"has {word}; let a $ref lead to a place in it instead, such as #/$defs/Line")


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a JSON Schema and all schemas within it."""
    if isinstance(schema, list):
        yield from (inner for part in schema for inner in _schemas(part))
    if not isinstance(schema, dict):
        return
    yield schema
    for word, part in schema.items():
        if word in NAMED_WORDS and isinstance(part, dict):
            yield from _schemas(list(part.values()))
        elif word not in DATA_WORDS:
            yield from _schemas(part)


def _never(uri: str) -> Any:
    raise ValueError("no schema is ever fetched; put it below $defs")


def _faults_of(error: Any) -> Iterator[Fault]:
    path = tuple(error.instance_path)
    match error.kind.name:
        case "required":
            yield Fault((*path, error.kind.property), _MISSING)
        case "additionalProperties" | "unevaluatedProperties":
            yield from (Fault((*path, name), _UNKNOWN) for name in error.kind.unexpected)
        case "type":
            yield Fault(path, f"Must be of type {' or '.join(error.kind.types)}.")
        case kind:
            yield Fault(path, f"Breaks the rule {error.schema_path[-1] if error.schema_path else kind}.")


def _as_sent(schema: Schema, above: Mapping[Any, Schema] = MappingProxyType({})) -> Schema:
    """Return a copy of the schema that loads what the schema dumps, because that is what hosts publish."""
    sent = copy.copy(schema)
    # A schema that holds itself would never end.
    within = {**above, _kind(schema): sent}
    sent.fields = {name: _field_as_sent(field, within) for name, field in schema.dump_fields.items()}
    sent.load_fields = sent.dump_fields = sent.fields
    return sent


def _kind(schema: Schema) -> tuple[Any, ...]:
    only = None if schema.only is None else frozenset(schema.only)
    return type(schema), only, frozenset(schema.exclude), schema.many, schema.unknown


def _field_as_sent(field: fields.Field[Any], above: Mapping[Any, Schema]) -> fields.Field[Any]:
    sent = copy.copy(field)
    sent.dump_only = False
    match sent:
        case fields.Nested():
            sent._schema = above.get(_kind(sent.schema)) or _as_sent(sent.schema, above)
        case fields.List():
            sent.inner = _field_as_sent(sent.inner, above)
        case fields.Tuple():
            sent.tuple_fields = [_field_as_sent(each, above) for each in sent.tuple_fields]
        case fields.Mapping():
            sent.value_field = sent.value_field and _field_as_sent(sent.value_field, above)
    return sent


def _json_schema(schema: Schema) -> dict[str, Any]:
    spec = APISpec(title="", version="", openapi_version="3.1.1", plugins=[plugin := MarshmallowPlugin()])
    assert plugin.converter is not None  # noqa: S101 - tells the type checker what init_spec did
    plugin.converter.add_attribute_function(_decimal)  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        # apispec warns of fields that it can't describe, and of two schemas with the same name.
        warnings.simplefilter("ignore")
        shown = plugin.converter.schema2jsonschema(schema)  # type: ignore[no-untyped-call]
        nested = spec.components.schemas
    if schema.many:
        shown = {"type": "array", "items": shown}
    plain = json.loads(json.dumps({**shown, "$defs": nested} if nested else shown, default=str))
    opened: dict[str, Any] = _opened(plain)
    return opened


def _decimal(_: Any, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """Describe a decimal as it is sent: Flask encodes one as text."""
    if not isinstance(field, fields.Decimal):
        return {}
    return {"type": "string" if field.as_string else ["string", "number"]}


def _opened(shown: Any) -> Any:
    """Return a schema that allows further members, so that receivers accept what a later version adds."""
    if isinstance(shown, list):
        return [_opened(each) for each in shown]
    if not isinstance(shown, dict):
        return shown
    opened = {
        name: _opened(value) for name, value in shown.items() if not (name == "additionalProperties" and value is False)
    }
    if isinstance(reference := opened.get("$ref"), str):
        opened["$ref"] = _REFERENCE.sub(r"#/$defs/\1", reference)
    return opened


def _marshmallow_faults(schema: Schema, data: Any) -> Iterable[Fault]:
    try:
        messages = schema.validate(data)
    except Exception as error:  # a hook of the host's schema did not expect such data
        return [Fault((), f"Its schema raised {type(error).__name__}.")]
    return _flat(messages)


def _flat(messages: Any, path: tuple[str | int, ...] = ()) -> Iterator[Fault]:
    if isinstance(messages, dict):
        for key, inner in messages.items():
            yield from _flat(inner, path if key == "_schema" else (*path, key))
        return
    for message in messages if isinstance(messages, list) else [messages]:
        # Only these messages are known to repeat no value.
        yield Fault(path, message if isinstance(message, str) and message in _CONSTANT else "Is not valid.")


def _messages() -> Iterator[Any]:
    yield from Schema().error_messages.values()
    for each in vars(fields).values():
        if isinstance(each, type) and issubclass(each, fields.Field):
            yield from each.default_error_messages.values()


_CONSTANT = frozenset(message for message in _messages() if isinstance(message, str) and "{" not in message)


def _names(shown: Any) -> Iterator[str]:
    """Yield the names of members that a JSON Schema has."""
    if isinstance(shown, dict):
        properties, required = shown.get("properties"), shown.get("required")
        yield from properties if isinstance(properties, dict) else ()
        yield from required if isinstance(required, list) else ()
        shown = list(shown.values())
    if isinstance(shown, list):
        for inner in shown:
            yield from _names(inner)


def _told(fault: Fault, names: frozenset[str]) -> str:
    """Return a fault as text. A name that the schema does not have may be data, and is told as `*`."""
    place = "data"
    for key in fault.path:
        place += f"[{key}]" if isinstance(key, int) else f".{key if key in names else '*'}"
    near = []
    if fault.rule == _UNKNOWN and isinstance(unknown := fault.path[-1], str):
        near = difflib.get_close_matches(unknown[:64], names, n=1)
    return f"{place}: {fault.rule}" + (f" Did you mean {near[0]}?" if near else "")
