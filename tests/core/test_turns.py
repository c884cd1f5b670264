"""Whose turn it is: no backlog hides what other tenants and other endpoints have."""

import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import chain

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints import NewEvent
from flask_webhook_endpoints.core import candidates, leases, queue, sweep
from flask_webhook_endpoints.core.heartbeats import Heartbeat
from flask_webhook_endpoints.core.leases import Left
from flask_webhook_endpoints.core.marks import LATE, MAX_PAUSE_SECONDS, Marks
from flask_webhook_endpoints.core.places import Places
from flask_webhook_endpoints.core.results import Claimed
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database import plans
from flask_webhook_endpoints.database.models import QueueState, new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.state import current_state, state_of
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import ENDPOINT, QUEUE, count, engine_of, execute, rows, statements_of
from tests.support.deliveries import claim, finish, publish
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.usefixtures("short_head")


@pytest.fixture
def short_head(monkeypatch):
    """Let a claim read a few deliveries at first, so that twenty are a backlog."""
    monkeypatch.setattr(candidates, "LOOKED_AT", 3)


def claimed(host, most):
    """Claim so many, and return the endpoints that they are for."""
    with host.app.app_context():
        deliveries = claim(current_state().scope(), most=most).deliveries
        host.db.session.commit()
        return {delivery.ep_id for delivery in deliveries}


def swept() -> Marks:
    """Return the marks of a worker that has swept just now, so that it looks for nothing but due deliveries."""
    marks = Marks(knows_all=True)
    marks.wait("sweep", 60)
    return marks


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


# A worker claimed without end, hundreds of times a second, or stood still until the host's transaction ended.
@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.parametrize("table", [ENDPOINT, QUEUE], ids=["endpoint", "delivery"])
def test_a_claim_passes_by_what_a_host_has_locked_in_its_way(host, acme, table):
    paused = create_endpoint(acme)
    change_endpoint(acme, paused, status="PAUSED")
    publish(host)
    quiet = create_endpoint(host.client("quiet")).id

    def claim_one():
        publish(host, tenant_id="quiet")
        with host.app.app_context():
            return current_state().run_apart(claim)

    with ThreadPoolExecutor(1) as thread, engine_of(host).connect() as connection:
        [key] = table.primary_key
        [[row]] = rows(host, sa.select(key).where(table.c.tenant_id == "acme"))
        connection.execute(sa.select(key).where(key == row).with_for_update())
        passed = thread.submit(claim_one).result(PATIENCE_SECONDS)
        connection.rollback()
        again = claim_one()

    assert [[each.ep_id for each in found.deliveries] for found in (passed, again)] == [[quiet], [quiet]]
    assert (passed.left is Left.MOVED, again.left is Left.MOVED) == (False, True)


# Tenants with none in flight took turns by due time alone: an event waited for the whole backlog of all others.
def test_an_event_behind_a_backlog_of_many_tenants_is_claimed_next_and_its_tenant_takes_turns(host):
    tenants = [f"busy {number}" for number in range(40)]
    quiet = create_endpoint(host.client("quiet")).id
    for tenant_id in tenants:
        create_endpoint(host.client(tenant_id))
    marks, claims = Marks(knows_all=True), list[list[Claimed]]()
    with host.app.app_context():
        host.webhooks.publish_many([NewEvent("invoice.paid", n, tenant_id=each) for n in range(5) for each in tenants])
        host.db.session.commit()
        state, owner, limits = current_state(), new_id(), {"most": 4, "cap": 10, "max_timeout_seconds": 30}
        for number in range(40):
            if number == 12:
                published = [host.webhooks.publish("invoice.paid", n, tenant_id="quiet").id for n in range(3)]
                host.db.session.commit()
            claim = state.run_apart(partial(leases.claim, owner=owner, marks=marks, **limits))
            claims.append(list(claim.deliveries))
            ids = [each.id for each in claims[-1]]
            state.run_apart(partial(leases.end, owner=owner, transition=Transition.DELIVERED, ids=ids))

    # Each of the others has its turn in ten claims.
    assert Counter(each.tenant_id for each in chain(*claims[:10])) == Counter(tenants)
    first, *others = [number for number, each in enumerate(claims) if any(one.ep_id == quiet for one in each)]
    assert first == 12
    assert len(others) == 2
    assert others[0] > 20
    assert [one.event_id for one in chain(*claims) if one.ep_id == quiet] == published


# Only the burst was among the newest: the other event waited for a look past the backlog, from tenant to tenant.
def test_an_event_that_came_behind_a_backlog_just_before_a_burst_is_claimed_next(host, monkeypatch):
    monkeypatch.setattr(candidates, "NEWEST_LOOKED_AT", 3)
    endpoints = {name: create_endpoint(host.client(name)).id for name in ("busy", "quiet", "burst")}
    marks, limits = Marks(knows_all=True), {"most": 3, "cap": 10, "max_timeout_seconds": 30}
    # No look past the backlog comes to its help.
    marks.wait("past", 60)
    publish(host, *range(20), tenant_id="busy")
    with host.app.app_context():
        claim = partial(current_state().run_apart, partial(leases.claim, owner=new_id(), marks=marks, **limits))
        assert {each.ep_id for each in claim().deliveries} == {endpoints["busy"]}
        publish(host, tenant_id="quiet")
        publish(host, *range(4), tenant_id="burst")
        wait_until(lambda: marks.is_time_for("burst"))

        assert {each.ep_id for each in claim().deliveries} >= {endpoints["quiet"], endpoints["burst"]}


@contextmanager
def newcomers(host, tenants, marks, *, most):
    """Let tenants come behind another one's backlog, after a first claim; yield what claims `most` more."""
    for tenant_id in ("busy", *tenants):
        create_endpoint(host.client(tenant_id))
    limits = {"most": most, "cap": 10, "max_timeout_seconds": 30}
    # No look past the backlog comes to their help.
    marks.wait("past", 60)
    publish(host, *range(20), tenant_id="busy")
    with host.app.app_context():
        claim = partial(current_state().run_apart, partial(leases.claim, owner=new_id(), marks=marks, **limits))
        claim()
        host.webhooks.publish_many([NewEvent("invoice.paid", 7, tenant_id=each) for each in tenants])
        host.db.session.commit()
        yield claim


# A claim forgot all newcomers but the first 64: the others waited for looks past the backlog.
def test_newcomers_for_which_a_claim_has_no_time_are_claimed_by_the_next_ones(host, monkeypatch, webhook_clock):
    monkeypatch.setattr(candidates, "TENANTS_LOOKED_AT", 2)
    quiet = [f"quiet {number}" for number in range(6)]
    with newcomers(host, quiet, Marks(knows_all=True), most=4) as claim:
        found = set()
        for _ in range(3):
            found |= {each.tenant_id for each in claim().deliveries}
            # What is older than this is not among the newest any more.
            webhook_clock.move(seconds=2 * LATE.total_seconds())

    assert found >= {*quiet}


# Tenants that can get no more stayed newcomers, and took the places of others that came later.
def test_a_newcomer_whose_endpoints_have_enough_in_flight_is_none_any_more(host, monkeypatch):
    monkeypatch.setattr(candidates, "TENANTS_LOOKED_AT", 2)
    for tenant_id in ("busy", "slow", "slower", "quiet"):
        create_endpoint(host.client(tenant_id))
    marks, limits = Marks(knows_all=True), {"most": 3, "cap": 1, "max_timeout_seconds": 30}
    # No look past the backlog comes to their help.
    marks.wait("past", 60)
    with host.app.app_context():
        claim = partial(current_state().run_apart, partial(leases.claim, owner=new_id(), marks=marks, **limits))
        publish(host, tenant_id="quiet")
        publish(host, *range(20), tenant_id="busy")
        claim()
        for tenant_id in ("slow", "slower"):
            publish(host, *range(4), tenant_id=tenant_id)
        claims = [claim() for _ in range(3)]

    assert {each.tenant_id for one in claims for each in one.deliveries} == {"slow", "slower"}
    assert marks.newcomers == {}


# Each claim asked for what they no longer had.
def test_where_all_that_is_due_is_among_the_first_nobody_is_a_newcomer(host, monkeypatch):
    monkeypatch.setattr(candidates, "TENANTS_LOOKED_AT", 1)
    marks = Marks(knows_all=True)
    with newcomers(host, [f"quiet {number}" for number in range(3)], marks, most=3) as claim:
        claim()
        waiting = {*marks.later_newcomers}
        finish(host)
        claim()

    assert waiting
    assert (marks.newcomers, marks.later_newcomers) == ({}, {})


@pytest.mark.parametrize("look", ["past", "burst"])
def test_a_slow_look_past_a_backlog_is_soon_taken_again_because_other_tenants_wait_for_it(
    host, acme, look, monkeypatch
):
    monkeypatch.setattr(candidates, "REST_OF_TIME", 10**9)
    create_endpoint(acme)
    publish(host, *range(20))
    marks = Marks(knows_all=True)
    with host.app.app_context():
        leases.claim(current_state().scope(), new_id(), most=2, cap=10, max_timeout_seconds=30, marks=marks)
    begun = time.monotonic()

    assert not marks.is_time_for(look)
    wait_until(lambda: marks.is_time_for(look))
    assert time.monotonic() - begun < MAX_PAUSE_SECONDS / 2


# Each took four times what it left free. At 1,000 places the fifth of them found the last one, and then nobody.
@pytest.mark.parametrize(
    ("concurrency", "taken"),
    [(1, [1]), (2, [2]), (5, [4, 1]), (10, [8, 1, 1]), (20, [17, 2, 1]), (100, [82, 12, 1, 1, 1, 1, 1, 1])],
)
def test_tenants_that_hang_one_after_another_leave_places_for_the_next_ones(host, concurrency, taken):
    places = Counter[str]()
    for number in range(len(taken)):
        tenant_id = f"hanging {number}"
        create_endpoint(host.client(tenant_id))
        with host.app.app_context():
            host.webhooks.publish_many([NewEvent("invoice.paid", 7, tenant_id=tenant_id)] * (concurrency + 1))
            scope, limits = current_state().scope(), {"cap": 1000, "max_timeout_seconds": 30}
            free = Places(concurrency - places.total(), places)
            claim = leases.claim(scope, new_id(), most=free.free, places=free, **limits)
            host.db.session.commit()
        places.update(each.tenant_id for each in claim.deliveries)

    assert list(places.values()) == taken


def test_a_backlog_is_claimed_to_its_cap(host, acme):
    create_endpoint(acme)
    publish(host, *range(20))

    with host.app.app_context():
        assert [len(claim(current_state().scope(), most=100).deliveries) for _ in range(2)] == [10, 0]


def test_what_was_held_follows_as_it_is_sent_and_is_never_all_in_the_way(host, acme, monkeypatch):
    monkeypatch.setattr(queue, "RELEASED_AT_ONCE", 30)
    endpoint = create_endpoint(acme)
    change_endpoint(acme, endpoint, status="PAUSED")
    publish(host, *range(100))
    assert claimed(host, most=100) == set()
    while count(host, QUEUE, QUEUE.c.state == "READY"):
        claimed(host, most=100)
    change_endpoint(acme, endpoint, status="ACTIVE")

    ready, seen = [], 0
    while seen < 100:
        ready.append(count(host, QUEUE, QUEUE.c.state == "READY"))
        with host.app.app_context():
            state = current_state()
            owner = new_id()
            taken = state.run_apart(partial(claim, owner=owner)).deliveries
            ids = [delivery.id for delivery in taken]
            state.run_apart(partial(leases.end, owner=owner, transition=Transition.DELIVERED, ids=ids))
        assert taken
        seen += len(taken)

    assert max(ready) <= 50


# A worker whose clock is ahead looked only for leases that end after its own, and so did not see those of the others.
# The look had been taken: claims read on from the mark, and what was released before it waited for the sweep.
def test_what_a_look_at_the_whole_queue_has_found_is_claimed_next(host, acme):
    create_endpoint(acme)
    marks = swept()

    def look_and_claim(scope):
        found = queue.is_any_due(scope, marks)
        marks.wait("all ready", 60)
        claimed = leases.claim(scope, new_id(), most=10, cap=10, max_timeout_seconds=30, marks=marks)
        return found, len(claimed.deliveries)

    with host.app.app_context():
        state = current_state()
        assert state.run_apart(look_and_claim) == (False, 0)
        publish(host, 1)
        execute(host, sa.update(QUEUE).values(due_at=state.now() - timedelta(days=1)))
        assert state.run_apart(look_and_claim) == (False, 0)
        marks.wait("all ready", 0)

        assert state.run_apart(look_and_claim) == (True, 1)


# Such as a retry whose record was committed late, or one that a person at the database has put forward.
def test_what_waits_since_before_the_mark_is_claimed_after_a_look_at_all_that_waits(host, acme):
    create_endpoint(acme)
    marks = swept()

    def look_and_claim(scope):
        found = queue.is_any_due(scope, marks)
        claimed = leases.claim(scope, new_id(), most=10, cap=10, max_timeout_seconds=30, marks=marks)
        return found, len(claimed.deliveries)

    def wait(seconds):
        for look in ("all ready", "all waiting"):
            marks.wait(look, seconds)

    with host.app.app_context():
        state = current_state()
        assert state.run_apart(look_and_claim) == (False, 0)
        for ago in (timedelta(days=1), timedelta(0)):
            publish(host, 1)
            put_off = sa.update(QUEUE).where(QUEUE.c.state == QueueState.READY)
            execute(host, put_off.values(state=QueueState.WAITING, due_at=state.now() - ago))
        wait(60)
        # The one that has just become due.
        assert state.run_apart(look_and_claim) == (True, 1)
        wait(60)
        assert state.run_apart(look_and_claim) == (False, 0)
        wait(0)

        assert state.run_apart(look_and_claim) == (True, 1)


# Its next try began at the mark that the first one had left.
def test_a_claim_that_is_tried_again_makes_ready_once_more_what_the_rollback_has_undone(host, acme):
    create_endpoint(acme)
    marks, limits = swept(), {"most": 10, "cap": 10, "max_timeout_seconds": 30}
    with host.app.app_context():
        state = current_state()
        assert not state.run_apart(partial(queue.is_any_due, marks=marks))
        publish(host, 1)
        execute(host, sa.update(QUEUE).values(state=QueueState.WAITING, due_at=state.now()))

        def claim_later(scope: Scope) -> int:
            later = replace(scope, now=scope.now + timedelta(minutes=1))
            return len(leases.claim(later, new_id(), marks=marks, **limits).deliveries)

        for _ in range(2):
            # No look at the whole queue comes to its help.
            for look in ("all ready", "all waiting"):
                marks.wait(look, 60)
            assert state.run(claim_later, commit=False) == 1
            host.db.session.rollback()


# Each look and each claim read the row of every entry that was dead: 12 and 16 ms after 60,000 retries, not 1 and 3.
@pytest.mark.only_on("postgresql")
def test_looks_and_claims_pass_by_the_entries_of_what_waited_that_an_old_snapshot_keeps(host, acme):
    create_endpoint(acme)
    marks, limits = swept(), {"most": 10, "cap": 10, "max_timeout_seconds": 30}
    with engine_of(host).connect().execution_options(isolation_level="REPEATABLE READ") as old:
        old.execute(sa.text("SELECT 1"))
        with host.app.app_context():
            state = current_state()
            host.webhooks.publish_many([NewEvent("invoice.paid", 7, tenant_id="acme")] * 3_000)
            host.db.session.commit()
            waited = {"state": QueueState.WAITING, "due_at": state.now() - timedelta(minutes=1)}
            execute(host, sa.update(QUEUE).values(waited))
            execute(host, sa.text("DELETE FROM webhook_queue"))
            for _ in range(2):
                with statements_of(host) as sent:
                    assert not state.run_apart(partial(queue.is_any_due, marks=marks))
                    state.run_apart(lambda scope: leases.claim(scope, new_id(), marks=marks, **limits))
                marks.wait("all ready", 60)
            waiting = [each for each in sent if "'WAITING'" in each[0]]

            assert [statement.split()[0] for statement, _ in waiting] == ["SELECT", "WITH"]
            for statement, parameters in waiting:
                explain = f"EXPLAIN (ANALYZE, BUFFERS) {statement}"
                steps = host.db.session.connection().exec_driver_sql(explain, parameters).scalars().all()
                buffers = next(step for step in steps if "Buffers:" in step)
                assert sum(map(int, re.findall(r"(?:hit|read)=(\d+)", buffers))) < 100, steps


# While an endpoint was at its cap, looks passed by the beginning of the queue, and were taken for looks at the whole.
def test_what_was_released_late_is_found_though_a_slow_endpoint_is_claimed_in_vain_again_and_again(host, acme):
    create_endpoint(acme)
    marks = swept()
    with host.app.app_context():
        state = current_state()
        publish(host, 1)
        execute(host, sa.update(QUEUE).values(due_at=state.now() - timedelta(minutes=1)))
        marks.ready_from = marks.ended_from = state.now() - LATE
        marks.claimed_in_vain(state.now())

        assert not state.run_apart(partial(queue.is_any_due, marks=marks))
        marks.wait("what waits", 0)
        assert state.run_apart(partial(queue.is_any_due, marks=marks))


# Each look past a backlog read the row of every entry that was dead: 40 times what the claim itself read.
@pytest.mark.only_on("postgresql")
def test_a_look_past_a_backlog_passes_by_the_entries_that_an_old_snapshot_keeps(host, acme):
    create_endpoint(acme)
    with engine_of(host).connect().execution_options(isolation_level="REPEATABLE READ") as old:
        old.execute(sa.text("SELECT 1"))
        with host.app.app_context():
            host.webhooks.publish_many([NewEvent("invoice.paid", 7, tenant_id="acme")] * 3_000)
            host.db.session.commit()
        execute(host, sa.text("DELETE FROM webhook_queue"))
        publish(host, *range(20))
        with statements_of(host) as sent:
            claimed(host, most=2)
        past = [each for each in sent if "webhook_queue" in each[0] and {"oldest", "since"} & set(each[1])]

        assert len(past) > 2  # at the newest, from tenant to tenant, and from endpoint to endpoint
        with host.app.app_context():
            for statement, parameters in past:
                explain = f"EXPLAIN (ANALYZE, BUFFERS) {statement}"
                steps = host.db.session.connection().exec_driver_sql(explain, parameters).scalars().all()
                buffers = next(step for step in steps if "Buffers:" in step)
                assert sum(map(int, re.findall(r"(?:hit|read)=(\d+)", buffers))) < 100, steps


# After `=`, MariaDB read all of a backlog to find its tenants: 0.16 s of each look past one of 100,000.
@pytest.mark.only_on("mariadb")
def test_a_look_past_a_backlog_steps_from_tenant_to_tenant(host, acme):
    create_endpoint(acme)
    create_endpoint(host.client("globex"))
    with host.app.app_context():
        host.webhooks.publish_many([NewEvent("invoice.paid", 7, tenant_id="acme")] * 500)
        host.webhooks.publish("invoice.paid", 7, tenant_id="globex")
        host.db.session.commit()
        execute(host, sa.text("ANALYZE TABLE webhook_queue"))
        with statements_of(host) as sent:
            claim(current_state().scope(), most=2)
        [(statement, parameters)] = [each for each in sent if "GROUP BY webhook_queue.state" in each[0]]
        connection = host.db.session.connection()
        connection.exec_driver_sql("FLUSH STATUS")
        # The only delivery of the other tenant is leased.
        assert connection.exec_driver_sql(statement, parameters).scalars().all() == [b"acme"]
        read = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read_%%'").all()
        host.db.session.rollback()

    assert sum(int(number) for _, number in read) < 20, read


# After `=`, MariaDB read all of a backlog for the few that came since the last claim: 0.27 s behind one of 40,000.
@pytest.mark.only_on("mariadb")
def test_a_look_at_the_newest_reads_no_backlog(host, acme):
    create_endpoint(acme)
    marks = Marks(knows_all=True)
    with host.app.app_context():
        scope = current_state().scope()
        host.webhooks.publish_many([NewEvent("invoice.paid", 7, tenant_id="acme")] * 500)
        host.db.session.commit()
        execute(host, sa.update(QUEUE).values(due_at=scope.now - timedelta(minutes=1)))
        execute(host, sa.text("ANALYZE TABLE webhook_queue"))
        publish(host)
        marks.newest_from = scope.now - LATE
        with statements_of(host) as sent:
            leases.claim(current_state().scope(), new_id(), most=2, cap=10, max_timeout_seconds=30, marks=marks)
        [(statement, parameters)] = [each for each in sent if "since" in each[1]]
        connection = host.db.session.connection()
        connection.exec_driver_sql("FLUSH STATUS")
        assert len(connection.exec_driver_sql(statement, parameters).all()) == 1
        read = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read_%%'").all()
        host.db.session.rollback()

    assert sum(int(number) for _, number in read) < 20, read


# After an ANALYZE of an empty queue PostgreSQL expects no row, and read all of a backlog at each step and each claim.
@pytest.mark.slow
@pytest.mark.only_on("postgresql")
def test_a_claim_does_not_read_a_backlog_that_came_to_an_empty_queue(host, acme):
    create_endpoint(acme)

    def publish_backlog() -> None:
        with host.app.app_context():
            # Enough for another level of one of the indexes, so that the wrong one seems cheaper.
            host.webhooks.publish_many([NewEvent("invoice.paid", 7, tenant_id="acme")] * 20_000)
            host.db.session.commit()

    publish_backlog()
    for statement in ("DELETE FROM webhook_queue", "ANALYZE webhook_queue"):
        execute(host, sa.text(statement))
    publish_backlog()
    with statements_of(host) as sent:
        claimed(host, most=2)

    [trusting] = [number for number, each in enumerate(sent) if "set_config" in each[0]]
    after = sent[trusting + 1 :]
    finding = [each for each in after if "oldest" in each[0] or each[0].startswith("WITH locked")]
    assert len(finding) > 2
    [newest] = [each for each in after if "since" in each[1]]
    with host.app.app_context():
        connection = host.db.session.connection()
        plans.trust_indexes(current_state().scope())
        steps = connection.exec_driver_sql(f"EXPLAIN {newest[0]}", newest[1]).scalars().all()
        assert any("Scan Backward using ix_webhook_queue_state_due_at" in step for step in steps), steps
        for statement, parameters in finding:
            steps = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
            scans = [step for step in steps if " on webhook_queue" in step and "Update" not in step]
            indexes = "ix_webhook_queue_turn", "webhook_queue_pkey"
            assert all(any(name in step for name in indexes) for step in scans), steps


# PostgreSQL expected few held deliveries, and read all of them for each endpoint of a claim and each step of a sweep.
@pytest.mark.slow
@pytest.mark.only_on("postgresql")
def test_no_claim_or_sweep_reads_all_that_paused_endpoints_hold_since_the_last_analyze(host, acme):
    create_endpoint(acme)
    with host.app.app_context():
        # Enough for another level of one of the indexes, so that the wrong one seems cheaper.
        host.webhooks.publish_many([NewEvent("invoice.paid", 7, tenant_id="acme")] * 20_000)
        host.db.session.commit()
    execute(host, sa.text("ANALYZE webhook_queue"))
    execute(host, sa.update(QUEUE).values(state=QueueState.HELD))
    create_endpoint(acme)
    publish(host)

    with statements_of(host) as sent, host.app.app_context():
        claimed(host, most=2)
        current_state().run_apart(sweep.sweep)

    finding = [each for each in sent if "'HELD'" in each[0]]
    assert {each[0].split()[0] for each in finding} == {"SELECT", "WITH", "UPDATE"}
    with host.app.app_context():
        connection = host.db.session.connection()
        plans.trust_indexes(current_state().scope())
        for statement, parameters in finding:
            steps = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
            assert not [step for step in steps if "ix_webhook_queue_state_due_at" in step], steps


# Under an old snapshot, each look of an idle worker stepped over the dead rows of the last burst.
def test_a_look_in_vain_lets_the_next_one_begin_where_it_ended(host, acme):
    create_endpoint(acme)
    marks = swept()
    with host.app.app_context():
        scope = current_state().scope()
        assert not queue.is_any_due(scope, marks)
        # No look at the whole queue comes to its help.
        marks.wait("all ready", 60)
        later = replace(scope, now=scope.now + timedelta(minutes=1))
        assert not queue.is_any_due(later, marks)

        assert {marks.ready_from, marks.waiting_from, marks.ended_from} == {later.now - LATE}
        # What waits for a place is passed by for a moment, and is seen after it.
        much_later = replace(scope, now=later.now + timedelta(minutes=1))
        marks.claimed_in_vain(much_later.now)
        assert not queue.is_any_due(much_later, marks)
        assert marks.ready_from == later.now - LATE


def test_what_a_worker_has_in_flight_whose_clock_is_behind_counts(host, acme):
    create_endpoint(acme, event_types=["a"])
    create_endpoint(acme, event_types=["b"])
    publish(host, event_type="a")
    publish(host, *range(20), event_type="b")
    marks, limits = Marks(knows_all=True), {"cap": 10, "max_timeout_seconds": 30}
    with host.app.app_context():
        scope = current_state().scope()
        ahead = replace(scope, now=scope.now + timedelta(seconds=1))
        assert len(leases.claim(ahead, new_id(), most=1, marks=marks, **limits).deliveries) == 1
        leases.claim(ahead, new_id(), most=0, marks=marks, **limits)
        assert len(leases.claim(scope, new_id(), most=100, **limits).deliveries) == 10
        # No look at all leases comes to its help.
        marks.wait("all leases", 60)

        assert leases.claim(ahead, new_id(), most=100, marks=marks, **limits).deliveries == []


@pytest.mark.several_connections
@pytest.mark.only_on("postgresql", "mariadb")
def test_one_worker_claims_at_a_time_and_one_that_hangs_holds_nobody_back_for_ever(host, acme):
    create_endpoint(acme)
    publish(host, *range(5))
    state = state_of(host.app)
    with host.app.app_context():
        state.run_apart(lambda scope: Heartbeat(new_id(), "worker").beat(scope))
    held, over = threading.Event(), threading.Event()

    def hang(scope: Scope) -> None:
        claim(scope, most=1)
        held.set()
        over.wait(60)

    def claim_and_hang() -> None:
        with host.app.app_context():
            state.run_apart(hang)

    with ThreadPoolExecutor(1) as executor:
        hanging = executor.submit(claim_and_hang)
        assert held.wait(60)
        with host.app.app_context():
            beside = state.run_apart(claim)
            without = state.run_apart(partial(claim, alone=False))
        over.set()
        hanging.result()

    assert (list(beside.deliveries), beside.left) == ([], Left.CONTENDED)
    assert len(without.deliveries) == 4


# A worker with longer leases took the shorter ones of another for such as were over: a deploy that lowered
# MAX_TIMEOUT_SECONDS had 18 in flight at a cap of 10.
def test_workers_with_different_timeouts_count_what_each_other_has_in_flight(host, acme):
    create_endpoint(acme)
    marks = {300: swept(), 30: swept()}

    def claim_by(timeout):
        with host.app.app_context():
            limits = {"cap": 10, "max_timeout_seconds": timeout, "marks": marks[timeout]}
            claimed = current_state().run_apart(lambda scope: leases.claim(scope, new_id(), most=100, **limits))
        # No look at all leases meanwhile.
        marks[timeout].wait("all leases", 60)
        return len(claimed.deliveries)

    counts = []
    for number, timeout in ((2, 300), (1, 300), (20, 30), (0, 300)):
        for _ in range(number):
            publish(host)
        counts.append(claim_by(timeout))

    assert counts == [2, 1, 7, 0]
