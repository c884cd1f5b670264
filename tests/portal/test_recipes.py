"""The recipes of docs/portal.md, with their real libraries."""

import re
from pathlib import Path

import pytest
from flask import request
from flask_babel import Babel
from flask_login import login_user
from webtest import TestApp

from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.portal import blueprint
from tests.support import docs, recipes
from tests.support.database import on_sqlite
from tests.support.portal import PREFIX, form_to

pytestmark = on_sqlite

DOCUMENT = "docs/portal.md"
ACME = {"HTTP_X_TENANT": "acme"}


@pytest.fixture
def recipe(database, monkeypatch):
    """Return a function that runs a recipe against this test's database."""
    with recipes.running(DOCUMENT, database, monkeypatch) as run:
        yield run


def layouts(app, tmp_path, **texts):
    app.template_folder = str(tmp_path)
    for name, text in texts.items():
        (tmp_path / f"{name}.html").write_text(text)


def create(example, app, tenant_id="acme"):
    webhooks: WebhookEndpoints = example.webhooks
    with app.app_context():
        endpoint = webhooks.endpoints.create(tenant_id=tenant_id, name="orders", url="https://example.com/")
        example.db.session.commit()
    return endpoint.id


def test_one_line_registers_the_portal(recipe):
    _, app = recipe("register")

    assert "Webhook endpoints" in TestApp(app, extra_environ=ACME).get(f"{PREFIX}/")


def log_in(example, app, *, remembered):
    """Log a user in, and forget the session if only a remembering cookie shall be left."""
    with app.app_context():
        example.db.session.add(example.User(id=7, org_id=1))
        example.db.session.commit()

    def view():
        if request.args:
            return f"Log in to see {request.args['next']}"
        login_user(example.load_user(7), remember=True)
        return "in"

    app.add_url_rule("/login", "log_in", view)
    browser = TestApp(app)
    browser.get("/login")
    if remembered:
        (session,) = [cookie for cookie in browser.cookiejar if cookie.name == "session"]
        browser.cookiejar.clear(session.domain, session.path, session.name)
    return browser


def test_flask_login_shows_its_page_to_strangers(recipe):
    example, app = recipe("flask_login")
    log_in(example, app, remembered=False)

    answer = TestApp(app).get(f"{PREFIX}/", status=302)

    assert "/login?next=" in answer.location


def test_flask_login_asks_for_a_fresh_login_before_a_secret(recipe):
    example, app = recipe("flask_login")
    browser = log_in(example, app, remembered=True)
    ep_id = create(example, app, tenant_id=1)

    page = browser.get(f"{PREFIX}/{ep_id}").click("^Secret$")

    assert page.follow().text == f"Log in to see {PREFIX}/{ep_id}/secret?"
    assert "login" in browser.post(f"{PREFIX}/{ep_id}/secret", status=302).location


def test_flask_login_takes_a_fresh_one(recipe):
    example, app = recipe("flask_login")
    browser = log_in(example, app, remembered=False)
    ep_id = create(example, app, tenant_id=1)

    page = browser.get(f"{PREFIX}/{ep_id}/secret")

    assert "whsec_" in page.forms[0].submit()


def test_flask_wtf_protects_the_pages_and_leaves_the_api(recipe):
    example, app = recipe("flask_wtf")
    browser = TestApp(app, extra_environ=ACME)
    ep_id = create(example, app)

    page = browser.get(f"{PREFIX}/")

    assert form_to(page, "/pause")["csrf_token"].value
    assert "is paused" in form_to(page, "/pause").submit().follow()
    browser.post(f"{PREFIX}/{ep_id}/resume", status=400)
    assert browser.patch_json(f"/v1/endpoints/{ep_id}", {"status": "ACTIVE"}).json["status"] == "ACTIVE"


def test_flask_talisman_has_a_policy_that_pages_keep_to(recipe):
    example, app = recipe("flask_talisman")
    ep_id = create(example, app)
    browser = TestApp(app, extra_environ={**ACME, "wsgi.url_scheme": "https"})

    for path in ("", f"{ep_id}", f"{ep_id}/secret", f"{ep_id}/test"):
        page = browser.get(f"{PREFIX}/{path}")
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert not page.html.find_all(style=True)
        assert all(tag.get("src", "").startswith(PREFIX) for tag in page.html.find_all("script"))
        assert {tag["href"].partition("/static")[0] for tag in page.html.find_all("link")} == {PREFIX}


def test_bootstrap_flask_lays_pages_out_and_shows_messages(recipe, tmp_path):
    example, app = recipe("bootstrap_flask")
    (layout,) = [text for text in docs.fenced(DOCUMENT, "html") if "bootstrap.load_css" in text]
    layouts(app, tmp_path, bootstrap_layout=layout)
    create(example, app)

    page = TestApp(app, extra_environ=ACME).get(f"{PREFIX}/")

    assert page.html.find("main", class_="container").find("h1").text == "Webhook endpoints"
    shown = form_to(page, "/pause").submit().follow()
    assert "is paused" in shown.html.find(class_="alert").text


@pytest.mark.parametrize("marker", ["shop.css", "htmx-config"])
def test_the_layouts_have_the_blocks(recipe, tmp_path, marker):
    example, app = recipe("register")
    (layout,) = [text for text in docs.fenced(DOCUMENT, "html") if marker in text]
    layouts(app, tmp_path, layout=layout)
    app.config["WEBHOOK_ENDPOINTS_LAYOUT"] = "layout.html"
    create(example, app)

    page = TestApp(app, extra_environ=ACME).get(f"{PREFIX}/")

    assert marker in page
    assert page.html.title.text.startswith("Webhook endpoints")
    assert page.html.find("link", href=re.compile(r"portal\.css"))
    assert page.html.find("script", src=re.compile(r"portal\.js"))
    assert page.html.find("main").find("h1")


def test_blocks_of_other_names(recipe, tmp_path):
    example, app = recipe("register")
    (base,) = [text for text in docs.fenced(DOCUMENT, "html") if "head_title" in text]
    layouts(
        app,
        tmp_path,
        layout="<title>{% block head_title %}{% endblock %}</title>{% block css %}{% endblock %}"
        "<main>{% block body %}{% endblock %}</main>",
    )
    (tmp_path / "webhook_endpoints").mkdir()
    (tmp_path / "webhook_endpoints" / "base.html").write_text(base)
    create(example, app)

    page = TestApp(app, extra_environ=ACME).get(f"{PREFIX}/")

    assert page.html.title.text == "Webhook endpoints"
    assert page.html.find("link", href=re.compile(r"portal\.css"))
    assert page.html.find("main").find("h1")


def test_flask_babel_chooses_the_language(recipe):
    _, app = recipe("register")
    Babel(app, locale_selector=lambda: "pt")
    browser = TestApp(app, extra_environ=ACME)

    page = browser.get(f"{PREFIX}/")

    assert page.html.html["lang"] == "pt"
    assert page.html.find("h1").text == "Webhook endpoints"


def test_the_table_of_pages_is_what_the_portal_serves(recipe):
    _, app = recipe("register")
    text = (docs.ROOT / DOCUMENT).read_text()
    section = text.partition("## The pages\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(/[^`]*)`", section))
    served = {
        re.sub(r"<(\w+)>", r"{\1}", rule.rule.removeprefix(PREFIX))
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("webhook_portal.") and "GET" in rule.methods
    }

    assert documented == served - {"/static/{name}"}


def test_a_host_replaces_one_block_and_keeps_the_rest(recipe, tmp_path):
    _, app = recipe("register")
    (overriding,) = [text for text in docs.fenced(DOCUMENT, "html") if "endpoints_empty" in text]
    (tmp_path / "webhook_endpoints").mkdir()
    (tmp_path / "webhook_endpoints" / "endpoints.html").write_text(overriding)
    app.template_folder = str(tmp_path)

    page = TestApp(app, extra_environ=ACME).get(f"{PREFIX}/")

    assert "Hear from us" not in page
    assert page.html.find("h1").text == "Webhook endpoints"
    assert page.click("Create one.").request.path == f"{PREFIX}/new"


def test_the_table_of_blocks_is_what_the_templates_have():
    text = (docs.ROOT / DOCUMENT).read_text()
    rows = re.findall(r"^\| `(\w+\.html)` \| (.*) \|$", text, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", blocks)) for name, blocks in rows}
    # These make the pages of one layout, and are no parts of a page.
    frames = {"whe_title", "whe_content", "endpoint_title", "endpoint_content", "title", "styles", "content", "scripts"}
    folder = Path(blueprint.__file__).parent / "templates" / "webhook_endpoints"
    found = {
        file.name: set(re.findall(r"{%-? block (\w+)", file.read_text())) - frames for file in folder.glob("*.html")
    }
    # Its one block is there for the pages that extend it.
    del found["endpoint_frame.html"]

    assert documented == {name: blocks for name, blocks in found.items() if blocks}
