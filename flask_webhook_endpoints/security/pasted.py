"""Requests as people paste them: headers in the forms that tools print them, and the text of a body.

Nothing here raises, whatever the text is.
"""

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import chain, product
from typing import Any, NamedTuple

ID, TIMESTAMP, SIGNATURE = HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
"""The headers that a signature needs."""

# `name: value`, after `<`, `>` or `-H '`; also `"name": "value"`, `'name' => 'value'`, `NAME=value`, `Name:[value]`.
_PAIR = re.compile(
    r"""(?<![a-z0-9-])webhook[-_](?P<name>id|timestamp|signature)
    (?:["'\]][ \t]*(?:=>|[:=,])|[ \t]*[:=])[ \t]*\[?
    (?:"(?P<double>[^"\r\n]*)"|'(?P<single>[^'\r\n]*)'|(?P<bare>[^"'\r\n\]]*))""",
    re.IGNORECASE | re.VERBOSE,
)
_AFTER_WORD = re.compile(r"[\s,;}]")

_BLANK = "\ufeff \t\r\n"
_LAYOUTS: tuple[dict[str, Any], ...] = (
    {"separators": (",", ":")},
    {"separators": (", ", ": ")},
    {"separators": (",", ": "), "indent": 2},
)
_MAX_INDENTED = 131_072
"""Characters that indented JSON may have: indented, a deep document may be a thousand times as long."""

_ENVELOPE = ("type", "timestamp", "data")


class BodyForm(StrEnum):
    """The relation of the body that was sent to the pasted one."""

    AS_PASTED = "as_pasted"
    """The same bytes."""
    LINE_ENDS = "line_ends"
    """Only line ends differ, or white space around it."""
    REWRITTEN = "rewritten"
    """The same JSON is written in another way: a program has parsed it, and written it again."""
    ANOTHER = "another"
    """Not the same JSON."""


class Body(NamedTuple):
    """A body that may have been signed."""

    form: BodyForm
    content: bytes


def headers(text: str) -> dict[str, str]:
    """Return those of `HEADERS` that a text has, by their names in lower case; of several signatures, all."""
    found: dict[str, str] = {}
    for name, value in list(_of_json(text)) or _of_text(text):
        if name in found:
            found[name] = f"{found[name]} {value}" if name == SIGNATURE else found[name]
        elif value:
            found[name] = value
    return found


def bodies(text: str, *, sent: bytes | None = None) -> list[Body]:
    """Return the bodies that may have been signed if this one was pasted, the most likely first, each once.

    With the body that was `sent`, these are that one and the pasted one.
    """
    pasted = _encoded(text)
    if sent is not None:
        form = _relation(sent, text)
        return [Body(form, each) for each in dict.fromkeys((sent, pasted))]
    candidates = chain(
        [Body(BodyForm.AS_PASTED, pasted)],
        (Body(BodyForm.LINE_ENDS, _encoded(each)) for each in _line_ends(text)),
        (Body(BodyForm.REWRITTEN, _encoded(each)) for each in _json_forms(text)),
    )
    first: dict[bytes, Body] = {}
    for body in candidates:
        first.setdefault(body.content, body)
    return list(first.values())


def _of_text(text: str) -> Iterator[tuple[str, str]]:
    for pair in _PAIR.finditer(text):
        name = f"webhook-{pair['name'].lower()}"
        value = pair["double"] or pair["single"] or (pair["bare"] or "").strip(" \t,;}")
        yield name, value.strip() if name == SIGNATURE else _AFTER_WORD.split(value.strip(), maxsplit=1)[0]


def _of_json(text: str) -> Iterator[tuple[str, str]]:
    document = _parsed(text)
    if isinstance(document, dict) and isinstance(document.get("headers"), dict):
        document = document["headers"]
    for key, value in document.items() if isinstance(document, dict) else ():
        name = key.lower().replace("_", "-").removeprefix("http-")
        if name in HEADERS:
            values = value if isinstance(value, list) else [value]
            yield name, " ".join(str(each).strip() for each in values if isinstance(each, str | int))


def _line_ends(text: str) -> Iterator[str]:
    with_feeds = text.replace("\r\n", "\n").replace("\r", "\n")
    plain = with_feeds.strip(_BLANK)
    for each in (plain, f"{plain}\n", with_feeds):
        yield from (each, each.replace("\n", "\r\n"))


def _json_forms(text: str) -> Iterator[str]:
    """Yield the same JSON as programs may have written it before it was parsed and written again."""
    document = _parsed(text)
    if not isinstance(document, dict | list):
        return
    documents: list[tuple[Any, bool]] = [(document, False), (document, True)]
    if isinstance(document, dict) and sorted(document) == sorted(_ENVELOPE):
        # The order in which we write it, which a program that sorts the keys has changed.
        documents.append(({name: document[name] for name in _ENVELOPE}, False))
    for (each, sorts), is_ascii, layout in product(documents, (False, True), _LAYOUTS):
        if (written := _written(each, ensure_ascii=is_ascii, sort_keys=sorts, **layout)) is not None:
            yield written


def _written(document: Any, **options: Any) -> str | None:
    """Return a value as JSON; None where it is too deep, or too long when it is indented."""
    try:
        if "indent" not in options:
            return json.dumps(document, **options)
        # Part by part, so that a text that is too long is never made as a whole.
        parts, length = [], 0
        for part in json.JSONEncoder(**options).iterencode(document):
            length += len(part)
            if length > _MAX_INDENTED:
                return None
            parts.append(part)
        return "".join(parts)
    except (ValueError, RecursionError):
        return None


def _relation(sent: bytes, text: str) -> BodyForm:
    """Return how the body that was sent relates to the pasted one."""
    if sent == _encoded(text):
        return BodyForm.AS_PASTED
    if sent in map(_encoded, _line_ends(text)):
        return BodyForm.LINE_ENDS
    same = _parsed(sent.decode(errors="replace")), _parsed(text)
    try:
        return BodyForm.REWRITTEN if same[0] is not None and same[0] == same[1] else BodyForm.ANOTHER
    except RecursionError:
        return BodyForm.ANOTHER


def _parsed(text: str) -> Any:
    """Return the value of a JSON text; None where it is none."""
    try:
        return json.loads(text.strip(_BLANK))
    except (ValueError, RecursionError):
        return None


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")
