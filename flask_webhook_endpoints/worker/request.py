"""The request of an attempt: where it goes, and its bytes.

Source: RFC 9112 sections 3 (request line) and 5 (headers); RFC 9110 section 5.5 (values of headers).
"""

import asyncio
import re
from functools import lru_cache

import aiohttp
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from flask_webhook_endpoints.identifiers import HEADER_NAME
from flask_webhook_endpoints.security.encryption import Headers
from flask_webhook_endpoints.security.private import PrivateURL

MAX_NAMES = 4096
"""The number of lists of header names whose check is remembered."""

# All characters but those that would end the line.
_VALUES = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_FRAMING = frozenset({"host", "content-length", "transfer-encoding"})
"""Headers that decide where a request goes and ends: `Target` alone writes them."""


class InvalidHeader(ValueError):
    """A header would not arrive as it is stored."""


class Target(aiohttp.ClientRequest):
    """A receiver: what aiohttp has to know to connect to it, and how requests to it begin. Attempts share it."""

    def __init__(self, url: PrivateURL) -> None:
        """Take a URL that the policy allows: it has no character that would end the line."""
        super().__init__("POST", as_written(url.reveal()), loop=asyncio.get_running_loop())
        # aiohttp would make the key again for each attempt.
        self._key = super().connection_key
        self._start = f"POST {self.url.raw_path_qs} HTTP/1.1\r\nHost: {self.headers['Host']}\r\n".encode()

    @property
    def connection_key(self) -> ConnectionKey:
        """The key of the receiver's idle connections."""
        return self._key

    def write(self, transport: asyncio.WriteTransport, headers: Headers, body: bytes) -> None:
        """Write a request in one piece, its headers in Latin-1, as receivers read them."""
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        if not _have_accept(tuple(headers)):
            lines.append("Accept: */*\r\n")
        head = b"%b%bContent-Length: %d\r\n\r\n" % (self._start, "".join(lines).encode("latin-1"), len(body))
        # One write is one record of TLS. Of two, a receiver that reads once and closes would reset the connection.
        transport.write(head + body)


def as_written(url: str) -> URL:
    """Return a URL whose path and query are sent as the tenant wrote them."""
    written = URL(url, encoded=True)
    if url.endswith("?") and not written.raw_query_string:
        # yarl drops a question mark that nothing follows, unless it is part of the path.
        return written.with_path(f"{written.raw_path}?", encoded=True)
    return written


def check_headers(headers: Headers) -> None:
    """Raise `InvalidHeader` if a header would not arrive as it is stored."""
    values = "".join([value for _, value in headers.items()])
    # Nearly all values are plain ASCII, which is quicker to check.
    are_values = (values.isascii() and values.isprintable()) or _VALUES.fullmatch(values)
    if not (are_values and _are_names(tuple(headers))):
        raise InvalidHeader


# The same few names again and again.
@lru_cache(maxsize=MAX_NAMES)
def _are_names(names: tuple[str, ...]) -> bool:
    return all(map(HEADER_NAME.fullmatch, names)) and _FRAMING.isdisjoint(map(str.lower, names))


@lru_cache(maxsize=MAX_NAMES)
def _have_accept(names: tuple[str, ...]) -> bool:
    return any(name.lower() == "accept" for name in names)
