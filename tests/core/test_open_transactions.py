"""A transaction of the host that stays open: deliveries of others go on meanwhile, and nothing is forgotten for it."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints import NewEvent
from flask_webhook_endpoints.core import attempts
from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason, new_id
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from flask_webhook_endpoints.worker.loop import Worker
from tests.support import hosts
from tests.support.api import Endpoint, change_endpoint, create_endpoint
from tests.support.database import DELIVERY, ENDPOINT, INCIDENT, REST, count, engine_of, rows
from tests.support.deliveries import claim, publish, statuses
from tests.support.inbox import Answer, Arrived
from tests.support.settlements import settle
from tests.support.waiting import wait_until
from tests.support.workers import in_thread

pytestmark = [pytest.mark.only_on("postgresql", "mariadb"), pytest.mark.host(make=hosts.delivering, retry_schedule=[0])]

SINCE = datetime(2020, 1, 1, tzinfo=UTC)
SECONDS = 10
"""Seconds that others may take beside the open transaction, which would hold them up until it ends."""


def beside(host: hosts.Host, change: Callable[[], object], call: Callable[[], Any]) -> Any:
    """Return what a call in a thread of its own returns while the host's transaction with the change is open."""
    with ThreadPoolExecutor(1) as thread, host.app.app_context():
        change()
        try:
            return thread.submit(call).result(SECONDS)
        finally:
            host.db.session.commit()


# MariaDB looked the deliveries up by reading the whole of a small queue, and locked it: publishers waited for the host,
# or ended in a deadlock with it.
def test_others_publish_and_deliver_while_an_endpoint_with_deliveries_is_being_deleted(host, acme):
    deleted = create_endpoint(acme)
    create_endpoint(host.client("globex"))
    publish(host, *range(20))
    publish(host, *range(4), tenant_id="globex")
    owner = new_id()

    def publish_and_deliver():
        publish(host, 4, tenant_id="globex")
        with host.app.app_context():
            state = current_state()
            claimed = state.run_apart(lambda scope: claim(scope, owner)).deliveries
            settled = [settle(each) for each in claimed if each.tenant_id == "globex"]
            return len(state.run_apart(lambda scope: attempts.record(scope, owner, settled)).settlements)

    delete = host.webhooks.endpoints.delete
    assert beside(host, lambda: delete(deleted.id, tenant_id="acme"), publish_and_deliver) == 5
    assert statuses(host) == {"DELIVERED": 5, "CANCELLED": 20}


# MariaDB locked the gap where the resumed endpoint could have had a rest and an incident: all workers waited that noted
# those of other endpoints.
def test_workers_note_how_endpoints_answer_while_another_one_is_being_resumed(host, acme):
    resumed = create_endpoint(acme)
    change_endpoint(acme, resumed, status="PAUSED")
    create_endpoint(host.client("globex"))
    publish(host, tenant_id="globex")
    owner = new_id()

    def note():
        with host.app.app_context():
            state = current_state()
            [claimed] = state.run_apart(lambda scope: claim(scope, owner)).deliveries
            asks = settle(claimed, status=DeliveryStatus.FAILED, response_status=429, rests_seconds=60.0)
            state.run_apart(lambda scope: attempts.record(scope, owner, [asks]))
        return count(host, REST), count(host, INCIDENT)

    update = host.webhooks.endpoints.update
    assert beside(host, lambda: update(resumed.id, tenant_id="acme", status="ACTIVE"), note) == (1, 1)


# MariaDB read all of the few incidents and rests to find several, and waited for those of the resumed endpoint.
def test_workers_note_that_several_endpoints_have_recovered_while_another_one_is_being_resumed(
    host, acme, webhook_receiver, webhook_clock
):
    resumed = create_endpoint(acme, webhook_receiver.url)
    for _ in range(3):
        create_endpoint(host.client("globex"), webhook_receiver.url)
    webhook_receiver.answer(429)
    for tenant_id in ("acme", "globex"):
        publish(host, tenant_id=tenant_id)
    drain(host.app)
    change_endpoint(acme, resumed, status="PAUSED")
    webhook_clock.move(hours=1)
    publish(host, tenant_id="globex")
    owner = new_id()

    def recover():
        with host.app.app_context():
            state = current_state()
            settled = [settle(each) for each in state.run_apart(lambda scope: claim(scope, owner)).deliveries]
            return len(state.run_apart(lambda scope: attempts.record(scope, owner, settled)).settlements)

    assert (count(host, REST), count(host, INCIDENT)) == (4, 4)
    update = host.webhooks.endpoints.update
    assert beside(host, lambda: update(resumed.id, tenant_id="acme", status="ACTIVE"), recover) == 3
    assert (count(host, REST), count(host, INCIDENT)) == (0, 0)


CHANGES: dict[str, Callable[[Any, Endpoint, dict[str, UUID]], object]] = {
    "create": lambda webhooks, _, __: webhooks.endpoints.create(tenant_id="acme", name="n", url="https://example.com/"),
    "change": lambda webhooks, one, _: webhooks.endpoints.update(one.id, tenant_id="acme", url="https://example.com/"),
    "rotate": lambda webhooks, one, _: webhooks.endpoints.rotate_secret(one.id, tenant_id="acme"),
    "pause": lambda webhooks, one, _: webhooks.endpoints.update(one.id, tenant_id="acme", status="PAUSED"),
    "delete": lambda webhooks, one, _: webhooks.endpoints.delete(one.id, tenant_id="acme"),
    "publish": lambda webhooks, _, __: webhooks.publish("a", 1, tenant_id="acme", idempotency_key="key"),
    "redeliver FAILED": lambda webhooks, one, found: webhooks.deliveries.redeliver(
        one.id, found["FAILED"], tenant_id="acme"
    ),
    "redeliver DELIVERED": lambda webhooks, one, found: webhooks.deliveries.redeliver(
        one.id, found["DELIVERED"], tenant_id="acme"
    ),
    "recover": lambda webhooks, one, _: webhooks.deliveries.recover(one.id, tenant_id="acme", since=SINCE),
}


# MariaDB locked the end of the log where a recovery was, and with it all that was published. It locked the end of the
# undelivered, too: workers that recorded the failure of another endpoint waited, and recorded nothing else.
@pytest.mark.parametrize("change", CHANGES)
def test_others_publish_and_deliver_while_a_transaction_changes_something(host, acme, webhook_receiver, change):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    create_endpoint(host.client("globex"))
    webhook_receiver.answer(500)
    publish(host, *range(3))
    drain(host.app)
    webhook_receiver.answer(200)
    publish(host)
    drain(host.app)
    found = dict(rows(host, sa.select(DELIVERY.c.status, DELIVERY.c.id)))
    owner = new_id()

    def publish_and_deliver():
        publish(host, tenant_id="globex")
        with host.app.app_context():
            host.webhooks.publish_many([NewEvent("a", 1, tenant_id="globex")] * 2)
            host.db.session.commit()
            state = current_state()
            claimed = state.run_apart(lambda scope: claim(scope, owner)).deliveries
            results = itertools.cycle([DeliveryStatus.DELIVERED, DeliveryStatus.FAILED])
            settled = [settle(each, status=next(results)) for each in claimed if each.tenant_id == "globex"]
            return len(state.run_apart(lambda scope: attempts.record(scope, owner, settled)).settlements)

    assert beside(host, lambda: CHANGES[change](host.webhooks, endpoint, found), publish_and_deliver) == 3


# Its worker waited for the transaction, and recorded the results of no other endpoint.
def test_a_pause_waits_for_a_transaction_that_has_changed_the_endpoint_and_keeps_no_results_waiting(host, inbox):
    async def gone(arrived: Arrived) -> Answer:
        return Answer(410)

    inbox.answers["/gone"] = gone
    endpoint = create_endpoint(host.client(), inbox.url("/gone"))
    create_endpoint(host.client("globex"), inbox.url())
    reason = sa.select(ENDPOINT.c.pause_reason).where(ENDPOINT.c.id == endpoint.uuid)

    with in_thread(Worker(host.app)), engine_of(host).connect() as connection:
        connection.execute(sa.update(ENDPOINT).where(ENDPOINT.c.id == endpoint.uuid).values(name="changed"))
        publish(host)
        publish(host, tenant_id="globex")
        wait_until(lambda: statuses(host) == {"FAILED": 1, "DELIVERED": 1}, SECONDS)
        publish(host, tenant_id="globex")
        wait_until(lambda: statuses(host) == {"FAILED": 1, "DELIVERED": 2}, SECONDS)
        assert rows(host, reason) == [(None,)]
        connection.commit()

        wait_until(lambda: rows(host, reason) == [(PauseReason.GONE,)])


def test_a_worker_that_stops_pauses_what_a_transaction_has_kept_it_from(host, inbox):
    async def gone(arrived: Arrived) -> Answer:
        return Answer(410)

    inbox.answer = gone
    create_endpoint(host.client(), inbox.url())

    with engine_of(host).connect() as connection:
        with in_thread(Worker(host.app)):
            connection.execute(sa.update(ENDPOINT).values(name="changed"))
            publish(host)
            wait_until(lambda: statuses(host) == {"FAILED": 1}, SECONDS)
            connection.commit()
        assert rows(host, sa.select(ENDPOINT.c.pause_reason)) == [(PauseReason.GONE,)]
