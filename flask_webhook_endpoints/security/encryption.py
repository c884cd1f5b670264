"""Encryption at rest of what only the tenant and its receiver may know.

Source: Fernet (cryptography's specification of it) with rotation by a list of keys, newest first; HKDF is RFC 5869.
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
    """A signing secret in memory, or text that holds one, which no `repr`, log record or traceback shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(…)"

    def reveal(self) -> str:
        """Return the secret in clear."""
        return self._value


class Headers(dict[str, str]):
    """Custom headers in memory: their values may be credentials, so `repr` shows the names alone."""

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"


class Cipher:
    """Encrypts with the first key, decrypts with any."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Take Fernet keys (32 bytes in URL-safe base64), newest first; `ValueError` when there is none."""
        keys = list(keys)
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._hmac_keys = [urlsafe_b64decode(key) for key in keys]

    def encrypt(self, text: str) -> str:
        """Return `text` as an ASCII token."""
        return self._fernet.encrypt(text.encode()).decode("ascii")

    def decrypt(self, token: str) -> str:
        """Return what `encrypt` was given; raise `UnreadableValue` when no key fits."""
        try:
            return self._fernet.decrypt(token).decode()
        except (InvalidToken, ValueError):
            # ValueError: not even ASCII, or not UTF-8 within.
            raise UnreadableValue("No key decrypts this value.") from None

    def encrypt_headers(self, headers: Mapping[str, str]) -> str | None:
        """Return custom headers as a token; None for none."""
        return self.encrypt(json.dumps(headers, ensure_ascii=False)) if headers else None

    def decrypt_headers(self, token: str | None) -> Headers:
        """Return what `encrypt_headers` was given; raise `UnreadableValue` when no key fits."""
        return Headers() if token is None else Headers(json.loads(self.decrypt(token)))

    def renew(self, token: str) -> str:
        """Return the token encrypted with the newest key; raise `UnreadableValue` when no key fits."""
        return self.encrypt(self.decrypt(token))

    def fingerprint(self, text: str) -> str:
        """Return 64 hex digits that tell whether a text is the same, and nothing else about it."""
        return _keyed_digest(self._hmac_keys[0], text)

    def matches(self, fingerprint: str, text: str) -> bool:
        """Tell whether `fingerprint` was made of `text`, under any of the keys."""
        return any(hmac.compare_digest(fingerprint, _keyed_digest(key, text)) for key in self._hmac_keys)


def derive_key(secret_key: str | bytes) -> str:
    """Return the Fernet key that stands for one of Flask's secret keys."""
    if isinstance(secret_key, str):
        secret_key = secret_key.encode()
    # The label keeps this key apart from every other use of SECRET_KEY; changing it loses what is stored.
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"flask-webhook-endpoints encryption 1")
    return urlsafe_b64encode(derivation.derive(secret_key)).decode("ascii")


def check_key(key: str) -> None:
    """Raise `ValueError` unless `key` is a Fernet key; the message does not repeat it."""
    # Fernet itself overlooks what follows the padding: "key=,key=" would be the first key alone.
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}=", key):
        raise ValueError("must be a Fernet key: 32 bytes in URL-safe base64, as Fernet.generate_key() makes.")


def _keyed_digest(key: bytes, text: str) -> str:
    return hmac.new(key, b"fingerprint\0" + text.encode(), hashlib.sha256).hexdigest()
