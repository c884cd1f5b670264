import json
from base64 import b64encode
from uuid import uuid4

import pytest
import sqlalchemy as sa

from tests.support import hosts
from tests.support.api import create_endpoint, post_endpoint, secret_of

# Every field with a value of its own.
FULL = {
    "name": "full",
    "url": "https://example.com/full",
    "secret": "whsec_your_signing_secret",
    "headers_json": {"X-Key": "value"},
    "timeout_seconds": 7,
    "event_types": ["invoice.*"],
    "description": "for the books",
    "metadata": {"customer": "cus_7"},
}
READ_ONLY = [
    "id",
    "paused_at",
    "pause_reason",
    "failing_since",
    "metadata_json",
    "created_at",
    "updated_at",
    "tenant_id",
    "version",
    "headers",
    "headers_encrypted",
]


def url_of(length):
    return "https://example.com/".ljust(length, "x")


def headers_of(size):
    """Return headers that count `size` bytes in all."""
    return {"A": "x" * 4096, "B": "x" * (size - 4098)}


def metadata_of(size, mark="x"):
    """Return metadata of `size` bytes as compact JSON in UTF-8."""
    each = len(json.dumps(mark, ensure_ascii=False).encode()) - 2
    marks, rest = divmod(size - len('{"a":""}'), each)
    return {"a": mark * marks + "y" * rest}


TAKEN = {
    "name": {
        "one character": "x",
        "255 characters": "x" * 255,
        "255 of four bytes": "😀" * 255,
        "255 of three bytes": "の" * 255,
        "emoji of several": "👩‍👩‍👧‍👦 🏳️‍🌈",
        "composed": "\u00e9",
        "decomposed": "e\u0301",
        "white space around": "  x \u3000",
        "no-break space around": "\xa0x\xa0",
        "zero-width space": "\u200b",
        "right to left": "\u202eevil",
        "line separator inside": "a\u2028b",
        "not a character": "\uffff\ufffe\U0010ffff",
        "last before the surrogates": "\ud7ff\ue000",
        "quotes": "\"'`\\",
        "SQL": "'); DROP TABLE webhook_endpoint; --",
        "per cent": "%s %(name)s {} :name",
        "HTML": "<script>alert(1)</script>",
        "looks like null": "null",
        "looks like an escape": "\\u0000\\ud800",
    },
    "url": {
        "plain": "https://example.com/",
        "no path": "https://example.com",
        "capitals": "HTTPS://EXAMPLE.com/Path",
        "dots": "http://example.com/a/../b/./c//d",
        "query": "https://example.com/?b=2&a=1&a=&%20=+",
        "bad percent-encoding": "https://example.com/%zz%s%(url)s",
        "port": "https://example.com:443/",
        "marks": "https://example.com/'\"<>^`{|}",
        "2048 characters": url_of(2048),
        "IPv6": "https://[2606:4700:4700::1111]:8443/",
    },
    "secret": {
        "the specification's": "whsec_your_signing_secret",
        "16 characters": "x" * 16,
        "128 characters": "x" * 128,
        "all printable": "".join(map(chr, range(126, 31, -1))) + "x",
        "spaces inside": "a" + " " * 20 + "b",
        "key of 24 bytes": "whsec_" + b64encode(bytes(24)).decode(),
        "key of 64 bytes": "whsec_" + b64encode(bytes(range(64))).decode(),
        "key of 32 bytes": "whsec_" + b64encode(b"\xff" * 32).decode(),
        "prefix and little": "whsec_a.b.c.d.e.f",
        "prefix and words": "whsec_" + "a_secret_of_ours_" * 4,
    },
    "headers_json": {
        "none": {},
        "one": {"X-Key": "value"},
        "every character of a token": {"!#$%&'*+-.^_`|~09azAZ": "x"},
        "name of 128": {"x" * 128: "x"},
        "value of 4096": {"X-Key": "x" * 4096},
        "empty value": {"X-Key": ""},
        "Latin-1": {"X-Key": "ü\xa0ÿ"},
        "4096 of Latin-1": {"X-Key": "ÿ" * 4096},
        "marks that JSON escapes": {"X-Key": '"' * 2000 + "\\" * 2000},
        "spaces around": {"X-Key": " x "},
        "20 headers": {f"X-{number}": "x" for number in range(20)},
        "8192 bytes": headers_of(8192),
        "order and case": {"b": "1", "A": "2", "aB": "3"},
        "credentials": {"Authorization": "Bearer x", "Cookie": "a=b", "X-Api-Key": "x"},
        "near to refused": {
            "Hosts": "x",
            "X-Webhook-Id": "x",
            "Content": "x",
            "Proxy": "x",
            "Webhook": "x",
            "Tea": "x",
        },
    },
    "timeout_seconds": {"least": 1, "most": 30, "ten": 10},
    "event_types": {
        "all": None,
        "one": ["invoice.paid"],
        "one word": ["ping"],
        "prefix": ["invoice.*"],
        "long prefix": ["a.b.c.*"],
        "name and its prefix": ["invoice.paid", "invoice.*"],
        "every character": ["azAZ09_-.x"],
        "differ in case": ["a", "A"],
        "order": ["b", "a"],
        "100 names": [f"n{number}" for number in range(100)],
        "128 characters": ["x" * 128, "x" * 126 + ".*"],
        "the most": [f"{number:03}{'x' * 125}" for number in range(100)],
    },
    "description": {
        "none": None,
        "empty": "",
        "white space": " ",
        "lines and tabs": "first\n\tsecond\r\nthird\n",
        "1000 characters": "x" * 1000,
        "1000 of four bytes": "😀" * 1000,
        "SQL": "'); DROP TABLE webhook_endpoint; --",
        "looks like null": "null",
    },
    "metadata": {
        "none": {},
        "one": {"customer": "cus_7"},
        "empty value": {"a": ""},
        "key of a space": {" ": "x"},
        "key of 64 of four bytes": {"😀" * 64: "x"},
        "lines and tabs": {"a": "first\n\tsecond\r\nthird"},
        "keys that differ in case": {"a": "1", "A": "2"},
        "order": {"b": "1", "a": "2"},
        "20 keys": {str(number): "x" for number in range(20)},
        "4096 bytes": metadata_of(4096),
        "4096 bytes, not ASCII": metadata_of(4096, "😀"),
        "4096 bytes, escaped": metadata_of(4096, '"'),
        "looks like JSON": {"a": '{"b": null}', "__proto__": "x", "constructor": "y"},
    },
}

UNSTORABLE = {
    "NUL": "a\x00b",
    "tab": "a\tb",
    "new line": "a\n",
    "carriage return": "a\rb",
    "escape": "a\x1b[31m",
    "DEL": "a\x7f",
    "C1 control": "a\x85b",
    "high surrogate": "a\ud800",
    "low surrogate": "a\udfff",
    "surrogates in reverse": "\ude00\ud83d",
}
UNSTORABLE_IN_LINES = {
    name: text for name, text in UNSTORABLE.items() if name not in ("tab", "new line", "carriage return")
}
NOT_A_STRING = {"null": None, "true": True, "number": 10, "fraction": 1.5, "list": ["n"], "object": {"n": "n"}}
REFUSED_NAMES = [
    *("Host", "Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect"),
    *("Proxy-Authorization", "Proxy-Connection", "Proxy-X", "Proxy-", "Content-Length", "Content-Type"),
    *("Content-Encoding", "Content-X", "Accept-Encoding", "User-Agent"),
    *("Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Webhook-X"),
]
NOT_TEXT = {name: value for name, value in NOT_A_STRING.items() if name != "null"}
REFUSED = {
    "name": {
        **NOT_A_STRING,
        **UNSTORABLE,
        "empty": "",
        "256 characters": "x" * 256,
        "256 of four bytes": "😀" * 256,
        "space": " ",
        "Unicode white space": "\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000",
        "60,000 spaces": " " * 60_000,
    },
    "url": {
        **NOT_A_STRING,
        **{name: f"https://example.com/{text}" for name, text in UNSTORABLE.items()},
        "empty": "",
        "2049 characters": url_of(2049),
        "60,000 characters": url_of(60_000),
        "relative": "/path",
        "another scheme": "ftp://example.com/",
        "user name": "https://user:hunter22@example.com/",
        "fragment": "https://example.com/#x",
        "space": "https://example.com/a b",
        "space after": "https://example.com/ ",
        "international": "https://müller.example/",
        "loopback": "http://127.0.0.1/",
        "loopback in decimal": "http://2130706433/",
        "loopback, mapped": "http://[::ffff:127.0.0.1]/",
        "metadata service": "http://169.254.169.254/latest/meta-data/",
        "full-width digits": "http://１２７.0.0.1/",
        "ideographic dots": "http://127。0。0。1/",
        "port 65536": "http://example.com:65536/",
        "open bracket": "http://[::1",
    },
    "secret": {
        **NOT_TEXT,
        **{name: f"{text}-hunter22-hunter22" for name, text in UNSTORABLE.items()},
        "empty": "",
        "15 characters": "x" * 15,
        "spaces": " " * 16,
        "prefix and base64 of 23 bytes": "whsec_" + b64encode(bytes(23)).decode(),
        "129 characters": "x" * 129,
        "60,000 characters": "x" * 60_000,
        "not ASCII": "hunter2-hunter22-ü",
        "full-width": "ｈｕｎｔｅｒ２２" * 2,
        "emoji": "hunter2-hunter22-😀",
        "new line after": "hunter22-hunter22\n",
        "key without its padding": "whsec_" + b64encode(b"\xff" * 32).decode().rstrip("="),
        "key with half its padding": "whsec_" + b64encode(b"\xff" * 25).decode()[:-1],
        "key with too much padding": "whsec_" + b64encode(b"\xff" * 24).decode() + "=",
        "key with stray bits": "whsec_" + "A" * 42 + "B=",
        "key with a letter too many": "whsec_" + "A" * 33,
    },
    "headers_json": {
        **{name: value for name, value in NOT_A_STRING.items() if name not in ("null", "object")},
        "string": "X-Key: value",
        "pairs": [["X-Key", "value"]],
        "empty name": {"": "x"},
        "name of 129": {"x" * 129: "x"},
        **{f"name with {mark!r}": {f"X{mark}Key": "x"} for mark in ' :\t\n\r\x00\x7f"(),/;<=>?@[\\]{}ü１'},
        "name ends in a new line": {"X-Key\n": "x"},
        "name with a lone surrogate": {"X\ud800": "x"},
        **{f"value with {name}": {"X-Key": text} for name, text in UNSTORABLE.items()},
        "value not Latin-1": {"X-Key": "Ā"},
        "value an emoji": {"X-Key": "😀"},
        "value with folding": {"X-Key": "a\r\n b"},
        "value of 4097": {"X-Key": "x" * 4097},
        **{f"value {name}": {"X-Key": value} for name, value in NOT_A_STRING.items()},
        "one good, one bad": {"X-Key": "x", "X-Bad": 1},
        "21 headers": {f"X-{number}": "x" for number in range(21)},
        "8193 bytes": headers_of(8193),
        "differ in case": {"X-Key": "1", "x-key": "2"},
        **{name: {name: "x"} for name in REFUSED_NAMES},
        **{f"{name}, lower case": {name.lower(): "x"} for name in REFUSED_NAMES},
        **{f"{name}, capitals": {name.upper(): "x"} for name in REFUSED_NAMES},
        **{f"{name}, underscores": {name.replace("-", "_"): "x"} for name in REFUSED_NAMES if "-" in name},
    },
    "timeout_seconds": {
        "zero": 0,
        "negative": -1,
        "31": 31,
        "true": True,
        "false": False,
        "10.5": 10.5,
        "string": "10",
        "Arabic digits": "١٠",
        "2 ** 31": 2**31,
        "2 ** 63": 2**63,
        "4000 digits": 10**3_999,
        "list": [10],
        "object": {},
    },
    "event_types": {
        **{name: value for name, value in NOT_A_STRING.items() if name not in ("null", "list")},
        "string": "invoice.paid",
        "empty list": [],
        "empty name": [""],
        "star and a bad name": ["*", "a b"],
        "star first": ["*.paid"],
        "star in the middle": ["a.*.b"],
        "star in a word": ["invoice.p*"],
        "two stars": ["a.**"],
        "star twice": ["a.*.*"],
        "dot": ["."],
        "dot first": [".a"],
        "dot last": ["a."],
        "two dots": ["a..b"],
        "space": ["a b"],
        "new line after": ["a\n"],
        "not ASCII": ["ü"],
        "full-width digit": ["１"],
        "colon": ["a:b"],
        "101 times one": ["a"] * 101,
        "101 names": [f"n{number}" for number in range(101)],
        "129 characters": ["x" * 129],
        **{f"item {name}": [value] for name, value in NOT_A_STRING.items()},
        **{f"item with {name}": [text] for name, text in UNSTORABLE.items()},
    },
    "description": {
        **{name: value for name, value in NOT_A_STRING.items() if name != "null"},
        **UNSTORABLE_IN_LINES,
        "1001 characters": "x" * 1001,
        "1001 of four bytes": "😀" * 1001,
        "60,000 characters": "x" * 60_000,
    },
    "metadata": {
        **{name: value for name, value in NOT_A_STRING.items() if name not in ("null", "object")},
        "string": "customer: cus_7",
        "pairs": [["customer", "cus_7"]],
        "empty key": {"": "x"},
        "key of 65": {"x" * 65: "x"},
        "21 keys": {str(number): "x" for number in range(21)},
        "4097 bytes": metadata_of(4097),
        "4097 bytes, not ASCII": metadata_of(4097, "😀"),
        "4097 bytes, escaped": metadata_of(4097, '"'),
        "one good, one bad": {"a": "x", "b": 1},
        **{f"value {name}": {"a": value} for name, value in NOT_A_STRING.items()},
        **{f"value with {name}": {"a": text} for name, text in UNSTORABLE_IN_LINES.items()},
        **{f"key with {name}": {text: "x"} for name, text in UNSTORABLE.items()},
    },
}
TAKEN_CASES = [(field, value) for field, values in TAKEN.items() for value in values.values()]
REFUSED_CASES = [(field, value) for field, values in REFUSED.items() for value in values.values()]
REFUSED_IDS = [f"{field}, {name}" for field, values in REFUSED.items() for name in values]


@pytest.fixture
def ep(acme):
    """The path of an endpoint with a value of its own in every field."""
    return create_endpoint(acme, **FULL).path


@pytest.fixture(scope="module")
def validator():
    """A client and an endpoint of one host for all that is refused before any database is asked."""
    host = hosts.flask_sqlalchemy("sqlite://")
    client = host.client()
    yield client, create_endpoint(client, **FULL).path
    host.close()


@pytest.mark.parametrize(("field", "value"), REFUSED_CASES, ids=REFUSED_IDS)
def test_a_value_that_breaks_its_fields_rule_is_named(validator, field, value):
    client, ep = validator

    for answer in (post_endpoint(client, **{field: value}), client.patch(ep, json={field: value})):
        assert answer.status_code == 422
        assert answer.content_type == "application/problem+json"
        assert list(answer.json["errors"]) == [field]
        assert answer.json["errors"][field]
        if field in ("secret", "url") and isinstance(value, str) and len(value) > 1:
            assert json.dumps(value)[1:-1] not in answer.text
            assert "hunter2" not in answer.text


def test_values_of_refused_headers_are_not_repeated(validator):
    client, ep = validator

    for name, value in (("Host", "hunter2"), ("X", "hunter2\n"), ("X", ["hunter2"]), ("X" * 129, "hunter2")):
        assert "hunter2" not in client.patch(ep, json={"headers_json": {name: value}}).text


@pytest.mark.parametrize("field", ["x", "Name", "NAME", "name ", "headers", "timeout", "", "_schema", *READ_ONLY])
def test_an_unknown_or_read_only_field_is_named(validator, field):
    client, ep = validator

    for answer in (post_endpoint(client, **{field: "x"}), client.patch(ep, json={field: "x"})):
        assert answer.status_code == 422
        assert answer.json["errors"] == {field: ["Unknown field."]}


def test_a_new_endpoint_has_no_status_to_choose(validator):
    client, _ = validator

    answer = post_endpoint(client, status="PAUSED")
    assert answer.json["errors"] == {"status": ["Unknown field."]}


@pytest.mark.parametrize("status", [None, True, 1, "", "active", "paused", "DELETED", "ACTIVE ", ["PAUSED"], {}])
def test_a_status_is_active_or_paused(validator, status):
    client, ep = validator

    answer = client.patch(ep, json={"status": status})
    assert answer.status_code == 422
    assert list(answer.json["errors"]) == ["status"]


def test_every_broken_field_is_named_at_once(validator):
    client, ep = validator
    body = {"name": "", "url": "x", "secret": "x", "headers_json": [], "timeout_seconds": 0, "event_types": [], "x": 1}

    assert client.post("/v1/endpoints", json=body).json["errors"].keys() == body.keys()
    assert client.patch(ep, json=body).json["errors"].keys() == body.keys()


def test_a_new_endpoint_needs_name_and_url(validator):
    client, _ = validator

    errors = client.post("/v1/endpoints", json={}).json["errors"]
    assert errors == {"name": ["Missing data for required field."], "url": ["Missing data for required field."]}


def test_a_value_has_one_message_for_one_fault(validator):
    client, ep = validator

    errors = client.patch(ep, json={"timeout_seconds": 0, "name": "", "url": "x", "secret": "x"}).json["errors"]
    assert errors.pop("name")
    assert all(len(messages) == 1 for messages in errors.values())


def test_what_is_refused_changes_nothing_on_any_database(acme, ep):
    before, secret = acme.get(ep), secret_of(acme, ep)

    for field, value in REFUSED_CASES:
        other = {"name": "changed"} if field != "name" else {"timeout_seconds": 9, "secret": "another secret"}
        acme.patch(ep, json={**other, field: value})
        post_endpoint(acme, **{field: value})

    after = acme.get(ep)
    assert after.data == before.data
    assert after.headers["ETag"] == before.headers["ETag"]
    assert secret_of(acme, ep) == secret
    assert len(acme.get("/v1/endpoints").json) == 1


def test_an_empty_patch_touches_nothing(acme, ep):
    before = acme.get(ep)

    answer = acme.patch(ep, json={})

    assert answer.status_code == 200
    assert answer.data == before.data == acme.get(ep).data
    assert answer.headers["ETag"] == before.headers["ETag"]


def test_a_new_endpoint_keeps_every_value_as_it_was_sent(acme):
    for field, value in TAKEN_CASES:
        answer = post_endpoint(acme, **{field: value})
        assert answer.status_code == 201, (field, value, answer.text)

        path = f"/v1/endpoints/{answer.json['id']}"
        kept = secret_of(acme, path) if field == "secret" else acme.get(path).json[field]
        assert kept == value
        assert acme.get(path).data == answer.data


def test_a_patch_of_one_field_keeps_the_value_as_sent_and_the_others_as_they_were(acme, ep):
    for field, value in TAKEN_CASES:
        before, secret = acme.get(ep), secret_of(acme, ep)
        answer = acme.patch(ep, json={field: value})
        assert answer.status_code == 200, (field, value, answer.text)

        after = acme.get(ep)
        kept = secret_of(acme, ep) if field == "secret" else after.json[field]
        assert kept == value
        assert after.data == answer.data
        changed = {name for name in before.json if after.json[name] != before.json[name]}
        assert changed <= {field, "updated_at"}
        assert after.json["updated_at"] > before.json["updated_at"]
        assert after.headers["ETag"] != before.headers["ETag"]
        assert field == "secret" or secret_of(acme, ep) == secret


def test_a_patch_of_the_status_moves_nothing_but_paused_at_and_its_reason(acme, ep):
    before = acme.get(ep).json

    paused = acme.patch(ep, json={"status": "PAUSED"}).json
    again = acme.patch(ep, json={"status": "PAUSED"}).json
    resumed = acme.patch(ep, json={"status": "ACTIVE"}).json

    assert paused["paused_at"] == paused["updated_at"] == again["paused_at"] > before["updated_at"]
    times = {name: paused[name] for name in ("paused_at", "updated_at")}
    assert paused == {**before, **times, "status": "PAUSED", "pause_reason": "user"}
    assert resumed == {**before, "updated_at": resumed["updated_at"]}


def test_null_for_a_field_that_a_post_may_leave_out_is_as_if_it_were(acme):
    # Generated clients of many languages send null for what was not set.
    fields = ("secret", "headers_json", "timeout_seconds", "event_types")
    shown = create_endpoint(acme, **dict.fromkeys(fields))
    least = create_endpoint(acme)
    rotated = acme.post(f"{shown.path}/secret/rotate", json={"secret": None, "overlap_seconds": None})

    assert {name: shown[name] for name in fields[1:]} == {name: least[name] for name in fields[1:]}
    assert acme.get(f"{shown.path}/secret").json["format"] == "whsec"
    assert (rotated.status_code, rotated.json["previous_expires_at"] is None) == (200, False)
    assert post_endpoint(acme, name=None).json["errors"].keys() == {"name"}


@pytest.mark.parametrize("field", ["name", "url", "secret", "timeout_seconds"])
def test_null_in_a_patch_stands_for_no_value(validator, field):
    client, ep = validator

    answer = client.patch(ep, json={field: None})

    assert (answer.status_code, list(answer.json["errors"])) == (422, [field])


def test_null_headers_are_no_headers(acme, ep):
    assert acme.patch(ep, json={"headers_json": None}).json["headers_json"] == {}
    assert post_endpoint(acme, headers_json=None).json["headers_json"] == {}


@pytest.mark.parametrize("everything", [None, ["*"], ["*", "*"], ["a.b", "*", "a.b"]])
def test_null_and_a_star_among_the_event_types_are_all(acme, ep, everything):
    assert acme.patch(ep, json={"event_types": everything}).json["event_types"] is None
    assert acme.get(ep).json["event_types"] is None
    assert post_endpoint(acme, event_types=everything).json["event_types"] is None


def test_event_types_that_come_twice_count_once_in_the_order_of_their_first(acme, ep):
    doubled, folded = ["b", "a", "b", "c.*", "a"], ["b", "a", "c.*"]

    assert acme.patch(ep, json={"event_types": doubled}).json["event_types"] == folded
    assert acme.get(ep).json["event_types"] == folded
    assert post_endpoint(acme, event_types=["x"] * 100).json["event_types"] == ["x"]


def test_null_metadata_is_none_and_null_is_no_description(acme, ep):
    cleared = acme.patch(ep, json={"metadata": None, "description": None}).json
    created = post_endpoint(acme, metadata=None, description=None).json

    for shown in (cleared, created, acme.get(ep).json):
        assert (shown["metadata"], shown["description"]) == ({}, None)


def test_metadata_is_replaced_whole(acme, ep):
    assert acme.patch(ep, json={"metadata": {"other": "1"}}).json["metadata"] == {"other": "1"}
    assert acme.patch(ep, json={"description": "changed"}).json["metadata"] == {"other": "1"}


def test_headers_are_replaced_whole(acme, ep):
    assert acme.patch(ep, json={"headers_json": {"X-Other": "1"}}).json["headers_json"] == {"X-Other": "1"}


def test_what_is_absent_has_its_default(acme):
    shown = create_endpoint(acme)

    assert shown["headers_json"] == {}
    assert shown["timeout_seconds"] == 10
    assert shown["event_types"] is None
    assert shown["status"] == "ACTIVE"
    assert shown["paused_at"] is None
    assert shown["created_at"] == shown["updated_at"]
    for name in ("description", "pause_reason", "failing_since"):
        assert shown[name] is None
    assert shown["metadata"] == {}
    own = {"id", "status", "paused_at", "created_at", "updated_at", "pause_reason", "failing_since"}
    assert shown.keys() == {*FULL, *own} - {"secret"}


def test_a_secret_is_generated_where_none_is_given(acme):
    paths = [create_endpoint(acme).path for _ in range(2)]

    first, second = (secret_of(acme, path) for path in paths)
    assert first != second
    assert first.startswith("whsec_")
    assert len(first) == len("whsec_") + 44


def test_duplicates_are_allowed(acme):
    first, second = (acme.post("/v1/endpoints", json=FULL) for _ in range(2))

    assert first.status_code == second.status_code == 201
    assert first.json["id"] != second.json["id"]


def test_times_are_rfc_3339_with_microseconds_in_utc(acme, ep):
    shown = acme.patch(ep, json={"status": "PAUSED"}).json

    assert acme.get(ep).json == shown
    for name in ("created_at", "updated_at", "paused_at"):
        assert len(shown[name]) == len("2025-01-01T00:00:00.000000Z")
        assert shown[name].endswith("Z")


def test_headers_are_encrypted_at_rest(host, acme):
    for value in ("hunter22", "ü" * 20):
        post_endpoint(acme, headers_json={"X-Marked": value})

    with host.app.app_context():
        rows = host.db.session.execute(sa.text("SELECT headers_encrypted FROM webhook_endpoint")).scalars().all()
    assert len(rows) == 2
    assert all(row.isascii() and "hunter22" not in row and "Marked" not in row for row in rows)


def test_odd_ids_are_unknown_on_every_database(acme, ep):
    ep_id = ep.rpartition("/")[2]

    for odd in (ep_id.upper(), ep_id[3:], ep_id + "%00", ep_id + "%0a", ep_id.replace("-", ""), f"ep_{uuid4()}", "%00"):
        for method in ("GET", "PATCH", "DELETE"):
            assert acme.open(f"/v1/endpoints/{odd}", method=method, json={}).status_code == 404
    assert acme.get(ep).status_code == 200


def test_tenants_that_look_alike_are_different_ones(host):
    tenants = ["acme", "ACME", "acme ", "ácme", "acm", "0", "acme%"]

    for tenant in tenants:
        client = host.client(None)
        client.environ_base["HTTP_X_TENANT"] = tenant.encode().decode("latin-1")
        post_endpoint(client, name=tenant)
        assert [endpoint["name"] for endpoint in client.get("/v1/endpoints").json] == [tenant]
