"""Transactions that overlap: hosts, tenants, workers and an operator at once, with pauses between statements.

`test_queue_machine` has whole transactions one after another. Here no run is like another one, because the database
decides who waits. `RACES_SECONDS` has the test run for longer.
"""

import asyncio
import itertools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from flask_webhook_endpoints import NewEvent
from flask_webhook_endpoints.core import attempts, leases, retention, sweep
from flask_webhook_endpoints.core.heartbeats import Heartbeat
from flask_webhook_endpoints.core.incidents import PauseRule
from flask_webhook_endpoints.core.leases import Claim
from flask_webhook_endpoints.core.marks import Marks
from flask_webhook_endpoints.core.results import Claimed
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState, new_id
from flask_webhook_endpoints.errors import WebhookEndpointsError
from flask_webhook_endpoints.state import state_of
from flask_webhook_endpoints.testing import drain
from flask_webhook_endpoints.worker.attempt import Courier
from flask_webhook_endpoints.worker.http_client import Answer
from tests.support import hosts, ledger
from tests.support.api import create_endpoint, post_endpoint
from tests.support.database import DELIVERY, ENDPOINT, QUEUE, engine_of, rows
from tests.support.deliveries import publish, statuses
from tests.support.waiting import at_once

SECONDS = float(os.environ.get("RACES_SECONDS", "4"))
CAP = 3
TENANTS = ("acme", "globex")
ANSWERS = [Answer(each, None, 1, b"", None) for each in (200, 200, 200, 500, 503, 410)]
ANSWERS += [Answer(429, None, 1, b"", seconds) for seconds in (3.0, 300.0)]
PRUNED = retention.steps(retention_days=30, hold_max_days=0)

Call = Callable[[], object]


# Publishers ended in deadlocks with requests that deleted endpoints, and records with those that resumed them.
@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.host(make=hosts.delivering, max_in_flight_per_endpoint=CAP, retry_schedule=[0, 5])
def test_no_delivery_is_left_or_lost_and_no_publish_fails_whatever_overlaps(host, inbox, webhook_clock):
    race = Race(host, inbox.url(), webhook_clock)
    race.run(hosts=3, clients=2, workers=3)

    for row in rows(host, sa.select(ENDPOINT.c.id, ENDPOINT.c.tenant_id)):
        host.client(row.tenant_id).patch(f"/v1/endpoints/ep_{row.id}", json={"status": "ACTIVE"})
    for _ in range(3):
        webhook_clock.move(days=1)
        drain(host.app)

    assert race.failed == {}
    assert race.committed.keys() >= {"publish", "pause", "resume", "claim", "record"}
    ledger.read(race.engine).check()
    assert statuses(host)[DeliveryStatus.PENDING] == 0


class Race:
    """Threads that work on one database, each statement of which may wait for a moment before it is sent."""

    def __init__(self, host: hosts.Host, url: str, clock: Any) -> None:
        self.host, self.url, self.clock = host, url, clock
        self.state, self.engine = state_of(host.app), engine_of(host)
        self.committed, self.failed = Counter[str](), Counter[str]()
        self.ends_at = time.monotonic() + SECONDS
        self._of_thread = threading.local()
        for tenant_id in TENANTS * 2:
            create_endpoint(host.client(tenant_id), url)
            publish(host, tenant_id=tenant_id)

    @property
    def random(self) -> random.Random:
        return cast(random.Random, self._of_thread.random)

    def run(self, *, hosts: int, clients: int, workers: int) -> None:
        """Let so many of each, and an operator, work until the time is over."""
        kinds = [self.host_acts] * hosts + [self.client_asks] * clients + [self.operator_acts]
        loops = [partial(self.repeat, number, act) for number, act in enumerate(kinds)]
        works = [Works(self).act for _ in range(workers)]
        loops += [partial(self.repeat, number, act) for number, act in enumerate(works, len(loops))]
        sa.event.listen(self.engine, "before_cursor_execute", self.hesitate)
        try:
            at_once(loops)
        finally:
            sa.event.remove(self.engine, "before_cursor_execute", self.hesitate)

    def repeat(self, number: int, act: Call) -> None:
        self._of_thread.random = random.Random(number)
        while time.monotonic() < self.ends_at:
            act()

    def hesitate(self, *_: object) -> None:
        if self.random.random() < 0.3:
            time.sleep(self.random.random() * 0.005)

    def endpoints(self) -> dict[UUID, Any]:
        """Return the version of each endpoint, and since when it is paused, as they are committed."""
        found = sa.select(ENDPOINT.c.id, ENDPOINT.c.version, ENDPOINT.c.paused_at)
        return {endpoint_id: version for endpoint_id, *version in rows(self.host, found)}

    def one(self, table: sa.Table) -> Any:
        """Return one of the last rows of a table."""
        last = sa.select(table).order_by(table.c.id.desc()).limit(8)
        return self.random.choice(self.host.db.session.execute(last).all())

    def host_acts(self) -> None:
        """Do one thing in a transaction, which may stay open for a while, and may be rolled back."""
        act = self.random.choice([self.publish] * 4 + [self.publish_many, self.pause, self.resume, self.redeliver])
        with self.host.app.app_context():
            try:
                act()
                if self.random.random() < 0.1:
                    time.sleep(0.2)
                if self.random.random() < 0.9:
                    self.host.db.session.commit()
                    self.committed[act.__name__] += 1
            except WebhookEndpointsError:
                # The endpoint is paused or deleted, or the delivery is in flight.
                self.host.db.session.rollback()
            except OperationalError as error:
                # A host has to expect that of a transaction that changes what others change.
                self.host.db.session.rollback()
                if act in (self.publish, self.publish_many):
                    self.failed[f"{act.__name__}: {error.orig}"] += 1

    def publish(self) -> None:
        self.host.webhooks.publish("a", 1, tenant_id=self.random.choice(TENANTS))

    def publish_many(self) -> None:
        self.host.webhooks.publish_many([NewEvent("a", 1, tenant_id=each) for each in TENANTS * 3])

    def pause(self, status: str = "PAUSED") -> None:
        endpoint = self.one(ENDPOINT)
        update = partial(self.host.webhooks.endpoints.update, tenant_id=endpoint.tenant_id)
        update(f"ep_{endpoint.id}", status=cast(Any, status))

    def resume(self) -> None:
        self.pause("ACTIVE")

    def redeliver(self) -> None:
        delivery = self.one(DELIVERY)
        self.host.webhooks.deliveries.redeliver(delivery.endpoint_id, delivery.id, tenant_id=delivery.tenant_id)

    def client_asks(self) -> None:
        """Ask the API for one change, which it tries again after a deadlock."""
        with self.host.app.app_context():
            endpoint = self.one(ENDPOINT)
        client, path = self.host.client(endpoint.tenant_id), f"/v1/endpoints/ep_{endpoint.id}"
        match self.random.choice(["status", "status", "name", "recover", "replace", "replace"]):
            case "status":
                answers = [client.patch(path, json={"status": self.random.choice(["PAUSED", "ACTIVE", "ACTIVE"])})]
            case "name":
                answers = [client.patch(path, json={"name": "other"})]
            case "recover":
                answers = [client.post(f"{path}/recover", json={"since": "2020-01-01T00:00:00Z"})]
            case _:
                answers = [post_endpoint(client, url=self.url), client.delete(path)]
        self.failed.update(each.text for each in answers if each.status_code >= 500)

    def operator_acts(self) -> None:
        time.sleep(0.05)
        self.clock.move(seconds=self.random.choice([0, 0, 1, 5, 61, 400]))
        self.transact("sweep", sweep.sweep)
        for step in PRUNED:
            self.transact(step.name, step.prune)

    def transact(self, name: str, operation: Callable[..., Any]) -> Any:
        with self.host.app.app_context():
            try:
                result = self.state.run_apart(operation)
            except Exception as error:
                self.failed[f"{name}: {error!r}"] += 1
                return None
            self.committed[name] += 1
            return result


class Works:
    """A worker: it claims, and records or gives back what it has, or dies."""

    def __init__(self, race: Race) -> None:
        self.race, self.owner, self.marks = race, new_id(), Marks()
        self.claimed: dict[UUID, Claimed] = {}
        self.known: set[UUID] = set()
        """The endpoints that there have been."""
        race.transact("beat", Heartbeat(self.owner, "worker").beat)

    def act(self) -> None:
        chance = self.race.random.random()
        if chance < 0.5:
            self.claim()
        elif chance < 0.9 and self.claimed:
            self.record()
        elif chance < 0.95 and self.claimed:
            self.race.transact("give back", lambda scope: leases.give_back(scope, self.owner, self.claimed.values()))
            self.claimed.clear()
        elif chance > 0.99:
            self.claimed.clear()

    def claim(self) -> None:
        limits = {"most": 6, "cap": CAP, "max_timeout_seconds": 30, "marks": self.marks}
        before = self.race.endpoints()
        claim = self.race.transact("claim", lambda scope: leases.claim(scope, self.owner, **limits)) or Claim([])
        after = self.race.endpoints()
        # Nobody has changed these meanwhile.
        paused = {each for each, (version, at) in before.items() if at and after.get(each) == [version, at]}
        self.known |= before.keys()
        assert {each.endpoint_id for each in claim.deliveries}.isdisjoint(paused | (self.known - before.keys()))
        self.claimed |= {each.id: each for each in claim.deliveries}
        leased = sa.select(QUEUE.c.endpoint_id, QUEUE.c.due_at).where(QUEUE.c.state == QueueState.LEASED)
        found = rows(self.race.host, leased)
        # Afterwards: the operator may have moved the clock meanwhile, and leases may have ended by that.
        now = self.race.clock()
        in_flight = Counter(endpoint_id for endpoint_id, until in found if until > now)
        assert max(in_flight.values(), default=0) <= CAP

    def record(self) -> None:
        answers = itertools.cycle([self.race.random.choice(ANSWERS) for _ in range(8)])
        courier = Courier(cast(Any, Answered(answers)), self.race.state)
        with self.race.host.app.app_context():
            settlements = [asyncio.run(courier.attempt(each)) for each in self.claimed.values()]
        self.claimed.clear()
        # Its endpoint is paused once two deliveries have failed.
        record = partial(attempts.record, owner=self.owner, settlements=settlements, rule=PauseRule(2, 0))
        self.race.transact("record", record)
        for each in settlements:
            self.marks.attempted(each.delivery.endpoint_id)


class Answered:
    """A sender whose receivers have answered already."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers

    async def post(self, *_: Any, **__: Any) -> Answer:
        return cast(Answer, next(self._answers))
