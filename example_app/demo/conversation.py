"""The conversation of the demo: what a customer asks, and what the answers must be."""

import json
import os
import sys
import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, TextIO

from example_app.demo.receiver import Arrival, Receiver
from example_app.demo_accounts import ACME

PATIENCE_SECONDS = 30
"""Seconds within which an expected thing must happen, also on a busy machine."""

BOLD, RED, GREEN, YELLOW, CYAN, MAGENTA = 1, 31, 32, 33, 36, 35

_ANSWER_SECONDS = 10


class WrongStep(Exception):
    """A step did not go as the demo expects."""


class Conversation:
    """The customer's side: a client of the example app, and a receiver that the app delivers to."""

    def __init__(self, port: int, receiver: Receiver) -> None:
        """Take the port on this machine where the example app listens, and the customer's receiver."""
        self.steps = 0
        self.receiver = receiver
        self._port = port

    def step(self, headline: str) -> None:
        """Begin a step."""
        self.steps += 1
        say(f"\n{self.steps:2}. {headline}", BOLD)

    def ask(self, method: str, path: str, body: Any = None, *, key: str = ACME.key, status: int = 200) -> Any:
        """Send a request, show it and its answer, return the JSON; raise `WrongStep` if the status differs."""
        headers = {"Authorization": f"Bearer {key}"} | ({} if body is None else {"Content-Type": "application/json"})
        _show(">", [f"{method} {path}", *map(": ".join, headers.items())], body, CYAN)
        answered, shown = self._send(method, path, headers, body)
        colour = GREEN if answered < HTTPStatus.BAD_REQUEST else YELLOW
        _show("<", [f"{answered} {HTTPStatus(answered).phrase}"], shown, colour)
        self.expect("status", answered, status)
        return shown

    def ask_briefly(self, method: str, path: str, body: Any = None, *, status: int = 200, show: bool = True) -> Any:
        """Do as `ask`, and show it in one line, or not at all."""
        headers = {"Authorization": f"Bearer {ACME.key}", "Content-Type": "application/json"}
        answered, found = self._send(method, path, headers, body)
        if show:
            sent = "" if body is None else f" {json.dumps(body)}"
            _show(">", [f"{method} {path}{sent} -> {answered} {HTTPStatus(answered).phrase}"], None, CYAN)
        self.expect("status", answered, status)
        return found

    def pay_new_invoice(self, customer: str) -> int:
        """Create and pay an invoice; return its id."""
        new = {"customer": customer, "amount_cents": 4200}
        invoice = self.ask_briefly("POST", "/invoices", new, status=201, show=False)
        self.ask_briefly("POST", f"/invoices/{invoice['id']}/pay")
        return int(invoice["id"])

    def arrival(self, *, whole: bool = False) -> Arrival:
        """Wait for the next delivery, show and return it; raise `WrongStep` if none comes or its signature is wrong."""
        arrived = self.receiver.next_arrival(PATIENCE_SECONDS)
        if arrived is None:
            raise WrongStep(f"step {self.steps} must bring a delivery within {PATIENCE_SECONDS} seconds.")
        _show("*", arrived.lines(whole=whole), json.loads(arrived.body) if whole else None, MAGENTA)
        if whole:
            _show("*", [arrived.summary()], None, MAGENTA)
        self.expect("a valid signature", arrived.complaint, None)
        return arrived

    def silence(self, seconds: float) -> None:
        """Raise `WrongStep` if a delivery comes within these seconds."""
        arrived = self.receiver.next_arrival(seconds)
        self.expect("no delivery", arrived and arrived.summary(), None)
        _show("*", [f"(nothing arrives for {seconds:g} s)"], None, MAGENTA)

    def until(self, path: str, **members: Any) -> None:
        """Wait until the object at `path` has these members, and show them."""
        found: dict[str, Any] = {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = self.ask_briefly("GET", path, show=False)
            if all(found.get(name) == value for name, value in members.items()):
                break
            time.sleep(0.05)
        self.expect("the end of a wait", found, members)
        _show("<", [json.dumps({name: found[name] for name in ("id", *members)})], None, GREEN)

    def expect(self, what: str, found: Any, expected: Any) -> None:
        """Raise `WrongStep` unless `found` equals `expected`, or has its members if it is an object."""
        if isinstance(expected, dict) and isinstance(found, dict):
            found = {name: value for name, value in found.items() if name in expected}
        if found != expected:
            raise WrongStep(f"step {self.steps} must give {what}: {expected!r}, not {found!r}.")

    def _send(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        except (OSError, HTTPException, ValueError) as error:
            raise WrongStep(f"step {self.steps} got no proper answer: {error!r}.") from None
        finally:
            connection.close()


def say(text: str, colour: int = 0, stream: TextIO = sys.stdout) -> None:
    """Print at once, in colour if the stream is a terminal."""
    if colour and stream.isatty() and not os.environ.get("NO_COLOR"):
        text = f"\x1b[{colour}m{text}\x1b[0m"
    print(text, file=stream, flush=True)


def _show(sign: str, lines: list[str], body: Any, colour: int) -> None:
    if body is not None:
        lines = [*lines, *json.dumps(body, indent=2).splitlines()]
    for line in lines:
        say(f"    {sign} {line}", colour)
