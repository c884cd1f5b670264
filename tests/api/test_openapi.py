import json
import re
from datetime import UTC, datetime
from importlib.metadata import version

import jsonschema_rs
import pytest
from flask import Blueprint, Flask
from flask_sqlalchemy import SQLAlchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from flask_webhook_endpoints import Settings, WebhookEndpoints, identifiers
from flask_webhook_endpoints.api import openapi, openapi_examples, responses, routes
from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.core.declarations import Declarations
from flask_webhook_endpoints.core.deliveries import STATUSES, Delivery
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.database.models import EndpointStatus, PauseReason
from flask_webhook_endpoints.errors import InvalidURL
from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.security.encryption import Headers
from flask_webhook_endpoints.security.ports import DEFAULT_PORTS
from tests.support import hosts
from tests.support.api import NEW, create_endpoint
from tests.support.deliveries import publish
from tests.support.validators import faults_of

NO_ID = "/v1/endpoints/ep_00000000-0000-4000-8000-000000000000"
NO_DELIVERY = "dlv_00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def host():
    host = hosts.flask_sqlalchemy("sqlite://", max_endpoints_per_tenant=3)
    yield host
    host.close()


@pytest.fixture(scope="module")
def document(host):
    return host.client(None).get("/v1/openapi.json").json


def resolved(document, value):
    while "$ref" in value:
        target = document
        for key in value["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        value = target
    return value


def validate(document, schema, value):
    schema = {**schema, "components": document["components"]}
    jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(value)


def described(document, method, path, answer):
    """Hold an answer to what the document says of it: status, headers, media type, body."""
    path = re.sub("ep_[^/]+", "{ep_id}", path.partition("?")[0])
    path = re.sub("dlv_[^/]+", "{dlv_id}", path)
    response = resolved(document, document["paths"][path][method]["responses"][str(answer.status_code)])
    for name, header in response.get("headers", {}).items():
        told = resolved(document, header)
        assert name in answer.headers or not told.get("required")
        if "pattern" in told["schema"]:
            validate(document, told["schema"], answer.headers[name])
    assert {"ETag", "Location", "Link", "Retry-After", "WWW-Authenticate"} & {*answer.headers.keys()} <= {
        *response.get("headers", {})
    }
    if "content" in response:
        validate(document, response["content"][answer.mimetype]["schema"], answer.json)
    else:
        assert answer.data == b""
    return answer


def test_the_document_is_valid_openapi_3_1(document):
    assert document["openapi"] == "3.1.1"
    assert faults_of(document) == []


def test_the_document_has_the_version_of_the_package(document):
    assert document["info"]["version"] == version("flask-webhook-endpoints")


def test_the_document_has_every_route_and_no_other(document, host):
    beside = {"other_method", "unknown_path", "no_websocket"}
    routes = {
        (method.lower(), re.sub(r"<(\w+)>", r"{\1}", rule.rule), rule.endpoint.rpartition(".")[2])
        for rule in host.app.url_map.iter_rules()
        if rule.endpoint.startswith("webhook_endpoints.") and rule.endpoint.rpartition(".")[2] not in beside
        for method in rule.methods - {"HEAD"}
    }
    operations = {
        (method, path, operation["operationId"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }

    assert operations == routes


def test_every_operation_is_told_in_words_and_every_tag_is_used(document):
    items = [*document["paths"].values(), *document["webhooks"].values()]
    operations = [operation for item in items for operation in item.values()]

    assert all(operation["summary"].endswith(".") for operation in operations)
    assert {tag for operation in operations for tag in operation["tags"]} == {tag["name"] for tag in document["tags"]}


def test_the_document_tells_what_each_error_of_an_attempt_means(document):
    attempts = document["components"]["schemas"]["DeliveryDetails"]["properties"]["attempt_log"]
    told = resolved(document, attempts["items"])["properties"]["error"]["description"]

    assert [f"`{error}`: {error.meaning}" in told for error in SendError] == [True] * len(SendError)


def test_the_document_tells_what_each_status_of_a_delivery_means(document):
    told = document["components"]["schemas"]["Delivery"]["properties"]["status"]["description"]

    # Add a new one to `DeliveryShown` in api/delivery_schemas.py.
    assert [status for status in STATUSES if f"`{status}`: " not in told] == []


def test_the_document_has_the_fields_of_a_delivery_as_answers_have_them(document):
    assert list(document["components"]["schemas"]["Delivery"]["properties"]) == list(Delivery._fields)


def test_the_document_needs_no_tenant_and_may_be_cached(host):
    answer = host.client(None).get("/v1/openapi.json")

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "public, max-age=300"


def test_pages_of_any_site_may_read_the_document_and_nothing_else(host):
    client = host.client("acme")

    assert client.get("/v1/openapi.json").headers.getlist("Access-Control-Allow-Origin") == ["*"]
    for path in ("/v1/endpoints", NO_ID):
        assert "Access-Control-Allow-Origin" not in client.get(path).headers


def test_a_host_that_says_which_sites_may_read_it_is_not_contradicted():
    # Flask-CORS adds a header of its own to each answer, and browsers refuse two.
    host = hosts.flask_sqlalchemy("sqlite://")
    host.app.after_request(lambda answer: answer.headers.add("Access-Control-Allow-Origin", "https://a.test") or answer)

    answer = host.client(None).get("/v1/openapi.json")

    assert answer.headers.getlist("Access-Control-Allow-Origin") == ["https://a.test"]
    host.close()


def test_an_unchanged_document_is_not_sent_again(host):
    client = host.client(None)
    first = client.get("/v1/openapi.json")
    again = client.get("/v1/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    other = client.get("/v1/openapi.json", headers={"If-None-Match": '"0"'})

    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert (again.headers["Access-Control-Allow-Origin"], again.headers["Cache-Control"]) == (
        "*",
        "public, max-age=300",
    )
    assert (other.status_code, other.data) == (200, first.data)


def test_the_document_names_the_place_where_the_blueprint_is_mounted():
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header)
    app = Flask("host")
    app.config["SECRET_KEY"] = "host secret"
    app.register_blueprint(webhooks.blueprint, url_prefix="/api/<org>", name="hooks")
    app.url_value_preprocessor(lambda endpoint, values: values.pop("org"))
    answer = app.test_client().get("/api/a b/v1/openapi.json", environ_overrides={"SCRIPT_NAME": "/app"})

    assert answer.json["servers"] == [{"url": "/app/api/a%20b"}]


def test_the_command_prints_the_document_that_is_served(host, document):
    result = host.app.test_cli_runner().invoke(args=["webhooks", "openapi"])

    assert result.exit_code == 0
    assert json.loads(result.stdout) == document
    assert document["servers"] == [{"url": "/"}]


def test_the_command_tells_our_route_from_a_hosts_and_writes_variables_of_its_prefix_as_openapi_does():
    # It printed `<org>` as it stands, and took the URL of a host's own view named `read_openapi`.
    host = hosts.flask_sqlalchemy("sqlite://", register=False)
    own = Blueprint("own", "host", url_prefix="/own")
    own.add_url_rule("/v1/openapi.json", "read_openapi", lambda: "")
    host.app.register_blueprint(own)
    host.app.register_blueprint(host.webhooks.blueprint, url_prefix="/api/<string(length=2):country>/<org>", name="a")

    result = host.app.test_cli_runner().invoke(args=["webhooks", "openapi"])

    (server,) = json.loads(result.stdout)["servers"]
    assert server["url"] == "/api/{country}/{org}"
    assert server["variables"] == {"country": {"default": "country"}, "org": {"default": "org"}}
    host.close()


def test_the_limits_are_those_of_the_application():
    host = hosts.flask_sqlalchemy("sqlite://", max_timeout_seconds=5, require_https=True)
    document = host.client(None).get("/v1/openapi.json").json
    body = document["paths"]["/v1/endpoints"]["post"]["requestBody"]["content"]["application/json"]
    properties = resolved(document, body["schema"])["properties"]

    assert properties["timeout_seconds"]["maximum"] == 5
    assert properties["timeout_seconds"]["description"].endswith("Default: `5`.")
    assert not re.search(properties["url"]["pattern"], "http://example.com/")
    for example in body["examples"].values():
        assert host.client().post("/v1/endpoints", json=example["value"]).status_code == 201
    host.close()


def test_every_example_of_a_request_is_accepted_and_valid(document, host):
    client = host.client("examples")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            for example in content.get("application/json", {}).get("examples", {}).values():
                validate(document, content["application/json"]["schema"], example["value"])
                created = create_endpoint(client)
                answer = client.open(path.format(ep_id=created["id"]), method=method, json=example["value"])
                assert answer.status_code in (200, 201, 202)
                for endpoint in client.get("/v1/endpoints").json:
                    client.delete(f"/v1/endpoints/{endpoint['id']}")


def test_secrets_of_examples_are_keys_that_official_verifiers_decode_except_one(document):
    secrets = re.findall(r'"(whsec_[^"]+)"', json.dumps(document["paths"]))

    assert set(secrets) - {"whsec_your_signing_secret"}
    for secret in set(secrets) - {"whsec_your_signing_secret"}:
        assert Webhook(secret).sign("msg", datetime.now(UTC), "{}").startswith("v1,")


def test_the_specifications_own_request_is_an_example(document):
    content = document["paths"]["/v1/endpoints"]["post"]["requestBody"]["content"]["application/json"]

    assert {
        "name": "my-webhook",
        "url": "https://example.com/webhook",
        "secret": "whsec_your_signing_secret",
        "headers_json": {},
        "timeout_seconds": 10,
    } in [example["value"] for example in content["examples"].values()]


def test_every_body_and_every_answer_has_an_example():
    of_routes = {each for route in routes.ROUTES for each in (route.body, route.answer) if each}

    # Add a new one to `EXAMPLES` in api/openapi_examples.py.
    assert of_routes == openapi_examples.EXAMPLES.keys()


def test_every_problem_of_a_route_is_in_the_document():
    of_routes = {each for route in routes.ROUTES for each in route.problems}

    # Add a new one to `PROBLEMS` in api/openapi_examples.py, which has them in the order of their status.
    assert of_routes <= {type(each) for each in openapi_examples.PROBLEMS}
    statuses = [each.status for each in openapi_examples.PROBLEMS]
    assert statuses == sorted(statuses)


def test_every_example_of_an_answer_is_valid(document):
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                for content in resolved(document, response).get("content", {}).values():
                    for example in content.get("examples", {}).values():
                        # If it fails: a member of `EXAMPLES` in api/openapi_examples.py, or of `_ENDPOINT` there.
                        validate(document, content["schema"], example["value"])


def test_examples_of_answers_have_the_members_of_real_ones(document, host):
    client = host.client("members")
    endpoint = create_endpoint(client)
    secret = client.get(f"/v1/endpoints/{endpoint['id']}/secret").json
    delivery = client.post(f"/v1/endpoints/{endpoint['id']}/ping").json
    details = client.get(f"/v1/endpoints/{endpoint['id']}/deliveries/{delivery['id']}").json

    def example(name, status, path="/v1/endpoints", method="post"):
        responses = document["paths"][path][method]["responses"]
        return responses[status]["content"]["application/json"]["examples"][name]["value"]

    assert example("An endpoint", "201").keys() == endpoint.keys()
    assert example("A secret", "200", "/v1/endpoints/{ep_id}/secret", "get").keys() == secret.keys()
    assert example("A delivery", "202", "/v1/endpoints/{ep_id}/ping").keys() == delivery.keys()
    one_delivery = "/v1/endpoints/{ep_id}/deliveries/{dlv_id}"
    assert example("A delivery", "200", one_delivery, "get").keys() == details.keys()


def test_every_answer_of_a_walk_is_described(document, host):
    client = host.client("walk")

    def walk(status, method, path, **options):
        answer = described(document, method, path, client.open(path, method=method, **options))
        assert answer.status_code == status
        return answer

    walk(200, "get", "/v1/openapi.json")
    key = {"Idempotency-Key": "k"}
    created = walk(201, "post", "/v1/endpoints", json={**NEW, "headers_json": {"X-A": "b"}}, headers=key)
    one = f"/v1/endpoints/{created.json['id']}"
    walk(422, "post", "/v1/endpoints", json=NEW, headers=key)
    walk(400, "post", "/v1/endpoints", json=NEW, headers={"Idempotency-Key": ""})
    walk(400, "post", "/v1/endpoints", data="{", content_type="application/json")
    walk(413, "post", "/v1/endpoints", data=" " * 65_537, content_type="application/json")
    walk(415, "post", "/v1/endpoints", data="{}", content_type="text/plain")
    walk(422, "post", "/v1/endpoints", json=[])
    walk(422, "post", "/v1/endpoints", json={**NEW, "event_types": [1], "timeout_seconds": 10.5, "odd": 1})
    walk(201, "post", "/v1/endpoints", json={**NEW, "event_types": ["a.*"]})
    walk(201, "post", "/v1/endpoints", json=NEW)
    walk(409, "post", "/v1/endpoints", json=NEW)
    assert "Link" in walk(200, "get", "/v1/endpoints?limit=1").headers
    walk(200, "get", "/v1/endpoints")
    walk(422, "get", "/v1/endpoints?limit=0")
    walk(200, "get", one)
    walk(304, "get", one, headers={"If-None-Match": created.headers["ETag"]})
    walk(404, "get", NO_ID)
    walk(200, "patch", one, json={"status": "PAUSED"})
    for status, options in {
        400: {"data": "{", "content_type": "application/json"},
        412: {"json": {}, "headers": {"If-Match": '"1"'}},
        413: {"data": " " * 65_537, "content_type": "application/json"},
        415: {"data": "{}"},
        422: {"json": {"name": None}},
    }.items():
        walk(status, "patch", one, **options)
    walk(404, "patch", NO_ID, json={})
    walk(200, "get", f"{one}/secret")
    walk(404, "get", f"{NO_ID}/secret")
    walk(200, "post", f"{one}/secret/rotate")
    for status, options in {
        200: {"json": {"overlap_seconds": 0}},
        400: {"data": "{", "content_type": "application/json"},
        413: {"data": " " * 65_537, "content_type": "application/json"},
        415: {"data": "{}"},
        422: {"json": {"overlap_seconds": -1}},
    }.items():
        walk(status, "post", f"{one}/secret/rotate", **options)
    walk(404, "post", f"{NO_ID}/secret/rotate")
    walk(409, "post", f"{one}/ping")
    walk(200, "patch", one, json={"status": "ACTIVE"})
    for path in (f"{NO_ID}/ping", f"{one}/deliveries/{NO_DELIVERY}/redeliver"):
        walk(404, "post", path)
    delivery = f"{one}/deliveries/{walk(202, 'post', f'{one}/ping').json['id']}"
    publish(host, tenant_id="walk")
    assert "Link" in walk(200, "get", f"{one}/deliveries?limit=1").headers
    walk(422, "get", f"{one}/deliveries?status=SENDING")
    walk(404, "get", f"{NO_ID}/deliveries")
    walk(200, "get", delivery)
    walk(404, "get", f"{one}/deliveries/{NO_DELIVERY}")
    walk(202, "post", f"{delivery}/redeliver")
    stale = client.get(one).headers["ETag"]
    walk(200, "patch", one, json={"status": "PAUSED"})
    walk(409, "post", f"{delivery}/redeliver")
    walk(412, "delete", one, headers={"If-Match": stale})
    walk(412, "delete", one, headers={"If-Match": '"1"'})
    walk(204, "delete", one)
    walk(404, "delete", one)


def test_what_the_host_refuses_and_a_database_that_is_away_are_described_for_every_operation(document):
    for path, operations in document["paths"].items():
        for operation in operations.values():
            expected = set() if path == "/v1/openapi.json" else {"401", "403", "503"}
            assert {"401", "403", "503"} & operation["responses"].keys() == expected


@pytest.mark.parametrize("refusal", [401, 403, 503])
def test_what_the_host_refuses_and_a_database_that_is_away_are_answered_as_described(document, refusal):
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(
        session=db.session,
        tenant=lambda: None if refusal == 401 else "acme",
        authorize=lambda action, endpoint_id: refusal != 403,
    )
    app = Flask("host")
    app.config.update(SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI="sqlite:////nowhere/host.db")
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint)
    client = app.test_client()

    for path, operations in document["paths"].items():
        for method in operations.keys() - ({"get"} if path == "/v1/openapi.json" else set()):
            body = {"json": NEW} if path == "/v1/endpoints" and method == "post" else {}
            body = {"json": {"name": "n"}} if method == "patch" else body
            body = {"json": {"since": "2026-01-01T00:00:00Z"}} if path.endswith("/recover") else body
            one = path.format(ep_id=NO_ID.rpartition("/")[2], dlv_id=NO_DELIVERY)
            answer = described(document, method, one, client.open(one, method=method, **body))
            # Of declared events, the host's `tenant` alone may ask the database.
            expected = 200 if path == "/v1/endpoints/event-types" and refusal == 503 else refusal
            assert answer.status_code == expected


def test_links_lead_from_an_endpoint_to_all_that_can_be_done_with_it(document):
    links = document["paths"]["/v1/endpoints"]["post"]["responses"]["201"]["links"]

    assert {link["operationId"] for link in links.values()} == {
        operation["operationId"]
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "{ep_id}" in path and "{dlv_id}" not in path
    }


def test_links_lead_from_a_delivery_to_all_that_can_be_done_with_it(document):
    links = document["paths"]["/v1/endpoints/{ep_id}/ping"]["post"]["responses"]["202"]["links"]

    assert links.keys() == {"read_delivery", "redeliver"}
    for link in links.values():
        assert link["parameters"] == {"ep_id": "$request.path.ep_id", "dlv_id": "$response.body#/id"}


def test_what_a_body_may_not_have_is_closed_and_what_answers_have_may_grow(document):
    shown = document["components"]["schemas"]

    for name in ("EndpointInput", "EndpointChanges", "SecretInput"):
        assert shown[name]["additionalProperties"] is False
    assert shown["RecoveryInput"]["additionalProperties"] is False
    for name in ("Endpoint", "Secret", "Delivery", "DeliveryDetails", "Problem"):
        assert "additionalProperties" not in shown[name]


times = st.datetimes(timezones=st.just(UTC)).map(identifiers.format_time)
texts = st.text(max_size=5)
endpoints = st.builds(
    Endpoint,
    id=st.uuids().map(identifiers.format_id),
    name=texts,
    url=texts,
    headers_json=st.none() | st.dictionaries(texts, texts, max_size=3).map(Headers),
    timeout_seconds=st.integers(min_value=1, max_value=30),
    event_types=st.none() | st.lists(texts, max_size=3),
    status=st.sampled_from(EndpointStatus),
    paused_at=st.none() | times,
    created_at=times,
    updated_at=times,
    description=st.none() | texts,
    metadata=st.dictionaries(texts, texts, max_size=3),
    pause_reason=st.none() | st.sampled_from(PauseReason),
    failing_since=st.none() | times,
    _version=st.integers(min_value=1),
)


@given(endpoint=endpoints)
def test_an_endpoint_is_shown_as_documented_with_its_fields_in_their_order(endpoint):
    shown = responses.endpoint_answer(endpoint, headers=True)

    assert SHOWN.is_valid(shown.json)
    assert list(shown.json) == list(DOCUMENT["components"]["schemas"]["Endpoint"]["properties"])
    assert shown.headers["ETag"].strip('"').partition("~")[0] == str(endpoint.version)
    for name, value in shown.json.items():
        own = getattr(endpoint, name)
        assert value == (dict(own) if isinstance(own, Headers) else own)


SCHEMAS = routes.schemas(Settings(), EgressPolicy(), Declarations())
NEW_ENDPOINT, CHANGES = SCHEMAS["new_endpoint"], SCHEMAS["endpoint_changes"]
DOCUMENT = openapi.document(routes.ROUTES, list(SCHEMAS.values()))
SHOWN, VALIDATOR = (
    jsonschema_rs.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]})
    for name in ("Endpoint", "EndpointChanges")
)


def accepts_as_documented(**body):
    return (CHANGES.validate(body) == {}) == VALIDATOR.is_valid(body)


@given(value=st.text(alphabet=st.characters(max_codepoint=0x3000, exclude_categories=["Cs"]), max_size=6) | st.none())
def test_a_name_is_accepted_exactly_when_the_document_says_so(value):
    assert accepts_as_documented(name=value)


@given(
    value=st.text(max_size=10)
    | st.sampled_from([7, 8, 128, 129]).flatmap(lambda length: st.text(" a~", min_size=length, max_size=length))
)
def test_a_secret_is_accepted_exactly_when_the_document_says_so(value):
    assert accepts_as_documented(secret=value)


# Not in the document: that no name is there twice. `uniqueItems` makes sets of lists in generated clients.
@given(value=st.lists(st.text(alphabet="aZ9_-.*\n é", max_size=5), max_size=3, unique=True) | st.none())
def test_event_types_are_accepted_exactly_when_the_document_says_so(value):
    assert accepts_as_documented(event_types=value)


header_names = st.text(alphabet="Hh-_t!é\n", max_size=3) | st.sampled_from(
    ["host", "HOST", "Keep_Alive", "proxy-", "Proxy", "content_type", "X-Host", "hostname", "te", "TE", "webhook-ID"]
)
header_values = (
    st.just("v") | st.text(alphabet=st.characters(max_codepoint=0x120), max_size=5) | st.none() | st.integers()
)


@given(
    value=st.dictionaries(header_names, header_values, max_size=2).filter(
        # JSON Schema has no words for this rule.
        lambda headers: len({name.lower() for name in headers}) == len(headers)
    )
)
def test_headers_are_accepted_exactly_when_the_document_says_so(value):
    assert accepts_as_documented(headers_json=value)


lines = st.text(alphabet=st.characters(max_codepoint=0x3000, exclude_categories=["Cs"]), max_size=6)


@given(value=lines | st.none() | st.integers())
def test_a_description_is_accepted_exactly_when_the_document_says_so(value):
    assert accepts_as_documented(description=value)


@given(value=st.dictionaries(lines, lines | st.none() | st.integers(), max_size=2) | st.none() | st.just([]))
def test_metadata_is_accepted_exactly_when_the_document_says_so(value):
    assert accepts_as_documented(metadata=value)


hosts_of_urls = st.text(alphabet="aZ09-_.x", max_size=6) | st.sampled_from(
    ["example.com", "1.2.3.4", "1.2.3", "1.2.3.04", "1.2.3.4.", "0x7f", "a.0x", "0x.a", "a..b", "a" * 63, "a" * 64]
    + [".".join(["a" * 49] * 5) + "." + "a" * length for length in (2, 3, 4, 5)]
)
ports = st.sampled_from(["", ":", ":0", ":00", ":1", ":00080", ":000080", ":65535", ":65536", ":99999", ":x", ":٣"]) | (
    st.integers(min_value=59_990, max_value=65_600).map(":{}".format)
    | st.sampled_from([":1023", ":1024", ":2048", ":2049", ":02049", ":6000", ":10080", ":8080", ":443"])
)
rests = st.text(alphabet='/?#\\ \n\x7f"[]~aé', max_size=4)


urls = st.tuples(
    st.sampled_from(["http", "https", "HTTPS", "hTTp", "ftp", "http\u017f"]),
    # Mostly right, so that what comes after decides.
    st.sampled_from([*["://"] * 9, ":/", ":", ":///"]),
    st.sampled_from([*[""] * 9, "u@", "u:p@"]),
    st.just("example.com") | hosts_of_urls,
    st.just("") | ports,
    st.just("/") | rests,
).map("".join)
POLICIES = [
    EgressPolicy.of(require_https=required, allowed_networks=["0.0.0.0/0"], allowed_ports=ports)
    for required in (False, True)
    for ports in ([*DEFAULT_PORTS, 1], ["443"], ["80", 2049], ["8000-8100"])
]
PATTERNS = [jsonschema_rs.Draft202012Validator({"pattern": policy.url_pattern}) for policy in POLICIES]


@settings(max_examples=500)
@given(url=urls)
def test_a_url_is_accepted_exactly_when_the_document_says_so(url):
    for policy, pattern in zip(POLICIES, PATTERNS, strict=True):
        try:
            policy.check_url(url)
            accepted = True
        except InvalidURL:
            accepted = False
        assert accepted == pattern.is_valid(url)
