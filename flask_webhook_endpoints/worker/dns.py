"""Lookups of names in threads of their own: a dead name server delays neither other work nor the exit."""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

MAX_ADDRESSES = 8
"""Addresses of one name that are tried, so that a name with thousands can't keep the process busy."""

MAX_ABANDONED_LOOKUPS = 1000
"""Lookups that may go on after their attempts have ended; with more, the process looks up no name."""

_Found = list[tuple[Any, ...]]


class Resolver(AbstractResolver):
    """Looks each name up in a thread of its own."""

    def __init__(self, *, concurrency: int) -> None:
        """Allow for `concurrency` attempts that wait for a lookup each."""
        self._places = threading.Semaphore(concurrency + MAX_ABANDONED_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the first addresses of a name; raise `OSError` if it has none."""
        # As bytes, because Python's own codec for host names raises errors that are not OSErrors.
        look_up = partial(socket.getaddrinfo, host.encode("ascii"), port, family, socket.SOCK_STREAM)
        found = await self._in_thread(look_up)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "No address")
        addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for family, address in addresses[:MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        """Do nothing: lookups that hang end by themselves."""

    async def _in_thread(self, look_up: Callable[[], _Found]) -> _Found:
        if not self._places.acquire(blocking=False):
            raise socket.gaierror(socket.EAI_AGAIN, "Too many lookups")
        found: Future[_Found] = Future()
        # An attempt that ends can't cancel the lookup, so that the thread may always set a result.
        found.set_running_or_notify_cancel()
        # A daemon thread, because Python waits for the threads of its executors before it exits.
        threading.Thread(target=self._look_up, args=(look_up, found), name="webhooks-dns", daemon=True).start()
        return await asyncio.wrap_future(found)

    def _look_up(self, look_up: Callable[[], _Found], found: Future[_Found]) -> None:
        try:
            found.set_result(look_up())
        except Exception as error:
            found.set_exception(error)
        finally:
            self._places.release()
