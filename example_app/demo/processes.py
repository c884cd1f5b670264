"""The example app's two processes, as an operator would start them: the server and the worker."""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from example_app.demo.conversation import PATIENCE_SECONDS, WrongStep

_FLASK = [sys.executable, "-m", "flask", "--app", "example_app"]
_SERVER = [*_FLASK, "run", "--host", "127.0.0.1", "--port", "0"]
_WORKER = [*_FLASK, "webhooks", "worker"]

_SETTINGS = {
    # By default the second attempt comes after 5 seconds, and the tenth after 24 hours.
    "FLASK_WEBHOOK_ENDPOINTS_RETRY_SCHEDULE": "[0, 1, 1, 1]",
    # One delivery at a time, so that their order shows.
    "FLASK_WEBHOOK_ENDPOINTS_MAX_IN_FLIGHT_PER_ENDPOINT": "1",
}

_STOP_SECONDS = 10
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ExampleApp:
    """The example app with a database of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        """Take an empty folder, for the database and the logs."""
        self._folder = folder
        own = {"DATABASE_URL": f"sqlite:///{folder}/demo.db", "SECRET_KEY": secrets.token_hex(), "FLASK_DEBUG": "0"}
        self._environment = os.environ | _SETTINGS | own

    @contextmanager
    def running(self) -> Iterator[int]:
        """Run server and worker for as long as the context lasts; yield the server's port."""
        with self._process("server", _SERVER) as server:
            port = self._port(server)
            with self._process("worker", _WORKER):
                yield port

    def log(self, name: str) -> str:
        """Return the log of a process."""
        path = self._path(name)
        return re.sub(_COLOURS, "", path.read_text()).rstrip() if path.exists() else ""

    @contextmanager
    def _process(self, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        process = None
        try:
            with self._path(name).open("wb") as output, _uninterrupted():
                process = subprocess.Popen(command, env=self._environment, stdout=output, stderr=output)  # noqa: S603 - no input
            yield process
        finally:
            if process is not None:
                _end(process)

    def _port(self, server: subprocess.Popen[bytes]) -> int:
        """Return the port that the system chose, once the server listens on it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while server.poll() is None and time.monotonic() < deadline:
            if listening := re.search(r"Running on http://127\.0\.0\.1:(\d+)\s", self.log("server")):
                return int(listening[1])
            time.sleep(0.02)
        raise WrongStep("the example app did not start.")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defer SIGINT and SIGTERM, because a process that is being started can't be stopped yet."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
