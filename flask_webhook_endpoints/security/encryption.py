"""Encryption at rest of signing secrets and custom headers, which only the tenant and its receiver may know.

Source: Fernet, as cryptography specifies it, with a list of keys, newest first; HKDF is RFC 5869.
"""

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flask_webhook_endpoints.errors import UnreadableValue


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


class Headers(dict[str, str]):
    """Custom headers in memory. `repr` shows only the names, because the values may be credentials."""

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"


class Cipher:
    """A cipher that encrypts with the first key and decrypts with any key."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Take Fernet keys (32 bytes in URL-safe base64), newest first; raise `ValueError` when there is none."""
        keys = list(keys)
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._hmac_keys = [urlsafe_b64decode(key) for key in keys]

    def encrypt(self, text: str) -> str:
        """Encrypt a text and return an ASCII token."""
        return self._fernet.encrypt(text.encode()).decode("ascii")

    def decrypt(self, token: str) -> str:
        """Return the text of a token; raise `UnreadableValue` when no key decrypts it."""
        try:
            return self._fernet.decrypt(token).decode()
        except (InvalidToken, ValueError):
            # ValueError: the token is not ASCII, or the text is not UTF-8.
            raise UnreadableValue("No key decrypts this value.") from None

    def encrypt_headers(self, headers: Mapping[str, str]) -> str | None:
        """Encrypt custom headers and return a token, or None when there are no headers."""
        return self.encrypt(json.dumps(headers, ensure_ascii=False)) if headers else None

    def decrypt_headers(self, token: str | None) -> Headers:
        """Return the headers of a token; raise `UnreadableValue` when no key decrypts it."""
        return Headers() if token is None else Headers(json.loads(self.decrypt(token)))

    def renew(self, token: str) -> str:
        """Re-encrypt a token with the newest key; raise `UnreadableValue` when no key decrypts it."""
        return self.encrypt(self.decrypt(token))

    def fingerprint(self, text: str) -> str:
        """Return 64 hex digits that are the same for the same text, and reveal nothing else about it."""
        return _keyed_digest(self._hmac_keys[0], text)

    def matches(self, fingerprint: str, text: str) -> bool:
        """Return whether `fingerprint` was made from `text` with one of the keys."""
        return any(hmac.compare_digest(fingerprint, _keyed_digest(key, text)) for key in self._hmac_keys)


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


def _keyed_digest(key: bytes, text: str) -> str:
    return hmac.new(key, b"fingerprint\0" + text.encode(), hashlib.sha256).hexdigest()
