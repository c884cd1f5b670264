"""Small rules of HTTP and JSON: what bodies may be, what each answer carries, and how long a refusal may get."""

import gzip
import json
import zlib

import pytest

from tests.support.api import NEW, create_endpoint, post_endpoint
from tests.support.database import on_sqlite

pytestmark = on_sqlite

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def ep(acme):
    return create_endpoint(acme).path


def writes(ep):
    """Return each request that takes a body, and one that it takes."""
    return (
        ("POST", "/v1/endpoints", NEW),
        ("PATCH", ep, {"name": "m"}),
        ("POST", f"{ep}/secret/rotate", {"overlap_seconds": 0}),
    )


def assert_problem(answer, status, title):
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json"), answer.text
    assert (answer.json["status"], answer.json["title"]) == (status, title)


# A compressed body was 400 "not JSON", or 415 for a type that was right.


CODINGS = ("gzip", "x-gzip", "deflate", "br", "zstd", "GZIP", "gzip, br", "identity, gzip", "x")


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_with_a_content_coding_is_415_that_names_what_is_taken(acme, ep, coding):
    before = acme.get("/v1/endpoints").data
    for method, path, body in writes(ep):
        sent = json.dumps(body).encode()
        data = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding, bytes)(sent)
        answer = acme.open(path, method=method, data=data, headers={**JSON, "Content-Encoding": coding})
        assert_problem(answer, 415, "Unsupported Media Type")
        assert answer.headers["Accept-Encoding"] == "identity"
        assert "Content-Encoding" in answer.json["detail"]
    assert acme.get("/v1/endpoints").data == before


@pytest.mark.parametrize("coding", ["", "identity", "Identity", " identity , identity"])
def test_a_body_that_says_it_has_no_coding_is_taken(acme, ep, coding):
    for method, path, body in writes(ep):
        answer = acme.open(path, method=method, data=json.dumps(body), headers={**JSON, "Content-Encoding": coding})
        assert answer.status_code in (200, 201)


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {**JSON, "Content-Encoding": "gzip"}], ids=str)
def test_415_on_patch_says_what_patch_accepts(acme, ep, headers):
    # RFC 5789 section 2.2.
    answer = acme.patch(ep, data=b"{}", headers=headers)

    assert_problem(answer, 415, "Unsupported Media Type")
    assert answer.headers["Accept-Patch"] == "application/json"
    assert "Accept-Patch" not in acme.post("/v1/endpoints", data=b"{}", headers=headers).headers


def test_a_byte_order_mark_before_the_json_is_taken(acme, ep):
    # RFC 8259 section 8.1 lets parsers ignore it; .NET and PowerShell send it.
    for method, path, body in writes(ep):
        data = b"\xef\xbb\xbf" + json.dumps(body).encode()
        assert acme.open(path, method=method, data=data, headers=JSON).status_code in (200, 201)


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf{}", b"{}\xef\xbb\xbf", b"\xff\xfe{\0}\0"])
def test_no_other_mark_is(acme, ep, data):
    assert_problem(acme.patch(ep, data=data, headers=JSON), 400, "Bad Request")


@pytest.mark.parametrize("written", ["7.0", "7", "7e0", "70e-1", "0.7E+1", "7.000000"])
def test_a_number_without_a_fraction_is_an_integer(acme, ep, written):
    # As JSON Schema has it, and JavaScript, PHP or Lua clients that have no integers write it.
    body = f'{{"timeout_seconds": {written}, "name": "n", "url": "https://example.com/"}}'

    assert acme.patch(ep, data=body, headers=JSON).json["timeout_seconds"] == 7
    shown = acme.post("/v1/endpoints", data=body, headers=JSON).text
    assert '"timeout_seconds":7,' in shown
    rotated = acme.post(f"{ep}/secret/rotate", data=f'{{"overlap_seconds": {written}}}', headers=JSON)
    assert rotated.json["previous_expires_at"] is not None


@pytest.mark.parametrize("written", ["7.5", "1e400", "-1e400", "1e30", "7.01", "0.0", "31.0", '"7"', '"7.0"', "true"])
def test_no_other_number_is(acme, ep, written):
    refused = acme.patch(ep, data=f'{{"timeout_seconds": {written}}}', headers=JSON)

    assert_problem(refused, 422, "Unprocessable Content")
    assert list(refused.json["errors"]) == ["timeout_seconds"]


def test_titles_are_those_of_rfc_9110(acme, ep, host):
    assert_problem(acme.post("/v1/endpoints", json={"name": "n" * 70_000}), 413, "Content Too Large")
    assert_problem(acme.post("/v1/endpoints", json={}), 422, "Unprocessable Content")
    key = {"Idempotency-Key": "k"}
    acme.post("/v1/endpoints", json=NEW, headers=key)
    reused = acme.post("/v1/endpoints", json={**NEW, "name": "m"}, headers=key)
    assert_problem(reused, 422, "Unprocessable Content")
    assert_problem(acme.put(ep), 405, "Method Not Allowed")
    assert_problem(host.client(None).get(ep), 401, "Unauthorized")
    assert_problem(acme.get("/v1/endpoints/x"), 404, "Not Found")


# Answers that hold headers or secrets were kept by browsers and proxies that do not mind `private`.


def test_answers_with_headers_or_secrets_are_stored_by_nobody(acme):
    secret_headers = {"headers_json": {"Authorization": "hunter2"}}
    created = post_endpoint(acme, **secret_headers)
    path = created.headers["Location"]
    answers = [
        created,
        acme.get(path),
        acme.get(path, headers={"If-None-Match": created.headers["ETag"]}),
        acme.get("/v1/endpoints"),
        acme.patch(path, json={"name": "m"}),
        acme.patch(path, json={}),
        acme.get(f"{path}/secret"),
        acme.post(f"{path}/secret/rotate"),
    ]

    assert [answer.status_code for answer in answers] == [201, 200, 304, 200, 200, 200, 200, 200]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}


def test_other_answers_are_the_tenants_alone(acme, ep):
    assert acme.get(ep).headers["Cache-Control"] == "private, no-cache"
    assert acme.get("/v1/endpoints").headers["Cache-Control"] == "private, no-cache"
    assert acme.get(f"{ep}/deliveries").headers["Cache-Control"] == "private, no-cache"
    assert acme.get("/v1/openapi.json").headers["Cache-Control"] == "public, max-age=300"


def test_no_answer_is_sniffed(acme, ep, host):
    answers = [
        *(acme.open(path, method=method, json=body) for method, path, body in writes(ep)),
        acme.get(ep),
        acme.head(ep),
        acme.get(ep, headers={"If-None-Match": "*"}),
        acme.get("/v1/endpoints"),
        acme.get(f"{ep}/secret"),
        acme.get(f"{ep}/deliveries"),
        acme.post(f"{ep}/ping"),
        acme.get("/v1/openapi.json"),
        acme.options(ep),
        acme.put(ep),
        acme.get(f"{ep}/nothing"),
        acme.post("/v1/endpoints", json={}),
        acme.post("/v1/endpoints", data=b"{"),
        host.client(None).get(ep),
        acme.delete(ep),
        acme.get(ep),
    ]

    assert [answer.headers.getlist("X-Content-Type-Options") for answer in answers] == [["nosniff"]] * len(answers)


# 60 KiB of faults were answered with megabytes of messages.


def messages(errors):
    """Yield every message, however deep it stands."""
    for value in errors.values() if isinstance(errors, dict) else errors:
        if isinstance(value, dict | list):
            yield from messages(value)
        else:
            yield value


FAULTY = {
    "unknown fields": {f"x{number}": 1 for number in range(3_000)},
    "header values": {"headers_json": {f"X-{number}": "ü\u0100" for number in range(1_000)}},
    "header names": {"headers_json": {f"a b {number}": "x" for number in range(1_000)}},
    "event types": {"event_types": [1] * 5_000},
    "event types with marks": {"event_types": ["\x01"] * 5_000},
    "all at once": {
        "name": "",
        "url": "x",
        "secret": "x",
        "headers_json": {f"a b {number}": 1 for number in range(100)},
        "timeout_seconds": 0,
        "event_types": ["*"] * 100,
        "status": 1,
        "id": 1,
        "x": 1,
        "y": 1,
        "z": 1,
    },
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_refusal_names_ten_faults_at_most(acme, ep, case):
    created = post_endpoint(acme, **FAULTY[case])
    changed = acme.patch(ep, json=FAULTY[case])

    for answer in (created, changed):
        assert_problem(answer, 422, "Unprocessable Content")
        assert len(list(messages(answer.json["errors"]))) == 10
        assert len(answer.data) < 2_500
        assert "10" in answer.json["detail"]


def test_fewer_faults_are_all_named(acme, ep):
    answer = acme.patch(ep, json={f"x{number}": 1 for number in range(10)})

    assert len(list(messages(answer.json["errors"]))) == 10
    assert answer.json["detail"] == "Some fields are not valid; see errors."


def test_a_query_with_many_faults_is_no_longer(acme):
    assert len(acme.get("/v1/endpoints?limit=x&cursor=x&status=x").json["errors"]) == 3


# A list without `limit` is whole, so what a tenant may have bounds the answer.


def test_a_tenant_has_a_hundred_endpoints_unless_the_host_says_otherwise(acme, globex):
    statuses = [post_endpoint(acme).status_code for _ in range(101)]

    assert statuses == [201] * 100 + [409]
    assert len(acme.get("/v1/endpoints").json) == 100
    assert post_endpoint(globex).status_code == 201


@pytest.mark.host(max_endpoints_per_tenant=102)
def test_a_host_may_allow_more(acme):
    statuses = [post_endpoint(acme).status_code for _ in range(103)]

    assert statuses == [201] * 102 + [409]
