"""Any login: the recipes of docs/authentication.md with their real libraries; what `tenant` and `authorize` may do."""

import base64
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from types import SimpleNamespace

import pytest
from flask import Flask, abort, jsonify, make_response
from flask.testing import FlaskClient
from flask_jwt_extended import create_access_token
from flask_login import login_user
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect
from flask_wtf.csrf import CSRFError, generate_csrf
from werkzeug.exceptions import HTTPException
from werkzeug.security import generate_password_hash

from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.state import set_clock
from tests.support import docs, hosts, recipes
from tests.support.api import NEW, create_endpoint, post_endpoint
from tests.support.contract import life_of_an_endpoint
from tests.support.database import on_sqlite

pytestmark = on_sqlite

DOCUMENT = "docs/authentication.md"
UNKNOWN = "/v1/endpoints/ep_00000000-0000-7000-8000-000000000000"
NO_DELIVERY = "dlv_00000000-0000-7000-8000-000000000000"
ACME, GLOBEX = 1, 2


@pytest.fixture
def recipe(database, monkeypatch):
    """Return a function that runs a recipe against this test's database."""
    with recipes.running(DOCUMENT, database, monkeypatch) as run:
        yield run


def store(example, app, *rows):
    with app.app_context():
        example.db.session.add_all(rows)
        example.db.session.commit()


def client(app, authorization=None) -> FlaskClient:
    client = app.test_client()
    if authorization is not None:
        client.environ_base["HTTP_AUTHORIZATION"] = authorization
    return client


def api_key(example, app, org_id):
    store(example, app, example.ApiKey(digest=example.digest(f"key of {org_id}"), org_id=org_id))
    return client(app, f"Bearer key of {org_id}")


def flask_login(example, app, org_id, **columns):
    store(example, app, example.User(id=org_id * 10, org_id=org_id, **columns))
    if "log_in" not in app.view_functions:
        app.add_url_rule("/login/<int:user_id>", "log_in", lambda user_id: str(login_user(example.load_user(user_id))))
    browser = app.test_client()
    assert browser.get(f"/login/{org_id * 10}").text == "True"
    return browser


def flask_jwt_extended(example, app, org_id):
    with app.app_context():
        return client(app, f"Bearer {create_access_token('somebody', additional_claims={'org_id': org_id})}")


def flask_httpauth(example, app, org_id):
    name = f"user of {org_id}"
    hashed = generate_password_hash("pass:word", method="pbkdf2:sha256:1")
    store(example, app, example.User(name=name, password_hash=hashed, org_id=org_id))
    return client(app, basic(name, "pass:word"))


def basic(name, password):
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


LOGINS: dict[str, Callable[..., FlaskClient]] = {
    "after_begin": api_key,
    "api_key": api_key,
    "csrf": api_key,
    "flask_httpauth": flask_httpauth,
    "flask_jwt_extended": flask_jwt_extended,
    "flask_limiter": api_key,
    "flask_login": flask_login,
    "redelivery_limit": api_key,
    "authorize": lambda example, app, org_id: flask_login(example, app, org_id, is_admin=True),
}


@pytest.mark.parametrize(
    ("name", "scheme"),
    {
        "api_key": {"type": "http", "scheme": "bearer"},
        "flask_login": {"type": "apiKey", "in": "cookie", "name": "session"},
        "flask_jwt_extended": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "flask_httpauth": {"type": "http", "scheme": "basic"},
    }.items(),
)
def test_the_document_tells_how_to_log_in(recipe, name, scheme):
    example, app = recipe(name)
    logged_in = LOGINS[name](example, app, ACME)

    document = logged_in.get("/v1/openapi.json").json

    ((named, described),) = document["components"]["securitySchemes"].items()
    assert described == scheme
    assert document["security"] == [{named: []}]


def test_every_recipe_is_tried():
    named = {example.name for example in docs.examples(docs.ROOT / DOCUMENT)}

    assert named - {None} == set(LOGINS)


@pytest.mark.parametrize("name", LOGINS)
def test_a_recipe_serves_two_tenants_and_nobody_else(name, recipe):
    example, app = recipe(name)
    acme, globex = (LOGINS[name](example, app, org_id) for org_id in (ACME, GLOBEX))

    life_of_an_endpoint(acme, globex)
    kept = create_endpoint(acme)
    one = f"/v1/endpoints/{kept['id']}"
    stranger = client(app)
    refused = [
        stranger.get("/v1/endpoints"),
        post_endpoint(stranger),
        stranger.get(one),
        stranger.patch(one, json={"name": "taken"}),
        stranger.delete(one),
    ]
    assert {answer.status_code for answer in refused} == {401}
    assert acme.get("/v1/endpoints").get_json() == [kept]


def is_our_401(answer):
    return (
        answer.status_code == 401
        and answer.mimetype == "application/problem+json"
        and answer.headers["WWW-Authenticate"] == "Bearer"
        and answer.get_json()["title"] == "Unauthorized"
    )


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer \xe9\x80", "Basic YTpi", "Digest x", "x"]
)
def test_an_api_key_that_is_not_one_is_our_401(recipe, given):
    example, app = recipe("api_key")
    api_key(example, app, ACME)

    assert is_our_401(client(app, given).get("/v1/endpoints"))


def test_a_flask_login_session_ends_at_logout(recipe):
    example, app = recipe("flask_login")
    browser = flask_login(example, app, ACME)
    assert browser.get("/v1/endpoints").status_code == 200
    browser.delete_cookie("session")

    assert is_our_401(browser.get("/v1/endpoints"))


def test_a_bad_token_is_answered_by_flask_jwt_extended(recipe):
    example, app = recipe("flask_jwt_extended")
    token = flask_jwt_extended(example, app, ACME).environ_base["HTTP_AUTHORIZATION"]

    missing, forged = client(app).get("/v1/endpoints"), client(app, f"{token[:-4]}AAAA").get("/v1/endpoints")
    assert (missing.status_code, missing.get_json()) == (401, {"msg": "Missing Authorization Header"})
    assert (forged.status_code, forged.get_json()) == (422, {"msg": "Signature verification failed"})


def test_a_wrong_password_is_answered_by_flask_httpauth(recipe):
    example, app = recipe("flask_httpauth")
    flask_httpauth(example, app, ACME)

    for given in (None, basic(f"user of {ACME}", "wrong"), basic("nobody", "pass:word")):
        answer = client(app, given).get("/v1/endpoints")
        assert (answer.status_code, answer.text) == (401, "Unauthorized Access")
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="Authentication Required"'


def test_only_admins_change_endpoints_in_the_recipe_of_authorize(recipe):
    example, app = recipe("authorize")
    member, admin = flask_login(example, app, ACME), flask_login(example, app, GLOBEX, is_admin=True)

    assert member.get("/v1/endpoints").status_code == 200
    assert post_endpoint(member).status_code == 403
    assert post_endpoint(admin).status_code == 201


# Flask-WTF and Flask-Limiter


def test_csrf_protection_guards_the_host_beside_our_exempt_blueprint(recipe):
    example, app = recipe("csrf")
    app.add_url_rule("/form", "form", lambda: "sent", methods=["POST"])

    assert post_endpoint(api_key(example, app, ACME)).status_code == 201
    assert client(app).post("/form").status_code == 400


def test_csrf_protection_that_is_not_told_otherwise_refuses_as_the_host_does(recipe):
    example, app = recipe("flask_login")
    CSRFProtect(app)
    app.add_url_rule("/token", "token", generate_csrf)
    app.register_error_handler(CSRFError, lambda error: (f"host: {error.description}", 400))
    browser = flask_login(example, app, ACME)

    refused = post_endpoint(browser)
    assert (refused.status_code, refused.text) == (400, "host: The CSRF token is missing.")
    assert browser.get("/v1/endpoints").get_json() == []
    token = browser.get("/token").text
    assert browser.post("/v1/endpoints", json=NEW, headers={"X-CSRFToken": token}).status_code == 201


@pytest.mark.parametrize("handled", [False, True])
def test_a_rate_limit_is_each_tenants_own_and_its_429_the_hosts(recipe, handled):
    example, app = recipe("flask_limiter")
    acme, globex = api_key(example, app, ACME), api_key(example, app, GLOBEX)
    if handled:
        app.register_error_handler(429, lambda error: ("host: slow down", 429))

    answers = [acme.get("/v1/endpoints") for _ in range(101)]
    assert [answer.status_code for answer in answers] == [200] * 100 + [429]
    assert answers[-1].mimetype == "text/html"
    assert (answers[-1].text == "host: slow down") is handled
    assert globex.get("/v1/endpoints").status_code == 200


def test_a_limit_of_redeliveries_and_pings_limits_nothing_else(recipe):
    example, app = recipe("redelivery_limit")
    acme, globex = api_key(example, app, ACME), api_key(example, app, GLOBEX)
    ping = f"/v1/endpoints/{post_endpoint(acme).get_json()['id']}/ping"

    answers = [acme.post(ping).status_code for _ in range(121)]

    assert answers == [202] + [409] * 119 + [429]
    assert acme.get("/v1/endpoints").status_code == 200
    assert globex.post(ping).status_code == 404


def test_the_librarys_own_limit_of_redeliveries_holds_beside_flask_limiter(recipe):
    example, app = recipe("redelivery_limit")
    app.config["WEBHOOK_ENDPOINTS_MAX_REDELIVERIES_PER_MINUTE"] = 2
    set_clock(app, lambda: datetime(2030, 1, 1, tzinfo=UTC))
    acme = api_key(example, app, ACME)
    path = f"/v1/endpoints/{post_endpoint(acme).get_json()['id']}"
    again = f"{path}/deliveries/{acme.post(f'{path}/ping').get_json()['id']}/redeliver"

    answers = [acme.post(again) for _ in range(121)]

    assert [answer.status_code for answer in answers] == [202] * 2 + [429] * 119
    assert [answer.mimetype for answer in answers[2:]] == ["application/problem+json"] * 118 + ["text/html"]
    assert (answers[2].get_json()["code"], answers[2].headers["Retry-After"]) == ("too_many_redeliveries", "60")


# What `tenant` may do


@pytest.fixture
def gate():
    """A host whose `tenant` and `authorize` are whatever the test puts in their place."""
    db = SQLAlchemy(metadata=hosts.shared_metadata())
    gate = SimpleNamespace(tenant=lambda: "acme", authorize=lambda action, endpoint_id: True)

    def tenant():
        return gate.tenant()

    def authorize(action, endpoint_id):
        return gate.authorize(action, endpoint_id)

    webhooks = WebhookEndpoints(session=db.session, tenant=tenant, authorize=authorize, metadata=db.metadata)
    gate.app = Flask("host")
    gate.app.config.update(TESTING=True, SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI="sqlite://")
    db.init_app(gate.app)
    gate.app.register_blueprint(webhooks.blueprint)
    with gate.app.app_context():
        hosts.create_tables(db)
    gate.client = gate.app.test_client()
    yield gate
    with gate.app.app_context():
        db.engine.dispose()


class Org(StrEnum):
    ACME = "acme"


ID = uuid.UUID("0190a5b0-0000-7000-8000-00000000abcd")
SPELLINGS = [
    (7, "7"),
    (0, "0"),
    (-1, "-1"),
    (ID, str(ID)),
    (Org.ACME, "acme"),
    ("é" * 255, "é" * 255),
    ("a b\n'\"%_", "a b\n'\"%_"),
]


@pytest.mark.parametrize(("tenant", "spelled"), SPELLINGS, ids=lambda value: repr(value)[:20])
def test_a_tenant_is_known_by_its_id_as_text(gate, tenant, spelled):
    gate.tenant = lambda: tenant
    created = create_endpoint(gate.client)
    gate.tenant = lambda: spelled

    assert gate.client.get("/v1/endpoints").get_json() == [created]


def test_ids_that_are_spelled_differently_are_different_tenants(gate):
    ids = [7, "07", " 7", "7 ", "\uff17", ID, str(ID).upper(), ID.hex, "acme", "ACME"]
    for tenant_id in ids:
        gate.tenant = lambda tenant_id=tenant_id: tenant_id
        assert post_endpoint(gate.client).status_code == 201

        assert len(gate.client.get("/v1/endpoints").get_json()) == 1, tenant_id


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
def test_nobody_is_answered_401_with_a_challenge(gate, method):
    gate.tenant = lambda: None
    answer = gate.client.open(UNKNOWN if method in ("PATCH", "DELETE") else "/v1/endpoints", method=method, json=NEW)

    assert method == "HEAD" or is_our_401(answer)
    assert answer.status_code == 401


@pytest.mark.parametrize("tenant", [True, 1.0, b"acme", ["acme"], object()], ids=lambda value: type(value).__name__)
def test_a_tenant_of_another_type_is_an_error_that_names_it(gate, tenant):
    gate.tenant = lambda: tenant

    with pytest.raises(TypeError, match=rf"A tenant must be .*, not {type(tenant).__name__}\."):
        gate.client.get("/v1/endpoints")


def raising(error):
    def call(*arguments):
        raise error

    return call


class Expired(Exception):
    pass


HOOKS = pytest.mark.parametrize("hook", ["tenant", "authorize"])


@HOOKS
def test_an_abort_is_the_hosts_answer(gate, hook):
    setattr(gate, hook, lambda *arguments: abort(401, "log in first"))
    answer = gate.client.get("/v1/endpoints")

    assert (answer.status_code, answer.mimetype) == (401, "text/html")
    assert "log in first" in answer.text


@HOOKS
@pytest.mark.parametrize("code", [401, HTTPException])
def test_an_abort_passes_through_the_hosts_error_handler(gate, hook, code):
    gate.app.register_error_handler(code, lambda error: (f"host: {error.code}", 418))
    setattr(gate, hook, lambda *arguments: abort(401))
    answer = gate.client.get("/v1/endpoints")

    assert (answer.status_code, answer.text) == (418, "host: 401")
    gate.tenant = lambda: None
    gate.authorize = None
    assert is_our_401(gate.client.get("/v1/endpoints"))


@HOOKS
def test_a_response_that_is_aborted_with_is_sent_as_it_is(gate, hook):
    setattr(gate, hook, lambda *arguments: abort(make_response(jsonify(login="/login"), 403)))
    answer = gate.client.get("/v1/endpoints")

    assert (answer.status_code, answer.get_json()) == (403, {"login": "/login"})


@HOOKS
def test_an_exception_leaves_as_it_is(gate, hook):
    setattr(gate, hook, raising(Expired("last year")))

    with pytest.raises(Expired, match="last year"):
        gate.client.get("/v1/endpoints")


@HOOKS
def test_an_exception_passes_through_the_hosts_error_handler(gate, hook):
    setattr(gate, hook, raising(Expired("last year")))
    gate.app.register_error_handler(Expired, lambda error: (f"host: {error}", 402))
    answer = gate.client.get("/v1/endpoints")

    assert (answer.status_code, answer.text) == (402, "host: last year")


# What `authorize` is asked


def test_authorize_is_asked_once_for_each_request_with_what_it_is_about_to_do(gate):
    one = create_endpoint(gate.client).id
    asked = []
    gate.authorize = lambda *question: asked.append(question) or True
    path = f"/v1/endpoints/{one}"
    answers = [
        gate.client.get("/v1/endpoints"),
        post_endpoint(gate.client),
        gate.client.get(path),
        gate.client.head(path),
        gate.client.patch(path, json={"status": "PAUSED"}),
        gate.client.get(f"{path}/secret"),
        gate.client.post(f"{path}/secret/rotate"),
        gate.client.get("/v1/endpoints/deliveries"),
        gate.client.get(f"{path}/deliveries"),
        gate.client.get(f"{path}/deliveries/{NO_DELIVERY}"),
        gate.client.post(f"{path}/deliveries/{NO_DELIVERY}/redeliver"),
        gate.client.post(f"{path}/ping"),
        gate.client.post(f"{path}/recover", json={"since": "2026-01-01T00:00:00Z"}),
        gate.client.delete(path),
    ]

    assert {answer.status_code for answer in answers} == {200, 201, 204, 404, 409}
    assert asked == [
        ("list", None),
        ("read_headers", None),
        ("create", None),
        ("read_headers", None),
        ("read", one),
        ("read_headers", one),
        ("read", one),
        ("read_headers", one),
        ("update", one),
        ("read_headers", one),
        ("read_secret", one),
        ("rotate_secret", one),
        ("list_deliveries", None),
        ("list_deliveries", one),
        ("read_delivery", one),
        ("read_headers", one),
        ("redeliver", one),
        ("ping", one),
        ("recover", one),
        ("delete", one),
    ]


# What is no bool is an error: tests/hosts/test_authorize.py.
def test_a_refusal_is_403_on_every_route_and_changes_nothing(gate):
    created = create_endpoint(gate.client)
    path = f"/v1/endpoints/{created['id']}"
    gate.authorize = lambda action, endpoint_id: False
    refused = [
        gate.client.get("/v1/endpoints"),
        post_endpoint(gate.client),
        gate.client.get(path),
        gate.client.patch(path, json={"name": "changed"}),
        gate.client.get(f"{path}/secret"),
        gate.client.post(f"{path}/secret/rotate"),
        gate.client.get("/v1/endpoints/deliveries"),
        gate.client.get(f"{path}/deliveries"),
        gate.client.get(f"{path}/deliveries/{NO_DELIVERY}"),
        gate.client.post(f"{path}/deliveries/{NO_DELIVERY}/redeliver"),
        gate.client.post(f"{path}/ping"),
        gate.client.post(f"{path}/recover", json={"since": "2026-01-01T00:00:00Z"}),
        gate.client.delete(path),
    ]

    assert {(answer.status_code, answer.mimetype) for answer in refused} == {(403, "application/problem+json")}
    gate.authorize = lambda action, endpoint_id: True
    assert gate.client.get("/v1/endpoints").get_json() == [created]


def test_authorize_may_not_open_another_tenants_endpoint(gate):
    path = create_endpoint(gate.client).path
    gate.tenant = lambda: "globex"

    foreign, unknown = gate.client.get(path), gate.client.get(UNKNOWN)
    assert foreign.status_code == 404
    assert foreign.data == unknown.data


def test_authorize_is_not_asked_where_nobody_asks_or_nothing_is_there(gate):
    gate.authorize = raising(AssertionError("asked"))
    assert gate.client.get("/v1/endpoints/not-an-id").status_code == 404
    assert gate.client.put("/v1/endpoints").status_code == 405
    gate.tenant = lambda: None

    assert is_our_401(gate.client.get("/v1/endpoints"))
