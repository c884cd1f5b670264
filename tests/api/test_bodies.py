import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import quote

import pytest
from flask import request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flask_webhook_endpoints
from flask_webhook_endpoints.api.routes import ROUTES
from flask_webhook_endpoints.core.validation import MAX_DEPTH
from tests.support import hosts, servers
from tests.support.api import NEW, assert_problem, create_endpoint, post_endpoint
from tests.support.waiting import PATIENCE_SECONDS

LIMIT = 65_536
UNKNOWN_DELIVERY = "dlv_00000000-0000-7000-8000-000000000000"


def as_in_production():
    """Make a host that answers errors as in production; on one database, as hardly anything here should reach it."""
    host = hosts.flask_sqlalchemy("sqlite://")
    host.app.testing = False
    return host


@pytest.fixture
def own():
    """A host of this test alone, to be configured."""
    host = as_in_production()
    yield host
    host.close()


@pytest.fixture(scope="module")
def shared():
    """The host that all other tests share."""
    host = as_in_production()
    yield host
    host.close()


@pytest.fixture
def client(shared):
    client = shared.client("acme")
    yield client
    for endpoint in client.get("/v1/endpoints").json:
        client.delete(f"/v1/endpoints/{endpoint['id']}")


@pytest.fixture
def ep(client):
    """The path of an endpoint."""
    return create_endpoint(client).path


def refused(client, path, status, **request):
    """Send the request to POST and PATCH and assert that it changes nothing."""
    before = client.get("/v1/endpoints").data
    for method, where in (("POST", "/v1/endpoints"), ("PATCH", path)):
        answer = client.open(where, method=method, **request)
        assert_problem(answer, status)
    assert client.get("/v1/endpoints").data == before


NOT_JSON = {
    "nothing": b"",
    "white space": b" \n",
    "NaN": b'{"name": NaN}',
    "Infinity": b'{"name": Infinity}',
    "-Infinity": b'{"name": -Infinity}',
    "NaN deep inside": b'{"headers_json": {"a": [NaN]}}',
    "two byte order marks": b"\xef\xbb\xbf" * 2 + b"{}",
    "UTF-16": json.dumps(NEW).encode("utf-16"),
    "UTF-16 without mark": json.dumps(NEW).encode("utf-16-le"),
    "UTF-32": json.dumps(NEW).encode("utf-32"),
    "Latin-1": '{"name": "ü"}'.encode("latin-1"),
    "overlong UTF-8": b'{"name": "\xc0\x80"}',
    "surrogate in UTF-8": b'{"name": "\xed\xa0\x80"}',
    "raw control character": b'{"name": "a\nb"}',
    "duplicate member": b'{"name": "a", "url": "https://example.com/", "name": "b"}',
    "duplicate member, escaped": b'{"name": "a", "n\\u0061me": "b"}',
    "duplicate member, nested": b'{"headers_json": {"A": "1", "A": "2"}}',
    "4301 digits": b'{"timeout_seconds": 1%s}' % (b"0" * 4300),
    "-4301 digits": b'{"timeout_seconds": -1%s}' % (b"0" * 4300),
    "deep arrays": b"[" * 32_768 + b"]" * 32_768,
    "deep objects": b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
    "deep, no end": b"[" * 65_536,
    "cut off": b'{"name": "n", "url": "https://exam',
    "two values": b"{}{}",
    "trailing comma": b'{"name": "n",}',
    "single quotes": b"{'name': 'n'}",
    "comment": b"{} // x",
    "form": b"name=n&url=https://example.com/",
    "XML": b"<name>n</name>",
    "leading zero": b'{"timeout_seconds": 010}',
    "hexadecimal": b'{"timeout_seconds": 0x10}',
    "NUL": b"\x00",
}
NOT_AN_OBJECT = {
    "array": b"[]",
    "array of an endpoint": json.dumps([NEW]).encode(),
    "string": b'"x"',
    "empty string": b'""',
    "number": b"1",
    "fraction": b"1.5",
    "huge fraction": b"1e400",
    "null": b"null",
    "true": b"true",
    "false": b"false",
}
WRONG_VALUES = {
    "1e400 as number": b'{"timeout_seconds": 1e400}',
    "-1e400 as number": b'{"timeout_seconds": -1e400}',
    "1e400 as string": b'{"name": 1e400}',
    "1e400 as header": b'{"headers_json": {"A": 1e400}}',
    "1e400 as unknown": b'{"x": 1e400}',
    "4300 digits": b'{"timeout_seconds": 1%s}' % (b"0" * 4299),
    "lone surrogate": b'{"name": "\\ud800"}',
    "lone surrogate as field": b'{"\\ud800": 1}',
    "NUL": b'{"name": "\\u0000"}',
    "NUL as field": b'{"\\u0000": 1}',
    "empty field": b'{"": 1}',
    "field of marshmallow": b'{"_schema": 1}',
    "field with dots": b'{"headers_json.A": "1"}',
    "long field": b'{"%s": 1}' % (b"x" * 60_000),
    "many fields": json.dumps(dict.fromkeys(map(str, range(4_000)))).encode(),
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_json_is_400(client, ep, body):
    refused(client, ep, 400, data=body, content_type="application/json")


@pytest.mark.parametrize("body", NOT_AN_OBJECT.values(), ids=NOT_AN_OBJECT.keys())
def test_json_that_is_no_object_is_422(client, ep, body):
    refused(client, ep, 422, data=body, content_type="application/json")


@pytest.mark.parametrize("body", WRONG_VALUES.values(), ids=WRONG_VALUES.keys())
def test_json_with_odd_values_is_422(client, ep, body):
    refused(client, ep, 422, data=body, content_type="application/json")


@pytest.mark.parametrize("depth", [900, 990, 1_000, 1_010, 5_000])
def test_a_body_as_deep_as_the_stack_is_refused(client, ep, depth):
    # Where exactly the parser gives up depends on the interpreter; below that it is a field like any other.
    answer = client.post(
        "/v1/endpoints", data=b'{"name":' + b"[" * depth + b"]" * depth + b"}", content_type="application/json"
    )

    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code)


# JSON that the parser could just read was too deep for what wrote it again: the key's fingerprint, an event's body.


@pytest.mark.parametrize("operation", [route for route in ROUTES if route.method == "POST"], ids=lambda it: it.path)
def test_a_body_is_refused_before_anything_that_reads_it_has_no_stack_left(client, ep, operation):
    path = operation.path.replace("<ep_id>", ep.rpartition("/")[2]).replace("<dlv_id>", UNKNOWN_DELIVERY)
    within = MAX_DEPTH - 1

    def post(depth):
        body = b'{"event_type":"a.b","data":' + b"[" * depth + b"]" * depth + b"}"
        key = {"Idempotency-Key": str(depth)}
        return client.post(path, data=body, content_type="application/json", headers=key)

    assert post(within).status_code in (202, 404, 422)
    for depth in (within + 1, *range(950, 1_000)):
        assert_problem(post(depth), 400)


def test_a_body_too_deep_and_too_large_is_413(client, ep):
    refused(client, ep, 413, data=b"[" * 100_000, content_type="application/json")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/json",
        "text/plain",
        "application/jsonp",
        "application/merge-patch+json",
        "application/problem+json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application",
        "*/*",
        "application/json, text/html",
        "ü".encode().decode("latin-1"),
    ],
)
def test_another_content_type_is_415(client, ep, content_type):
    refused(client, ep, 415, data=json.dumps(NEW), content_type=content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=utf-16",
        "application/json; charset=nonsense",
        "application/json; charset=",
        "application/json;",
    ],
)
def test_json_is_utf_8_whatever_its_parameters_say(client, content_type):
    answer = client.post("/v1/endpoints", data=json.dumps(NEW), content_type=content_type)

    assert answer.status_code == 201


def padded(length):
    return json.dumps(NEW).encode().ljust(length)


def test_a_body_may_have_65536_bytes(client):
    assert client.post("/v1/endpoints", data=padded(LIMIT), content_type="application/json").status_code == 201


def test_a_body_of_65537_bytes_is_413(client, ep):
    refused(client, ep, 413, data=padded(LIMIT + 1), content_type="application/json")


@pytest.mark.parametrize(
    ("declared", "status"),
    [
        (str(LIMIT), 400),
        (str(LIMIT + 1), 413),
        ("99999999999999999999", 413),
        ("9" * 5_000, 400),
        ("10", 400),
        ("0", 400),
        ("-1", 400),
        ("", 400),
        ("x", 400),
        ("+10", 400),
        ("1_0", 400),
        ("٥", 400),
        ("1e2", 400),
    ],
)
def test_a_content_length_that_lies_is_refused(client, ep, declared, status):
    data = json.dumps(NEW).encode()
    before = client.get("/v1/endpoints").data
    for method, path in (("POST", "/v1/endpoints"), ("PATCH", ep)):
        overrides = {"CONTENT_LENGTH": declared.encode().decode("latin-1"), "wsgi.input": io.BytesIO(data)}
        answer = client.open(path, method=method, content_type="application/json", environ_overrides=overrides)
        assert_problem(answer, status)
    assert client.get("/v1/endpoints").data == before


def test_a_smaller_limit_of_the_host_holds(own):
    client = own.client("acme")
    ep = create_endpoint(client).path
    own.app.config["MAX_CONTENT_LENGTH"] = 100

    refused(client, ep, 413, data=padded(101), content_type="application/json")
    assert client.post("/v1/endpoints", data=padded(100), content_type="application/json").status_code == 201


def test_a_larger_limit_of_the_host_does_not_lift_ours(own):
    own.app.config["MAX_CONTENT_LENGTH"] = 10 * LIMIT
    client = own.client("acme")

    refused(client, create_endpoint(client).path, 413, data=padded(LIMIT + 1), content_type="application/json")


READERS = {
    "get_data": lambda: request.get_data(cache=True),
    "get_data as text": lambda: request.get_data(as_text=True),
    "get_json": lambda: request.get_json(silent=True),
    "data": lambda: request.data,
    "form": lambda: request.form,
    "values": lambda: request.values,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_host_may_read_the_body_before_us(own, read, chunked):
    @own.app.before_request
    def reads():
        read()

    overrides = {}
    if chunked:
        overrides = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}

    answer = own.client("acme").post(
        "/v1/endpoints", data=json.dumps(NEW), content_type="application/json", environ_overrides=overrides
    )

    assert answer.status_code == 201


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_a_host_may_read_the_body_after_us(own, read):
    @own.app.after_request
    def reads(response):
        read()
        return response

    client = own.client("acme")
    assert post_endpoint(client).status_code == 201
    assert_problem(client.post("/v1/endpoints", data=b"{", content_type="application/json"), 400)
    assert_problem(client.post("/v1/endpoints", data="x", content_type="text/plain"), 415)


class Trickle(io.RawIOBase):
    """A body as a server hands it on while it arrives: less than was asked for."""

    def __init__(self, data, step):
        self._data = io.BytesIO(data)
        self._step = step

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self._data.read(min(self._step, len(buffer)))
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("max_content_length", [None, LIMIT * 2])
def test_a_streamed_body_that_arrives_in_parts_is_read_whole(own, max_content_length):
    own.app.config["MAX_CONTENT_LENGTH"] = max_content_length
    client = own.client("acme")
    ep = create_endpoint(client).path

    def send(data):
        overrides = {
            "HTTP_TRANSFER_ENCODING": "chunked",
            "wsgi.input_terminated": True,
            "wsgi.input": Trickle(data, 1000),
        }
        return client.patch(ep, content_type="application/json", environ_overrides=overrides)

    assert send(json.dumps({"name": "m"}).encode().ljust(LIMIT)).json["name"] == "m"
    assert_problem(send(json.dumps({"name": "l"}).encode().ljust(LIMIT + 1)), 413)
    assert client.get(ep).json["name"] == "m"


def test_a_streamed_body_over_the_smaller_limit_of_the_host_is_413(own):
    client = own.client("acme")
    ep = create_endpoint(client).path
    own.app.config["MAX_CONTENT_LENGTH"] = 100

    overrides = {
        "HTTP_TRANSFER_ENCODING": "chunked",
        "wsgi.input_terminated": True,
        "wsgi.input": Trickle(padded(200), 1000),
    }
    answer = client.patch(ep, content_type="application/json", environ_overrides=overrides)

    assert_problem(answer, 413)


# --- over real sockets


@pytest.fixture(scope="module", params=["werkzeug", "gunicorn"])
def server(request, tmp_path_factory) -> Iterator[int]:
    """The port of a real server in front of a host of its own: each hands on a broken body in its own way."""
    if request.param == "werkzeug":
        with served_by_werkzeug() as port:
            yield port
    else:
        with served_by_gunicorn(tmp_path_factory.mktemp("gunicorn") / "log") as port:
            yield port


@contextmanager
def served_by_werkzeug() -> Iterator[int]:
    with closing(as_in_production()) as host, servers.served(host.app) as port:
        yield port


@contextmanager
def served_by_gunicorn(log: Path) -> Iterator[int]:
    folders = (Path(flask_webhook_endpoints.__file__).parents[1], Path(__file__).parents[2])
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--threads", "4", f"{__name__}:application()"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, folders))}
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as server:
        try:
            yield servers.port_of(server, log)
        finally:
            server.terminate()


def application():
    """Make the application that gunicorn serves."""
    return as_in_production().app


def listed(port):
    """Return the endpoints as the server lists them, and delete them."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request("GET", "/v1/endpoints", headers={"X-Tenant": "acme"})
    endpoints = json.loads(connection.getresponse().read())
    for endpoint in endpoints:
        connection.request("DELETE", f"/v1/endpoints/{endpoint['id']}", headers={"X-Tenant": "acme"})
        connection.getresponse().read()
    connection.close()
    return endpoints


def exchange(port, *parts, cut=False):
    """Send the parts and return status, head and body; with `cut`, close our side before the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        for part in parts:
            connection.sendall(part)
        if cut:
            connection.shutdown(socket.SHUT_WR)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.headers, answer.read()


HEAD = b"POST /v1/endpoints HTTP/1.1\r\nHost: x\r\nX-Tenant: acme\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunks(data, size=1000):
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def test_a_chunked_body_is_taken(server):
    status, _, body = exchange(server, CHUNKED, chunks(json.dumps(NEW).encode(), size=7), b"0\r\n\r\n")

    assert status == 201
    assert listed(server) == [json.loads(body)]


def test_a_chunked_body_of_the_most_bytes_is_taken(server):
    status, *_ = exchange(server, CHUNKED, chunks(padded(LIMIT)), b"0\r\n\r\n")

    assert status == 201
    assert len(listed(server)) == 1


BROKEN = {
    "one byte too many": ((CHUNKED, chunks(padded(LIMIT + 1)), b"0\r\n\r\n"), 413),
    "empty": ((CHUNKED, b"0\r\n\r\n"), 400),
    # Gunicorn's error of these is no OSError, and was a 500.
    "no such size": ((CHUNKED, b"xyz\r\n{}\r\n0\r\n\r\n"), 400),
    "negative size": ((CHUNKED, b"-5\r\n{}\r\n0\r\n\r\n"), 400),
    "no new line": ((CHUNKED, b"2\r\n{}xx0\r\n\r\n"), 400),
    "size too large": ((CHUNKED, b"ffffff\r\n" + padded(LIMIT + 1)), 413),
    "ends in a chunk": ((CHUNKED, b"50\r\n" + json.dumps(NEW).encode()), 400),
    "ends between chunks": ((CHUNKED, chunks(json.dumps(NEW).encode())), 400),
    "no chunk": ((CHUNKED,), 400),
    # Gunicorn hands on as the whole body what came of it, which was taken.
    "length too large": ((HEAD + b"Content-Length: 500\r\n\r\n", json.dumps(NEW).encode()), 400),
    "length far too large": ((HEAD + b"Content-Length: 99999999\r\n\r\n", json.dumps(NEW).encode()), 413),
    "length missing": ((HEAD + b"\r\n", json.dumps(NEW).encode()), 400),
}


@pytest.mark.parametrize(("parts", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_a_body_that_breaks_off_makes_nothing(server, parts, expected):
    status, headers, body = exchange(server, *parts, cut=True)

    assert status == expected
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(body)["status"] == expected
    assert listed(server) == []


def test_a_body_that_breaks_off_before_its_first_byte_rotates_nothing(server):
    # An absent body asks for a generated secret; one that never came does not.
    *_, created = exchange(server, CHUNKED, chunks(json.dumps(NEW).encode()), b"0\r\n\r\n")
    path = f"/v1/endpoints/{json.loads(created)['id']}"

    status, *_ = exchange(
        server,
        HEAD.replace(b"/v1/endpoints", f"{path}/secret/rotate".encode()) + b"Content-Length: 2\r\n\r\n",
        cut=True,
    )

    assert status == 400
    assert listed(server) == [json.loads(created)]


def test_a_body_without_end_is_answered_413(server):
    status, headers, _ = exchange(server, CHUNKED, *[chunks(b" " * 10_000)] * 10)

    assert status == 413
    assert headers["Content-Type"] == "application/problem+json"
    assert listed(server) == []


def test_an_answer_leaves_the_server_usable(server):
    exchange(server, CHUNKED, b"xyz\r\n", cut=True)

    assert listed(server) == []


# --- paths, methods, queries, headers

ID = "01a2099d-4681-77b0-8dbf-8847b83729ec"
ODD_IDS = {
    "NUL": "%00",
    "NUL after an id": f"ep_{ID}%00",
    "slash": "%2F",
    "dots": "..",
    "encoded dots": "%2e%2e",
    "long": "x" * 100_000,
    "not UTF-8": "%ff",
    "bad percent": "%zz",
    "new line": f"ep_{ID}%0a",
    "upper case": f"ep_{ID.upper()}",
    "upper prefix": f"EP_{ID}",
    "no prefix": ID,
    "no hyphens": f"ep_{ID.replace('-', '')}",
    "braces": f"ep_{{{ID}}}",
    "urn": f"ep_urn:uuid:{ID}",
    "another prefix": f"evt_{ID}",
    "space": f"ep_{ID}%20",
    "full-width digit": quote("ep_" + "１" * 8 + ID[8:]),
    "emoji": quote("😀"),
    "star": "*",
    "null": "null",
    "SQL": quote("ep_' OR 1=1 --"),
    "path below": f"ep_{ID}/x",
    "path far below": f"ep_{ID}/x/y/../z",
    "slash at the end": f"ep_{ID}/",
    "dot": ".",
    "semicolon": f"ep_{ID};x=1",
}


@pytest.mark.parametrize("ep_id", ODD_IDS.values(), ids=ODD_IDS.keys())
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "POST"])
def test_an_odd_id_is_404_or_405(client, ep_id, method):
    answer = client.open(f"/v1/endpoints/{ep_id}", method=method, json={})
    if answer.status_code == 308:  # the host's routing merges slashes before anybody is asked
        assert ep_id == "%2F"
        return

    assert answer.status_code == 404 or (method == "POST" and answer.status_code == 405)
    assert_problem(answer, answer.status_code)


ONE = "/v1/endpoints/<ep_id>"
READ, SENT = {"GET", "HEAD", "OPTIONS"}, {"POST", "OPTIONS"}
METHODS = {
    "/v1/endpoints": READ | SENT,
    "/v1/endpoints/event-types": READ,
    "/v1/endpoints/deliveries": READ,
    ONE: READ | {"PATCH", "DELETE"},
    f"{ONE}/secret": READ,
    f"{ONE}/secret/rotate": SENT,
    f"{ONE}/ping": SENT,
    f"{ONE}/stats": READ,
    f"{ONE}/recover": SENT,
    f"{ONE}/deliveries": READ,
    f"{ONE}/deliveries/<dlv_id>": READ,
    f"{ONE}/deliveries/<dlv_id>/redeliver": SENT,
    "/v1/openapi.json": READ,
}


def test_these_are_all_paths():
    assert {route.path for route in ROUTES} == METHODS.keys()


@pytest.mark.parametrize("method", ["FOO", "TRACE", "CONNECT", "PUT", "PROPFIND", "foo", "", "G ET", "POST\x00"])
@pytest.mark.parametrize("path", METHODS)
def test_an_odd_method_is_405_and_told_the_right_ones(client, method, path):
    answer = client.open(path.replace("<ep_id>", f"ep_{ID}").replace("<dlv_id>", f"dlv_{ID}"), method=method)

    assert_problem(answer, 405)
    assert set(answer.headers["Allow"].split(", ")) == METHODS[path]


@pytest.mark.parametrize("path", METHODS)
def test_a_method_of_other_paths_is_405_too(client, path):
    # Paths with the same methods were redirected to each other: PATCH …/deliveries to …/secret, in HTML.
    where = path.replace("<ep_id>", f"ep_{ID}").replace("<dlv_id>", f"dlv_{ID}")

    for method in {"GET", "POST", "PATCH", "DELETE"} - METHODS[path]:
        assert_problem(client.open(where, method=method), 405)
    assert client.options(where).status_code == 204
    assert set(client.options(where).headers["Allow"].split(", ")) == METHODS[path]


def test_a_method_in_lower_case_is_never_an_html_page(client):
    for method in ("get", "post", "patch", "delete", "head", "options"):
        answer = client.open("/v1/endpoints", method=method)
        assert answer.status_code < 500
        assert answer.content_type in ("application/json", "application/problem+json", None)


# A line feed in a path fell through to the host's 404 page: the dot of werkzeug's own `path` does not match it.
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize(
    "rest", ["%0A", "0/%0A", "0/%0A/1", "%0A/0/1/2", "0/1/2/%0A%0A", "0/%0D%0A", "0/%E2%80%A8", "0/%00"]
)
def test_a_path_may_hold_any_character(client, method, rest):
    answer = client.open(f"/v1/endpoints/{rest}", method=method, json=NEW)

    if answer.status_code != 204:  # OPTIONS of what may be an id
        assert answer.status_code in (404, 405)
        assert_problem(answer, answer.status_code)


@pytest.mark.parametrize("path", ["", "/", f"/ep_{ID}", f"/ep_{ID}/secret/rotate", "/x/y"])
def test_a_websocket_is_refused_by_the_hosts_routing(client, path):
    answer = client.get(f"/v1/endpoints{path}", headers={"Connection": "Upgrade", "Upgrade": "websocket"})

    assert answer.status_code in (400, 405)


BAD_QUERIES = [
    "limit=",
    "limit=0",
    "limit=251",
    "limit=-1",
    "limit=+1",
    "limit=1e2",
    "limit=1.0",
    "limit=0x1",
    "limit=%D9%A5",
    "limit=%EF%BC%91",
    "limit=1%00",
    "limit=1%0a",
    "limit=%zz",
    "limit=%ff",
    "limit=true",
    "limit=1_0",
    "limit=" + "9" * 10_000,
    "limit[]=1",
    "limit=0&limit=1",
    "cursor=",
    "cursor=x",
    "cursor=%00",
    "cursor=%ff",
    f"cursor={ID}",
    f"cursor=ep_{ID.upper()}",
    f"cursor=ep_{ID}%0a",
    "status=",
    "status=active",
    "status=%00",
    "status=DELETED",
]


@pytest.mark.parametrize("query", BAD_QUERIES, ids=lambda query: query[:30])
def test_a_query_that_breaks_a_rule_is_422(client, query):
    answer = client.get(f"/v1/endpoints?{query}")
    if query == "limit[]=1":  # a parameter of the host's, not ours
        assert answer.json == []
        return

    assert_problem(answer, 422)
    assert list(answer.json["errors"]) == [query.partition("=")[0]]


# What Flask's url_for would take for its own arguments is a parameter like any other.
@pytest.mark.parametrize(
    "query",
    [
        "endpoint=x",
        "_method=DELETE",
        "_scheme=javascript",
        "_external=1",
        "_anchor=x",
        "values=x",
        "self=x",
        "ep_id=x",
        "rest=x",
        "x=%ff",
        "x=%00%0d%0aSet-Cookie:%20a=b",
        "x=%3E;%20rel=%22prev%22",
        "%3E=%3C",
        "x=%F0%9F%98%80",
        "x=",
        "x",
        "=x",
        "&&&",
        "limit=9&limit=x",
        "x=" + "y" * 10_000,
    ],
    ids=lambda query: query[:30],
)
def test_the_next_page_keeps_the_parameters_of_others(client, query):
    for number in range(3):
        post_endpoint(client, name=str(number))

    first = client.get(f"/v1/endpoints?limit=2&{query}")
    following, _, rel = first.headers["Link"].partition(">")
    second = client.get(following.removeprefix("<"))

    assert rel == '; rel="next"'
    assert following.startswith("<http://localhost/v1/endpoints?")
    assert following.isascii()
    assert [endpoint["name"] for endpoint in first.json + second.json] == ["0", "1", "2"]
    assert "Link" not in second.headers


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb", "\x7f", "😀".encode().decode("latin-1")])
def test_a_bad_idempotency_key_is_400(client, key):
    answer = post_endpoint(client, key=key)

    assert_problem(answer, 400)
    assert client.get("/v1/endpoints").json == []


@pytest.mark.parametrize("key", ["x", "x" * 255, " ", "' OR 1=1 --", '"quoted"', "a, b"])
def test_an_idempotency_key_is_any_printable_ascii(client, key):
    first, second = (post_endpoint(client, key=key) for _ in "ab")

    assert first.status_code == second.status_code == 201
    assert first.data == second.data
    assert len(client.get("/v1/endpoints").json) == 1


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        '"2"',
        '"01"',
        '"+1"',
        '"1.0"',
        '"٥"'.encode().decode("latin-1"),
        '"2", "3", W/"7"',
        '"*"',
        ",,,",
        '"' + "9" * 5_000 + '"',
        ", ".join(f'"{version}"' for version in range(2, 2_000)),
    ],
    ids=lambda value: value[:20],
)
def test_an_if_match_that_does_not_name_the_etag_is_412(client, ep, value):
    before = client.get(ep)

    for request_ in ({"method": "PATCH", "json": {"name": "m"}}, {"method": "PATCH", "json": {}}, {"method": "DELETE"}):
        assert_problem(client.open(ep, **request_, headers={"If-Match": value}), 412)
    assert client.get(ep).data == before.data


@pytest.mark.parametrize("value", ["*", '"1"', '"7", "1"', '"1","2"', 'W/"1", "1"', 'W/"1"'])
def test_an_if_match_that_names_the_etag_holds(client, ep, value):
    assert client.patch(ep, json={"name": "m"}, headers={"If-Match": value}).status_code == 200


ODD_HEADERS = {
    "If-None-Match": ["", '"', "*", 'W/"1"', '"1', ",,", "ü", "x" * 10_000],
    "If-Modified-Since": ["", "yesterday", "Thu, 99 Foo 2020 99:99:99 GMT"],
    "Range": ["bytes=0-1", "bytes=-", "x"],
    "Accept": ["", "text/html", "nonsense", "application/xml;q=x"],
    "Accept-Encoding": ["gzip", "\x00"],
    "Host": ["", "a b", "[::1", "x:99999", "a/b", "ü"],
    "Cookie": ["", "=", ";;;", "\xff", "session=x"],
    "Expect": ["100-continue", "x"],
    "Content-Encoding": ["gzip", "x"],
    "X-HTTP-Method-Override": ["DELETE", "FOO"],
    "X-Forwarded-For": ["x", "127.0.0.1, "],
    "Authorization": ["", "Basic", "Basic !!!", "Bearer", "Digest x=", "\xff"],
    "Content-Type": ["", "x", "application/json; charset=x", ";", "multipart/form-data"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD_HEADERS.items() for value in values])
def test_an_odd_header_is_no_error_of_ours(client, ep, name, value):
    for method, path in (("GET", ep), ("GET", "/v1/endpoints"), ("POST", "/v1/endpoints"), ("PATCH", ep)):
        answer = client.open(path, method=method, data=json.dumps(NEW), headers={name: value})
        assert answer.status_code < 500
        assert answer.status_code == 304 or answer.content_type in ("application/json", "application/problem+json")


# --- fuzz

_names = st.sampled_from(
    ["name", "url", "secret", "headers_json", "timeout_seconds", "event_types", "status", "id", "tenant_id"]
)
_text = st.text(st.characters(codec=None), max_size=20)
_likely = st.sampled_from(
    [*("n", "https://example.com/", "http://127.0.0.1/", "whsec_your_signing_secret", "PAUSED", "ACTIVE", "", " ")]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text | _likely,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text | _names | st.just("X-A"), inner, max_size=4),
    max_leaves=12,
)
_objects = st.dictionaries(_names | _text, _json, max_size=5).map(lambda members: {**NEW, **members})
_bodies = st.one_of(_objects.map(json.dumps), _json.map(json.dumps), st.binary(max_size=50), st.text(max_size=50))
_header = st.tuples(
    st.sampled_from(["Idempotency-Key", "If-Match", "If-None-Match", "Content-Type", "Host"]),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=20)
    | st.sampled_from(["*", '"1"', "application/json"]),
)
_ids = st.one_of(st.just(""), st.just("/ep"), st.text(max_size=20).map("/{}".format))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(method=st.sampled_from(["POST", "PATCH"]), where=_ids, body=_bodies, headers=st.lists(_header, max_size=3))
def test_nothing_that_is_refused_leaves_a_trace(client, method, where, body, headers):
    listed = client.get("/v1/endpoints")
    if len(listed.json) > 20:
        for endpoint in listed.json:
            client.delete(f"/v1/endpoints/{endpoint['id']}")
        listed = client.get("/v1/endpoints")
    if where == "/ep":
        where = f"/{listed.json[-1]['id']}" if listed.json else ""
    data = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")

    answer = client.open(
        "/v1/endpoints" + quote(where),
        method=method,
        data=data,
        headers=[("Content-Type", "application/json"), *headers],
    )

    if answer.status_code == 308:  # the host's routing merges slashes before anybody is asked
        assert where.startswith("//") or where == "//"
        return
    assert answer.status_code < 500
    if answer.status_code >= 300:
        assert_problem(answer, answer.status_code)
        assert client.get("/v1/endpoints").data == listed.data
    else:
        assert answer.content_type == "application/json"
