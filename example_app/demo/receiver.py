"""A customer's receiver: it accepts only deliveries that the official library verifies."""

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
    """A delivery that came, and the answer to it."""

    headers: dict[str, str]
    body: bytes
    complaint: str | None
    """The reason why the official library refuses it. None: the signature is valid."""
    status: HTTPStatus

    @property
    def id(self) -> str:
        """The `webhook-id`, by which a receiver recognises a delivery that it has had already."""
        return self.headers["webhook-id"]

    @property
    def invoice_id(self) -> int:
        """The id of the invoice that the event is about."""
        return int(json.loads(self.body)["data"]["id"])

    def summary(self) -> str:
        """Return verdict and answer in one line."""
        verdict = self.complaint or "signature valid"
        return f"{verdict}, answered {self.status.value} {self.status.phrase}"

    def lines(self, *, whole: bool) -> list[str]:
        """Return the delivery as lines to show: one line, or the headers that matter."""
        if not whole:
            return [f"{json.loads(self.body)['type']} of invoice {self.invoice_id}, {self.id}: {self.summary()}"]
        shown = ("content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature")
        return ["POST /webhooks", *(f"{name}: {self.headers.get(name)}" for name in shown)]


class Receiver:
    """A receiver on a port of this machine, in a thread."""

    def __init__(self, port: int) -> None:
        """Take the port where it listens."""
        self.url = f"http://127.0.0.1:{port}/webhooks"
        self.secret = ""
        """The endpoint's signing secret, as the app shows it."""
        self.troubles: list[HTTPStatus] = []
        """The statuses of its next answers, in place of 204."""
        self._arrived: Queue[Arrival] = Queue()

    def next_arrival(self, seconds: float) -> Arrival | None:
        """Wait for a delivery, at most these seconds; return None if none comes."""
        try:
            return self._arrived.get(timeout=seconds)
        except Empty:
            return None

    def receive(self, headers: dict[str, str], body: bytes) -> HTTPStatus:
        """Verify a delivery; return the status to answer."""
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
    """Receive for as long as the context lasts; yield the receiver."""

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
