"""The life of an endpoint by keyboard alone: created, changed, tested, rotated, looked into and deleted."""

import pytest
from playwright.sync_api import expect

from flask_webhook_endpoints.testing import drain
from tests.support import sites
from tests.support.accessible import press, reach
from tests.support.browser import Look, Visit
from tests.support.portal import PREFIX
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers)]


def write(page, role, name, text):
    """Go to a field by Tab, and type into it in place of what it has."""
    reach(page, role, name)
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(text)


def follow(page, link, heading):
    """Go to a link by Tab, press Enter, and wait for the page with this heading."""
    press(page, "link", link)
    expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()


def follow_tab(page, tab):
    """Go to a tab of an endpoint's pages, and wait until it is the present one."""
    press(page, "link", tab)
    expect(page.get_by_role("link", name=tab, exact=True)).to_have_attribute("aria-current", "page")


@pytest.mark.parametrize("look", [Look(), Look(scripts=False, width=320)], ids=str)
def test_an_endpoint_lives_by_keyboard_alone(visit: Visit, host, acme, webhook_receiver, look):
    page = visit(f"{PREFIX}/", look)
    follow(page, "New endpoint", "New endpoint")
    write(page, "textbox", "Name", "Orders")
    write(page, "textbox", "URL", webhook_receiver.url)
    press(page, "button", "Create endpoint")
    expect(page.get_by_role("heading", level=1, name="Orders")).to_be_visible()
    (endpoint,) = acme.get("/v1/endpoints").get_json()

    follow_tab(page, "Settings")
    write(page, "textbox", "Name", "Shipments")
    press(page, "button", "Save")
    expect(page.get_by_role("heading", level=1, name="Shipments")).to_be_visible()

    follow(page, "Secret", "Rotate the secret")
    press(page, "button", "Rotate")
    expect(page.get_by_role("status").filter(has_text="The new secret signs from now on")).to_be_visible()

    follow(page, "Test", "Send an event")
    press(page, "button", "Send")
    expect(page.get_by_role("heading", name="Delivery of webhook.ping")).to_be_visible()
    drain(host.app)
    wait_until(lambda: webhook_receiver.received)

    follow_tab(page, "Settings")
    follow(page, "Delete this endpoint", "Delete this endpoint?")
    write(page, "textbox", "Name of the endpoint", "Shipments")
    press(page, "button", "Delete for good")

    expect(page.get_by_role("status").filter(has_text="Shipments is deleted")).to_be_visible()
    assert acme.get(f"/v1/endpoints/{endpoint['id']}").status_code == 404
