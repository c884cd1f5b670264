"""What all pages of the portal have in common: who sees them, which forms they take, how browsers keep them."""

import re

import pytest
from flask import redirect, template_rendered
from flask_babel import Babel
from werkzeug.exceptions import HTTPException

from flask_webhook_endpoints.errors import RegistrationError
from flask_webhook_endpoints.portal import assets, texts
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.database import on_sqlite
from tests.support.pages import paths
from tests.support.portal import PREFIX, person, press, with_portal

pytestmark = [on_sqlite, pytest.mark.host(make=with_portal)]


def pause(app, endpoint, **headers):
    return app.post(f"{PREFIX}/{endpoint.id}/pause", headers=headers, expect_errors=True)


def is_paused(client, endpoint):
    return client.get(endpoint.path).get_json()["status"] == "PAUSED"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
    ],
    ids=str,
)
def test_a_form_of_another_site_is_refused_and_changes_nothing(ada, acme, headers):
    endpoint = create_endpoint(acme)

    answer = pause(ada, endpoint, **headers)

    assert answer.status_int == 403
    assert "another site" in answer
    assert not is_paused(acme, endpoint)


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost"}, {}],
    ids=str,
)
def test_a_form_of_this_site_is_taken(ada, acme, headers):
    endpoint = create_endpoint(acme)

    assert pause(ada, endpoint, **headers).status_int == 303
    assert is_paused(acme, endpoint)


def test_a_person_without_tenant_sees_a_page_that_says_so(host):
    answer = person(host, None).get(f"{PREFIX}/", status=401)

    assert answer.content_type == "text/html"
    assert "Authentication is required." in answer


def test_another_tenants_endpoint_is_answered_as_one_that_is_not_there(ada, hank, globex):
    theirs = create_endpoint(globex)
    absent = "ep_01900000-0000-7000-8000-000000000000"

    answers = [ada.get(f"{PREFIX}/{ep_id}", status=404) for ep_id in (theirs.id, absent, "nonsense")]

    assert len({answer.text for answer in answers}) == 1
    assert hank.get(f"{PREFIX}/{theirs.id}").status_int == 200


def test_pages_are_private_to_the_browser(ada, acme):
    assert ada.get(f"{PREFIX}/").headers["Cache-Control"] == "private, no-cache"


def test_static_files_are_kept_for_a_year_under_the_address_that_pages_name(ada):
    page = ada.get(f"{PREFIX}/")
    urls = re.findall(rf'"({PREFIX}/static/[^"]+)"', page.text)

    assert len(urls) == 3
    for url in urls:
        assert "immutable" in ada.get(url).headers["Cache-Control"]
        other = ada.get(url.partition("?")[0])
        assert "immutable" not in other.headers["Cache-Control"]
    ada.get(f"{PREFIX}/static/blueprint.py", status=404)


@pytest.mark.parametrize(("name", "most"), [("portal.css", 8192), ("portal.js", 3072)])
def test_the_static_files_are_small(name, most):
    assert (assets._FOLDER / name).stat().st_size <= most


def test_the_portal_works_without_the_api_and_the_api_without_the_portal(database):
    host = hosts.flask_sqlalchemy(database, register=False)
    host.app.register_blueprint(host.webhooks.portal, url_prefix=PREFIX)

    person(host).get(f"{PREFIX}/")
    person(host).get("/v1/endpoints", status=404)
    host.close()


def test_the_portal_needs_a_session_for_its_messages(database):
    key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    host = hosts.flask_sqlalchemy(database, register=False, encryption_keys=(key,), SECRET_KEY=None)

    with pytest.raises(RegistrationError, match="SECRET_KEY"):
        host.app.register_blueprint(host.webhooks.portal, url_prefix=PREFIX)
    host.close()


def refusing(*refused):
    return lambda action, ep_id: action not in refused


def test_a_button_that_would_be_refused_is_not_shown(database):
    host = with_portal(database, authorize=refusing("update"))
    create_endpoint(host.client())

    page = person(host).get(f"{PREFIX}/")

    assert page.html.find("form", method="post") is None
    host.close()


def test_a_page_of_an_endpoint_asks_once_for_what_it_offers_and_for_nothing_else(database):
    asked = []
    host = with_portal(database, authorize=lambda action, ep_id: asked.append((action, ep_id)) or True)
    endpoint = create_endpoint(host.client())
    asked.clear()

    person(host).get(f"{PREFIX}/{endpoint.id}/secret")

    of_endpoint = [action for action, ep_id in asked if ep_id == endpoint.id]
    assert of_endpoint[0] == "read_secret"
    assert sorted(of_endpoint[1:]) == ["list_deliveries", "ping", "read", "read_secret", "rotate_secret"]
    host.close()


def test_a_page_offers_what_the_host_would_answer_with_a_page_of_its_own(database):
    """A host that asks for a fresh login redirects; the list must not be redirected because of its buttons."""
    endpoints = []

    def authorize(action, ep_id):
        if action == "update" and endpoints:
            raise HTTPException(response=redirect("/login"))
        return True

    host = with_portal(database, authorize=authorize)
    endpoints.append(create_endpoint(host.client()))
    browser = person(host)

    page = browser.get(f"{PREFIX}/")

    assert "Pause" in page
    assert press(page, "Pause").location.endswith("/login")
    host.close()


def test_hostile_text_is_shown_as_text(ada, acme):
    name = "</title><script>alert(1)</script>{{ 7 * 7 }}\u202eevil"
    create_endpoint(acme, name=name)

    page = ada.get(f"{PREFIX}/")

    assert "<script>alert" not in page.text
    assert page.html.find("th", scope="row").a.bdi.text == name


def test_a_host_overrides_a_template_and_lays_pages_out(database, tmp_path):
    (tmp_path / "webhook_endpoints").mkdir()
    (tmp_path / "webhook_endpoints" / "endpoint_row.html").write_text(
        "<tr><td>OUR ROW {{ row.endpoint.name }}</td></tr>"
    )
    (tmp_path / "layout.html").write_text(
        "<title>{% block title %}{% endblock %} - Host</title>{% block styles %}{% endblock %}<main>HOST"
        "{% block content %}{% endblock %}</main>{% block scripts %}<!-- theirs -->{% endblock %}"
    )
    host = with_portal(database, layout="layout.html")
    host.app.template_folder = str(tmp_path)
    create_endpoint(host.client(), name="orders")

    page = person(host).get(f"{PREFIX}/")

    assert "<title>Webhook endpoints - Host</title>" in page
    assert "HOST" in page
    assert "OUR ROW orders" in page
    assert "<!-- theirs -->" in page
    assert "portal.js" in page
    host.close()


def test_numbers_in_sentences_are_written_as_the_reader_writes_them(host):
    """With Flask-Babel, each sentence that has a plural was an error, because the number was given twice."""
    Babel(host.app, default_locale="de")

    with host.app.test_request_context():
        assert texts.ngettext("%(num)s is left", "%(num)s are left", 10_000) == "10.000 are left"
        assert texts.ngettext("%(num)s is left", "%(num)s are left", 1) == "1 is left"


def test_no_variable_of_a_page_hides_one_of_the_hosts_layout(host, ada, acme):
    """A page's own `form`, `next` or `endpoint` came before those that the host's context processors gave."""
    endpoint = create_endpoint(acme)
    delivery = acme.post(f"{endpoint.path}/ping").get_json()
    seen, hosts_own = set(), {"config", "request", "session", "g", "csrf_token"}

    def note(app, template, context, **_):
        seen.update(name for name in context if not name.startswith("whe_"))

    with template_rendered.connected_to(note, host.app):
        for path in paths(host.app, {"ep_id": endpoint.id, "dlv_id": delivery["id"]}):
            ada.get(path)

    assert seen <= hosts_own
