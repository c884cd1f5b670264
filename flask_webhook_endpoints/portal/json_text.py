"""JSON for people to read: the body of an event, or an example, with a member on each line.

Numbers, names and strings of a body stay as they were written, except that characters which turn the direction of text
are escaped. The text is bounded, because deep nesting makes a body of 256 KiB as long as a book.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from flask_webhook_endpoints.portal.texts import TURNS

MAX_SHOWN = 32_768
"""Characters of a body that are shown a member on each line. All of them are shown as they were sent."""

_MAX_INDENT = 20
"""Levels that are indented; deeper ones stand below each other."""

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_ESCAPED = {code: f"\\u{code:04x}" for code in TURNS}
_EMPTY = {"{": "}", "[": "]"}


class Pretty(NamedTuple):
    """A body with a member on each line."""

    text: str
    is_whole: bool
    """False: the text breaks off."""


def pretty(text: str, *, most: int = MAX_SHOWN) -> Pretty:
    """Return JSON with a member on each line, `most` characters of it."""
    parts, length = [], 0
    for part in _parts(text):
        parts.append(part)
        length += len(part)
        if length > most:
            return Pretty("".join(parts)[:most].translate(_ESCAPED), is_whole=False)
    return Pretty("".join(parts).translate(_ESCAPED), is_whole=True)


def indented(value: Any) -> str:
    """Return a value that is plain JSON, such as a declared example, with a member on each line."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _parts(text: str) -> Iterator[str]:
    """Yield the tokens of JSON, and the white space between them."""
    depth, before = 0, ""
    for token in _TOKEN.finditer(text):
        part = token[0]
        if part in "}]":
            depth -= 1
            if _EMPTY.get(before) != part:
                yield _line(depth)
        elif before in ("{", "[", ","):
            yield _line(depth)
        yield ": " if part == ":" else part
        if part in "{[":
            depth += 1
        before = part


def _line(depth: int) -> str:
    return "\n" + "  " * max(0, min(depth, _MAX_INDENT))
