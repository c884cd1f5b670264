"""The check of a pasted signature against the secrets of a tenant: its own, of other endpoints, of no other tenant."""

import json

import pytest

from flask_webhook_endpoints.core import signature_checks
from flask_webhook_endpoints.errors import UnknownEndpoint
from flask_webhook_endpoints.security.pasted import BodyForm
from flask_webhook_endpoints.security.signature_check import Verdict
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint, secret_of
from tests.support.database import statements_of
from tests.support.deliveries import publish

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600])


@pytest.fixture
def endpoint(acme, webhook_receiver):
    return create_endpoint(acme, webhook_receiver.url, event_types=["a"])


@pytest.fixture
def received(host, endpoint, webhook_receiver):
    """The headers and the body of a delivery, as text."""
    publish(host, {"b": 1, "a": ["naïve", 1.5]}, event_type="a")
    drain(host.app)
    request = webhook_receiver.received[-1]
    return "\n".join(f"{name}: {value}" for name, value in request.headers.items()), request.body.decode()


def check(host, endpoint, headers, body, *, tenant_id="acme", may_read=lambda _: True):
    with host.app.app_context():
        state = current_state()
        return state.run(
            lambda scope: signature_checks.check(
                scope.of(tenant_id), endpoint.uuid, headers, body, may_read=may_read, cipher=state.cipher
            ),
            commit=False,
        )


def test_a_delivery_is_valid_by_two_statements(host, acme, endpoint, received):
    create_endpoint(acme)

    with statements_of(host) as sent:
        found = check(host, endpoint, *received)

    assert found.verdict is Verdict.VALID
    assert found.matches[0].known.secret.reveal() == secret_of(acme, endpoint.path)
    assert len([text for text, _ in sent if "webhook_" in text]) == 2


def test_a_body_that_was_rewritten_in_any_way_is_told_by_the_stored_one(host, endpoint, received):
    headers, body = received
    rewritten = json.dumps(json.loads(body), sort_keys=True, indent=7)

    found = check(host, endpoint, headers, rewritten)

    assert (found.verdict, found.matches[0].body) == (Verdict.BODY_CHANGED, BodyForm.REWRITTEN)


def test_the_previous_secret_is_known_until_it_ends_and_afterwards(host, acme, endpoint, received, webhook_clock):
    acme.post(f"{endpoint.path}/secret/rotate", json={"overlap_seconds": 100})
    overlapping = check(host, endpoint, *received)
    webhook_clock.move(seconds=200)

    assert (overlapping.verdict, overlapping.matches[0].known.expires_at is None) == (Verdict.VALID, False)
    assert check(host, endpoint, *received).verdict is Verdict.EXPIRED_SECRET


def test_a_signature_of_another_endpoint_names_it(host, acme, endpoint, received):
    other = create_endpoint(acme, name="other", event_types=["b"])

    found = check(host, other, *received)

    assert (found.verdict, found.matches[0].known.endpoint_name) == (Verdict.OTHER_ENDPOINT, endpoint["name"])
    assert found.matches[0].known.endpoint_id == endpoint.uuid


def test_a_secret_that_the_person_may_not_read_is_not_told_of(host, acme, endpoint, received):
    other = create_endpoint(acme, name="other", event_types=["b"])

    found = check(host, other, *received, may_read=lambda endpoint_id: endpoint_id != endpoint.uuid)

    assert found.verdict is Verdict.NO_MATCH


def test_other_tenants_secrets_and_events_are_not_looked_at(host, globex, endpoint, received):
    theirs = create_endpoint(globex)

    assert check(host, theirs, *received, tenant_id="globex").verdict is Verdict.NO_MATCH
    with pytest.raises(UnknownEndpoint):
        check(host, endpoint, *received, tenant_id="globex")


@pytest.mark.parametrize("text", ["\0", "webhook-id: evt_\0", "{" * 70_000, "\ud800", "webhook-id: evt_0190"])
def test_texts_that_no_database_takes_are_answered(host, endpoint, text):
    assert check(host, endpoint, text, text).verdict in (Verdict.MISSING_HEADER, Verdict.TOO_LONG)
