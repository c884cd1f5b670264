"""Lookups of names in threads of their own: a dead name server delays neither other work nor the exit."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from flask_webhook_endpoints.worker.descriptors import MAX_LOOKUPS
from flask_webhook_endpoints.worker.shortage import Shortage

MAX_ADDRESSES = 8
"""Addresses of one name that are tried, so that a name with thousands can't keep the process busy."""

MAX_LOOKUPS_PER_TENANT = 16
"""Lookups of one tenant at once; it gets fewer if fewer places than that are free."""

_Found = list[tuple[Any, ...]]


@dataclass(slots=True)
class Asking:
    """The attempt that asks for a name or a connection: all that it starts sees the same object."""

    tenant_id: str
    deadline: float
    """The end of the attempt, in the event loop's time."""
    shortage: str | None = None
    """The last thing that the worker lacked for this attempt."""
    is_ascii: bool = True
    """False if a header of the request has a character outside ASCII."""


asking: ContextVar[Asking] = ContextVar("asking")


class Resolver(AbstractResolver):
    """Looks names up in a few threads; no tenant's names can take all of them."""

    def __init__(self) -> None:
        """Begin without lookups; the resolver belongs to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._taken: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the first addresses of a name; raise `OSError` if it has none, `Shortage` if it can't be asked for."""
        # As bytes, because Python's own codec for host names raises errors that are not OSErrors.
        look_up = partial(socket.getaddrinfo, host.encode("ascii"), port, family, socket.SOCK_STREAM)
        attempt = asking.get()
        await self._take_place(attempt)
        found = await self._in_thread(look_up, attempt.tenant_id)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "No address")
        addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for family, address in addresses[:MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        """Do nothing: lookups that hang end by themselves."""

    async def _take_place(self, attempt: Asking) -> None:
        """Wait for a place until the attempt's deadline."""
        if self._has_place(attempt.tenant_id):
            self._taken[attempt.tenant_id] += 1
            return
        attempt.shortage = "no place among the lookups"
        place: asyncio.Future[None] = self._loop.create_future()
        self._waiting[place] = attempt.tenant_id
        try:
            async with asyncio.timeout_at(attempt.deadline):
                await place
        except TimeoutError:
            if place.cancelled() or not place.done():
                raise Shortage(attempt.shortage) from None
        finally:
            self._waiting.pop(place, None)
        attempt.shortage = None

    def _has_place(self, tenant_id: str) -> bool:
        # The more places are taken, the fewer one tenant may have: the last ones are for tenants that have none.
        taken = self._taken[tenant_id]
        return taken < min(MAX_LOOKUPS_PER_TENANT, MAX_LOOKUPS - self._taken.total())

    def _free_place(self, tenant_id: str) -> None:
        self._taken[tenant_id] -= 1
        if not self._taken[tenant_id]:
            del self._taken[tenant_id]
        for place, waiting in list(self._waiting.items()):
            if not place.done() and self._has_place(waiting):
                self._taken[waiting] += 1
                del self._waiting[place]
                place.set_result(None)

    async def _in_thread(self, look_up: Callable[[], _Found], tenant_id: str) -> _Found:
        found: Future[_Found] = Future()
        # An attempt that ends can't cancel the lookup, so that the thread may always set a result.
        found.set_running_or_notify_cancel()
        ended = partial(self._free_place, tenant_id)
        # A daemon thread, because Python waits for the threads of its executors before it exits.
        thread = threading.Thread(target=self._look_up, args=(look_up, found, ended), name="webhooks-dns", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self._free_place(tenant_id)
            raise Shortage(str(error) or "out of memory") from error
        return await asyncio.wrap_future(found)

    def _look_up(self, look_up: Callable[[], _Found], found: Future[_Found], ended: Callable[[], None]) -> None:
        try:
            found.set_result(look_up())
        except Exception as error:
            found.set_exception(_without_descriptors() or error)
        try:
            self._loop.call_soon_threadsafe(ended)
        except RuntimeError:
            # The loop is closed: nobody needs the place.
            return


def _without_descriptors() -> OSError | None:
    """Return the error if no socket can be opened, because the system's resolver then says anything."""
    try:
        socket.socket().close()
    except OSError as error:
        return error
    return None
