"""Whether everybody can use a page: axe-core's rules, and what it does not look at."""

from functools import cache
from typing import TYPE_CHECKING, Any

from tests.support import javascript
from tests.support.browser import scripts_on

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

OPTIONS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"],
    "rules": {"target-size": {"enabled": True}},  # 24 px; off unless it is asked for by name
    "resultTypes": ["violations"],
    "preload": False,  # it would fetch stylesheets, which the policy forbids
}
MOST_STOPS = 300

STRUCTURE = """() => {
    const faults = [];
    const expect = (holds, fault) => holds || faults.push(fault);
    const count = selector => document.querySelectorAll(selector).length;
    expect(document.documentElement.lang, "The document has no lang.");
    expect(document.title.trim(), "The document has no title.");
    expect(count("h1") === 1, `${count("h1")} elements h1.`);
    expect(count("main, [role=main]") === 1, `${count("main, [role=main]")} landmarks main.`);
    for (const table of document.querySelectorAll("table")) {
        expect(table.caption && table.caption.textContent.trim(), `No caption: ${table.outerHTML.slice(0, 80)}`);
        for (const header of table.querySelectorAll("th"))
            expect(header.scope, `No scope: ${header.outerHTML.slice(0, 80)}`);
    }
    return faults;
}"""

WIDE = """() => {
    const width = document.documentElement.clientWidth;
    if (document.scrollingElement.scrollWidth <= width) return [];
    // An element that scrolls by itself keeps its children's width from the page.
    const scrolls = e => e && (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
    return [`The page is ${document.scrollingElement.scrollWidth} px wide, its window ${width}.`].concat(
        [...document.body.querySelectorAll("*")]
            .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement))
            .map(e => e.cloneNode().outerHTML.slice(0, 120)).slice(0, 10));
}"""

FOCUS = """() => {
    const focused = document.activeElement, style = getComputedStyle(focused), faults = [];
    // The button of a field for a time has the focus within it.
    const isFocused = focused.matches(":focus-visible, input:focus-within");
    if (!isFocused || style.outlineStyle === "none" || !parseFloat(style.outlineWidth))
        faults.push("Its focus is not visible.");
    const box = focused.getClientRects()[0] || focused.getBoundingClientRect();
    // The middle of the part that is within the window.
    const middle = (from, to, edge) => (Math.max(from, 0) + Math.min(to, edge)) / 2;
    const top = document.elementFromPoint(
        middle(box.left, box.right, innerWidth), middle(box.top, box.bottom, innerHeight));
    if (!top || !(focused.contains(top) || top.contains(focused)))
        faults.push(`${top ? top.cloneNode().outerHTML : "The edge of the window"} hides it.`);
    return faults.map(fault => `${focused.cloneNode().outerHTML.slice(0, 120)} ${fault}`);
}"""


# Of radio buttons with one name, Tab stops at one.
STOPS = """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
    .filter(e => !e.disabled && e.type !== "hidden" && e.checkVisibility({visibilityProperty: true}))
    .filter(e => e.type !== "radio" || e.checked)
    .map((e, number) => e.whe_stop = number)"""
MISSED = """numbers => [...document.querySelectorAll("*")].filter(e => numbers.includes(e.whe_stop))
    .map(e => `Tab does not stop at ${e.outerHTML.slice(0, 200)}`)"""


@cache
def _axe() -> str:
    javascript.install(javascript.PORTAL)
    return (javascript.PORTAL / "node_modules" / "axe-core" / "axe.min.js").read_text()


def assert_accessible(page: "Page") -> None:
    """Fail with every violation of axe's rules, and of ours about titles, headings, landmarks and tables."""
    # Its texts can be seen before its stylesheets are there.
    page.wait_for_load_state()
    with scripts_on(page):
        # Evaluated by the debugger, which no policy binds.
        page.evaluate(f"{_axe()};0")
        found = page.evaluate("options => axe.run(options)", OPTIONS)["violations"]
    faults = [_told(violation, node) for violation in found for node in violation["nodes"]] + page.evaluate(STRUCTURE)
    _assert_none(page, faults)


def _assert_none(page: "Page", faults: list[str]) -> None:
    assert not faults, "\n\n".join([page.url, *faults])


def _told(violation: dict[str, Any], node: dict[str, Any]) -> str:
    where = " ".join(map(str, node["target"]))
    why = node["failureSummary"].replace("\n", "\n    ")
    return f"{violation['id']} ({violation['impact']}): {violation['help']}\n    {where}\n    {node['html']}\n    {why}"


def assert_fits(page: "Page") -> None:
    """Fail with the elements that make a reader scroll sideways."""
    page.wait_for_load_state()
    _assert_none(page, page.evaluate(WIDE))


def reach(page: "Page", role: Any, name: str) -> "Locator":
    """Go by Tab to the control of this role and accessible name; fail if a stop on the way does not show its focus."""
    control = page.get_by_role(role, name=name, exact=True)
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            continue
        _assert_none(page, page.evaluate(FOCUS))
        if control.evaluate("control => control === document.activeElement"):
            return control
    raise AssertionError(f"Tab does not reach the {role} {name!r}.")


def walk(page: "Page") -> int:
    """Go by Tab through the whole page, and return the number of stops; fail at one that is left out or unseen."""
    expected = set(page.evaluate(STOPS))
    seen, last = set(), None
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        number = page.evaluate("document.activeElement.whe_stop")
        # A field for a time has a stop for each of its parts.
        if number is None or (number in seen and number != last):
            break
        last = number
        _assert_none(page, page.evaluate(FOCUS))
        seen.add(number)
    missed = page.evaluate(MISSED, sorted(expected - seen))
    _assert_none(page, missed)
    return len(seen)


def press(page: "Page", role: Any, name: str, key: str = "Enter") -> None:
    """Go to a control by Tab, and press Enter or Space there."""
    reach(page, role, name)
    page.keyboard.press(key)
