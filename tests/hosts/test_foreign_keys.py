"""Tables of a host that refer to ours by foreign keys without `ON DELETE`."""

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.database import transactions
from tests.support import hosts
from tests.support.api import create_endpoint, post_endpoint
from tests.support.commands import run_command, run_json
from tests.support.database import ATTEMPT, DELIVERY, ENDPOINT, EVENT, SECRET, count, engine_of, execute, rows
from tests.support.deliveries import publish

pytestmark = [pytest.mark.host(allowed_networks=hosts.LOOPBACK, retry_schedule=[0]), pytest.mark.several_connections]


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Referring:
    """A table of the host with a reference to each table of ours."""

    def __init__(self, host: hosts.Host, *, deferred: bool = False) -> None:
        self.host = host
        engine = engine_of(host)
        if engine.dialect.name == "sqlite":
            # As a host does that wants its foreign keys checked.
            sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
            engine.dispose()
        options = {"deferrable": True, "initially": "DEFERRED"} if deferred else {}

        def refer(name: str, table: sa.Table) -> sa.Column[Any]:
            key = f"{table.name}.{table.primary_key.columns[0].name}"
            return sa.Column(name, table.primary_key.columns[0].type, sa.ForeignKey(key, **options))

        ours = {"endpoint": ENDPOINT, "secret": SECRET, "event": EVENT, "delivery": DELIVERY}
        self.table = sa.Table(
            "host_note",
            host.db.metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            *(refer(name, table) for name, table in ours.items()),
            sa.Column("attempted", DELIVERY.c.id.type),
            sa.Column("number", sa.Integer),
            sa.ForeignKeyConstraint(
                ["attempted", "number"], ["webhook_attempt.delivery_id", "webhook_attempt.number"], **options
            ),
        )
        with host.app.app_context():
            self.table.create(engine)

    def refer(self, **ids: Any) -> None:
        execute(self.host, sa.insert(self.table).values(**ids))

    def forget(self) -> None:
        execute(self.host, sa.delete(self.table))


@pytest.fixture
def referring(host):
    return Referring(host)


@pytest.fixture
def batches(request, monkeypatch):
    monkeypatch.setattr(transactions, "BATCH", request.param)


@pytest.fixture
def finished(host, acme, webhook_receiver, drain_webhooks, webhook_clock):
    """Have ten deliveries fail, a second apart, and have their time pass; return their ids, oldest first."""
    webhook_receiver.answer(500)
    create_endpoint(acme, webhook_receiver.url)
    publish(host, *range(10))
    drain_webhooks()
    ids = [row.id for row in rows(host, sa.select(DELIVERY.c.id).order_by(DELIVERY.c.id))]
    for number, delivery_id in enumerate(ids):
        finished_at = webhook_clock() + timedelta(seconds=number)
        execute(host, sa.update(DELIVERY).where(DELIVERY.c.id == delivery_id).values(finished_at=finished_at))
    webhook_clock.move(days=31)
    return ids


SOME, ALL = [0, 1, 2, 3, 9], list(range(10))


@pytest.mark.parametrize(
    ("batches", "referred"), [(1, SOME), (1, ALL), (2, SOME), (500, [0]), (500, ALL)], indirect=["batches"]
)
def test_retention_goes_on_with_the_rows_that_nothing_refers_to(host, finished, batches, caplog, referred):
    referring = Referring(host)
    for place in referred:
        referring.refer(delivery=finished[place])

    with caplog.at_level(logging.WARNING):
        pruned = run_json(host, "prune")

    names = [f"dlv_{finished[place]}" for place in referred]
    assert (pruned["deliveries_deleted"], pruned["referenced"]) == (10 - len(referred), names)
    # What belongs to a delivery that stays, stays.
    assert [count(host, table) for table in (DELIVERY, ATTEMPT, EVENT)] == [len(referred)] * 3
    logged = [record for record in caplog.records if record.msg == "webhooks.referenced"]
    assert [name for record in logged for name in record.__dict__["webhooks.ids"]] == names
    assert sum(record.__dict__["webhooks.count"] for record in logged) == len(names)

    referring.forget()
    assert run_json(host, "prune")["deliveries_deleted"] == len(referred)
    assert [count(host, table) for table in (DELIVERY, ATTEMPT, EVENT)] == [0, 0, 0]


def test_attempts_events_and_secrets_that_are_referred_to_stay_as_well(host, acme, referring, finished):
    event_id = rows(host, sa.select(DELIVERY.c.event_id).where(DELIVERY.c.id == finished[4]))[0].event_id
    path = acme.get("/v1/endpoints").json[0]["id"]
    for _ in range(2):
        acme.post(f"/v1/endpoints/{path}/secret/rotate", json={"overlap_seconds": 60})
    execute(host, sa.update(SECRET).where(SECRET.c.expires_at.is_not(None)).values(expires_at=LONG_AGO))
    secret_id, *_ = [row.id for row in rows(host, sa.select(SECRET.c.id).where(SECRET.c.expires_at.is_not(None)))]
    referring.refer(attempted=finished[0], number=1)
    referring.refer(event=event_id)
    referring.refer(secret=secret_id)

    shown = run_command(host, "prune")

    assert shown.exit_code == 0
    left = re.findall(r"^Left, because a table of yours refers to it: (\S+)$", shown.stderr, flags=re.MULTILINE)
    assert left == [f"dlv_{finished[0]}", f"evt_{event_id}", f"secret_{secret_id}"]
    assert [count(host, table) for table in (DELIVERY, ATTEMPT, EVENT)] == [1, 1, 2]


@pytest.mark.only_on("sqlite", "postgresql")
def test_a_reference_that_is_checked_at_the_commit_stops_nothing(host, finished, caplog):
    referring = Referring(host, deferred=True)
    event_id = rows(host, sa.select(DELIVERY.c.event_id).where(DELIVERY.c.id == finished[4]))[0].event_id
    referring.refer(delivery=finished[0], event=event_id)

    pruned = run_json(host, "prune")

    assert (pruned["deliveries_deleted"], pruned["events_deleted"]) == (9, 8)
    assert pruned["referenced"] == [f"dlv_{finished[0]}", f"evt_{event_id}"]
    assert (count(host, DELIVERY), count(host, EVENT)) == (1, 2)
    assert {record.msg for record in caplog.records} == {"webhooks.referenced"}


@pytest.mark.parametrize("deferred", [False, pytest.param(True, marks=pytest.mark.only_on("sqlite", "postgresql"))])
def test_an_endpoint_that_is_referred_to_is_409_when_deleted(host, acme, deferred, caplog):
    referring = Referring(host, deferred=deferred)
    other = post_endpoint(acme).json
    endpoint = post_endpoint(acme).json
    path = f"/v1/endpoints/{endpoint['id']}"
    referring.refer(endpoint=newest(host))
    publish(host, 1)

    refused = acme.delete(path)

    assert (refused.status_code, refused.json["code"]) == (409, "referenced")
    assert refused.mimetype == "application/problem+json"
    assert "host_note" not in refused.text
    assert [record.levelname for record in caplog.records if record.msg == "webhooks.referenced"] == ["WARNING"]
    # Nothing is done: the secret is there, and its delivery waits.
    assert acme.get(path).json == endpoint
    assert acme.get(f"{path}/secret").status_code == 200
    assert [row["status"] for row in acme.get(f"{path}/deliveries").json] == ["PENDING"]
    assert acme.delete(f"/v1/endpoints/{other['id']}").status_code == 204
    referring.forget()
    assert acme.delete(path).status_code == 204


def newest(host: hosts.Host) -> Any:
    return rows(host, sa.select(ENDPOINT.c.id).order_by(ENDPOINT.c.id.desc()))[0].id


def test_409_for_a_reference_is_documented(acme):
    operation = acme.get("/v1/openapi.json").json["paths"]["/v1/endpoints/{ep_id}"]["delete"]

    assert "409" in operation["responses"]


@pytest.mark.parametrize("deferred", [False, pytest.param(True, marks=pytest.mark.only_on("sqlite", "postgresql"))])
def test_forget_tenant_says_why_it_can_not(host, acme, deferred):
    referring = Referring(host, deferred=deferred)
    post_endpoint(acme)
    referring.refer(endpoint=newest(host))

    refused = run_command(host, "forget-tenant", "acme", "--yes")

    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    assert "referred to" in refused.output
    assert count(host, ENDPOINT) == 1
    assert count(host, SECRET) == 1
    referring.forget()
    assert run_command(host, "forget-tenant", "acme", "--yes").exit_code == 0
    assert count(host, ENDPOINT) == 0


def test_the_recipe_for_referring_to_us_stops_nothing(host, acme, finished):
    # As docs/migrations.md has it: without a foreign key, or with ON DELETE.
    engine = engine_of(host)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
        engine.dispose()
    note = sa.Table(
        "host_note",
        host.db.metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("endpoint", ENDPOINT.c.id.type, sa.ForeignKey("webhook_endpoint.id", ondelete="SET NULL")),
        sa.Column("delivery", DELIVERY.c.id.type, sa.ForeignKey("webhook_delivery.id", ondelete="SET NULL")),
    )
    with host.app.app_context():
        note.create(engine)
    execute(host, sa.insert(note).values(endpoint=newest(host), delivery=finished[0]))

    assert run_json(host, "prune")["deliveries_deleted"] == 10
    assert acme.delete(f"/v1/endpoints/{acme.get('/v1/endpoints').json[0]['id']}").status_code == 204
    assert [tuple(row) for row in rows(host, sa.select(note.c.endpoint, note.c.delivery))] == [(None, None)]
