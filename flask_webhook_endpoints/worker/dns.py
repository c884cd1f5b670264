"""Lookups of names: c-ares asks the name servers for all attempts at once, without a thread for each."""

import socket

import aiodns
from aiodns.error import DNSError
from aiohttp.abc import AbstractResolver, ResolveResult

MAX_ADDRESSES = 8
"""Addresses of one name that are tried, so that a name with thousands can't keep the process busy."""

TRIES = 6
"""Questions to each name server. The first waits for 250 milliseconds at least, and each next one twice as long.

So a name has sixteen seconds to be found, if the attempt has.
"""


class Resolver(AbstractResolver):
    """Looks names up in the files and name servers of the system, until the attempt ends."""

    def __init__(self) -> None:
        """Read the system's configuration; the resolver belongs to the running event loop."""
        self._asking = aiodns.DNSResolver(tries=TRIES)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the first addresses of a name. Raise `OSError` if it has none, or if no socket can be opened."""
        try:
            found = await self._asking.getaddrinfo(host, port=port, family=family, type=socket.SOCK_STREAM)
        except DNSError as error:
            # Without descriptors, c-ares says that no name server can be reached.
            raise _without_descriptors() or socket.gaierror(socket.EAI_NONAME, str(error)) from None
        addresses = list(dict.fromkeys((node.family, node.addr[0].decode()) for node in found.nodes))
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "No address")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for family, address in addresses[:MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        """End all lookups."""
        await self._asking.close()


def _without_descriptors() -> OSError | None:
    """Return the error if no socket can be opened, which is then why a lookup has failed."""
    try:
        socket.socket().close()
    except OSError as error:
        return error
    return None
