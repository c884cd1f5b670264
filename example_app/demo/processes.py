"""The example app of the demo: server and worker, with a database of their own."""

import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from example_app import processes
from example_app.demo.conversation import PATIENCE_SECONDS, WrongStep

_SETTINGS = {
    # By default the second attempt comes after 5 seconds, and the tenth after 24 hours.
    "FLASK_WEBHOOK_ENDPOINTS_RETRY_SCHEDULE": "[0, 1, 1, 1]",
    # One delivery at a time, so that their order shows.
    "FLASK_WEBHOOK_ENDPOINTS_MAX_IN_FLIGHT_PER_ENDPOINT": "1",
}

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
        with self._process("server", processes.server(port=0)) as server:
            port = self._port(server)
            with self._process("worker", processes.worker()):
                yield port

    def log(self, name: str) -> str:
        """Return the log of a process."""
        path = self._path(name)
        return re.sub(_COLOURS, "", path.read_text()).rstrip() if path.exists() else ""

    @contextmanager
    def _process(self, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        with self._path(name).open("wb") as output, processes.running(command, self._environment, output) as process:
            yield process

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
