import base64
import dataclasses

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy.orm import Session

from flask_webhook_endpoints import InvalidSetting, Settings, WebhookEndpoints
from flask_webhook_endpoints.state import state_of

KEY = base64.urlsafe_b64encode(b"k" * 32).decode()


def register(**config):
    """Register our blueprint on an application with these settings and return what was read."""
    webhooks = WebhookEndpoints(session=Session, tenant=lambda: "acme")
    app = Flask("host")
    app.config.update(config)
    app.register_blueprint(webhooks.blueprint)
    return state_of(app)


def refusal(**config):
    with pytest.raises(InvalidSetting) as caught:
        register(**{"SECRET_KEY": "host secret", **config})
    return caught.value


def test_every_setting_has_a_default_that_serves():
    assert register(SECRET_KEY="host secret").settings == Settings(
        encryption_keys=(),
        max_endpoints_per_tenant=100,
        max_timeout_seconds=30,
        require_https=False,
        allowed_networks=(),
        blocked_networks=(),
        allowed_ports=("80", "443", "1024-65535"),
        proxy=None,
        max_body_bytes=262_144,
        retry_schedule=(0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
        retry_jitter=0.2,
        max_redeliveries_per_minute=60,
        max_in_flight_per_endpoint=10,
        poll_seconds=0.05,
    )


def test_settings_are_taken_as_given():
    state = register(
        WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS=[KEY],
        WEBHOOK_ENDPOINTS_MAX_ENDPOINTS_PER_TENANT=1,
        WEBHOOK_ENDPOINTS_MAX_TIMEOUT_SECONDS=5,
        WEBHOOK_ENDPOINTS_REQUIRE_HTTPS=True,
        WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS=["127.0.0.0/8", "::1/128"],
        WEBHOOK_ENDPOINTS_BLOCKED_NETWORKS=["8.8.8.0/24"],
        WEBHOOK_ENDPOINTS_ALLOWED_PORTS=[443, "8000-8999"],
        WEBHOOK_ENDPOINTS_PROXY="http://proxy.internal:3128",
        WEBHOOK_ENDPOINTS_MAX_BODY_BYTES=1000,
        WEBHOOK_ENDPOINTS_RETRY_SCHEDULE=[0, 0.5, 60],
        WEBHOOK_ENDPOINTS_RETRY_JITTER=0,
        WEBHOOK_ENDPOINTS_MAX_REDELIVERIES_PER_MINUTE=None,
        WEBHOOK_ENDPOINTS_MAX_IN_FLIGHT_PER_ENDPOINT=1,
        WEBHOOK_ENDPOINTS_POLL_SECONDS=5,
    )

    assert state.settings == Settings(
        encryption_keys=(KEY,),
        max_endpoints_per_tenant=1,
        max_timeout_seconds=5,
        require_https=True,
        allowed_networks=("127.0.0.0/8", "::1/128"),
        blocked_networks=("8.8.8.0/24",),
        allowed_ports=(443, "8000-8999"),
        proxy="http://proxy.internal:3128",
        max_body_bytes=1000,
        retry_schedule=(0, 0.5, 60),
        retry_jitter=0,
        max_redeliveries_per_minute=None,
        max_in_flight_per_endpoint=1,
        poll_seconds=5,
    )
    assert state.settings.default_timeout_seconds == 5


NUMBERS = {
    "zero": 0,
    "negative": -1,
    "string": "10",
    "fraction": 10.5,
    "whole fraction": 10.0,
    "bool": True,
    "none": None,
    "list": [10],
    "more than the database holds": 2**31,
}
COUNTS = (
    "MAX_ENDPOINTS_PER_TENANT", "MAX_TIMEOUT_SECONDS", "MAX_BODY_BYTES", "MAX_IN_FLIGHT_PER_ENDPOINT",
    "PAUSE_AFTER_FAILURES",
)  # fmt: skip
DAYS = ("PAUSE_AFTER_DAYS", "RETENTION_DAYS", "HOLD_MAX_DAYS")
NOT_A_NUMBER = {
    "negative": -1,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "string": "0.2",
    "bool": True,
    "none": None,
    "list": [0.2],
}
WRONG = [
    *[(count, value, name) for count in COUNTS for name, value in NUMBERS.items()],
    *[(days, value, name) for days in DAYS for name, value in {**NUMBERS, "over a century": 36_501}.items()],
    *[("CHECK_EVENTS", value, name) for name, value in {"none": None, "other": "warn", "list": ["log"]}.items()],
    *[("LAYOUT", value, name) for name, value in {"empty": "", "space": " ", "number": 1}.items()],
    *[("MAX_REDELIVERIES_PER_MINUTE", value, name) for name, value in NUMBERS.items() if value is not None],
    *[("RETRY_JITTER", value, name) for name, value in {**NOT_A_NUMBER, "one": 1}.items()],
    *[
        ("POLL_SECONDS", value, name)
        for name, value in {**NOT_A_NUMBER, "zero": 0, "too often": 0.009, "too seldom": 60}.items()
    ],
    *[
        ("RETRY_SCHEDULE", value, name)
        for name, value in {
            "empty": [],
            "number": 5,
            "string": "0, 5",
            "none": None,
            "set": {0, 5},
            **{f"item is {name}": [0, value] for name, value in {**NOT_A_NUMBER, "ages": 1e15}.items()},
        }.items()
    ],
    *[
        ("PROXY", value, name)
        for name, value in {
            "empty": "",
            "without scheme": "proxy.internal:3128",
            "socks": "socks5://proxy.internal:1080",
            "path": "http://proxy.internal/path",
            "query": "http://proxy.internal?x",
            "space": "http://proxy internal",
            "line break": "http://proxy.internal:3128\n",
            "no host": "http://",
            "false": False,
            "bytes": b"http://proxy.internal:3128",
        }.items()
    ],
    *[
        ("REQUIRE_HTTPS", value, name)
        for name, value in {"one": 1, "zero": 0, "string": "False", "none": None, "empty": ""}.items()
    ],
    *[
        ("ALLOWED_PORTS", value, name)
        for name, value in {
            "number": 443,
            "string": "443",
            "none": None,
            "item is zero": [0],
            "item is too large": [65_536],
            "item is a bool": [True],
            "item is a name": ["https"],
            "item is a fraction": [443.0],
            "backwards": ["443-80"],
            "open": ["1024-"],
            "space": ["80 - 443"],
        }.items()
    ],
    *[
        (key, value, name)
        for key in ("ALLOWED_NETWORKS", "BLOCKED_NETWORKS")
        for name, value in {
            "string": "10.0.0.0/8",
            "none": None,
            "empty string": "",
            "set": {"10.0.0.0/8"},
            "number": 10,
            "item is none": [None],
            "item is a number": [10],
            "host bits": ["10.0.0.1/8"],
            "name": ["localhost"],
            "item is empty": [""],
            "mask too long": ["10.0.0.0/33"],
            "range": ["10.0.0.0-10.0.0.9"],
            "short": ["10/8"],
            "second item": ["10.0.0.0/8", "nonsense"],
        }.items()
    ],
    *[
        ("ENCRYPTION_KEYS", value, name)
        for name, value in {
            "string": KEY,
            "bytes": KEY.encode(),
            "none": None,
            "dict": {KEY: 1},
            "item is bytes": [Fernet.generate_key()],
            "item is none": [None],
            "item is empty": [""],
            "password": ["hunter2"],
            "too short": [base64.urlsafe_b64encode(b"k" * 31).decode()],
            "too long": [base64.urlsafe_b64encode(b"k" * 33).decode()],
            "without padding": [KEY.rstrip("=")],
            "not ASCII": [KEY[:-2] + "ü="],
            "lone surrogate": ["\ud800"],
            "two in one string": [f"{KEY},{KEY}"],
            "second item": [KEY, "hunter2"],
        }.items()
    ],
]


def test_every_setting_is_tried_with_wrong_values():
    assert {name.lower() for name, _, _ in WRONG} == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize(("name", "value"), [w[:2] for w in WRONG], ids=[f"{w[0]}, {w[2]}" for w in WRONG])
def test_a_wrong_setting_stops_the_registration_and_is_named(name, value):
    error = refusal(**{f"WEBHOOK_ENDPOINTS_{name}": value})

    assert error.key == f"WEBHOOK_ENDPOINTS_{name}"
    assert str(error).startswith(f"WEBHOOK_ENDPOINTS_{name}: ")
    assert error.rule.endswith(".")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("MAX_BODY_BYTES", 0, "must be a whole number from 1 to 2147483647, not 0."),
        ("RETENTION_DAYS", "30d", "must be a whole number of days from 1 to 36500, not '30d'."),
        ("ALLOWED_PORTS", [443, "80 - 90"], "item 2 must be a port from 1 to 65535, or a range such as"),
        ("ALLOWED_NETWORKS", "::1", "must be a list or tuple of strings, not '::1'."),
        ("POLL_SECONDS", 3600, "must be a number of at least 0.01 and below 60, not 3600."),
        ("RETRY_SCHEDULE", [0, -1], "item 2 must be a number of at least 0 and below 3153600000, not -1."),
        ("PROXY", "ann:secret@proxy", "must be None or a URL such as http://proxy.internal:3128."),
    ],
)
def test_the_rule_comes_with_the_value_as_given_unless_it_may_be_secret(name, value, rule):
    assert refusal(**{f"WEBHOOK_ENDPOINTS_{name}": value}).rule.startswith(rule)


def test_the_rule_of_a_limit_that_can_be_lifted_says_how():
    error = refusal(WEBHOOK_ENDPOINTS_MAX_REDELIVERIES_PER_MINUTE=0)

    assert error.rule == "must be None or a whole number from 1 to 2147483647, not 0."


@pytest.mark.parametrize("key", ["hunter2", KEY[:-1], f"{KEY},{KEY}", "ü" * 44])
def test_the_error_names_a_bad_encryption_key_by_its_place_and_does_not_repeat_it(key):
    error = refusal(WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS=[KEY, key])

    assert "item 2 must be a Fernet key" in str(error)
    assert key not in str(error) + repr(error)
    assert error.__cause__ is None


def test_the_error_names_a_bad_network_by_its_place_and_repeats_it():
    error = refusal(WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS=["10.0.0.0/8", "10.1.2.3/16"])

    assert "item 2" in str(error)
    assert "10.1.2.3/16" in str(error)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("WEBHOOK_ENDPOINTS_MAX_TIMEOUT_SECOND", "WEBHOOK_ENDPOINTS_MAX_TIMEOUT_SECONDS"),
        ("WEBHOOK_ENDPOINTS_REQUIRE_HTPPS", "WEBHOOK_ENDPOINTS_REQUIRE_HTTPS"),
        ("WEBHOOK_ENDPOINTS_ALLOW_NETWORKS", "WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS"),
        ("WEBHOOK_ENDPOINTS_ENCRYPTION_KEY", "WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS"),
        ("WEBHOOK_ENDPOINTS_require_https", "WEBHOOK_ENDPOINTS_REQUIRE_HTTPS"),
        ("Webhook_Endpoints_Require_Https", "WEBHOOK_ENDPOINTS_REQUIRE_HTTPS"),
        ("webhook_endpoints_require_https", "WEBHOOK_ENDPOINTS_REQUIRE_HTTPS"),
    ],
)
def test_a_mistyped_key_is_named_as_typed_with_what_was_meant(typed, meant):
    error = refusal(**{typed: True})

    assert error.key == typed
    assert str(error) == f"{typed}: no such setting. Did you mean {meant}?"


def test_a_key_like_none_of_ours_is_answered_with_all_of_ours():
    error = refusal(WEBHOOK_ENDPOINTS_X=1)

    assert all(f"WEBHOOK_ENDPOINTS_{name.upper()}" in str(error) for name in Settings.__dataclass_fields__)


def test_a_key_without_its_name_is_refused():
    assert refusal(WEBHOOK_ENDPOINTS_=1).key == "WEBHOOK_ENDPOINTS_"


def test_keys_of_other_libraries_are_left_alone():
    assert register(SECRET_KEY="host secret", WEBHOOKS_URL="x", webhook="x", CELERY={}).settings == Settings()


@pytest.mark.parametrize("secret_key", [None, "", b""], ids=["none", "empty", "empty bytes"])
def test_no_key_at_all_stops_the_registration(secret_key):
    error = refusal(SECRET_KEY=secret_key)

    assert error.key == "WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS"
    assert "SECRET_KEY" in error.rule


def test_encryption_keys_alone_are_enough():
    assert register(SECRET_KEY=None, WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS=[KEY]).cipher.encrypt("x")


def test_a_secret_key_in_bytes_is_the_key_of_the_same_string():
    token = register(SECRET_KEY="schlüssel").cipher.encrypt("x")

    assert register(SECRET_KEY="schlüssel".encode()).cipher.decrypt(token) == "x"


def test_what_a_former_secret_key_encrypted_stays_readable():
    token = register(SECRET_KEY="old").cipher.encrypt("x")

    state = register(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"])
    assert state.cipher.decrypt(token) == "x"
    assert register(SECRET_KEY="new").cipher.decrypt(state.cipher.renew(token)) == "x"


def from_environment(monkeypatch, key, typed):
    """Return what `app.config` has where this is typed in the environment."""
    app = Flask("environment")
    monkeypatch.setenv(f"FLASK_{key}", typed)
    app.config.from_prefixed_env()
    return app.config[key]


# `True` is no JSON, so that it came as text, and the message said that it must be True.
@pytest.mark.parametrize(
    ("name", "typed", "right"),
    [
        ("REQUIRE_HTTPS", "True", "true"),
        ("PROXY", "None", "null"),
        ("ALLOWED_NETWORKS", "127.0.0.0/8", '["127.0.0.0/8"]'),
        ("ENCRYPTION_KEYS", KEY, f'["{KEY}"]'),
        ("RETRY_SCHEDULE", "0, 5", "[0, 5]"),
        ("RETENTION_DAYS", "30d", "30"),
    ],
)
def test_a_setting_from_the_environment_is_json_and_the_error_says_so(monkeypatch, name, typed, right):
    key = f"WEBHOOK_ENDPOINTS_{name}"

    error = refusal(**{key: from_environment(monkeypatch, key, typed)})

    assert str(error).endswith('. From the environment, write JSON: true, null, 10, or ["127.0.0.0/8"].')
    assert KEY not in str(error)
    assert register(**{"SECRET_KEY": "host secret", key: from_environment(monkeypatch, key, right)})


def test_a_wrong_setting_that_is_no_text_did_not_come_from_the_environment():
    error = refusal(WEBHOOK_ENDPOINTS_REQUIRE_HTTPS=1)

    assert str(error) == "WEBHOOK_ENDPOINTS_REQUIRE_HTTPS: must be True or False, not 1."


WRONG_SECRET_KEYS = [
    ("SECRET_KEY", "12345678"),
    ("SECRET_KEY", "0"),
    ("SECRET_KEY", '["12345678"]'),
    ("SECRET_KEY_FALLBACKS", "an old secret"),
    ("SECRET_KEY_FALLBACKS", "12345678"),
    ("SECRET_KEY_FALLBACKS", "[12345678]"),
    ("SECRET_KEY_FALLBACKS", '{"12345678": 1}'),
]


# A number ended in the TypeError of a library below, and a string was taken as a list of its letters.
@pytest.mark.parametrize(("key", "typed"), WRONG_SECRET_KEYS)
def test_secret_keys_of_a_wrong_type_are_named_and_not_shown(monkeypatch, key, typed):
    error = refusal(**{key: from_environment(monkeypatch, key, typed)})

    assert error.key == key
    assert "text or bytes. From the environment, " in str(error)
    assert not [shown for shown in ("12345678", "an old secret") if shown in str(error)]


@pytest.mark.parametrize("fallbacks", [None, "", [], (), [None], ["", b""]], ids=repr)
def test_no_former_secret_keys_are_needed(fallbacks):
    assert register(SECRET_KEY="host secret", SECRET_KEY_FALLBACKS=fallbacks).cipher.encrypt("x")


def test_no_repr_shows_a_key():
    state = register(SECRET_KEY="host secret", WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS=[KEY])

    for thing in (state, state.settings, state.cipher, state.host, state.new_endpoint):
        assert KEY not in repr(thing)
        assert "host secret" not in repr(thing)


def test_each_application_has_its_own_settings():
    # Both applications' limits once landed in one list on the class, so that the lowest held for all.
    webhooks = WebhookEndpoints(session=Session, tenant=lambda: "acme")
    apps = [Flask("one"), Flask("two")]
    for app, seconds in zip(apps, (20, 60), strict=True):
        app.config.update(SECRET_KEY="host secret", WEBHOOK_ENDPOINTS_MAX_TIMEOUT_SECONDS=seconds)
        app.register_blueprint(webhooks.blueprint)

    body = {"name": "n", "url": "https://example.com/"}
    one, two = (state_of(app).new_endpoint for app in apps)
    assert one.load({**body, "timeout_seconds": 20})["timeout_seconds"] == 20
    assert two.load({**body, "timeout_seconds": 60})["timeout_seconds"] == 60
    assert len(one.validate({**body, "timeout_seconds": 21})["timeout_seconds"]) == 1
    assert len(two.validate({**body, "timeout_seconds": 61})["timeout_seconds"]) == 1
