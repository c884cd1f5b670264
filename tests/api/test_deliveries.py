"""Deliveries as their tenant sees them: listed, read, sent again, pinged."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from flask_webhook_endpoints.core import delivery_lists
from flask_webhook_endpoints.database.models import (
    DeliveryStatus,
    QueueState,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    new_id,
)
from flask_webhook_endpoints.state import state_of
from flask_webhook_endpoints.testing import Receiver, drain
from tests.support import deliveries, hosts
from tests.support.api import PATH, Endpoint, create_endpoint, next_link, pages
from tests.support.database import (
    ATTEMPT,
    DELIVERY,
    QUEUE,
    REDELIVERY_COUNT,
    UNDELIVERED,
    WHOLE,
    engine_of,
    execute,
    on_sqlite,
    plan,
    statements_of,
)
from tests.support.deliveries import finish, publish

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK, retry_schedule=[0, 60])

SECRET = "a secret of acme's own"
NO_ENDPOINT = "ep_00000000-0000-7000-8000-000000000000"
NO_DELIVERY = "dlv_00000000-0000-7000-8000-000000000000"


def publish_in_order(host: hosts.Host, *event_types: str) -> None:
    """Publish an event of each type, whose ids sort as they were published."""
    for event_type in event_types:
        publish(host, event_type=event_type)
        # Ids have the millisecond, and are in no order within it.
        published = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == published:
            pass


def the_one(client: FlaskClient, path: str) -> str:
    """Return the path of the endpoint's only delivery."""
    (delivery,) = client.get(f"{path}/deliveries").json
    return f"{path}/deliveries/{delivery['id']}"


def claim(host: hosts.Host) -> int:
    """Claim what is due, as a worker does that then hangs."""
    state = state_of(host.app)
    with host.app.app_context():
        claimed = deliveries.claim(state.scope()).deliveries
        host.db.session.commit()
        return len(claimed)


def test_a_list_shows_the_newest_first(host, acme):
    path = create_endpoint(acme).path
    publish_in_order(host, "a", "b", "c")

    answer = acme.get(f"{path}/deliveries")

    assert answer.status_code == 200
    assert [delivery["event_type"] for delivery in answer.json] == ["c", "b", "a"]
    newest = answer.json[0]
    assert newest == {
        "id": newest["id"],
        "event_id": newest["event_id"],
        "event_type": "c",
        "status": "PENDING",
        "attempts": 0,
        "next_attempt_at": newest["created_at"],
        "created_at": newest["created_at"],
        "finished_at": None,
        "last_attempt_at": None,
        "last_response_status": None,
        "last_error": None,
        "endpoint_id": path.rpartition("/")[2],
    }
    assert re.fullmatch(r"dlv_[0-9a-f-]{36} evt_[0-9a-f-]{36}", f"{newest['id']} {newest['event_id']}")


def test_a_list_is_of_one_endpoint(host, acme):
    paths = [create_endpoint(acme, event_types=[event_type]).path for event_type in "ab"]
    publish_in_order(host, "a", "b", "b")

    shown = [[delivery["event_type"] for delivery in acme.get(f"{path}/deliveries").json] for path in paths]

    assert shown == [["a"], ["b", "b"]]


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 6), (4, [4, 2]), (6, [6]), (250, [6])])
def test_following_the_links_shows_each_delivery_once(host, acme, limit, sizes):
    path = create_endpoint(acme).path
    publish_in_order(host, *"abcdef")

    shown = list(pages(acme, f"{path}/deliveries?limit={limit}"))

    assert [len(page) for page in shown] == sizes
    assert [delivery["event_type"] for page in shown for delivery in page] == list("fedcba")


def test_a_page_without_limit_has_fifty(host, acme):
    path = create_endpoint(acme).path
    publish_in_order(host, *["a"] * 51)

    first = acme.get(f"{path}/deliveries")

    assert len(first.json) == 50
    assert len(acme.get(next_link(first)).json) == 1


def test_pages_are_stable_while_deliveries_come(host, acme):
    path = create_endpoint(acme).path
    publish_in_order(host, *"abc")
    shown = []

    for page in pages(acme, f"{path}/deliveries?limit=1"):
        shown += [delivery["event_type"] for delivery in page]
        publish(host, event_type="later")

    assert shown == ["c", "b", "a"]


def test_a_status_picks_deliveries_on_every_page(host, acme, webhook_receiver):
    path = create_endpoint(acme, webhook_receiver.url).path
    publish_in_order(host, "a", "b")
    assert drain(host.app) == 2
    publish_in_order(host, "c", "d")

    def types(query: str) -> list[str]:
        return [
            delivery["event_type"] for page in pages(acme, f"{path}/deliveries?limit=1&{query}") for delivery in page
        ]

    assert types("status=DELIVERED") == ["b", "a"]
    assert types("status=PENDING") == ["d", "c"]
    assert types("status=FAILED") == []


@on_sqlite
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=251",
        "limit=",
        "limit=1.0",
        "cursor=",
        "cursor=1",
        f"cursor={NO_ENDPOINT}",
        "status=SENDING",
        "status=pending",
        "status=",
    ],
)
def test_a_query_that_breaks_its_rule_is_422_and_says_which(acme, query):
    answer = acme.get(f"{create_endpoint(acme).path}/deliveries?{query}")

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == [query.partition("=")[0]]


def test_an_endpoint_without_deliveries_has_an_empty_list(acme):
    answer = acme.get(f"{create_endpoint(acme).path}/deliveries")

    assert (answer.status_code, answer.json, "Link" in answer.headers) == (200, [], False)


def test_a_delivery_is_shown_with_its_body_and_every_attempt(host, acme, webhook_receiver, webhook_clock):
    path = create_endpoint(acme, webhook_receiver.url).path
    webhook_receiver.answer(500, 204)
    publish(host, {"id": 7})
    drain(host.app)
    webhook_clock.move(minutes=2)
    drain(host.app)
    one = the_one(acme, path)

    shown = acme.get(one).json

    (listed,) = acme.get(f"{path}/deliveries").json
    assert {name: shown[name] for name in listed} == listed
    assert (listed["status"], listed["attempts"], listed["next_attempt_at"]) == ("DELIVERED", 2, None)
    assert listed["finished_at"] > listed["created_at"]
    assert {received.body for received in webhook_receiver.received} == {shown["body"].encode()}
    assert json.loads(shown["body"])["data"] == {"id": 7}
    first, second = shown["attempt_log"]
    assert [first["number"], first["response_status"], first["error"]] == [1, 500, None]
    assert [second["number"], second["response_status"], second["error"]] == [2, 204, None]
    assert second["started_at"] > first["started_at"] > listed["created_at"]
    assert 0 <= first["duration_ms"] < 10_000
    assert first["response_excerpt"] is None


def test_an_attempt_without_a_response_says_why(host, acme):
    with closing(Receiver()) as gone:
        url = gone.url
    path = create_endpoint(acme, url).path
    publish(host)
    drain(host.app)

    (attempt,) = acme.get(the_one(acme, path)).json["attempt_log"]

    assert attempt["response_status"] is None
    assert attempt["error"]


def test_an_attempt_shows_what_the_response_says_of_itself(host, acme, webhook_receiver):
    path = create_endpoint(acme, webhook_receiver.url).path
    webhook_receiver.answer(301, headers={"Location": "https://example.com/new", "X-Other": "1"})
    publish(host)
    drain(host.app)

    (attempt,) = acme.get(the_one(acme, path)).json["attempt_log"]

    assert attempt["url"] is None
    assert attempt["response_headers"]["location"] == "https://example.com/new"
    assert set(attempt["response_headers"]) <= {"content-type", "location", "retry-after", "server"}


def test_an_attempt_names_its_url_once_the_endpoint_has_another(host, acme, webhook_receiver, webhook_clock):
    path = create_endpoint(acme, f"{webhook_receiver.url}old?key=1").path
    webhook_receiver.answer(500, 204)
    publish(host)
    drain(host.app)
    acme.patch(path, json={"url": f"{webhook_receiver.url}new"})
    webhook_clock.move(minutes=2)
    drain(host.app)

    shown = acme.get(the_one(acme, path)).json

    assert [attempt["url"] for attempt in shown["attempt_log"]] == [f"{webhook_receiver.url}old?key=1", None]
    assert shown["request"]["url"] == f"{webhook_receiver.url}new"
    # A success needs no explanation.
    assert shown["attempt_log"][1]["response_headers"] is None


def test_the_request_is_shown_as_it_was_sent_without_its_signature(host, acme, webhook_receiver):
    path = create_endpoint(acme, webhook_receiver.url, headers_json={"Authorization": "Bearer of acme's"}).path
    publish(host)
    one = the_one(acme, path)
    before = acme.get(one)
    drain(host.app)

    after = acme.get(one)

    (received,) = webhook_receiver.received
    shown = after.json["request"]
    assert (shown["method"], shown["url"]) == ("POST", webhook_receiver.url)
    assert shown["headers"].pop("webhook-signature") == "***"
    sent = {name.lower(): value for name, value in received.headers.items()}
    assert {name.lower(): value for name, value in shown["headers"].items()}.items() <= sent.items()
    assert set(sent) - {name.lower() for name in shown["headers"]} == {
        "host",
        "content-length",
        "webhook-signature",
    } | ({"connection", "accept"} & set(sent))
    assert "webhook-timestamp" not in before.json["request"]["headers"]
    assert after.headers["Cache-Control"] == before.headers["Cache-Control"] == "no-store"


def test_headers_whose_key_is_lost_are_left_out_of_the_request(host, acme):
    path = create_endpoint(acme, headers_json={"X-Key": "v"}).path
    publish(host)
    execute(host, sa.update(WebhookEndpoint).values(headers_encrypted="lost"))

    shown = acme.get(the_one(acme, path))

    assert shown.status_code == 200
    assert "X-Key" not in shown.json["request"]["headers"]


@pytest.mark.host(allowed_networks=hosts.LOOPBACK, retry_schedule=[0, 60, 600], retry_jitter=0)
def test_the_attempts_to_come_follow_from_the_schedule(host, acme, webhook_receiver, webhook_clock):
    path = create_endpoint(acme, webhook_receiver.url).path
    webhook_receiver.answer(500)
    publish(host)
    one = the_one(acme, path)

    def planned() -> list[float]:
        shown = acme.get(one).json
        assert shown["planned_attempts"][:1] == [shown["next_attempt_at"]][: len(shown["planned_attempts"])]
        created = datetime.fromisoformat(shown["created_at"])
        return [
            round((datetime.fromisoformat(moment) - created).total_seconds()) for moment in shown["planned_attempts"]
        ]

    assert planned() == pytest.approx([0, 60, 660], abs=20)
    drain(host.app)
    assert planned() == pytest.approx([60, 660], abs=20)
    acme.patch(path, json={"status": "PAUSED"})
    assert acme.get(one).json["planned_attempts"] == []
    acme.patch(path, json={"status": "ACTIVE"})
    webhook_clock.move(seconds=61)
    drain(host.app)
    assert planned() == pytest.approx([661], abs=20)
    webhook_clock.move(seconds=601)
    drain(host.app)
    assert planned() == []
    assert acme.post(f"{one}/redeliver").status_code == 202
    assert len(acme.get(one).json["planned_attempts"]) == 3


def test_of_a_delivery_in_flight_the_following_attempts_are_planned(host, acme):
    path = create_endpoint(acme).path
    publish(host)
    one = the_one(acme, path)
    assert claim(host) == 1

    assert len(acme.get(one).json["planned_attempts"]) == 1


@pytest.mark.host(allowed_networks=hosts.LOOPBACK, retry_schedule=[0])
def test_the_last_hundred_attempts_are_kept_however_often_it_is_sent_again(host, acme, webhook_receiver, monkeypatch):
    monkeypatch.setattr("flask_webhook_endpoints.core.attempts.MAX_LOGGED", 3)
    path = create_endpoint(acme, webhook_receiver.url).path
    webhook_receiver.answer(500)
    publish(host)
    one = the_one(acme, path)
    for _ in range(4):
        assert drain(host.app) == 1
        assert acme.post(f"{one}/redeliver").status_code == 202
    drain(host.app)

    shown = acme.get(one).json

    assert shown["attempts"] == 5
    assert [attempt["number"] for attempt in shown["attempt_log"]] == [3, 4, 5]


# A first attempt that succeeds stands in the log alone.
@pytest.mark.parametrize(
    ("status", "column"), [(200, DELIVERY.c.last_response_excerpt), (500, ATTEMPT.c.response_excerpt)], ids=str
)
def test_an_excerpt_that_is_not_utf_8_is_shown_as_text(host, acme, webhook_receiver, status, column):
    path = create_endpoint(acme, webhook_receiver.url).path
    webhook_receiver.answer(status)
    publish(host)
    drain(host.app)
    excerpt = b"\x00caf\xe9 \xff" + "ü".encode() + "ü".encode()[:1]
    execute(host, sa.update(column.table).values({column: excerpt}))

    (attempt,) = acme.get(the_one(acme, path)).json["attempt_log"]

    assert attempt["response_excerpt"] == "\x00caf\ufffd \ufffdü\ufffd"


def test_a_delivery_in_flight_is_shown_as_pending_and_not_restarted(host, acme):
    path = create_endpoint(acme).path
    publish(host)
    one = the_one(acme, path)
    assert claim(host) == 1

    refused = acme.post(f"{one}/redeliver")

    assert refused.status_code == 409
    assert "being attempted" in refused.json["detail"]
    shown = acme.get(one).json
    assert (shown["status"], shown["attempts"], shown["next_attempt_at"]) == ("PENDING", 1, None)
    assert shown["attempt_log"] == []
    assert len(acme.get(f"{path}/deliveries?status=PENDING").json) == 1


@pytest.mark.parametrize(
    "fate", [([200], "DELIVERED"), ([500, 500], "FAILED"), ([500], "PENDING")], ids=lambda fate: fate[1]
)
def test_a_redelivery_has_the_same_webhook_id_and_body_and_a_new_signature(
    host, acme, webhook_receiver, webhook_clock, fate
):
    answers, status = fate
    webhook_receiver.now = webhook_clock
    path = create_endpoint(acme, webhook_receiver.url, secret=SECRET).path
    publish(host)
    for answer in answers:
        webhook_receiver.answer(answer)
        drain(host.app)
        webhook_clock.move(seconds=75)
    one = the_one(acme, path)
    assert acme.get(one).json["status"] == status
    webhook_clock.move(hours=-1)
    assert drain(host.app) == 0
    webhook_receiver.answer(200)

    answer = acme.post(f"{one}/redeliver")

    assert answer.status_code == 202
    assert answer.json["status"] == "PENDING"
    assert answer.json["finished_at"] is None
    assert drain(host.app) == 1
    first, *_, again = webhook_receiver.received
    again.verify(SECRET)
    assert (again.id, again.body) == (first.id, first.body)
    assert again.headers["webhook-timestamp"] != first.headers["webhook-timestamp"]
    assert again.headers["webhook-signature"] != first.headers["webhook-signature"]
    shown = acme.get(one).json
    assert (shown["status"], shown["attempts"]) == ("DELIVERED", len(webhook_receiver.received))
    assert again.id == shown["event_id"]


def test_an_expired_delivery_is_redelivered(host, acme, webhook_receiver):
    path = create_endpoint(acme, webhook_receiver.url).path
    publish(host)
    finish(host, DeliveryStatus.EXPIRED, attempts=0)
    one = the_one(acme, path)
    assert acme.get(one).json["status"] == "EXPIRED"

    assert acme.post(f"{one}/redeliver").status_code == 202

    assert drain(host.app) == 1
    assert acme.get(one).json["status"] == "DELIVERED"


def test_a_redelivery_has_the_whole_schedule_and_keeps_the_attempts_before(host, acme, webhook_receiver, webhook_clock):
    path = create_endpoint(acme, webhook_receiver.url).path
    webhook_receiver.answer(500)
    publish(host)

    def exhaust() -> int:
        attempts = 0
        while sent := drain(host.app):
            attempts += sent
            webhook_clock.move(minutes=5)
        return attempts

    assert exhaust() == 2
    one = the_one(acme, path)
    assert acme.get(one).json["status"] == "FAILED"
    assert acme.post(f"{one}/redeliver").status_code == 202
    assert exhaust() == 2

    shown = acme.get(one).json
    assert (shown["status"], shown["attempts"]) == ("FAILED", 4)
    assert [attempt["number"] for attempt in shown["attempt_log"]] == [1, 2, 3, 4]


def test_a_ping_reaches_its_endpoint_alone_whatever_events_that_wants(host, acme, webhook_receiver):
    path = create_endpoint(acme, f"{webhook_receiver.url}pinged", event_types=["invoice.*"], secret=SECRET).path
    other = create_endpoint(acme, f"{webhook_receiver.url}other").path

    answer = acme.post(f"{path}/ping")

    assert answer.status_code == 202
    assert (answer.json["event_type"], answer.json["status"]) == ("webhook.ping", "PENDING")
    assert acme.get(f"{path}/deliveries").json == [answer.json]
    assert acme.get(f"{other}/deliveries").json == []
    assert drain(host.app) == 1
    (received,) = webhook_receiver.received
    received.verify(SECRET)
    assert (received.path, received.id, received.type) == ("/pinged", answer.json["event_id"], "webhook.ping")
    assert received.data == {"endpoint_id": path.rpartition("/")[2]}


@pytest.mark.several_connections
def test_an_endpoint_has_one_ping_waiting_at_most(host, acme, globex, webhook_receiver):
    path = create_endpoint(acme, webhook_receiver.url).path
    other = create_endpoint(acme, webhook_receiver.url).path

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: host.client().post(f"{path}/ping"), range(8)))

    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    assert {answer.json["code"] for answer in answers if answer.status_code == 409} == {"event_waiting"}
    assert acme.post(f"{other}/ping").status_code == 202
    assert drain(host.app) == 2
    for _ in range(2):
        # The result is there, so the next may come.
        assert acme.post(f"{path}/ping").status_code == 202
        assert acme.post(f"{path}/ping").status_code == 409
        assert drain(host.app) == 1


def test_a_paused_endpoint_is_neither_pinged_nor_redelivered_to(host, acme, webhook_receiver):
    path = create_endpoint(acme, webhook_receiver.url).path
    publish(host)
    drain(host.app)
    one = the_one(acme, path)
    before = acme.get(one).json
    acme.patch(path, json={"status": "PAUSED"})

    refused = [acme.post(f"{path}/ping"), acme.post(f"{one}/redeliver")]

    assert [answer.status_code for answer in refused] == [409, 409]
    assert {answer.json["detail"] for answer in refused} == {"The endpoint is paused; resume it first."}
    assert acme.get(one).json == before
    with host.app.app_context():
        assert host.db.session.scalar(sa.select(sa.func.count()).select_from(WebhookEvent)) == 1
    acme.patch(path, json={"status": "ACTIVE"})
    assert drain(host.app) == 0


def test_a_deleted_endpoint_shows_no_deliveries(host, acme):
    path = create_endpoint(acme).path
    publish(host)
    one = the_one(acme, path)
    acme.delete(path)

    for answer in every_route(acme, path, one):
        assert (answer.status_code, answer.json["detail"]) == (404, "No such endpoint.")
    assert drain(host.app) == 0


def every_route(client: FlaskClient, path: str, one: str) -> list[Any]:
    return [
        client.get(f"{path}/deliveries"),
        client.post(f"{path}/ping"),
        client.get(one),
        client.post(f"{one}/redeliver"),
        client.post(f"{path}/recover", json={"since": "2026-01-01T00:00:00Z"}),
        client.post(f"{path}/recover", json={"since": "2026-01-01T00:00:00Z", "dry_run": True}),
    ]


def test_a_foreign_endpoint_and_an_unknown_one_give_equal_bytes(host, acme, globex):
    path = create_endpoint(acme).path
    publish(host)
    one = the_one(acme, path)
    before = acme.get(one).json
    nowhere = f"{PATH}/{NO_ENDPOINT}"

    foreign = every_route(globex, path, one)
    unknown = every_route(globex, nowhere, f"{nowhere}/deliveries/{NO_DELIVERY}")

    assert {answer.status_code for answer in foreign} == {404}
    assert [answer.data for answer in foreign] == [answer.data for answer in unknown]
    assert [list(answer.headers) for answer in foreign] == [list(answer.headers) for answer in unknown]
    assert [acme.get(one).json] == [before]
    assert len(acme.get(f"{path}/deliveries").json) == 1


def test_a_foreign_delivery_and_an_unknown_one_give_equal_bytes(host, acme, globex):
    foreign_path, path, sibling = create_endpoint(acme).path, create_endpoint(globex).path, create_endpoint(globex).path
    publish(host)
    publish(host, tenant_id="globex")
    foreign = the_one(acme, foreign_path)
    ids = [one.rpartition("/")[2] for one in (foreign, the_one(globex, sibling))]

    def asked(dlv_id: str) -> list[Any]:
        one = f"{path}/deliveries/{dlv_id}"
        return [globex.get(one), globex.post(f"{one}/redeliver")]

    unknown = asked(NO_DELIVERY)
    assert {answer.status_code for answer in unknown} == {404}
    assert {answer.json["detail"] for answer in unknown} == {"No such delivery."}
    for dlv_id in [*ids, "1", ids[0].upper(), ids[0].replace("dlv_", "ep_")]:
        assert [answer.data for answer in asked(dlv_id)] == [answer.data for answer in unknown]
        assert [list(answer.headers) for answer in asked(dlv_id)] == [list(answer.headers) for answer in unknown]


def test_the_cursor_of_another_tenants_delivery_shows_nothing_of_it(host, acme, globex):
    path, foreign = create_endpoint(acme).path, create_endpoint(globex).path
    publish(host, event_type="a")
    publish(host, event_type="b", tenant_id="globex")
    cursor = the_one(globex, foreign).rpartition("/")[2]

    shown = acme.get(f"{path}/deliveries?cursor={cursor}").json

    assert [delivery["event_type"] for delivery in shown] == ["a"]


def test_a_request_costs_as_many_statements_as_promised(host, acme):
    path, empty = create_endpoint(acme).path, create_endpoint(acme, event_types=["none"]).path
    publish_in_order(host, *"abc")
    one = f"{path}/deliveries/{acme.get(f'{path}/deliveries').json[0]['id']}"
    unknown = f"{path}/deliveries/{NO_DELIVERY}"
    is_postgresql = engine_of(host).dialect.name == "postgresql"

    def cost(method: str, path: str, status: int) -> int:
        with statements_of(host) as statements:
            assert acme.open(path, method=method).status_code == status
        return len(statements)

    # A page that is not full asks whether more follow.
    assert cost("GET", f"{path}/deliveries?limit=2", 200) == 1
    assert cost("GET", f"{path}/deliveries", 200) == 2
    # PostgreSQL merges the lists of the endpoints: their number, and the ids.
    merging = 2 if is_postgresql else 0
    assert cost("GET", f"{PATH}/deliveries?limit=2", 200) == 1 + merging
    assert cost("GET", f"{PATH}/deliveries?event_type=a", 200) == 2 + merging
    assert cost("GET", f"{path}/deliveries?limit=2&status=FAILED", 200) == 3
    # What is in the queue.
    assert cost("GET", f"{path}/deliveries?limit=1&status=PENDING", 200) == 2
    assert cost("GET", f"{empty}/deliveries", 200) == 3
    assert cost("GET", f"{PATH}/{NO_ENDPOINT}/deliveries", 404) == 3
    assert cost("GET", one, 200) == 2
    assert cost("GET", unknown, 404) == 2
    assert cost("GET", f"{path}/deliveries/1", 404) == 0
    # The count of the minute, which a tenant's first redelivery inserts; the delivery, and what was made of it.
    assert cost("POST", f"{one}/redeliver", 202) == 4
    assert cost("POST", f"{one}/redeliver", 202) == 3
    # A delivery that is not in the queue may be in the log; on MariaDB first whether it is undelivered.
    asks = int(engine_of(host).dialect.name == "mysql")
    assert cost("POST", f"{unknown}/redeliver", 404) == 5 + asks
    # The delivery in log and queue, the event, and what was made of them; on MariaDB first whether it is active.
    most = {"postgresql": 3, "sqlite": 4}.get(engine_of(host).dialect.name, 5)
    assert cost("POST", f"{path}/ping", 202) == most
    acme.patch(path, json={"status": "PAUSED"})
    assert cost("POST", f"{path}/ping", 409) == 2
    assert cost("POST", f"{one}/redeliver", 409) == 4 + asks
    acme.patch(path, json={"status": "ACTIVE"})
    finish(host)
    # The count, one in the queue, one in the log, its last attempt, back into the queue, among the undelivered no more,
    # and what was made of it.
    assert cost("POST", f"{one}/redeliver", 202) == 7 + asks
    next_minute = (datetime.now(UTC) + timedelta(minutes=1)).replace(second=0, microsecond=0)
    execute(host, sa.update(REDELIVERY_COUNT).values(redeliveries=60, minute=next_minute))
    assert cost("POST", f"{one}/redeliver", 429) == 3


FEW = r"'SCAN (looked|few_)|<derived"
"""Steps of a plan that read the candidates of a page, which are few."""

ENDPOINTS = 1000
BUSY = 50
DELIVERIES = 5000


def fill(host: hosts.Host) -> None:
    """Give every twentieth of acme's endpoints a hundred deliveries, each with an attempt; most are pending."""
    now = datetime.now(UTC)
    endpoint = {"tenant_id": "acme", "name": "n", "url": "https://example.com/", "timeout_seconds": 10, "version": 1}
    endpoint |= {"created_at": now, "updated_at": now}
    endpoints = [{**endpoint, "id": new_id()} for _ in range(ENDPOINTS)]
    events, deliveries, attempts, queued = [], [], [], []
    for number in range(DELIVERIES):
        event = {"id": new_id(), "tenant_id": "acme", "type": "a", "body": b"{}", "created_at": now}
        delivery = {
            "id": new_id(),
            "tenant_id": "acme",
            "event_id": event["id"],
            "endpoint_id": endpoints[number % BUSY * (ENDPOINTS // BUSY)]["id"],
            "status": DeliveryStatus.DELIVERED if number % 9 else DeliveryStatus.FAILED,
            "attempts": 1,
            "created_at": now,
            "finished_at": now,
        }
        if number // BUSY % 5 != 4:
            delivery |= {"status": DeliveryStatus.PENDING, "finished_at": None}
            row = {name: delivery[name] for name in ("tenant_id", "endpoint_id", "attempts")}
            row |= {"state": QueueState.WAITING, "due_at": now, "attempts_before": 0}
            queued.append({"delivery_id": delivery["id"], **row})
        events.append(event)
        deliveries.append(delivery)
        attempts.append({"delivery_id": delivery["id"], "number": 1, "started_at": now, "duration_ms": 1})
    with host.app.app_context():
        session = host.db.session
        session.execute(sa.insert(WebhookEndpoint), endpoints)
        foreign = [{**endpoint, "id": new_id(), "tenant_id": f"globex-{n}"} for n in range(5 * ENDPOINTS)]
        session.execute(sa.insert(WebhookEndpoint), foreign)
        session.execute(sa.insert(WebhookEvent), events)
        session.execute(sa.insert(WebhookDelivery), deliveries)
        session.execute(sa.insert(WebhookAttempt), attempts)
        session.execute(sa.insert(QUEUE), queued)
        noted = sa.select(DELIVERY.c.id, DELIVERY.c.tenant_id, DELIVERY.c.endpoint_id, DELIVERY.c.status)
        failed = noted.where(DELIVERY.c.status == DeliveryStatus.FAILED)
        session.execute(sa.insert(UNDELIVERED).from_select([column.name for column in UNDELIVERED.c], failed))
        # Those of others, or PostgreSQL reads tables whole because they are small, or all of them is acme's.
        others = [{"delivery_id": new_id(), "tenant_id": f"globex-{n}", "endpoint_id": new_id()} for n in range(20_000)]
        session.execute(sa.insert(UNDELIVERED), [{**each, "status": DeliveryStatus.FAILED} for each in others])
        state = {"state": QueueState.WAITING, "due_at": now, "attempts": 0, "attempts_before": 0}
        session.execute(sa.insert(QUEUE), [{**each, **state} for each in others])
        session.commit()
        for name in ("endpoint", "event", "delivery", "attempt", "queue", "undelivered"):
            word = "ANALYZE TABLE" if session.get_bind().dialect.name == "mysql" else "ANALYZE"
            session.execute(sa.text(f"{word} webhook_{name}")).close()
        session.commit()


@pytest.mark.several_connections
def test_at_size_every_statement_of_every_route_uses_an_index(host, acme):
    fill(host)
    path = f"{PATH}/{acme.get(PATH).json[ENDPOINTS // BUSY]['id']}"
    with host.app.app_context():
        backend = host.db.engine.dialect.name

    with statements_of(host) as listed:
        page = acme.get(f"{path}/deliveries?limit=10")
        assert len(acme.get(next_link(page)).json) == 10
    with statements_of(host) as others:
        one = f"{path}/deliveries/{page.json[0]['id']}"
        answers = [
            acme.get(f"{path}/deliveries?status=FAILED"),
            acme.get(f"{path}/deliveries?status=EXPIRED"),
            acme.get(one),
            acme.post(f"{one}/redeliver"),
            acme.post(f"{path}/ping"),
            acme.post(f"{path}/ping"),
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 202, 202, 409]
    plans = [plan(host, *statement) for statement in listed]
    assert len(plans) == 2
    for steps in plans:
        assert "ix_webhook_delivery_endpoint_id_id" in steps
    # An INSERT of values reads nothing.
    reading = [other for other in others if not re.match("INSERT (IGNORE )?INTO webhook_(event|redelivery)", other[0])]
    for statement in [*listed, *reading]:
        steps = "\n".join(step for step in plan(host, *statement).splitlines() if not re.search(FEW, step))
        assert not re.search(WHOLE[backend], steps), steps


FILTERS = (
    "",
    "status=FAILED",
    "status=PENDING",
    "status=HELD",
    "status=DELIVERED",
    "event_type=a",
    "event_type=b.*",
    "since=2026-01-01T00:00:00Z&until=9999-01-01T00:00:00Z",
    "status=FAILED&event_type=a&until=9999-01-01T00:00:00Z",
)


@pytest.mark.several_connections
def test_at_size_every_filter_of_every_list_uses_an_index(host, acme, monkeypatch):
    # As few of all as of a log of real size. More are pending for acme, and fewer for one endpoint.
    monkeypatch.setattr(delivery_lists, "SCANNED", 20)
    monkeypatch.setattr(delivery_lists, "FEW", 100)
    fill(host)
    ep_id = acme.get(PATH).json[ENDPOINTS // BUSY]["id"]
    with host.app.app_context():
        backend = host.db.engine.dialect.name
    event_id = acme.get(f"{PATH}/deliveries?limit=1").json[0]["event_id"]
    filters = [*FILTERS, f"event_id={event_id}"]
    lists = [f"{PATH}/deliveries?", f"{PATH}/deliveries?endpoint_id={ep_id}&", f"{PATH}/{ep_id}/deliveries?"]

    for path in lists:
        for query in filters:
            with statements_of(host) as listed:
                answer = acme.get(f"{path}limit=10&{query}")
            assert answer.status_code == 200
            for statement in listed:
                steps = "\n".join(step for step in plan(host, *statement).splitlines() if not re.search(FEW, step))
                assert not re.search(WHOLE[backend], steps), (path, query, steps)


@pytest.mark.only_on("mariadb")
@pytest.mark.several_connections
def test_a_page_in_the_midst_of_a_list_reads_nothing_that_is_newer(host, acme):
    # MariaDB read the list from its newest delivery on, of a million 500,000.
    fill(host)
    with host.app.app_context():
        ids = sorted(host.db.session.scalars(sa.select(DELIVERY.c.id)))
    middle = f"dlv_{ids[len(ids) // 2]}"

    with statements_of(host) as listed:
        answer = acme.get(f"{PATH}/deliveries?limit=10&cursor={middle}")

    assert len(answer.json) == 10
    with host.app.app_context():
        connection = host.db.session.connection()
        connection.exec_driver_sql("FLUSH STATUS")
        for statement in listed:
            connection.exec_driver_sql(*statement).all()
        read = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read_%%'").all()
    assert sum(int(number) for name, number in read if name in ("Handler_read_next", "Handler_read_prev")) < 50


@pytest.mark.only_on("postgresql", "sqlite")
@pytest.mark.several_connections
def test_a_list_of_an_endpoint_that_went_quiet_reads_no_newer_delivery_of_another(host, acme):
    # PostgreSQL read the primary key of the log, or of the undelivered, from its newest entry on.
    endpoint = create_endpoint(acme)
    fill_quiet(host, endpoint)
    before = f"dlv_{new_id()}"

    for path, owner in ((f"{endpoint.path}/deliveries", "endpoint_id"), (f"{PATH}/deliveries", "tenant_id")):
        for query in ("", "status=FAILED", "status=FAILED&event_type=a", "since=2026-01-01T00:00:00Z"):
            with statements_of(host) as sent:
                assert len(acme.get(f"{path}?limit=10&cursor={before}&{query}").json) == 10
            is_merged = engine_of(host).dialect.name == "postgresql" and owner == "tenant_id" and "FAILED" not in query
            # The merge alone, between the number of endpoints and the rows of its ids.
            for statement in sent[1:2] if is_merged else sent:
                steps = plan(host, *statement)
                first = "endpoint_id" if is_merged else owner
                assert re.search(f"ix_webhook_(delivery|undelivered)_{first}", steps), (path, query, steps)
                assert "webhook_undelivered_pkey" not in steps, (path, query, steps)


def fill_quiet(host: hosts.Host, endpoint: Endpoint) -> None:
    """Give an endpoint most of the log and of the undelivered, among others' rows; the newest are the others'."""
    now, number = datetime.now(UTC), 30_000
    others = [(f"globex-{n}", UUID(int=n)) for n in range(20)]
    events, deliveries = [], []
    for n in range(number):
        quiet = n < number * 0.7 and n % 7
        tenant_id, endpoint_id = ("acme", endpoint.uuid) if quiet else others[n % 20]
        row = {"id": new_id(), "tenant_id": tenant_id, "created_at": now}
        events.append({**row, "type": "a", "body": b"{}"})
        done = {"endpoint_id": endpoint_id, "status": DeliveryStatus.FAILED, "attempts": 1, "finished_at": now}
        deliveries.append({**row, **done, "id": new_id(), "event_id": row["id"]})
    execute(host, sa.insert(WebhookEvent), events)
    execute(host, sa.insert(WebhookDelivery), deliveries)
    noted = sa.select(DELIVERY.c.id, DELIVERY.c.tenant_id, DELIVERY.c.endpoint_id, DELIVERY.c.status)
    execute(host, sa.insert(UNDELIVERED).from_select([column.name for column in UNDELIVERED.c], noted))
    for name in ("event", "delivery", "undelivered"):
        execute(host, sa.text(f"ANALYZE webhook_{name}"))
