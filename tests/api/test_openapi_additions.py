"""What a host adds to the OpenAPI document with `WebhookEndpoints(openapi=…)`, and the webhooks in the document."""

import json

import jsonschema_rs
import pytest
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields

from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.errors import RegistrationError
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.validators import faults_of

LOGIN = {
    "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    "security": [{"key": []}],
}


def document_with(openapi):
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header, openapi=openapi)
    app = hosts.new_app(SQLALCHEMY_DATABASE_URI="sqlite://")
    app.register_blueprint(webhooks.blueprint)
    served = app.test_client().get("/v1/openapi.json").json
    printed = json.loads(app.test_cli_runner().invoke(args=["webhooks", "openapi"]).stdout)
    assert printed == served
    assert faults_of(served) == []
    return served


@pytest.fixture(scope="module")
def plain():
    return document_with(None)


def test_a_login_is_described_and_nothing_else_changes(plain):
    document = document_with(LOGIN)

    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert document["paths"] == plain["paths"]
    assert document["components"]["schemas"] == plain["components"]["schemas"]


def test_what_needs_no_login_says_so(plain):
    assert plain["paths"]["/v1/openapi.json"]["get"]["security"] == []
    assert plain["webhooks"]["webhook.ping"]["post"]["security"] == []
    assert "security" not in plain
    assert "security" not in plain["paths"]["/v1/endpoints"]["get"]


def test_objects_are_merged_tags_by_name_and_the_rest_is_replaced(plain):
    document = document_with(
        {
            "info": {"title": "Shop", "license": {"name": "MIT"}},
            "servers": [{"url": "https://api.shop.example"}],
            "tags": [{"name": "secrets", "x-order": 1}, {"name": "invoices"}],
            "paths": {"/v1/endpoints": {"get": {"tags": ["invoices"], "x-scope": "read"}}},
            "x-shop": True,
        }
    )

    assert document["info"] == {**plain["info"], "title": "Shop", "license": {"name": "MIT"}}
    assert document["servers"] == [{"url": "https://api.shop.example"}]
    assert [tag["name"] for tag in document["tags"]] == [*(tag["name"] for tag in plain["tags"]), "invoices"]
    (secrets,) = [tag for tag in document["tags"] if tag["name"] == "secrets"]
    assert secrets["x-order"] == 1
    assert secrets["description"]
    operation = document["paths"]["/v1/endpoints"]["get"]
    assert (operation["tags"], operation["x-scope"]) == (["invoices"], "read")
    assert operation["responses"] == plain["paths"]["/v1/endpoints"]["get"]["responses"]
    assert document["x-shop"] is True


def test_what_is_added_is_taken_when_it_is_given():
    given = {"info": {"title": "Shop"}}
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header, openapi=given)
    given["info"]["title"] = "changed"
    app = hosts.new_app(SQLALCHEMY_DATABASE_URI="sqlite://")
    app.register_blueprint(webhooks.blueprint)

    assert app.test_client().get("/v1/openapi.json").json["info"]["title"] == "Shop"


@pytest.mark.parametrize(
    ("given", "message"),
    {
        "a list": ([], "openapi must be a dict"),
        "a text": ("{}", "openapi must be a dict"),
        "not JSON": ({"x-a": object()}, "what JSON can express"),
        "NaN": ({"x-a": float("nan")}, "what JSON can express"),
        "schemes outside components": ({"securitySchemes": {}}, "'securitySchemes'. It belongs in components."),
        "a misspelt name": ({"tag": []}, "not 'tag'"),
        "another version": ({"openapi": "3.0.3"}, "not 'openapi'"),
        "info is a text": ({"info": "Shop"}, "info must be a dict, not str"),
        "tags are an object": ({"tags": {}}, "tags must be a list, not dict"),
        "components of a list": ({"components": {"schemas": []}}, "components.schemas must be a dict, not list"),
        "an unknown scheme": ({"security": [{"key": []}]}, "security names 'key'"),
        "a scheme without scopes": ({"security": ["key"]}, "not 'key'"),
    }.values(),
)
def test_what_can_not_be_a_part_of_the_document_is_refused_at_once(given, message):
    db = SQLAlchemy()

    with pytest.raises(RegistrationError) as refused:
        WebhookEndpoints(session=db.session, tenant=hosts.tenant_header, openapi=given)

    assert message in str(refused.value)


def test_a_real_ping_is_as_its_webhook_is_described(plain, host, acme):
    operation = plain["webhooks"]["webhook.ping"]["post"]
    endpoint = create_endpoint(acme)
    delivery = acme.post(f"{endpoint.path}/ping").json
    body = acme.get(f"{endpoint.path}/deliveries/{delivery['id']}").json["body"]

    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    validator = jsonschema_rs.Draft202012Validator({**schema, "components": plain["components"]}, validate_formats=True)
    validator.validate(json.loads(body))
    assert json.loads(body).keys() == {"type", "timestamp", "data"}
    assert not validator.is_valid({**json.loads(body), "type": "webhook.pong"})


class Line(Schema):
    sku = fields.String(required=True)


class Invoice(Schema):
    id = fields.Integer(required=True)
    lines = fields.List(fields.Nested(Line))


PAID = {"id": 7, "lines": [{"sku": "a"}]}
TREE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"child": {"$ref": "#"}, "leaf": {"$ref": "#/$defs/Details"}},
    "$defs": {"Details": {"type": "object", "properties": {"up": {"$ref": "#/properties/child"}}}},
}


@pytest.fixture(scope="module")
def declared():
    host = hosts.flask_sqlalchemy("sqlite://", register=False)
    host.webhooks.event_type("invoice.paid", description="An invoice was paid.", schema=Invoice, example=PAID)
    host.webhooks.event_type("invoice.old", deprecated=True)
    # Its components would have the names of ours.
    host.webhooks.event_type("delivery", schema=TREE)
    host.app.register_blueprint(host.webhooks.blueprint)
    yield host.client(None).get("/v1/openapi.json").json
    host.close()


def test_every_declared_event_is_a_webhook(declared):
    assert list(declared["webhooks"]) == ["webhook.ping", "delivery", "invoice.old", "invoice.paid"]
    paid, old = (declared["webhooks"][name]["post"] for name in ("invoice.paid", "invoice.old"))
    assert (paid["operationId"], paid["description"]) == ("receive_invoice_paid", "An invoice was paid.")
    assert ("deprecated" in paid, old["deprecated"]) == (False, True)
    assert faults_of(declared) == []


def test_events_are_valid_by_their_webhooks_and_others_are_not(declared):
    def validator(name):
        content = declared["webhooks"][name]["post"]["requestBody"]["content"]["application/json"]
        schema = {**content["schema"], "components": declared["components"]}
        return jsonschema_rs.Draft202012Validator(schema), content.get("examples")

    paid, examples = validator("invoice.paid")
    example = examples["A delivery"]["value"]
    assert example["data"] == PAID
    assert paid.is_valid(example)
    for wrong in ({"type": "invoice.old"}, {"data": {}}, {"data": {"id": 7, "lines": [{}]}}, {"timestamp": 7}):
        assert not paid.is_valid({**example, **wrong})
    old, _ = validator("invoice.old")
    assert old.is_valid({**example, "type": "invoice.old", "data": ["anything"]})
    tree, _ = validator("delivery")
    assert tree.is_valid({**example, "type": "delivery", "data": {"child": {"leaf": {"up": {"child": {}}}}}})
    assert not tree.is_valid({**example, "type": "delivery", "data": {"leaf": {"up": {"child": {"leaf": 7}}}}})


def test_a_schema_means_the_same_in_the_document_whatever_its_members_are_called():
    host = hosts.flask_sqlalchemy("sqlite://", register=False)
    properties = {
        "$ref": {"type": "string"},
        "default": {"$ref": "#/$defs/a%20line~1x"},
        "kind": {"enum": [{"$ref": "#/none"}]},
    }
    host.webhooks.event_type("odd", schema={"properties": properties, "$defs": {"a line/x": {"type": "integer"}}})
    host.app.register_blueprint(host.webhooks.blueprint)
    components = host.client(None).get("/v1/openapi.json").json["components"]
    host.close()

    validator = jsonschema_rs.Draft202012Validator({"$ref": "#/components/schemas/OddData", "components": components})
    data = {"$ref": "x", "default": 7, "kind": {"$ref": "#/none"}}
    assert validator.is_valid(data)
    for wrong in ({"$ref": 7}, {"default": "x"}, {"kind": "x"}):
        assert not validator.is_valid({**data, **wrong})


def test_components_of_events_leave_ours_alone(declared, plain):
    own = plain["components"]["schemas"]

    assert {name: declared["components"]["schemas"][name] for name in own.keys() & {"Delivery", "DeliveryDetails"}} == {
        name: own[name] for name in ("Delivery", "DeliveryDetails")
    }
    assert "$defs" not in json.dumps(declared)


@pytest.mark.parametrize(
    ("names", "has_enum"), [(["invoice.paid"], True), (["invoice.paid", "invoice_paid"], False)], ids=["apart", "alike"]
)
def test_names_that_generators_can_not_tell_apart_are_no_enum(names, has_enum):
    # openapi-python-client leaves one of two such constants out.
    host = hosts.flask_sqlalchemy("sqlite://", register=False)
    for name in names:
        host.webhooks.event_type(name)
    host.app.register_blueprint(host.webhooks.blueprint)
    document = host.client(None).get("/v1/openapi.json").json

    assert ("EventPattern" in document["components"]["schemas"]) == has_enum
    items = document["components"]["schemas"]["EndpointInput"]["properties"]["event_types"]["items"]
    assert items.keys() == ({"$ref"} if has_enum else {"type", "pattern", "maxLength"} & items.keys())
    host.close()


def test_webhooks_name_the_headers_that_deliveries_have(plain):
    parameters = plain["components"]["parameters"]
    named = [part["$ref"].rpartition("/")[2] for part in plain["webhooks"]["webhook.ping"]["post"]["parameters"]]

    assert named == ["webhook-id", "webhook-timestamp", "webhook-signature"]
    assert all(parameters[name]["required"] and parameters[name]["in"] == "header" for name in named)
