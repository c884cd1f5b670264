"""The connections of a sender: checked at the socket, counted, with two addresses of a name at once.

With an egress proxy, each connection is a tunnel through it, for http as well as for https: so no answer of the proxy
can be taken for an answer of a receiver. Source: RFC 9110 section 9.3.6 (CONNECT).

The names with an underscore are aiohttp's; `check_aiohttp` looks for them at start.
"""

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from operator import itemgetter
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.worker.answers import AnswerReader
from flask_webhook_endpoints.worker.descriptors import ADDRESSES_AT_ONCE
from flask_webhook_endpoints.worker.shortage import cause_of

CONNECT_SECONDS = 1.5
"""Seconds that two addresses have to accept a connection while others of the name are left."""


_SUCCESSES = range(200, 300)


@dataclass(slots=True)
class Asking:
    """The attempt that asks for a connection. All tasks that it starts see the same object."""

    shortage: str | None = None
    """The last thing that the worker lacked for this attempt."""


asking: ContextVar[Asking] = ContextVar("asking")


class RefusedAddress(OSError):
    """The policy does not allow an address; an OSError, so that aiohttp tries the next address of the name."""


class ProxyFailed(Exception):
    """The egress proxy can't be reached, or opened no tunnel. The message is for the log of the host alone."""


class Connector(aiohttp.TCPConnector):
    """A pool of connections with a bound on its sockets, idle ones included."""

    def __init__(self, policy: EgressPolicy, *, proxy: str | None, max_sockets: int, **options: Any) -> None:
        """Check each address against the policy; an egress proxy, if given, checks in its place."""
        super().__init__(socket_factory=self._open_socket, **options)
        # Through a proxy, the proxy's own address is the only one that is connected to.
        self._policy = policy if proxy is None else None
        self._proxy = None if proxy is None else URL(proxy)
        self._max_sockets = max_sockets
        self._sockets = 0
        self._factory = partial(AnswerReader, loop=self._loop)  # type: ignore[assignment]

    def _open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if self._policy is not None and not self._policy.allows(ip_address(address[0])):
            raise RefusedAddress
        if self._sockets >= self._max_sockets:
            self._close_idle()
        attempt = asking.get()
        try:
            opened = _Socket(family, kind, protocol)
        except (OSError, MemoryError) as raised:
            # aiohttp tries several addresses at once, and loses track of an error that is no OSError.
            error = raised if isinstance(raised, OSError) else OSError(errno.ENOMEM, "out of memory")
            attempt.shortage = cause_of(error)
            raise error from None
        opened.attempt, opened.closed = attempt, self._closed_socket
        self._sockets += 1
        return opened

    def _closed_socket(self) -> None:
        self._sockets -= 1

    def _close_idle(self) -> None:
        """Close the idle connections of the host that has had some for the longest time."""
        with suppress(StopIteration):
            for connection, _ in self._conns.pop(next(iter(self._conns))):
                connection.close()

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        # aiohttp's own way through a proxy has no tunnel for http.
        if self._proxy is None:
            return await super()._create_connection(req, traces, timeout)
        transport = await self._open_tunnel(self._proxy, req.url, timeout)
        if req.is_ssl():
            _, reader = await self._start_tls_connection(transport, req=req, timeout=timeout)
            return reader
        reader = self._factory()
        transport.set_protocol(reader)
        reader.connection_made(transport)
        return reader

    async def _open_tunnel(self, proxy: URL, url: URL, timeout: aiohttp.ClientTimeout) -> asyncio.Transport:
        """Return a connection to the host of a URL, which the proxy has made. Raise `ProxyFailed` if it has not."""
        to_proxy = aiohttp.ClientRequest("GET", proxy, loop=self._loop)
        host = f"{url.host_subcomponent}:{url.port}"
        lines = [f"CONNECT {host} HTTP/1.1", f"Host: {host}"]
        if (password := to_proxy.headers.get("Authorization")) is not None:
            lines.append(f"Proxy-Authorization: {password}")
        transport = None
        try:
            transport, reader = await self._create_direct_connection(to_proxy, [], timeout)
            transport.write("\r\n".join((*lines, "\r\n")).encode("ascii"))
            reader.set_response_params(read_until_eof=True)
            answer, _ = await reader.read()
        except BaseException as error:
            if transport is not None:
                transport.abort()
            if isinstance(error, Exception):
                raise ProxyFailed(f"{type(error).__name__}: {error}") from error
            raise
        if answer.code not in _SUCCESSES:
            transport.abort()
            raise ProxyFailed(f"The proxy answered {answer.code} to CONNECT.")
        return transport

    async def _wrap_create_connection(self, *args: Any, addr_infos: list[Any], **options: Any) -> Any:
        connect = super()._wrap_create_connection
        if len(addr_infos) <= ADDRESSES_AT_ONCE:
            return await connect(*args, addr_infos=addr_infos, **options)
        few, make, rest = _take_few(addr_infos), cast(Callable[[], ResponseHandler], args[0]), args[1:]
        async with asyncio.timeout(CONNECT_SECONDS) as limit:

            def connected() -> ResponseHandler:
                # A TLS handshake, which comes after this, has all the time of the attempt.
                limit.reschedule(None)
                return make()

            return await connect(connected, *rest, addr_infos=few, **options)

    async def _get(self, key: Any, traces: Any) -> Any:
        """Return an idle connection on which nothing has come unasked, or None."""
        while (connection := await super()._get(key, traces)) is not None:
            if not cast(AnswerReader, connection.protocol).has_unread():
                return connection
            connection.close()
        return None


def _take_few(addresses: list[Any]) -> list[Any]:
    """Return the first addresses, of both families if there are two, and prepare the list for the next call.

    aiohttp then takes the first one of each family off the list, and calls again.
    """
    seen: Counter[int] = Counter()
    turns = []
    for address in addresses:
        turns.append((seen[address[0]], address))
        seen[address[0]] += 1
    addresses[:] = [address for _, address in sorted(turns, key=itemgetter(0))]
    few = addresses[:ADDRESSES_AT_ONCE]
    if len({address[0] for address in few}) == 1:
        del addresses[1:ADDRESSES_AT_ONCE]
    return few


class _Socket(socket.socket):
    """A socket that counts itself off when it is closed, and notes what the worker lacked to connect."""

    attempt: Asking
    closed: Callable[[], None] | None

    def connect(self, address: Any) -> None:
        try:
            super().connect(address)
        except OSError as error:
            if (cause := cause_of(error)) is not None:
                self.attempt.shortage = cause
            elif error.errno == errno.EADDRNOTAVAIL and _is_routed(self.family, address):
                self.attempt.shortage = "no port left to connect from"
            raise

    def close(self) -> None:
        super().close()
        if (closed := self.closed) is not None:
            self.closed = None
            closed()


def _is_routed(family: int, address: Any) -> bool:
    """Return whether this machine has a route to an address. Without one, `connect` fails with the same errno."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
    except OSError:
        return False
    return True


def check_aiohttp() -> None:
    """Raise `RuntimeError` if aiohttp lacks something private that this package needs."""
    connector = aiohttp.TCPConnector
    private = (
        *("_get", "_wrap_create_connection", "_create_connection"),
        *("_create_direct_connection", "_start_tls_connection"),
    )
    if not all(map(partial(hasattr, connector), private)):
        raise RuntimeError(
            f"aiohttp {aiohttp.__version__} is not one that this version can send with: install aiohttp>=3.13.4,<3.15."
        )
