"""Checks of the settings, of the encryption keys and of `SECRET_KEY`, which they may be derived from."""

from collections.abc import Iterator

import sqlalchemy as sa
from flask import Flask

from flask_webhook_endpoints.cli.findings import Finding, Level, fail, ok, warn
from flask_webhook_endpoints.core import key_rotation
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import InvalidSetting, UnreadableValue
from flask_webhook_endpoints.settings import PREFIX, Settings
from flask_webhook_endpoints.state import State, check_settings

SAMPLE = 20
"""Stored values of each kind, the oldest ones and as many new ones, that a check of keys decrypts."""

MIN_KEY_LENGTH = 32
"""Characters of a `SECRET_KEY` that nobody guesses; `secrets.token_hex()` makes 64."""

MIN_DISTINCT = 8
"""Different characters in such a key at least: 32 random hexadecimal digits have fewer once in ten million keys."""

_KNOWN_KEYS = frozenset({
    # Flask's documentation.
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
    # Our README.
    "e331a0b031789cd0b8a3e28ed9467a89",
})  # fmt: skip
_WORDS = ("changeme", "example", "insecure", "secretkey", "yoursecret")
"""Parts of keys that are examples, in lower case and without what is no letter."""


def check_app_settings(app: Flask, settings: Settings, *, production: bool) -> Iterator[Finding]:
    """Check the settings of an app: what they allow, what has no effect, and the strength of `SECRET_KEY`."""
    try:
        check_settings(app)
    except InvalidSetting as error:
        advice = "Change app.config before the first request, publish or command; a change after it has no effect."
        yield fail("settings", f"{error.key} was changed after the app had used its settings", advice)
    yield from _check_egress(settings, production=production)
    if not settings.encryption_keys:
        yield _check_secret_key(app.config.get("SECRET_KEY"), production=production)


def _check_egress(settings: Settings, *, production: bool) -> Iterator[Finding]:
    if settings.require_https or not production:
        yield ok("https", "required" if settings.require_https else "not required, in debug or testing mode")
    else:
        advice = f"Set {PREFIX}REQUIRE_HTTPS = True: what you send is readable on its way otherwise."
        yield warn("https", "endpoints may have http: URLs", advice)
    if production and settings.allowed_networks and settings.proxy is None:
        networks = ", ".join(settings.allowed_networks)
        advice = f"Keep {PREFIX}ALLOWED_NETWORKS empty unless your customers' receivers are in there."
        yield warn("egress", f"deliveries may reach {networks}", advice)


def _check_secret_key(key: str | bytes | None, *, production: bool) -> Finding:
    text = key.decode("latin-1") if isinstance(key, bytes) else key or ""
    letters = "".join(filter(str.isalpha, text.lower()))
    if len(text) < MIN_KEY_LENGTH:
        fault = f"has {len(text)} characters: who reads the database can guess it, and decrypt all secrets"
    elif text in _KNOWN_KEYS or any(word in letters for word in _WORDS) or len(set(text)) < MIN_DISTINCT:
        fault = "is an example: who reads the database can guess it, and decrypt all secrets"
    else:
        return ok("secret-key", "long enough, and no example")
    advice = (
        "Make one: python -c 'import secrets; print(secrets.token_hex())'. If anything is stored, put the old one into"
        " SECRET_KEY_FALLBACKS and run `flask webhooks rotate-keys`."
    )
    return Finding("secret-key", Level.FAIL if production else Level.WARN, f"SECRET_KEY {fault}", advice)


def check_keys(scope: Scope, state: State) -> Finding:
    """Decrypt a sample of the stored secrets and headers."""
    read = unreadable = 0
    for values in key_rotation.encrypted(scope.tables):
        row_id = values.column.table.c.id
        stored = sa.select(row_id, values.endpoint_id.label("endpoint_id"), values.column.label("token"))
        stored = stored.where(values.column.is_not(None)).limit(SAMPLE)
        oldest, newest = (scope.execute(stored.order_by(order)).all() for order in (row_id.asc(), row_id.desc()))
        # In a small table the same rows are the oldest and the newest.
        for row in {*oldest, *newest}:
            read += 1
            try:
                state.cipher.decrypt(row.token, values.place(row[0], row.endpoint_id))
            except UnreadableValue:
                unreadable += 1
    if unreadable:
        advice = (
            "Put the key back that encrypted them: into SECRET_KEY_FALLBACKS, or at the end of"
            f" {PREFIX}ENCRYPTION_KEYS. `flask webhooks rotate-keys` names the endpoints."
        )
        return fail("keys", f"no key reads {unreadable} of {read} stored secrets and headers", advice)
    if state.settings.encryption_keys:
        return ok("keys", f"{PREFIX}ENCRYPTION_KEYS reads all {read} values of a sample" if read else "nothing stored")
    advice = "Before SECRET_KEY changes, put the old one into SECRET_KEY_FALLBACKS."
    return ok("keys", f"derived from SECRET_KEY; they read all {read} values of a sample", advice)
