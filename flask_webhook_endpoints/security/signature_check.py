"""The check of a signature for a person: the secret that made it, or the mistake behind it.

A check tries the secrets and the usual mistakes one after another. It compares with `==`, because the person may read
the endpoint's secrets anyway.

Source: Standard Webhooks 1.0.0, "Signature scheme" and "Webhook Headers".
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from flask_webhook_endpoints.security import pasted, signing
from flask_webhook_endpoints.security.encryption import Secret
from flask_webhook_endpoints.security.pasted import Body, BodyForm

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hmac import HMAC

TOLERANCE_SECONDS = 300
"""Seconds, five minutes, by which receivers let the timestamp differ from their clock."""

MAX_HEADERS_LENGTH = 65_536
"""Characters of pasted headers that are looked at."""

MAX_BODY_LENGTH = 524_288
"""Characters of a pasted body that are looked at."""

MAX_SIGNATURES = 20
"""Signatures that are looked at, of those that one header has."""

_LIKELY = 3
"""Bodies, the most likely ones, that are tried with other endpoints' secrets and with mistakes."""

_PREFIX = "whsec_"
_DIGEST_LENGTH = 32
_TIMESTAMP = re.compile(r"[0-9]{1,11}")
_HEX = re.compile(r"(?:.*[,=])?([0-9A-Fa-f]{64})")
_BASE64 = re.compile(r"(?P<before>[^,]*,)?(?P<digest>[A-Za-z0-9+/_-]{43}|[A-Za-z0-9+/_-]{86})(?P<end>={0,2})")


class Verdict(StrEnum):
    """The result of a check, for which a page has a sentence each."""

    VALID = "valid"
    """A secret that signs made the signature, and the time is right."""
    STALE = "stale"
    """The signature is right; the timestamp is too old or too new. Receivers refuse the request."""
    EXPIRED_SECRET = "expired_secret"  # noqa: S105 - a word
    """A previous secret made the signature, which signs no longer."""
    BODY_CHANGED = "body_changed"
    """The body that was signed is not the pasted one; `Match.body` says how they differ."""
    OTHER_ENDPOINT = "other_endpoint"
    """The secret of another endpoint of the tenant made the signature."""
    WRONG_KEY = "wrong_key"
    """The secret was used in the wrong way (`Match.key`)."""
    WRONG_CONTENT = "wrong_content"
    """Another content was signed than id, timestamp and body (`Match.content`)."""
    WRONG_ENCODING = "wrong_encoding"
    """The signature is right and written in the wrong way (`Match.encoding`)."""
    MISSING_HEADER = "missing_header"
    """The headers of `Diagnosis.headers` are not in what was pasted."""
    GARBLED_HEADER = "garbled_header"
    """The headers of `Diagnosis.headers` have values that no delivery has."""
    NO_MATCH = "no_match"
    """Nothing that was tried explains the signature."""
    TOO_LONG = "too_long"
    """The headers or the body are longer than a check looks at."""


class KeyForm(StrEnum):
    """The bytes of a secret that were used as the key."""

    RIGHT = "right"
    WHOLE_TEXT = "whole_text"
    """The text as it is, `whsec_` included, though its base64 must be decoded."""
    WITHOUT_PREFIX = "without_prefix"
    """The text after `whsec_`, not decoded."""
    DECODED = "decoded"
    """The text decoded as base64, though the secret signs with its own characters."""


class Content(StrEnum):
    """The content that was signed."""

    RIGHT = "right"
    """The id, the timestamp and the body, with dots between them."""
    BODY_ALONE = "body_alone"
    WITHOUT_ID = "without_id"
    WITHOUT_TIMESTAMP = "without_timestamp"


class Encoding(StrEnum):
    """The form in which a signature is written."""

    RIGHT = "right"
    """`v1,` and base64."""
    WITHOUT_VERSION = "without_version"
    """Base64 without `v1,` before it."""
    URL_SAFE = "url_safe"
    """Base64 with `-` and `_`."""
    UNPADDED = "unpadded"
    """Base64 without `=` at its end."""
    HEX = "hex"
    HEX_IN_BASE64 = "hex_in_base64"
    """Base64 of the hexadecimal digits."""


@dataclass(frozen=True, kw_only=True)
class KnownSecret:
    """A secret to try."""

    secret: Secret
    endpoint_id: UUID
    endpoint_name: str | None
    """The name of another endpoint; None: the secret belongs to the endpoint itself."""
    created_at: datetime
    expires_at: datetime | None
    """When it stops signing, or has stopped. None: it is the current secret."""


class Match(NamedTuple):
    """An explanation of a signature."""

    known: KnownSecret
    key: KeyForm
    content: Content
    encoding: Encoding
    body: BodyForm

    @property
    def is_mistake(self) -> bool:
        """True if no delivery is signed like this."""
        right = KeyForm.RIGHT, Content.RIGHT, Encoding.RIGHT
        return (self.key, self.content, self.encoding) != right


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The result of a check."""

    verdict: Verdict
    matches: Sequence[Match] = ()
    """An explanation for each signature that has one, the best first: the verdict is about that one. The others may be
    signatures that the receiver's own code computed."""
    headers: Sequence[str] = ()
    """The names of the headers that are missing or garbled."""
    clock_seconds: int | None = None
    """Seconds by which the timestamp is later than the time of the check. None: there is no timestamp."""


def check(
    headers_text: str,
    body_text: str,
    *,
    own: Sequence[KnownSecret],
    others: Iterable[KnownSecret] = (),
    sent: bytes | None = None,
    now: datetime,
) -> Diagnosis:
    """Return which secret signed what a person has pasted, or why none did; never raise for any text.

    Args:
        headers_text: The headers, as any tool prints them.
        body_text: The body.
        own: The endpoint's secrets, the current one first, expired ones among them.
        others: The secrets of the tenant's other endpoints. They are asked for only if none of `own` made the
            signature.
        sent: The body of the event that the headers name, where it is still stored.
        now: The time of the check.

    """
    if len(headers_text) > MAX_HEADERS_LENGTH or len(body_text) > MAX_BODY_LENGTH:
        return Diagnosis(verdict=Verdict.TOO_LONG)
    headers = pasted.headers(headers_text)
    clock_seconds = _clock_seconds(headers.get(pasted.TIMESTAMP, ""), now)
    if missing := [name for name in pasted.HEADERS if name not in headers]:
        return Diagnosis(verdict=Verdict.MISSING_HEADER, headers=missing, clock_seconds=clock_seconds)
    digests = _digests(headers[pasted.SIGNATURE])
    bodies = pasted.bodies(body_text, sent=sent)
    matches = list(_matches(digests, _hypotheses(own, others, bodies), headers))
    garbled = [] if digests else [pasted.SIGNATURE]
    if clock_seconds is None:
        garbled.insert(0, pasted.TIMESTAMP)
    if not matches:
        verdict = Verdict.GARBLED_HEADER if garbled else Verdict.NO_MATCH
        return Diagnosis(verdict=verdict, headers=garbled, clock_seconds=clock_seconds)
    matches.sort(key=lambda match: match.is_mistake)
    verdict = _verdict(matches[0], clock_seconds, now)
    return Diagnosis(verdict=verdict, matches=matches, headers=garbled, clock_seconds=clock_seconds)


def _verdict(match: Match, clock_seconds: int | None, now: datetime) -> Verdict:
    known = match.known
    steps = (
        (match.key is not KeyForm.RIGHT, Verdict.WRONG_KEY),
        (match.content is not Content.RIGHT, Verdict.WRONG_CONTENT),
        (match.encoding is not Encoding.RIGHT, Verdict.WRONG_ENCODING),
        (known.endpoint_name is not None, Verdict.OTHER_ENDPOINT),
        (match.body is not BodyForm.AS_PASTED, Verdict.BODY_CHANGED),
        (known.expires_at is not None and known.expires_at <= now, Verdict.EXPIRED_SECRET),
        (clock_seconds is None, Verdict.GARBLED_HEADER),
        (abs(clock_seconds or 0) > TOLERANCE_SECONDS, Verdict.STALE),
    )
    return next((verdict for applies, verdict in steps if applies), Verdict.VALID)


def _clock_seconds(timestamp: str, now: datetime) -> int | None:
    return int(timestamp) - int(now.timestamp()) if _TIMESTAMP.fullmatch(timestamp) else None


class _Hypothesis(NamedTuple):
    """A way in which a signature may have been made."""

    known: KnownSecret
    key: KeyForm
    signer: "HMAC"
    content: Content
    body: Body


def _hypotheses(
    own: Sequence[KnownSecret], others: Iterable[KnownSecret], bodies: Sequence[Body]
) -> Iterator[_Hypothesis]:
    """Yield the ways in which a signature may have been made: the right ones first, the likeliest bodies first."""
    signers = [(known, list(_signers(known.secret.reveal()))) for known in own]
    for body in bodies:
        for known, [(_, signer), *_] in signers:
            yield _Hypothesis(known, KeyForm.RIGHT, signer, Content.RIGHT, body)
    for known in others:
        signer = signing.signer(known.secret.reveal())
        for body in bodies[:_LIKELY]:
            yield _Hypothesis(known, KeyForm.RIGHT, signer, Content.RIGHT, body)
    for body, (known, forms), content in product(bodies[:_LIKELY], signers, Content):
        yield from (_Hypothesis(known, key, signer, content, body) for key, signer in forms)


def _signers(secret: str) -> "Iterator[tuple[KeyForm, HMAC]]":
    """Yield what signs with the right key of a secret, then with the keys that programs use by mistake."""
    yield KeyForm.RIGHT, signing.signer(secret)
    encoded = secret.removeprefix(_PREFIX)
    if signing.is_key(secret):
        yield KeyForm.WHOLE_TEXT, signing.signer_with(secret.encode())
    if encoded != secret:
        yield KeyForm.WITHOUT_PREFIX, signing.signer_with(encoded.encode())
    if not signing.is_key(secret) and (decoded := _decoded(encoded)):
        yield KeyForm.DECODED, signing.signer_with(decoded)


def _decoded(text: str) -> bytes:
    """Return the bytes that lenient decoders read from a text."""
    plain = re.sub(r"[^A-Za-z0-9+/]", "", text.replace("-", "+").replace("_", "/"))
    # One character alone encodes nothing.
    plain = plain[: len(plain) - (len(plain) % 4 == 1)]
    return b64decode(plain + "=" * (-len(plain) % 4))


def _matches(
    digests: Mapping[bytes, Encoding], hypotheses: Iterable[_Hypothesis], headers: Mapping[str, str]
) -> Iterator[Match]:
    """Yield the first explanation of each signature."""
    left = dict(digests)
    head = headers[pasted.ID].encode(errors="replace"), headers[pasted.TIMESTAMP].encode(errors="replace")
    for each in hypotheses if left else ():
        content = _content(each.content, *head, each.body.content)
        encoding = left.pop(signing.digest(each.signer, content), None)
        if encoding is not None:
            yield Match(each.known, each.key, each.content, encoding, each.body.form)
        if not left:
            return


def _content(content: Content, message_id: bytes, timestamp: bytes, body: bytes) -> bytes:
    match content:
        case Content.RIGHT:
            return b".".join((message_id, timestamp, body))
        case Content.BODY_ALONE:
            return body
        case Content.WITHOUT_ID:
            return b".".join((timestamp, body))
        case Content.WITHOUT_TIMESTAMP:
            return b".".join((message_id, body))


def _digests(signature: str) -> dict[bytes, Encoding]:
    """Return the signatures of a header as bytes, and how each is written."""
    found: dict[bytes, Encoding] = {}
    for text in signature.split()[:MAX_SIGNATURES]:
        digest, encoding = _digest_of(text.strip(",;"))
        if digest is not None and found.get(digest) is not Encoding.RIGHT:
            found[digest] = encoding
    return found


def _digest_of(text: str) -> tuple[bytes | None, Encoding]:
    if of_hex := _HEX.fullmatch(text):
        return bytes.fromhex(of_hex[1]), Encoding.HEX
    parts = _BASE64.fullmatch(text)
    decoded = _decoded(parts["digest"]) if parts else b""
    if of_hex := _HEX.fullmatch(decoded.decode("ascii", "replace")):
        return bytes.fromhex(of_hex[1]), Encoding.HEX_IN_BASE64
    if parts is None or len(decoded) != _DIGEST_LENGTH:
        return None, Encoding.RIGHT
    steps = (
        ("-" in parts["digest"] or "_" in parts["digest"], Encoding.URL_SAFE),
        (parts["end"] != "=", Encoding.UNPADDED),
        (parts["before"] != "v1,", Encoding.WITHOUT_VERSION),
    )
    return decoded, next((encoding for applies, encoding in steps if applies), Encoding.RIGHT)
