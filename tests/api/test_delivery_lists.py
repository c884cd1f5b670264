"""Lists of deliveries: of one endpoint and of a tenant, by status, type, time, event and endpoint."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from flask_webhook_endpoints.core import delivery_lists
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import PATH, change_endpoint, create_endpoint, pages
from tests.support.database import QUEUE, engine_of, execute, on_sqlite
from tests.support.deliveries import finish, lease, publish

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK, retry_schedule=[0, 60])

ALL = f"{PATH}/deliveries"
NO_ENDPOINT = "ep_00000000-0000-7000-8000-000000000000"
NO_EVENT = "evt_00000000-0000-7000-8000-000000000000"


def types(client: FlaskClient, path: str) -> list[str]:
    """Return the types of a list's events, of all its pages."""
    return [delivery["event_type"] for page in pages(client, path) for delivery in page]


@pytest.fixture
def publish_each(host, webhook_clock) -> Callable[..., None]:
    """Publish an event of each type, a second apart."""

    def publish_each(*event_types: str, tenant_id: str = "acme") -> None:
        for event_type in event_types:
            publish(host, event_type=event_type, tenant_id=tenant_id)
            webhook_clock.move(seconds=1)

    return publish_each


def test_the_list_of_a_tenant_has_the_deliveries_to_all_its_endpoints(acme, globex, publish_each):
    first, second = create_endpoint(acme, event_types=["a", "b"]), create_endpoint(acme, event_types=["b", "c"])
    foreign = create_endpoint(globex)
    publish_each(*"abc")
    publish_each("d", tenant_id="globex")

    shown = [delivery for page in pages(acme, f"{ALL}?limit=1") for delivery in page]

    assert [delivery["event_type"] for delivery in shown] == ["c", "b", "b", "a"]
    assert [delivery["endpoint_id"] for delivery in (shown[0], shown[-1])] == [second.id, first.id]
    assert {delivery["endpoint_id"] for delivery in shown[1:3]} == {first.id, second.id}
    assert acme.get(f"{first.path}/deliveries").json == [each for each in shown if each["endpoint_id"] == first.id]
    assert [delivery["endpoint_id"] for delivery in globex.get(ALL).json] == [foreign.id]


def test_the_list_of_a_tenant_without_deliveries_is_empty(acme):
    answer = acme.get(ALL)

    assert (answer.status_code, answer.json, "Link" in answer.headers) == (200, [], False)


def test_deliveries_of_deleted_endpoints_are_left_out_however_many_they_are(host, acme, publish_each, monkeypatch):
    monkeypatch.setattr(delivery_lists, "SCANNED", 4)
    kept, deleted = create_endpoint(acme, event_types=["a"]), create_endpoint(acme, event_types=["b"])
    publish_each("a", *"bbbbbbbbb")
    acme.delete(deleted.path)

    shown = list(pages(acme, f"{ALL}?limit=2"))

    assert [delivery["endpoint_id"] for page in shown for delivery in page] == [kept.id]
    # PostgreSQL looks at none of them; elsewhere, two pages have looked at deliveries that are not shown.
    is_postgresql = engine_of(host).dialect.name == "postgresql"
    assert [len(page) for page in shown] == ([1] if is_postgresql else [0, 0, 1])


@pytest.mark.parametrize("of_tenant", [False, True], ids=["endpoint", "tenant"])
def test_a_status_picks_deliveries(host, acme, webhook_receiver, of_tenant, publish_each):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    create_endpoint(acme, event_types=["none"])
    path = ALL if of_tenant else f"{endpoint.path}/deliveries"
    publish_each("delivered")
    assert drain(host.app) == 1
    for event_type, status in (("failed", DeliveryStatus.FAILED), ("expired", DeliveryStatus.EXPIRED)):
        publish_each(event_type)
        finish(host, status)
    publish_each("in_flight")
    lease(host, datetime.now(UTC) + timedelta(hours=1))
    publish_each("pending")

    def by_status() -> dict[str, list[str]]:
        return {status: types(acme, f"{path}?status={status}&limit=1") for status in [*DeliveryStatus, "HELD"]}

    assert by_status() == {
        "PENDING": ["pending", "in_flight"],
        "DELIVERED": ["delivered"],
        "FAILED": ["failed"],
        "CANCELLED": [],
        "EXPIRED": ["expired"],
        "HELD": [],
    }
    change_endpoint(acme, endpoint, status="PAUSED")
    assert by_status() | {"HELD": ["pending"], "PENDING": ["in_flight"]} == by_status()
    shown = {each["event_type"]: (each["status"], each["next_attempt_at"]) for each in acme.get(path).json}
    assert (shown["pending"], shown["in_flight"]) == (("HELD", None), ("PENDING", None))
    assert shown["failed"][0] == "FAILED"


def test_a_delivery_behind_a_rest_is_pending(host, acme):
    endpoint = create_endpoint(acme)
    publish(host)
    execute(host, sa.update(QUEUE).values(state=QueueState.HELD))

    (shown,) = acme.get(f"{endpoint.path}/deliveries?status=PENDING").json

    assert shown["status"] == "PENDING"
    assert shown["next_attempt_at"] is not None
    assert acme.get(f"{endpoint.path}/deliveries?status=HELD").json == []


@pytest.mark.parametrize("few", [0, 1000])
def test_many_pending_deliveries_are_found_among_those_of_the_log(host, acme, publish_each, monkeypatch, few):
    monkeypatch.setattr(delivery_lists, "FEW", few)
    endpoint = create_endpoint(acme)
    publish_each(*"ab")
    finish(host)
    publish_each(*"cd")
    change_endpoint(acme, endpoint, status="PAUSED")

    assert types(acme, f"{ALL}?status=HELD&limit=1") == ["d", "c"]
    assert types(acme, f"{endpoint.path}/deliveries?status=HELD&limit=1") == ["d", "c"]
    assert types(acme, f"{ALL}?status=PENDING") == []


def test_a_redelivered_delivery_is_failed_no_more(host, acme):
    endpoint = create_endpoint(acme)
    publish(host)
    finish(host)
    (failed,) = acme.get(f"{ALL}?status=FAILED").json

    assert acme.post(f"{endpoint.path}/deliveries/{failed['id']}/redeliver").status_code == 202

    assert acme.get(f"{ALL}?status=FAILED").json == []
    assert [each["id"] for each in acme.get(f"{ALL}?status=PENDING").json] == [failed["id"]]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("invoice.paid", ["invoice.paid"]),
        ("invoice.*", ["invoice.paid.late", "invoice.paid"]),
        ("invoice.paid.*", ["invoice.paid.late"]),
        ("Invoice.paid", ["Invoice.paid"]),
        ("invoice", ["invoice"]),
        ("in_oice.*", []),
        ("paid", []),
        ("webhook.ping", ["webhook.ping"]),
    ],
)
def test_an_event_type_picks_deliveries_exactly(acme, publish_each, pattern, expected):
    endpoint = create_endpoint(acme)
    publish_each("invoice", "invoice.paid", "Invoice.paid", "invoices.paid", "invoice.paid.late")
    acme.post(f"{endpoint.path}/ping")

    assert types(acme, f"{ALL}?event_type={pattern}&limit=1") == expected
    assert types(acme, f"{endpoint.path}/deliveries?event_type={pattern}") == expected


def test_a_rare_type_is_found_behind_pages_that_are_empty(acme, publish_each, monkeypatch):
    monkeypatch.setattr(delivery_lists, "SCANNED", 3)
    create_endpoint(acme)
    publish_each("rare", *["usual"] * 7)

    shown = list(pages(acme, f"{ALL}?event_type=rare&limit=1"))

    assert [len(page) for page in shown] == [0, 0, 1]


def test_a_time_is_that_of_publication(acme, host, publish_each, webhook_clock):
    endpoint = create_endpoint(acme)
    publish_each(*"abcd")
    # When the attempts were made and finished does not count.
    finish(host)
    times = {each["event_type"]: each["created_at"] for each in acme.get(ALL).json}

    for path in (ALL, f"{endpoint.path}/deliveries"):
        assert types(acme, f"{path}?since={times['b']}&limit=1") == ["d", "c", "b"]
        assert types(acme, f"{path}?until={times['c']}") == ["b", "a"]
        assert types(acme, f"{path}?since={times['b']}&until={times['c']}") == ["b"]
        assert types(acme, f"{path}?since={times['b']}&until={times['d']}&status=FAILED&limit=1") == ["c", "b"]
    moment = datetime.fromisoformat(times["b"])
    elsewhere = quote(moment.astimezone(tz=None).isoformat())
    assert types(acme, f"{ALL}?since={elsewhere}") == ["d", "c", "b"]
    assert types(acme, f"{ALL}?since={quote((moment + timedelta(microseconds=1)).isoformat())}") == ["d", "c"]
    assert types(acme, f"{ALL}?since=1066-10-14T09:00:00Z") == [*"dcba"]
    assert types(acme, f"{ALL}?until=0001-01-01T00:00:00Z") == []
    assert types(acme, f"{ALL}?since=9999-12-31T23:59:59.999999Z") == []
    assert types(acme, f"{ALL}?since={times['c']}&until={times['b']}") == []


def test_an_event_picks_its_deliveries(acme, globex, host):
    endpoints = [create_endpoint(acme), create_endpoint(acme)]
    create_endpoint(globex)
    first, _ = publish(host, 1, 2)
    (foreign,) = publish(host, tenant_id="globex")

    shown = [delivery for page in pages(acme, f"{ALL}?event_id={first}&limit=1") for delivery in page]

    assert {each["endpoint_id"] for each in shown} == {endpoint.id for endpoint in endpoints}
    assert {each["event_id"] for each in shown} == {first}
    (one,) = acme.get(f"{endpoints[0].path}/deliveries?event_id={first}").json
    assert one["endpoint_id"] == endpoints[0].id
    assert acme.get(f"{ALL}?event_id={foreign}").data == acme.get(f"{ALL}?event_id={NO_EVENT}").data == b"[]"


def test_an_endpoint_picks_its_deliveries_in_the_tenants_list(acme, globex, host):
    first, _ = create_endpoint(acme), create_endpoint(acme)
    create_endpoint(globex)
    publish(host, 1, 2, 3)
    publish(host, 1, 2, 3, tenant_id="globex")

    of_first = list(pages(acme, f"{ALL}?endpoint_id={first.id}&limit=2"))

    assert [len(page) for page in of_first] == [2, 1]
    assert [each for page in of_first for each in page] == acme.get(f"{first.path}/deliveries").json


@pytest.mark.parametrize("query", ["", *(f"&{each}" for each in ("status=FAILED", "status=HELD", "event_type=a"))])
def test_a_foreign_endpoint_and_an_unknown_one_give_equal_bytes(acme, globex, host, query, monkeypatch):
    monkeypatch.setattr(delivery_lists, "SCANNED", 1)
    foreign = create_endpoint(globex)
    publish(host, 1, 2, 3, tenant_id="globex")

    # Fewer than there are, so that a link would tell of more.
    answers = [acme.get(f"{ALL}?endpoint_id={ep_id}&limit=1{query}") for ep_id in (foreign.id, NO_ENDPOINT)]

    assert {(answer.status_code, answer.data) for answer in answers} == {(200, b"[]")}
    assert answers[0].headers.to_wsgi_list() == answers[1].headers.to_wsgi_list()
    of_one = [acme.get(f"{PATH}/{ep_id}/deliveries?{query[1:]}") for ep_id in (foreign.id, NO_ENDPOINT)]
    assert {answer.status_code for answer in of_one} == {404}
    assert of_one[0].data == of_one[1].data


@on_sqlite
@pytest.mark.parametrize(
    "query",
    [
        "colour=blue",
        "Status=FAILED",
        "limit=0",
        "cursor=1",
        "status=held",
        "status=FAILED&status=EXPIRED",
        "event_type=",
        "event_type=invoice*",
        "event_type=*",
        "event_type=%00",
        f"event_type={'a' * 129}",
        "event_id=1",
        f"event_id={NO_ENDPOINT}",
        "since=2026-01-01",
        "since=1",
        "since=2026-01-01T00:00:00",
        "since=2026-01-01T00:00:00+00:00",  # a space, as it arrives
        "since=2026-02-30T00:00:00Z",
        "since=2026-W01-1T00:00:00Z",
        "since=0001-01-01T00:00:00%2B23:59",
        "since=٢٠٢٦-01-01T00:00:00Z",
        "until=",
        "until=9999-12-31T23:59:59-23:59",
    ],
)
def test_a_query_that_breaks_its_rule_is_422_and_says_which(acme, query):
    path = create_endpoint(acme).path

    for answer in (acme.get(f"{ALL}?{query}"), acme.get(f"{path}/deliveries?{query}")):
        assert answer.status_code == 422
        assert list(answer.json["errors"]) == [query.partition("=")[0]]


def test_the_list_of_one_endpoint_takes_no_endpoint_id(acme):
    endpoint = create_endpoint(acme)

    assert acme.get(f"{endpoint.path}/deliveries?endpoint_id={endpoint.id}").status_code == 422
    for odd in ("1", "deliveries", endpoint.id.upper()):
        assert acme.get(f"{ALL}?endpoint_id={odd}").status_code == 422


def test_a_list_shows_the_last_attempt(host, acme, webhook_receiver):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(503)
    publish(host)
    drain(host.app)

    (shown,) = acme.get(f"{endpoint.path}/deliveries").json

    (attempt,) = acme.get(f"{endpoint.path}/deliveries/{shown['id']}").json["attempt_log"]
    assert shown["last_attempt_at"] == attempt["started_at"]
    assert (shown["last_response_status"], shown["last_error"]) == (503, None)


def test_the_path_of_the_list_takes_no_other_method(acme):
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = acme.open(ALL, method=method)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert acme.options(ALL).headers["Allow"] == "GET, HEAD, OPTIONS"
    assert acme.get(f"{ALL}/x").status_code == 404
