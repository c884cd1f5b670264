"""The page of declared events, whose tables are wide and whose names are long."""

import pytest

from tests.support import sites
from tests.support.accessible import assert_accessible, assert_fits
from tests.support.browser import EVERY_LOOK, Visit
from tests.support.portal import PREFIX
from tests.support.sites import Site

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers)]


@pytest.mark.parametrize("look", EVERY_LOOK, ids=str)
def test_a_schema_with_long_names_fits_and_a_link_leads_to_its_event(visit: Visit, site: Site, look):
    long = "a_rather_long_name_of_a_property_" * 4
    schema = {"properties": {long: {"enum": [long], "description": long, "items": {"properties": {long: {}}}}}}
    for name in ("invoice.paid", f"order.{long[:100]}"):
        site.host.webhooks.event_type(name, description="It happened.", schema=schema, example={long: long})

    page = visit(f"{PREFIX}/events", look)

    assert_accessible(page)
    assert_fits(page)
    page.get_by_role("navigation", name="Events").get_by_role("link").last.click()
    assert page.locator(":target h3").inner_text() == f"order.{long[:100]}"
