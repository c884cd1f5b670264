"""Serve an application on loopback, in a thread of the test or by a process of its own."""

import re
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import waitress.server
from werkzeug.serving import make_server

from tests.support.waiting import wait_until


@contextmanager
def served(app: Callable[..., Any]) -> Iterator[int]:
    """Serve an application by Werkzeug; yield the port."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def served_by_waitress(app: Callable[..., Any]) -> Iterator[int]:
    """Serve an application by Waitress, as a host in production is served; yield the port."""
    server = waitress.server.create_server(app, host="127.0.0.1", port=0, asyncore_loop_timeout=0.05)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.effective_port
    finally:
        # Its loop ends when there is nothing left to look at, and only its own thread may close that.
        server.trigger.pull_trigger(lambda: server.asyncore.close_all(server._map, ignore_all=True))
        thread.join()
        server.task_dispatcher.shutdown()


def port_of(server: subprocess.Popen[bytes], log: Path) -> int:
    """Return the port that a process says in its log that it listens on."""
    listening = re.compile(r"http://127\.0\.0\.1:(\d+)\s")

    def is_decided() -> bool:
        return server.poll() is not None or listening.search(log.read_text()) is not None

    wait_until(is_decided)
    found = listening.search(log.read_text())
    assert found is not None, log.read_text()
    return int(found[1])


def free_port() -> int:
    """Return a free port that the system gives to no socket that asks for any port, until a test's process takes it."""
    while True:
        port = secrets.choice(range(10_000, 32_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
