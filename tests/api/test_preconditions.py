"""`If-Match` and `If-None-Match`: our tag is a version, however those between spell it (RFC 9110 section 13)."""

import gzip
from itertools import product

import pytest
from flask_compress import Compress
from sqlalchemy import event

from tests.support.api import create_endpoint
from tests.support.database import on_sqlite
from tests.support.hosts import flask_sqlalchemy

LONG = {"headers_json": {"X-Long": "x" * 1000}}

# As Flask-Compress, Apache, Caddy, Jetty, Undertow, nginx and others make them of `"2"`.
SPELLINGS = [
    *('"{}"', 'W/"{}"', '"{}:gzip"', 'W/"{}:br"', '"{}-gzip"', '"{}-br"', '"{}--gzip"', '"{};gzip"', '"{}/zstd"'),
    *('"{}_gzip"', 'W/"{}-gzip"', '"{}.gz"', '"{}-x-gzip"', '"7", W/"{}:gzip"', ' , "{}" ,, "9"', '"\'\'",\t"{}"'),
]
BROKEN = [
    *('"', '"{}', '{}"', "{}", "W/", "W/{}", 'w/"{}"', 'W /"{}"', '"{}""3"', '"{}" "3"', '"{}"; "3"', "*, *"),
    *('*, "{}"', '"{}", *', "'{}'", "x", '" {}"', '"{} "', '"{}\t"', "\\", "ü", "{}, ", '"{}",x'),
]
OTHER = [
    *('""', '"0"', '"0{}"', '"+{}"', '"{}.0"', '"{}0"', '"{}1"', '"*"', '"{}:"', '"{}gzip"', '"gzip-{}"', '"-{}"'),
    *('"ü"', '"' + "9" * 5_000 + '"', "", ",,", ", ".join(f'"{n}"' for n in range(5, 2_000)), '"{}-7"', '"{}-gzip-3"'),
]


@pytest.fixture
def ep(acme):
    """An endpoint whose version is 2."""
    path = create_endpoint(acme, **LONG).path
    assert acme.patch(path, json={"name": "second"}).headers["ETag"] == '"2"'
    return path


def spelt(spellings):
    return pytest.mark.parametrize("tag", spellings, ids=lambda spelling: spelling[:16])


def state(client, path):
    answer = client.get(path)
    return answer.status_code, answer.data


def outcome(client, path, method, **headers):
    """Return the status, having seen that what is refused changes nothing, and is a problem document."""
    before = state(client, path)
    body = {"json": {"name": "third"}} if method == "PATCH" else {}
    answer = client.open(path, method=method, headers=headers, **body)
    if answer.status_code >= 400:
        assert answer.content_type == "application/problem+json"
        assert state(client, path) == before
    return answer.status_code


@spelt(SPELLINGS)
@on_sqlite
def test_the_version_is_compared_however_its_tag_is_spelt(acme, ep, tag):
    stale, current = tag.format(1), tag.format(2)

    for method, refused in (("GET", 304), ("PATCH", 412), ("DELETE", 412)):
        assert outcome(acme, ep, method, **{"If-Match": stale}) == 412
        assert outcome(acme, ep, method, **{"If-None-Match": current}) == refused
    assert outcome(acme, ep, "GET", **{"If-Match": current}) == 200
    assert outcome(acme, ep, "PATCH", **{"If-Match": current}) == 200
    assert outcome(acme, ep, "PATCH", **{"If-None-Match": current}) == 200
    assert outcome(acme, ep, "DELETE", **{"If-Match": tag.format(4)}) == 204


@spelt(OTHER)
@on_sqlite
def test_a_tag_that_is_no_spelling_of_the_version_is_another(acme, ep, tag):
    for method in ("GET", "PATCH", "DELETE"):
        assert outcome(acme, ep, method, **{"If-Match": tag.format(2)}) == 412
    for method in ("GET", "PATCH", "DELETE"):
        assert outcome(acme, ep, method, **{"If-None-Match": tag.format(2)}) in (200, 204)


def test_a_header_that_breaks_its_grammar_is_400(acme, ep):
    before = state(acme, ep)
    for tag, header in product(BROKEN, ("If-Match", "If-None-Match")):
        for method, body in (("GET", {}), ("PATCH", {"json": {}}), ("DELETE", {})):
            answer = acme.open(ep, method=method, headers={header: tag.format(2)}, **body)
            assert (answer.status_code, answer.content_type) == (400, "application/problem+json"), tag
            assert header in answer.json["detail"]
    assert state(acme, ep) == before


@on_sqlite
@pytest.mark.parametrize(
    ("headers", "read", "write"),
    [
        ({"If-Match": "*"}, 200, 200),
        ({"If-None-Match": "*"}, 304, 412),
        ({"If-Match": "*", "If-None-Match": "*"}, 304, 412),
        ({"If-Match": '"2"', "If-None-Match": '"1"'}, 200, 200),
        ({"If-Match": '"2"', "If-None-Match": '"2"'}, 304, 412),
        # If-Match is evaluated first (RFC 9110 section 13.2.2).
        ({"If-Match": '"1"', "If-None-Match": '"2"'}, 412, 412),
        ({"If-Match": '"1", "2"', "If-None-Match": '"1", "3"'}, 200, 200),
    ],
    ids=str,
)
def test_both_conditions_are_evaluated_in_their_order(acme, ep, headers, read, write):
    assert outcome(acme, ep, "GET", **headers) == read
    assert outcome(acme, ep, "HEAD", **headers) == read
    assert outcome(acme, ep, "PATCH", **headers) == write
    if write != 200:
        assert acme.patch(ep, json={}, headers=headers).status_code == write
        assert outcome(acme, ep, "DELETE", **headers) == write


@pytest.mark.parametrize("headers", [{"If-Match": "*"}, {"If-None-Match": "*"}, {"If-Match": '"1"'}], ids=str)
def test_conditions_on_another_tenants_endpoint_and_on_none_are_404_alike(acme, globex, ep, headers):
    unknown = "/v1/endpoints/ep_00000000-0000-7000-8000-000000000000"
    for method in ("GET", "PATCH", "DELETE"):
        body = {"json": {}} if method == "PATCH" else {}
        others, nobodys = (globex.open(path, method=method, headers=headers, **body) for path in (ep, unknown))
        assert (others.status_code, others.data) == (404, nobodys.data)


def test_no_write_follows_from_a_condition_that_fails(host, acme, ep):
    written = []
    with host.app.app_context():
        event.listen(host.db.engine, "commit", written.append)

    acme.patch(ep, json={"name": "third"}, headers={"If-None-Match": '"2"'})
    acme.delete(ep, headers={"If-None-Match": "*"})
    acme.delete(ep, headers={"If-Match": '"1"'})

    assert written == []


# With Flask-Compress, each PATCH with the tag that the answer had was 412, for ever.


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "identity"])
def test_a_client_behind_compression_reads_and_writes_with_the_tags_it_is_given(database, encoding):
    host = flask_sqlalchemy(database, COMPRESS_MIN_SIZE=1)
    Compress(host.app)
    acme, accept = host.client(), {"Accept-Encoding": encoding}
    path = create_endpoint(acme, **LONG).path

    read = acme.get(path, headers=accept)
    assert read.headers.get("Content-Encoding", "identity") == encoding
    if encoding == "gzip":
        assert read.headers["ETag"] != '"1"'
        assert gzip.decompress(read.data) == acme.get(path).data
    again = acme.get(path, headers={**accept, "If-None-Match": read.headers["ETag"]})
    changed = acme.patch(path, json={"name": "m"}, headers={**accept, "If-Match": read.headers["ETag"]})
    lost = acme.patch(path, json={"name": "o"}, headers={**accept, "If-Match": read.headers["ETag"]})
    deleted = acme.delete(path, headers={**accept, "If-Match": changed.headers["ETag"]})

    assert [answer.status_code for answer in (again, changed, lost, deleted)] == [304, 200, 412, 204]
    host.close()
