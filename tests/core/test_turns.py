"""Whose turn it is: no backlog hides what other tenants and other endpoints have."""

import pytest

from flask_webhook_endpoints.core import turns
from flask_webhook_endpoints.state import current_state
from tests.support.api import create_endpoint
from tests.support.deliveries import claim, publish

pytestmark = pytest.mark.usefixtures("short_head")


@pytest.fixture
def short_head(monkeypatch):
    """Let a claim read a few deliveries at first, so that twenty are a backlog."""
    monkeypatch.setattr(turns, "LOOKED_AT", 3)


def claimed(host, most):
    """Claim so many, and return the endpoints that they are for."""
    with host.app.app_context():
        deliveries = claim(current_state().scope(), most=most).deliveries
        host.db.session.commit()
        return {delivery.ep_id for delivery in deliveries}


# On PostgreSQL the names of the tenants are one array.
@pytest.mark.parametrize("tenant_id", ["globex", 'a "quoted", {braced} \\ é'], ids=["plain", "odd"])
def test_a_delivery_behind_another_tenants_backlog_is_claimed_next(host, tenant_id):
    busy = create_endpoint(host.client()).id
    quiet = create_endpoint(host.client(tenant_id)).id
    publish(host, *range(20))
    publish(host, tenant_id=tenant_id)

    assert claimed(host, most=2) == {busy, quiet}


def test_a_delivery_behind_another_endpoints_backlog_is_claimed_next(host, acme):
    busy = create_endpoint(acme, event_types=["a"]).id
    quiet = create_endpoint(acme, event_types=["b"]).id
    publish(host, *range(20), event_type="a")
    publish(host, event_type="b")

    assert claimed(host, most=2) == {busy, quiet}


def test_a_backlog_is_claimed_to_its_cap(host, acme):
    create_endpoint(acme)
    publish(host, *range(20))

    with host.app.app_context():
        assert [len(claim(current_state().scope(), most=100).deliveries) for _ in range(2)] == [10, 0]
