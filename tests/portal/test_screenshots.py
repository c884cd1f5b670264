"""The images of docs/portal.md: `make screenshots` writes them."""

import re

import pytest

from tests.support import docs, showcase, sites
from tests.support.accessible import assert_fits
from tests.support.browser import Look, Visit, photograph
from tests.support.portal import PREFIX

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers)]

IMAGES = re.findall(r"\(images/(portal-[\w-]+)\.png\)", (docs.ROOT / "docs" / "portal.md").read_text())


@pytest.fixture
def ids(host, webhook_clock, webhook_receiver, drain_webhooks):
    showcase.declare(host)
    return showcase.fill(host, webhook_clock, webhook_receiver, drain_webhooks)


def test_the_images_of_the_documentation(visit: Visit, ids, webhook_clock):
    now = webhook_clock()
    light, dark, phone = Look(now=now), Look(scheme="dark", now=now), Look(width=390, now=now)
    shown = {
        "portal-endpoints": ("/", light),
        "portal-endpoint": (f"/{ids['ep_id']}", light),
        "portal-delivery": (f"/{ids['ep_id']}/deliveries/{ids['dlv_id']}", dark),
        "portal-phone": ("/", phone),
    }
    assert set(IMAGES) == set(shown)

    for name, (path, look) in shown.items():
        page = visit(f"{PREFIX}{path}", look)

        assert_fits(page)
        photograph(page, name)
