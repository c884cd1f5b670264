"""The results of a signature check in words: a title, and advice for who writes the receiver."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from flask_webhook_endpoints.portal.texts import gettext, ngettext, noted
from flask_webhook_endpoints.security.pasted import BodyForm
from flask_webhook_endpoints.security.signature_check import Content, Diagnosis, Encoding, KeyForm, Match, Verdict


class Answer(NamedTuple):
    """The result of a check in words."""

    is_valid: bool
    title: str
    advice: str


def answer(diagnosis: Diagnosis) -> Answer:
    """Return the result of a check in the reader's language."""
    match = diagnosis.matches[0] if diagnosis.matches else None
    name = "" if match is None else match.known.endpoint_name or ""
    title = gettext(_TITLES[diagnosis.verdict], names=", ".join(diagnosis.headers), name=name)
    return Answer(diagnosis.verdict is Verdict.VALID, title, _advice(diagnosis, match))


def _advice(diagnosis: Diagnosis, match: Match | None) -> str:
    if diagnosis.verdict is Verdict.STALE:
        return _of_clock(diagnosis.clock_seconds or 0)
    if diagnosis.verdict is Verdict.VALID and match is not None and match.known.expires_at is not None:
        return gettext("A previous secret made it. Give your server the secret in force before that one ends.")
    if match is not None and diagnosis.verdict in _MISTAKES:
        return gettext(_ADVICE[getattr(match, _MISTAKES[diagnosis.verdict])])
    return gettext(_ADVICE[diagnosis.verdict])


def _of_clock(seconds: int) -> str:
    minutes = max(1, abs(seconds) // 60)
    if seconds > 0:
        return ngettext(
            "It lies %(num)s minute in the future. Set the clock of the server that received it.",
            "It lies %(num)s minutes in the future. Set the clock of the server that received it.",
            minutes,
        )
    return ngettext(
        "It is %(num)s minute old, and receivers refuse what is older than five. Look at a newer request.",
        "It is %(num)s minutes old, and receivers refuse what is older than five. Look at a newer request.",
        minutes,
    )


_TITLES = {
    Verdict.VALID: noted("The signature is right."),
    Verdict.STALE: noted("The signature is right, but its time is not."),
    Verdict.EXPIRED_SECRET: noted("A previous secret made this signature, and it signs no longer."),
    Verdict.BODY_CHANGED: noted("The body was changed after it was signed."),
    Verdict.OTHER_ENDPOINT: noted("The secret of another endpoint made this signature: %(name)s."),
    Verdict.WRONG_KEY: noted("This signature was made with the right secret in the wrong form."),
    Verdict.WRONG_CONTENT: noted("This signature is of the wrong content."),
    Verdict.WRONG_ENCODING: noted("This signature is right, and written in the wrong way."),
    Verdict.MISSING_HEADER: noted("Not found: %(names)s."),
    Verdict.GARBLED_HEADER: noted("Not as we send it: %(names)s."),
    Verdict.NO_MATCH: noted("No secret of yours made this signature."),
    Verdict.TOO_LONG: noted("This is too long to be checked."),
}

_MISTAKES = {
    Verdict.BODY_CHANGED: "body",
    Verdict.WRONG_KEY: "key",
    Verdict.WRONG_CONTENT: "content",
    Verdict.WRONG_ENCODING: "encoding",
}
"""The member of `Match` that says which mistake it is."""

_ADVICE: Mapping[StrEnum, str] = {
    Verdict.VALID: noted("The secret in force made it."),
    Verdict.EXPIRED_SECRET: noted("New deliveries are signed with the secret in force. Give it to your server."),
    Verdict.OTHER_ENDPOINT: noted("Your server has the secret of the wrong endpoint, or the request was for another."),
    Verdict.MISSING_HEADER: noted("Paste webhook-id, webhook-timestamp and webhook-signature of one request."),
    Verdict.GARBLED_HEADER: noted("Something on the way to your server changed it, or it was not copied whole."),
    Verdict.NO_MATCH: noted("The body is not the one that arrived, byte for byte, or somebody else sent the request."),
    Verdict.TOO_LONG: noted("Paste one request alone."),
    BodyForm.LINE_ENDS: noted("Line ends or spaces around it differ. Verify the bytes as they arrive."),
    BodyForm.REWRITTEN: noted(
        "It is the same JSON, parsed and written again. Verify the bytes that arrive, before a framework parses them."
    ),
    BodyForm.ANOTHER: noted("The body that we signed for this id is another one. Paste the one of this request."),
    KeyForm.WHOLE_TEXT: noted("The whole text was the key. Take off whsec_, and decode the rest as base64."),
    KeyForm.WITHOUT_PREFIX: noted("The text after whsec_ was the key. Decode it as base64 first."),
    KeyForm.DECODED: noted("The secret was decoded as base64. Its format is raw: its own characters are the key."),
    Content.BODY_ALONE: noted("The body alone was signed. Join id, timestamp and body by dots."),
    Content.WITHOUT_ID: noted("The id is missing. Join id, timestamp and body by dots."),
    Content.WITHOUT_TIMESTAMP: noted("The timestamp is missing. Join id, timestamp and body by dots."),
    Encoding.WITHOUT_VERSION: noted("Write v1 and a comma before it."),
    Encoding.URL_SAFE: noted("Use ordinary base64, with + and /."),
    Encoding.UNPADDED: noted("Keep the = at the end of the base64."),
    Encoding.HEX: noted("It is hexadecimal. Encode the bytes of the digest in base64."),
    Encoding.HEX_IN_BASE64: noted("It is base64 of hexadecimal digits. Encode the bytes of the digest."),
}
