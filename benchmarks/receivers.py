"""Receivers that answer 204, in a process of their own: nginx, or ours if nginx is missing.

Ours also answers slowly or not at all, and tells when deliveries arrived.
"""

import asyncio
import json
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

from benchmarks import cores, processes

_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 60s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 204; }} }}
}}
"""


@dataclass(frozen=True)
class Receiver:
    """A receiver that is running."""

    name: str
    url: str
    pid: int

    def cpu(self) -> float:
        """Return the seconds of CPU that its processes have used so far."""
        return processes.cpu_seconds([self.pid, *processes.children(self.pid)])

    def arrivals(self) -> dict[str, float]:
        """Return when each delivery to /timed… came first, by `<webhook-id> <path>`, by the monotonic clock."""
        with urlopen(f"{self.url}timed") as answer:  # noqa: S310 - ours
            return dict(json.load(answer))


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Start a receiver that answers at once."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        with slow_receiver(0) as ours:
            yield ours
        return
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        (Path(folder) / "conf").write_text(_NGINX.format(folder=folder, port=port))
        with cores.others():
            process = subprocess.Popen([nginx, "-p", folder, "-e", "stderr", "-c", f"{folder}/conf"])  # noqa: S603 - ours
        try:
            _wait_for(port)
            yield Receiver("nginx", f"http://127.0.0.1:{port}/", process.pid)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def slow_receiver(seconds: float) -> Iterator[Receiver]:
    """Start a receiver that answers after these seconds. A POST to /hang… gets no answer."""
    port = _free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(port, seconds), daemon=True)
    with cores.others():
        process.start()
    try:
        _wait_for(port)
        yield Receiver("asyncio", f"http://127.0.0.1:{port}/", process.pid or 0)
    finally:
        process.terminate()
        process.join()


class _Protocol(asyncio.Protocol):
    seconds = 0.0
    arrived: ClassVar[dict[str, float]] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if found and len(body) >= _length(head):
            self.buffer = b""
            if head.startswith(b"POST /hang"):
                return
            if head.startswith(b"POST /timed"):
                path = head.split(b" ", 2)[1]
                self.arrived.setdefault(f"{_header(head, b'webhook-id').decode()} {path.decode()}", time.monotonic())
            if head.startswith(b"GET "):
                self.tell()
            elif self.seconds:
                asyncio.get_running_loop().call_later(self.seconds, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    def tell(self) -> None:
        body = json.dumps(self.arrived).encode()
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
        )


def _length(head: bytes) -> int:
    return int(_header(head, b"content-length") or 0)


def _header(head: bytes, name: bytes) -> bytes:
    _, _, after = head.lower().partition(b"\r\n%b:" % name)
    return after.split(b"\r\n", 1)[0].strip()


def _serve(port: int, seconds: float) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def serve() -> None:
        _Protocol.seconds = seconds
        server = await asyncio.get_running_loop().create_server(_Protocol, "127.0.0.1", port, backlog=4096)
        await server.serve_forever()

    asyncio.run(serve())


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(port: int) -> None:
    give_up_at = time.monotonic() + 10
    while time.monotonic() < give_up_at:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("The receiver did not start.")
