"""Secrets are taken if the official verifiers can use them as they are given, and refused with the reason if not."""

import random
import re
from base64 import b64decode, b64encode

import pytest
import standardwebhooks
from cryptography.fernet import Fernet

from flask_webhook_endpoints.security.encryption import derive_key
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import NEW, create_endpoint
from tests.support.database import SECRET, execute, on_sqlite


def key(length):
    return "whsec_" + b64encode(random.Random(length).randbytes(length)).decode()


KEYS = {f"key of {length} bytes": key(length) for length in (24, 25, 26, 31, 32, 33, 48, 62, 63, 64)}
RAW = {
    "the specification's": "whsec_your_signing_secret",
    "16 characters": "x" * 16,
    "128 characters": "x" * 128,
    "words": "a secret of Acme's",
    "only base64, without the prefix": "A" * 44,
    "prefix in capitals": "WHSEC_" + "A" * 32,
    "prefix in the middle": "my_whsec_" + "A" * 32,
    "prefix and URL-safe base64": "whsec_" + "A-_" * 10,
    "prefix and words": "whsec_" + "a_secret_of_ours_" * 4,
    "prefix and a space inside": "whsec_AAAA AAAA AAAA",
    "prefix twice": "whsec_whsec_" + "A" * 32,
    "like the others' prefixes": "whsk-" + "A" * 32,
}
# Each with a word that its message must have.
REFUSED = {
    **{f"key of {length} bytes": (key(length), "24 to 64 bytes") for length in (8, 16, 20, 23, 65, 66, 80, 90)},
    "prefix and letters": ("whsec_secretsecretsecret", "24 to 64 bytes"),
    "prefix and letters, no base64 length": ("whsec_mysigningsecret", "24 to 64 bytes"),
    "prefix and digits": ("whsec_1234567890123456", "24 to 64 bytes"),
    "prefix and padding": ("whsec_" + "=" * 20, "24 to 64 bytes"),
    "prefix and base64 that goes on after padding": ("whsec_" + "A" * 30 + "==" + "A" * 12, "24 to 64 bytes"),
    "key without its padding": (key(32).rstrip("="), "padding"),
    "key with half its padding": (key(25)[:-1], "padding"),
    "key with too much padding": (key(24) + "=", "padding"),
    "key with stray bits": ("whsec_" + "A" * 42 + "B=", "RFC 4648"),
    "key with a letter too many": ("whsec_" + "A" * 33, "RFC 4648"),
    "private key": ("whsk_" + "A" * 43 + "=", "whsk_"),
    "private key in words": ("whsk_your_signing_secret", "whsk_"),
    "public key": ("whpk_" + "A" * 43 + "=", "whpk_"),
    "space before": (" " + key(32), "white space"),
    "space after": (key(32) + " ", "white space"),
    "space before words": (" a secret of Acme's", "white space"),
    "spaces": (" " * 20, "white space"),
    "15 characters": ("x" * 15, "16 to 128"),
    "8 characters": ("hunter22", "16 to 128"),
    "nothing": ("", "16 to 128"),
    "the prefix alone": ("whsec_", "16 to 128"),
    "129 characters": ("x" * 129, "16 to 128"),
    "a line feed after": (key(32) + "\n", "printable ASCII"),
    "a tab before": ("\t" + key(32), "printable ASCII"),
    "not ASCII": ("a secret of Ümläut", "printable ASCII"),
}


@pytest.fixture
def ep(acme):
    return create_endpoint(acme).path


def writes(secret, ep):
    return (
        ("POST", "/v1/endpoints", {**NEW, "secret": secret}),
        ("PATCH", ep, {"secret": secret}),
        ("POST", f"{ep}/secret/rotate", {"secret": secret}),
    )


@pytest.mark.parametrize("case", [*KEYS, *RAW])
@on_sqlite
def test_a_secret_that_verifiers_can_use_is_taken_and_its_format_told(acme, ep, case):
    secret = {**KEYS, **RAW}[case]
    shape = "whsec" if case in KEYS else "raw"

    for method, path, body in writes(secret, ep):
        answer = acme.open(path, method=method, json=body)
        assert answer.status_code in (200, 201), answer.text
        read = acme.get(f"{answer.headers.get('Location', ep)}/secret").json
        assert (read["secret"], read["format"]) == (secret, shape)
    assert answer.json["format"] == shape


@pytest.mark.parametrize("case", REFUSED)
@on_sqlite
def test_a_secret_that_no_verifier_can_use_is_refused_with_the_reason(acme, ep, case):
    secret, reason = REFUSED[case]
    before = acme.get(f"{ep}/secret").data, acme.get("/v1/endpoints").data

    for method, path, body in writes(secret, ep):
        answer = acme.open(path, method=method, json=body)
        assert (answer.status_code, list(answer.json["errors"])) == (422, ["secret"])
        [message] = answer.json["errors"]["secret"]
        assert reason in message
        assert len(secret) < 9 or secret not in answer.text
    assert (acme.get(f"{ep}/secret").data, acme.get("/v1/endpoints").data) == before


def test_a_generated_secret_is_a_key(acme, ep):
    shown = acme.get(f"{ep}/secret").json

    assert shown["format"] == "whsec"
    assert len(b64decode(shown["secret"].removeprefix("whsec_"), validate=True)) == 32
    rotated = acme.post(f"{ep}/secret/rotate").json
    assert rotated["format"] == "whsec"


def test_the_document_has_the_rule(acme):
    document = acme.get("/v1/openapi.json").json
    for schema in ("EndpointInput", "EndpointChanges", "SecretInput"):
        pattern = re.compile(document["components"]["schemas"][schema]["properties"]["secret"]["pattern"])
        for secret in (*KEYS.values(), *RAW.values()):
            assert pattern.search(secret), secret
        for secret, _ in REFUSED.values():
            if not secret.endswith("\n"):
                assert not pattern.search(secret), secret
    assert document["components"]["schemas"]["SecretFormat"]["enum"] == ["whsec", "raw"]
    assert "format" in document["components"]["schemas"]["Secret"]["required"]


# What was stored before the rule goes on signing, and its owner reads and replaces it.

OLD = ("hunter22", " spaces ", "whsec_" + b64encode(bytes(23)).decode(), "whsk_" + "A" * 43 + "=", "whsec_short")


@pytest.mark.host(allowed_networks=hosts.LOOPBACK)
@pytest.mark.parametrize("old", OLD)
def test_a_secret_stored_before_goes_on_signing_as_before(host, acme, webhook_receiver, old):
    path = create_endpoint(acme, webhook_receiver.url).path
    token = Fernet(derive_key("host secret")).encrypt(old.encode()).decode()
    execute(host, SECRET.update().values(secret_encrypted=token))
    acme.post(f"{path}/ping")
    drain(host.app)

    [received] = webhook_receiver.received
    received.verify(old)
    assert acme.get(f"{path}/secret").json["format"] == "raw"
    assert acme.get(f"{path}/secret").json["secret"] == old
    raw = b64encode(old.encode()).decode()
    assert standardwebhooks.Webhook(raw).verify(received.body, dict(received.headers))["type"] == "webhook.ping"
    assert acme.patch(path, json={"name": "m"}).status_code == 200
    assert acme.patch(path, json={"secret": old}).status_code == 422
