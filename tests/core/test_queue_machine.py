"""The queue, in any order of what publishers, tenants, workers and operators do, against a model of what was attempted.

Nothing is lost, nothing is left that nobody will look at, and no endpoint gets more at once than it may.
"""

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from flask_webhook_endpoints.core import attempts, leases, marks, queue, redelivery, retention, tenants, turns
from flask_webhook_endpoints.core.marks import Marks
from flask_webhook_endpoints.core.results import Claimed
from flask_webhook_endpoints.core.turns import Places
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState, new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import DeliveryInFlight, EndpointPaused
from flask_webhook_endpoints.state import state_of
from flask_webhook_endpoints.testing import Clock
from flask_webhook_endpoints.worker.attempt import Courier
from flask_webhook_endpoints.worker.http_client import Answer
from tests.support import hosts
from tests.support.api import Endpoint, change_endpoint, create_endpoint
from tests.support.database import ATTEMPT, DELIVERY, ENDPOINT, QUEUE, REST, TABLES, rows
from tests.support.deliveries import publish

T = TypeVar("T")

# The full run of continuous integration sets 500, of the machine that asks the API; an example here costs twenty.
EXAMPLES = max(int(os.environ.get("STATE_MACHINE_EXAMPLES", "25")) // 20, 5)

CAP = 3
SCHEDULE = [0, 60, 600]
TENANTS = ("acme", "globex", "initech")
SKEWS_SECONDS = (0.0, 0.7, -0.7)
"""How much the clocks of the workers differ."""

IDLE_ROUNDS = 8
"""Rounds of idle workers, a minute each, in which all that is left must come."""

ANSWERS = st.sampled_from(
    [
        *[Answer(200, None, 1, b"", None)] * 2,
        Answer(500, None, 1, b"", None),
        Answer(503, None, 1, b"", None),
        Answer(429, None, 1, b"", 300.0),
        Answer(410, None, 1, b"", None),
    ]
)
SOME_ANSWERS = st.lists(ANSWERS, min_size=1, max_size=4)
WORKERS = st.integers(0, len(SKEWS_SECONDS) - 1)
ANY = st.integers(0, 99)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let a handful be a backlog, and looks take their time."""
    taken = itertools.count(step=0.2)
    passed = Passed()
    limits = {turns: ["LOOKED_AT", "TENANTS_LOOKED_AT", "STEPS"], queue: ["AT_ONCE", "RELEASED_AT_ONCE"]}
    for module, names in limits.items():
        for name in names:
            monkeypatch.setattr(module, name, 2)
    monkeypatch.setattr(marks, "time", SimpleNamespace(monotonic=lambda: next(taken) + passed.seconds))
    return passed


@dataclass
class Passed:
    """The seconds that tests have let pass."""

    seconds: float = 0.0


class Answers:
    """A sender whose receivers have answered already."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = itertools.cycle(answers)

    async def post(self, *_: Any, **__: Any) -> Answer:
        return next(self._answers)


@dataclass
class Worker:
    """A worker, and what it has claimed and not recorded."""

    skew_seconds: float
    owner: UUID = field(default_factory=new_id)
    marks: Marks = field(default_factory=Marks)
    claimed: dict[UUID, Claimed] = field(default_factory=dict)


@dataclass
class Known:
    """What the model knows of a delivery."""

    begun: int = 0
    charged: int = 0
    """Attempts that count in the retry schedule, this time."""
    recorded: set[int] = field(default_factory=set)
    stale: bool = False
    """A worker has claimed it again whose lease had ended."""


def test_no_delivery_is_left_or_lost_whatever_is_done_in_any_order(database, small):
    made = hosts.delivering(database, max_in_flight_per_endpoint=CAP, retry_schedule=SCHEDULE)
    with closing(made) as host, hosts.moved(host.app) as clock:
        run_state_machine_as_test(
            lambda: Machine(host, clock, small),
            settings=settings(max_examples=EXAMPLES, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
        )


class Machine(RuleBasedStateMachine):
    """Three workers, three tenants and an operator."""

    def __init__(self, host: hosts.Host, clock: Clock, passed: Passed) -> None:
        super().__init__()
        self.host, self.clock, self.passed = host, clock, passed
        self.state = state_of(host.app)
        self.endpoints: dict[UUID, tuple[str, Endpoint]] = {}
        self.workers = [Worker(skew) for skew in SKEWS_SECONDS]
        self.known: dict[UUID, Known] = {}
        with host.app.app_context():
            for table in reversed(TABLES["webhook_secret"].metadata.sorted_tables):
                host.db.session.execute(sa.delete(table))
            host.db.session.commit()

    # Tools

    def run(self, operation: Callable[[Scope], T], *, skew_seconds: float = 0.0) -> T:
        """Run an operation of a worker or an operator, and commit."""
        with self.host.app.app_context():
            return self.state.run_apart(
                lambda scope: operation(replace(scope, now=scope.now + timedelta(seconds=skew_seconds)))
            )

    def of_queue(self) -> dict[UUID, Any]:
        return {row.delivery_id: row for row in rows(self.host, sa.select(QUEUE))}

    def endpoint_of(self, number: int) -> tuple[UUID, str, Endpoint]:
        endpoint_id = list(self.endpoints)[number % len(self.endpoints)]
        return endpoint_id, *self.endpoints[endpoint_id]

    # What tenants and hosts do

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        for number in range(count):
            self.create(TENANTS[number % len(TENANTS)])

    @rule(tenant_id=st.sampled_from(TENANTS))
    def create(self, tenant_id: str) -> None:
        if len(self.endpoints) < 5:
            endpoint = create_endpoint(self.host.client(tenant_id))
            self.endpoints[endpoint.uuid] = tenant_id, endpoint

    @rule(number=ANY, count=st.integers(3, 9))
    def publish(self, number: int, count: int) -> None:
        if not self.endpoints:
            self.create(TENANTS[number % len(TENANTS)])
        _, tenant_id, _ = self.endpoint_of(number)
        publish(self.host, *range(count), tenant_id=tenant_id)

    @rule(number=ANY, status=st.sampled_from(["PAUSED", "ACTIVE"]))
    def change(self, number: int, status: str) -> None:
        if self.endpoints:
            _, tenant_id, endpoint = self.endpoint_of(number)
            change_endpoint(self.host.client(tenant_id), endpoint, status=status)

    @rule(number=ANY)
    def delete(self, number: int) -> None:
        if self.endpoints:
            endpoint_id, tenant_id, endpoint = self.endpoint_of(number)
            assert self.host.client(tenant_id).delete(endpoint.path).status_code == 204
            del self.endpoints[endpoint_id]

    @rule(number=ANY, which=ANY)
    def redeliver(self, number: int, which: int) -> None:
        if not self.endpoints:
            return
        endpoint_id, tenant_id, _ = self.endpoint_of(number)
        ids = [row.id for row in rows(self.host, sa.select(DELIVERY.c.id).where(DELIVERY.c.endpoint_id == endpoint_id))]
        if not ids:
            return
        delivery_id = ids[which % len(ids)]
        try:
            self.run(lambda scope: redelivery.redeliver(scope.of(tenant_id), endpoint_id, delivery_id))
        except (EndpointPaused, DeliveryInFlight):
            return
        self.known.setdefault(delivery_id, Known()).charged = 0

    @rule(tenant_id=st.sampled_from(TENANTS))
    def forget(self, tenant_id: str) -> None:
        self.run(lambda scope: tenants.forget_tenant(scope.of(tenant_id)))
        self.endpoints = {id_: each for id_, each in self.endpoints.items() if each[0] != tenant_id}

    # What workers do

    @rule(worker=WORKERS, most=st.integers(1, 8))
    def claim(self, worker: int, most: int) -> None:
        self.claim_by(self.workers[worker], most)

    @rule(answers=SOME_ANSWERS, number=ANY, status=st.sampled_from(["PAUSED", "ACTIVE"]))
    def work(self, answers: list[Answer], number: int, status: str) -> None:
        """Let all workers claim, and record what comes of most once an endpoint is paused or resumed."""
        self.publish(number, 3)
        for worker in self.workers:
            self.claim_by(worker, 8)
        self.change(number, status)
        for worker in self.workers:
            self.settle_by(worker, answers, 5)
            self.claim_by(worker, 8)

    def claim_by(self, worker: Worker, most: int = 100) -> leases.Claim:
        resting = {row.endpoint_id: row.until for row in rows(self.host, sa.select(REST))}
        active = set(rows(self.host, sa.select(ENDPOINT.c.id).where(ENDPOINT.c.paused_at.is_(None))))
        places = Places(100, Counter(claimed.tenant_id for claimed in worker.claimed.values()))
        claim = self.run(
            lambda scope: leases.claim(
                scope, worker.owner, most=most, cap=CAP, max_timeout_seconds=30, places=places, marks=worker.marks
            ),
            skew_seconds=worker.skew_seconds,
        )
        now = self.clock() + timedelta(seconds=worker.skew_seconds)
        for claimed in claim.deliveries:
            assert (claimed.endpoint_id,) in active
            assert resting.get(claimed.endpoint_id, now) <= now
            known = self.known.setdefault(claimed.id, Known())
            known.begun += 1
            known.charged += 1
            assert (claimed.attempt, claimed.turn) == (known.begun, known.charged) or known.stale
            known.stale = known.stale or claimed.id in worker.claimed
            # As `Worker._take`: the attempt is under way.
            worker.claimed.setdefault(claimed.id, claimed)
        self.check_caps(resting, {claimed.endpoint_id for claimed in claim.deliveries})
        return claim

    def check_caps(self, resting: dict[UUID, Any], claimed: set[UUID]) -> None:
        # The slowest clock decides which leases hold.
        now = self.clock() + timedelta(seconds=max(SKEWS_SECONDS))
        leased = Counter(
            row.endpoint_id for row in self.of_queue().values() if row.state == QueueState.LEASED and row.due_at > now
        )
        for endpoint_id in claimed:
            assert leased[endpoint_id] <= (1 if endpoint_id in resting else CAP)

    @rule(worker=WORKERS, answers=SOME_ANSWERS, most=st.integers(1, 8))
    def settle(self, worker: int, answers: list[Answer], most: int) -> None:
        self.settle_by(self.workers[worker], answers, most)

    def settle_by(self, worker: Worker, answers: list[Answer], most: int) -> None:
        courier = Courier(cast(Any, Answers(answers)), self.state)
        claimed = list(worker.claimed.values())[:most]
        with self.host.app.app_context():
            settlements = [asyncio.run(courier.attempt(each)) for each in claimed]
        for each in claimed:
            del worker.claimed[each.id]
        if not settlements:
            return
        theirs = {row.delivery_id for row in self.of_queue().values() if row.lease_owner == worker.owner}
        settled = self.run(
            lambda scope: attempts.record(scope, worker.owner, settlements), skew_seconds=worker.skew_seconds
        )
        kept = {each.delivery.id for each in settled.settlements}
        assert kept == theirs & {each.delivery.id for each in settlements}
        for each in settlements:
            known = self.known[each.delivery.id]
            at_once = each.delivery.attempt == 1 and each.status is DeliveryStatus.DELIVERED
            if each.delivery.id in kept or not at_once:
                known.recorded.add(each.delivery.attempt)
            if each.delivery.id in kept:
                if each.status is DeliveryStatus.PENDING and known.stale:
                    known.charged = known.begun - each.attempts_before
                elif each.attempts_before > each.delivery.attempt - each.delivery.turn:
                    known.charged -= 1
                assert each.status is not DeliveryStatus.FAILED or known.charged == len(SCHEDULE) or known.stale

    @rule(worker=WORKERS)
    def give_back(self, worker: int) -> None:
        who = self.workers[worker]
        still = [row.delivery_id for row in self.of_queue().values() if row.lease_owner == who.owner]
        given = list(who.claimed.values())
        who.claimed.clear()
        self.run(lambda scope: leases.give_back(scope, who.owner, given), skew_seconds=who.skew_seconds)
        for claimed in given:
            if claimed.id in still:
                self.known[claimed.id].begun -= 1
                self.known[claimed.id].charged -= 1

    @rule(worker=WORKERS)
    def die(self, worker: int) -> None:
        self.workers[worker] = Worker(SKEWS_SECONDS[worker])

    # What time and operators do

    @rule(by=st.sampled_from([1, 5, 61, 700, 4000, 31 * 86400]))
    def move(self, by: int) -> None:
        self.clock.move(seconds=by)
        self.passed.seconds += by

    @rule()
    def prune(self) -> None:
        for step in retention.steps(retention_days=30, hold_max_days=30):
            self.run(step.prune)

    @rule()
    def sweep(self) -> None:
        self.run(queue.sweep)

    # What must hold

    @invariant()
    def what_is_pending_is_in_the_queue(self) -> None:
        pending = sa.select(DELIVERY.c.id).where(DELIVERY.c.status == DeliveryStatus.PENDING)
        assert {id_ for (id_,) in rows(self.host, pending)} == set(self.of_queue())

    def teardown(self) -> None:
        for tenant_id, endpoint in self.endpoints.values():
            change_endpoint(self.host.client(tenant_id), endpoint, status="ACTIVE")
        self.move(3 * 86400)
        for _ in range(IDLE_ROUNDS):
            for worker in self.workers:
                while True:
                    claim = self.claim_by(worker)
                    self.settle_by(worker, [Answer(200, None, 1, b"", None)], 100)
                    if not claim.deliveries and not claim.moved:
                        break
            if not self.of_queue():
                break
            self.move(60)
        assert self.of_queue() == {}
        self.check_attempts()
        assert rows(self.host, sa.select(REST)) == []

    def check_attempts(self) -> None:
        recorded: dict[UUID, set[int]] = {}
        for delivery_id, number in rows(self.host, sa.select(ATTEMPT.c.delivery_id, ATTEMPT.c.number)):
            recorded.setdefault(delivery_id, set()).add(number)
        for row in rows(self.host, sa.select(DELIVERY)):
            if row.last_attempt_at is not None:
                recorded.setdefault(row.id, set()).add(row.attempts)
            assert recorded.get(row.id, set()) == self.known.get(row.id, Known()).recorded
