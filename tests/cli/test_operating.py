"""`flask webhooks status`, `redeliver` and `forget-tenant`, and the heartbeat of the engines."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import attempts, heartbeats, redelivery
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.state import State, current_state, set_clock
from flask_webhook_endpoints.testing import Receiver, drain
from tests.support import hosts
from tests.support.api import create_endpoint, post_endpoint
from tests.support.commands import run_command, run_json
from tests.support.database import (
    DELIVERY,
    ENDPOINT,
    INCIDENT,
    MINUTE,
    QUEUE,
    RECENT_COUNT,
    TABLES,
    UNDELIVERED,
    WHOLE,
    WORKER,
    execute,
    on_sqlite,
    plan,
    rows,
    statements_of,
)
from tests.support.deliveries import finish, lease, publish, set_due, statuses
from tests.support.roll_ups import add_up
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.support.workers import deliver, kill, start

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600])


def pause(host: hosts.Host, ep_id: str, status: str = "PAUSED") -> None:
    assert host.client().patch(f"/v1/endpoints/{ep_id}", json={"status": status}).status_code == 200


def test_status_counts_what_waits_and_says_where(host, webhook_receiver):
    good, paused = create_endpoint(host.client()).id, create_endpoint(host.client()).id
    pause(host, paused)
    publish(host, *range(3))
    failing = create_endpoint(host.client("globex"), webhook_receiver.url).id
    webhook_receiver.answer(503)
    publish(host, *range(2), tenant_id="globex")
    past, of_good = datetime.now(UTC) - timedelta(seconds=90), QUEUE.c.endpoint_id == UUID(good[3:])
    set_due(host, past, of_good)
    # What is no business of this test's worker waits for later.
    execute(host, sa.update(ENDPOINT).where(ENDPOINT.c.id == UUID(good[3:])).values(paused_at=datetime.now(UTC)))
    assert drain(host.app) == 2
    execute(host, sa.update(ENDPOINT).where(ENDPOINT.c.id == UUID(good[3:])).values(paused_at=None))
    (first,) = rows(host, sa.select(QUEUE.c.delivery_id).where(of_good).limit(1))[0]
    lease(host, past, QUEUE.c.delivery_id == first)

    shown = run_json(host, "status")

    counted = {name: shown[name] for name in ("due", "later", "held", "in_flight", "expired_leases")}
    assert counted == {"due": 2, "later": 2, "held": 3, "in_flight": 1, "expired_leases": 1}
    assert 90 <= shown["oldest_due_seconds"] < 150
    assert shown["workers"] == []
    assert [endpoint["id"] for endpoint in shown["endpoints"]] == [good, paused, failing]
    assert [endpoint["due"] for endpoint in shown["endpoints"]] == [2, 0, 0]
    assert [endpoint["pause_reason"] for endpoint in shown["endpoints"]] == [None, "user", None]
    assert [endpoint["last_error"] for endpoint in shown["endpoints"]] == [None, None, "answered 503"]
    text = run_command(host, "status")
    assert text.exit_code == 0
    assert re.search(r"^Due +2$", text.output, re.MULTILINE)
    assert good in text.output


# No worker is late with it, and operators are told to alert on what is due for a minute.
def test_status_counts_what_an_endpoint_holds_while_it_rests_as_later(host, webhook_receiver, webhook_clock):
    create_endpoint(host.client(), webhook_receiver.url)
    webhook_receiver.answer(503)
    publish(host)
    assert drain(host.app) == 1
    publish(host, *range(3))
    assert drain(host.app) == 0
    webhook_clock.move(minutes=5)

    shown = run_json(host, "status")
    assert (shown["due"], shown["later"], shown["oldest_due_seconds"]) == (0, 4, None)
    webhook_clock.move(hours=2)

    # The one that tries the endpoint out, and the retry.
    assert run_json(host, "status")["due"] == 2


# Only endpoints with something waiting were listed, and operators are told to alert on those that fail.
def test_status_lists_an_endpoint_that_fails_though_nothing_waits_or_more_waits_for_others(
    host, webhook_receiver, webhook_clock
):
    failing = create_endpoint(host.client(), webhook_receiver.url).id
    webhook_receiver.answer(500)
    publish(host)
    assert drain(host.app) == 1
    webhook_clock.move(hours=2)
    assert drain(host.app) == 1

    (alone,) = run_json(host, "status")["endpoints"]
    others = [create_endpoint(host.client("globex")).id for _ in range(12)]
    publish(host, *range(2), tenant_id="globex")
    publish(host)
    shown = run_json(host, "status")["endpoints"]

    assert (alone["id"], alone["due"], alone["later"], alone["held"]) == (failing, 0, 0, 0)
    assert alone["failing_since"] == shown[-1]["failing_since"] is not None
    assert [endpoint["id"] for endpoint in shown] == [*others[:10], failing]
    assert [endpoint["due"] for endpoint in shown] == [2] * 10 + [1]
    assert failing in run_command(host, "status").output


def test_status_lists_an_endpoint_once_and_ten_that_fail_for_the_longest(host):
    failing = [create_endpoint(host.client()).id for _ in range(12)]
    publish(host)
    for hours, ep_id in enumerate(failing):
        since = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(hours=hours)
        times = {"began_at": since, "failing_since": since, "last_failed_at": since}
        numbers = {"balance": 10, "exhausted_in_a_row": 1}
        execute(host, sa.insert(INCIDENT).values(endpoint_id=UUID(ep_id[3:]), tenant_id="acme", **times, **numbers))

    shown = [endpoint["id"] for endpoint in run_json(host, "status")["endpoints"]]
    assert shown == failing
    execute(host, sa.delete(QUEUE))

    assert [endpoint["id"] for endpoint in run_json(host, "status")["endpoints"]] == failing[2:]


def test_status_of_nothing_is_zeros(host):
    shown = run_json(host, "status")

    assert [shown[name] for name in ("due", "later", "held", "in_flight", "expired_leases")] == [0] * 5
    assert (shown["oldest_due_seconds"], shown["endpoints"], shown["workers"]) == (None, [], [])
    assert "Endpoints with" not in run_command(host, "status").output


@pytest.mark.several_connections
def test_status_reads_nothing_that_is_finished(host):
    create_endpoint(host.client())
    publish(host)
    (one,) = rows(host, sa.select(DELIVERY))
    finished = {**one._mapping, "status": "DELIVERED", "finished_at": datetime.now(UTC)}
    with host.app.app_context():
        session = host.db.session
        session.execute(sa.insert(DELIVERY), [{**finished, "id": new_id()} for _ in range(5000)])
        session.commit()
        backend = session.get_bind().dialect.name
        session.execute(sa.text(f"ANALYZE {'TABLE' if backend == 'mysql' else ''} webhook_delivery")).close()
        session.commit()

    with statements_of(host) as statements:
        assert run_json(host, "status")["due"] == 1

    # What is past its retention is looked for in the log; all else is in the queue.
    of_log = [each for each in statements if "webhook_delivery" in each[0]]
    steps = [step for each in of_log for step in plan(host, *each).splitlines() if "webhook_delivery" in step]
    assert steps
    assert not [step for step in steps if re.search(WHOLE[backend], step)], of_log


@pytest.mark.several_connections
def test_a_worker_is_seen_while_it_works_and_not_once_it_has_stopped(host, database):
    process = start(deliver, database, {})
    try:
        wait_until(lambda: rows(host, sa.select(WORKER)))
        (worker,) = run_json(host, "status")["workers"]
        process.terminate()
        process.join(PATIENCE_SECONDS)
    finally:
        process.kill()

    assert (worker["engine"], worker["pid"]) == ("worker", process.pid)
    assert worker["seen_seconds_ago"] < 30
    assert process.exitcode == 0
    assert rows(host, sa.select(WORKER)) == []


@pytest.mark.several_connections
def test_a_worker_that_was_killed_is_forgotten_a_day_later(host, database):
    process = start(deliver, database, {})
    wait_until(lambda: rows(host, sa.select(WORKER)))
    kill(process)
    assert len(run_json(host, "status")["workers"]) == 1

    drain(host.app)
    assert len(rows(host, sa.select(WORKER))) == 1
    execute(host, sa.update(WORKER).values(seen_at=datetime.now(UTC) - timedelta(hours=25)))
    drain(host.app)

    assert rows(host, sa.select(WORKER)) == []


def test_a_heartbeat_writes_every_ten_seconds_and_survives_a_rollback(host):
    now = datetime.now(UTC)
    with host.app.app_context():
        session, scope = host.db.session, current_state().scope()
        beating = heartbeats.Heartbeat(new_id(), "celery")
        beating.beat(replace(scope, now=now))
        session.rollback()
        beating.beat(replace(scope, now=now + timedelta(seconds=9)))
        assert session.execute(sa.select(WORKER)).all() == []

        for seconds in (10, 15, 20):
            beating.beat(replace(scope, now=now + timedelta(seconds=seconds)))
            session.commit()

        (seen,) = session.execute(sa.select(WORKER.c.engine, WORKER.c.started_at, WORKER.c.seen_at)).all()
    assert seen == ("celery", now, now + timedelta(seconds=20))


def test_redeliver_sends_again_what_has_failed_in_batches_and_nothing_else(host, webhook_receiver, monkeypatch):
    monkeypatch.setattr(transactions, "BATCH", 3)
    ep_id = create_endpoint(host.client(), webhook_receiver.url).id
    publish(host, *range(2))
    finish(host, DeliveryStatus.DELIVERED)
    publish(host, *range(8))
    finish(host)
    publish(host, *range(2))
    finish(host, DeliveryStatus.EXPIRED)

    assert run_json(host, "redeliver", "--endpoint", ep_id, "--dry-run") == {
        "selected": 8,
        "redelivered": 0,
        "paused": [],
    }
    assert statuses(host) == {"DELIVERED": 2, "EXPIRED": 2, "FAILED": 8}
    refused = run_command(host, "redeliver", "--endpoint", ep_id, typed="n\n")
    assert (refused.exit_code, "Send 8 deliveries again?" in refused.output) == (1, True)
    sent = run_command(host, "redeliver", "--endpoint", ep_id, "--yes")

    assert (sent.exit_code, sent.output) == (0, "Sent again: 8\n")
    assert drain(host.app) == 8
    assert len(webhook_receiver.received) == 8
    both = ("--status", "FAILED", "--status", "EXPIRED", "--yes")
    assert run_json(host, "redeliver", "--tenant", "acme", *both)["redelivered"] == 2
    assert drain(host.app) == 2
    assert statuses(host) == {"DELIVERED": 12}


@pytest.mark.parametrize("by", ["endpoint", "id"])
def test_what_is_sent_again_has_the_whole_schedule_and_is_not_pruned_while_it_waits(
    host, webhook_receiver, webhook_clock, by
):
    ep_id = create_endpoint(host.client(), webhook_receiver.url).id
    webhook_receiver.answer(500)
    publish(host)
    finish(host)
    (delivery_id,) = rows(host, sa.select(DELIVERY.c.id))[0]
    which = ("--endpoint", ep_id, "--yes") if by == "endpoint" else (f"dlv_{delivery_id}",)

    assert run_json(host, "redeliver", *which)["redelivered"] == 1
    assert drain(host.app) == 1
    assert statuses(host) == {"PENDING": 1}
    webhook_clock.move(days=31)
    assert run_json(host, "prune")["deliveries_deleted"] == 0
    assert drain(host.app) == 1

    assert statuses(host) == {"FAILED": 1}
    assert rows(host, sa.select(DELIVERY.c.attempts)) == [(4,)]


def test_an_endpoint_that_is_paused_meanwhile_gets_nothing_again(host):
    ep_id = create_endpoint(host.client()).id
    publish(host)
    finish(host)
    pause(host, ep_id)
    selection = redelivery.Selection(statuses=[DeliveryStatus.FAILED])
    with host.app.app_context():
        batch = current_state().run_apart(
            lambda scope: redelivery.redeliver_batch(scope.of("acme"), UUID(ep_id[3:]), selection, after=None)
        )

    assert (batch.read, batch.redelivered) == (1, 0)
    assert statuses(host) == {"FAILED": 1}


def test_redeliver_takes_what_was_published_in_a_time(host):
    ep_id = create_endpoint(host.client()).id
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for hours in range(3):
        set_clock(host.app, lambda hours=hours: noon + timedelta(hours=hours))
        publish(host)
    finish(host)
    select = ("redeliver", "--endpoint", ep_id, "--dry-run")

    def selected(*options: str) -> int:
        return int(run_json(host, *select, *options)["selected"])

    assert selected("--since", "2026-01-01T13:00") == 2
    assert selected("--since", "2026-01-01T14:00:00+01:00", "--until", "2026-01-01T14:00:00Z") == 1
    assert selected("--until", "2026-01-01") == 0
    wrong = run_command(host, *select, "--since", "yesterday")
    assert (wrong.exit_code, "Not a time: 'yesterday'. Write 2026-01-31T12:00." in wrong.output) == (2, True)


def test_redeliver_sends_single_deliveries_again_and_says_which_it_can_not(host, webhook_receiver):
    ep_id = create_endpoint(host.client(), webhook_receiver.url).id
    publish(host, *range(2))
    assert drain(host.app) == 2
    ids = [f"dlv_{row[0]}" for row in rows(host, sa.select(DELIVERY.c.id))]
    unknown = f"dlv_{new_id()}"

    refused = run_command(host, "redeliver", *ids, unknown, "nonsense")

    assert refused.exit_code == 1
    assert refused.stdout == "Sent again: 2\n"
    assert refused.stderr == f"{unknown}: No such delivery.\nnonsense: No such delivery.\n"
    assert drain(host.app) == 2
    pause(host, ep_id)
    held = run_command(host, "redeliver", ids[0])
    assert (held.exit_code, held.stderr) == (1, f"{ids[0]}: The endpoint is paused; resume it first.\n")


def test_redeliver_refuses_paused_endpoints_and_sends_to_the_others(host):
    paused, active = create_endpoint(host.client()).id, create_endpoint(host.client()).id
    publish(host)
    finish(host)
    pause(host, paused)

    result = run_command(host, "redeliver", "--tenant", "acme", "--yes")

    assert (result.exit_code, result.stdout) == (1, "Sent again: 1\n")
    assert result.stderr == f"{paused} is paused; resume it first.\n"
    assert statuses(host) == {"FAILED": 1, "PENDING": 1}
    assert run_json(host, "redeliver", "--endpoint", paused, exit_code=1)["paused"] == [paused]
    assert run_json(host, "redeliver", "--endpoint", active)["selected"] == 0


@on_sqlite
@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        ((), 2, "Name deliveries, or --endpoint, or --tenant."),
        (("dlv_1", "--tenant", "acme"), 2, "Name deliveries, or --endpoint, or --tenant."),
        (("--endpoint", "nonsense"), 1, "Error: Not an endpoint id: 'nonsense'. Ids look like ep_0190…."),
        (("--endpoint", f"ep_{UUID(int=7)}"), 1, f"Error: No such endpoint: ep_{UUID(int=7)}"),
        (("--tenant", "nobody"), 1, "Error: There are no endpoints of a tenant 'nobody'."),
    ],
)
def test_redeliver_says_what_is_wrong_with_what_it_is_given(host, args, exit_code, message):
    result = run_command(host, "redeliver", *args)

    assert (result.exit_code, message in result.output) == (exit_code, True)


def leave_traces(host: hosts.Host, receiver: Receiver, tenant_id: str) -> None:
    """Leave rows of a tenant in every table: two endpoints, one deleted; delivered, put off in a rest, and held."""
    path = "/v1/endpoints"
    client = host.client(tenant_id)
    for key in ("one", "two"):
        body = {"name": key, "url": receiver.url, "headers_json": {"X-Of": tenant_id}}
        assert client.post(path, json=body, headers={"Idempotency-Key": key}).status_code == 201
    publish(host, *range(3), tenant_id=tenant_id)
    assert drain(host.app) == 6
    deleted, kept = (f"{path}/{endpoint['id']}" for endpoint in client.get(path).json)
    assert client.delete(deleted).status_code == 204
    one = client.get(f"{kept}/deliveries").json[0]["id"]
    assert client.post(f"{kept}/deliveries/{one}/redeliver").status_code == 202
    assert drain(host.app) == 1
    # As one that has failed.
    failed = sa.select(DELIVERY.c.id, DELIVERY.c.tenant_id, DELIVERY.c.endpoint_id, sa.literal("FAILED"))
    failed = failed.where(DELIVERY.c.id == UUID(one.removeprefix("dlv_")))
    execute(host, sa.insert(UNDELIVERED).from_select([column.name for column in UNDELIVERED.c], failed))
    receiver.answer(503)
    publish(host, tenant_id=tenant_id)
    assert drain(host.app) == 1
    receiver.answer(200)
    assert client.patch(kept, json={"status": "PAUSED"}).status_code == 200
    publish(host, *range(2), tenant_id=tenant_id)
    # A claim takes them out of its way.
    assert drain(host.app) == 0


def traces(host: hosts.Host) -> dict[str, list[Any]]:
    """Return all that is stored, of whichever tenant."""
    of_workers = (WORKER, MINUTE)
    return {
        name: sorted(map(repr, rows(host, sa.select(table))))
        for name, table in TABLES.items()
        if table not in of_workers
    }


@pytest.mark.parametrize("by", ["command", "method"])
def test_a_forgotten_tenant_leaves_no_row_and_others_keep_theirs(host, webhook_receiver, by, monkeypatch):
    monkeypatch.setattr(transactions, "BATCH", 2)
    leave_traces(host, webhook_receiver, "globex")
    add_up(host)
    before = traces(host)
    leave_traces(host, webhook_receiver, "acme")
    add_up(host)
    # tests/core/test_recent_counts.py has counts that are not added up.
    assert [name for name, now in traces(host).items() if len(now) == len(before[name])] == [RECENT_COUNT.name]

    if by == "command":
        result = run_command(host, "forget-tenant", "acme", "--yes")
        assert (result.exit_code, result.output) == (0, "Deleted: 1 endpoints, 6 events, 9 deliveries\n")
    else:
        with host.app.app_context():
            assert host.webhooks.forget_tenant("acme") == (1, 6, 9)
            host.db.session.rollback()
            assert host.webhooks.forget_tenant("acme") == (1, 6, 9)
            host.db.session.commit()

    assert traces(host) == before
    publish(host, tenant_id="acme")
    assert traces(host) == before


def test_forgetting_asks_and_repeats_and_says_when_there_was_nothing(host):
    create_endpoint(host.client())
    publish(host, *range(2))

    asked = run_command(host, "forget-tenant", "acme", typed="n\n")
    assert asked.exit_code == 1
    assert statuses(host).total() == 2
    assert run_json(host, "forget-tenant", "acme", "--yes") == {"endpoints": 1, "events": 2, "deliveries": 2}
    again = run_command(host, "forget-tenant", "acme", "--yes")

    assert (again.exit_code, again.stderr) == (0, "Nothing was stored of a tenant 'acme'.\n")


def test_forgetting_goes_on_where_it_was_interrupted(host, monkeypatch):
    monkeypatch.setattr(transactions, "BATCH", 2)
    create_endpoint(host.client())
    publish(host, *range(7))
    run_apart, calls = State.run_apart, iter(range(10))

    def run_until_interrupted(state: State, operation: Callable[..., Any]) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return run_apart(state, operation)

    monkeypatch.setattr(State, "run_apart", run_until_interrupted)
    assert run_command(host, "forget-tenant", "acme", "--yes").exit_code == 1
    left = statuses(host).total()
    monkeypatch.setattr(State, "run_apart", run_apart)

    assert 0 < left < 7
    assert run_json(host, "forget-tenant", "acme", "--yes")["deliveries"] == left
    assert statuses(host) == {}


@pytest.mark.several_connections
def test_what_is_in_flight_when_its_tenant_is_forgotten_leaves_nothing_behind(host, webhook_receiver, monkeypatch):
    create_endpoint(host.client(), webhook_receiver.url)
    publish(host, *range(2))
    record = attempts.record
    erased: list[Any] = []

    def erase_and_record(*args: Any, **options: Any) -> Any:
        if not erased:
            with host.app.app_context():
                # Another connection than that of the worker, which has not written yet.
                erased.append(host.webhooks.forget_tenant("acme"))
                host.db.session.commit()
        return record(*args, **options)

    monkeypatch.setattr(attempts, "record", erase_and_record)

    assert drain(host.app) == 2
    assert erased == [(1, 2, 2)]
    assert not any(traces(host).values())


def test_a_dry_run_counts_what_prune_and_forget_tenant_would_delete_and_deletes_nothing(
    host, webhook_receiver, webhook_clock
):
    ep_id = create_endpoint(host.client(), webhook_receiver.url).id
    host.client().post(f"/v1/endpoints/{ep_id}/secret/rotate")
    post_endpoint(host.client("globex"), key="once")
    publish(host, *range(3))
    assert drain(host.app) == 3
    add_up(host)
    pause(host, ep_id)
    publish(host, *range(2))
    before = {table.name: len(rows(host, sa.select(table))) for table in TABLES.values()}

    counted = run_json(host, "forget-tenant", "acme", "--dry-run")
    assert counted == {"endpoints": 1, "events": 5, "deliveries": 5}
    assert "To delete: 1 endpoints" in run_command(host, "forget-tenant", "acme", "--dry-run").output
    webhook_clock.move(days=40)
    dry = run_json(host, "prune", "--dry-run")
    assert "Held deliveries expired: 2\n" in run_command(host, "prune", "--dry-run").output
    assert {table.name: len(rows(host, sa.select(table))) for table in TABLES.values()} == before

    assert run_json(host, "prune") == dry
    assert dry["deliveries_deleted"] == 3
    assert dry["secrets_deleted"] == 1
    assert dry["statistics_deleted"] > 0
    assert run_json(host, "forget-tenant", "acme", "--yes") == {"endpoints": 1, "events": 2, "deliveries": 2}
