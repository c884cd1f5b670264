"""Rows of a form: names with values, some of which a person fills in and leaves others empty.

The value of a saved header is never part of a page: its row has only a place for another value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from flask import request

from flask_webhook_endpoints.errors import InvalidRequest
from flask_webhook_endpoints.portal.texts import gettext

Kind = Literal["header", "metadata"]

MOST_ROWS = 100
"""The number of rows that a form may have. The schemas allow fewer, and name the rule."""


@dataclass(repr=False)
class Row:
    """A name and its value. Not a tuple, because error trackers would send the value."""

    name: str = ""
    value: str = ""
    """The text that a person typed. For a saved header, it is the value that replaces the saved one, or nothing."""
    is_saved: bool = False
    is_removed: bool = False

    @property
    def is_blank(self) -> bool:
        """True if the row says nothing."""
        return not (self.name or self.value)


def read(kind: Kind) -> list[Row] | None:
    """Return the rows of the form, blank ones among them; None if the form has none of this kind."""
    numbers = [len(request.form.getlist(f"{kind}_{part}")) for part in ("name", "value")]
    if max(numbers) > MOST_ROWS:
        raise _too_many()
    if not any(numbers):
        return None
    # A browser sends as many names as values.
    pairs = zip_longest(request.form.getlist(f"{kind}_name"), request.form.getlist(f"{kind}_value"), fillvalue="")
    return [Row(_name(kind, name), one_spelling(value)) for name, value in pairs]


def read_headers(saved: Sequence[str], *, is_stale: bool) -> list[Row]:
    """Return the rows of the headers: one for each saved name, then those that the person added.

    Where somebody saved the endpoint meanwhile, a header may have been saved or removed since the person saw it. What
    the person typed then moves to the row that the header has now.
    """
    rows = [
        Row(name, request.form.get(f"replace-{name}", ""), is_saved=True, is_removed=f"remove-{name}" in request.form)
        for name in saved
    ]
    added = [*_replacing_none(saved), *(read("header") or [])]
    if not is_stale:
        return [*rows, *added]
    by_name = {row.name.lower(): row for row in rows}
    for row in added:
        if row.value and row.name.lower() in by_name:
            by_name[row.name.lower()].value = row.value
    return [*rows, *(row for row in added if row.name.lower() not in by_name)]


def with_blank(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, with a blank one at their end if none is there."""
    return [*rows] if rows and rows[-1].is_blank else [*rows, Row()]


def with_another(kind: Kind, rows: Sequence[Row]) -> list[Row]:
    """Return the rows with one more blank one if the person pressed the button for that."""
    if request.form.get("add") != kind:
        return with_blank(rows)
    if len(rows) >= MOST_ROWS:
        raise _too_many()
    return [*rows, Row()]


def one_spelling(text: str) -> str:
    """Return a text with LF for each end of a line, where browsers send CR LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _replacing_none(saved: Sequence[str]) -> Iterator[Row]:
    known, prefix = set(saved), "replace-"
    names = [field.removeprefix(prefix) for field in request.form if field.startswith(prefix)]
    if len(names) > MOST_ROWS:
        raise _too_many()
    return (Row(name, request.form[f"{prefix}{name}"]) for name in names if name not in known and _sends(prefix, name))


def _sends(prefix: str, name: str) -> bool:
    return bool(request.form[f"{prefix}{name}"])


def _name(kind: Kind, text: str) -> str:
    # White space at the ends of a header's name was copied with it.
    return text.strip() if kind == "header" else text


def _too_many() -> InvalidRequest:
    return InvalidRequest(gettext("The form has too many rows. Open the page again."))
