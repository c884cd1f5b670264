"""Signatures of deliveries: one for each valid secret, and the check that a receiver makes.

Source: Standard Webhooks 1.0.0, "Signature scheme" (symmetric, `v1`) and "Webhook Headers"; HMAC is RFC 2104.
"""

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING

from flask_webhook_endpoints.errors import InvalidSignature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hmac import HMAC

_PREFIX = "whsec_"
_BASE64 = re.compile(rf"{_PREFIX}[A-Za-z0-9+/=]*")
_BASE64_OF_A_KEY = re.compile(rf"{_PREFIX}[A-Za-z0-9+/]{{32,86}}=*")
# "Between 24 bytes (192 bits) and 64 bytes (512 bits)".
_KEY_LENGTHS = range(24, 65)


def sign(secrets: Sequence[str], *, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one signature per secret, in their order (newest first)."""
    return sign_with([signer(secret) for secret in secrets], message_id=message_id, timestamp=timestamp, body=body)


def sign_with(signers: "Sequence[HMAC]", *, message_id: str, timestamp: int, body: bytes) -> str:
    """Do as `sign`, with a signer for each secret."""
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(f"v1,{b64encode(digest(signer, content)).decode('ascii')}" for signer in signers)


def signer(secret: str) -> "HMAC":
    """Return a signer for a secret, to be used many times: it hashes the key once (RFC 2104)."""
    return signer_with(key_of(secret))


def signer_with(key: bytes) -> "HMAC":
    """Do as `signer`, with the bytes that sign."""
    return _hmac()(key)


@cache
def _hmac() -> "Callable[[bytes], HMAC]":
    # Imported here, because pytest loads this module in every project where the library is installed.
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.hmac import HMAC  # noqa: PLC0415

    return partial(HMAC, algorithm=SHA256())


def key_of(secret: str) -> bytes:
    """Return the bytes that sign: those that `whsec_…` encodes, or the UTF-8 bytes of any other string.

    Only `whsec_` and the canonical base64 of 24 to 64 bytes counts as encoded. Any other string signs as a whole, its
    prefix included.
    """
    encoded = secret.removeprefix(_PREFIX)
    if encoded != secret:
        try:
            key = b64decode(encoded, validate=True)
        except ValueError:
            return secret.encode()
        # Decoders accept stray bits and padding, which the canonical spelling does not have.
        if len(key) in _KEY_LENGTHS and b64encode(key).decode("ascii") == encoded:
            return key
    return secret.encode()


def is_key(secret: str) -> bool:
    """Return whether the secret is a Standard Webhooks key, rather than text that signs with its own bytes."""
    return key_of(secret) != secret.encode()


def fault_of(secret: str) -> str | None:
    """Return why the official verifiers can't use a new secret as it is given; None if they can."""
    if not re.fullmatch(r"[ -~]{16,128}", secret):
        return "Must be 16 to 128 printable ASCII characters."
    if secret.strip() != secret:
        return "Must not begin or end with white space."
    if secret.startswith(("whsk_", "whpk_")):
        return "Must not begin with whsk_ or whpk_: those are keys of asymmetric signatures."
    if is_key(secret) or not _BASE64.fullmatch(secret):
        return None
    # Verifiers also decode base64 without its padding, with too much padding, and with stray bits.
    if _BASE64_OF_A_KEY.fullmatch(secret):
        return "Must be spelt as RFC 4648 says, padding included, if it is whsec_ and the base64 of 24 to 64 bytes."
    return "Must be the base64 of 24 to 64 bytes after whsec_, or contain another character than those of base64."


def verify(
    secrets: Sequence[str], headers: Mapping[str, str], body: bytes, *, now: datetime, tolerance_seconds: int = 300
) -> None:
    """Raise `InvalidSignature` unless one of the secrets signed this body, at most `tolerance_seconds` from `now`."""
    named = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, given = named["webhook-id"], named["webhook-signature"].encode(errors="replace").split(b" ")
        timestamp = _timestamp(named["webhook-timestamp"])
    except KeyError as missing:
        raise InvalidSignature(f"No header {missing.args[0]}.") from None
    if not message_id.isascii():
        raise InvalidSignature("The id is not ASCII.")
    if abs(now.timestamp() - timestamp) > tolerance_seconds:
        raise InvalidSignature("The timestamp is too old or too new.")
    expected = sign(secrets, message_id=message_id, timestamp=timestamp, body=body).encode().split()
    # A list compares all of them, so that the time taken does not tell which one matched.
    if not any([hmac.compare_digest(one, other) for one in given for other in expected]):  # noqa: C419
        raise InvalidSignature("No signature matches.")


def digest(signer: "HMAC", content: bytes) -> bytes:
    """Return the 32 bytes of a signature."""
    once = signer.copy()
    once.update(content)
    return once.finalize()


def _timestamp(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,11}", text):
        raise InvalidSignature("The timestamp is not a number of seconds.")
    return int(text)
