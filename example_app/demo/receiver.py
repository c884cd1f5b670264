"""What a customer runs to receive webhooks: it believes those alone that the official library verifies."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from threading import Thread
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError


@dataclass(frozen=True)
class Arrival:
    """A delivery that came, and what it was answered."""

    headers: dict[str, str]
    body: bytes
    complaint: str | None
    """Why the official library does not believe it; None: it does."""
    status: HTTPStatus

    @property
    def id(self) -> str:
        """The `webhook-id`, by which a receiver knows what it has had already."""
        return self.headers["webhook-id"]

    @property
    def invoice_id(self) -> int:
        """The invoice that it is about."""
        return int(json.loads(self.body)["data"]["id"])

    def summary(self) -> str:
        """Return what became of it, in a line."""
        verdict = self.complaint or "signature valid"
        return f"{verdict}, answered {self.status.value} {self.status.phrase}"

    def lines(self, *, whole: bool) -> list[str]:
        """Return it as a reader wants to see it: in a line, or with the headers that tell."""
        if not whole:
            return [f"{json.loads(self.body)['type']} of invoice {self.invoice_id}, {self.id}: {self.summary()}"]
        shown = ("content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature")
        return ["POST /webhooks", *(f"{name}: {self.headers.get(name)}" for name in shown)]


class Receiver:
    """Receives on a port of this machine, in a thread."""

    def __init__(self, port: int) -> None:
        """Take the port where it listens."""
        self.url = f"http://127.0.0.1:{port}/webhooks"
        self.secret = ""
        """What the app showed when the endpoint was registered."""
        self.troubles: list[HTTPStatus] = []
        """What it answers next, instead of 204."""
        self._arrived: Queue[Arrival] = Queue()

    def next_arrival(self, seconds: float) -> Arrival | None:
        """Wait for a delivery, so many seconds at most."""
        try:
            return self._arrived.get(timeout=seconds)
        except Empty:
            return None

    def receive(self, headers: dict[str, str], body: bytes) -> HTTPStatus:
        """Take a delivery; return what to answer."""
        complaint = None
        status = HTTPStatus.NO_CONTENT
        try:
            Webhook(self.secret).verify(body, headers)
        except WebhookVerificationError as error:
            complaint, status = str(error), HTTPStatus.UNAUTHORIZED
        else:
            if self.troubles:
                status = self.troubles.pop(0)
        self._arrived.put(Arrival(headers, body, complaint, status))
        return status


@contextmanager
def listening() -> Iterator[Receiver]:
    """Receive meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(receiver.receive(headers, body))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it overrides
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver = Receiver(server.server_port)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
