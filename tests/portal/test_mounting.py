"""Hosts of every kind: where they mount the portal, how their Jinja and their sessions are set, what they guard."""

import re
from contextlib import closing

import pytest
from flask import Blueprint, Flask, abort, redirect, request, url_for
from flask.sessions import SessionInterface
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect

from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.errors import RegistrationError
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.database import on_sqlite
from tests.support.portal import form_to, person, press

pytestmark = on_sqlite


@pytest.fixture
def host(database):
    """A host that has the API alone; each test mounts the portal."""
    with closing(hosts.flask_sqlalchemy(database)) as made:
        yield made


def round_trip(host, prefix, base=""):
    """Press a button of the list, open the endpoint, and return the addresses that the pages had."""
    endpoint = create_endpoint(host.client())
    browser = person(host)
    listed = browser.get(f"{base}{prefix}/")
    paused = press(listed, "Pause").follow()
    opened = paused.click(href=f"{endpoint.id}$", index=0)
    assert "is paused" in paused
    assert opened.request.path == f"{prefix}/{endpoint.id}"
    return re.findall(r'(?:href|src|action)="(/[^"]*)"', listed.text + opened.text)


def mounted_in_a_blueprint(host):
    account = Blueprint("account", __name__, url_prefix="/account")
    account.register_blueprint(host.webhooks.portal, url_prefix="/hooks")
    host.app.register_blueprint(account)


MOUNTS = {
    "without a prefix": ("/webhooks", lambda host: host.app.register_blueprint(host.webhooks.portal)),
    "under another name": (
        "/hooks",
        lambda host: host.app.register_blueprint(host.webhooks.portal, name="hooks", url_prefix="/hooks"),
    ),
    "in a blueprint": ("/account/hooks", mounted_in_a_blueprint),
    "for an organisation": (
        "/orgs/7/hooks",
        lambda host: host.app.register_blueprint(host.webhooks.portal, url_prefix="/orgs/<int:org>/hooks"),
    ),
}


@pytest.mark.parametrize(("prefix", "mount"), MOUNTS.values(), ids=MOUNTS)
def test_every_address_of_a_page_is_where_the_host_mounted_it(host, prefix, mount):
    mount(host)

    assert all(address.startswith(prefix) for address in round_trip(host, prefix))


def test_one_app_mounts_it_twice(host):
    for name in ("one", "two"):
        host.app.register_blueprint(host.webhooks.portal, name=name, url_prefix=f"/{name}")

    for name in ("one", "two"):
        assert all(address.startswith(f"/{name}") for address in round_trip(host, f"/{name}"))


def test_a_page_of_the_host_links_to_the_portal_and_gives_it_only_the_parts_that_it_has(host):
    host.app.register_blueprint(host.webhooks.portal, url_prefix="/orgs/<org>/hooks")
    host.app.add_url_rule(
        "/orgs/<org>/invoices/<invoice>", "invoice", lambda org, invoice: url_for("webhook_portal.list_endpoints")
    )
    with host.app.app_context(), host.app.test_request_context():
        assert url_for("webhook_portal.list_endpoints", org=1) == "/orgs/1/hooks/"

    assert host.client().get("/orgs/9/invoices/3").text == "/orgs/9/hooks/"


@pytest.mark.parametrize("prefix", ["", "/"])
def test_it_does_not_take_the_hosts_own_paths(host, prefix):
    with pytest.raises(RegistrationError, match="url_prefix"):
        host.app.register_blueprint(host.webhooks.portal, url_prefix=prefix)


def matching_app(database):
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header, metadata=db.metadata)
    app = Flask("host", host_matching=True, static_host="www.host.test")
    app.config.update(TESTING=True, SECRET_KEY="s", SQLALCHEMY_DATABASE_URI=database)
    db.init_app(app)
    with app.app_context():
        db.create_all()
    return hosts.Host(app, webhooks, db)


def test_an_app_that_matches_hosts_mounts_it_on_one(database):
    with closing(matching_app(database)) as host:
        host.app.register_blueprint(host.webhooks.portal, host="my.host.test", url_prefix="/")
        client = host.client()

        page = client.get("http://my.host.test/")

        assert page.status_code == 200
        assert client.get("http://www.host.test/").status_code == 404


def test_an_app_that_matches_hosts_is_told_to_name_one(database):
    with closing(matching_app(database)) as host, pytest.raises(RegistrationError, match=r"host=\"www"):
        host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")


def test_a_subdomain_may_be_the_portals_alone(database):
    with closing(hosts.flask_sqlalchemy(database, register=False, SERVER_NAME="host.test")) as host:
        host.app.subdomain_matching = host.app.url_map.subdomain_matching = True
        host.app.register_blueprint(host.webhooks.portal, subdomain="<org>", url_prefix="/")
        client = host.client()

        page = client.get("/", base_url="http://acme.host.test")

        assert page.status_code == 200
        for address in re.findall(r'(?:href|src)="([^"]+)"', page.text):
            assert client.get(address, base_url="http://acme.host.test", buffered=True).status_code == 200


def test_it_is_served_below_a_proxys_path(host):
    host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")

    page = host.client().get("/hooks/", environ_overrides={"SCRIPT_NAME": "/shop"})

    assert all(address.startswith("/shop/hooks/") for address in re.findall(r'(?:href|src)="(/[^"]*)"', page.text))


def test_a_host_lax_about_slashes_serves_every_page_with_one(host):
    host.app.url_map.strict_slashes = False
    host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")
    endpoint, client = create_endpoint(host.client()), host.client()

    for path in ("/hooks", f"/hooks/{endpoint.id}/", f"/hooks/{endpoint.id}/secret/"):
        assert client.get(path).status_code == 200


def test_errors_of_paths_and_methods_stay_the_hosts(host):
    """Its handlers answer where no page is, and hear nothing of a page's own errors."""
    heard = []

    @host.app.errorhandler(404)
    @host.app.errorhandler(405)
    def answer(error):
        heard.append(error.code)
        return "the host's", error.code

    host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")
    endpoint, client = create_endpoint(host.client()), host.client()

    ours = client.get("/hooks/ep_01900000-0000-7000-8000-000000000000")
    assert (ours.status_code, heard) == (404, [])
    assert "No such endpoint." in ours.text
    assert client.get(f"/hooks/{endpoint.id}/nothing/of/ours").text == "the host's"
    assert client.put(f"/hooks/{endpoint.id}").text == "the host's"
    assert client.head(f"/hooks/{endpoint.id}").status_code == 200
    assert client.options(f"/hooks/{endpoint.id}").status_code == 200


JINJA = {
    "blocks are trimmed": {"trim_blocks": True, "lstrip_blocks": True},
    "line statements": {"line_statement_prefix": "%", "line_comment_prefix": "##"},
    "more tags": {"extensions": ["jinja2.ext.do", "jinja2.ext.loopcontrols", "jinja2.ext.i18n"]},
    "async templates": {"enable_async": True},
}


@pytest.mark.several_connections
@pytest.mark.parametrize("options", JINJA.values(), ids=JINJA)
def test_pages_say_the_same_whatever_the_hosts_jinja_is_set_to(host, options):
    host.app.jinja_options = {**host.app.jinja_options, **options}
    host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")
    with closing(hosts.flask_sqlalchemy(host.app.config["SQLALCHEMY_DATABASE_URI"])) as usual:
        usual.app.register_blueprint(usual.webhooks.portal, url_prefix="/hooks")
        endpoint = create_endpoint(host.client(), secret="a secret of sixteen", name="<b>orders</b>")

        for path in (
            "",
            f"{endpoint.id}",
            f"{endpoint.id}/secret",
            f"{endpoint.id}/test",
            f"{endpoint.id}/secret/check",
        ):
            one, other = (person(each).get(f"/hooks/{path}").html for each in (host, usual))
            assert one.get_text(" ", strip=True).split() == other.get_text(" ", strip=True).split()


@pytest.mark.parametrize("escapes", [False, lambda name: bool(name) and name.endswith(".j2")], ids=["never", "others"])
def test_a_host_that_does_not_escape_our_templates_shows_none(host, escapes):
    """A page shows names and answers of strangers, which would run as scripts."""
    host.app.jinja_env.autoescape = escapes
    host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")

    with pytest.raises(RegistrationError, match="autoescape"):
        host.client().get("/hooks/")


def test_tenant_and_authorize_may_be_coroutine_functions(database):
    async def tenant():
        return request.headers.get("X-Tenant")

    async def authorize(action, ep_id):
        return action != "update"

    with closing(hosts.flask_sqlalchemy(database, tenant=tenant, authorize=authorize)) as host:
        host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")
        endpoint = create_endpoint(host.client())
        page = person(host).get(f"/hooks/{endpoint.id}")

        assert page.html.h1.text == endpoint["name"]
        assert "Pause" not in page
        assert host.client().post(f"/hooks/{endpoint.id}/pause").status_code == 403
        assert host.client(None).get("/hooks/").status_code == 401


@pytest.mark.parametrize("code", [302, 418])
def test_what_the_hosts_callables_abort_with_is_the_answer_of_the_page(database, code):
    answers = []

    def authorize(action, ep_id):
        if answers:
            abort(redirect("/login") if code == 302 else code)
        return True

    with closing(hosts.flask_sqlalchemy(database, authorize=authorize)) as host:
        host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")
        endpoint, client = create_endpoint(host.client()), host.client()
        answers.append(code)

        for path in ("", endpoint.id, f"{endpoint.id}/secret", "deliveries"):
            assert client.get(f"/hooks/{path}").status_code == code
        assert client.post(f"/hooks/{endpoint.id}/pause").status_code == code


class NoSessions(SessionInterface):
    """A host whose requests are authenticated by a token, and have no session."""

    def open_session(self, app, request):
        return None

    def save_session(self, app, session, response):
        return None


def test_without_a_session_a_form_has_its_effect_and_only_the_message_is_lost(host):
    host.app.session_interface = NoSessions()
    host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")
    endpoint = create_endpoint(host.client())

    page = press(person(host).get("/hooks/"), "Pause").follow()

    assert page.html.find(class_="whe-flash") is None
    assert host.client().get(endpoint.path).json["status"] == "PAUSED"


def test_the_field_of_the_hosts_csrf_token_may_have_another_name(host):
    host.app.config["WTF_CSRF_FIELD_NAME"] = "anti_forgery"
    CSRFProtect(host.app).exempt(host.webhooks.blueprint)
    host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")
    endpoint = create_endpoint(host.client())
    rotate = form_to(person(host).get(f"/hooks/{endpoint.id}/secret"), "/rotate")

    assert rotate["anti_forgery"].value
    assert rotate.submit().status_int == 303
    # Sent again, the form has one effect, though the next page has another token.
    assert rotate.submit().status_int == 303


def test_a_host_that_is_framed_on_purpose_says_by_whom(host):
    @host.app.after_request
    def allow(response):
        del response.headers["X-Frame-Options"]
        response.headers["Content-Security-Policy"] = "frame-ancestors https://partner.example"
        return response

    host.app.register_blueprint(host.webhooks.portal, url_prefix="/hooks")

    assert "X-Frame-Options" not in host.client().get("/hooks/").headers
