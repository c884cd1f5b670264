"""Each batch of pruning, and of forgetting a tenant, begins after the batch before.

Under a snapshot, deleted rows would be read again and again.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints import celery as tasks
from flask_webhook_endpoints.core import retention, tenants
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.state import current_state, state_of
from flask_webhook_endpoints.worker import pruning
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.commands import run_json
from tests.support.database import (
    DELIVERY,
    EVENT,
    HOUR,
    IDEMPOTENCY_KEY,
    MINUTE,
    QUEUE,
    SECRET,
    count,
    execute,
    statements_of,
)
from tests.support.deliveries import publish
from tests.support.hosts import Host

STEPS = retention.steps(retention_days=30, hold_max_days=30)
ROWS = 5
TIMES = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(ROWS)]


def hold(host: Host) -> None:
    endpoint = create_endpoint(host.client())
    publish(host, *range(ROWS))
    change_endpoint(host.client(), endpoint, status="PAUSED")


def finish(host: Host) -> None:
    create_endpoint(host.client())
    publish(host, *range(ROWS))
    execute(host, sa.delete(QUEUE))
    execute(host, sa.update(DELIVERY).values(status=DeliveryStatus.DELIVERED, finished_at=DELIVERY.c.created_at))


def leave_events(host: Host) -> None:
    finish(host)
    execute(host, sa.delete(DELIVERY))


def use_keys(host: Host) -> None:
    values = [{"tenant_id": "acme", "key": f"key {time}", "created_at": time} for time in TIMES]
    execute(host, sa.insert(IDEMPOTENCY_KEY), values)


def rotate(host: Host) -> None:
    endpoint = create_endpoint(host.client())
    of_endpoint = {"endpoint_id": endpoint.uuid, "secret_encrypted": "", "created_at": TIMES[0]}
    execute(host, sa.insert(SECRET), [{**of_endpoint, "id": new_id(), "expires_at": time} for time in TIMES])


def count_hours(host: Host) -> None:
    row = {"tenant_id": "acme", "endpoint_id": new_id(), "latency": 1, "attempts": 1, "failed_attempts": 0}
    row |= {"delivered": 1, "failed": 0}
    execute(host, sa.insert(HOUR), [{**row, "hour": time, "last_at": time} for time in TIMES])


def count_minutes(host: Host) -> None:
    row = {"worker_id": new_id(), "error": "", "attempts": 1}
    execute(host, sa.insert(MINUTE), [{**row, "minute": time} for time in TIMES])


OLD: list[tuple[str, Callable[[Host], None], sa.Column[Any]]] = [
    ("deliveries_expired", hold, QUEUE.c.delivery_id),
    ("deliveries_deleted", finish, DELIVERY.c.id),
    ("events_deleted", leave_events, EVENT.c.created_at),
    ("idempotency_keys_deleted", use_keys, IDEMPOTENCY_KEY.c.created_at),
    ("secrets_deleted", rotate, SECRET.c.expires_at),
    ("statistics_deleted", count_hours, HOUR.c.hour),
    ("statistics_deleted", count_minutes, MINUTE.c.minute),
]


# Keys and statistics were read from the first one for every batch.
@pytest.mark.parametrize("old", OLD, ids=[fill.__name__ for _, fill, _ in OLD])
def test_the_second_batch_does_not_come_back_to_the_first_row(host, webhook_clock, monkeypatch, old):
    name, fill, key = old
    fill(host)
    webhook_clock.move(days=40)
    monkeypatch.setattr(transactions, "BATCH", 2)
    [step] = [step for step in STEPS if step.name == name]
    with host.app.app_context():
        session, state = host.db.session, state_of(host.app)
        if session.connection().dialect.name == "sqlite":
            # Or Python commits with the first savepoint.
            session.connection().exec_driver_sql("BEGIN")
        first = step.prune(state.scope())
        # Rows that are there again stand for those that a snapshot keeps: a batch that reads them takes them.
        session.rollback()
        before = session.execute(sa.select(key).where(key.is_not(None)).order_by(key)).scalars().all()

        second = step.prune(state.scope(), after=first.last)

        after = session.execute(sa.select(key).where(key.is_not(None)).order_by(key)).scalars().all()
        session.rollback()
    assert (first.taken, second.taken, len(before)) == (2, 2, ROWS)
    assert after[0] == before[0]


# Each batch read the tenant's events from the first one, and the deliveries of these.
def test_forgetting_a_tenant_reads_no_row_that_a_batch_has_deleted(host, monkeypatch):
    monkeypatch.setattr(transactions, "BATCH", 2)
    for _ in range(3):
        create_endpoint(host.client())
    publish(host, *range(ROWS))

    with statements_of(host) as sent, host.app.app_context():
        scope = current_state().scope().of("acme")
        batches = [tenants.forget_events(scope)]
        while batches[-1]:
            batches.append(tenants.forget_events(scope, after=batches[-1].last))
        host.db.session.rollback()

    read = [each[0] for each in sent if each[0].startswith("SELECT")]
    # The events once, the deliveries of two at a time, and last a look for what came meanwhile.
    assert len([each for each in read if "webhook_event" in each]) == 2
    assert len([each for each in read if "webhook_delivery" in each]) == 3
    assert [each and each[:2] for each in batches] == [
        (0, 2),
        (0, 2),
        (2, 2),
        (0, 2),
        (0, 2),
        (2, 2),
        (0, 2),
        (1, 1),
        None,
    ]


def test_events_with_more_deliveries_than_are_read_at_once_lose_all(host, monkeypatch):
    monkeypatch.setattr(transactions, "BATCH", 2)
    monkeypatch.setattr(tenants, "READ_AT_ONCE", 4)
    for _ in range(5):
        create_endpoint(host.client())
    publish(host, *range(ROWS))

    assert run_json(host, "forget-tenant", "acme", "--yes") == {"endpoints": 5, "events": ROWS, "deliveries": 5 * ROWS}
    assert (count(host, EVENT), count(host, DELIVERY), count(host, QUEUE)) == (0, 0, 0)


def test_every_step_is_tried():
    assert {name for name, *_ in OLD} == {step.name for step in STEPS}


def by_worker(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "PRUNE_PAUSE_SECONDS", 0)

    class Database:
        async def transact(self, operation: Callable[[Any], Any]) -> Any:
            return state_of(host.app).run_apart(operation)

    with host.app.app_context():
        asyncio.run(pruning._prune(Database(), retention.steps(retention_days=30, hold_max_days=30)))  # type: ignore[arg-type]


def by_command(host: Host, _: pytest.MonkeyPatch) -> None:
    run_json(host, "prune")


def by_celery(host: Host, _: pytest.MonkeyPatch) -> None:
    with host.app.app_context():
        tasks.prune()


@pytest.mark.host(make=hosts.delivering)
@pytest.mark.parametrize("prune", [by_worker, by_command, by_celery])
def test_whoever_prunes_tells_each_batch_where_the_one_before_ended(host, monkeypatch, prune):
    begun: list[Any] = []

    def batch(_: object, *, after: Any = None) -> retention.Batch | None:
        begun.append(after)
        return retention.Batch(1, last=len(begun)) if len(begun) < ROWS else None

    fake = retention.Step("deliveries_deleted", "Deliveries deleted", batch, lambda _: ROWS)
    monkeypatch.setattr(retention, "steps", lambda **_: (fake,))

    prune(host, monkeypatch)

    assert begun == [None, 1, 2, 3, 4]


# It read them again and again in the snapshot of the host's transaction, and never ended.
@pytest.mark.only_on("mariadb")
def test_forgetting_a_tenant_ends_though_another_process_has_deleted_an_event_of_its_snapshot(host, acme):
    create_endpoint(acme)
    publish(host, 1, 2)
    with host.app.app_context():
        first = host.db.session.scalars(sa.select(EVENT.c.id)).first()
        with host.db.engine.begin() as other:
            other.execute(sa.delete(EVENT).where(EVENT.c.id == first))
        host.webhooks.forget_tenant("acme")
        host.db.session.commit()

    assert count(host, EVENT) == 0
