"""Publishing in the host's own transaction: what is written, for whom, and what is refused."""

import dataclasses
import json
import threading
import uuid
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.json.provider import DefaultJSONProvider

from flask_webhook_endpoints import NewEvent
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.errors import InvalidEvent, RegistrationError
from flask_webhook_endpoints.state import EXTENSION, state_of
from tests.support import hosts
from tests.support.api import create_endpoint, post_endpoint
from tests.support.database import DELIVERY, ENDPOINT, EVENT, engine_of, on_sqlite, rows, statements_of
from tests.support.waiting import at_once

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK)


@pytest.fixture
def session(host):
    with host.app.app_context():
        yield host.db.session


@pytest.fixture
def publish(host, session):
    def publish(event_type: str = "invoice.paid", data: Any = None, *, tenant_id: object = "acme", **options: Any):
        return host.webhooks.publish(event_type, data, tenant_id=tenant_id, **options)

    return publish


def count(session: Any, table: sa.Table) -> int:
    return session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def bodies(session: Any) -> list[bytes]:
    return list(session.execute(sa.select(EVENT.c.body).order_by(EVENT.c.id)).scalars())


def test_rollback_publishes_nothing(host, session, publish, webhook_receiver, drain_webhooks):
    create_endpoint(host.client(), webhook_receiver.url)

    assert publish() is not None
    session.rollback()

    assert drain_webhooks() == 0
    assert webhook_receiver.received == []
    assert (count(session, EVENT), count(session, DELIVERY)) == (0, 0)


def test_commit_delivers(host, session, publish, webhook_receiver, drain_webhooks):
    create_endpoint(host.client(), webhook_receiver.url, secret="a secret of ours")

    event = publish(data={"id": 7})
    session.commit()

    assert drain_webhooks() == 1
    [received] = webhook_receiver.received
    assert (received.id, received.type, received.data) == (f"evt_{event.id}", "invoice.paid", {"id": 7})
    received.verify("a secret of ours")


@pytest.mark.parametrize("commits", [True, False])
def test_an_event_and_the_hosts_own_rows_are_both_kept_or_neither(host, session, publish, commits):
    order = sa.Table("order", host.db.metadata, sa.Column("id", sa.Integer, primary_key=True))
    order.create(session.connection())
    session.commit()
    create_endpoint(host.client())

    session.execute(sa.insert(order).values(id=7))
    publish(data={"id": 7})
    session.execute(sa.insert(order).values(id=8))
    if commits:
        session.commit()
    session.rollback()

    kept = int(commits)
    assert (count(session, order), count(session, EVENT), count(session, DELIVERY)) == (2 * kept, kept, kept)


def test_publish_itself_commits_nothing(host, session, publish):
    create_endpoint(host.client())
    publish()

    assert session().in_transaction()
    session.rollback()
    assert count(session, EVENT) == 0


def test_where_no_endpoint_wants_it_one_statement_reads_and_nothing_is_written(host, session, publish):
    create_endpoint(host.client(), event_types=["order.*"])
    create_endpoint(host.client("globex"))
    session.rollback()

    with statements_of(host) as sent:
        assert publish() is None
        session.commit()

    assert len(sent) == 1
    assert sent[0][0].startswith("SELECT")
    assert count(session, EVENT) == 0


def test_the_number_of_statements_is_the_same_for_1_10_and_1000_endpoints(host, session, publish):
    numbers = {}
    create_endpoint(host.client())
    row = session.execute(sa.select(ENDPOINT)).mappings().one()
    for endpoints in (1, 10, 1000):
        if missing := [{**row, "id": new_id()} for _ in range(endpoints - count(session, ENDPOINT))]:
            session.execute(sa.insert(ENDPOINT), missing)
        session.commit()
        for key in (None, f"key {endpoints}"):
            with statements_of(host) as sent:
                event = publish(idempotency_key=key)
            numbers[endpoints, key is None] = len(sent)
            of_event = sa.select(sa.func.count(sa.distinct(DELIVERY.c.id))).where(DELIVERY.c.event_id == event.id)
            assert session.execute(of_event).scalar_one() == endpoints

    # Whether it is wanted, the event, log and queue, which PostgreSQL writes by one statement.
    assert set(numbers.values()) == {3 if engine_of(host).dialect.name == "postgresql" else 4}


MATCHES = {
    "all": (None, "invoice.paid", True),
    "exact": (["invoice.paid"], "invoice.paid", True),
    "another name": (["invoice.sent"], "invoice.paid", False),
    "prefix": (["invoice.*"], "invoice.paid", True),
    "deeper prefix": (["invoice.*"], "invoice.item.added", True),
    "prefix of two": (["invoice.item.*"], "invoice.item.added", True),
    "too deep a prefix": (["invoice.item.*"], "invoice.paid", False),
    "a prefix is not its own name": (["invoice.*"], "invoice", False),
    "a name is no prefix": (["invoice"], "invoice.paid", False),
    "the start of a word is no prefix": (["inv.*"], "invoice.paid", False),
    "the end of a name": (["paid"], "invoice.paid", False),
    "another case": (["Invoice.Paid"], "invoice.paid", False),
    "a prefix in another case": (["INVOICE.*"], "invoice.paid", False),
    "_ is a letter": (["invoice_paid"], "invoiceXpaid", False),
    "_ is itself": (["invoice_paid"], "invoice_paid", True),
    "the last of several": (["a", "b.*", "invoice.paid"], "invoice.paid", True),
    "one in the middle": (["a", "invoice.paid", "b.*"], "invoice.paid", True),
    "two names side by side": (["invoice", "paid"], "invoice.paid", False),
    "one character": (["a"], "a", True),
}


@pytest.mark.parametrize(("event_types", "event_type", "matches"), MATCHES.values(), ids=MATCHES)
def test_an_endpoint_gets_the_events_that_its_event_types_name(host, publish, event_types, event_type, matches):
    create_endpoint(host.client(), event_types=event_types)

    assert (publish(event_type) is not None) is matches


@pytest.mark.parametrize("pattern", ["invoice%", "%", "invoice.pai_", "_______.____", "*", "invoice*", "i?voice.paid"])
def test_wild_cards_of_a_database_mean_nothing(host, session, publish, pattern):
    create_endpoint(host.client())
    # What the API would refuse, had it come another way.
    session.execute(sa.update(ENDPOINT).values(event_types=[pattern]))

    assert publish() is None


def test_tenants_that_look_alike_are_apart(host, session, publish):
    tenants = ("acme", "ACME", "acme ", "ácme")
    ids = {
        tenant_id: uuid.UUID(create_endpoint(host.client(tenant_id))["id"].removeprefix("ep_")) for tenant_id in tenants
    }

    for tenant_id in tenants:
        event = publish(tenant_id=tenant_id, idempotency_key="one key")
        got = session.execute(
            sa.select(DELIVERY.c.endpoint_id, DELIVERY.c.tenant_id).where(DELIVERY.c.event_id == event.id)
        )
        assert got.all() == [(ids[tenant_id], tenant_id)]

    assert count(session, EVENT) == len(tenants)
    assert publish(tenant_id="Acme") is None


def test_a_tenant_may_be_a_number_or_a_uuid(host, publish):
    org = uuid.uuid4()
    create_endpoint(host.client("7"))
    create_endpoint(host.client(str(org)))

    assert publish(tenant_id=7) is not None
    assert publish(tenant_id=org) is not None
    with pytest.raises(TypeError):
        publish(tenant_id=None)


def test_the_same_idempotency_key_publishes_once_for_each_tenant(host, session, publish):
    create_endpoint(host.client())
    create_endpoint(host.client("globex"))

    first = publish(data=1, idempotency_key="k")
    session.commit()
    again = publish(data=2, idempotency_key="k")
    session.commit()
    others = publish(tenant_id="globex", idempotency_key="k")
    another = publish(idempotency_key="K")
    session.commit()

    assert again == first
    assert len({first.id, others.id, another.id}) == 3
    assert (count(session, EVENT), count(session, DELIVERY)) == (3, 3)


def test_a_key_is_that_of_the_first_event_though_no_endpoint_wants_it_any_more(host, session, publish):
    path = f"/v1/endpoints/{create_endpoint(host.client())['id']}"
    first = publish(idempotency_key="k")
    session.commit()
    assert host.client().patch(path, json={"event_types": ["order.*"]}).status_code == 200

    with statements_of(host) as sent:
        again = publish(idempotency_key="k")
        others = [publish(idempotency_key="another"), publish(tenant_id="globex", idempotency_key="k")]
        session.commit()
    host.client().delete(path)

    assert again == first
    assert publish(idempotency_key="k") == first
    assert others == [None, None]
    assert [statement.split()[0] for statement, _ in sent] == ["SELECT"] * 6
    assert (count(session, EVENT), count(session, DELIVERY)) == (1, 1)


@pytest.mark.several_connections
def test_one_key_publishes_once_while_its_endpoint_comes_and_goes(database):
    with closing(hosts.busy(database)) as host:

        def publish() -> Any:
            with host.app.app_context():
                event = host.webhooks.publish("invoice.paid", 1, tenant_id="acme", idempotency_key="k")
                host.db.session.commit()
                return event

        events = [*at_once([*[publish] * 12, lambda: create_endpoint(host.client()) and None]), publish()]
        path = f"/v1/endpoints/{host.client('acme').get('/v1/endpoints').json[0]['id']}"
        events += at_once([*[publish] * 12, lambda: host.client().delete(path) and None])

        assert len({event for event in events if event}) == 1
        assert publish() in events
        with host.app.app_context():
            assert count(host.db.session, EVENT) == 1


def test_ids_of_deliveries_have_the_order_of_their_events_to_the_microsecond(host, session, publish):
    for _ in range(5):
        create_endpoint(host.client())
    state = state_of(host.app)
    start = datetime.now(UTC).replace(microsecond=123_000)
    ticks = iter(start + timedelta(microseconds=count) for count in range(100))
    host.app.extensions[EXTENSION] = dataclasses.replace(state, now=lambda: next(ticks))

    published = [publish().id for _ in range(100)]
    session.commit()

    rows = session.execute(sa.select(DELIVERY.c.id, DELIVERY.c.event_id).order_by(DELIVERY.c.id)).all()
    assert [row.event_id for row in rows[::5]] == published
    assert {(row.id.version, row.id.variant) for row in rows} == {(7, uuid.RFC_4122)}
    assert {int(row.id.hex[:12], 16) for row in rows} == {int(start.timestamp() * 1000)}


def test_an_idempotency_key_is_free_again_after_a_rollback(host, session, publish):
    create_endpoint(host.client())
    lost = publish(idempotency_key="k")
    session.rollback()

    event = publish(idempotency_key="k")
    session.commit()

    assert event.id != lost.id
    assert count(session, EVENT) == 1


@pytest.mark.several_connections
def test_16_threads_with_one_idempotency_key_publish_once(database):
    with closing(hosts.busy(database)) as host:
        create_endpoint(host.client())

        def publish() -> Any:
            with host.app.app_context():
                event = host.webhooks.publish("invoice.paid", 1, tenant_id="acme", idempotency_key="k")
                host.db.session.commit()
                return event

        events = at_once([publish] * 16)

        assert len(set(events)) == 1
        with host.app.app_context():
            assert (count(host.db.session, EVENT), count(host.db.session, DELIVERY)) == (1, 1)


def test_the_body_is_type_timestamp_and_data_in_these_bytes(host, session, publish):
    create_endpoint(host.client())

    event = publish(data={"b": 1, "a": ["é", "\u2028", None, True, 1.5], "": {}})

    moment = event.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    text = f'{{"type":"invoice.paid","timestamp":"{moment}","data":{{"b":1,"a":["é","\u2028",null,true,1.5],"":{{}}}}}}'
    assert bodies(session) == [text.encode()]


def test_what_flask_encodes_is_encoded_as_flask_does(host, session, publish):
    create_endpoint(host.client())
    data = {
        "datetime": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "date": date(2026, 1, 2),
        "decimal": Decimal("12.50"),
        "uuid": uuid.UUID(int=7),
    }

    publish(data=data)

    with host.app.test_request_context():
        assert json.loads(bodies(session)[0])["data"] == host.app.json.response(data).json


def test_the_hosts_own_json_provider_encodes(host, session, publish):
    class Money:
        pass

    class Provider(DefaultJSONProvider):
        @staticmethod
        def default(o: Any) -> Any:
            return "7 EUR" if isinstance(o, Money) else DefaultJSONProvider.default(o)

    create_endpoint(host.client())
    host.app.json = Provider(host.app)

    publish(data={"price": Money(), "id": uuid.UUID(int=7)})

    assert bodies(session)[0].endswith(b',"data":{"price":"7 EUR","id":"00000000-0000-0000-0000-000000000007"}}')


def cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def nested(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


NO_DATA = {
    "NaN": float("nan"),
    "infinity": [float("inf")],
    "set": {1, 2},
    "bytes": b"bytes",
    "object": object(),
    "key": {(1, 2): 3},
    "bytes as a key": {b"key": 1},
    "NaN as a key": {float("nan"): 1},
    "generator": (number for number in range(3)),
    "lone surrogate": {"name": "\ud800"},
    "lone surrogate in a key": {"\udfff": 1},
    "cycle": cycle(),
    "too deep": nested(100_000),
    "a number of 5,000 digits": 10**5000,
}


@pytest.mark.parametrize("data", NO_DATA.values(), ids=NO_DATA)
@on_sqlite
def test_what_is_not_json_is_refused_and_the_session_goes_on(host, session, publish, data):
    create_endpoint(host.client())
    kept = publish(data="kept")

    with pytest.raises(InvalidEvent, match=r"^The data of invoice\.paid is not JSON: "):
        publish(data=data)

    session.commit()
    assert session.execute(sa.select(EVENT.c.id)).scalars().all() == [kept.id]


def test_a_body_may_have_256_kib_and_not_a_byte_more(host, session, publish):
    create_endpoint(host.client())
    publish(data="")
    envelope = len(bodies(session)[0])

    publish(data="x" * (256 * 1024 - envelope))
    with pytest.raises(InvalidEvent, match=r"262145 bytes; WEBHOOK_ENDPOINTS_MAX_BODY_BYTES allows 262144"):
        publish(data="x" * (256 * 1024 - envelope + 1))
    with pytest.raises(InvalidEvent, match="bytes"):
        publish(data="é" * (128 * 1024))

    session.commit()
    assert [len(body) for body in bodies(session)] == [envelope, 256 * 1024]


@pytest.mark.parametrize(
    "event_type",
    ["", ".", "a.", ".a", "a..b", "a b", "a.*", "*", "a%", "é", "a\n", "a\x00", "x" * 129, "\ud800", None, 7, b"a.b"],
    ids=repr,
)
@on_sqlite
def test_what_is_no_event_type_is_refused_and_the_session_goes_on(host, session, publish, event_type):
    create_endpoint(host.client())

    with pytest.raises(InvalidEvent, match=r"Not an event type: .*\. Write one like invoice\.paid"):
        publish(event_type)

    assert publish() is not None
    session.commit()
    assert count(session, EVENT) == 1


def test_an_event_type_may_have_128_characters(host, publish):
    create_endpoint(host.client())

    assert publish("x" * 128).type == "x" * 128


@pytest.mark.parametrize("key", ["", "x" * 256, "\x00", "é", "a\n", 7, b"k"], ids=repr)
@on_sqlite
def test_what_is_no_idempotency_key_is_refused(host, session, publish, key):
    create_endpoint(host.client())

    with pytest.raises(InvalidEvent, match="idempotency_key must be 1 to 255 printable ASCII characters"):
        publish(idempotency_key=key)

    session.commit()
    assert count(session, EVENT) == 0


def test_deliveries_of_a_paused_endpoint_are_written_and_held(host, session, publish, webhook_receiver, drain_webhooks):
    acme = host.client()
    path = create_endpoint(host.client(), webhook_receiver.url).path
    acme.patch(path, json={"status": "PAUSED"})

    for number in range(3):
        publish(data=number)
    session.commit()

    assert drain_webhooks() == 0
    held = session.execute(sa.select(DELIVERY.c.status, DELIVERY.c.attempts)).all()
    session.rollback()
    assert held == [(DeliveryStatus.PENDING, 0)] * 3
    acme.patch(path, json={"status": "ACTIVE"})
    assert drain_webhooks() == 3
    assert sorted(received.data for received in webhook_receiver.received) == [0, 1, 2]


# On MariaDB the INSERT locked the endpoints that it read, and the gaps beside them, until the host committed: requests
# waited, or ended in a deadlock with the host's transaction.
@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.parametrize("many", [False, True], ids=["publish", "publish_many"])
def test_requests_change_endpoints_beside_an_open_transaction_that_has_published(host, acme, many):
    changed, deleted = create_endpoint(acme), create_endpoint(acme)
    engine = engine_of(host)
    engine.dispose()
    is_postgresql = engine.dialect.name == "postgresql"
    patience = "SET lock_timeout = '1s'" if is_postgresql else "SET innodb_lock_wait_timeout = 1"

    @sa.event.listens_for(engine, "connect")
    def wait_briefly(connection, _record):
        with closing(connection.cursor()) as cursor:
            cursor.execute(patience)
        connection.commit()

    with host.app.app_context():
        if many:
            host.webhooks.publish_many([NewEvent("invoice.paid", 1, tenant_id="acme")])
        else:
            host.webhooks.publish("invoice.paid", 1, tenant_id="acme")
        answers = [
            acme.patch(changed.path, json={"status": "PAUSED"}).status_code,
            acme.delete(deleted.path).status_code,
            post_endpoint(acme).status_code,
        ]
        host.db.session.commit()

    assert answers == [200, 204, 201]
    assert len(rows(host, sa.select(DELIVERY.c.id))) == 2


def test_an_app_without_the_blueprint_is_told_so(host):
    with (
        Flask("forgetful").app_context(),
        pytest.raises(RegistrationError, match="'forgetful' has no webhook endpoints"),
    ):
        host.webhooks.publish("invoice.paid", 1, tenant_id="acme")


@pytest.mark.several_connections
def test_a_thread_with_an_app_context_publishes(host):
    create_endpoint(host.client())

    def work() -> None:
        with host.app.app_context():
            host.webhooks.publish("invoice.paid", 1, tenant_id="acme")
            host.db.session.commit()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    with host.app.app_context():
        assert count(host.db.session, DELIVERY) == 1


def test_a_command_of_the_host_publishes(host):
    create_endpoint(host.client())
    app: Flask = host.app

    @app.cli.command("bill")
    def bill() -> None:
        host.webhooks.publish("invoice.paid", 1, tenant_id="acme")
        host.db.session.commit()

    result = app.test_cli_runner().invoke(args=["bill"])

    assert result.exit_code == 0, result.output
    with app.app_context():
        assert count(host.db.session, DELIVERY) == 1
