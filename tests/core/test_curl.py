"""The `curl` command of a delivery: what it sends is what an attempt sends, in the shells that people have."""

import shutil
import subprocess
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from uuid import UUID

import pytest
import sqlalchemy as sa
import standardwebhooks
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flask_webhook_endpoints.core import curl, deliveries
from flask_webhook_endpoints.core.deliveries import Delivery, Details
from flask_webhook_endpoints.errors import UnreadableSecret, UnreadableValue
from flask_webhook_endpoints.security.encryption import Headers
from flask_webhook_endpoints.security.private import PrivateURL
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint, secret_of
from tests.support.database import DELIVERY, ENDPOINT, SECRET, execute, rows
from tests.support.deliveries import publish

pytestmark = [
    pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600]),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

SHELLS = [shell for shell in ("sh", "bash") if shutil.which(shell)]
DATA = {
    "quotes": 'it\'s "so" `so` $HOME $(id) !! \\ \\n \\\\',
    "lines": "a\nb\r\n\tc",
    "letters": "naïve ✓ 😀",
    "at": "@x %s",
    "turns": "'\u202e live | \u2066",
}


class Received(HTTPServer):
    """A receiver that keeps the last request."""

    class _Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.last = self.path, dict(self.headers.items()), body
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self._Handler)
        self.last = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture(scope="module")
def receiver():
    with Received() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(shell, command):
    """Run a command as it is pasted: as a line of the shell's input."""
    done = subprocess.run([shell], input=command.encode(), capture_output=True, timeout=30, check=False)
    assert (done.returncode, b" 204 " in done.stdout) == (0, True), done.stderr


def details_and_command(host, endpoint):
    [(delivery_id,)] = rows(host, sa.select(DELIVERY.c.id).where(DELIVERY.c.endpoint_id == endpoint.uuid))
    with host.app.app_context():
        cipher = current_state().cipher

        def make(scope):
            scope = scope.of("acme")
            details = deliveries.get(scope, endpoint.uuid, delivery_id, cipher=cipher, schedule=[0])
            return details, curl.command(details, curl.signed_headers(scope, details, cipher=cipher))

        return current_state().run(make, commit=False)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_sends_what_an_attempt_sends_with_a_signature_that_is_valid_now(host, acme, receiver, shell):
    custom = {"authorization": "Bearer it's $1", "x-latin": "café", "x-empty": ""}
    path = "/in/../[a]{b}?q='1'&r=%20"
    endpoint = create_endpoint(acme, f"{receiver.url}{path}", headers_json=custom)
    publish(host, DATA)
    drain(host.app)
    _, attempted, sent_body = receiver.last
    receiver.last = None

    details, command = details_and_command(host, endpoint)
    run(shell, command.reveal())

    arrived_at, headers, body = receiver.last
    assert arrived_at == path
    assert body == sent_body == details.body
    changing = {"webhook-timestamp", "webhook-signature", "host", "content-length", "accept"}
    assert {name.lower(): value for name, value in headers.items() if name.lower() not in changing} == {
        name.lower(): value for name, value in attempted.items() if name.lower() not in changing
    }
    assert standardwebhooks.Webhook(secret_of(acme, endpoint.path)).verify(body, headers)["data"] == DATA


def test_it_is_signed_with_previous_secrets_too(host, acme, receiver):
    endpoint = create_endpoint(acme, receiver.url)
    before = secret_of(acme, endpoint.path)
    acme.post(f"{endpoint.path}/secret/rotate", json={"overlap_seconds": 3600})
    publish(host)

    _, command = details_and_command(host, endpoint)
    run("sh", command.reveal())

    _, headers, body = receiver.last
    for secret in (before, secret_of(acme, endpoint.path)):
        assert standardwebhooks.Webhook(secret).verify(body, headers)


def test_a_lost_key_is_told(host, acme):
    endpoint = create_endpoint(acme, headers_json={"x-token": "t"})
    publish(host)
    execute(host, sa.update(ENDPOINT).values(headers_encrypted="lost"))
    with pytest.raises(UnreadableValue):
        details_and_command(host, endpoint)
    execute(host, sa.update(SECRET).values(secret_encrypted="lost"))

    with pytest.raises(UnreadableSecret):
        details_and_command(host, endpoint)


def test_the_command_is_shown_by_no_repr(host, acme):
    endpoint = create_endpoint(acme, "https://example.com/hidden", headers_json={"x-token": "hidden"})
    publish(host)

    found = details_and_command(host, endpoint)

    assert "hidden" not in repr(found)
    assert "hidden" in found[1].reveal()


def details_of(url, body):
    moment, nothing = datetime.now(UTC), UUID(int=0)
    delivery = Delivery(nothing, nothing, "a", "PENDING", 0, None, moment, None, None, None, None, nothing)
    return Details(delivery, body, [], PrivateURL(url), Headers(), [])


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="replace")))
@example(body=b"")
@example(body=b"@/etc/passwd")
@example(body=b"%s%d%045\\045\\n")
@example(body=b"\x00\x01'\\\xff\n")
@example(body=b"\n\n")
@example(body="'\u2028\u202e\x85".encode())
@example(body=b"x" * 300_000)
def test_every_body_arrives_byte_for_byte(receiver, shell, body):
    run(shell, curl.command(details_of(receiver.url, body), Headers({"x-byte": "\xff\xa0y"})).reveal())

    _, headers, arrived = receiver.last
    assert arrived == body
    assert headers["x-byte"] == "\xff\xa0y"
