"""The life of a webhook endpoint, walked over real HTTP against the example app: `make demo`."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

ACME, GLOBEX = "demo-acme", "demo-globex"

NEW_ENDPOINT = {
    "name": "my-webhook",
    "url": "https://example.com/webhook",
    "secret": "whsec_your_signing_secret",
    "headers_json": {},
    "timeout_seconds": 10,
}

_START_SECONDS = 30
_ANSWER_SECONDS = 10
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_BOLD, _RED, _GREEN, _YELLOW, _CYAN = 1, 31, 32, 33, 36


class WrongStep(Exception):
    """Something did not go as the demo says it must."""


def main() -> int:
    """Serve the example app, walk, stop it; return the exit status."""
    # Who ends us with a signal must not leave the server behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with TemporaryDirectory(prefix="webhooks-demo-") as folder:
            return _main(Path(folder))
    except KeyboardInterrupt:
        _say("\nInterrupted; the server is stopped.", stream=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone, as `head` does; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _main(folder: Path) -> int:
    log = folder / "server.log"
    try:
        with example_app(f"sqlite:///{folder}/demo.db", log) as port:
            walk = Walk(port)
            walk.through()
    except WrongStep as wrong:
        _say(f"FAILED: {wrong}", _RED, sys.stderr)
        _say(f"The server's log:\n{re.sub(_COLOURS, '', log.read_text()).rstrip()}", stream=sys.stderr)
        return 1
    _say(f"All {walk.steps} steps went as they must. The server is stopped; `make run` starts one that stays.", _GREEN)
    return 0


@contextmanager
def example_app(database_url: str, log: Path) -> Iterator[int]:
    """Serve the example app meanwhile, with a database of its own; yield the port."""
    command = [sys.executable, "-m", "flask", "--app", "example_app", "run", "--host", "127.0.0.1", "--port", "0"]
    own = {"DATABASE_URL": database_url, "SECRET_KEY": secrets.token_hex(), "FLASK_DEBUG": "0"}
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=os.environ | own, stdout=output, stderr=output)  # noqa: S603 - no input
    try:
        yield _port(server, log)
    finally:
        server.terminate()
        server.wait()


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    """Return the port that the system chose, once the server listens on it."""
    deadline = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        if listening := re.search(r"Running on http://127\.0\.0\.1:(\d+)\s", log.read_text()):
            return int(listening[1])
        time.sleep(0.02)
    raise WrongStep("the example app did not start.")


class Walk:
    """A client of the example app, which shows each request and its answer."""

    def __init__(self, port: int) -> None:
        """Take the port on this machine where the example app listens."""
        self.steps = 0
        self._port = port

    def through(self) -> None:
        """Go through the whole life of an endpoint; raise `WrongStep` where an answer is not what it must be."""
        _say("Webhook endpoints of a Flask app, in its own database and behind its own login.", _BOLD)
        _say(f"The example app is up at http://127.0.0.1:{self._port}; this is what its customers can do there.\n")
        path = self.register()
        self.find_again(path)
        self.change(path)
        self.refuse()
        self.keep_tenants_apart(path)
        self.delete(path)

    def register(self) -> str:
        """Register the endpoint; return its path."""
        headline = "Acme, a customer, registers the URL where it wants to receive webhooks."
        endpoint = self.ask(headline, "POST", "/v1/endpoints", NEW_ENDPOINT, status=201)
        sent = {name: value for name, value in NEW_ENDPOINT.items() if name != "secret"}
        self.expect("the endpoint as it was sent, active", endpoint, sent | {"status": "ACTIVE", "paused_at": None})
        self.expect("no secret", endpoint.get("secret"), None)
        return f"/v1/endpoints/{endpoint.get('id')}"

    def find_again(self, path: str) -> None:
        """List all endpoints and read the one."""
        listed = self.ask("Acme lists its endpoints; their secrets are not shown.", "GET", "/v1/endpoints")
        endpoint = self.ask("Acme reads one of them.", "GET", path)
        self.expect("what the list showed", listed, [endpoint])

    def change(self, path: str) -> None:
        """Rename and pause, then resume."""
        paused = {"name": "updated-name", "status": "PAUSED"}
        endpoint = self.ask("Acme renames it, and pauses it while its server is repaired.", "PATCH", path, paused)
        self.expect("the new name and status", endpoint, paused)
        self.expect("the time of the pause", endpoint.get("paused_at"), endpoint.get("updated_at"))
        resumed = {"status": "ACTIVE"}
        endpoint = self.ask("Acme resumes it.", "PATCH", path, resumed)
        self.expect("an active endpoint with the new name", endpoint, paused | resumed | {"paused_at": None})

    def refuse(self) -> None:
        """Send what must be refused."""
        headline = "A URL that leads into the app's own network and a word for a number are refused, field by field."
        bad = {"name": "bad", "url": "http://169.254.169.254/latest", "timeout_seconds": "soon"}
        problem = self.ask(headline, "POST", "/v1/endpoints", bad, status=422)
        self.expect("the names of the bad fields", sorted(problem.get("errors", {})), ["timeout_seconds", "url"])
        headline = "A wrong API key is turned away by the app's own login."
        self.ask(headline, "GET", "/v1/endpoints", key="wrong-key", status=401)

    def keep_tenants_apart(self, path: str) -> None:
        """Look for the endpoint as another tenant."""
        listed = self.ask("Globex, another customer, sees no endpoint of Acme's.", "GET", "/v1/endpoints", key=GLOBEX)
        self.expect("an empty list", listed, [])
        self.ask("To know the id does not help Globex either.", "GET", path, key=GLOBEX, status=404)

    def delete(self, path: str) -> None:
        """Delete the endpoint."""
        self.ask("Acme deletes the endpoint.", "DELETE", path, status=204)
        self.ask("It is gone for good.", "GET", path, status=404)

    def ask(
        self, headline: str, method: str, path: str, body: Any = None, *, key: str = ACME, status: int = 200
    ) -> Any:
        """Send a request and return the answer's JSON; raise `WrongStep` if the status is another."""
        self.steps += 1
        headers = {"Authorization": f"Bearer {key}"} | ({} if body is None else {"Content-Type": "application/json"})
        _say(f"{self.steps:2}. {headline}", _BOLD)
        _show(">", [f"{method} {path}", *map(": ".join, headers.items())], body, _CYAN)
        answered, shown = self._send(method, path, headers, body)
        colour = _GREEN if answered < HTTPStatus.BAD_REQUEST else _YELLOW
        _show("<", [f"{answered} {HTTPStatus(answered).phrase}"], shown, colour)
        _say("")
        self.expect("status", answered, status)
        return shown

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


def _show(sign: str, lines: list[str], body: Any, colour: int) -> None:
    if body is not None:
        lines = [*lines, *json.dumps(body, indent=2).splitlines()]
    for line in lines:
        _say(f"    {sign} {line}", colour)


def _say(text: str, colour: int = 0, stream: TextIO = sys.stdout) -> None:
    if colour and stream.isatty() and not os.environ.get("NO_COLOR"):
        text = f"\x1b[{colour}m{text}\x1b[0m"
    print(text, file=stream, flush=True)


if __name__ == "__main__":
    sys.exit(main())
