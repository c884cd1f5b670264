"""The rest that a receiver asks for: it ends, and no row of it is left behind."""

import asyncio

import pytest
from flask.testing import FlaskClient

from flask_webhook_endpoints.core.marks import Marks
from flask_webhook_endpoints.testing import drain
from flask_webhook_endpoints.worker.loop import Worker
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import REST, count
from tests.support.deliveries import publish, statuses
from tests.support.inbox import Answer, Arrived, Inbox, accept
from tests.support.waiting import wait_until

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 60])


@pytest.fixture
def resting(acme, webhook_receiver, drain_webhooks, host):
    """An endpoint whose receiver has asked for rest, with one delivery that was attempted and three that were not."""
    webhook_receiver.answer(503)
    endpoint = create_endpoint(acme, webhook_receiver.url)
    publish(host)
    assert drain_webhooks() == 1
    publish(host, *range(3))
    assert drain_webhooks() == 0
    webhook_receiver.answer(200)
    return endpoint


def test_a_receiver_that_has_rested_gets_everything(host, resting, webhook_clock, drain_webhooks):
    webhook_clock.move(seconds=30)
    assert (drain_webhooks(), count(host, REST)) == (0, 1)
    webhook_clock.move(seconds=45)

    assert (drain_webhooks(), count(host, REST)) == (4, 0)
    assert statuses(host) == {"DELIVERED": 4}


def test_a_pause_and_a_resumption_end_a_rest(host, acme, resting, drain_webhooks):
    change_endpoint(acme, resting, status="PAUSED")
    change_endpoint(acme, resting, status="ACTIVE")

    assert count(host, REST) == 0
    # The retry comes at its time.
    assert drain_webhooks() == 3


def test_a_deleted_endpoint_leaves_no_rest(host, acme, resting):
    acme.delete(resting.path)

    assert count(host, REST) == 0


# The rest of an hour became one of seconds, and the delivery that was to try the endpoint out waited for the hour.
@pytest.mark.several_connections
def test_a_later_answer_shortens_no_rest(host, acme, inbox, webhook_clock):
    create_endpoint(acme, inbox.url())
    publish(host, 0, 1)
    answers = iter([Answer(429, {"Retry-After": "3600"}), Answer(503)])

    async def answer(arrived: Arrived) -> Answer:
        if arrived.data:
            await asyncio.to_thread(wait_until, lambda: count(host, REST))
        return next(answers)

    inbox.answer = answer
    assert drain(host.app) == 2
    inbox.answer = accept
    publish(host, 2, 3)
    webhook_clock.move(minutes=30)

    assert drain(host.app) == 0
    webhook_clock.move(minutes=31)
    assert drain(host.app) == 4
    assert (statuses(host), count(host, REST)) == ({"DELIVERED": 4}, 0)


# All the others stayed held, until a sweep found them or its retry came, which may be a day later.
@pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 5, 7200], retry_jitter=0)
def test_what_tries_an_endpoint_out_and_comes_back_long_after_leaves_it_to_another(host, acme, inbox, webhook_clock):
    marks = Marks()
    # No sweep helps.
    marks.wait("sweep", 3600)

    def attempts() -> int:
        return asyncio.run(Worker(host.app, marks=marks).run("drained"))

    async def refuse(arrived: Arrived) -> Answer:
        return Answer(503)

    inbox.answer = refuse
    create_endpoint(acme, inbox.url())
    publish(host, *range(4))
    # Older than its schedule, a delivery waits for its endpoint no longer: its attempts count.
    webhook_clock.move(hours=3)
    assert attempts() == 2

    for rest in (5, 10, 20, 40):
        webhook_clock.move(seconds=rest + 1)
        assert attempts() == 1


# It stayed for ever, because nothing looks for rests of endpoints that are not found.
@pytest.mark.several_connections
def test_a_rest_that_begins_once_its_endpoint_is_deleted_goes(host, acme, inbox, webhook_clock, drain_webhooks):
    delete_and_ask_for_rest(acme, host, inbox)
    assert drain_webhooks() == 1
    webhook_clock.move(days=1)
    assert drain_webhooks() == 0

    assert (statuses(host), count(host, REST)) == ({"CANCELLED": 1}, 0)


# No later claim looked for deliveries to the endpoint.
@pytest.mark.several_connections
@pytest.mark.host(make=hosts.delivering, retry_schedule=[0])
def test_a_rest_goes_that_a_last_attempt_begins_once_its_endpoint_is_deleted(
    host, acme, inbox, webhook_clock, drain_webhooks
):
    delete_and_ask_for_rest(acme, host, inbox)
    assert drain_webhooks() == 1
    webhook_clock.move(days=1)
    assert drain_webhooks() == 0

    assert (statuses(host), count(host, REST)) == ({"FAILED": 1}, 0)


def delete_and_ask_for_rest(client: FlaskClient, host: hosts.Host, inbox: Inbox) -> None:
    """Publish to an endpoint that is deleted while it is asked, and asks for rest then."""
    endpoint = create_endpoint(client, inbox.url())
    publish(host)

    async def answer(arrived: Arrived) -> Answer:
        await asyncio.to_thread(host.client().delete, endpoint.path)
        return Answer(503)

    inbox.answer = answer
