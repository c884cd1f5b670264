"""Every page that the portal has, as each kind of person has it: whoever adds a page finds it here without asking."""

import pytest
from flask_babel import Babel

from tests.support import showcase, sites
from tests.support.accessible import assert_accessible, assert_fits, walk
from tests.support.browser import EVERY_LOOK, Look, Visit
from tests.support.hosts import Host
from tests.support.pages import paths
from tests.support.portal import PREFIX
from tests.support.sites import Site

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers)]


def in_german(url: str) -> Host:
    """Make a host of German readers."""
    host = sites.for_browsers(url)
    Babel(host.app, default_locale="de")
    return host


@pytest.fixture
def ids(host: Host, webhook_clock, webhook_receiver, drain_webhooks) -> dict[str, str]:
    showcase.declare(host)
    return showcase.fill(host, webhook_clock, webhook_receiver, drain_webhooks)


@pytest.mark.parametrize("look", EVERY_LOOK, ids=str)
def test_everybody_can_use_every_page(visit: Visit, site: Site, ids, look):
    page = visit(f"{PREFIX}/", look)
    for path in [*paths(site.host.app, ids), f"{PREFIX}/ep_nonsense"]:
        page.goto(path)

        assert_accessible(page)
        assert_fits(page)


@pytest.mark.parametrize("look", [Look(text_percent=200), Look(width=320, scripts=False, forced_colors=True)], ids=str)
def test_every_control_is_reached_by_keyboard_and_shows_it(visit: Visit, site: Site, ids, look):
    page = visit(f"{PREFIX}/", look)
    for path in paths(site.host.app, ids):
        page.goto(path)

        assert walk(page) > 0
        assert_fits(page)


@pytest.mark.parametrize("look", [Look(scripts=False), Look(width=320, scheme="dark")], ids=str)
def test_a_tenant_without_anything_has_pages_too(visit: Visit, site: Site, look):
    page = visit(f"{PREFIX}/", look)
    for path in paths(site.host.app, {}):
        page.goto(path)

        assert_accessible(page)
        assert_fits(page)


@pytest.mark.host(make=in_german)
@pytest.mark.parametrize("look", [Look(width=320, locale="de-DE"), Look(locale="de-DE", scripts=False)], ids=str)
def test_every_page_is_in_the_readers_language_and_has_room_for_it(visit: Visit, site: Site, ids, look):
    page = visit(f"{PREFIX}/", look)
    for path in paths(site.host.app, ids):
        page.goto(path)

        assert page.locator("html").get_attribute("lang") == "de"
        assert_accessible(page)
        assert_fits(page)
