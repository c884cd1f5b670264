"""The check of a signature for a person: every usual mistake is named, and no text breaks it."""

import hashlib
import hmac
import json
import time
import traceback
from base64 import b64decode, b64encode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from flask_webhook_endpoints.security import pasted, signature_check, signing
from flask_webhook_endpoints.security.encryption import Secret
from flask_webhook_endpoints.security.pasted import BodyForm
from flask_webhook_endpoints.security.signature_check import Content, Encoding, KeyForm, KnownSecret, Verdict
from tests.support.waiting import SLOWNESS

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
ID, TIMESTAMP = "evt_0190aaaa-0000-7000-8000-000000000001", int(NOW.timestamp())
KEY = "whsec_" + b64encode(bytes(range(200, 232))).decode()
OLD = "whsec_" + b64encode(bytes(range(32))).decode()
RAW = "whsec_your_signing_secret"
THEIRS = "whsec_" + b64encode(bytes(range(100, 132))).decode()
DATA = {"type": "a.b", "timestamp": "2026-05-04T03:02:01Z", "data": {"z": [1, 2.5], "a": "naïve ✓/", "n": None}}
BODY = json.dumps(DATA, ensure_ascii=False, separators=(",", ":"))


def known(secret, *, name=None, expires_at=None):
    endpoint_id = UUID(int=0 if name is None else 1)
    return KnownSecret(
        secret=Secret(secret), endpoint_id=endpoint_id, endpoint_name=name, created_at=NOW, expires_at=expires_at
    )


OWN = [known(KEY), known(OLD, expires_at=NOW + timedelta(hours=1))]


def signed(body=BODY, *secrets, timestamp=TIMESTAMP):
    signature = signing.sign(secrets or (KEY,), message_id=ID, timestamp=timestamp, body=body.encode())
    return {"webhook-id": ID, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def lines(headers):
    return "\n".join(f"{name}: {value}" for name, value in headers.items())


def check(headers, body=BODY, *, own=OWN, **options):
    text = headers if isinstance(headers, str) else lines(headers)
    return signature_check.check(text, body, own=own, now=NOW, **options)


def computed(digest, prefix="v1,"):
    return {**signed(), "webhook-signature": prefix + digest}


def mac(key, content):
    return hmac.new(key, content, hashlib.sha256).digest()


RIGHT = f"{ID}.{TIMESTAMP}.{BODY}".encode()
BYTES = b64decode(KEY.removeprefix("whsec_"))

SPELLINGS = {
    "lines": lines,
    "capitals, CRLF and others": lambda headers: (
        "Host: x\r\n" + lines(headers).title().replace(ID.title(), headers["webhook-id"]).split("Webhook-Signature")[0]
        + "WEBHOOK-SIGNATURE:" + headers["webhook-signature"] + "\r\nAccept: */*\r\n"
    ),
    "curl -v": lambda headers: "* Connected\n" + "\n".join(f"> {name}: {value}  " for name, value in headers.items()),
    "answer": lambda headers: "\n".join(f"< {name}:{value}" for name, value in headers.items()),
    "curl": lambda headers: " ".join(f"-H '{name}: {value}'" for name, value in headers.items()),
    "JSON": json.dumps,
    "JSON in lines, cut": lambda headers: json.dumps(headers, indent=2)[:-1],
    "JSON, escaped": lambda headers: json.dumps(headers).replace("+", "\\u002b").replace("/", "\\/"),
    "JSON of lists": lambda headers: json.dumps({"headers": {name.title(): [headers[name]] for name in headers}}),
    "JSON with a number": lambda headers: json.dumps({**headers, "webhook-timestamp": TIMESTAMP}),
    "Python": repr,
    "Python pairs": lambda headers: repr(list(headers.items())),
    "Go": lambda headers: "map[" + " ".join(f"{name.title()}:[{value}]" for name, value in headers.items()) + "]",
    "Ruby": lambda headers: json.dumps({f"HTTP_{name.upper().replace('-', '_')}": headers[name] for name in headers})
    .replace('": "', '"=>"'),
    "PHP": lambda headers: "\n".join(
        f"    [HTTP_{name.upper().replace('-', '_')}] => {value}" for name, value in headers.items()
    ),
    "environment": lambda headers: "\n".join(
        f"HTTP_{name.upper().replace('-', '_')}={value}" for name, value in headers.items()
    ),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_headers_are_read_in_every_form_that_tools_print(spelling):
    headers = signed(BODY, KEY, OLD)

    assert pasted.headers(spelling(headers)) == headers
    found = check(spelling(headers))
    assert found.verdict is Verdict.VALID
    assert [match.known for match in found.matches] == OWN


def test_signatures_of_a_repeated_header_are_joined():
    text = f"{lines(signed(BODY, THEIRS))}\n{lines(signed())}"

    assert check(text).verdict is Verdict.VALID


def test_a_missing_header_is_named():
    assert check("").headers == list(pasted.HEADERS)
    for missing in pasted.HEADERS:
        headers = {name: value for name, value in signed().items() if name != missing}
        found = check(headers)
        assert (found.verdict, found.headers, found.matches) == (Verdict.MISSING_HEADER, [missing], ())


@pytest.mark.parametrize(
    "change",
    [{"webhook-timestamp": "now"}, {"webhook-timestamp": "9" * 12}, {"webhook-signature": "v1,@@"}],
    ids=["time", "milliseconds", "signature"],
)
def test_a_value_that_no_delivery_has_is_named(change):
    found = check({**signed(), **change})

    assert (found.verdict, found.headers) == (Verdict.GARBLED_HEADER, list(change))


@pytest.mark.parametrize(("seconds", "verdict"), [(301, Verdict.STALE), (-301, Verdict.STALE), (-300, Verdict.VALID)])
def test_a_wrong_time_is_told_with_the_seconds_though_the_signature_is_right(seconds, verdict):
    found = check(signed(timestamp=TIMESTAMP + seconds))

    assert (found.verdict, found.clock_seconds) == (verdict, seconds)
    assert found.matches[0].known is OWN[0]


def test_previous_and_expired_secrets_are_told_apart():
    expired = known(RAW, expires_at=NOW - timedelta(seconds=1))

    assert check(signed(BODY, OLD)).matches[0].known is OWN[1]
    found = check(signed(BODY, RAW), own=[*OWN, expired])
    assert (found.verdict, found.matches[0].known) == (Verdict.EXPIRED_SECRET, expired)


def test_the_secret_of_another_endpoint_is_told_with_the_endpoint_and_asked_for_only_then():
    asked = []

    def others():
        asked.append(1)
        yield known(THEIRS, name="billing")

    assert check(signed(), others=others()).verdict is Verdict.VALID
    assert asked == []
    found = check(signed(BODY, THEIRS), others=others())
    assert (found.verdict, found.matches[0].known.endpoint_name) == (Verdict.OTHER_ENDPOINT, "billing")


LAYOUTS = {
    "spaced": {},
    "ASCII": {"separators": (",", ":")},
    "indented": {"indent": 2},
    "sorted": {"sort_keys": True, "ensure_ascii": False},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("sent", [None, BODY.encode()], ids=["forgotten", "stored"])
def test_json_that_was_parsed_and_written_again_is_told(layout, sent):
    # Without the stored body, sorted data is known only where its keys were sorted before.
    body = BODY if sent or "sort_keys" not in layout else BODY.replace('"z":[1,2.5],', "")
    rewritten = json.dumps(json.loads(body), **layout)

    found = check(signed(body), rewritten, sent=sent and body.encode())

    assert (found.verdict, found.matches[0].body) == (Verdict.BODY_CHANGED, BodyForm.REWRITTEN)


@pytest.mark.parametrize("signed_layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_usual_layout_may_be_what_was_signed(signed_layout):
    found = check(signed(json.dumps(DATA, **signed_layout)), BODY)

    assert (found.verdict, found.matches[0].body) == (Verdict.BODY_CHANGED, BodyForm.REWRITTEN)


@pytest.mark.parametrize("body", [f"{BODY}\n", f"{BODY}\r\n", f"\ufeff{BODY} ", f"  {BODY}\n\n"])
@pytest.mark.parametrize("sent", [None, BODY.encode()], ids=["forgotten", "stored"])
def test_line_ends_that_came_in_or_got_lost_are_told(body, sent):
    found = check(signed(), body, sent=sent)

    assert (found.verdict, found.matches[0].body) == (Verdict.BODY_CHANGED, BodyForm.LINE_ENDS)
    assert check(signed("a\nb\n"), "a\r\nb").matches[0].body is BodyForm.LINE_ENDS


def test_another_body_than_the_one_that_was_sent_is_told():
    found = check(signed(), '{"type":"a.b"}', sent=BODY.encode())

    assert (found.verdict, found.matches[0].body) == (Verdict.BODY_CHANGED, BodyForm.ANOTHER)


def test_a_signature_that_was_computed_over_a_rewritten_body_is_told_where_the_sent_one_is_stored():
    rewritten = json.dumps(DATA)

    found = check(signed(rewritten), rewritten, sent=BODY.encode())

    assert (found.verdict, found.matches[0].body) == (Verdict.BODY_CHANGED, BodyForm.REWRITTEN)


MISTAKES = {
    "whole text": (KEY, b64encode(mac(KEY.encode(), RIGHT)), {"key": KeyForm.WHOLE_TEXT}),
    "not decoded": (KEY, b64encode(mac(KEY[6:].encode(), RIGHT)), {"key": KeyForm.WITHOUT_PREFIX}),
    "raw without its prefix": (RAW, b64encode(mac(RAW[6:].encode(), RIGHT)), {"key": KeyForm.WITHOUT_PREFIX}),
    "raw decoded": (
        RAW,
        b64encode(mac(b64decode(RAW[6:].replace("_", "/") + "="), RIGHT)),
        {"key": KeyForm.DECODED},
    ),
    "body alone": (KEY, b64encode(mac(BYTES, BODY.encode())), {"content": Content.BODY_ALONE}),
    "no id": (KEY, b64encode(mac(BYTES, f"{TIMESTAMP}.{BODY}".encode())), {"content": Content.WITHOUT_ID}),
    "no time": (KEY, b64encode(mac(BYTES, f"{ID}.{BODY}".encode())), {"content": Content.WITHOUT_TIMESTAMP}),
    "hex": (KEY, mac(BYTES, RIGHT).hex().encode(), {"encoding": Encoding.HEX}),
    "hex in base64": (KEY, b64encode(mac(BYTES, RIGHT).hex().encode()), {"encoding": Encoding.HEX_IN_BASE64}),
    "unpadded": (KEY, b64encode(mac(BYTES, RIGHT)).strip(b"="), {"encoding": Encoding.UNPADDED}),
    "all at once": (
        KEY,
        mac(KEY.encode(), BODY.encode()).hex().encode(),
        {"key": KeyForm.WHOLE_TEXT, "content": Content.BODY_ALONE, "encoding": Encoding.HEX},
    ),
}
VERDICTS = {"key": Verdict.WRONG_KEY, "content": Verdict.WRONG_CONTENT, "encoding": Verdict.WRONG_ENCODING}


@pytest.mark.parametrize(("secret", "digest", "mistake"), MISTAKES.values(), ids=MISTAKES)
def test_the_mistake_of_a_receivers_own_signature_is_told(secret, digest, mistake):
    found = check(computed(digest.decode()), own=[known(secret)])

    right = {"key": KeyForm.RIGHT, "content": Content.RIGHT, "encoding": Encoding.RIGHT}
    [match] = found.matches
    assert {name: getattr(match, name) for name in right} == {**right, **mistake}
    assert found.verdict is VERDICTS[next(iter(mistake))]


def test_a_signature_without_its_version_or_in_the_url_safe_alphabet_is_told():
    bare = check(computed(b64encode(mac(BYTES, RIGHT)).decode(), prefix=""))
    body = next(
        text for n in range(99) if b"-" in urlsafe_b64encode(mac(BYTES, (text := f"{ID}.{TIMESTAMP}.{n}").encode()))
    )
    url_safe = check(computed(urlsafe_b64encode(mac(BYTES, body.encode())).decode()), body.rpartition(".")[2])

    assert (bare.verdict, bare.matches[0].encoding) == (Verdict.WRONG_ENCODING, Encoding.WITHOUT_VERSION)
    assert (url_safe.verdict, url_safe.matches[0].encoding) == (Verdict.WRONG_ENCODING, Encoding.URL_SAFE)


def test_a_computed_signature_beside_ours_is_explained_too():
    ours = signed()
    theirs = f"v1,{b64encode(mac(KEY.encode(), RIGHT)).decode()}"

    found = check({**ours, "webhook-signature": f"{theirs} {ours['webhook-signature']}"})

    assert found.verdict is Verdict.VALID
    assert [(match.key, match.is_mistake) for match in found.matches] == [
        (KeyForm.RIGHT, False),
        (KeyForm.WHOLE_TEXT, True),
    ]


def test_what_nothing_explains_is_told_so():
    assert check(signed(BODY, THEIRS)).verdict is Verdict.NO_MATCH
    assert check(signed(), own=[]).verdict is Verdict.NO_MATCH


def test_too_much_is_refused_and_the_most_takes_less_than_a_second():
    assert check("x" * (signature_check.MAX_HEADERS_LENGTH + 1)).verdict is Verdict.TOO_LONG
    assert check(signed(), "x" * (signature_check.MAX_BODY_LENGTH + 1)).verdict is Verdict.TOO_LONG
    others = [known(f"{n} of the other secrets", name="n") for n in range(100)]
    deep = "[" * 400 + "1," * 30_000 + "1" + "]" * 400

    for body in ("x" * signature_check.MAX_BODY_LENGTH, json.dumps(["é"] * 50_000), deep):
        began = time.process_time()
        assert check(signed("else"), body, own=OWN * 2, others=others).verdict is Verdict.NO_MATCH
        assert time.process_time() - began < SLOWNESS
    hostile = "webhook-id" + " " * 30_000 + "webhook-signature:" + "," * 30_000
    began = time.process_time()
    check(hostile, "")
    assert time.process_time() - began < SLOWNESS


texts = st.text(st.characters(codec=None), max_size=200)
secrets = st.sampled_from([KEY, OLD, RAW, "a secret of my own", "whsec_" + "=" * 10, "whsec_A", "\xff"])


@given(headers=texts, body=texts, secret=secrets, sent=st.none() | st.binary(max_size=50))
@example(headers="{", body="{", secret=KEY, sent=None)
@example(headers='{"webhook-id": ' + "9" * 5000 + "}", body="9" * 5000, secret=KEY, sent=b"9" * 5000)
@example(headers="[" * 50_000, body="[" * 50_000, secret=KEY, sent=b"[" * 50_000)
def test_no_text_breaks_it(headers, body, secret, sent):
    check(headers, body, own=[known(secret)], sent=sent)


@given(values=st.fixed_dictionaries(dict.fromkeys(pasted.HEADERS, texts)), body=texts, secret=secrets)
@example(values=dict.fromkeys(pasted.HEADERS, "v1,"), body="", secret=KEY)
@example(values={**signed(), "webhook-signature": "v1," + "A" * 43 + "="}, body="\ud800", secret=KEY)
def test_no_value_of_a_header_breaks_it(values, body, secret):
    check(lines(values), body, own=[known(secret)])
    check(json.dumps(values), body, own=[known(secret)])


@given(
    body=st.text(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps),
    secret=st.sampled_from([KEY, RAW, "a secret of my own"]),
    seconds=st.integers(-300, 300),
    message_id=st.from_regex(r"[a-zA-Z0-9_-]{1,40}", fullmatch=True),
)
def test_what_sign_signs_is_valid(body, secret, seconds, message_id):
    assume("\r" not in body)
    timestamp = TIMESTAMP + seconds
    signature = signing.sign([secret], message_id=message_id, timestamp=timestamp, body=body.encode())
    headers = {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": signature}

    found = check(lines(headers), body, own=[known(OLD), known(secret)])

    assert (found.verdict, found.clock_seconds) == (Verdict.VALID, seconds)
    assert found.matches[0].known.secret.reveal() == secret


def test_no_secret_is_in_the_finding_or_in_the_frames_of_an_error():
    found = check(signed())
    assert KEY not in repr(found)
    assert BYTES.hex() not in repr(found)

    def others():
        yield known(RAW, name="n")
        raise RuntimeError

    with pytest.raises(RuntimeError) as raised:
        check(signed(BODY, THEIRS), others=others())

    frames = [frame for frame, _ in traceback.walk_tb(raised.value.__traceback__)]
    shown = [
        repr(frame.f_locals) for frame in frames if frame.f_globals["__name__"].startswith("flask_webhook_endpoints")
    ]
    assert any("'bodies'" in each for each in shown)
    assert not [each for each in shown if any(secret[6:] in each for secret in (KEY, OLD, RAW))]
