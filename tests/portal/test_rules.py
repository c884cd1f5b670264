"""The messages of rules in other languages: every message that a form can meet has its text in the catalogues."""

import pytest
from marshmallow import ValidationError

from flask_webhook_endpoints.api.endpoint_schemas import EndpointInput, SecretInput
from flask_webhook_endpoints.api.event_type_schemas import PingInput
from flask_webhook_endpoints.core.declarations import Declarations
from flask_webhook_endpoints.portal import rules
from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.settings import Settings

URLS = [
    "", "x", "ftp://a.example/", "https://a.example:99999/", "https://127.0.0.1/", "https://a.example:22/",
    "https://a.example/ b", "https://é.example/", "https://a.example/#x", "https://u:p@a.example/", "https://a..b/",
    "https://[::1", "https://[fe80::1%25eth0]/", "https://0x7f.1/", "https://" + "a" * 3000, "https://1.2.3/", "\x00",
]  # fmt: skip
HEADERS = [
    {"Host": "x"}, {"X-A": "a", "x-a": "b"}, {"X-A": "\n"}, {"X-A": "x" * 5000}, {"bad name": "x"}, {"": "x"},
    {f"X-{n}": "a" for n in range(30)}, {f"X-{n}": "a" * 1000 for n in range(19)},
]  # fmt: skip
METADATA = [{"": "x"}, {"a": "\x00"}, {str(n): "x" for n in range(30)}, {"a": "x" * 5000}]
ENDPOINTS = [
    {"name": name} for name in ("", " ", "x" * 300, "\x00")
] + [
    *({"url": url} for url in URLS),
    *({"headers_json": headers} for headers in HEADERS),
    *({"metadata": metadata} for metadata in METADATA),
    *({"timeout_seconds": seconds} for seconds in (0, 31, "x")),
    *({"description": text} for text in ("\x00", "x" * 2000)),
    *({"event_types": names} for names in (["a b"], ["x" * 200], ["a"] * 200, [])),
    *({"secret": secret} for secret in ("short", " " + "x" * 20, "whsk_" + "x" * 20, "whsec_YWJj", "whsec_abc")),
]  # fmt: skip
PINGS = [{"event_type": "a b"}, {"event_type": "a"}, {"event_type": "a", "data": "\ud800"}]


def messages_of(schema, fields):
    with pytest.raises(ValidationError) as error:
        schema.load(fields)
    pending = [error.value.messages]
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            yield each
        else:
            pending.extend(each.values() if isinstance(each, dict) else each)


@pytest.mark.parametrize("fields", ENDPOINTS, ids=lambda fields: str(fields)[:40])
def test_each_message_of_an_endpoints_fields_is_known(fields):
    schema = EndpointInput(Settings(require_https=True), EgressPolicy(), Declarations())

    for message in messages_of(schema, fields):
        assert rules.is_known(message), message


def test_the_message_of_https_is_known():
    schema = EndpointInput(Settings(), EgressPolicy.of(require_https=True, allowed_networks=()), Declarations())

    assert all(map(rules.is_known, messages_of(schema, {"name": "x", "url": "http://a.example/"})))


@pytest.mark.parametrize("fields", [{"overlap_seconds": -1}, {"overlap_seconds": "x"}], ids=str)
def test_each_message_of_a_rotation_is_known(fields):
    assert all(map(rules.is_known, messages_of(SecretInput(), fields)))


def test_the_rules_of_every_field_are_broken_here():
    # Add values that break the rules of a new field to `ENDPOINTS` above, and new messages to portal/rules.py.
    assert {name for fields in ENDPOINTS for name in fields} == EndpointInput._declared_fields.keys()


@pytest.mark.parametrize("fields", PINGS, ids=ascii)
def test_each_message_of_a_test_is_known(fields):
    assert all(map(rules.is_known, messages_of(PingInput(Settings(), Declarations()), fields)))
