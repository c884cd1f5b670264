"""Bodies as real servers hand them on: chunked ones not at all, where the server does not say that it ends them."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import a2wsgi
import pytest
import uvicorn
from flask import request

from tests.support import hosts
from tests.support.api import NEW, create_endpoint
from tests.support.servers import served, served_by_waitress
from tests.support.waiting import PATIENCE_SECONDS, wait_until

SECRET = "a secret of sixteen"


@contextmanager
def served_by_uvicorn(app: Any, **options: Any) -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@contextmanager
def uvicorn_with_a2wsgi(app: Any) -> Iterator[int]:
    with served_by_uvicorn(a2wsgi.WSGIMiddleware(app)) as port:
        yield port


@contextmanager
def uvicorn_as_wsgi(app: Any) -> Iterator[int]:
    with served_by_uvicorn(app, interface="wsgi") as port:
        yield port


# uWSGI, too, hands on none; it has no wheel.
HANDS_ON = {"werkzeug": served, "waitress": served_by_waitress}
HANDS_ON_NONE = {"uvicorn and a2wsgi": uvicorn_with_a2wsgi, "uvicorn's own": uvicorn_as_wsgi}


@pytest.fixture(scope="module", params={**HANDS_ON, **HANDS_ON_NONE})
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    host = hosts.flask_sqlalchemy(f"sqlite:///{tmp_path_factory.mktemp('server')}/host.db")
    host.app.testing = False
    with {**HANDS_ON, **HANDS_ON_NONE}[request.param](host.app) as port:
        yield request.param, port
    host.close()


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    encoded = None if body is None else json.dumps(body).encode()
    connection.request(method, path, encoded, {"X-Tenant": "acme", "Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def chunked(port: int, method: str, path: str, body: bytes, *head: str) -> tuple[int, Any]:
    """Send a body in chunks of a few bytes each."""
    lines = (f"{method} {path} HTTP/1.1", "Host: x", "X-Tenant: acme", "Content-Type: application/json", *head)
    head_bytes = "\r\n".join((*lines, "Transfer-Encoding: chunked", "Connection: close", "", "")).encode()
    parts = [body[start : start + 7] for start in range(0, len(body), 7)]
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(head_bytes + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n")
        answer = HTTPResponse(connection)
        answer.begin()
        text = answer.read()
    return answer.status, json.loads(text) if text else None


@pytest.fixture
def path(server: tuple[str, int]) -> str:
    _, port = server
    status, endpoint = ask(port, "POST", "/v1/endpoints", {**NEW, "secret": "another of sixteen"})
    assert status == 201
    return f"/v1/endpoints/{endpoint['id']}"


def is_411(answer: tuple[int, Any]) -> bool:
    status, problem = answer
    return status == problem["status"] == 411 and problem["title"] == "Length Required" and bool(problem["detail"])


def test_a_secret_in_chunks_is_set_or_refused_and_never_another_one(server, path):
    name, port = server
    before = ask(port, "GET", f"{path}/secret")

    answer = chunked(
        port, "POST", f"{path}/secret/rotate", json.dumps({"secret": SECRET, "overlap_seconds": 0}).encode()
    )

    if name in HANDS_ON:
        assert answer[0] == 200
        assert answer[1]["secret"] == SECRET
    else:
        assert is_411(answer), answer
        assert ask(port, "GET", f"{path}/secret") == before


REQUESTS: dict[str, tuple[str, Callable[[str], str], Any, int]] = {
    "create": ("POST", lambda path: "/v1/endpoints", NEW, 201),
    "update": ("PATCH", lambda path: path, {"name": "m"}, 200),
    "ping": ("POST", lambda path: f"{path}/ping", {}, 202),
}


@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS)
def test_a_body_in_chunks_is_taken_or_refused_with_411(server, path, asked):
    name, port = server
    method, where, body, status = asked

    answer = chunked(port, method, where(path), json.dumps(body).encode())

    assert answer[0] == status if name in HANDS_ON else is_411(answer), answer


@pytest.mark.parametrize("encoding", ["chunked", "Chunked", "gzip, chunked"])
def test_any_transfer_encoding_of_which_nothing_came_is_411(encoding):
    host = hosts.flask_sqlalchemy("sqlite://")
    acme = host.client()
    path = create_endpoint(acme).path
    secret = acme.get(f"{path}/secret").json

    for method, where in (("POST", f"{path}/secret/rotate"), ("PATCH", path), ("POST", "/v1/endpoints")):
        answer = acme.open(
            where,
            method=method,
            content_type="application/json",
            environ_overrides={"HTTP_TRANSFER_ENCODING": encoding, "CONTENT_LENGTH": ""},
        )
        assert is_411((answer.status_code, answer.json)), answer.text
    assert acme.get(f"{path}/secret").json == secret
    host.close()


# A hook of the host's has read it, as those do that check a signature or log it.
def test_a_stream_that_the_host_has_read_is_411_too():
    host = hosts.flask_sqlalchemy("sqlite://", register=False)
    host.app.before_request(read_stream)
    host.app.register_blueprint(host.webhooks.blueprint)
    acme = host.client()
    path = create_endpoint(acme).path
    secret = acme.get(f"{path}/secret").json

    with served(host.app) as port:
        answer = chunked(port, "POST", f"{path}/secret/rotate", json.dumps({"secret": SECRET}).encode(), "X-Read: 1")

    assert is_411(answer), answer
    assert acme.get(f"{path}/secret").json == secret
    host.close()


def read_stream() -> None:
    if "X-Read" in request.headers:
        request.stream.read()


def test_no_body_stays_no_body(server, path):
    _, port = server

    assert ask(port, "POST", f"{path}/secret/rotate")[0] == 200
    assert ask(port, "POST", f"{path}/ping")[0] == 202
    assert ask(port, "GET", path)[0] == 200
    assert ask(port, "DELETE", path)[0] == 204


@pytest.mark.parametrize("where", ["secret/rotate", "ping"])
def test_null_is_no_body_where_one_is_optional(server, path, where):
    _, port = server
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    headers = {"X-Tenant": "acme", "Content-Type": "application/json"}
    connection.request("POST", f"{path}/{where}", b"null", headers)
    answer = connection.getresponse()

    assert answer.status in (200, 202), answer.read()
    answer.read()
    connection.request("PATCH", path, b"null", headers)
    answer = connection.getresponse()
    assert answer.status == 422
    answer.read()
    connection.close()
