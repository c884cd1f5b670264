"""Bad pages fail in the browser tests: if the harness heard nothing, every portal would look good."""

from typing import Any

import pytest

from tests.support import hosts
from tests.support.accessible import assert_accessible, assert_fits, press, reach, walk
from tests.support.browser import EVERY_LOOK, Look, Visit
from tests.support.sites import Site
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.host(make=hosts.delivering)]

GOOD = """<!doctype html><html lang=en><title>Good</title><link rel=stylesheet href=/style><script src=/script></script>
<main><h1>Good</h1><p id=said>Nothing</p><button type=button>Say</button><noscript>No scripts</noscript></main>"""
STYLE = """:root { color-scheme: light dark; font-size: 100% } button { font-size: 1rem; padding: 1rem }
.wide { width: 50rem } .pale { color: #ccc; background: #fff }
.small { padding: 0; border: 0; height: 10px; width: 10px }
.bare:focus { outline: none } .behind { position: fixed; inset: 0; z-index: 1; background: canvas }"""
SCRIPT = """addEventListener("DOMContentLoaded", () =>
    document.querySelector("button").addEventListener("click", () => {
        document.querySelector("#said").textContent = "Said"; }));"""


@pytest.fixture
def body(site: Site) -> dict[str, str]:
    """What the page `/` has in its body; the test may change it."""
    texts = {"/": (GOOD, "text/html"), "/style": (STYLE, "text/css"), "/script": (SCRIPT, "text/javascript")}
    body = {"added": ""}
    for path, (text, mimetype) in texts.items():
        site.host.app.add_url_rule(
            path,
            path,
            lambda text=text, mimetype=mimetype: site.host.app.response_class(
                text.replace("</main>", body["added"] + "</main>"), mimetype=mimetype
            ),
        )
    return body


def heard(page: Any, site: Site) -> str:
    """Return what the browser has told; Playwright takes it in while we ask for anything."""
    page.title()
    return " ".join(site.problems)


@pytest.mark.parametrize("look", [*EVERY_LOOK, Look(forced_colors=True, reduced_motion=True)], ids=str)
def test_a_good_page_passes_in_every_look(visit: Visit, body, look):
    page = visit("/", look)

    assert_accessible(page)
    assert_fits(page)
    press(page, "button", "Say", "Space")
    assert page.inner_text("#said") == ("Said" if look.scripts else "Nothing")
    assert ("No scripts" in page.inner_text("main")) is not look.scripts


def test_a_look_is_what_the_page_sees(visit: Visit, body):
    page = visit("/", Look(scheme="dark", width=320, text_percent=200, forced_colors=True, locale="de-DE"))

    assert page.evaluate("getComputedStyle(document.body).fontSize") == "32px"
    for media in "prefers-color-scheme: dark", "forced-colors: active", "width: 320px":
        assert page.evaluate(f"matchMedia('({media})').matches")
    assert page.evaluate("navigator.language") == "de-DE"


@pytest.mark.parametrize(
    ("added", "complaint"),
    [
        ("<script>window.ran = true</script>", "Content Security Policy"),
        ("<p style='color: red'>Red</p>", "Content Security Policy"),
        ("<img src=https://elsewhere.example/>", "Asked another origin"),
        ("<img src=/lacking.png>", "Answered 404"),
        ("<img src=/broken.png>", "Answered 500"),
    ],
    ids=["inline script", "inline style", "another origin", "lacking", "broken"],
)
def test_a_page_with_an_error_is_told(visit: Visit, site: Site, body, added, complaint):
    site.host.app.add_url_rule("/broken.png", "broken", lambda: ("", 500))
    body["added"] = added

    page = visit("/")

    wait_until(lambda: complaint in heard(page, site))
    assert page.evaluate("window.ran") is None
    if "Policy" in complaint:
        wait_until(lambda: "csp-report" in " ".join(site.reports))
    site.problems.clear()
    site.reports.clear()


def test_a_script_that_fails_or_asks_is_told(visit: Visit, site: Site, body):
    page = visit("/")

    page.evaluate("setTimeout(() => { throw new Error('broken') })")
    page.evaluate("alert('hostile')")

    wait_until(lambda: "Error in a script: broken" in heard(page, site))
    assert "Dialog: hostile" in heard(page, site)
    site.problems.clear()


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize(
    ("added", "complaint"),
    [
        ("<p class=pale>Pale</p>", "color-contrast"),
        ("<button class=small aria-label=a></button><button class=small aria-label=b></button>", "target-size"),
        ("<h1>Second</h1>", "2 elements h1"),
        ("<table><tr><td>1</table>", "No caption"),
        ("<table><caption>Numbers</caption><tr><th>1</table>", "No scope"),
    ],
    ids=["contrast", "target", "heading", "caption", "scope"],
)
def test_a_page_that_shuts_somebody_out_is_told(visit: Visit, body, added, complaint, scripts):
    body["added"] = added
    page = visit("/", Look(scripts=scripts))

    with pytest.raises(AssertionError, match=complaint):
        assert_accessible(page)


def test_a_page_that_is_wider_than_the_window_is_told(visit: Visit, body):
    body["added"] = '<div class="wide">Wide</div>'

    with pytest.raises(AssertionError, match='class="wide"'):
        assert_fits(visit("/", Look(width=320)))


@pytest.mark.parametrize(
    ("added", "complaint"),
    [("<a class=bare href=/>Next</a>", "not visible"), ("<a href=/>Next</a><div class=behind>Over</div>", "hides it")],
    ids=["invisible", "hidden"],
)
def test_focus_that_nobody_sees_is_told(visit: Visit, body, added, complaint):
    body["added"] = added

    with pytest.raises(AssertionError, match=complaint):
        reach(visit("/"), "link", "Next")


def test_a_control_that_tab_leaves_out_is_told(visit: Visit, body):
    page = visit("/")
    assert walk(page) == 1
    body["added"] = "<a href=/ tabindex=-1>Next</a>"

    page.reload()

    with pytest.raises(AssertionError, match="does not stop"):
        walk(page)
