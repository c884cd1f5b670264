"""Texts that a tenant, its receivers and other sites can bring into a page are shown as they are, and do nothing."""

from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient

from tests.support import deliveries, receivers, sites
from tests.support.accessible import assert_accessible, assert_fits
from tests.support.api import create_endpoint
from tests.support.browser import Look, Visit
from tests.support.hosts import Host
from tests.support.pages import paths
from tests.support.portal import PREFIX
from tests.support.sites import Site

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers, max_body_bytes=262_144)]

ELEMENT = "<img src=x data-hostile onerror=window.hostile=1>"
ENDS = "</title></textarea></script>"
MARKUP = f"hostile{{{{7*7}}}}${{7*7}}{ENDS}<script>window.hostile=1</script>{ELEMENT}\"' data-hostile=1"
RIGHT_TO_LEFT = "\u202egnp.exe"

FAULTS = """() => {
    const faults = [...document.querySelectorAll("[data-hostile]")].map(e => `An element of theirs: ${e.outerHTML}`);
    if (window.hostile) faults.push("A script of theirs ran.");
    if (document.documentElement.outerHTML.includes("hostile49")) faults.push("A template of theirs was rendered.");
    // Text that turns the direction must end its turn before our own text goes on.
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const text = texts.currentNode;
        // Code has a line for each of its texts; a line ends a turn.
        if (!text.data.includes("\\u202e") || text.parentElement.closest("pre, code, textarea")) continue;
        let around = text.parentElement, style = getComputedStyle(around);
        while (style.display === "inline" && !style.unicodeBidi.match("isolate|plaintext"))
            style = getComputedStyle(around = around.parentElement);
        if (!around.innerText.split(/[\\n\\t]/).every(line => /\\u202egnp.exe$|^[^\\u202e]*$/.test(line.trim())))
            faults.push(`It turns the text after it: ${around.outerHTML}`);
    }
    return faults;
}"""


def assert_harmless(page: Any) -> None:
    faults = page.evaluate(FAULTS)
    assert not faults, "\n\n".join([page.url, *faults])


def endpoint_with_delivery(host: Host, client: FlaskClient, data: Any, **fields: Any) -> dict[str, str]:
    """Create an endpoint and publish one event to it alone; return the parts of paths."""
    endpoint = create_endpoint(client, **fields)
    deliveries.publish(host, data, event_type=fields["event_types"][0])
    return {"ep_id": endpoint.id}


@pytest.fixture
def ids(host: Host, acme: FlaskClient, receivers: Any, drain_webhooks) -> list[dict[str, str]]:
    """The parts of paths: of an endpoint with markup everywhere, and of one with the longest of everything."""
    headers = f"Content-Type: text/html;{ELEMENT}\r\nServer: {ELEMENT}\r\nLocation: /{ELEMENT}\r\n"
    body = f"<!doctype html><title>{MARKUP}</title>".encode() + RIGHT_TO_LEFT.encode()
    rude = receivers.start(say(f"HTTP/1.1 500 {ELEMENT}\r\n{headers}".encode(), body))
    wordy = receivers.start(say(b"HTTP/1.1 500 No\r\nLocation: /%b\r\n" % (b"l" * 4000), b"w" * 5000))
    long = "event_type_" * 11
    made = [
        endpoint_with_delivery(
            host,
            acme,
            {"markup": MARKUP, "direction": RIGHT_TO_LEFT},
            name=f"{MARKUP[:200]}{RIGHT_TO_LEFT}",
            url=f"http://127.0.0.1:{rude.port}/{{{{7*7}}}}?<script>window.hostile=1</script>\"'<b/data-hostile>",
            description=MARKUP + RIGHT_TO_LEFT,
            metadata={"team": MARKUP, "direction": RIGHT_TO_LEFT},
            headers_json={"x-&'`|~": MARKUP},
            event_types=["invoice.paid"],
        ),
        endpoint_with_delivery(
            host,
            acme,
            {"long": "x" * 130_000, "lines": ["line"] * 15_000},
            name="W" * 255,
            url=f"http://127.0.0.1:{wordy.port}/{'u' * 1970}",
            description="d" * 1000,
            metadata={"k" * 40: "v" * 500},
            headers_json={"h" * 128: "v" * 4096},
            event_types=[long, *(f"{long}.{number}" for number in range(9))],
        ),
    ]
    drain_webhooks()
    for each in made:
        each["dlv_id"] = acme.get(f"/v1/endpoints/{each['ep_id']}/deliveries").get_json()[0]["id"]
    return made


def say(head: bytes, body: bytes) -> receivers.Answer:
    return receivers.say(head, b"Content-Length: %d\r\n\r\n" % len(body), body)


@pytest.mark.parametrize("look", [Look(width=320), Look(scripts=False)], ids=str)
def test_hostile_content_is_text_and_breaks_no_page(visit: Visit, site: Site, ids, look):
    page = visit(f"{PREFIX}/", look)
    for path in dict.fromkeys(path for each in ids for path in paths(site.host.app, each)):
        page.goto(path)

        assert_harmless(page)
        assert_accessible(page)
        assert_fits(page)


def test_a_name_is_shown_as_it_was_given(visit: Visit, site: Site, ids):
    page = visit(f"{PREFIX}/{ids[0]['ep_id']}")

    assert page.locator("h1").inner_text() == f"{MARKUP[:200]}{RIGHT_TO_LEFT}"


@pytest.mark.parametrize("look", [Look(), Look(scripts=False)], ids=str)
def test_what_an_address_brings_is_text(visit: Visit, site: Site, ids, look):
    page = visit(f"{PREFIX}/", look)
    for path in paths(site.host.app, ids[0]):
        page.goto(path)
        names = page.evaluate("[...document.querySelectorAll('form[method=get] [name]')].map(e => e.name)")
        values = dict.fromkeys({*names, "after", "cursor", "q"}, MARKUP + RIGHT_TO_LEFT)

        page.goto(f"{path}?{urlencode(values)}")

        assert_harmless(page)
        assert_fits(page)
        assert page.locator("h1").count() == 1


# Nobody can type text into fields for numbers and times.
FILL = """(form, text) => {
    form.noValidate = true;
    const fields = [...form.elements].filter(e => e.name && e.matches("textarea, input") &&
        ["textarea", "text", "url", "search", "password"].includes(e.type));
    for (const field of fields) {
        field.removeAttribute("maxlength");
        field.value = text;
    }
    return fields.length > 0;
}"""


def test_what_a_form_is_given_is_shown_again_as_text(visit: Visit, site: Site, ids):
    page = visit(f"{PREFIX}/")
    for path in paths(site.host.app, ids[0]):
        page.goto(path)
        for number in range(page.locator("form[method=post]").count()):
            page.goto(path)
            form = page.locator("form[method=post]").nth(number)
            if form.evaluate(FILL, MARKUP + RIGHT_TO_LEFT):
                form.locator("button:not([type=button])").last.click()
                page.wait_for_load_state()

            assert_harmless(page)
            assert_fits(page)


def test_a_message_about_a_hostile_name_keeps_its_direction(visit: Visit, ids):
    page = visit(f"{PREFIX}/{ids[0]['ep_id']}")

    page.get_by_role("button", name="Pause").first.click()

    assert "is paused" in page.inner_text("body")
    assert_harmless(page)
