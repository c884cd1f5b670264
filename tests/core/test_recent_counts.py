"""Recent counts: each result counts once, before a worker adds it up, meanwhile, and afterwards."""

import json
import threading
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import attempts, recent_counts
from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.state import state_of
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.commands import run_json
from tests.support.database import HOUR, MINUTE, RECENT_COUNT, count, execute, rows
from tests.support.deliveries import claim, publish
from tests.support.roll_ups import add_up, by_error, counted, hours
from tests.support.settlements import settle

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 60])

ODD = ["acme", "Acme", "ácme", "a\"c\\m'e", "日本", "😀", "a:b%s{}"]
"""Tenants that a text could mix up."""


def claim_for(host: hosts.Host, owner: UUID, *tenants: str) -> Sequence[Claimed]:
    """Publish an event for each tenant, and claim the deliveries."""
    for tenant in tenants:
        client = host.client(tenant)
        if not client.get("/v1/endpoints").json:
            create_endpoint(client)
        publish(host, tenant_id=tenant)
    with host.app.app_context():
        claimed = state_of(host.app).run_apart(lambda scope: claim(scope, owner)).deliveries
    assert len(claimed) == len(tenants)
    return claimed


def record(host: hosts.Host, owner: UUID, settlements: Sequence[Settlement]) -> None:
    with host.app.app_context():
        state_of(host.app).run_apart(partial(attempts.record, owner=owner, settlements=settlements))


def record_for(host: hosts.Host, *tenants: str) -> None:
    """Record a result for each tenant, all in one record."""
    owner = new_id()
    record(host, owner, [settle(each) for each in claim_for(host, owner, *tenants)])


def tenants_of(host: hosts.Host) -> set[str]:
    return {hour.tenant_id for hour in hours(host)}


def test_counts_become_one_row_and_then_go_to_the_roll_ups(host):
    for _ in range(3):
        record_for(host, "acme", "globex")
    before = counted(host), by_error(host)
    assert (before[0]["attempts"], count(host, RECENT_COUNT), count(host, HOUR)) == (6, 3, 0)

    assert add_up(host, kept_apart=timedelta(minutes=1)) == 3
    assert (count(host, RECENT_COUNT), count(host, HOUR), count(host, MINUTE)) == (1, 0, 0)
    assert (counted(host), by_error(host)) == before

    assert add_up(host) == 1
    assert (count(host, RECENT_COUNT), count(host, MINUTE)) == (0, 1)
    assert count(host, HOUR) == 2
    assert (counted(host), by_error(host)) == before
    assert add_up(host) == 0


def test_a_large_row_is_written_again_only_where_small_ones_have_become_as_large(host, monkeypatch):
    monkeypatch.setattr(recent_counts, "_SMALL", 0)
    record_for(host, *ODD)
    for _ in range(2):
        record_for(host, "acme")
    assert add_up(host, kept_apart=timedelta(minutes=1)) == 2
    assert (count(host, RECENT_COUNT), add_up(host, kept_apart=timedelta(minutes=1))) == (2, 0)
    record_for(host, *ODD)

    assert add_up(host, kept_apart=timedelta(minutes=1)) == 2
    assert (count(host, RECENT_COUNT), counted(host)["attempts"]) == (2, 2 * len(ODD) + 2)


def test_many_counts_go_to_the_roll_ups_at_once(host, monkeypatch):
    monkeypatch.setattr(recent_counts, "MOST_KEPT", 1)
    for _ in range(2):
        record_for(host, "acme", "globex")

    assert add_up(host, kept_apart=timedelta(minutes=1)) == 2
    assert (count(host, RECENT_COUNT), count(host, HOUR)) == (0, 2)


def test_counts_that_a_worker_of_an_older_version_wrote_are_added_up_with_newer_ones(host):
    record_for(host, "acme", "globex")
    older = [each for (text,) in rows(host, sa.select(RECENT_COUNT.c.hours)) for each in recent_counts._counts_of(text)]
    assert [len(each) for each in older] == [9, 9]
    execute(host, sa.update(RECENT_COUNT).values(hours=json.dumps(older)))
    before = counted(host)
    record_for(host, "acme", "globex")

    assert add_up(host) == 2
    assert counted(host) == {name: 2 * number for name, number in before.items()}


def test_tenants_with_any_characters_are_counted_apart(host):
    for _ in range(2):
        record_for(host, *ODD)
    assert tenants_of(host) == set(ODD)
    add_up(host, kept_apart=timedelta(minutes=1))
    assert tenants_of(host) == set(ODD)
    add_up(host)

    assert tenants_of(host) == set(ODD)
    assert counted(host)["attempts"] == 2 * len(ODD)


@pytest.fixture
def always(monkeypatch):
    """Let workers add up after each record."""
    monkeypatch.setattr(recent_counts, "RECORDS", 1)


@pytest.mark.usefixtures("always")
def test_a_worker_adds_up_as_it_goes(host, webhook_receiver, webhook_clock, drain_webhooks):
    create_endpoint(host.client("acme"), webhook_receiver.url)
    for _ in range(3):
        publish(host)
        assert drain_webhooks() == 1
    assert (count(host, RECENT_COUNT), count(host, HOUR)) == (1, 0)
    webhook_clock.move(minutes=1)
    publish(host)
    assert drain_webhooks() == 1

    assert (count(host, RECENT_COUNT), counted(host)["delivered"]) == (0, 4)


@pytest.mark.usefixtures("always")
def test_a_worker_goes_on_where_adding_up_fails(host, webhook_receiver, drain_webhooks, monkeypatch, caplog):
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(recent_counts, "add_up", fail)
    create_endpoint(host.client("acme"), webhook_receiver.url)
    publish(host, *range(2))

    assert drain_webhooks() == 2
    assert "webhooks.not_added_up" in caplog.text
    assert counted(host)["delivered"] == 2


def test_pruning_adds_up(host):
    record_for(host, "acme")

    assert run_json(host, "prune")["statistics_deleted"] == 0
    assert (count(host, RECENT_COUNT), counted(host)["attempts"]) == (0, 1)


@pytest.mark.parametrize("tenant", ODD[:4] + ODD[5:6], ids=ascii)
def test_a_forgotten_tenant_is_in_no_recent_count_and_others_are(host, tenant):
    others = {each for each in ODD if each != tenant}
    record_for(host, *ODD)
    record_for(host, *others)
    run_json(host, "forget-tenant", tenant, "--yes")

    assert tenants_of(host) == others
    assert counted(host)["attempts"] == 2 * len(others)
    # What operators count by the minute has no tenant.
    assert by_error(host) == {"": len(ODD) + len(others)}


def test_what_operators_count_stays_where_a_forgotten_tenant_had_all_results(host):
    record_for(host, "acme")
    run_json(host, "forget-tenant", "acme", "--yes")
    add_up(host)

    assert (count(host, HOUR), count(host, RECENT_COUNT), by_error(host)) == (0, 0, {"": 1})


@pytest.mark.several_connections
def test_forgetting_a_tenant_waits_for_a_worker_that_adds_its_counts_up(host):
    record_for(host, "acme", "globex")
    state = state_of(host.app)
    forgetting = threading.Thread(target=run_json, args=(host, "forget-tenant", "acme", "--yes"))

    def add_up_slowly(scope: Any) -> None:
        recent_counts.add_up(scope, new_id(), kept_apart=timedelta(0))
        forgetting.start()
        # It may not end meanwhile.
        forgetting.join(0.5)
        assert forgetting.is_alive()

    with host.app.app_context():
        state.run_apart(add_up_slowly)
    forgetting.join()

    assert tenants_of(host) == {"globex"}


@pytest.mark.only_on("postgresql", "mariadb")
def test_workers_record_while_a_host_has_not_committed_that_it_forgets_a_tenant(host):
    record_for(host, "acme", "globex")
    owner = new_id()
    results = [settle(each) for each in claim_for(host, owner, "initech")]
    with host.app.app_context():
        host.webhooks.forget_tenant("acme")
        recording = threading.Thread(target=record, args=(host, owner, results), daemon=True)
        recording.start()
        recording.join(10)
        is_waiting = recording.is_alive()
        host.db.session.commit()
    recording.join()

    assert not is_waiting
    assert tenants_of(host) == {"globex", "initech"}
