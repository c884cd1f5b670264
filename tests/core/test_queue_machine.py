"""The queue, in any order of what publishers, tenants, workers and operators do: each step changes what it may change.

Nothing is lost, nothing is left that nobody will look at, and no endpoint gets more at once than it may.
"""

import asyncio
import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from flask_webhook_endpoints import NewEvent
from flask_webhook_endpoints.core import (
    attempts,
    candidates,
    events,
    leases,
    marks,
    queue,
    recent_counts,
    redelivery,
    retention,
    roll_ups,
    sweep,
    tenants,
)
from flask_webhook_endpoints.core.leases import Left
from flask_webhook_endpoints.core.marks import Marks
from flask_webhook_endpoints.core.places import Places
from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState, new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import DeliveryInFlight, EndpointPaused
from flask_webhook_endpoints.state import set_clock, state_of
from flask_webhook_endpoints.worker.attempt import Courier
from flask_webhook_endpoints.worker.http_client import Answer
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.database import ATTEMPT, DELIVERY, INCIDENT, REST, TABLES, engine_of, rows
from tests.support.ledger import Entry, Ledger, read
from tests.support.roll_ups import COUNTED, hours

T = TypeVar("T")
Allowed = Callable[[Entry | None, Entry | None], bool]
"""Whether a step may change a delivery so: as it was, as it is; None where there is none."""

# The full run of continuous integration sets 200, of the machine that asks the API; an example here costs ten.
EXAMPLES = int(
    os.environ.get("QUEUE_MACHINE_EXAMPLES") or max(int(os.environ.get("STATE_MACHINE_EXAMPLES", "25")) // 10, 5)
)

CAP = 3
SCHEDULE = [0, 60]
TENANTS = ("acme", "globex", "initech")
SKEWS_SECONDS = (0.0, 0.7, -0.7)
"""How much the clocks of the workers differ."""

CONCURRENCY = 12
LEASE_SECONDS = 30 + leases.LEASE_MARGIN_SECONDS
MONTH = timedelta(days=30)
NEW = timedelta(seconds=1.1)

IDLE_ROUNDS = 4
"""Rounds of idle workers, six seconds apart, in which all that is left must come."""

DELIVERED, FAILED, PENDING = DeliveryStatus.DELIVERED, DeliveryStatus.FAILED, DeliveryStatus.PENDING
CANCELLED, EXPIRED = DeliveryStatus.CANCELLED, DeliveryStatus.EXPIRED
READY, WAITING, HELD, LEASED = QueueState

SUCCESS = Answer(200, None, 1, b"", None)
REST_FOR_300 = Answer(429, None, 1, b"", 300.0)
ANSWERS = st.sampled_from(
    [SUCCESS, SUCCESS, Answer(500, None, 1, b"", None), Answer(503, None, 1, b"", None), REST_FOR_300]
)
SOME_ANSWERS = st.lists(ANSWERS | st.just(Answer(410, None, 1, b"", None)), min_size=1, max_size=4)
WORKERS = st.integers(0, len(SKEWS_SECONDS) - 1)
ANY = st.integers(0, 99)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let a handful be a backlog, and looks take their time."""
    taken = itertools.count(step=0.2)
    passed = Passed()
    limits = {candidates: ["LOOKED_AT", "TENANTS_LOOKED_AT", "STEPS"], queue: ["AT_ONCE", "RELEASED_AT_ONCE"]}
    for module, names in limits.items():
        for name in names:
            monkeypatch.setattr(module, name, 2)
    monkeypatch.setattr(marks, "time", SimpleNamespace(monotonic=lambda: next(taken) + passed.seconds))
    return passed


@dataclass
class Passed:
    """The seconds that tests have let pass."""

    seconds: float = 0.0


class Clock:
    """A clock that goes on by a millisecond each time that it is looked at, so that a run can be repeated."""

    def __init__(self) -> None:
        self.time = datetime.fromisoformat("2026-03-01T12:00:00Z")

    def __call__(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time


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

    def __post_init__(self) -> None:
        # Nothing may need a sweep.
        self.marks.wait("sweep", math.inf)


class Result(NamedTuple):
    """A result that counts in the statistics."""

    tenant_id: str
    endpoint_id: UUID
    hour: datetime
    status: DeliveryStatus


def test_no_delivery_is_left_or_lost_whatever_is_done_in_any_order(database, small):
    made = hosts.delivering(database, max_in_flight_per_endpoint=CAP, retry_schedule=SCHEDULE)
    with closing(made) as host:
        run_state_machine_as_test(
            lambda: Machine(host, small),
            settings=settings(max_examples=EXAMPLES, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
        )


class Machine(RuleBasedStateMachine):
    """Three workers, three tenants and an operator."""

    def __init__(self, host: hosts.Host, passed: Passed) -> None:
        super().__init__()
        self.host, self.clock, self.passed = host, Clock(), passed
        set_clock(host.app, self.clock)
        self.state, self.engine = state_of(host.app), engine_of(host)
        with self.engine.begin() as connection:
            for table in reversed(TABLES["webhook_secret"].metadata.sorted_tables):
                connection.execute(sa.delete(table))
        self.ledger = Ledger({}, {}, {})
        self.rests_before = self.ledger.rests
        self.tenant_of: dict[UUID, str] = {}
        self.workers = [Worker(skew) for skew in SKEWS_SECONDS]
        self.attempted: defaultdict[UUID, set[int]] = defaultdict(set)
        """The numbers of the attempts that are on record."""
        self.results: list[Result] = []
        self.now = self.clock()

    # Tools

    def run(self, operation: Callable[[Scope], T], *, skew_seconds: float = 0.0, commit: bool = True) -> T:
        """Run an operation in a transaction of its own, at `now`."""

        def operate(scope: Scope) -> T:
            self.now = scope.now + timedelta(seconds=skew_seconds)
            return operation(replace(scope, now=self.now))

        with self.host.app.app_context():
            if commit:
                return self.state.run_apart(operate)
            try:
                return self.state.run(operate, commit=False)
            finally:
                self.host.db.session.rollback()

    def ask(self, call: Callable[[], T]) -> T:
        """Do what a host does, and commit."""
        with self.host.app.app_context():
            answer = call()
            self.host.db.session.commit()
            return answer

    @contextmanager
    def only(self, *allowed: Allowed) -> Iterator[None]:
        """Let what is done change no delivery but as it may; check what holds at any moment."""
        before = self.ledger
        yield
        self.ledger, self.rests_before = read(self.engine), before.rests
        self.ledger.check()
        for old, new in before.changes(self.ledger):
            assert any(allows(old, new) for allows in allowed), (old, new)

    def endpoint(self, number: int) -> UUID:
        """Return one of the endpoints; there is one."""
        if not self.tenant_of:
            self.create(TENANTS[number % len(TENANTS)])
        return list(self.tenant_of)[number % len(self.tenant_of)]

    # What tenants and hosts do

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        for number in range(count):
            self.create(TENANTS[number % len(TENANTS)])

    @rule(tenant_id=st.sampled_from(TENANTS))
    def create(self, tenant_id: str) -> None:
        if len(self.tenant_of) < 5:
            with self.only():
                self.tenant_of[create_endpoint(self.host.client(tenant_id)).uuid] = tenant_id

    @rule(number=ANY, count=st.integers(1, 9), late=st.sampled_from([0, 1, 20]))
    def publish_late(self, number: int, count: int, late: int) -> None:
        """Publish in a transaction that commits some time later; workers find at once what is late by a second."""
        self.clock.time -= timedelta(seconds=late)
        self.publish(number, count)
        self.clock.time += timedelta(seconds=late)
        if late <= 1:
            for worker in self.workers:
                self.check_found(worker)

    def check_found(self, worker: Worker) -> None:
        """Check that a worker finds what was just published, whatever it remembers, where its endpoint is idle."""
        remembered, before = deepcopy(worker.marks), self.ledger
        limits: dict[str, Any] = {"cap": CAP, "max_timeout_seconds": 30, "marks": remembered}

        def look_and_claim(scope: Scope) -> tuple[bool, leases.Claim]:
            return queue.is_any_due(scope, remembered), leases.claim(scope, worker.owner, most=100, **limits)

        found, claim = self.run(look_and_claim, skew_seconds=worker.skew_seconds, commit=False)
        claimed = {each.endpoint_id for each in claim.deliveries}
        for endpoint_id, paused_at in before.paused.items():
            of_endpoint = before.of(endpoint_id)
            is_new = [each.state == READY and timedelta(0) <= self.now - each.due_at < NEW for each in of_endpoint]
            is_idle = paused_at is None and LEASED not in {each.state for each in of_endpoint}
            if any(is_new) and is_idle and endpoint_id not in before.rests:
                assert found
                assert endpoint_id in claimed

    @rule(number=ANY, count=st.integers(1, 9), together=st.booleans())
    def publish(self, number: int, count: int, together: bool = True) -> None:
        tenant_id = self.tenant_of[self.endpoint(number)]
        with self.written(tenant_id, READY, count):
            if together:
                self.ask(lambda: self.host.webhooks.publish_many([NewEvent("a", 1, tenant_id=tenant_id)] * count))
            else:
                for _ in range(count):
                    self.ask(lambda: self.host.webhooks.publish("a", 1, tenant_id=tenant_id))

    @contextmanager
    def written(self, tenant_id: str, state: QueueState, count: int = 1) -> Iterator[None]:
        """Let so many events be published."""
        before = len(self.ledger.entries)

        def is_new(old: Entry | None, new: Entry | None) -> bool:
            return old is None and new is not None and (new.state, new.begun, new.uncounted) == (state, 0, 0)

        with self.only(is_new):
            yield
        assert len(self.ledger.entries) - before == count * list(self.tenant_of.values()).count(tenant_id)

    @rule(number=ANY, late=st.sampled_from([0, 61, 90]))
    def publish_for_later(self, number: int, late: int) -> None:
        """Publish for a minute later, in a transaction that commits maybe after that."""
        self.clock.time -= timedelta(seconds=late)
        tenant_id = self.tenant_of[self.endpoint(number)]
        later = partial(events.publish, max_body_bytes=1000, delay_seconds=60)
        with self.written(tenant_id, WAITING):
            self.run(lambda scope: later(scope.of(tenant_id), "a", 1))
        self.clock.time += timedelta(seconds=late)

    @rule(number=ANY)
    def publish_twice(self, number: int) -> None:
        tenant_id = self.tenant_of[self.endpoint(number)]
        keyed = partial(self.host.webhooks.publish, "a", 1, tenant_id=tenant_id, idempotency_key=str(new_id()))
        with self.written(tenant_id, READY):
            first = self.ask(keyed)
        with self.only():
            assert self.ask(keyed) == first

    @rule(number=ANY, status=st.sampled_from(["PAUSED", "ACTIVE"]))
    def change(self, number: int, status: str) -> None:
        endpoint_id = self.endpoint(number)
        was_paused = self.ledger.paused[endpoint_id]
        resumed = {endpoint_id} if was_paused and status == "ACTIVE" else set()
        with self.only(self.of_those(resumed)):
            update = partial(self.host.webhooks.endpoints.update, tenant_id=self.tenant_of[endpoint_id])
            self.ask(lambda: update(f"ep_{endpoint_id}", status=cast(Any, status)))
        is_paused = self.ledger.paused[endpoint_id]
        assert bool(is_paused) == (status == "PAUSED")
        assert is_paused == was_paused or not (was_paused and is_paused)
        self.check_rested(resumed)

    def check_rested(self, endpoint_ids: Collection[UUID]) -> None:
        """Check that endpoints rest no longer, and that nothing waits for the time at which their rest ended."""
        for endpoint_id in endpoint_ids:
            assert endpoint_id not in self.ledger.rests
            ends = {(WAITING, self.rests_before[endpoint_id].until)} if endpoint_id in self.rests_before else set()
            assert not ends & {(each.state, each.due_at) for each in self.ledger.of(endpoint_id)}

    def of_those(self, endpoint_ids: Collection[UUID]) -> Allowed:
        """Let what waits for endpoints be ready, because they rest no longer or are resumed."""

        def is_ready(old: Entry | None, new: Entry | None) -> bool:
            if old is None or new is None or old.endpoint_id not in endpoint_ids:
                return False
            waits_no_longer = old.state == WAITING and new == old.ready()._replace(due_at=new.due_at)
            return waits_no_longer or (old.state == HELD and new == old.ready())

        return is_ready

    @rule(number=ANY)
    def rotate(self, number: int) -> None:
        endpoint_id = self.endpoint(number)
        with self.only():
            rotate = self.host.webhooks.endpoints.rotate_secret
            self.ask(lambda: rotate(f"ep_{endpoint_id}", tenant_id=self.tenant_of[endpoint_id]))

    @rule(number=ANY)
    def delete(self, number: int) -> None:
        endpoint_id = self.endpoint(number)

        def is_cancelled(old: Entry | None, new: Entry | None) -> bool:
            if old is None or new is None or old.endpoint_id != endpoint_id:
                return False
            # Of a deleted endpoint none needs to be known.
            undelivered = new.undelivered
            if old.state in (READY, WAITING, HELD):
                return new == old.finished(CANCELLED, self.now)._replace(
                    undelivered=undelivered, finished_at=new.finished_at
                )
            return new == old._replace(undelivered=undelivered)

        with self.only(is_cancelled):
            path = f"/v1/endpoints/ep_{endpoint_id}"
            assert self.host.client(self.tenant_of.pop(endpoint_id)).delete(path).status_code == 204
        assert {each.state for each in self.ledger.of(endpoint_id)} <= {None, LEASED}

    @rule(number=ANY, which=st.lists(ANY, min_size=1, max_size=4))
    def redeliver(self, number: int, which: list[int]) -> None:
        endpoint_id = self.endpoint(number)
        ids = sorted(each.id for each in self.ledger.of(endpoint_id))
        if not ids:
            return
        chosen = {ids[each % len(ids)] for each in which}
        scoped = partial(redelivery.redeliver_several, endpoint_id=endpoint_id, ids=chosen)
        if len(chosen) == 1:
            scoped = partial(redelivery.redeliver, endpoint_id=endpoint_id, delivery_id=min(chosen))
        before, paused = self.ledger, self.ledger.paused[endpoint_id]
        with self.only(lambda old, new: old is not None and old.id in chosen and self.is_again(old, new)):
            try:
                self.run(lambda scope: scoped(scope.of(self.tenant_of[endpoint_id])))
            except EndpointPaused:
                assert paused
            except DeliveryInFlight:
                assert before.entries[min(chosen)].state == LEASED
        for each in () if paused else chosen:
            assert self.ledger.entries[each].state == (LEASED if before.entries[each].state == LEASED else READY)

    def is_again(self, old: Entry | None, new: Entry | None) -> bool:
        """Return whether a delivery was made due now, with its whole retry schedule."""
        if old is None or old.state == LEASED:
            return False
        begun = old.recorded if old.state is None else old.begun
        fresh = old.ready()._replace(status=PENDING, finished_at=None, undelivered=None, due_at=self.now)
        return new == fresh._replace(begun=begun, uncounted=begun)

    @rule(number=ANY)
    def recover(self, number: int) -> None:
        endpoint_id = self.endpoint(number)
        lost = {each.id for each in self.ledger.of(endpoint_id) if each.status in (FAILED, EXPIRED)}
        if self.ledger.paused[endpoint_id]:
            return
        with self.only(lambda old, new: old is not None and old.id in lost and self.is_again(old, new)):
            tenant_id = self.tenant_of[endpoint_id]
            recover = partial(redelivery.recover, endpoint_id=endpoint_id, selection=redelivery.Selection())
            assert self.run(lambda scope: recover(scope.of(tenant_id))).count == len(lost)
        assert {self.ledger.entries[each].state for each in lost} <= {READY}

    @rule(tenant_id=st.sampled_from(TENANTS))
    def forget(self, tenant_id: str) -> None:
        with self.only(lambda old, new: old is not None and old.tenant_id == tenant_id and new is None):
            self.run(lambda scope: tenants.forget_tenant(scope.of(tenant_id)))
        assert not [each for each in self.ledger.entries.values() if each.tenant_id == tenant_id]
        self.tenant_of = {each: of for each, of in self.tenant_of.items() if of != tenant_id}
        self.results = [each for each in self.results if each.tenant_id != tenant_id]

    # What workers do

    @rule(worker=WORKERS, most=st.integers(1, 8))
    def claim(self, worker: int, most: int) -> None:
        self.claim_by(self.workers[worker], most)

    def claim_by(self, worker: Worker, most: int = 100) -> leases.Claim:
        before = self.ledger
        places = Places(CONCURRENCY - len(worker.claimed), Counter(each.tenant_id for each in worker.claimed.values()))
        limits: dict[str, Any] = {"cap": CAP, "max_timeout_seconds": 30, "places": places, "marks": worker.marks}
        claimed: dict[UUID, Claimed] = {}
        with self.only(lambda old, new: self.is_claimed(before, worker, claimed, old, new)):
            claim = self.run(
                lambda scope: leases.claim(scope, worker.owner, most=most, **limits), skew_seconds=worker.skew_seconds
            )
            claimed |= {each.id: each for each in claim.deliveries}
        for each in claim.deliveries:
            new = self.ledger.entries[each.id]
            assert (each.attempt, each.attempt - each.counted) == (new.begun, new.uncounted)
            assert each.secrets_encrypted
            # As in `Worker._deliver`: the attempt is under way.
            worker.claimed[each.id] = worker.claimed.get(each.id, each)._replace(rests=each.rests)
        changes = [(old, new) for old, new in before.changes(self.ledger) if old and new]
        assert (claim.left is Left.MOVED) == any(new.state in (HELD, WAITING, None) for _, new in changes)
        if any(old.state == HELD and new.is_due(self.now) for old, new in changes):
            # What it has released is what it looks for next.
            is_any_due = partial(queue.is_any_due, marks=worker.marks)
            assert self.run(is_any_due, skew_seconds=worker.skew_seconds)
        for endpoint_id in {each.endpoint_id for each in claim.deliveries}:
            # The slowest clock decides which leases hold.
            in_flight = self.ledger.in_flight(endpoint_id, self.clock.time + timedelta(seconds=max(SKEWS_SECONDS)))
            assert in_flight <= (1 if endpoint_id in before.rests else CAP)
        return claim

    def is_claimed(
        self, before: Ledger, worker: Worker, claimed: Collection[UUID], old: Entry | None, new: Entry | None
    ) -> bool:
        """Return whether a claim by the worker may do so to a delivery."""
        if old is None or new is None or old.state is None or old.is_leased(self.now):
            return False
        if old.endpoint_id not in before.paused:
            return new == old.finished(CANCELLED, self.now)
        is_sent, rest = before.is_sent_to(old.endpoint_id, self.now), before.rests.get(old.endpoint_id)
        if old.state == HELD:
            # It follows others that this claim took; one that tries an endpoint out goes alone.
            return is_sent and rest is None and new == old.ready()
        if not old.is_due(self.now):
            return False
        if new.id in claimed:
            until = self.now + timedelta(seconds=LEASE_SECONDS)
            leased = old._replace(state=LEASED, owner=worker.owner, due_at=until, begun=(old.begun or 0) + 1)
            return is_sent and new == leased
        waits = [] if rest is None else [old.ready()._replace(state=WAITING, due_at=rest.until)]
        return new == old.ready() or (not is_sent and new in [old.ready()._replace(state=HELD), *waits])

    @rule(worker=WORKERS, answers=SOME_ANSWERS, most=st.integers(1, 8), twice=st.booleans())
    def settle(self, worker: int, answers: list[Answer], most: int, twice: bool) -> None:
        self.settle_by(self.workers[worker], answers, most, twice=twice)

    def settle_by(self, worker: Worker, answers: list[Answer], most: int = 100, *, twice: bool = False) -> None:
        """Record results; twice where the first commit succeeded and its answer got lost."""
        courier = Courier(cast(Any, Answers(answers)), self.state)
        with self.host.app.app_context():
            settlements = [asyncio.run(courier.attempt(each)) for each in list(worker.claimed.values())[:most]]
        if not settlements:
            return
        record = partial(attempts.record, owner=worker.owner, settlements=settlements)
        before = self.ledger
        theirs = {each.id for each in before.entries.values() if each.owner == worker.owner}
        kept = {each.delivery.id: each for each in settlements if each.delivery.id in theirs}
        asked, rested = self.rests_of(kept.values())
        released = set(rested)
        with self.only(self.of_those(released), lambda old, new: self.is_settled(kept, old, new)):
            settled = self.run(record, skew_seconds=worker.skew_seconds)
            # Another delivery must try out an endpoint if this one comes back after the rest, or never.
            released |= {each.delivery.endpoint_id for each in kept.values() if self.is_left_to_others(each, asked)}
        assert {each.delivery.id for each in settled.settlements} == kept.keys()
        assert all(self.is_settled(kept, before.entries[each], self.ledger.entries[each]) for each in kept)
        self.check_endpoints(before, kept.values(), asked, rested)
        self.check_rested(rested & before.paused.keys())
        self.note(settlements, kept)
        if twice:
            with self.only():
                assert self.run(record, skew_seconds=worker.skew_seconds).settlements == []
        # As `Worker._recorded` and `Worker._attempt`.
        for each in settlements:
            del worker.claimed[each.delivery.id]
            if each.delivery.rests:
                worker.marks.released(marks.BEGINNING)
            if each.rests_seconds is None:
                worker.marks.attempted(each.delivery.endpoint_id)

    def is_left_to_others(self, result: Settlement, asked: dict[UUID, float]) -> bool:
        """Return whether a delivery that has tried out an endpoint, which asks for rest again, is not back by then."""
        if not (result.delivery.rests and result.delivery.endpoint_id in asked):
            return False
        until = self.now + timedelta(seconds=asked[result.delivery.endpoint_id])
        return result.next_attempt_at is None or result.next_attempt_at > until

    def is_settled(self, kept: dict[UUID, Settlement], old: Entry | None, new: Entry | None) -> bool:
        """Return whether a delivery is what its result makes of it."""
        if old is None or new is None or (result := kept.get(old.id)) is None:
            return False
        recorded = old._replace(recorded=result.delivery.attempt)
        if result.status is PENDING:
            waiting = recorded._replace(state=WAITING, owner=None, due_at=result.next_attempt_at)
            ended = waiting._replace(uncounted=result.attempts_before)
            return new == ended or (ended.is_due(self.now) and new == ended.ready())
        assert result.status is DELIVERED or result.delivery.counted >= len(SCHEDULE)
        undelivered = FAILED if result.status is FAILED else None
        return new == recorded.finished(result.status, self.now)._replace(undelivered=undelivered)

    def rests_of(self, kept: Collection[Settlement]) -> tuple[dict[UUID, float], set[UUID]]:
        """Return for how long endpoints ask for rest, and which have answered well after one."""
        asked: dict[UUID, float] = {}
        for each in kept:
            if each.rests_seconds is not None:
                known = asked.get(each.delivery.endpoint_id, 0)
                asked[each.delivery.endpoint_id] = max(known, each.rests_seconds)
        return asked, {each.delivery.endpoint_id for each in kept if each.delivery.rests} - asked.keys()

    def check_endpoints(
        self, before: Ledger, kept: Collection[Settlement], asked: dict[UUID, float], rested: set[UUID]
    ) -> None:
        """Check which endpoints rest after a record, and which are paused."""
        gone = {each.delivery.endpoint_id for each in kept if each.gone}
        for endpoint_id, was_paused in before.paused.items():
            assert bool(self.ledger.paused[endpoint_id]) == (bool(was_paused) or endpoint_id in gone)
            rest, was = self.ledger.rests.get(endpoint_id), before.rests.get(endpoint_id)
            if endpoint_id in asked:
                assert rest
                # A later answer shortens no rest.
                known = was.until if was and was.until > self.now else self.now
                assert rest.until == max(known, self.now + timedelta(seconds=asked[endpoint_id]))
            else:
                assert rest == (None if endpoint_id in rested else was)

    def note(self, settlements: Sequence[Settlement], kept: Collection[UUID]) -> None:
        """Note what must be on record, and in the statistics."""
        for each in settlements:
            of = each.delivery
            at_once = of.attempt == 1 and each.status is DELIVERED
            if of.id in self.ledger.entries and (of.id in kept or not at_once):
                self.attempted[of.id].add(of.attempt)
            if of.id in kept:
                hour = roll_ups.beginning_of_hour(self.now)
                self.results.append(Result(of.tenant_id, of.endpoint_id, hour, each.status))

    @rule(worker=WORKERS)
    def give_back(self, worker: int) -> None:
        who = self.workers[worker]
        given = {each.id: each for each in who.claimed.values()}
        who.claimed.clear()

        def is_back(old: Entry | None, new: Entry | None) -> bool:
            if old is None or old.id not in given or old.owner != who.owner:
                return False
            return new == old.ready()._replace(due_at=self.now, begun=(old.begun or 0) - 1)

        before = self.ledger
        with self.only(is_back):
            self.run(lambda scope: leases.give_back(scope, who.owner, given.values()), skew_seconds=who.skew_seconds)
        theirs = [each.id for each in before.entries.values() if each.owner == who.owner and each.id in given]
        assert all(self.ledger.entries[each].state == READY for each in theirs)

    @rule(worker=WORKERS)
    def die(self, worker: int) -> None:
        self.workers[worker] = Worker(SKEWS_SECONDS[worker])

    @rule(worker=WORKERS)
    def add_up(self, worker: int) -> None:
        with self.only():
            self.run(partial(recent_counts.add_up, owner=self.workers[worker].owner))

    @rule()
    def look(self) -> None:
        """Look as a worker does that has read nothing yet: it finds all that is due, and takes the oldest first."""
        before, owner = self.ledger, new_id()
        looks = 2 + sum(each.is_due(self.clock.time) for each in before.entries.values())

        def claim_all(scope: Scope) -> tuple[bool, list[Claimed]]:
            is_due, found, left = queue.is_any_due(scope), list[Claimed](), looks
            while left:
                claim = leases.claim(scope, owner, most=100, cap=CAP, max_timeout_seconds=30)
                found += claim.deliveries
                left -= not (claim.deliveries or claim.left is Left.MOVED)
            return is_due, found

        is_due, found = self.run(claim_all, commit=False)
        assert is_due == any(each.is_due(self.now) for each in before.entries.values())
        assert len({each.id for each in found}) == len(found)
        for endpoint_id in before.paused:
            taken = {each.id for each in found if each.endpoint_id == endpoint_id}
            assert len(taken) == self.sendable(before, endpoint_id), before.of(endpoint_id)
            self.check_oldest_first(before, endpoint_id, taken)

    def check_oldest_first(self, before: Ledger, endpoint_id: UUID, claimed: Collection[UUID]) -> None:
        """Check that a claim took the oldest of the deliveries to an endpoint that were ready."""
        ready = [(each.due_at, each.id in claimed) for each in before.of(endpoint_id) if each.state == READY]
        last = max((due_at for due_at, is_taken in ready if is_taken), default=None)
        assert last is None or not [due_at for due_at, is_taken in ready if not is_taken and due_at < last]

    def sendable(self, ledger: Ledger, endpoint_id: UUID) -> int:
        """Return how many deliveries may begin to an endpoint now."""
        if not ledger.is_sent_to(endpoint_id, self.now):
            return 0
        resting = endpoint_id in ledger.rests
        room = (1 if resting else CAP) - ledger.in_flight(endpoint_id, self.now)
        waiting = [
            each for each in ledger.of(endpoint_id) if each.is_due(self.now) or (each.state == HELD and not resting)
        ]
        return max(0, min(room, len(waiting)))

    # What often goes wrong

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

    @rule(number=ANY, first=WORKERS, second=WORKERS, answers=SOME_ANSWERS, gives_back=st.booleans())
    def hang(self, number: int, first: int, second: int, answers: list[Answer], gives_back: bool) -> None:
        """Let a worker hang until its leases have ended, and another one claim; then it goes on."""
        self.publish(number, 2)
        self.claim_by(self.workers[first])
        self.move(LEASE_SECONDS + 2)
        self.claim_by(self.workers[second])
        if gives_back:
            self.give_back(first)
        else:
            self.settle_by(self.workers[first], answers)
        self.claim_by(self.workers[first])

    @rule(number=ANY, worker=WORKERS, answers=SOME_ANSWERS, later=st.sampled_from([60, 301]))
    def rest(self, number: int, worker: int, answers: list[Answer], later: int) -> None:
        """Let an endpoint ask for rest, with more in the queue than one worker has, and another one try it out."""
        self.publish(number, 6)
        who, other = self.workers[worker], self.workers[worker - 1]
        self.claim_by(who)
        self.settle_by(who, [REST_FOR_300])
        self.claim_by(other)
        self.move(later)
        self.look()
        self.claim_by(other)
        self.claim_by(who)
        self.settle_by(other, answers)
        self.claim_by(who)

    @rule(number=ANY, worker=WORKERS, days=st.sampled_from([0, 0, 31]), expires=st.booleans())
    def hold(self, number: int, worker: int, days: int, expires: bool) -> None:
        """Pause an endpoint, with more in the queue than a resumption releases, and resume it."""
        self.publish(number, 4)
        self.claim_by(self.workers[worker], 2)
        self.change(number, "PAUSED")
        self.publish(number, 3)
        for each in self.workers:
            self.claim_by(each)
        if days:
            self.move(days * 86400)
        if expires:
            self.prune()
        self.change(number, "ACTIVE")
        if expires:
            self.recover(number)
        self.publish(number, 1)
        for each in self.workers:
            before = self.ledger
            claimed = {delivery.id for delivery in self.claim_by(each).deliveries}
            self.check_oldest_first(before, self.endpoint(number), claimed)

    @rule(number=ANY, worker=WORKERS, answers=SOME_ANSWERS, forgets=st.booleans())
    def remove(self, number: int, worker: int, answers: list[Answer], forgets: bool) -> None:
        """Delete an endpoint, or all of its tenant, while deliveries are in flight."""
        self.publish(number, 3)
        who = self.workers[worker]
        self.claim_by(who)
        endpoint_id = self.endpoint(number)
        if forgets:
            self.forget(self.tenant_of[endpoint_id])
        else:
            self.delete(number)
        self.settle_by(who, answers)

    # What time and operators do

    @rule(by=st.sampled_from([1, 5, 61, 700, 4000, 31 * 86400]))
    def move(self, by: int) -> None:
        self.clock.time += timedelta(seconds=by)
        self.passed.seconds += by

    @rule()
    def prune(self) -> None:
        before = self.ledger

        def is_over(old: Entry | None, new: Entry | None) -> bool:
            until = self.now - MONTH
            if old is None:
                return False
            if new is None:
                return old.finished_at is not None and old.finished_at <= until
            since = before.paused.get(old.endpoint_id)
            is_held = since is not None and since <= until and old.created_at <= until and old.state != LEASED
            expired = old.finished(EXPIRED, new.finished_at or self.now)._replace(undelivered=EXPIRED)
            return is_held and old.state is not None and new == expired

        with self.only(is_over):
            for step in retention.steps(retention_days=30, hold_max_days=30):
                self.run(step.prune)
        # Each step has a time of its own, a little later than the one before.
        long_ago = self.now - MONTH - timedelta(seconds=1)
        for each in self.ledger.entries.values():
            assert not each.finished_at or each.finished_at > long_ago
            since = before.paused.get(each.endpoint_id)
            is_held_for_long = since is not None and max(since, each.created_at) <= long_ago
            assert not is_held_for_long or each.state in (None, LEASED)
        for delivery_id in before.entries.keys() - self.ledger.entries.keys():
            self.attempted.pop(delivery_id, None)

    @rule()
    def sweep(self) -> None:
        """Look for what is left by a race or by hand: only what follows others anyhow is ready sooner."""
        sent_to = {each for each in self.ledger.paused if self.ledger.is_sent_to(each, self.clock.time)}
        with self.only(lambda old, new: old is not None and old.state == HELD and self.of_those(sent_to)(old, new)):
            self.run(sweep.sweep)

    # What is left

    def teardown(self) -> None:
        for number in range(len(self.tenant_of)):
            self.change(number, "ACTIVE")
        self.move(3 * 86400)
        for _ in range(IDLE_ROUNDS):
            for worker in self.workers:
                self.run_dry(worker)
            if all(each.state is None for each in self.ledger.entries.values()):
                break
            self.move(6)
        assert [each for each in self.ledger.entries.values() if each.state is not None] == []
        self.check_attempts()
        self.check_statistics()
        self.sweep()
        # An endpoint rests on whose last delivery was exhausted by an answer that asked for rest.
        for table in (REST, INCIDENT):
            assert {row.endpoint_id for row in rows(self.host, sa.select(table))} <= self.tenant_of.keys()

    def run_dry(self, worker: Worker) -> None:
        """Let a worker deliver as `Worker._deliver` does, until it finds nothing due."""
        is_due = True
        while is_due:
            claim = self.claim_by(worker)
            self.settle_by(worker, [SUCCESS])
            is_in_vain = not (claim.deliveries or claim.left is Left.MOVED)
            if is_in_vain:
                worker.marks.claimed_in_vain(self.now)
            is_any_due = partial(queue.is_any_due, marks=worker.marks)
            is_due = self.run(is_any_due, skew_seconds=worker.skew_seconds) and not is_in_vain

    def check_attempts(self) -> None:
        on_record: defaultdict[UUID, set[int]] = defaultdict(set)
        for delivery_id, number in rows(self.host, sa.select(ATTEMPT.c.delivery_id, ATTEMPT.c.number)):
            on_record[delivery_id].add(number)
        assert on_record.keys() <= self.ledger.entries.keys()
        for row in rows(self.host, sa.select(DELIVERY)):
            if row.last_attempt_at is not None:
                on_record[row.id].add(row.attempts)
            assert on_record[row.id] == self.attempted[row.id]

    def check_statistics(self) -> None:
        """Check that each result that was recorded counts once, of those that retention has not taken."""
        counted, expected = Counter[Any](), Counter[Any]()
        first = self.now - MONTH
        for hour in hours(self.host):
            counted.update({(hour.endpoint_id, name): getattr(hour, name) for name in COUNTED if hour.hour >= first})
        for result in self.results:
            if result.hour >= first:
                names = ["attempts", "delivered"] if result.status is DELIVERED else ["attempts", "failed_attempts"]
                names += ["failed"] if result.status is FAILED else []
                expected.update((result.endpoint_id, name) for name in names)
        assert +counted == expected
