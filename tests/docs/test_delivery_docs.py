"""The page on delivery: what it publishes arrives at the receiver for customers, and its numbers are the code's."""

import re
from datetime import UTC

import pytest
from standardwebhooks import Webhook

from flask_webhook_endpoints import Event, InvalidEvent, Settings, errors, testing
from flask_webhook_endpoints.core import batches, leases, secrets
from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.worker import http_client
from tests.support import docs, hosts, servers
from tests.support.api import create_endpoint, secret_of

PAGE = (docs.ROOT / "docs" / "delivery.md").read_text()
PROSE = " ".join(PAGE.split())
"""The page without its line breaks."""


@pytest.fixture
def receiver(monkeypatch):
    """The documented receiver, and the URL where it is served."""
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    receiver = docs.example("docs/receivers.md", "receiver")
    with servers.served(receiver.app) as port:
        yield receiver, f"http://127.0.0.1:{port}/webhooks"


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The documented application, with its tables made."""
    monkeypatch.setenv("FLASK_SECRET_KEY", "a secret of the reader's own, long enough")
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", f"sqlite:///{tmp_path}/shop.db")
    monkeypatch.setenv("FLASK_WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS", '["127.0.0.0/8"]')
    # The second attempt comes at once.
    monkeypatch.setenv("FLASK_WEBHOOK_ENDPOINTS_RETRY_SCHEDULE", "[0, 0]")
    shop = docs.example("docs/delivery.md", "publish_many")
    with shop.app.app_context():
        shop.db.create_all()
    yield shop
    with shop.app.app_context():
        shop.db.engine.dispose()


@pytest.fixture
def acme(shop):
    return hosts.client(shop.app, "acme")


@pytest.mark.parametrize(("secret", "attempts"), [("right", 1), ("wrong", 2)])
def test_what_is_published_is_verified_by_the_documented_receiver(receiver, shop, acme, secret, attempts):
    documented, url = receiver
    endpoint = create_endpoint(acme, url)
    if secret == "right":
        documented.webhook = Webhook(secret_of(acme, endpoint.path))

    with shop.app.app_context():
        invoice = shop.Invoice(id=7, tenant="acme")
        shop.db.session.add(invoice)
        shop.pay(invoice)

    assert testing.drain(shop.app) == attempts


def test_the_event_that_publish_returns_names_the_webhook_id(shop, acme, webhook_receiver):
    create_endpoint(acme, webhook_receiver.url)

    with shop.app.app_context():
        event = shop.webhooks.publish("invoice.paid", {"id": 7}, tenant_id="acme")
        shop.db.session.commit()
    testing.drain(shop.app)

    assert isinstance(event, Event)
    assert (event.type, event.created_at.tzinfo) == ("invoice.paid", UTC)
    assert [received.id for received in webhook_receiver.received] == [f"evt_{event.id}"]


def test_the_documented_batch_arrives_once_however_often_it_runs(acme, webhook_receiver, shop):
    create_endpoint(acme, webhook_receiver.url)
    app, db, invoice = shop.app, shop.db, shop.Invoice

    with app.app_context():
        invoices = [invoice(id=number, tenant=("acme", "globex")[number % 2]) for number in range(10)]
        db.session.add_all(invoices)
        assert [shop.remind(invoices), shop.remind(invoices)] == [5, 5]

    assert testing.drain(app) == 5
    assert sorted(received.data["id"] for received in webhook_receiver.received) == [0, 2, 4, 6, 8]


def test_what_is_no_event_is_refused_before_anything_is_written(shop, acme):
    create_endpoint(acme)

    with shop.app.app_context():
        with pytest.raises(InvalidEvent, match="invoice paid"):
            shop.webhooks.publish("invoice paid", {"id": 7}, tenant_id="acme")
        shop.db.session.commit()

    assert testing.drain(shop.app) == 0


def test_the_schedule_is_the_default():
    hours = [3600 * hour for hour in (2, 5, 10, 14, 20, 24)]

    assert list(Settings().retry_schedule) == [0, 5, 5 * 60, 30 * 60, *hours]
    assert Settings().retry_jitter == 0.2
    assert "at once, then after 5 seconds, 5 minutes, 30 minutes, 2, 5, 10, 14, 20 and 24 hours, each ±20 %" in PROSE


@pytest.mark.parametrize(
    ("sentence", "number"),
    [
        ("The body may have {} KiB", Settings().max_body_bytes // 1024),
        ("More than {:,} events", batches.MAX_EVENTS),
        ("or {} MiB of bodies", batches.MAX_BYTES // 1024**2),
        ("{} KiB of the body", http_client.MAX_READ_BYTES // 1024),
        ("keeps {} KiB", http_client.MAX_EXCERPT_BYTES // 1024),
        ("`MAX_TIMEOUT_SECONDS` + {} seconds after the claim", leases.LEASE_MARGIN_SECONDS),
        ("0 to {},", secrets.MAX_OVERLAP_SECONDS),
        ("a day ({}) by default", secrets.DEFAULT_OVERLAP_SECONDS),
        ("| `MAX_IN_FLIGHT_PER_ENDPOINT` | {} |", Settings().max_in_flight_per_endpoint),
        ("| `MAX_TIMEOUT_SECONDS` | {} |", Settings().max_timeout_seconds),
        ("| `POLL_SECONDS` | {:g} |", Settings().poll_seconds),
    ],
)
def test_its_numbers_are_the_codes(sentence, number):
    assert sentence.format(number) in PROSE


def test_as_many_previous_secrets_sign_as_it_says(shop, acme, webhook_receiver):
    endpoint = create_endpoint(acme, webhook_receiver.url, secret="a secret, number 0")
    path = endpoint.path
    for number in range(1, 5):
        acme.post(f"{path}/secret/rotate", json={"secret": f"a secret, number {number}"})

    acme.post(f"{path}/ping")
    testing.drain(shop.app)

    assert "three previous secrets at most" in PROSE
    (received,) = webhook_receiver.received
    for number in (1, 2, 3, 4):
        received.verify(f"a secret, number {number}")
    with pytest.raises(errors.InvalidSignature):
        received.verify("a secret, number 0")


def test_its_errors_are_some_of_those_that_attempts_have():
    _, _, section = PAGE.partition("### Errors of attempts")
    told = re.findall(r"^\| `(\w+)` \| .+ \|$", section.partition("\n## ")[0], re.MULTILINE)

    assert told
    assert told == [error for error in SendError if error in told]
