"""Receivers that answer 204, in a process of their own: nginx, or ours if nginx is missing or answers must be slow."""

import asyncio
import multiprocessing
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import cores

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


@contextmanager
def receiver() -> Iterator[tuple[str, str]]:
    """Start a receiver that answers at once; yield its name and its URL."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        with slow_receiver(0) as url:
            yield "asyncio", url
        return
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        (Path(folder) / "conf").write_text(_NGINX.format(folder=folder, port=port))
        with cores.others():
            process = subprocess.Popen([nginx, "-p", folder, "-e", "stderr", "-c", f"{folder}/conf"])  # noqa: S603 - ours
        try:
            _wait_for(port)
            yield "nginx", f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def slow_receiver(seconds: float) -> Iterator[str]:
    """Start a receiver that answers after these seconds; yield its URL. A POST to /hang gets no answer."""
    port = _free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(port, seconds), daemon=True)
    with cores.others():
        process.start()
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.join()


class _Protocol(asyncio.Protocol):
    seconds = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if found and len(body) >= _length(head):
            self.buffer = b""
            if head.startswith(b"POST /hang"):
                return
            if self.seconds:
                asyncio.get_running_loop().call_later(self.seconds, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


def _length(head: bytes) -> int:
    _, _, after = head.lower().partition(b"\r\ncontent-length:")
    return int(after.split(b"\r\n", 1)[0])


def _serve(port: int, seconds: float) -> None:
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
