"""Our rules in the host's URL map: whoever walks it, whatever it is lax about, and whatever hosts it tells apart."""

import re
from contextlib import closing

import pytest
from flasgger import Swagger
from flask import Flask, g, jsonify, request
from flask.cli import routes_command
from flask_sqlalchemy import SQLAlchemy
from werkzeug.routing import Rule

from flask_webhook_endpoints import RegistrationError, WebhookEndpoints
from flask_webhook_endpoints.api.routes import ROUTES
from tests.support import hosts
from tests.support.api import NEW
from tests.support.contract import life_of_an_endpoint
from tests.support.database import on_sqlite
from tests.support.hosts import client, tenant_header

EP_ID, DLV_ID = (f"{prefix}_00000000-0000-7000-8000-000000000000" for prefix in ("ep", "dlv"))
ENDPOINT = f"/v1/endpoints/{EP_ID}"
DELIVERY = f"{ENDPOINT}/deliveries/{DLV_ID}"
ALLOWED = {
    "/v1/endpoints": "GET, HEAD, OPTIONS, POST",
    "/v1/endpoints/event-types": "GET, HEAD, OPTIONS",
    ENDPOINT: "DELETE, GET, HEAD, OPTIONS, PATCH",
    "/v1/endpoints/deliveries": "GET, HEAD, OPTIONS",
    f"{ENDPOINT}/secret": "GET, HEAD, OPTIONS",
    f"{ENDPOINT}/stats": "GET, HEAD, OPTIONS",
    f"{ENDPOINT}/secret/rotate": "OPTIONS, POST",
    f"{ENDPOINT}/deliveries": "GET, HEAD, OPTIONS",
    DELIVERY: "GET, HEAD, OPTIONS",
    f"{DELIVERY}/redeliver": "OPTIONS, POST",
    f"{ENDPOINT}/ping": "OPTIONS, POST",
    f"{ENDPOINT}/recover": "OPTIONS, POST",
    "/v1/openapi.json": "GET, HEAD, OPTIONS",
}
NOWHERE = (
    "/v1/endpoints/",
    f"{ENDPOINT}/",
    f"{ENDPOINT}/nothing",
    f"{ENDPOINT}/secret/",
    f"{ENDPOINT}/secret/rotate/now",
    f"{DELIVERY}/redeliver/",
    "/v1/endpoints/%0A/x",
    "/v1/endpoints/a%2Fb/c",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "get", "-")


@pytest.fixture
def unregistered(database):
    """The usual host, before it registers the blueprint."""
    host = hosts.flask_sqlalchemy(database, register=False)
    yield host
    host.close()


@pytest.fixture(scope="module")
def anybody():
    """A client of one host for all that is answered before any database is asked."""
    with closing(hosts.flask_sqlalchemy("sqlite://")) as host:
        yield host.client()


# Tools that walk the URL map found no set of methods in some of our rules: pages of the host were 500.


def test_a_page_of_the_host_may_list_all_routes_and_their_methods(host, acme):
    @host.app.get("/site-map")
    def site_map():
        return jsonify({f"{rule} {rule.endpoint}": ", ".join(rule.methods) for rule in host.app.url_map.iter_rules()})

    assert acme.get("/site-map").status_code == 200
    for rule in host.app.url_map.iter_rules():
        assert isinstance(rule.methods, set)
        assert rule.methods <= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}


def test_flasgger_describes_the_host_as_before(database):
    host = hosts.flask_sqlalchemy(database)

    @host.app.get("/invoices")
    def invoices():
        """List invoices.
        ---
        responses: {200: {description: All of them}}
        """
        return []

    Swagger(host.app)
    described = host.app.test_client().get("/apispec_1.json")
    host.close()

    assert described.status_code == 200
    assert list(described.json["paths"]) == ["/invoices"]


def test_flask_routes_lists_each_route_and_few_rules_beside(host, acme):
    listed = host.app.test_cli_runner().invoke(routes_command)
    described = acme.get("/v1/openapi.json").json["paths"]

    assert listed.exit_code == 0, listed.output
    ours = re.findall(r"^webhook_endpoints\.(\w+)", listed.output, flags=re.MULTILINE)
    operations = {operation["operationId"] for path in described.values() for operation in path.values()}
    assert operations <= set(ours)
    # One for each path without an id, and for all below.
    without_ids = [path for path in described if "{" not in path]
    assert len([name for name in ours if name not in operations]) <= len(without_ids) + 2


def test_each_path_of_ours_is_tried():
    paths = {each.path.replace("<ep_id>", EP_ID).replace("<dlv_id>", DLV_ID) for each in ROUTES}

    # Add a new one to `ALLOWED` above.
    assert paths == ALLOWED.keys()


@pytest.mark.parametrize("path", ALLOWED)
@pytest.mark.parametrize("method", METHODS)
def test_each_other_method_of_a_path_of_ours_is_a_405_that_names_those_it_has(anybody, path, method):
    allow = ALLOWED[path]
    answer = anybody.open(path, method=method)

    if method == "OPTIONS":
        assert (answer.status_code, answer.headers["Allow"], answer.data) == (204, allow, b"")
    elif method.upper() in allow.split(", "):
        assert answer.status_code in (200, 404, 415)
    else:
        assert (answer.status_code, answer.headers["Allow"]) == (405, allow)
        assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize("path", NOWHERE)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "BREW"])
def test_each_other_path_below_ours_is_a_problem_document_of_404(anybody, path, method):
    answer = anybody.open(path, method=method)

    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")


def test_a_page_of_the_host_beside_ours_is_the_hosts(unregistered):
    app = unregistered.app
    app.register_blueprint(unregistered.webhooks.blueprint)
    app.add_url_rule("/v1/<path:page>", "page", lambda page: f"page {page}")
    app.add_url_rule("/<path:page>", "any", lambda page: f"any {page}", methods=["GET", "BREW"])

    assert app.test_client().get("/v1/other").text == "page other"
    assert app.test_client().open("/v1/endpointsish", method="BREW").text == "any v1/endpointsish"
    assert app.test_client().open("/v1/endpoints/x/y", method="BREW").mimetype == "application/problem+json"


# Where the host is lax about slashes, the collection with one was 404 and all else served.


class LaxRule(Rule):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "strict_slashes": False})


def lax_map(app):
    app.url_map.strict_slashes = False


def lax_rules(app):
    app.url_rule_class = LaxRule


@on_sqlite
@pytest.mark.parametrize("lax", [lax_map, lax_rules])
@pytest.mark.parametrize("prefix", ["", "/api"])
def test_a_host_lax_about_slashes_serves_every_path_of_ours_with_one(unregistered, lax, prefix):
    lax(unregistered.app)
    unregistered.app.register_blueprint(unregistered.webhooks.blueprint, url_prefix=prefix or None)
    acme, collection = unregistered.client("acme"), f"{prefix}/v1/endpoints"

    created = acme.post(f"{collection}/", json=NEW)
    one = f"{collection}/{created.json['id']}"

    assert (created.status_code, created.headers["Location"]) == (201, one)
    assert acme.get(f"{collection}/").json == [created.json]
    assert acme.get(f"{one}/").json == created.json
    assert acme.patch(f"{one}/", json={"name": "m"}).json["name"] == "m"
    assert acme.get(f"{one}/secret/").status_code == 200
    assert acme.post(f"{one}/secret/rotate/").status_code == 200
    for path, allow in ((collection, ALLOWED["/v1/endpoints"]), (one, ALLOWED[ENDPOINT])):
        refused = acme.put(f"{path}/", json={})
        assert (refused.status_code, refused.headers["Allow"]) == (405, allow)
        assert refused.mimetype == "application/problem+json"
        assert acme.options(f"{path}/").headers["Allow"] == allow
    assert acme.get(f"{one}/nothing/").mimetype == "application/problem+json"
    assert acme.delete(f"{one}/").status_code == 204
    life_of_an_endpoint(acme, unregistered.client("globex"), collection)


# `host_matching` had no way for us to be mounted.


def matching_app(database):
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    app = Flask("host", host_matching=True, static_host="www.host.test")
    app.config.update(TESTING=True, SECRET_KEY="s", SQLALCHEMY_DATABASE_URI=database)
    db.init_app(app)
    with app.app_context():
        db.create_all()
    return app, db, webhooks


def close(app, db):
    with app.app_context():
        db.engine.dispose()


def test_an_app_that_matches_hosts_mounts_us_on_one(database):
    app, db, webhooks = matching_app(database)
    app.register_blueprint(webhooks.blueprint, host="api.host.test", url_prefix="/hooks")
    acme, path = client(app, "acme"), "http://api.host.test/hooks/v1/endpoints"

    life_of_an_endpoint(acme, client(app, "globex"), path)
    assert acme.get("http://api.host.test/hooks/v1/openapi.json").json["servers"] == [{"url": "/hooks"}]
    assert acme.get("http://www.host.test/hooks/v1/endpoints").mimetype == "text/html"
    close(app, db)


def test_an_app_that_matches_hosts_mounts_us_on_several_or_on_a_pattern(database):
    app, db, webhooks = matching_app(database)

    @app.url_value_preprocessor
    def take_org(endpoint, values):
        g.org = (values or {}).pop("org", None)

    @app.before_request
    def ask_as_org():
        if g.org is not None:
            request.environ["HTTP_X_TENANT"] = g.org

    app.register_blueprint(webhooks.blueprint, host="<org>.host.test")
    app.register_blueprint(webhooks.blueprint, name="admin", host="admin.test:8443")
    asking = client(app, "acme")
    created = asking.post("http://acme.host.test/v1/endpoints", json=NEW).json

    assert asking.get("http://acme.host.test/v1/endpoints").json == [created]
    assert asking.get("http://globex.host.test/v1/endpoints").json == []
    assert asking.get("https://admin.test:8443/v1/endpoints").json == [created]
    assert asking.put("http://acme.host.test/v1/endpoints").mimetype == "application/problem+json"
    close(app, db)


def test_an_app_that_matches_hosts_is_told_to_name_ours(database):
    app, db, webhooks = matching_app(database)

    with pytest.raises(RegistrationError, match=r"host_matching.*register_blueprint\(webhooks\.blueprint, host="):
        app.register_blueprint(webhooks.blueprint)
    close(app, db)
