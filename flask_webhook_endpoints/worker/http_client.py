"""One POST to a receiver: bounded in time and size, only to addresses that the policy allows.

A failure of any kind is an answer and not an exception, unless the worker itself lacks something (`Shortage`).

Source: RFC 9110 and 9112 (HTTP), Standard Webhooks 1.0.0 "Security considerations" (SSRF, redirects).
"""

import math
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import NamedTuple, Self, cast

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.errors import BlockedAddress, InvalidURL
from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.security.encryption import Headers
from flask_webhook_endpoints.security.private import PrivateURL, forget_locals
from flask_webhook_endpoints.worker import answers, retry
from flask_webhook_endpoints.worker.answers import AnswerReader
from flask_webhook_endpoints.worker.connections import (
    Asking,
    Connector,
    ProxyFailed,
    RefusedAddress,
    asking,
    check_aiohttp,
)
from flask_webhook_endpoints.worker.deadlines import Deadlines
from flask_webhook_endpoints.worker.descriptors import ADDRESSES_AT_ONCE
from flask_webhook_endpoints.worker.dns import Resolver
from flask_webhook_endpoints.worker.request import InvalidHeader, Target, check_headers
from flask_webhook_endpoints.worker.shortage import Shortage, cause_of

MAX_READ_BYTES = 65_536
"""Bytes that are read of an answer's body; the connection of a longer one is closed."""

MAX_EXCERPT_BYTES = 1024
"""Bytes that are kept of an answer's body."""

MAX_UNREAD_BYTES = 4096
"""Bytes of a body that are surely sent over TLS when a receiver answers. It may not have read them."""

MIN_BLANKED = 6
"""Characters. Shorter values of headers are not blanked, because they are no secrets and stand in many answers."""

MAX_TARGETS = 4096
"""The number of parsed URLs that are kept."""

_KEEPALIVE_SECONDS = 1.5
"""Seconds that an idle connection stays open. Receivers wait longer (gunicorn: 2), so none closes it during a POST."""

WARNING_SECONDS = 60.0
"""Seconds between two warnings that the egress proxy fails."""

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)
"""No deadline of aiohttp's, because it does not cover what comes before the connection."""

_SHOWN = frozenset(
    {"content-type", "user-agent", "accept-encoding", "webhook-id", "webhook-timestamp", "traceparent", "tracestate"}
)

log = logs.logger("flask_webhook_endpoints.sender")  # the name that hosts have configured


class Answer(NamedTuple):
    """The answer to one POST."""

    status: int | None
    """The status, once the headers have come; None: there is no answer."""
    error: SendError | None
    """None: the answer is complete, or the worker stopped reading at `MAX_READ_BYTES`."""
    duration_ms: int
    excerpt: bytes
    """The first `MAX_EXCERPT_BYTES` of the body as they came, not decoded."""
    retry_after_seconds: float | None
    """The seconds that the receiver asks for by `Retry-After`."""
    headers: Mapping[str, str] | None = None
    """The headers of the answer that tenants see (`answers.SHOWN`); none of a success."""


@dataclass(slots=True)
class _Exchange:
    """The parts of an answer as they come, so that a deadline loses none of them."""

    status: int | None = None
    retry_after_seconds: float | None = None
    excerpt: bytes = b""
    headers: Mapping[str, str] | None = None


class Sender:
    """An HTTP client that sends any number of POSTs at once and reuses connections; an async context manager."""

    def __init__(
        self, policy: EgressPolicy, *, proxy: str | None = None, concurrency: int, max_sockets: int | None = None
    ) -> None:
        """Prepare for `concurrency` POSTs at once; an egress proxy, if given, decides instead of the policy.

        Idle connections beyond `max_sockets` are closed.
        """
        self._policy = policy
        self._proxy = proxy
        self._concurrency = concurrency
        self._max_sockets = max_sockets or ADDRESSES_AT_ONCE * concurrency
        self._tls = _trusting(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        self._warned_at = -math.inf
        # The same few URLs again and again, and the policy does not change.
        self._target = lru_cache(maxsize=MAX_TARGETS)(self._checked)

    async def __aenter__(self) -> Self:
        check_aiohttp()
        self._deadlines = Deadlines()
        self._resolver = Resolver()
        self._connector = Connector(
            self._policy,
            proxy=self._proxy,
            max_sockets=self._max_sockets,
            limit=self._concurrency,
            resolver=self._resolver,
            ssl=self._tls,
            keepalive_timeout=_KEEPALIVE_SECONDS,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connector.close()
        await self._resolver.close()

    async def post(self, url: PrivateURL, *, headers: Headers, body: bytes, timeout_seconds: float) -> Answer:
        """POST `body` and return the answer, or why there is none, within the deadline.

        Raise `Shortage`, and nothing else, if the worker lacks what it needs for this.
        """
        exchange = _Exchange()
        error: SendError | None = None
        started = time.monotonic()
        attempt = Asking()
        asking.set(attempt)
        try:
            await self._deadlines.within(timeout_seconds, self._exchange(exchange, url, headers, body))
        except Exception as raised:
            error = _error_of(raised)
            lack = cause_of(raised) or (attempt.shortage if error in _BEFORE_CONNECTED else None)
            if lack is not None:
                raise Shortage(lack) from None
            if error is SendError.PROXY and started - self._warned_at >= WARNING_SECONDS:
                self._warned_at = started
                log.warning("webhooks.proxy_failed", extra={"webhooks.error": str(raised)})
            if error is SendError.UNEXPECTED:
                forget_locals(raised)
                log.exception("webhooks.send_failed", extra={"webhooks.event_id": headers.get("webhook-id")})
        duration_ms = round((time.monotonic() - started) * 1000)
        excerpt = _without_values(exchange.excerpt, headers)[:MAX_EXCERPT_BYTES] if exchange.excerpt else b""
        shown = exchange.headers and {name: _shown(value, headers) for name, value in exchange.headers.items()}
        return Answer(exchange.status, error, duration_ms, excerpt, exchange.retry_after_seconds, shown)

    async def _exchange(self, exchange: "_Exchange", url: PrivateURL, headers: Headers, body: bytes) -> None:
        target, is_complete = self._target(url), False
        check_headers(headers)
        # Not by aiohttp's session, whose cookies, redirects and bodies of every kind take longer than the connection.
        connection = await self._connector.connect(target, [], _NO_TIMEOUT)
        reader, transport = cast(AnswerReader, connection.protocol), connection.transport
        try:
            if transport is None or transport.is_closing():
                raise aiohttp.ServerDisconnectedError
            reader.begin()
            target.write(transport, headers, body)
            message, content = await reader.read()
            exchange.status = message.code
            is_delivered = retry.judge(message.code) is retry.Verdict.DELIVERED
            if not is_delivered:
                exchange.headers = answers.shown_headers(message.headers)
            if (asked := message.headers.get("Retry-After")) is not None:
                exchange.retry_after_seconds = retry.parse_retry_after(asked, now=datetime.now(UTC))
            left = MAX_READ_BYTES
            while left and not content.at_eof() and (chunk := await content.read(left)):
                left -= len(chunk)
                # Take more than is kept, so that no value that is to be blanked is cut in two.
                exchange.excerpt += chunk[: 8 * MAX_EXCERPT_BYTES - len(exchange.excerpt)]
            # Under TLS, the transport does not count bytes that are encrypted and not sent yet.
            is_sent = not target.is_ssl() or len(body) <= MAX_UNREAD_BYTES or is_delivered
            is_complete = content.at_eof() and is_sent and not transport.get_write_buffer_size()
        finally:
            if is_complete:
                connection.release()
            else:
                # No byte may be sent after the attempt.
                if transport is not None:
                    transport.abort()
                connection.close()

    def _checked(self, url: PrivateURL) -> Target:
        self._policy.check_url(url.reveal())
        return Target(url)


@cache
def _trusting(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Return the TLS context that all clients of a process share.

    To read the authorities that it trusts takes 60 ms: the system's, or those that the environment names.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _without_values(excerpt: bytes, headers: Headers) -> bytes:
    """Return an excerpt without the values of the tenant's headers and the signature, which some receivers echo."""
    for name, value in dict(headers).items():
        if name not in _SHOWN:
            # A receiver may show the token alone.
            for word in (value, *value.split()):
                if len(word) >= MIN_BLANKED:
                    excerpt = excerpt.replace(word.encode("latin-1", "replace"), b"***")
    return excerpt


def _shown(value: str, headers: Headers) -> str:
    """Return the value of an answer's header as its tenant may see it: as text that every database stores."""
    # aiohttp decoded the bytes like this.
    received = _without_values(value.encode("utf-8", "surrogateescape"), headers)
    return "".join(each if each.isprintable() else "\ufffd" for each in received.decode(errors="replace"))


def _error_of(raised: Exception) -> SendError:
    error = next((error for kinds, error in _ERRORS if isinstance(raised, kinds)), SendError.UNEXPECTED)
    cause = getattr(raised, "os_error", None)
    if error is SendError.CONNECT and isinstance(cause, RefusedAddress):
        return SendError.BLOCKED_ADDRESS
    if error is SendError.CONNECT and isinstance(cause, ConnectionResetError):
        return SendError.DISCONNECTED
    if error is SendError.DISCONNECTED and "[SSL: " in str(raised):
        # Under TLS 1.3 a receiver that wants a certificate of ours says so after the handshake.
        return SendError.TLS
    return error


# With these errors, the attempt may have ended because the worker could not open a socket or look up a name.
_BEFORE_CONNECTED = frozenset({SendError.DNS, SendError.CONNECT, SendError.PROXY, SendError.TIMEOUT})

# The first one that fits counts, because aiohttp's errors descend from one another.
_ERRORS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], SendError], ...] = (
    (BlockedAddress, SendError.BLOCKED_ADDRESS),
    ((InvalidURL, aiohttp.InvalidURL), SendError.INVALID_URL),
    (InvalidHeader, SendError.INVALID_REQUEST),
    (ProxyFailed, SendError.PROXY),
    (aiohttp.ClientConnectorDNSError, SendError.DNS),
    (aiohttp.ClientConnectorCertificateError, SendError.CERTIFICATE),
    (aiohttp.ClientConnectorSSLError, SendError.TLS),
    (aiohttp.ClientConnectorError, SendError.CONNECT),
    (TimeoutError, SendError.TIMEOUT),
    ((aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, OSError), SendError.DISCONNECTED),
    ((aiohttp.ClientResponseError, HttpProcessingError), SendError.PROTOCOL),
)
