"""The check of a signature, with what real deliveries carry."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from itertools import product
from uuid import UUID

import pytest

from flask_webhook_endpoints.portal import verdicts
from flask_webhook_endpoints.security.encryption import Secret
from flask_webhook_endpoints.security.pasted import BodyForm
from flask_webhook_endpoints.security.signature_check import (
    Content,
    Diagnosis,
    Encoding,
    KeyForm,
    KnownSecret,
    Match,
    Verdict,
)
from tests.support.api import create_endpoint, secret_of
from tests.support.database import on_sqlite
from tests.support.deliveries import publish
from tests.support.portal import PREFIX, person, with_portal

NOW = datetime.now(UTC)

pytestmark = [on_sqlite, pytest.mark.host(make=with_portal, allowed_networks=("127.0.0.0/8",))]


@pytest.fixture
def endpoint(acme, webhook_receiver):
    return create_endpoint(acme, webhook_receiver.url, event_types=["a"])


@pytest.fixture
def received(host, endpoint, webhook_receiver, drain_webhooks):
    publish(host, {"b": 1, "a": ["naïve", 1.5]}, event_type="a")
    drain_webhooks()
    return webhook_receiver.received[-1]


def headers_of(received, **changed):
    return "\n".join(f"{name}: {value}" for name, value in {**received.headers, **changed}.items())


def check(browser, endpoint, headers, body):
    form = browser.get(f"{PREFIX}/{endpoint.id}/secret/check").forms[0]
    form["headers"], form["body"] = headers, body
    return form.submit()


def title(page):
    return page.html.find(id="whe-answer").h2.text


def test_a_delivery_is_right_and_what_was_pasted_stays(ada, endpoint, received):
    page = check(ada, endpoint, headers_of(received), received.body.decode() + "\n")

    assert title(page) == "The signature is right."
    assert received.body.decode() in page.html.find(id="whe-body").text
    assert page.headers["Cache-Control"] == "no-store"


def test_the_secret_is_nowhere_in_the_answer(ada, acme, endpoint, received):
    assert secret_of(acme, endpoint.path) not in check(ada, endpoint, headers_of(received), received.body.decode())


def test_json_that_was_written_again(ada, endpoint, received):
    page = check(ada, endpoint, headers_of(received), json.dumps(json.loads(received.body), indent=1))

    assert "changed after it was signed" in title(page)
    assert "parsed and written again" in page


def test_a_key_in_the_wrong_form(ada, acme, endpoint, received):
    secret, head = secret_of(acme, endpoint.path), received.headers
    content = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + received.body
    wrong = base64.b64encode(hmac.new(secret.encode(), content, hashlib.sha256).digest()).decode()

    page = check(ada, endpoint, headers_of(received, **{"webhook-signature": f"v1,{wrong}"}), received.body.decode())

    assert "wrong form" in title(page)
    assert "Take off whsec_" in page


def test_the_secret_of_another_endpoint_is_named_for_who_may_read_it(host, ada, acme, endpoint, received):
    other = create_endpoint(acme, name="other", event_types=["b"])

    assert "orders" in title(check(ada, other, headers_of(received), received.body.decode()))


def test_of_a_secret_that_the_person_may_not_read_nothing_is_told(database, received):
    head, body = headers_of(received), received.body.decode()
    readable = set()
    host = with_portal(database, authorize=lambda action, ep_id: action != "read_secret" or ep_id in readable)
    other = create_endpoint(host.client(), name="other")
    readable.add(other.id)

    assert title(check(person(host), other, head, body)) == "No secret of yours made this signature."
    host.close()


def test_an_old_request(ada, endpoint, received, webhook_clock):
    webhook_clock.move(minutes=11)

    page = check(ada, endpoint, headers_of(received), received.body.decode())

    assert "its time is not" in title(page)
    assert "11 minutes old" in page


@pytest.mark.parametrize(
    ("headers", "body"),
    [("", ""), ("webhook-id: x", "{}"), ("\x00\ud7ff", "\x00"), ("{" * 60_000, "[" * 100_000), ("x" * 70_000, "x")],
    ids=lambda value: value[:12],
)
def test_any_text_gets_an_answer(ada, endpoint, headers, body):
    page = ada.post(f"{PREFIX}/{endpoint.id}/secret/check", {"headers": headers, "body": body})

    assert title(page)


@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_has_its_words(host, verdict):
    known = KnownSecret(
        secret=Secret("x"), endpoint_id=UUID(int=1), endpoint_name="other", created_at=NOW, expires_at=None
    )
    with host.app.test_request_context():
        for form in product(KeyForm, Content, Encoding, BodyForm):
            finding = Diagnosis(verdict=verdict, matches=[Match(known, *form)], headers=["a", "b"], clock_seconds=-700)
            if verdict in verdicts._MISTAKES and getattr(finding.matches[0], verdicts._MISTAKES[verdict]).value in (
                "right",
                "as_pasted",
            ):
                continue
            assert all(verdicts.answer(finding)[1:])


def test_another_tenants_endpoint_is_not_there(hank, endpoint):
    hank.get(f"{PREFIX}/{endpoint.id}/secret/check", status=404)
    hank.post(f"{PREFIX}/{endpoint.id}/secret/check", {"headers": "", "body": ""}, status=404)
