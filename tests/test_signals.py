"""The host hears what happened, once it is committed, whatever its functions do."""

import re

import pytest
from blinker import NamedSignal

from flask_webhook_endpoints import signals
from flask_webhook_endpoints.database.models import PauseReason
from tests.support import docs, hosts
from tests.support.api import post_endpoint
from tests.support.deliveries import publish

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK, retry_schedule=[0, 60])

NAMES = [name for name, value in vars(signals).items() if isinstance(value, NamedSignal)]


@pytest.fixture
def heard(host):
    """What was sent, in order: the name and the arguments."""
    heard = []

    def listener(name):
        def listen(sender, **arguments):
            assert sender is host.app
            heard.append((name, arguments))

        return listen

    listeners = {name: listener(name) for name in NAMES}
    for name, listen in listeners.items():
        getattr(signals, name).connect(listen, host.app)
    yield heard
    for name, listen in listeners.items():
        getattr(signals, name).disconnect(listen, host.app)


def names(heard):
    return [name for name, _ in heard]


@pytest.fixture
def endpoint(acme, webhook_receiver):
    return post_endpoint(acme, url=webhook_receiver.url).json


@pytest.fixture
def failing(webhook_receiver):
    webhook_receiver.answer(500)


@pytest.fixture
def deliver(host, webhook_clock, drain_webhooks):
    """Publish so many events and attempt each as often as there are attempts; return how many those were."""

    def deliver(number=1):
        publish(host, *range(number))
        attempts = drain_webhooks()
        webhook_clock.move(minutes=5)
        return attempts + drain_webhooks()

    return deliver


def test_each_change_of_an_endpoint_is_said_once(acme, webhook_receiver, heard):
    endpoint = post_endpoint(acme, url=webhook_receiver.url).json
    path = f"/v1/endpoints/{endpoint['id']}"
    for body in (
        {},
        {"name": "m"},
        {"status": "PAUSED"},
        {"status": "PAUSED"},
        {"status": "ACTIVE", "name": "o"},
        {"status": "ACTIVE"},
    ):
        assert acme.patch(path, json=body).status_code == 200
    assert acme.post(f"{path}/secret/rotate").status_code == 200
    assert acme.delete(path).status_code == 204

    assert names(heard) == [
        "endpoint_created",
        "endpoint_updated",
        "endpoint_paused",
        "endpoint_updated",
        "endpoint_updated",
        "endpoint_resumed",
        "endpoint_updated",
        "endpoint_updated",
        "endpoint_deleted",
    ]
    assert all(arguments["tenant_id"] == "acme" for _, arguments in heard)
    assert all(arguments["endpoint_id"] == endpoint["id"] for _, arguments in heard)
    assert heard[1][1]["endpoint"].name == "m"
    assert heard[2][1]["reason"] == "user"
    assert heard[-1][1].keys() == {"tenant_id", "endpoint_id"}


@pytest.mark.parametrize(
    "refused",
    [
        ("PATCH", {"name": ""}, {}, 422),
        ("PATCH", {"status": "PAUSED"}, {"If-Match": '"9"'}, 412),
        ("DELETE", None, {"If-Match": '"9"'}, 412),
    ],
    ids=["invalid", "stale", "stale delete"],
)
def test_what_is_refused_is_not_said(acme, endpoint, heard, refused):
    method, body, headers, status = refused
    answer = acme.open(f"/v1/endpoints/{endpoint['id']}", method=method, json=body, headers=headers)

    assert (answer.status_code, heard) == (status, [])


def test_a_replayed_creation_is_said_once(acme, heard):
    for _ in range(2):
        body = {"name": "n", "url": "https://example.com"}
        assert acme.post("/v1/endpoints", json=body, headers={"Idempotency-Key": "k"}).status_code == 201

    assert names(heard) == ["endpoint_created"]


def test_what_an_endpoint_signal_carries_shows_no_secret(acme, heard):
    body = {
        "name": "n",
        "url": "https://example.com",
        "secret": "hush-hush-hush-hush",
        "headers_json": {"X-Key": "hush-hush-hush-hush"},
    }
    acme.post("/v1/endpoints", json=body)

    assert "hush-hush-hush-hush" not in repr(heard)


def test_every_attempt_is_said_with_what_came_of_it(endpoint, webhook_receiver, deliver, heard):
    webhook_receiver.answer(500, 500, 200)
    deliver()
    deliver()

    assert names(heard) == ["delivery_failed", "delivery_exhausted", "delivery_succeeded"]
    (_, failed), (_, exhausted), (_, succeeded) = heard
    assert (failed["attempt"], exhausted["attempt"], succeeded["attempt"]) == (1, 2, 1)
    assert (failed["response_status"], failed["error"], succeeded["response_status"]) == (500, None, 200)
    assert failed["next_attempt_at"] is not None
    assert failed["delivery_id"] == exhausted["delivery_id"] != succeeded["delivery_id"]
    assert failed["event_id"] == webhook_receiver.received[0].id
    assert (failed["tenant_id"], failed["endpoint_id"]) == ("acme", endpoint["id"])


def test_each_signal_comes_with_the_arguments_that_its_page_names(
    acme, heard, webhook_receiver, webhook_clock, deliver
):
    page = (docs.ROOT / "docs" / "signals.md").read_text()
    (of_deliveries,) = re.findall(r"Signals of deliveries have (.*?)\. ", page, re.DOTALL)
    documented = {
        name: {
            "tenant_id",
            "endpoint_id",
            *re.findall(r"`([a-z_]+)`", of_deliveries if beside == "see below" else beside),
        }
        for name, beside in re.findall(r"^\| `(\w+)` \| .+? \| ?([^|:]*?)(?::[^|]*)? ?\|$", page, re.MULTILINE)
    }
    endpoint = post_endpoint(acme, url=webhook_receiver.url).json
    path = f"/v1/endpoints/{endpoint['id']}"
    webhook_receiver.answer(500)
    deliver(3)
    webhook_clock.move(days=4)
    deliver()
    webhook_clock.move(minutes=11)
    webhook_receiver.answer(200)
    deliver()
    for body in ({"name": "m"}, {"status": "PAUSED"}, {"status": "ACTIVE"}):
        acme.patch(path, json=body)
    webhook_receiver.answer(410)
    deliver()
    acme.delete(path)

    assert set(documented) == set(NAMES)
    assert {name for name, _ in heard} == set(NAMES)
    for name, arguments in heard:
        assert arguments.keys() == documented[name], name


def test_an_endpoint_that_answers_410_is_paused_and_said_so(endpoint, webhook_receiver, deliver, heard, caplog):
    webhook_receiver.answer(410)
    deliver(3)

    said = [arguments for name, arguments in heard if name == "endpoint_paused"]
    assert [each["reason"] for each in said] == [PauseReason.GONE]
    assert said[0]["endpoint"].status == "PAUSED"
    assert said[0]["endpoint_id"] == endpoint["id"]
    (logged,) = [vars(record) for record in caplog.records if record.msg == "webhooks.endpoint_paused"]
    assert (logged["webhooks.endpoint_id"], logged["webhooks.reason"]) == (endpoint["id"], "gone")


@pytest.mark.usefixtures("failing")
def test_ten_exhausted_in_a_row_over_five_days_pause_and_resuming_starts_anew(
    acme, endpoint, webhook_clock, deliver, heard
):
    path = f"/v1/endpoints/{endpoint['id']}"

    def reasons():
        return [arguments["reason"] for name, arguments in heard if name == "endpoint_paused"]

    deliver(1)
    webhook_clock.move(days=6)
    deliver(8)
    assert reasons() == []
    deliver(1)
    assert reasons() == [PauseReason.FAILURES]

    acme.patch(path, json={"status": "ACTIVE"})
    deliver(1)
    assert reasons() == [PauseReason.FAILURES]
    acme.patch(path, json={"status": "PAUSED"})
    assert reasons() == [PauseReason.FAILURES, PauseReason.USER]


def test_a_function_that_raises_harms_nobody(host, endpoint, deliver, heard, caplog):
    def break_down(sender, **arguments):
        host.db.session.execute(host.db.text("no SQL at all"))

    with (
        signals.endpoint_updated.connected_to(break_down, host.app),
        signals.delivery_succeeded.connected_to(break_down, host.app),
    ):
        answer = host.client().patch(f"/v1/endpoints/{endpoint['id']}", json={"name": "m"})
        attempts = deliver(3)

    assert (answer.status_code, answer.json["name"], attempts) == (200, "m", 3)
    assert names(heard) == ["endpoint_updated", *["delivery_succeeded"] * 3]
    failed = [record for record in caplog.records if record.msg == "webhooks.signal_failed"]
    assert len(failed) == 4
    assert vars(failed[0])["webhooks.signal"] == "webhook-endpoint-updated"


def test_what_a_function_leaves_uncommitted_is_rolled_back(host, acme, endpoint):
    def leave(sender, **arguments):
        host.db.session.execute(host.db.delete(host.db.metadata.tables["webhook_endpoint"]))

    with signals.endpoint_updated.connected_to(leave, host.app), host.app.app_context():
        assert acme.patch(f"/v1/endpoints/{endpoint['id']}", json={"name": "m"}).status_code == 200
        host.db.session.commit()

    assert len(acme.get("/v1/endpoints").json) == 1


def test_an_endpoint_signal_comes_after_the_commit(host, acme, heard):
    seen = []

    def look(sender, endpoint_id, **arguments):
        with host.db.engine.connect() as connection:
            seen.append(connection.execute(host.db.text("SELECT COUNT(*) FROM webhook_endpoint")).scalar_one())

    with signals.endpoint_created.connected_to(look, host.app):
        post_endpoint(acme)

    assert seen == [1]
