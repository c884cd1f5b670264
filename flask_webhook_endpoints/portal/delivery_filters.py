"""The filters of lists of deliveries, as people type them and as the address of the page has them.

Times are in UTC. Source: HTML Living Standard, "Local date and time state" (`datetime-local`), RFC 3339.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from werkzeug.datastructures import MultiDict

from flask_webhook_endpoints.core.deliveries import STATUSES
from flask_webhook_endpoints.core.delivery_lists import Filter
from flask_webhook_endpoints.identifiers import is_event_pattern, parse_id, parse_time
from flask_webhook_endpoints.portal.problems import Faults
from flask_webhook_endpoints.portal.texts import gettext

CURSOR = "after"
"""The parameter that has the last delivery of the page before."""

_LOCAL_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2}(?:\.[0-9]{1,3})?)?")


class Unreadable(Exception):
    """A value that a person typed breaks a rule; the text says which."""


class Filters(NamedTuple):
    """The filters of a page's address: what was typed, and what it means."""

    typed: Mapping[str, Any]
    """The text of each field that is not empty."""
    faults: Faults
    """The messages for each field that can't be read."""
    values: Mapping[str, Any]
    """The fields of `Filter` that could be read."""
    after: UUID | None

    def chosen(self, endpoint_id: UUID | None = None) -> Filter:
        """Return what the filters let pass, of one endpoint or of all."""
        return Filter(endpoint_id=endpoint_id, **self.values)

    @property
    def address(self) -> dict[str, Any]:
        """Return the parameters of the same list's first page."""
        return {name: text for name, text in self.typed.items() if name in FIELDS}


def read(given: MultiDict[str, str]) -> Filters:
    """Return the filters that the parameters have; each fault is in the result."""
    typed, faults, values = {}, Faults(), dict[str, Any]()
    for name, reader in {**FIELDS, CURSOR: _cursor}.items():
        texts = [text.strip() for text in given.getlist(name)]
        if not any(texts):
            continue
        typed[name] = texts[0]
        if len(texts) > 1:
            faults[name] = [gettext("Choose one value: the address of this page has several.")]
            continue
        try:
            values |= reader(texts[0])
        except Unreadable as fault:
            faults[name] = [str(fault)]
    if "since" in values and "until" in values and values["since"] >= values["until"]:
        faults["until"] = [gettext("The end must be later than the beginning.")]
    return Filters(typed, faults, values, values.pop(CURSOR, None))


def read_time(text: str) -> datetime:
    """Return a time in UTC as browsers send it, or one in RFC 3339; raise `Unreadable`."""
    local = _LOCAL_TIME.fullmatch(text)
    moment = parse_time(f"{local[1]}T{local[2]}{local[3] or ':00'}Z" if local else text)
    if moment is None:
        raise Unreadable(gettext("Not a time. Write it like 2026-01-31T08:00, in UTC."))
    return moment


def read_event_type(text: str) -> str:
    """Return an event type or `prefix.*`; raise `Unreadable`."""
    if not is_event_pattern(text):
        raise Unreadable(gettext("Not an event type. Write one like invoice.paid, or invoice.* for all of a group."))
    return text


def shown_time(text: str) -> str:
    """Return a time as the field `datetime-local` takes it; as it was typed where it is none."""
    try:
        moment = read_time(text)
    except Unreadable:
        return text
    precision = "milliseconds" if moment.microsecond else "seconds" if moment.second else "minutes"
    return moment.replace(tzinfo=None).isoformat(timespec=precision)


def _status(text: str) -> dict[str, Any]:
    if text not in STATUSES:
        raise Unreadable(gettext("No such state. Choose one from the list."))
    return {"status": text}


def _event_type(text: str) -> dict[str, Any]:
    return {"event_type": read_event_type(text)}


def _id(text: str) -> dict[str, Any]:
    if delivery_id := parse_id(text, "dlv"):
        return {"delivery_id": delivery_id}
    if event_id := parse_id(text, "evt"):
        return {"event_id": event_id}
    raise Unreadable(gettext("Not an id of a delivery or an event. Paste one that begins with dlv_ or evt_."))


def _cursor(text: str) -> dict[str, Any]:
    if (delivery_id := parse_id(text, "dlv")) is None:
        raise Unreadable(gettext("The address of this page is broken. Begin at the first page."))
    return {CURSOR: delivery_id}


FIELDS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "status": _status,
    "event_type": _event_type,
    "since": lambda text: {"since": read_time(text)},
    "until": lambda text: {"until": read_time(text)},
    "id": _id,
}
"""The fields of the form, in its order, each with its reader."""
