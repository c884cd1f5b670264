"""Encryption at rest of signing secrets and custom headers, which only the tenant and its receiver may know.

Source: Fernet, as cryptography specifies it, with a list of keys, newest first; HKDF is RFC 5869.
"""

import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flask_webhook_endpoints.errors import UnreadableValue
from flask_webhook_endpoints.security.private import Private


class Secret:
    """A signing secret in memory, or a text that contains one. No `repr`, log record or traceback shows it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(…)"

    def reveal(self) -> str:
        """Return the secret in clear text."""
        return self._value


class Headers(Private[str]):
    """Custom headers in memory, whose values may be credentials."""

    __slots__ = ()


_MARK = "\0"
"""Stands around the place in an encrypted text. No secret and no headers begin with it."""

_OF_SECRET = "secret "  # noqa: S105 - a word


def place_of_secret(secret_id: UUID, ep_id: str) -> str:
    """Return the place of a secret: its row, and the endpoint that it belongs to."""
    return f"{_OF_SECRET}{secret_id} {ep_id}"


def place_of_headers(ep_id: str) -> str:
    """Return the place of an endpoint's custom headers."""
    return f"headers {ep_id}"


def place_of_answer(tenant_id: str, key: str) -> str:
    """Return the place of an answer that is kept for a tenant's `Idempotency-Key`."""
    return f"answer {json.dumps([tenant_id, key])}"


class Cipher:
    """A cipher that encrypts with the first key and decrypts with any key."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Take Fernet keys (32 bytes in URL-safe base64), newest first; raise `ValueError` when there is none."""
        keys = list(keys)
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._keys = [urlsafe_b64decode(key) for key in keys]

    def has_keys(self, keys: Iterable[str]) -> bool:
        """Return whether these are the cipher's keys, in its order."""
        return [urlsafe_b64decode(key) for key in keys] == self._keys

    def encrypt(self, text: str, place: str | None = None) -> str:
        """Encrypt a text and return an ASCII token, which can be read only in that place."""
        bound = text if place is None else f"{_MARK}{place}{_MARK}{text}"
        return self._fernet.encrypt(bound.encode()).decode("ascii")

    def decrypt(self, token: str, place: str | None = None) -> str:
        """Return the text of a token; raise `UnreadableValue` when no key decrypts it, or when it has another place."""
        try:
            text = self._fernet.decrypt(token).decode()
            found: str | None
            if text.startswith(_MARK):
                _, found, text = text.split(_MARK, 2)
            else:
                # Older versions wrote no place. Even so, their headers can't be read as a secret.
                is_secret = place is not None and place.startswith(_OF_SECRET)
                found = None if is_secret and text.startswith('{"') else place
        except (InvalidToken, ValueError):
            # ValueError: the token is not ASCII, the text is not UTF-8, or it has no second mark.
            raise UnreadableValue("No key decrypts this value.") from None
        if found != place:
            raise UnreadableValue("This value was encrypted for another row.")
        return text

    def encrypt_headers(self, headers: Headers, place: str) -> str | None:
        """Encrypt custom headers and return a token, or None when there are no headers."""
        return self.encrypt(json.dumps(dict(headers), ensure_ascii=False), place) if headers else None

    def decrypt_headers(self, token: str | None, place: str) -> Headers:
        """Return the headers of a token; raise `UnreadableValue` as `decrypt` does, or for another value."""
        if token is None:
            return Headers()
        try:
            headers = json.loads(self.decrypt(token, place))
        except (ValueError, RecursionError):
            headers = None
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise UnreadableValue("The stored value is not an object of headers.")
        return Headers(headers)

    def renew(self, token: str, place: str | None = None) -> str:
        """Re-encrypt a token with the newest key; raise `UnreadableValue` when no key decrypts it."""
        return self.encrypt(self.decrypt(token, place), place)

    def fingerprint(self, text: str) -> str:
        """Return the same fingerprint for the same text; it tells nothing of it without the first key."""
        return hmac.new(self._keys[0], b"flask-webhook-endpoints fingerprint 1\0" + text.encode(), "sha256").hexdigest()


def derive_key(secret_key: str | bytes) -> str:
    """Derive a Fernet key from one of Flask's secret keys."""
    if isinstance(secret_key, str):
        secret_key = secret_key.encode()
    # The label makes this key differ from every other key derived from SECRET_KEY. With another label, no stored value
    # could be decrypted.
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"flask-webhook-endpoints encryption 1")
    return urlsafe_b64encode(derivation.derive(secret_key)).decode("ascii")


def check_key(key: str) -> None:
    """Raise `ValueError` unless `key` is a Fernet key; the message does not contain the key."""
    # Fernet ignores characters after the padding: it would take "key=,key=" for the first key.
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}=", key):
        raise ValueError("must be a Fernet key: 32 bytes in URL-safe base64, as Fernet.generate_key() makes.")
