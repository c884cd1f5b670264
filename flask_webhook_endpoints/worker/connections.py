"""The connections of a sender: checked at the socket, counted, at most two addresses of a name tried at once.

The names with an underscore are aiohttp's; `check_aiohttp` looks for them at start.
"""

import asyncio
import errno
import select
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from operator import itemgetter
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_writer import StreamWriter

from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.worker.answers import AnswerReader
from flask_webhook_endpoints.worker.descriptors import ADDRESSES_AT_ONCE
from flask_webhook_endpoints.worker.dns import Asking, asking
from flask_webhook_endpoints.worker.shortage import cause_of

CONNECT_SECONDS = 1.5
"""Seconds that two addresses have to accept a connection while others of the name are left."""


class RefusedAddress(OSError):
    """The policy does not allow an address; an OSError, so that aiohttp tries the next address of the name."""


class Connector(aiohttp.TCPConnector):
    """A pool of connections with a bound on its sockets, idle ones included."""

    def __init__(self, policy: EgressPolicy | None, *, max_sockets: int, **options: Any) -> None:
        """Check each address against the policy, unless there is none."""
        super().__init__(socket_factory=self._open_socket, **options)
        self._policy = policy
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
        except OSError as error:
            attempt.shortage = cause_of(error)
            raise
        opened.attempt, opened.closed = attempt, self._closed_socket
        self._sockets += 1
        return opened

    def _closed_socket(self) -> None:
        self._sockets -= 1

    def _close_idle(self) -> None:
        """Close the idle connections of one host, the one that has been idle for long among the first."""
        with suppress(StopIteration):
            for connection, _ in self._conns.pop(next(iter(self._conns))):
                connection.close()

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
            if not _has_unread(connection.transport):
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
    """A socket that tells when it is closed, and when the machine has no port left to connect from."""

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
    """Tell whether this machine has an address to reach another one from, because the errno without one is the same."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
    except OSError:
        return False
    return True


def _has_unread(transport: asyncio.Transport | None) -> bool:
    if transport is None or (descriptor := transport.get_extra_info("socket")) is None:
        return True
    if (number := descriptor.fileno()) < 0:
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def check_aiohttp() -> None:
    """Raise `RuntimeError` if aiohttp lacks something private that this package needs."""
    connector = aiohttp.TCPConnector
    private = ("_get", "_wrap_create_connection", "_create_direct_connection")
    if not all(map(partial(hasattr, connector), private)) or (
        "_headers_buf" not in StreamWriter.__init__.__code__.co_names
    ):
        raise RuntimeError(
            f"aiohttp {aiohttp.__version__} is not one that this version can send with: install aiohttp>=3.13.4,<3.15."
        )
