"""A pytest plugin for hosts: a real receiver on loopback, a clock that moves, and what is due delivered at once.

Fixtures: `webhook_receiver`, `webhook_clock`, `drain_webhooks`. The last two need the host's own `app` fixture, whose
`WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS` must hold `127.0.0.0/8`.

pytest loads this module at its start, in every project where the library is installed: keep its imports few.
"""

import asyncio
import dataclasses
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

from flask_webhook_endpoints.errors import InvalidSignature
from flask_webhook_endpoints.security import signing

if TYPE_CHECKING:
    from flask import Flask

    from flask_webhook_endpoints.state import State


@dataclass(frozen=True, kw_only=True)
class Received:
    """A delivery as the receiver got it."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    received_at: datetime
    """By the clock of the receiver, which `webhook_clock` moves along."""

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
        """What the host published."""
        return self.json["data"]

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def verify(self, *secrets: str) -> None:
        """Raise `InvalidSignature` unless one of the secrets signed it, within five minutes of its arrival."""
        signing.verify(secrets, self.headers, self.body, now=self.received_at)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the receiver answers."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0


class Receiver:
    """A real HTTP server on loopback that keeps what it gets and answers as it is told."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        """Every attempt, in the order of arrival."""
        self.now: Callable[[], datetime] = Clock()
        """Its clock."""
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
                # Who sent it may have given up meanwhile.
                with suppress(OSError):
                    self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it overrides
                return

        class Server(ThreadingHTTPServer):
            # The default of five turns bursts away.
            request_queue_size = 128
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        # `close` waits for one poll.
        serve = partial(self._server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True, name="webhook-receiver").start()

    @property
    def url(self) -> str:
        """Where to register an endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def answer(self, *statuses: int, headers: Mapping[str, str] | None = None, delay_seconds: float = 0) -> None:
        """Answer the next attempts with these statuses, the last one from then on; 200 until told."""
        answers = [Answer(status=status, headers=headers or {}, delay_seconds=delay_seconds) for status in statuses]
        with self._lock:
            self._answers = answers

    def one(self, event_type: str, *, secret: str) -> Received:
        """Return the one delivery of this type, verified, however often it was attempted: its last attempt.

        Raises:
            AssertionError: There is none, or there are several, or the secret did not sign it.

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
        """Return what has come of one type."""
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
    """The application's clock: real time, until it is moved."""

    def __init__(self) -> None:
        self._offset = timedelta(0)

    def __call__(self) -> datetime:
        """Return the time, aware, in UTC."""
        return datetime.now(UTC) + self._offset

    def move(self, **by: float) -> None:
        """Move on, by what `timedelta` takes: `clock.move(minutes=5)`."""
        self._offset += timedelta(**by)


@pytest.fixture
def webhook_receiver() -> Iterator[Receiver]:
    """A receiver of this test alone."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def webhook_clock(app: "Flask", webhook_receiver: Receiver) -> Iterator[Clock]:
    """The clock of `app`, to be moved; the receiver's moves along, so that signatures verify."""
    from flask_webhook_endpoints.state import EXTENSION  # noqa: PLC0415 - it imports the whole library

    state: State = app.extensions[EXTENSION]
    clock = webhook_receiver.now = Clock()
    app.extensions[EXTENSION] = dataclasses.replace(state, now=clock)
    yield clock
    app.extensions[EXTENSION] = state


@pytest.fixture
def drain_webhooks(app: "Flask") -> Callable[[], int]:
    """Deliver what is due by now, as `flask webhooks worker --drain` does; returns the number of attempts."""
    return lambda: drain(app)


def drain(app: "Flask") -> int:
    """Deliver what of `app` is due by now; return the number of attempts."""
    # Imported here, so that the fixtures that send nothing work without the extra `worker`.
    from flask_webhook_endpoints.worker.loop import Worker  # noqa: PLC0415

    async def deliver() -> int:
        return await Worker(app).run("drained")

    # A thread of its own: the test may have an event loop, and has contexts pushed.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(lambda: asyncio.run(deliver())).result()
