"""The forms of an endpoint in a browser: by keyboard, with and without scripts."""

import pytest
from playwright.sync_api import expect

from tests.support import sites
from tests.support.accessible import assert_accessible, assert_fits
from tests.support.api import PATH, change_endpoint, create_endpoint
from tests.support.browser import EVERY_LOOK, Look, photograph
from tests.support.portal import PREFIX

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers)]

LOOKS = [Look(), Look(scripts=False)]


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_enter_saves_and_adds_no_row(visit, acme, look):
    page = visit(f"{PREFIX}/new", look)
    page.fill("#whe-name", "orders")
    page.fill("#whe-url", " https://example.com/hook ")

    page.press("#whe-url", "Enter")

    expect(page.get_by_role("heading", level=1)).to_have_text("orders")
    assert [each["url"] for each in acme.get(PATH).get_json()] == ["https://example.com/hook"]


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_the_summary_has_the_focus_and_leads_to_the_field(visit, look):
    page = visit(f"{PREFIX}/new", look)
    page.press("#whe-name", "Enter")

    expect(page.locator("#whe-errors")).to_be_focused()
    page.get_by_role("link", name="URL").press("Enter")
    page.keyboard.type("typed")

    # The link leads to the field; the next Tab or letter goes there.
    expect(page.locator("#whe-url")).to_have_value("typed")


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_texts_of_several_lines_come_back_as_they_were(visit, acme, look):
    fields = {"description": "\nfirst\n\tand second\n", "metadata": {"k": "one\ntwo\n", "t": "a\tb"}}
    endpoint = create_endpoint(acme, **fields)
    page = visit(f"{PREFIX}/{endpoint.id}/settings", look)

    page.press("#whe-name", "Enter")

    expect(page.get_by_text("are saved")).to_be_visible()
    assert acme.get(endpoint.path).get_json() == endpoint


def test_events_are_offered_only_where_not_all_are_chosen(visit):
    page = visit(f"{PREFIX}/new", Look(scripts=False))
    expect(page.locator("#whe-event_lines")).to_be_hidden()

    page.get_by_label("Only the events that I choose").check()

    expect(page.locator("#whe-event_lines")).to_be_visible()


@pytest.mark.parametrize("look", EVERY_LOOK, ids=str)
def test_pages_with_faults_and_conflicts_are_accessible_and_fit(visit, acme, look):
    endpoint = create_endpoint(acme, headers_json={"X-Long-" + "x" * 100: "v"}, metadata={"k": "one\ntwo"})
    page = visit(f"{PREFIX}/new", look)
    page.get_by_label("Only the events that I choose").check()
    page.fill("#whe-headers-0", "Host")
    page.fill("#whe-metadata-0-value", "without a key")
    page.press("#whe-name", "Enter")
    expect(page.locator("#whe-errors li")).to_have_count(5)
    assert_accessible(page)
    assert_fits(page)
    photograph(page, f"new-with-faults-{look}")

    page.goto(f"{PREFIX}/{endpoint.id}/settings")
    page.fill("#whe-name", "mine")
    page.get_by_text("Replace the value").click()
    page.fill("#whe-headers-0", "w")
    change_endpoint(acme, endpoint, name="theirs", url="https://theirs.example/" + "long" * 100, headers_json={})
    page.press("#whe-name", "Enter")
    expect(page.locator("#whe-errors h3")).to_have_count(3)
    assert_accessible(page)
    assert_fits(page)
    photograph(page, f"settings-with-conflicts-{look}")

    page.goto(f"{PREFIX}/{endpoint.id}/delete")
    page.fill("#whe-name", "wrong")
    page.press("#whe-name", "Enter")
    expect(page.locator("#whe-errors")).to_be_focused()
    assert_accessible(page)
    photograph(page, f"delete-{look}")
