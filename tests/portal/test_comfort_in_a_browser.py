"""Small things that only a browser shows: Back, a double click, the keyboard, and the module of JavaScript."""

import re

import pytest
from playwright.sync_api import Error, expect

from tests.support import deliveries, sites
from tests.support.accessible import assert_accessible, press
from tests.support.api import create_endpoint, secret_of
from tests.support.browser import Look, Visit
from tests.support.portal import PREFIX

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers)]

PLAIN_PHONE = Look(scripts=False, width=320)


@pytest.fixture
def endpoint(acme):
    return create_endpoint(acme, name="Orders")


def test_an_endpoint_is_paused_and_resumed_by_keyboard_alone(visit: Visit, endpoint, acme):
    page = visit(f"{PREFIX}/", PLAIN_PHONE)

    press(page, "button", "Pause Orders")
    expect(page.get_by_role("status").filter(has_text="Orders is paused")).to_be_visible()
    assert_accessible(page)
    assert acme.get(endpoint.path).get_json()["status"] == "PAUSED"

    press(page, "button", "Resume Orders", "Space")
    expect(page.get_by_role("status").filter(has_text="Orders is active")).to_be_visible()
    assert acme.get(endpoint.path).get_json()["status"] == "ACTIVE"


@pytest.mark.parametrize("look", [Look(), PLAIN_PHONE], ids=str)
def test_back_shows_no_secret(visit: Visit, endpoint, acme, look):
    secret = secret_of(acme, endpoint.path)
    page = visit(f"{PREFIX}/{endpoint.id}/secret", look)
    assert secret not in page.content()
    press(page, "button", "Show the secret")
    expect(page.get_by_text(secret)).to_be_visible()
    assert_accessible(page)

    page.get_by_role("link", name="Overview").click()
    # Chromium asks whether the form is to be sent again.
    with pytest.raises(Error, match="ERR_CACHE_MISS"):
        page.go_back()

    # Chromium may still be on its way to the page that says so.
    expect(page.get_by_text(secret)).to_have_count(0)


def test_a_secret_is_copied_and_a_screen_reader_hears_so(visit: Visit, endpoint, acme):
    page = visit(f"{PREFIX}/{endpoint.id}/secret")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press(page, "button", "Show the secret")

    page.get_by_role("button", name="Copy").first.click()

    expect(page.locator("#whe-live")).not_to_be_empty()
    assert page.evaluate("navigator.clipboard.readText()") == secret_of(acme, endpoint.path)


def test_no_button_that_copies_is_shown_without_scripts(visit: Visit, endpoint):
    page = visit(f"{PREFIX}/{endpoint.id}/secret", PLAIN_PHONE)
    press(page, "button", "Show the secret")

    assert page.get_by_role("button", name="Copy").count() == 0


def test_a_double_click_sends_one_event(visit: Visit, endpoint, host):
    page = visit(f"{PREFIX}/{endpoint.id}/test")

    page.get_by_role("button", name="Send").dblclick()
    page.wait_for_load_state("networkidle")

    assert deliveries.statuses(host) == {"PENDING": 1}


def test_times_are_the_readers_with_scripts_and_utc_without(visit: Visit, endpoint):
    first = f"{PREFIX}/{endpoint.id}/secret"

    # The context's zone is Berlin.
    with_scripts, without = visit(first).locator("time").first, visit(first, PLAIN_PHONE).locator("time").first
    utc = without.inner_text()

    assert re.fullmatch(r"\d+ \w{3} \d{4}, \d\d:\d\d:\d\d UTC", utc)
    assert with_scripts.inner_text() != utc
    assert with_scripts.get_attribute("title") == utc


def test_a_person_who_may_only_read_finds_no_button_that_fails(visit: Visit, endpoint):
    refused = "update", "delete", "read_secret", "rotate_secret", "ping", "redeliver", "recover", "create"
    page = visit(f"{PREFIX}/", forbidden=refused)
    page.get_by_role("link", name="Orders", exact=True).click()

    assert [form.inner_text() for form in page.locator("form[method=post]").all()] == []
    for link in page.get_by_role("link").all():
        assert page.request.get(str(link.get_attribute("href"))).status == 200
