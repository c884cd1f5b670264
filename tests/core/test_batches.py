"""Publishing thousands of events at once: as one by one, in as many statements for 3,000 as for one."""

import json
import uuid
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints import InvalidEvent, NewEvent
from flask_webhook_endpoints.core import batches
from flask_webhook_endpoints.database.models import QueueState
from tests.support import hosts
from tests.support.api import NEW, create_endpoint
from tests.support.database import (
    DELIVERY,
    ENDPOINT,
    EVENT,
    QUEUE,
    count,
    engine_of,
    execute,
    on_sqlite,
    rows,
    statements_of,
)
from tests.support.waiting import at_once

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK)


@pytest.fixture
def publish_many(host):
    """Publish a batch and commit."""

    def publish_many(*new_events: NewEvent) -> list[Any]:
        with host.app.app_context():
            published = host.webhooks.publish_many(new_events)
            host.db.session.commit()
            return published

    return publish_many


def of_queue(*columns: Any) -> sa.Select[Any]:
    """Select from the queue, beside which the log has the events."""
    return sa.select(*columns).select_from(QUEUE.join(DELIVERY, DELIVERY.c.id == QUEUE.c.delivery_id))


def invoice(data: Any = None, *, tenant_id: Any = "acme", **options: Any) -> NewEvent:
    return NewEvent("invoice.paid", data, tenant_id=tenant_id, **options)


def test_events_of_several_tenants_arrive_each_at_its_own(host, publish_many, webhook_receiver, drain_webhooks):
    for tenant_id in ("acme", "globex"):
        create_endpoint(host.client(tenant_id), webhook_receiver.url, secret=f"the secret of {tenant_id}")

    published = publish_many(*(invoice(n, tenant_id=("acme", "globex")[n % 2]) for n in range(20)))

    assert drain_webhooks() == 20
    assert len({event.id for event in published}) == 20
    received = {each.id: each for each in webhook_receiver.received}
    for number, event in enumerate(published):
        arrived = received[f"evt_{event.id}"]
        assert (arrived.type, arrived.data) == ("invoice.paid", number)
        arrived.verify(f"the secret of {('acme', 'globex')[number % 2]}")


def test_a_rollback_publishes_nothing_beside_the_hosts_own_rows(host):
    create_endpoint(host.client())
    with host.app.app_context():
        order = sa.Table("order", host.db.metadata, sa.Column("id", sa.Integer, primary_key=True))
        order.create(host.db.session.connection())
        host.db.session.commit()

        host.db.session.execute(sa.insert(order).values(id=7))
        assert all(host.webhooks.publish_many([invoice(), invoice(idempotency_key="k")]))
        assert host.db.session().in_transaction()
        host.db.session.rollback()

    assert [count(host, table) for table in (order, EVENT, DELIVERY, QUEUE)] == [0] * 4


def test_what_a_generator_of_events_adds_to_the_session_is_flushed_as_for_any_statement(host):
    create_endpoint(host.client())

    class Ledger(host.db.Model):
        id = sa.Column(sa.Integer, primary_key=True)

    def booked():
        host.db.session.add(Ledger())
        yield invoice(1)

    with host.app.app_context():
        host.db.create_all()
        host.db.session.add(Ledger())
        host.db.session.execute(sa.select(1))
        # Older versions of SQLAlchemy do not flush for it.
        left = len(host.db.session.new)
        host.db.session.rollback()

        assert len(host.webhooks.publish_many(booked())) == 1

        assert len(host.db.session.new) == left


def test_the_number_of_statements_is_the_same_for_1_100_and_3000_events(host, publish_many):
    create_endpoint(host.client())
    create_endpoint(host.client("globex"), event_types=["invoice.*"])
    numbers = {}
    for size in (1, 100, 3000):
        for key in (None, "key {} of {}"):
            with statements_of(host) as sent:
                published = publish_many(
                    *(
                        invoice(n, tenant_id=("acme", "globex")[n % 2], idempotency_key=key and key.format(n, size))
                        for n in range(size)
                    )
                )
            numbers.setdefault(key, set()).add(len(sent))
            assert all(published)

    assert (count(host, EVENT), count(host, DELIVERY), count(host, QUEUE)) == (6202, 6202, 6202)
    # Which are wanted, the events, log and queue, which PostgreSQL writes by one statement; keys before and after.
    expected = 3 if engine_of(host).dialect.name == "postgresql" else 4
    assert numbers == {None: {expected}, "key {} of {}": {expected + 2}}


def test_what_it_writes_is_what_publish_writes(host, publish_many):
    for event_types in (None, ["invoice.*"], ["order.sent"]):
        create_endpoint(host.client(), event_types=event_types)
    data = {"b": 1, "a": ["é", "\u2028", '"\\', None, True, 1.5], "": {}}

    with host.app.app_context():
        one = host.webhooks.publish("invoice.paid", data, tenant_id="acme", idempotency_key="one")
        host.db.session.commit()
    (many,) = publish_many(invoice(data, idempotency_key="many"))

    found = {}
    for event in (one, many):
        written = rows(host, sa.select(EVENT).where(EVENT.c.id == event.id))
        written += rows(host, sa.select(DELIVERY).where(DELIVERY.c.event_id == event.id).order_by("endpoint_id"))
        written += rows(host, of_queue(QUEUE).where(DELIVERY.c.event_id == event.id).order_by(QUEUE.c.endpoint_id))
        own = {event.id: "event", event.created_at: "time", "one": "key", "many": "key"}
        own |= {row.id: f"delivery {number}" for number, row in enumerate(written[1:3])}
        found[event] = [
            [own.get(value, value) if name != "body" else json.loads(value)["data"] for name, value in row.items()]
            for row in map(dict, (each._mapping for each in written))
        ]
        moment = event.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        assert written[0].body.decode() == f'{{"type":"invoice.paid","timestamp":"{moment}","data":{body}}}'
    assert len(found[one]) == 5
    assert found[one] == found[many]


def test_ids_of_deliveries_have_the_order_of_the_batch(host, publish_many):
    create_endpoint(host.client())
    create_endpoint(host.client())

    published = publish_many(*map(invoice, range(100)))

    by_id = rows(host, sa.select(DELIVERY.c.id, DELIVERY.c.event_id).order_by(DELIVERY.c.id))
    assert [row.event_id for row in by_id[::2]] == [event.id for event in published]
    assert {(row.id.version, row.id.variant) for row in by_id} == {(7, uuid.RFC_4122)}
    due = rows(host, of_queue(DELIVERY.c.event_id).order_by(QUEUE.c.due_at))
    assert [row.event_id for row in due[::2]] == [event.id for event in published]


@pytest.mark.host(retry_schedule=[60, 60])
def test_a_schedule_that_begins_with_a_delay_delays_a_batch_too(host, publish_many):
    create_endpoint(host.client())

    first, second = publish_many(invoice(1), invoice(2))

    waiting = rows(host, of_queue(DELIVERY.c.event_id, QUEUE.c.state, QUEUE.c.due_at).order_by(QUEUE.c.due_at))
    assert [(row.event_id, row.state) for row in waiting] == [
        (first.id, QueueState.WAITING),
        (second.id, QueueState.WAITING),
    ]
    assert [row.due_at for row in waiting] == [event.created_at + timedelta(seconds=60) for event in (first, second)]


TYPES = ["invoice.paid", "invoice.item.added", "invoice", "Invoice.Paid", "a", "paid", "a.b.c.d.e.f", "invoice.sent"]
CHOICES = [None, ["invoice.paid"], ["invoice.*"], ["invoice.item.*", "paid"], ["a.b.c.*"], ["inv.*"], ["INVOICE.*"]]


@pytest.mark.parametrize("event_types", CHOICES, ids=str)
def test_an_endpoint_gets_of_a_batch_what_publish_would_send_it(host, publish_many, event_types):
    create_endpoint(host.client(), event_types=event_types)
    with host.app.app_context():
        singly = [host.webhooks.publish(each, 1, tenant_id="acme") is not None for each in TYPES]
        host.db.session.rollback()

    published = publish_many(*(NewEvent(each, 1, tenant_id="acme") for each in TYPES))

    assert [event is not None for event in published] == singly
    delivered = rows(host, sa.select(DELIVERY.c.event_id).order_by(DELIVERY.c.id))
    assert [row.event_id for row in delivered] == [event.id for event in published if event]
    assert count(host, EVENT) == sum(singly)


@pytest.mark.parametrize("pattern", ["invoice%", "%", "invoice.pai_", "*", "i?voice.paid"])
def test_wild_cards_of_a_database_mean_nothing(host, publish_many, pattern):
    create_endpoint(host.client())
    execute(host, sa.update(ENDPOINT).values(event_types=[pattern]))

    assert publish_many(invoice()) == [None]


def test_tenants_that_look_alike_are_apart(host, publish_many):
    tenants = ["acme", "ACME", "acme ", "ácme", '"\\{},', "\U0001f600" * 200, 7]
    ids = {str(each): create_endpoint(host.client(str(each)))["id"].removeprefix("ep_") for each in tenants[1:]}

    missed, *published = publish_many(*(invoice(tenant_id=each, idempotency_key="one key") for each in tenants))

    assert missed is None
    delivered = rows(host, sa.select(DELIVERY.c.event_id, DELIVERY.c.tenant_id, DELIVERY.c.endpoint_id))
    assert {(row.event_id, row.tenant_id, str(row.endpoint_id)) for row in delivered} == {
        (event.id, tenant_id, ids[tenant_id]) for event, tenant_id in zip(published, ids, strict=True)
    }


# By latin1, the events of ä were not published, and nothing said so; those of the others were errors.
@pytest.mark.only_on("mariadb")
@pytest.mark.parametrize("charset", ["latin1", "ascii", "utf8mb3"])
def test_the_character_set_of_the_hosts_connection_is_nothing_to_a_batch(database, charset):
    tenants = ["acme", "ä", "日", "\U0001f600"]
    with closing(hosts.flask_sqlalchemy(f"{database}&charset={charset}")) as host, host.app.app_context():
        for tenant_id in tenants:
            host.webhooks.endpoints.create(tenant_id=tenant_id, **NEW)
        published = host.webhooks.publish_many(invoice(tenant_id=each, idempotency_key="one key") for each in tenants)
        host.db.session.commit()
        found = rows(host, sa.select(DELIVERY.c.event_id, DELIVERY.c.tenant_id))

    assert set(found) == {(event and event.id, tenant_id) for event, tenant_id in zip(published, tenants, strict=True)}


def test_where_no_endpoint_wants_any_one_statement_reads_and_nothing_is_written(host):
    create_endpoint(host.client("globex"))
    with host.app.app_context(), statements_of(host) as sent:
        published = host.webhooks.publish_many(map(invoice, range(100)))
        host.db.session.commit()

    assert published == [None] * 100
    assert [statement.split()[0] for statement, _ in sent] == ["SELECT"]


def test_an_empty_batch_asks_nothing(host):
    with host.app.app_context(), statements_of(host) as sent:
        assert host.webhooks.publish_many([]) == []

    assert sent == []


def test_a_key_publishes_once_whether_its_first_event_is_of_the_batch_or_before(host, publish_many):
    path = create_endpoint(host.client()).path
    create_endpoint(host.client("globex"))
    with host.app.app_context():
        earlier = host.webhooks.publish("invoice.paid", 1, tenant_id="acme", idempotency_key="earlier")
        host.db.session.commit()

    known, first, again, other, unkeyed = publish_many(
        invoice(2, idempotency_key="earlier"),
        invoice(3, idempotency_key="k"),
        invoice(4, idempotency_key="k"),
        invoice(5, idempotency_key="k", tenant_id="globex"),
        invoice(6),
    )

    assert known == earlier
    assert again == first
    assert len({event.id for event in (earlier, first, other, unkeyed)}) == 4
    assert (count(host, EVENT), count(host, DELIVERY), count(host, QUEUE)) == (4, 4, 4)
    assert host.client().patch(path, json={"event_types": ["order.*"]}).status_code == 200
    assert publish_many(invoice(idempotency_key="earlier"), invoice(idempotency_key="new")) == [earlier, None]


def test_a_key_of_an_event_that_nobody_wanted_is_free_for_the_next_one(host, publish_many):
    create_endpoint(host.client(), event_types=["invoice.*"])

    unwanted, written = publish_many(
        NewEvent("order.sent", 1, tenant_id="acme", idempotency_key="k"), invoice(2, idempotency_key="k")
    )

    assert unwanted is None
    assert written.type == "invoice.paid"


class Unreadable:
    """It refuses to be shown or asked."""

    def __repr__(self) -> str:
        raise RuntimeError

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


INVALID = {
    "a type": (NewEvent("a b", 1, tenant_id="acme"), InvalidEvent, "Not an event type: 'a b'"),
    "data": (invoice(float("nan")), InvalidEvent, "The data of invoice.paid is not JSON"),
    "a size": (invoice("x" * 262_144), InvalidEvent, "The body has 2622"),
    "a key": (invoice(idempotency_key="é"), InvalidEvent, "idempotency_key must be"),
    "a key of another type": (
        NewEvent("order.sent", 1, tenant_id="acme", idempotency_key="earlier"),
        InvalidEvent,
        "The idempotency_key is that of an event of type invoice.paid, not order.sent",
    ),
    "a key of another type in the batch": (
        NewEvent("order.sent", 1, tenant_id="acme", idempotency_key="k"),
        InvalidEvent,
        "The idempotency_key is that of an event of type invoice.paid, not order.sent",
    ),
    "no tenant": (invoice(tenant_id=None), TypeError, "A tenant must be"),
    "an empty tenant": (invoice(tenant_id=""), ValueError, "A tenant's id must be"),
    # Each was an AttributeError without the index.
    "nothing": (None, TypeError, "An event must be a NewEvent, not NoneType."),
    "a pair": (("invoice.paid", 1), TypeError, "An event must be a NewEvent, not tuple."),
    "a dict": ({"event_type": "invoice.paid"}, TypeError, "An event must be a NewEvent, not dict."),
    "the class": (NewEvent, TypeError, "An event must be a NewEvent, not type."),
    "an unreadable object": (Unreadable(), TypeError, "An event must be a NewEvent, not Unreadable."),
}


@on_sqlite
@pytest.mark.parametrize(("wrong", "error", "message"), INVALID.values(), ids=INVALID)
def test_one_that_breaks_a_rule_is_named_and_nothing_is_written(host, publish_many, wrong, error, message):
    create_endpoint(host.client())
    publish_many(invoice(idempotency_key="earlier"))

    with host.app.app_context():
        with pytest.raises(error) as raised:
            host.webhooks.publish_many([invoice(1), invoice(2, idempotency_key="k"), wrong, invoice(3)])
        host.db.session.commit()

    assert str(raised.value).startswith(f"events[2]: {message}")
    assert (count(host, EVENT), count(host, DELIVERY)) == (1, 1)


def test_5000_events_whose_bodies_are_large_and_more_than_that_are_all_written(host, publish_many):
    create_endpoint(host.client())

    published = publish_many(*(invoice("é" * 1500) for _ in range(batches.MAX_EVENTS + 1)))

    assert len({event.id for event in published}) == batches.MAX_EVENTS + 1
    assert count(host, DELIVERY) == count(host, QUEUE) == batches.MAX_EVENTS + 1


def test_the_largest_bodies_are_written_in_parts(host, publish_many):
    create_endpoint(host.client())

    published = publish_many(*(invoice("\\" * 131_000) for _ in range(40)))

    assert all(published)
    assert count(host, EVENT) == 40


@on_sqlite
@pytest.mark.parametrize("bound", ["MAX_EVENTS", "MAX_BYTES"])
def test_each_part_beyond_the_bounds_takes_the_same_statements_again(host, publish_many, monkeypatch, bound):
    create_endpoint(host.client())
    size = len(body_of_one(host, publish_many))
    monkeypatch.setattr(batches, bound, {"MAX_EVENTS": 10, "MAX_BYTES": 10 * size}[bound])
    numbers = {}
    for number in (1, 10, 11, 30):
        with statements_of(host) as sent:
            publish_many(*map(invoice, [1] * number))
        numbers[number] = len(sent)

    assert numbers == {1: 4, 10: 4, 11: 8, 30: 12}


def body_of_one(host: hosts.Host, publish_many: Any) -> bytes:
    publish_many(invoice(1))
    [(body,)] = rows(host, sa.select(EVENT.c.body))
    return body


@pytest.mark.several_connections
def test_batches_at_once_with_the_same_keys_in_any_order_publish_each_once(database):
    with closing(hosts.busy(database)) as host:
        create_endpoint(host.client())
        keys = [f"key {number}" for number in range(1000)]

        def publish(order: int) -> list[Any]:
            with host.app.app_context():
                new_events = [invoice(key, idempotency_key=key) for key in keys[::order]]
                published = host.webhooks.publish_many(new_events)
                host.db.session.commit()
                return published[::order]

        outcomes = at_once([lambda order=order: publish(order) for order in (1, -1) * 4])

        assert all(outcome == outcomes[0] for outcome in outcomes)
        assert (count(host, EVENT), count(host, DELIVERY), count(host, QUEUE)) == (1000, 1000, 1000)


@pytest.mark.several_connections
def test_of_two_types_at_once_with_one_key_the_batch_that_is_told_so_leaves_nothing(database):
    with closing(hosts.busy(database)) as host:
        create_endpoint(host.client())

        def publish(event_type: str) -> bool:
            with host.app.app_context():
                keyed = NewEvent(event_type, 1, tenant_id="acme", idempotency_key="k")
                try:
                    published = host.webhooks.publish_many([invoice(1), keyed])
                except InvalidEvent:
                    published = []
                # Also after the error, which a host may catch.
                host.db.session.commit()
                return bool(published)

        kinds = ["invoice.paid", "invoice.refunded"] * 4
        outcomes = at_once([lambda kind=kind: publish(kind) for kind in kinds])

        assert sum(outcomes) == 4
        assert (count(host, EVENT), count(host, DELIVERY), count(host, QUEUE)) == (5, 5, 5)
