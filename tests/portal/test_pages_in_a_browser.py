"""Every page that the portal has, as each kind of person has it: whoever adds a page finds it here without asking."""

import pytest
from flask.testing import FlaskClient

from tests.support import deliveries, sites
from tests.support.accessible import assert_accessible, assert_fits, walk
from tests.support.api import change_endpoint, create_endpoint
from tests.support.browser import EVERY_LOOK, Look, Visit
from tests.support.hosts import Host
from tests.support.pages import paths
from tests.support.portal import PREFIX
from tests.support.sites import Site

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers)]


@pytest.fixture
def ids(host: Host, acme: FlaskClient, webhook_receiver, drain_webhooks) -> dict[str, str]:
    """The parts of paths, for a tenant whose endpoints have delivered, failed and held."""
    orders = create_endpoint(acme, webhook_receiver.url, name="Orders")
    webhook_receiver.answer(200, 500)
    deliveries.publish(host, {"id": 1}, {"id": 2})
    drain_webhooks()
    paused = create_endpoint(acme, name="Invoices", event_types=["invoice.paid", "invoice.*", "a.b", "c.d", "e.f"])
    change_endpoint(acme, paused, status="PAUSED")
    deliveries.publish(host, {"id": 3})
    return {"ep_id": orders.id, "dlv_id": acme.get(f"{orders.path}/deliveries").get_json()[0]["id"]}


@pytest.mark.parametrize("look", [*EVERY_LOOK, Look(forced_colors=True), Look(text_percent=200)], ids=str)
def test_everybody_can_use_every_page(visit: Visit, site: Site, ids, look):
    page = visit(f"{PREFIX}/", look)
    for path in [*paths(site.host.app, ids), f"{PREFIX}/ep_nonsense"]:
        page.goto(path)

        assert_accessible(page)
        assert_fits(page)


@pytest.mark.parametrize("look", [Look(scripts=False), Look(width=320, scheme="dark")], ids=str)
def test_every_control_is_reached_by_keyboard_and_shows_it(visit: Visit, site: Site, ids, look):
    page = visit(f"{PREFIX}/", look)
    for path in paths(site.host.app, ids):
        page.goto(path)

        assert walk(page) > 0


@pytest.mark.parametrize("look", EVERY_LOOK, ids=str)
def test_a_tenant_without_anything_has_pages_too(visit: Visit, look):
    page = visit(f"{PREFIX}/", look)

    assert_accessible(page)
    assert_fits(page)
