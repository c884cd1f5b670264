"""The reader of answers: it bounds what precedes a body, and takes only one answer to a request.

This module gives aiohttp's parser the header section of an answer first and what follows apart, so that an error after
a complete answer loses nothing of it. Source: RFC 9112 sections 6.3 (lengths) and 9.2 (answers unasked).
"""

import re
import select
from collections.abc import Mapping
from typing import Any

from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import RawResponseMessage
from multidict import CIMultiDict, CIMultiDictProxy

MAX_HEAD_BYTES = 65_536
"""Bytes of an answer before its body: interim answers, status line and headers."""

MAX_INTERIM = 16
"""Interim answers (1xx) before the answer itself."""

MAX_FIELD_BYTES = 16_384
"""Bytes that a header of an answer may have, and its status line."""

MAX_ANSWER_HEADERS = 128
"""The number of headers that an answer may have."""

MAX_KEPT_BYTES = 4096
"""Bytes of a header section, beyond which only the headers that the worker looks at are kept."""

LOOKED_AT = ("Retry-After",)

SHOWN = ("content-type", "location", "retry-after", "server")
"""The headers of an answer that are kept for the tenant if the attempt failed."""

MAX_SHOWN_CHARACTERS = 1024
"""Characters of such a header; a longer one is left out. Cut, it could show half of a secret that it repeats."""

_SWITCHING = 101
_FINAL = 200
_START = b"HTTP/"
_END = re.compile(rb"\n\r?\n")
_LENGTH = b"\ncontent-length:"
_CODING = b"\ntransfer-encoding:"
_WITHOUT_BODY = (b"204", b"304")
_LENGTHS = re.compile(rb"^content-length:[ \t]*([0-9]+)[ \t]*\r?\n", re.IGNORECASE | re.MULTILINE)


class AnswerReader(ResponseHandler):
    """The protocol of one connection, for one answer after another."""

    _head: bytearray | None = None
    """The header section so far; None before the first request, and from the end of the section on."""
    _body: Any = None
    """The stream of the answer's body."""
    _poll: Any = None
    """The poll of the socket, which knows of bytes that asyncio has not read yet."""

    def begin(self) -> None:
        """Begin to read the answer to a POST; its body is kept as it comes."""
        self.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_ANSWER_HEADERS,
        )

    def set_response_params(self, **options: Any) -> None:
        """Begin to read any answer."""
        self._head, self._body, self._section_bytes = bytearray(), None, 0
        self._left, self._interim = MAX_HEAD_BYTES, 0
        super().set_response_params(**options)

    def has_unread(self) -> bool:
        """Return whether something has come unasked, or the receiver has closed the connection."""
        if self._poll is None:
            if self.transport is None or (number := self.transport.get_extra_info("socket").fileno()) < 0:
                return True
            self._poll = select.poll()
            self._poll.register(number, select.POLLIN)
        return bool(self._poll.poll(0))

    def data_received(self, data: bytes) -> None:
        """Read on; drop the connection if there is nothing to read."""
        while self._head is not None and data:
            data = self._read_head(self._head, data)
        if self._body is None:
            if self._head is None and self._parser is None:
                # The receiver speaks before it is asked.
                super().data_received(data)
            return
        if not self._body.is_eof():
            super().data_received(data)
            if self._exception is not None and not self._body.is_eof():
                # aiohttp tells code that waits for an answer, but not code that reads its body.
                self._body.set_exception(BadHttpMessage("Invalid body"))
        elif data:
            # These bytes came unasked, and must not answer the next request.
            self.close()
            return
        if self._body is not None and self._body.is_eof():
            # The answer is complete: drop the parser, so that an error in what follows is none of the answer's.
            self._parser = None

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take an answer that the parser has found."""
        message, body = data
        if message.code < _FINAL and message.code != _SWITCHING:
            self._interim += 1
            return
        if self._body is not None:
            self.force_close()
            return
        self._head, self._body = None, body
        if self._section_bytes > MAX_KEPT_BYTES:
            message = _shortened(message)
        super().feed_data((message, body), size)

    def _read_head(self, head: bytearray, data: bytes) -> bytes:
        """Read a header section to its end; return what follows it."""
        begun = len(head)
        # Most answers come in one piece.
        section: bytes | bytearray = data
        if begun:
            head += data
            section = head
        end = _END.search(section, max(begun - 2, 0))
        taken = len(section) if end is None else end.end()
        # Empty lines may come first.
        start = section[:64].lstrip(b"\r\n")[: len(_START)]
        if taken > self._left or self._interim > MAX_INTERIM or not _START.startswith(start):
            self._fail()
            return b""
        if end is None:
            if not begun:
                head += data
            return b""
        section = bytes(section[:taken])
        head.clear()
        self._left -= taken
        self._section_bytes = taken
        return self._feed(section, data[taken - begun :])

    def _feed(self, section: bytes, rest: bytes) -> bytes:
        """Give the parser a header section, with the body if it is all that follows; return what is left."""
        lower = section.lower()
        length = lower.find(_LENGTH)
        if length >= 0:
            if lower.find(_LENGTH, length + 1) >= 0 or _CODING in lower:
                section = self._with_one_length(section)
            elif (
                rest
                and section[9:12] not in _WITHOUT_BODY
                and lower[length + len(_LENGTH) : lower.find(b"\n", length + 1)].strip() == b"%d" % len(rest)
            ):
                section, rest = section + rest, b""
        super().data_received(section)
        if self._exception is not None:
            self._head, rest = None, b""
        return rest

    def _with_one_length(self, section: bytes) -> bytes:
        """Return a header section without the lengths that the parser would refuse though they do no harm."""
        lengths, coded = _LENGTHS.findall(section), _CODING in section.lower()
        if not coded and len(set(lengths)) > 1:
            return section
        # The receiver may end the body elsewhere, so send no other request on this connection.
        self.force_close()
        kept = iter([] if coded or not lengths else [b"Content-Length: %s\r\n" % lengths[0]])
        return _LENGTHS.sub(lambda _: next(kept, b""), section)

    def _fail(self) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        self.set_exception(BadHttpMessage("Not HTTP, or too long before the body"))


def shown_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an answer that its tenant may see."""
    found = ((name, headers.get(name)) for name in SHOWN)
    return {name: value for name, value in found if value is not None and len(value) <= MAX_SHOWN_CHARACTERS}


def _shortened(message: RawResponseMessage) -> RawResponseMessage:
    kept = CIMultiDict((name, value) for name in LOOKED_AT for value in message.headers.getall(name, ()))
    kept.extend({name: value for name, value in shown_headers(message.headers).items() if name not in kept})
    return RawResponseMessage(
        message.version,
        message.code,
        message.reason,
        CIMultiDictProxy(kept),
        (),
        message.should_close,
        message.compression,
        message.upgrade,
        message.chunked,
    )
