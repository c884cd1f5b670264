"""A tenant's list of deliveries to all its endpoints: complete, and as quick whatever share each endpoint has."""

import json
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import delivery_lists, newest
from flask_webhook_endpoints.core.delivery_lists import Filter
from flask_webhook_endpoints.database import delivery_ids
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.state import current_state
from tests.support.database import DELIVERY, ENDPOINT, EVENT, execute, statements_of

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
SHARES = {
    "equal": lambda number: number,
    "one has nearly all": lambda number: 0 if number % 50 else number // 50,
    "few have all": lambda number: number % 3,
    "one after the other": lambda number: number // 20,
}


def fill(host, number, share, *, endpoints):
    """Give a tenant's endpoints so many deliveries, each of an event of its own, and another tenant as many."""
    made = {"name": "n", "url": "https://example.com/", "timeout_seconds": 10, "version": 1}
    made |= {"created_at": BEGUN, "updated_at": BEGUN}
    owners = {tenant_id: [new_id() for _ in range(endpoints)] for tenant_id in ("acme", "globex")}
    for tenant_id, ids in owners.items():
        execute(host, sa.insert(ENDPOINT), [{**made, "id": each, "tenant_id": tenant_id} for each in ids])
    events, deliveries = [], []
    for tenant_id, ids in owners.items():
        for n in range(number):
            moment = BEGUN + timedelta(seconds=n)
            row = {"tenant_id": tenant_id, "created_at": moment}
            event_id = new_id()
            events.append({**row, "id": event_id, "type": "b" if n % 7 else "a", "body": b"{}"})
            id_ = UUID(int=delivery_ids.first(moment).int + random.getrandbits(60))
            done = {"event_id": event_id, "endpoint_id": ids[share(n) % endpoints], "attempts": 1}
            deliveries.append({**row, **done, "id": id_, "status": DeliveryStatus.DELIVERED, "finished_at": moment})
    execute(host, sa.insert(EVENT), events)
    execute(host, sa.insert(DELIVERY), deliveries)
    return [each["id"] for each in reversed(deliveries[:number])]


def pages(host, chosen, *, limit):
    """Return the ids of all pages of acme's list, one after the other."""
    ids, after = [], None
    with host.app.app_context():
        while True:
            found = current_state().run(
                lambda scope, after=after: delivery_lists.page(scope.of("acme"), chosen, limit=limit, after=after),
                commit=False,
            )
            assert len(found.deliveries) <= limit
            ids += [each.id for each in found.deliveries]
            if found.cursor is None:
                return ids
            after = found.cursor


@pytest.mark.parametrize("many", [0, newest.MANY], ids=["all at once", "as it needs"])
@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_pages_have_every_delivery_once_and_in_order_whatever_share_each_endpoint_has(host, share, many, monkeypatch):
    monkeypatch.setattr(newest, "MANY", many)
    monkeypatch.setattr(delivery_lists, "SCANNED", 40)
    ids = fill(host, 300, share, endpoints=12)

    assert pages(host, Filter(), limit=7) == ids
    assert pages(host, Filter(), limit=100) == ids
    of_type = [each for n, each in zip(reversed(range(300)), ids, strict=True) if n % 7 == 0]
    assert pages(host, Filter(event_type="a"), limit=3) == of_type
    since, until = BEGUN + timedelta(seconds=50), BEGUN + timedelta(seconds=250)
    assert pages(host, Filter(since=since, until=until), limit=30) == ids[50:250]


@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_a_page_reads_few_entries_whatever_share_each_endpoint_has(host, share):
    ids = fill(host, 4_000, share, endpoints=100)
    for name in ("endpoint", "delivery"):
        execute(host, sa.text(f"ANALYZE webhook_{name}"))

    with statements_of(host) as sent, host.app.app_context():
        found = current_state().run(
            lambda scope: delivery_lists.page(scope.of("acme"), Filter(), limit=50), commit=False
        )

    assert [each.id for each in found.deliveries] == ids[:50]
    [(statement, parameters)] = [each for each in sent if "heads" in each[0]]
    with host.app.app_context():
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        steps = host.db.session.connection().exec_driver_sql(explain, parameters).scalar_one()
    read = entries(steps if isinstance(steps, list) else json.loads(steps))
    # One round alone would read 4,000.
    assert read < 1_000


def entries(steps):
    """Count the entries of the log's index that a plan has read."""
    if isinstance(steps, list):
        return sum(map(entries, steps))
    own = steps["Actual Rows"] * steps["Actual Loops"] if steps.get("Relation Name") == "webhook_delivery" else 0
    return own + entries(steps.get("Plans", [])) + entries([steps["Plan"]] if "Plan" in steps else [])
