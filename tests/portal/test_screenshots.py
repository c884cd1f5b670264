"""The images of docs/portal.md: `make screenshots` writes them, at a time that stands still."""

import random
import re
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.state import set_clock
from flask_webhook_endpoints.testing import drain
from tests.support import deliveries, docs, sites
from tests.support.accessible import assert_fits
from tests.support.api import change_endpoint, create_endpoint
from tests.support.browser import Look, Visit, photograph
from tests.support.database import execute
from tests.support.portal import PREFIX

pytestmark = [pytest.mark.browser, pytest.mark.host(make=sites.for_browsers)]

NOW = datetime(2026, 11, 30, 12, 20, tzinfo=UTC)
LIGHT, DARK, PHONE = Look(now=NOW), Look(scheme="dark", now=NOW), Look(width=390, now=NOW)
IMAGES = re.findall(r"\(images/(portal-[\w-]+)\.png\)", (docs.ROOT / "docs" / "portal.md").read_text())


@pytest.fixture
def ids(host, acme, webhook_receiver):
    """A tenant with a month of results, a delivery that failed twice, and an endpoint that holds some."""
    moment = NOW - timedelta(minutes=5)
    set_clock(host.app, lambda: moment)
    billing = create_endpoint(acme, "https://billing.example.com/webhooks", name="Billing", event_types=["invoice.*"])
    orders = create_endpoint(acme, webhook_receiver.url, name="Orders", event_types=["order.created", "order.shipped"])
    crm = create_endpoint(acme, "https://crm.example.com/in", name="CRM", event_types=["customer.*"])
    for endpoint, faults in ((billing, 1), (orders, 9), (crm, 0)):
        fill(host, endpoint, faults)
    change_endpoint(acme, crm, status="PAUSED")
    deliveries.publish(host, *({"id": number} for number in range(12)), event_type="customer.created")
    webhook_receiver.answer(500, 503)
    deliveries.publish(host, {"id": 1042, "total": "129.00", "currency": "EUR"}, event_type="order.created")
    for minutes in (3, 0):
        drain(host.app)
        moment = NOW - timedelta(minutes=minutes)
    failed = acme.get(f"{orders.path}/deliveries").get_json()[0]
    return {"billing": billing.id, "orders": orders.id, "failed": failed["id"]}


def fill(host, endpoint, faults):
    """Make the hours of a month."""
    chance = random.Random(faults)
    hours = [
        {
            "tenant_id": "acme",
            "endpoint_id": endpoint.uuid,
            "hour": NOW.replace(minute=0) - timedelta(hours=before),
            "latency": chance.choice([13, 14, 14, 15, 17]),
            "delivered": (delivered := max(0, round(chance.gauss(60 - 2 * (before % 24), 9)))),
            "failed": (failed := chance.randint(0, faults) if chance.random() < 0.2 else 0),
            "attempts": delivered + 3 * failed,
            "failed_attempts": 3 * failed,
            "last_at": NOW - timedelta(hours=before),
        }
        for before in range(1, 24 * 30)
    ]
    execute(host, sa.insert(host.webhooks._host.tables.endpoint_hour), hours)


def test_the_images_of_the_documentation(visit: Visit, ids):
    shown = {
        "portal-endpoints": ("/", LIGHT),
        "portal-endpoint": (f"/{ids['billing']}?window=7d", LIGHT),
        "portal-delivery": (f"/{ids['orders']}/deliveries/{ids['failed']}", DARK),
        "portal-phone": ("/", PHONE),
    }
    assert set(IMAGES) == set(shown)

    for name, (path, look) in shown.items():
        page = visit(f"{PREFIX}{path}", look)

        assert_fits(page)
        photograph(page, name)
