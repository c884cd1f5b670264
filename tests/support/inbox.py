"""A receiver that takes thousands a second, on loopback in a thread of its own."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.waiting import PATIENCE_SECONDS


@dataclass(frozen=True)
class Arrived:
    """One request, and when it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> Any:
        return json.loads(self.body)["data"]


@dataclass(frozen=True)
class Answer:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


async def accept(arrived: Arrived) -> Answer:
    return Answer()


async def hang(arrived: Arrived) -> Answer:
    await asyncio.sleep(60)
    return Answer()


def after(seconds: float) -> Callable[[Arrived], Awaitable[Answer]]:
    async def answer(arrived: Arrived) -> Answer:
        await asyncio.sleep(seconds)
        return Answer()

    return answer


class Inbox:
    """Keeps what comes, counts what is under way, and answers as `answer` says, or what is said for the path."""

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self.answer: Callable[[Arrived], Awaitable[Answer]] = accept
        self.answers: dict[str, Callable[[Arrived], Awaitable[Answer]]] = {}
        self.most_under_way: Counter[str] = Counter()
        self._under_way: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="inbox")
        self._thread.start()
        self._server = self._run(self._start())

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{path}"

    def at(self, path: str) -> list[Arrived]:
        return [arrived for arrived in list(self.arrived) if arrived.path == path]

    def times(self) -> Counter[tuple[str, str]]:
        """Count how often each event came to each path."""
        return Counter((arrived.path, arrived.id) for arrived in list(self.arrived))

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    async def _start(self) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            with suppress(OSError, EOFError, asyncio.CancelledError):
                while True:
                    await self._exchange(reader, writer)
            writer.transport.abort()

        return await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000)

    async def _stop(self) -> None:
        self._server.close()
        # Connections that were accepted last begin their tasks, and aborted transports close, in the loop's next turns.
        for _ in range(3):
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.01)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        arrived = Arrived(request.split(" ")[1], headers, body)
        path = arrived.path
        self._under_way[path] += 1
        self.most_under_way[path] = max(self.most_under_way[path], self._under_way[path])
        self.arrived.append(arrived)
        try:
            answer = await self.answers.get(path, self.answer)(arrived)
        finally:
            self._under_way[path] -= 1
        more = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        head = f"HTTP/1.1 {answer.status} Status\r\nContent-Length: {len(answer.body)}\r\n{more}\r\n"
        writer.write(head.encode() + answer.body)
        await writer.drain()
