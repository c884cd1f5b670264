"""htmx itself, in the layout that docs/portal.md shows: it follows links and sends forms without loading a page."""

from pathlib import Path

import pytest
from flask import Response, send_file
from playwright.sync_api import expect

from tests.support import deliveries, docs, javascript, sites
from tests.support.accessible import assert_accessible
from tests.support.api import create_endpoint
from tests.support.browser import Visit
from tests.support.hosts import Host
from tests.support.portal import PREFIX

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers, layout="layout.html")]


@pytest.fixture
def boosted(host: Host, tmp_path: Path) -> None:
    """Let the host have the layout, htmx, and a policy that lets htmx ask."""
    javascript.install(javascript.PORTAL)
    [layout] = [text for text in docs.fenced("docs/portal.md", "html") if "htmx-config" in text]
    (tmp_path / "layout.html").write_text(layout.replace("/static/htmx.min.js", "/htmx.js"))
    host.app.template_folder = str(tmp_path)
    htmx = javascript.PORTAL / "node_modules" / "htmx.org" / "dist" / "htmx.min.js"
    host.app.add_url_rule("/htmx.js", "htmx", lambda: send_file(htmx))

    @host.app.after_request
    def add_policy(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = f"connect-src 'self'; {sites.POLICY}"
        return response


def test_links_and_forms_work_without_loading_a_page(visit: Visit, boosted, acme):
    endpoint = create_endpoint(acme, name="Orders")
    page = visit(f"{PREFIX}/")
    page.evaluate("window.isTheFirst = true")

    page.get_by_role("link", name="Orders", exact=True).click()
    # The list, which has such a button, too, stays until the answer is there.
    expect(page.get_by_role("heading", name="Orders", level=1)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status").filter(has_text="Orders is paused")).to_be_visible()
    page.get_by_role("link", name="Secret", exact=True).click()
    page.get_by_role("button", name="Show the secret").click()

    # Our module has shown the button, and the times of the reader.
    expect(page.get_by_role("button", name="Copy")).to_be_visible()
    expect(page.locator("time").first).not_to_contain_text("UTC")
    assert acme.get(endpoint.path).get_json()["status"] == "PAUSED"
    assert page.evaluate("window.isTheFirst")
    assert_accessible(page)


def test_boxes_are_ticked_on_a_page_that_was_not_loaded(visit: Visit, boosted, acme, host):
    create_endpoint(acme, name="Orders")
    deliveries.publish(host)
    page = visit(f"{PREFIX}/")

    page.get_by_role("link", name="Orders", exact=True).click()
    page.get_by_label("Endpoint", exact=True).get_by_role("link", name="Deliveries", exact=True).click()
    page.get_by_role("button", name="Tick all").click()

    expect(page.locator("input:checked")).to_have_count(1)


def test_a_form_that_fails_is_shown_again(visit: Visit, boosted, acme):
    endpoint = create_endpoint(acme)
    page = visit(f"{PREFIX}/{endpoint.id}/secret")
    page.evaluate("window.isTheFirst = true")

    page.get_by_label("Your own secret").fill("short")
    page.get_by_role("button", name="Rotate").click()

    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("Your own secret")).to_have_attribute("aria-invalid", "true")
    assert page.evaluate("window.isTheFirst")
