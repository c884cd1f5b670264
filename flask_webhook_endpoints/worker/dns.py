"""Lookups of names in threads of their own: a dead name server delays neither other work nor the exit."""

import asyncio
import socket
import threading
from concurrent.futures import Future
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

MAX_ADDRESSES = 8
"""Addresses of one name that are tried, so that a name with thousands can't keep the process busy."""

MAX_ABANDONED_LOOKUPS = 1000
"""Lookups that may go on after their attempts have ended; with more, the process looks up no name."""


class Resolver(AbstractResolver):
    """Looks each name up in a thread of its own."""

    def __init__(self, *, concurrency: int) -> None:
        """Allow for `concurrency` attempts that wait for a lookup each."""
        self._places = threading.Semaphore(concurrency + MAX_ABANDONED_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the first addresses of a name; raise `OSError` if it has none."""
        found = await self._in_thread(host, port, family)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "No address")
        addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for family, address in addresses[:MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        """Do nothing: lookups that hang end by themselves."""

    async def _in_thread(self, host: str, port: int, family: socket.AddressFamily) -> list[tuple[Any, ...]]:
        if not self._places.acquire(blocking=False):
            raise socket.gaierror(socket.EAI_AGAIN, "Too many lookups")
        found: Future[list[tuple[Any, ...]]] = Future()
        # An attempt that ends can't cancel the lookup, so that the thread may always set a result.
        found.set_running_or_notify_cancel()

        def look_up() -> None:
            try:
                # As bytes, because Python's own codec for host names raises errors that are not OSErrors.
                found.set_result(socket.getaddrinfo(host.encode("ascii"), port, family, socket.SOCK_STREAM))
            except Exception as error:
                found.set_exception(error)
            finally:
                self._places.release()

        # A daemon thread, because Python waits for the threads of its executors before it exits.
        threading.Thread(target=look_up, name="webhooks-dns", daemon=True).start()
        return await asyncio.wrap_future(found)
