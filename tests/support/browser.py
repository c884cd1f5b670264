"""Debian's Chromium, and pages in it as different people have them: `visit` opens them and fails on their errors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol
from weakref import WeakKeyDictionary

import pytest

from tests.support import sites
from tests.support.hosts import Host
from tests.support.sites import Site
from tests.support.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    # It takes a tenth of a second to load, which no other test should wait for.
    from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, Response

CHROMIUM = "/usr/bin/chromium-headless-shell"
"""Chromium without its windows, which take more time than all pages."""

NOT_OURS = ["--disable-back-forward-cache"]
"""Flags of Playwright's: without this one, Back shows a page as it was left, as in people's browsers."""

REFUSED = "Failed to load resource"
"""Chromium's console says so of each answer from 400 on, also of a form that is shown again with its errors."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """The way in which a person has pages: on a phone or a wide screen, in the dark, without scripts."""

    scripts: bool = True
    scheme: Literal["light", "dark"] = "light"
    width: int = 1280
    locale: str = "en-US"
    text_percent: int = 100
    """The size of text that the person has set in the browser, which `rem` and `em` follow."""
    forced_colors: bool = False
    reduced_motion: bool = False
    now: datetime | None = None
    """The time that scripts of the page see; None is the real time."""

    def __str__(self) -> str:
        """Name it in the id of a test."""
        return "-".join(
            [
                self.scheme,
                str(self.width),
                "scripts" if self.scripts else "plain",
                *([self.locale] if self.locale != "en-US" else []),
                *([f"text{self.text_percent}"] if self.text_percent != 100 else []),
                *(["forced"] if self.forced_colors else []),
                *(["still"] if self.reduced_motion else []),
            ]
        )


EVERY_LOOK = [
    Look(scheme=scheme, width=width, scripts=scripts)
    for scheme, width, scripts in product(("light", "dark"), (1280, 320), (True, False))
]

_sessions: "WeakKeyDictionary[Page, CDPSession]" = WeakKeyDictionary()


class Visit(Protocol):
    def __call__(
        self, path: str, look: Look = ..., /, *, tenant: str | None = "acme", forbidden: tuple[str, ...] = ()
    ) -> "Page":
        """Open a path of the site in a tab of its own; tabs of the same person and look share cookies.

        Actions of `forbidden` are those that `authorize` refuses.
        """
        ...


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium, started once; each test has contexts of its own in it."""
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415

    expect.set_options(timeout=PATIENCE_SECONDS * 1000 / 4)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, ignore_default_args=NOT_OURS)
        yield chromium
        chromium.close()


@pytest.fixture
def site(host: Host) -> Iterator[Site]:
    """The fixture `host`, served; mark the test `host(make=sites.for_browsers)`."""
    with sites.served(host) as site:
        yield site


@pytest.fixture
def visit(browser: "Browser", site: Site) -> Iterator[Visit]:
    """Open pages; at its end the test fails if one broke the policy, had an error, or asked another origin."""
    contexts: dict[tuple[object, ...], BrowserContext] = {}

    def visit(
        path: str, look: Look = Look(), /, *, tenant: str | None = "acme", forbidden: tuple[str, ...] = ()
    ) -> "Page":
        person = look, tenant, forbidden
        if person not in contexts:
            contexts[person] = _context(browser, site, look)
            cookies = {"tenant": tenant, "forbidden": "+".join(forbidden)}
            contexts[person].add_cookies(
                [{"name": name, "value": value, "url": site.url} for name, value in cookies.items() if value]
            )
        page = contexts[person].new_page()
        _prepare(page, look)
        page.goto(path)
        return page

    yield visit
    for context in contexts.values():
        context.close()
    assert site.problems == []
    assert site.reports == []


def _context(browser: "Browser", site: Site, look: Look) -> "BrowserContext":
    context = browser.new_context(
        base_url=site.url,
        color_scheme=look.scheme,
        viewport={"width": look.width, "height": 800},
        locale=look.locale,
        timezone_id="Europe/Berlin",
        forced_colors="active" if look.forced_colors else "none",
        reduced_motion="reduce" if look.reduced_motion else "no-preference",
    )
    if look.now is not None:
        context.clock.set_fixed_time(look.now)
    context.on("console", lambda said: _hear(said.type, said.text, site.problems))
    context.on("weberror", lambda error: site.problems.append(f"Error in a script: {error.error}"))
    context.on("dialog", lambda dialog: (site.problems.append(f"Dialog: {dialog.message}"), dialog.dismiss()))
    context.on("response", lambda response: _judge(response, site.problems))
    context.on("request", lambda request: _expect_own(request.url, site))
    return context


def _prepare(page: "Page", look: Look) -> None:
    session = _sessions[page] = page.context.new_cdp_session(page)
    # Playwright's own switch could not be turned on again for axe.
    session.send("Emulation.setScriptExecutionDisabled", {"value": not look.scripts})
    if look.text_percent != 100:
        session.send("Page.enable")
        size = 16 * look.text_percent // 100
        session.send("Page.setFontSizes", {"fontSizes": {"standard": size, "fixed": size * 13 // 16}})


def _hear(kind: str, text: str, problems: list[str]) -> None:
    if kind in ("error", "warning") and not text.startswith(REFUSED):
        problems.append(f"Console: {text}")


def _judge(response: "Response", problems: list[str]) -> None:
    # A page may be refused, and a form be shown again. What a page needs must be there.
    is_page = response.request.resource_type in ("document", "xhr", "fetch")
    if response.status >= (500 if is_page else 400):
        problems.append(f"Answered {response.status}: {response.url}")


def _expect_own(url: str, site: Site) -> None:
    if not url.startswith((f"{site.url}/", "data:")):
        site.problems.append(f"Asked another origin: {url}")


@contextmanager
def scripts_on(page: "Page") -> Iterator[None]:
    """Let our own scripts run in a page that has none; the page's are not loaded by that."""
    off = page.evaluate("matchMedia('(scripting: none)').matches")
    _sessions[page].send("Emulation.setScriptExecutionDisabled", {"value": False})
    yield
    _sessions[page].send("Emulation.setScriptExecutionDisabled", {"value": off})


def photograph(page: "Page", name: str) -> None:
    """Keep an image of the whole page in the folder that `WEBHOOK_TESTS_SCREENSHOTS` names, if it names one."""
    if folder := os.environ.get("WEBHOOK_TESTS_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True, animations="disabled", caret="hide")
