"""The backlog of an endpoint: what a resumption sends, since when the oldest waits, when the next retry is due."""

from datetime import timedelta

import pytest

from flask_webhook_endpoints.core import endpoint_statistics
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.errors import UnknownEndpoint
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.deliveries import publish

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600], retry_jitter=0)


@pytest.fixture
def endpoint(acme, webhook_receiver):
    return create_endpoint(acme, webhook_receiver.url)


def backlog(host, endpoint_id, tenant_id="acme"):
    with host.app.app_context():
        return current_state().run(
            lambda scope: endpoint_statistics.backlog(scope.of(tenant_id), endpoint_id), commit=False
        )


def test_of_nothing_it_is_empty(host, endpoint):
    assert backlog(host, endpoint.uuid) == (0, 0, 0, None, None)


def test_a_pause_makes_what_waits_held_and_the_retry_keeps_its_time(host, endpoint, webhook_clock, webhook_receiver):
    begun_at = webhook_clock()
    webhook_receiver.answer(500)
    publish(host)
    drain(host.app)
    webhook_clock.move(minutes=10)
    publish(host, 1, 2)

    active = backlog(host, endpoint.uuid)
    change_endpoint(host.client(), endpoint, status="PAUSED")
    paused = backlog(host, endpoint.uuid)

    assert (active.held, active.waiting, active.in_flight) == (0, 3, 0)
    assert (paused.held, paused.waiting, paused.in_flight) == (3, 0, 0)
    assert active[3:] == paused[3:]
    assert abs(active.oldest_at - begun_at) < timedelta(minutes=1)
    assert abs(active.next_at - begun_at - timedelta(hours=1)) < timedelta(minutes=1)


@pytest.mark.parametrize("tenant_id", ["globex", "acme"])
def test_an_unknown_endpoint_has_none(host, endpoint, tenant_id):
    with pytest.raises(UnknownEndpoint):
        backlog(host, endpoint.uuid if tenant_id == "globex" else new_id(), tenant_id)
