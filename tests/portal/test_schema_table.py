"""Tables of JSON Schemas: right for the usual ones, bounded for the others."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_webhook_endpoints.portal import schema_table
from flask_webhook_endpoints.portal.schema_table import MAX_ROWS, MAX_VALUES

LINE = {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]}


def types(schema):
    """Return the type of each property by its path; a required one has an exclamation mark."""
    return {each.path: each.type + "!" * each.is_required for each in schema_table.table(schema).properties}


def of(**properties):
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, {}),
        ({"type": "string"}, {}),
        (of(id={"type": "integer"}), {"id": "integer"}),
        ({**of(id={"type": "integer"}), "required": ["id", "other"]}, {"id": "integer!"}),
        (of(a={"type": ["string", "null"]}), {"a": "string | null"}),
        (of(a={"enum": ["x", 1, None]}), {"a": "string | integer | null"}),
        (of(a={"const": True}), {"a": "boolean"}),
        (of(a=True, b={}), {"a": "any", "b": "any"}),
        (of(a={"properties": {"b": {"items": {"type": "number"}}}}), {"a": "object", "a.b": "number[]"}),
        (of(lines={"type": "array", "items": LINE}), {"lines": "object[]", "lines[].sku": "string!"}),
        (of(a={"type": "array", "items": {"type": ["string", "null"]}}), {"a": "(string | null)[]"}),
        (of(a={"prefixItems": [{"type": "string"}, LINE]}), {"a": "any", "a[0]": "string", "a[1]": "object",
                                                             "a[1].sku": "string!"}),
        (of(a={"type": "object", "additionalProperties": {"type": "string"}}), {"a": "object", "a.*": "string"}),
        (of(a={"patternProperties": {"^x": {"type": "string"}}}), {"a": "any", "a./^x/": "string"}),
        ({"type": "array", "items": LINE}, {"[].sku": "string!"}),
        ({**of(a={"$ref": "#/$defs/A~1B%20"}), "$defs": {"A/B ": LINE}}, {"a": "object", "a.sku": "string!"}),
        (of(a={"$ref": "#/$defs/Absent"}, b={"$ref": "#/properties/a/9"}), {"a": "any", "b": "any"}),
        ({"allOf": [LINE, of(id={"type": "integer"})], "required": ["id"]}, {"sku": "string!", "id": "integer!"}),
        (of(a={"anyOf": [{"type": "string"}, {"type": "null"}]}), {"a": "string | null"}),
        (of(a={"anyOf": [LINE, {"type": "null"}]}), {"a": "object | null", "a.sku": "string!"}),
        (
            {**of(a={"oneOf": [{"$ref": "#/$defs/Line"}, {"title": "Free", **of(text={"type": "string"})}, {}]}),
             "$defs": {"Line": LINE}},
            {"a": "object | any", "a (Line)": "object", "a.sku": "string!", "a (Free)": "object", "a.text": "string",
             "a (3)": "any"},
        ),
    ],
)  # fmt: skip
def test_properties_have_a_path_and_a_type(schema, expected):
    assert types(schema) == expected


def test_a_property_has_its_description_its_values_and_its_rules():
    colour = {"enum": ["red", 7], "description": "Its colour.", "default": "red", "deprecated": True}
    code = {"type": "string", "title": "Code", "format": "uuid", "pattern": "^[a-z]+$", "maxLength": 9}

    one, other = schema_table.table(of(colour=colour, code=code)).properties

    assert (one.description, one.values, one.is_deprecated) == ("Its colour.", ['"red"', "7"], True)
    assert one.rules == ["default: red"]
    assert (other.description, other.values, other.is_deprecated) == ("Code", [], False)
    assert other.rules == ["format: uuid", "pattern: ^[a-z]+$", "maxLength: 9"]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (of(parent={"$ref": "#"}), {"parent": ""}),
        ({"$ref": "#/$defs/N", "$defs": {"N": of(next={"$ref": "#/$defs/N"})}}, {"next": ""}),
        (
            {**of(node={"$ref": "#/$defs/N"}), "$defs": {"N": of(nodes={"items": {"$ref": "#/$defs/N"}})}},
            {"node": None, "node.nodes": None, "node.nodes[]": "node"},
        ),
        ({"$ref": "#"}, {}),
        (of(a={"allOf": [{"$ref": "#"}]}), {"a": ""}),
        (of(a={"anyOf": [{"$ref": "#"}, {"type": "null"}]}), {"a": None}),
    ],
)
def test_a_schema_that_holds_itself_ends_where_it_would_begin_again(schema, expected):
    found = schema_table.table(schema)

    assert {each.path: each.same_as for each in found.properties} == expected
    assert found.is_whole


def nested(depth):
    return of(a=nested(depth - 1)) if depth else {"type": "string"}


def exponential(levels):
    """Make a schema whose references lead to two to the power of `levels` schemas."""
    parts = {f"L{n}": {"allOf": [{"$ref": f"#/$defs/L{n + 1}"}, {"$ref": f"#/$defs/L{n + 1}"}]} for n in range(levels)}
    choices = {f"C{n}": {"anyOf": [of(a={"$ref": f"#/$defs/C{n + 1}"}), of(b={"$ref": f"#/$defs/C{n + 1}"})]}
               for n in range(levels)}  # fmt: skip
    return {**of(a={"$ref": "#/$defs/L0"}, b={"$ref": "#/$defs/C0"}), "$defs": {**parts, **choices}}


@pytest.mark.parametrize(
    "schema",
    [
        nested(300),
        exponential(40),
        of(**{f"p{n}": {"type": "string"} for n in range(MAX_ROWS + 1)}),
        of(**{f"p{n}": of(**{f"q{m}": {} for m in range(50)}) for n in range(50)}),
    ],
    ids=["deep", "exponential", "wide", "wide-and-deep"],
)
def test_a_table_is_bounded_and_says_that_it_ends(schema):
    found = schema_table.table(schema)

    assert len(found.properties) <= MAX_ROWS
    assert not found.is_whole


def test_long_texts_are_cut():
    [row] = schema_table.table(of(a={"enum": ["x" * 9_999] * (MAX_VALUES + 1), "pattern": "y" * 9_999})).properties

    assert len(row.values) == MAX_VALUES + 1
    assert all(len(each) < 250 for each in (*row.values, *row.rules))


keywords = st.sampled_from(
    ["type", "properties", "items", "anyOf", "allOf", "$ref", "enum", "required", "title", "description", "a"]
)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["string", "array", "#", "#/properties/a", "#/allOf/0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keywords, inner, max_size=4),
)


@given(st.dictionaries(keywords, anything, max_size=5))
@settings(deadline=None)
def test_no_schema_breaks_the_table(schema):
    found = schema_table.table(schema)

    assert len(found.properties) <= MAX_ROWS
    json.dumps(found)
