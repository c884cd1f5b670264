"""A JSON Schema as the rows of a table: each property with its path, type and rules.

Deep schemas, and those that hold themselves, end at a limit. Types are written as programmers write them: `string[]`,
`integer | null`. Source: JSON Schema 2020-12.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote

MAX_ROWS = 200
"""The number of rows that a table has at most."""

MAX_DEPTH = 12
"""The number of schemas within each other that are read."""

MAX_READ = 5_000
"""The number of schemas that are read for one table, because few references may lead to very many."""

MAX_VALUES = 20
"""The number of values of an enum that a row has at most."""

_MAX_TEXT = 200
"""Characters of a type, a value or a rule that are shown."""

_RULES = (
    "format", "const", "default", "pattern", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum",
    "multipleOf", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip
"""Keywords that are shown beside the type."""

_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


class Property(NamedTuple):
    """A row: a property of the data, or one of several schemas that it may have."""

    path: str
    """Such as `lines[].sku`."""
    type: str
    same_as: str | None
    """The path of the property that has the same schema and holds this one. It is empty for the data as a whole."""
    is_required: bool
    is_deprecated: bool
    description: str
    values: Sequence[str]
    """The values that it may have, as JSON; empty: any."""
    rules: Sequence[str]


class SchemaTable(NamedTuple):
    """The rows of a schema."""

    type: str
    """The type of the data as a whole."""
    properties: Sequence[Property]
    is_whole: bool
    """False: some parts of the schema are too deep or too many."""


def table(schema: Mapping[str, Any]) -> SchemaTable:
    """Return the table of a schema whose references lead to places in it."""
    reader, whole = _Reader(schema), _Place("", {"#": ""}, 0)
    rows = list(islice(reader.rows_within(schema, whole), MAX_ROWS + 1))
    type_ = reader.type_of(schema, whole)
    return SchemaTable(type_, rows[:MAX_ROWS], is_whole=reader.is_whole and len(rows) <= MAX_ROWS)


class _Place(NamedTuple):
    """The place of a schema within the whole."""

    path: str
    above: Mapping[str, str]
    """The references that led here, with the path where each was met first."""
    depth: int

    def inner(self, suffix: str) -> "_Place":
        path = f"{self.path}{suffix}" if self.path else suffix.lstrip(".")
        return _Place(path, self.above, self.depth + 1)


class _Known(NamedTuple):
    """The keywords of a schema, with those of the schemas that it refers to and consists of."""

    words: Mapping[str, Any]
    place: _Place
    same_as: str | None


@dataclass
class _Reader:
    """Reads a schema, and remembers how much of it."""

    root: Mapping[str, Any]
    is_whole: bool = True
    left: int = MAX_READ

    def rows_within(self, schema: Any, place: _Place) -> Iterator[Property]:
        """Yield the rows of all that is within the data of a schema."""
        words, place, same_as = self._read(schema, place)
        if same_as is not None:
            return
        required = _list(words.get("required"))
        for name, inner in _dict(words.get("properties")).items():
            yield from self._rows(inner, place.inner(f".{name}"), is_required=name in required)
        for name, inner in _dict(words.get("patternProperties")).items():
            yield from self._rows(inner, place.inner(f"./{name}/"))
        if _dict(others := words.get("additionalProperties")):
            yield from self._rows(others, place.inner(".*"))
        for number, inner in enumerate(_list(words.get("prefixItems"))):
            yield from self._rows(inner, place.inner(f"[{number}]"))
        if _dict(items := words.get("items")):
            yield from self._rows_of_items(items, place.inner("[]"))
        yield from self._rows_of_choices(_choices(words), place)

    def type_of(self, schema: Any, place: _Place) -> str:
        """Return the type of a schema's data as text."""
        words, place, _ = self._read(schema, place)
        types = [words["type"]] if isinstance(words.get("type"), str) else list(map(str, _list(words.get("type"))))
        types = types or _types_of_values(words) or [each for each in ("properties", "items") if each in words]
        names = {"properties": "object", "items": "array"}
        named = [names.get(each, each) for each in types]
        if "array" in named and _dict(items := words.get("items")):
            item = self.type_of(items, place.inner("[]"))
            named[named.index("array")] = f"({item})[]" if " | " in item else f"{item}[]"
        if not named:
            named = [self.type_of(each, place.inner("")) for each in _choices(words)]
        return _cut(" | ".join(dict.fromkeys(named)) or "any")

    def _rows(self, schema: Any, place: _Place, *, is_required: bool = False) -> Iterator[Property]:
        yield self._row(schema, place, is_required=is_required)
        yield from self.rows_within(schema, place)

    def _rows_of_items(self, schema: Any, place: _Place) -> Iterator[Property]:
        known = self._read(schema, place)
        # The row of the array tells their type; their rules and their name want a row.
        if known.same_as is not None or any(word in known.words for word in ("enum", "description", *_RULES)):
            yield self._row(schema, place)
        yield from self.rows_within(schema, place)

    def _rows_of_choices(self, choices: Sequence[Any], place: _Place) -> Iterator[Property]:
        some = [each for each in choices if _dict(each).get("type") != "null"]
        for number, choice in enumerate(some, start=1):
            if len(some) > 1:
                named = place._replace(path=f"{place.path} ({_name(choice) or number})".lstrip())
                yield self._row(choice, named)
            yield from self.rows_within(choice, place.inner(""))

    def _row(self, schema: Any, place: _Place, *, is_required: bool = False) -> Property:
        words, _, same_as = self._read(schema, place)
        return Property(
            path=place.path,
            type=self.type_of(schema, place),
            same_as=same_as,
            is_required=is_required,
            is_deprecated=words.get("deprecated") is True,
            description=_description(words, place.path),
            values=_values(_list(words.get("enum"))),
            rules=[f"{word}: {_shown(words[word])}" for word in _RULES if word in words],
        )

    def _read(self, schema: Any, place: _Place) -> _Known:
        """Return the keywords of a schema; none of one that is too deep, or holds itself."""
        self.left -= 1
        if self.left < 0 or place.depth > MAX_DEPTH:
            self.is_whole = False
            return _Known({}, place, None)
        words, same_as = dict(_dict(schema)), None
        parts = [*_list(words.pop("allOf", None))]
        reference = words.pop("$ref", None)
        if isinstance(reference, str) and reference in place.above:
            same_as = place.above[reference]
            words = {"type": _dict(self._at(reference)).get("type", "object"), **words}
        elif isinstance(reference, str):
            place = place._replace(above={**place.above, reference: place.path})
            parts.insert(0, self._at(reference))
        for part in parts:
            inner = self._read(part, place.inner(""))
            place = place._replace(above=inner.place.above)
            words, same_as = _merged(inner.words, words), same_as if same_as is not None else inner.same_as
        return _Known(words, place, same_as)

    def _at(self, reference: str) -> Any:
        """Return what a reference leads to (RFC 6901); None: nothing."""
        found: Any = self.root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = found[int(name)] if name.isdecimal() and int(name) < len(found) else None
            else:
                found = _dict(found).get(name)
        return found


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of two schemas that both hold; where only one value fits, the other's."""
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**_dict(one["properties"]), **_dict(other["properties"])}
    if "required" in one and "required" in other:
        merged["required"] = [*_list(one["required"]), *_list(other["required"])]
    return merged


def _choices(words: Mapping[str, Any]) -> Sequence[Any]:
    return [*_list(words.get("anyOf")), *_list(words.get("oneOf"))]


def _types_of_values(words: Mapping[str, Any]) -> list[str]:
    values = [words["const"]] if "const" in words else _list(words.get("enum"))
    return list(dict.fromkeys(_JSON_TYPES.get(type(value), "null") for value in values))


def _name(schema: Any) -> str:
    """Return how people name one of several schemas: by its title, or by what it refers to."""
    given = _dict(schema)
    return _cut(str(given.get("title") or str(given.get("$ref", "")).rpartition("/")[2]))


def _description(words: Mapping[str, Any], path: str) -> str:
    title = str(words.get("title") or "")
    return str(words.get("description") or ("" if path.endswith(f"({title})") else title))


def _values(values: Sequence[Any]) -> list[str]:
    shown = [_cut(json.dumps(value, ensure_ascii=False)) for value in values[:MAX_VALUES]]
    return [*shown, "…"] if len(values) > MAX_VALUES else shown


def _shown(value: Any) -> str:
    return _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def _dict(value: Any) -> Mapping[str, Any]:
    # A schema may be True or False, too.
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
