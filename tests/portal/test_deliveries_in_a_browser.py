"""Deliveries in a browser: tick them all, send them again by keyboard, and see a result arrive."""

import pytest
from playwright.sync_api import expect

from flask_webhook_endpoints.testing import drain
from tests.support import sites
from tests.support.accessible import assert_accessible, assert_fits, press
from tests.support.api import create_endpoint
from tests.support.browser import Look, Visit
from tests.support.deliveries import finish, publish, statuses
from tests.support.portal import PREFIX

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers)]

PLAIN_PHONE = Look(scripts=False, width=320, scheme="dark")


@pytest.fixture
def endpoint(host, acme, webhook_receiver):
    """An endpoint that has delivered nothing of three events."""
    endpoint = create_endpoint(acme, webhook_receiver.url, name="Orders")
    publish(host, 1, 2, 3)
    finish(host)
    return endpoint


def test_all_of_a_page_are_ticked_and_sent_again(visit: Visit, host, endpoint):
    page = visit(f"{PREFIX}/{endpoint.id}/deliveries")

    press(page, "button", "Tick all")
    expect(page.locator("input:checked")).to_have_count(3)
    assert_accessible(page)
    press(page, "button", "Redeliver what is ticked")

    expect(page.get_by_role("status").filter(has_text="3 deliveries are sent again.")).to_be_visible()
    assert statuses(host) == {"PENDING": 3}


def test_a_filter_that_cant_be_read_is_put_right_without_scripts(visit: Visit, endpoint):
    page = visit(f"{PREFIX}/{endpoint.id}/deliveries", PLAIN_PHONE)
    assert page.get_by_role("button", name="Tick all").count() == 0
    page.get_by_label("Event type").fill("invoice paid")
    press(page, "button", "Filter")
    expect(page.get_by_role("alert")).to_contain_text("Not an event type.")
    assert_accessible(page)
    assert_fits(page)

    page.get_by_label("Event type").fill("invoice.*")
    press(page, "button", "Filter")

    expect(page.locator("tbody tr")).to_have_count(3)


def test_a_recovery_is_counted_and_confirmed_by_keyboard(visit: Visit, host, endpoint):
    page = visit(f"{PREFIX}/{endpoint.id}/recover", PLAIN_PHONE)

    press(page, "button", "Count them")
    expect(page.get_by_role("heading", name="3 deliveries will be sent again")).to_be_visible()
    assert_accessible(page)
    assert_fits(page)
    press(page, "button", "Send 3 deliveries again")

    expect(page.get_by_role("status").filter(has_text="3 deliveries are sent again")).to_be_visible()
    assert statuses(host) == {"PENDING": 3}


def test_a_page_shows_a_result_that_arrives_while_it_is_read(visit: Visit, host, endpoint):
    page = visit(f"{PREFIX}/{endpoint.id}/deliveries")
    page.locator("tbody a").first.click()
    press(page, "button", "Redeliver")
    expect(page.get_by_text("Attempt 3 is planned")).to_be_visible()

    drain(host.app)

    expect(page.get_by_text("200 OK")).to_be_visible(timeout=15_000)
    expect(page.locator("#whe-live")).to_have_text("Delivered")


def test_the_signed_command_is_copied(visit: Visit, endpoint):
    page = visit(f"{PREFIX}/{endpoint.id}/deliveries")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("tbody a").first.click()
    press(page, "button", "Show as curl")
    expect(page.locator("#whe-curl")).to_be_visible()
    assert_accessible(page)

    assert page.locator("[data-refresh]").count() == 0
    page.get_by_role("button", name="Copy").last.click()

    expect(page.get_by_role("status").filter(has_text="Copied.")).to_have_count(1)
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#whe-curl").inner_text()
