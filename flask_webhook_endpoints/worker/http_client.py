"""One POST to a receiver: bounded in time and size, never where the policy does not let it, never an exception.

Source: RFC 9110 and 9112 (HTTP), Standard Webhooks 1.0.0 "Security considerations" (SSRF, redirects).
"""

import asyncio
import logging
import re
import socket
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from importlib.metadata import version
from ipaddress import ip_address
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
from yarl import URL

from flask_webhook_endpoints.errors import BlockedAddress, InvalidURL
from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.worker import retry
from flask_webhook_endpoints.worker.dns import Resolver

MAX_READ_BYTES = 65_536
"""Of an answer's body; what is longer is cut off, and its connection closed."""

MAX_EXCERPT_BYTES = 1024
"""Of an answer's body that are kept."""

MAX_FIELD_BYTES = 8190
MAX_HEADERS = 128

MAX_TARGETS = 4096
"""URLs that are kept parsed."""

# Shorter than receivers keep a connection open (gunicorn: 2 s), so that none closes under a POST on its way.
_KEEPALIVE_SECONDS = 1.5

_USER_AGENT = f"flask-webhook-endpoints/{version('flask-webhook-endpoints')}"
# RFC 9110 sections 5.1 and 5.5, less what would end the line.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUES = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

log = logging.getLogger("flask_webhook_endpoints.sender")


class SendError(StrEnum):
    """Why an attempt got no answer, or none that is complete."""

    TIMEOUT = "timeout"
    """The answer was not complete by the deadline."""

    BLOCKED_ADDRESS = "blocked_address"
    """The host is, or its name leads to, an address that deliveries may not reach."""

    INVALID_URL = "invalid_url"
    """The URL breaks the rules of today, `REQUIRE_HTTPS` for one."""

    INVALID_REQUEST = "invalid_request"
    """A header can't be sent as it is stored."""

    DNS = "dns"
    """The name has no address."""

    CONNECT = "connect"
    """No address of the host took the connection."""

    CERTIFICATE = "certificate"
    """The receiver's certificate is not valid: another name, an unknown issuer, expired."""

    TLS = "tls"
    """The TLS handshake failed otherwise."""

    PROXY = "proxy"
    """The egress proxy can't be reached, or refused to connect."""

    DISCONNECTED = "disconnected"
    """The receiver closed or reset the connection before its answer was complete."""

    PROTOCOL = "protocol"
    """What came is not HTTP, or has headers beyond the limits."""

    UNREADABLE_SECRET = "unreadable_secret"  # noqa: S105 - a code
    """The key that encrypted the secret or the headers is lost."""

    UNEXPECTED = "unexpected"
    """Anything else, which the log has with its traceback."""


class Answer(NamedTuple):
    """What one POST brought."""

    status: int | None
    """Of the answer, once its headers have come; None: no answer."""

    error: SendError | None
    """None: the answer is complete, or was cut off at `MAX_READ_BYTES`."""

    duration_ms: int

    excerpt: bytes
    """The first `MAX_EXCERPT_BYTES` of the body as they came, decoded in no way."""

    retry_after_seconds: float | None
    """What the receiver asks for, beside 429 and 503 alone."""


def request_headers(
    custom: Mapping[str, str] | None,
    *,
    message_id: str,
    timestamp: int,
    signature: str,
    trace: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the headers of one attempt: the tenant's, then ours, which replace theirs in any spelling of the name."""
    ours = {
        "content-type": "application/json",
        "user-agent": _USER_AGENT,
        # Compressed answers would be kept unreadable, or grow when unpacked.
        "accept-encoding": "identity",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
        **(trace or {}),
    }
    if not custom:
        return ours
    return {name: value for name, value in custom.items() if name.lower() not in ours} | ours


def as_written(url: str) -> URL:
    """Return a URL whose path and query go out as the tenant wrote them."""
    written = URL(url, encoded=True)
    if url.endswith("?") and not written.raw_query_string:
        # yarl drops a question mark that nothing follows, unless it is part of the path.
        return written.with_path(f"{written.raw_path}?", encoded=True)
    return written


class Sender:
    """Sends POSTs, any number at once, over connections that it keeps; an async context manager, one per process."""

    def __init__(self, policy: EgressPolicy, *, proxy: str | None = None, concurrency: int) -> None:
        """Take the policy, the URL of the egress proxy that decides instead of it, and how many connections may be."""
        self._policy = policy
        self._proxy = proxy
        self._concurrency = concurrency
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        # The same few over and over, and the policy stays what it is.
        self._target = lru_cache(maxsize=MAX_TARGETS)(self._checked)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._concurrency,
                resolver=Resolver(concurrency=self._concurrency),
                # Through a proxy, the proxy's own address is the only one that is connected to.
                socket_factory=self._open_socket if self._proxy is None else None,
                ssl=self._tls,
                keepalive_timeout=_KEEPALIVE_SECONDS,
            ),
            # The deadline is ours: aiohttp's does not cover what comes before the connection.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            request_class=_Request,
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_HEADERS,
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes, timeout_seconds: float) -> Answer:
        """POST `body` and return what came of it, by the deadline, whatever happens."""
        # What has come so far, so that a deadline loses none of it.
        status: int | None = None
        retry_after_seconds: float | None = None
        excerpt = b""
        error: SendError | None = None
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout_seconds):
                target = self._target(url)
                _check_headers(headers)
                # As a payload already: aiohttp would look for the kind that fits.
                data = aiohttp.BytesPayload(body)
                response = await self._session.post(
                    target, headers=headers, data=data, allow_redirects=False, proxy=self._proxy
                )
                try:
                    status = response.status
                    if (asked := response.headers.get("Retry-After")) is not None:
                        retry_after_seconds = retry.parse_retry_after(asked, status=status, now=datetime.now(UTC))
                    content, left = response.content, MAX_READ_BYTES
                    while left and not content.at_eof() and (chunk := await content.read(left)):
                        left -= len(chunk)
                        excerpt += chunk[: MAX_EXCERPT_BYTES - len(excerpt)]
                finally:
                    # A complete answer has given its connection back already; any other ends with it.
                    if response.connection is not None:
                        response.close()
        except Exception as raised:
            error = _error_of(raised)
            if error is SendError.UNEXPECTED:
                log.exception("webhooks.send_failed", extra={"webhooks.event_id": headers.get("webhook-id")})
        duration_ms = round((time.monotonic() - started) * 1000)
        return Answer(status, error, duration_ms, excerpt, retry_after_seconds)

    def _checked(self, url: str) -> URL:
        self._policy.check_url(url)
        return as_written(url)

    def _open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if not self._policy.allows(ip_address(address[0])):
            raise _RefusedAddress
        return socket.socket(family, kind, protocol)


class _RefusedAddress(OSError):
    """An address that the policy does not let deliveries reach; an OSError, so that the name's next one is tried."""


class _InvalidHeader(ValueError):
    """A header that would not arrive as it is."""


class _Request(aiohttp.ClientRequest):
    """A request whose headers go out in Latin-1, as receivers read them, where aiohttp writes UTF-8."""

    def write_bytes(self, writer: Any, *args: Any, **options: Any) -> Any:
        # The head waits here for the body, so that both leave in one piece.
        if writer._headers_buf is not None and not writer._headers_buf.isascii():
            writer._headers_buf = writer._headers_buf.decode().encode("latin-1")
        return super().write_bytes(writer, *args, **options)


def _check_headers(headers: Mapping[str, str]) -> None:
    values = "".join(headers.values())
    if not (_are_names(tuple(headers)) and (_is_plain(values) or _VALUES.fullmatch(values))):
        raise _InvalidHeader


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


# The same few over and over.
@lru_cache(maxsize=MAX_TARGETS)
def _are_names(names: tuple[str, ...]) -> bool:
    return all(map(_NAME.fullmatch, names))


def _error_of(raised: Exception) -> SendError:
    error = next((error for kinds, error in _ERRORS if isinstance(raised, kinds)), SendError.UNEXPECTED)
    cause = getattr(raised, "os_error", None)
    if error is SendError.CONNECT and isinstance(cause, _RefusedAddress):
        return SendError.BLOCKED_ADDRESS
    if error is SendError.CONNECT and isinstance(cause, ConnectionResetError):
        return SendError.DISCONNECTED
    return error


# The first that fits; aiohttp's errors descend from one another.
_ERRORS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], SendError], ...] = (
    (BlockedAddress, SendError.BLOCKED_ADDRESS),
    ((InvalidURL, aiohttp.InvalidURL), SendError.INVALID_URL),
    (_InvalidHeader, SendError.INVALID_REQUEST),
    ((aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError), SendError.PROXY),
    (aiohttp.ClientConnectorDNSError, SendError.DNS),
    (aiohttp.ClientConnectorCertificateError, SendError.CERTIFICATE),
    (aiohttp.ClientConnectorSSLError, SendError.TLS),
    (aiohttp.ClientConnectorError, SendError.CONNECT),
    (TimeoutError, SendError.TIMEOUT),
    ((aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, OSError), SendError.DISCONNECTED),
    (aiohttp.ClientResponseError, SendError.PROTOCOL),
)
