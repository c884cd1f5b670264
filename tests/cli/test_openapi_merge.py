"""`flask webhooks openapi --merge`: our part of a host's own OpenAPI document."""

import json

import pytest

from tests.support import hosts
from tests.support.validators import faults_of

LOGIN = {
    "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    "security": [{"key": []}],
}
SHOP = {
    "openapi": "3.1.0",
    "info": {"title": "Shop", "version": "7"},
    "servers": [{"url": "https://shop.example"}],
    "tags": [{"name": "orders"}, {"name": "endpoints", "description": "Ours."}],
    "paths": {
        "/orders": {"get": {"operationId": "list_orders", "responses": {"200": {"description": "OK"}}}},
    },
}


@pytest.fixture
def merge(tmp_path):
    """Return a function that merges into a document, by the command, and returns its result."""
    made = []

    def merge(document, *options, openapi=None, name="shop.json", **registered):
        host = hosts.flask_sqlalchemy("sqlite://", register=False)
        made.append(host)
        if openapi:
            host.webhooks = type(host.webhooks)(
                session=host.db.session, tenant=hosts.tenant_header, metadata=None, openapi=openapi
            )
        host.app.register_blueprint(host.webhooks.blueprint, **registered)
        file = tmp_path / name
        file.write_text(document if isinstance(document, str) else json.dumps(document))
        return host.app.test_cli_runner().invoke(args=["webhooks", "openapi", "--merge", str(file), *options])

    yield merge
    for host in made:
        host.close()


def valid(result):
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert faults_of(document) == []
    return document


def test_a_document_keeps_what_it_has_and_gets_our_paths_webhooks_and_components(merge):
    merged = valid(merge(SHOP))

    assert {name: merged[name] for name in ("openapi", "info", "servers")} == {
        name: SHOP[name] for name in ("openapi", "info", "servers")
    }
    assert merged["paths"]["/orders"] == SHOP["paths"]["/orders"]
    assert merged["paths"]["/v1/endpoints"]["post"]["operationId"] == "create_endpoint"
    assert "webhook.ping" in merged["webhooks"]
    assert "EndpointInput" in merged["components"]["schemas"]
    (endpoints,) = [tag for tag in merged["tags"] if tag["name"] == "endpoints"]
    assert endpoints["description"] == "Ours."
    assert {"orders", "secrets", "webhooks"} <= {tag["name"] for tag in merged["tags"]}


def test_what_is_merged_once_more_stays_as_it_is(merge):
    once = valid(merge(SHOP))

    assert valid(merge(once)) == once


def test_paths_are_below_the_mount_and_its_variables_are_parameters(merge):
    merged = valid(merge(SHOP, url_prefix="/api/<org>"))
    below = valid(merge({**SHOP, "servers": [{"url": "https://shop.example/api"}]}, url_prefix="/api"))

    item = merged["paths"]["/api/{org}/v1/endpoints"]
    assert item["parameters"] == [{"in": "path", "name": "org", "required": True, "schema": {"type": "string"}}]
    assert "/v1/endpoints" in below["paths"]


def test_our_login_stays_ours_and_without_one_the_hosts_holds(merge):
    with_login = valid(merge({**SHOP, "security": []}, openapi=LOGIN))
    without = valid(merge(SHOP))

    assert with_login["paths"]["/v1/endpoints"]["get"]["security"] == [{"key": []}]
    assert with_login["paths"]["/v1/openapi.json"]["get"]["security"] == []
    assert with_login["security"] == []
    assert "key" in with_login["components"]["securitySchemes"]
    assert "security" not in without["paths"]["/v1/endpoints"]["get"]


def test_a_name_that_both_have_is_refused_unless_ours_gets_a_prefix(merge):
    shop = {**SHOP, "components": {"schemas": {"Problem": {"type": "string"}}}}

    refused = merge(shop)
    merged = valid(merge(shop, "--prefix", "Webhook"))

    assert refused.exit_code == 1
    assert "shop.json: It has components.schemas.Problem already." in refused.output
    assert "--prefix" in refused.output
    assert merged["components"]["schemas"]["Problem"] == {"type": "string"}
    assert merged["components"]["schemas"]["WebhookProblem"]["type"] == "object"
    assert '"#/components/schemas/Endpoint"' not in json.dumps(merged)


@pytest.mark.parametrize(
    ("shop", "message"),
    {
        "a path": (
            {"paths": {"/v1/endpoints": {"get": {"responses": {}}}}},
            "It has paths./v1/endpoints already.",
        ),
        "an operation": (
            {"paths": {"/p": {"get": {"operationId": "ping", "responses": {}}}}},
            "It has the operationId ping already.",
        ),
        "another version": ({"openapi": "3.0.3"}, "It must be a document of OpenAPI 3.1 or later"),
        "no version": ({"openapi": None}, "It must be a document of OpenAPI 3.1 or later"),
        "components of another type": ({"components": []}, "Its components.schemas must be an object."),
    }.values(),
)
def test_what_can_not_be_merged_is_told(merge, shop, message):
    result = merge({**SHOP, **shop})

    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("name", "text"), [("shop.json", "{"), ("shop.json", "[]"), ("shop.yaml", "a: [")])
def test_a_file_that_is_no_document_is_told(merge, name, text):
    result = merge(text, name=name)

    assert result.exit_code == 1
    assert f"{name}" in result.output


def test_yaml_is_read(merge):
    yaml = pytest.importorskip("yaml")

    assert valid(merge(yaml.safe_dump(SHOP), name="shop.yaml")) == valid(merge(SHOP))


def test_a_prefix_without_a_document_is_a_mistake(merge):
    assert merge(SHOP, "--prefix", 'a"b').exit_code == 2
