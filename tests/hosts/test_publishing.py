"""`publish` in the host's way: its JSON provider encodes the data, and a key that it gives twice loses nothing."""

import dataclasses
import json
import threading
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from flask.json.provider import DefaultJSONProvider, JSONProvider

from flask_webhook_endpoints import InvalidEvent
from flask_webhook_endpoints.testing import drain
from tests.support import deliveries, hosts
from tests.support.api import create_endpoint, post_endpoint
from tests.support.database import on_sqlite
from tests.support.waiting import at_once


class Money:
    """What no provider knows by itself."""


def fallback(value: object) -> Any:
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, Money):
        return "7 EUR"
    raise TypeError(f"no JSON: {value!r}")


class Orjson(JSONProvider):
    """As its documentation advises for Flask."""

    def dumps(self, obj: Any, *, option: int | None = None, **kwargs: Any) -> str:
        return orjson.dumps(obj, fallback, option or orjson.OPT_NON_STR_KEYS).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)


class OrjsonBytes(Orjson):
    """As many write it."""

    def dumps(self, obj: Any, **kwargs: Any) -> Any:
        return orjson.dumps(obj, fallback)


class Strict(JSONProvider):
    """One that takes no options."""

    def dumps(self, obj: Any) -> str:  # type: ignore[override]
        return json.dumps(obj, default=fallback, ensure_ascii=False)

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return json.loads(s)


class Pretty(DefaultJSONProvider):
    """One that prints for people, in ASCII."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return super().dumps(obj, default=fallback, indent=2, sort_keys=False)


class Wrapping(DefaultJSONProvider):
    """One that changes what it is given and leaves the rest to Flask's."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return super().dumps({"v": 1, "of": sorted(obj) if isinstance(obj, set) else obj}, **kwargs)


class Defaults(DefaultJSONProvider):
    """One that only knows more types."""

    default = staticmethod(fallback)


@dataclasses.dataclass
class Line:
    sku: str
    count: int


@pytest.fixture
def publish(host, acme):
    """Publish, commit and return the bytes that are sent."""
    assert post_endpoint(acme).status_code == 201
    ep_id = acme.get("/v1/endpoints").json[0]["id"]

    def publish(data: Any, provider: type[JSONProvider] | None = None) -> str:
        if provider is not None:
            host.app.json = provider(host.app)
        try:
            with host.app.app_context():
                host.webhooks.publish("order.sent", data, tenant_id="acme")
                host.db.session.commit()
        finally:
            host.app.json = DefaultJSONProvider(host.app)
        [newest, *_] = acme.get(f"/v1/endpoints/{ep_id}/deliveries").json
        return acme.get(f"/v1/endpoints/{ep_id}/deliveries/{newest['id']}").json["body"]

    return publish


def data_of(body: str) -> str:
    """Return the text of `data`, having seen that the envelope around it is as ever."""
    head, _, rest = body.partition(',"data":')
    assert head.startswith('{"type":"order.sent","timestamp":"')
    assert rest.endswith("}")
    json.loads(body)
    return rest[:-1]


# A provider with its own `dumps` got an InvalidEvent for what the host's own pages show.


@on_sqlite
@pytest.mark.parametrize("provider", [Orjson, OrjsonBytes, Strict, Pretty, Defaults], ids=lambda kind: kind.__name__)
def test_data_is_encoded_by_the_apps_provider_and_sent_compactly(publish, provider):
    for data, text in (
        ({2, 1}, "[1,2]"),
        ({"price": Money(), "of": {3}}, '{"price":"7 EUR","of":[3]}'),
        ({"b": [1, 2.5, -0.0, True, None], "a": {}}, '{"b":[1,2.5,-0.0,true,null],"a":{}}'),
        (' a: b ,\n"c" \\ ', r'" a: b ,\n\"c\" \\ "'),
        ("", '""'),
        (7, "7"),
        (None, "null"),
        (18446744073709551615, "18446744073709551615"),
    ):
        assert data_of(publish(data, provider)) == text


def test_what_only_the_apps_provider_knows_is_encoded_as_on_the_apps_pages(publish, host):
    data = {"line": Line("a", 2), "at": datetime(2026, 1, 2, tzinfo=UTC), "id": uuid.UUID(int=7), 1: "one"}

    assert json.loads(data_of(publish(data, Orjson))) == json.loads(Orjson(host.app).dumps(data))
    assert data_of(publish({2, 1}, Wrapping)) == '{"of":[1,2],"v":1}'


@pytest.mark.parametrize("provider", [DefaultJSONProvider, Orjson, Strict, Pretty], ids=lambda kind: kind.__name__)
def test_letters_arrive_whatever_the_provider_makes_of_them(publish, provider):
    text = "é \u2028 \U0001f600 \x7f \u0000 </script>"

    assert json.loads(data_of(publish({text: text}, provider))) == {text: text}


def test_numbers_are_sent_with_the_digits_that_the_provider_wrote(publish):
    class Exact(Strict):
        def dumps(self, obj: Any) -> str:
            return '{ "price" : 12.50 , "big" : 123456789012345678901234567890 ,\t"small":\n1E-7 }'

    text = '{"price":12.50,"big":123456789012345678901234567890,"small":1E-7}'
    assert data_of(publish({}, Exact)) == text


def test_flasks_own_provider_encodes_as_before(publish, host):
    data = {"b": "é", "a": {2: date(2026, 1, 2), "ten": Decimal("12.50")}, 1: None}

    text = '{"b":"é","a":{"2":"Fri, 02 Jan 2026 00:00:00 GMT","ten":"12.50"},"1":null}'
    assert data_of(publish(data)) == text


def answers(value: Any) -> type[JSONProvider]:
    class Broken(Strict):
        def dumps(self, obj: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

    return Broken


NO_JSON = {
    "NaN": "NaN",
    "infinity inside": '{"a": [-Infinity]}',
    "nothing": "",
    "two values": "1 2",
    "a value and more": '1, "data": 2',
    "another member": '1}, {"a": 1',
    "a lone surrogate": '"\ud800"',
    "an escaped one": r'"\ud800"',
    "bytes that are no UTF-8": b'"\xff"',
    "a line feed in a string": '"a\nb"',
    "an open string": '"a',
    "Python": "{'a': 1}",
    "a number": 7,
    "none": None,
    "too deep": "[" * 100_000 + "]" * 100_000,
    "a TypeError": TypeError("no JSON"),
    "a ValueError": ValueError("no JSON"),
    "a RecursionError": RecursionError("too deep"),
}


@on_sqlite
@pytest.mark.parametrize("given", NO_JSON.values(), ids=NO_JSON)
def test_what_the_provider_makes_no_json_of_is_refused_and_the_session_goes_on(publish, host, given):
    with pytest.raises(InvalidEvent, match=r"^The data of order\.sent is not JSON"):
        publish(1, answers(given))

    assert data_of(publish("kept")) == '"kept"'


def test_a_fault_of_the_provider_itself_is_the_hosts(publish):
    with pytest.raises(ZeroDivisionError):
        publish(1, answers(ZeroDivisionError()))


def test_a_body_of_the_providers_has_the_limit_of_all(publish):
    with pytest.raises(InvalidEvent, match="MAX_BODY_BYTES allows 262144"):
        publish("x" * 262_144, Orjson)


@pytest.mark.host(allowed_networks=hosts.LOOPBACK)
def test_what_the_provider_encodes_arrives_signed_as_sent(host, webhook_receiver):
    host.app.json = Pretty(host.app)
    create_endpoint(host.client(), webhook_receiver.url, secret="a secret of Acme's")
    deliveries.publish(host, {"é": {1}}, event_type="order.sent")
    drain(host.app)

    received = webhook_receiver.one("order.sent", secret="a secret of Acme's")
    assert received.data == {"é": [1]}
    assert data_of(received.body.decode()) == r'{"\u00e9":[1]}'


# The second event was lost without a word.


@pytest.fixture
def wanted(host, acme):
    return post_endpoint(acme).headers["Location"]


def test_a_key_with_another_event_type_is_refused_and_loses_nothing(host, acme, wanted):
    with host.app.app_context():
        first = host.webhooks.publish("invoice.paid", 1, tenant_id="acme", idempotency_key="invoice 7")
        host.db.session.commit()

        with pytest.raises(InvalidEvent, match=r"idempotency_key.*invoice\.paid.*invoice\.refunded"):
            host.webhooks.publish("invoice.refunded", 2, tenant_id="acme", idempotency_key="invoice 7")

        again = host.webhooks.publish("invoice.paid", 3, tenant_id="acme", idempotency_key="invoice 7")
        other = host.webhooks.publish("invoice.refunded", 2, tenant_id="acme", idempotency_key="refund 7")
        host.db.session.commit()

    assert again == first
    assert other.type == "invoice.refunded"
    types = [each["event_type"] for each in acme.get(f"{wanted}/deliveries").json]
    assert types == ["invoice.refunded", "invoice.paid"]


def test_a_key_with_another_type_is_refused_within_one_transaction_and_when_nobody_wants_it(host, acme, wanted):
    with host.app.app_context():
        host.webhooks.publish("invoice.paid", 1, tenant_id="acme", idempotency_key="k")
        with pytest.raises(InvalidEvent, match="idempotency_key"):
            host.webhooks.publish("invoice.refunded", 2, tenant_id="acme", idempotency_key="k")
        host.db.session.commit()

    assert acme.patch(wanted, json={"event_types": ["invoice.paid"]}).status_code == 200
    with host.app.app_context(), pytest.raises(InvalidEvent, match="idempotency_key"):
        host.webhooks.publish("invoice.refunded", 2, tenant_id="acme", idempotency_key="k")
    assert acme.delete(wanted).status_code == 204
    with host.app.app_context(), pytest.raises(InvalidEvent, match="idempotency_key"):
        host.webhooks.publish("invoice.refunded", 2, tenant_id="acme", idempotency_key="k")


def test_another_tenants_key_is_another(host, acme, globex, wanted):
    post_endpoint(globex)
    with host.app.app_context():
        host.webhooks.publish("invoice.paid", 1, tenant_id="acme", idempotency_key="k")
        other = host.webhooks.publish("invoice.refunded", 2, tenant_id="globex", idempotency_key="k")
        host.db.session.commit()

    assert other.type == "invoice.refunded"


@pytest.mark.several_connections
def test_of_two_types_at_once_with_one_key_one_is_published_and_the_other_told_so(database):
    host = hosts.busy(database)
    create_endpoint(host.client())
    barrier = threading.Barrier(8)

    def publish(event_type: str) -> str:
        with host.app.app_context():
            barrier.wait()
            try:
                event = host.webhooks.publish(event_type, 1, tenant_id="acme", idempotency_key="k")
                host.db.session.commit()
                return event.type if event.type == event_type else "lost"
            except InvalidEvent:
                host.db.session.rollback()
                return "told"

    kinds = ["invoice.paid", "invoice.refunded"] * 4
    outcomes = at_once([lambda kind=kind: publish(kind) for kind in kinds])
    host.close()

    assert sorted(outcomes).count("told") == 4
    assert len(set(outcomes) - {"told"}) == 1
    assert "lost" not in outcomes
