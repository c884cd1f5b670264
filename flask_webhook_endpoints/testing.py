"""A pytest plugin for hosts: a real receiver on loopback, a clock that moves, and delivery on demand.

Fixtures: `webhook_receiver`, `webhook_clock`, `drain_webhooks`. The last two need the host's own `app` fixture, whose
`WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS` must hold `127.0.0.0/8`.

A test that publishes an event which breaks its declaration fails, unless it uses the fixture `invalid_webhook_events`.

pytest loads this module in every project where the library is installed. Keep its imports few.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from flask_webhook_endpoints.core import breaches
from flask_webhook_endpoints.errors import InvalidEvent, InvalidSignature
from flask_webhook_endpoints.security import signing

if TYPE_CHECKING:
    from flask import Flask


@dataclass(frozen=True, kw_only=True)
class Received:
    """One attempt of a delivery, as the receiver got it."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    received_at: datetime
    """The time by the receiver's clock, which `webhook_clock` moves too."""

    @property
    def id(self) -> str:
        """The `webhook-id`: the same on every attempt."""
        return self.headers["webhook-id"]

    @property
    def type(self) -> str:
        """The type of the event."""
        return str(self.json["type"])

    @property
    def data(self) -> Any:
        """The data that the host published."""
        return self.json["data"]

    @property
    def json(self) -> Any:
        """The body, decoded from JSON."""
        return json.loads(self.body)

    def verify(self, *secrets: str) -> None:
        """Raise `InvalidSignature` unless one of the secrets signed it within five minutes of its arrival."""
        signing.verify(secrets, self.headers, self.body, now=self.received_at)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that the receiver gives."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0


class Receiver:
    """A real HTTP server on loopback, which keeps every attempt and answers as the test says."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        """Every attempt, in the order of arrival."""
        self.now: Callable[[], datetime] = Clock()
        """The receiver's clock."""
        self._answers: list[Answer] = []
        self._closing = threading.Event()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = receiver._take(self.path, dict(self.headers.items()), body)
                receiver._closing.wait(answer.delay_seconds)
                self.send_response(answer.status)
                for name, value in {"Content-Length": "0", **answer.headers}.items():
                    self.send_header(name, value)
                # The worker may have given up waiting and closed the connection.
                with suppress(OSError):
                    self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it overrides
                return

        class Server(ThreadingHTTPServer):
            # Python's default of five refuses the connections of a burst.
            request_queue_size = 128
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        # `close` waits for one poll, so keep it short.
        serve = partial(self._server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True, name="webhook-receiver").start()

    @property
    def url(self) -> str:
        """The URL to register an endpoint with."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def answer(self, *statuses: int, headers: Mapping[str, str] | None = None, delay_seconds: float = 0) -> None:
        """Answer the next attempts with these statuses, and all later ones with the last; the default is 200."""
        answers = [Answer(status=status, headers=headers or {}, delay_seconds=delay_seconds) for status in statuses]
        with self._lock:
            self._answers = answers

    def one(self, event_type: str, *, secret: str) -> Received:
        """Return the last attempt of the one delivery of this type, verified with the secret.

        Raises:
            AssertionError: No delivery of this type came, or several came, or another secret signed it.

        """
        found = {received.id: received for received in self.of_type(event_type)}
        if len(found) != 1:
            came = Counter(received.type for received in self.received)
            listed = ", ".join(f"{count} of {name}" for name, count in came.items()) or "nothing"
            raise AssertionError(
                f"Expected one delivery of {event_type}, got {len(found)}. Attempts that came: {listed}."
                + ("" if found else " Was it committed, is an endpoint active that wants it, was it drained?")
            )
        (received,) = found.values()
        try:
            received.verify(secret)
        except InvalidSignature as error:
            raise AssertionError(f"The delivery of {event_type} does not verify: {error}") from None
        return received

    def of_type(self, event_type: str) -> list[Received]:
        """Return all attempts that came for events of one type."""
        return [received for received in self.received if received.type == event_type]

    def close(self) -> None:
        """Stop serving."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        lower = {name.lower(): value for name, value in headers.items()}
        with self._lock:
            self.received.append(Received(path=path, headers=lower, body=body, received_at=self.now()))
            if len(self._answers) > 1:
                return self._answers.pop(0)
            return self._answers[0] if self._answers else Answer()


class Clock:
    """The application's clock: the real time, until a test moves it."""

    def __init__(self) -> None:
        self._offset = timedelta(0)

    def __call__(self) -> datetime:
        """Return the time, aware, in UTC."""
        return datetime.now(UTC) + self._offset

    def move(self, **by: float) -> None:
        """Move the clock; the arguments are those of `timedelta`: `clock.move(minutes=5)`."""
        self._offset += timedelta(**by)


@pytest.fixture
def webhook_receiver() -> Iterator[Receiver]:
    """A receiver for one test."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def webhook_clock(app: "Flask", webhook_receiver: Receiver) -> Iterator[Clock]:
    """The clock of `app`; the receiver's clock moves with it, so that signatures verify."""
    from flask_webhook_endpoints.state import set_clock  # noqa: PLC0415 - it imports the whole library

    _check_settings(app)
    clock = webhook_receiver.now = Clock()
    before = set_clock(app, clock)
    yield clock
    set_clock(app, before)


@pytest.fixture
def drain_webhooks(app: "Flask") -> Callable[[], int]:
    """Return a function that delivers all that is due, as `flask webhooks worker --drain` does, and counts attempts."""
    _check_settings(app)
    return lambda: drain(app)


def drain(app: "Flask") -> int:
    """Deliver all that is due in `app`; return the number of attempts."""
    # Imported here, so that the other fixtures work without the extra `worker`.
    from flask_webhook_endpoints.worker.loop import Worker  # noqa: PLC0415

    _check_settings(app)

    async def deliver() -> int:
        return await Worker(app).run("drained")

    # In a thread of its own, because the test may have an event loop and has pushed contexts.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(lambda: asyncio.run(deliver())).result()


@pytest.fixture
def invalid_webhook_events() -> list[InvalidEvent]:
    """The errors of the events that the test has published against their declaration; it does not fail for them."""
    return _breaches


_breaches: list[InvalidEvent] = []


def pytest_configure(config: pytest.Config) -> None:
    """Watch what is published, whatever `CHECK_EVENTS` says and whatever the host does with the error."""
    breaches.watchers.append(_breaches.append)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Watch no more."""
    breaches.watchers.remove(_breaches.append)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin a test without events of the test before it."""
    _breaches.clear()


# No wrappers, whose kinds differ between versions of pytest. Ours run after pytest's own, if that raised nothing.
@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a test for the events that it has published against their declaration, its fixtures included."""
    _fail_for_breaches(item)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell no event again at the end of a test that has failed already."""
    if report.when == "call":
        _breaches.clear()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail the end of a test for what its fixtures have published then."""
    _fail_for_breaches(item)


def _fail_for_breaches(item: pytest.Item) -> None:
    if not _breaches or "invalid_webhook_events" in getattr(item, "fixturenames", ()):
        return
    told = "\n".join(dict.fromkeys(map(str, _breaches)))
    advice = "A test that does so on purpose uses the fixture invalid_webhook_events."
    pytest.fail(f"Events were published against their declaration:\n{told}\n{advice}", pytrace=False)


def _check_settings(app: "Flask") -> None:
    from flask_webhook_endpoints.state import check_settings  # noqa: PLC0415 - it imports the whole library

    check_settings(app)
