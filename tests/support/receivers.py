"""Receivers for the sender's tests: raw TCP servers on loopback, in a thread of their own, as ill-behaved as asked."""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.waiting import PATIENCE_SECONDS

OK_HEAD = b"HTTP/1.1 200 OK\r\n"

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Writes one answer; the connection stays open for the next request unless it closes it."""


@dataclass
class Receiver:
    """One listening server, and what came to it."""

    answer: Answer
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, EOFError, ssl.SSLError, asyncio.CancelledError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ]
                self.requests.append(head + await reader.readexactly(max(lengths, default=0)))
                await self.answer(writer)
        writer.transport.abort()


class Receivers:
    """The thread that serves them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="receivers")
        self._thread.start()

    def start(
        self, answer: Answer, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> Receiver:
        receiver = Receiver(answer)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await receiver.serve(reader, writer)

        async def start() -> None:
            server = await asyncio.start_server(serve, host, port, ssl=tls, backlog=1000)
            self._servers.append(server)
            receiver.port = server.sockets[0].getsockname()[1]

        self._run(start())
        return receiver

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        # Connections that were accepted last begin their tasks, and aborted transports close, in the loop's next turns.
        for _ in range(3):
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.01)

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)


def say(*parts: bytes) -> Answer:
    """Answer with these bytes, and keep the connection open."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        await writer.drain()

    return answer


def ok(body: bytes = b"", *headers: bytes) -> Answer:
    head = b"\r\n".join((OK_HEAD + b"Content-Length: %d" % len(body), *headers))
    return say(head, b"\r\n\r\n", body)


def then_close(first: Answer) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await first(writer)
        writer.close()

    return answer


def then_reset(first: Answer) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await first(writer)
        # A linger time of zero makes the kernel send RST.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return answer


def then_half_close(first: Answer) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await first(writer)
        writer.write_eof()
        await asyncio.sleep(60)

    return answer


def then_hang(first: Answer) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await first(writer)
        await asyncio.sleep(60)

    return answer


def endless(start: bytes, chunk: bytes, *, pause: float = 0) -> Answer:
    """Answer with `start`, then `chunk` over and over."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer
