"""The form of an endpoint: its fields as text, as a person sees them and sends them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import request

from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.core.headers import HIDDEN
from flask_webhook_endpoints.errors import BodyTooLarge, InvalidRequest
from flask_webhook_endpoints.portal import form_rows
from flask_webhook_endpoints.portal.form_rows import Row, one_spelling
from flask_webhook_endpoints.portal.texts import gettext, noted
from flask_webhook_endpoints.security.private import Private
from flask_webhook_endpoints.settings import Settings

MAX_FORM_BYTES = 262_144
"""Bytes that the form may have: percent-encoding makes three bytes of most that the fields may have."""

MOST_EVENT_TYPES = 1000
"""The number of event types that a form may send. The schema allows fewer, and names the rule."""

FIELDS: Mapping[str, str] = {
    "name": noted("Name"),
    "url": noted("URL"),
    "timeout_seconds": noted("Time limit"),
    "description": noted("Description"),
    "event_types": noted("Events"),
    "headers_json": noted("Custom headers"),
    "metadata": noted("Metadata"),
}
"""The labels of the fields that the form changes, by their names in the schema, in the page's order."""

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_WHOLE = re.compile(r" *[0-9]{1,9} *")


@dataclass(repr=False)
class EndpointForm:
    """The fields as text. Not a tuple, because error trackers would send the values."""

    name: str = ""
    url: str = ""
    timeout_seconds: str = ""
    description: str = ""
    all_events: bool = True
    event_types: Sequence[str] = ()
    """The event types that are chosen where not all are."""
    headers: Sequence[Row] = ()
    metadata: Sequence[Row] = field(default_factory=list)

    @property
    def event_lines(self) -> str:
        """The event types, one a line."""
        return "\n".join(self.event_types)

    @property
    def changes_headers(self) -> bool:
        """True if the person has replaced, removed or added a header."""
        return any(row.value or row.is_removed or not (row.is_saved or row.is_blank) for row in self.headers)

    def fields(self) -> Private[Any]:
        """Return the fields as the schema takes them; a saved header that is kept has the value `HIDDEN`."""
        whole = int(self.timeout_seconds) if _WHOLE.fullmatch(self.timeout_seconds) else self.timeout_seconds
        kept = [row for row in self.headers if not (row.is_removed or row.is_blank)]
        return Private(
            name=self.name,
            url=self.url,
            event_types=None if self.all_events else list(dict.fromkeys(self.event_types)),
            headers_json={row.name: row.value or (HIDDEN if row.is_saved else "") for row in kept},
            timeout_seconds=whole,
            description=self.description or None,
            metadata={row.name: row.value for row in self.metadata if not row.is_blank},
        )


def blank(settings: Settings) -> EndpointForm:
    """Return the form of a new endpoint."""
    return EndpointForm(timeout_seconds=str(settings.default_timeout_seconds))


def of(endpoint: Endpoint) -> EndpointForm:
    """Return the form of an endpoint as it is saved, without the values of its headers."""
    return EndpointForm(
        name=endpoint.name,
        url=endpoint.url,
        timeout_seconds=str(endpoint.timeout_seconds),
        description=one_spelling(endpoint.description or ""),
        all_events=endpoint.event_types is None,
        event_types=endpoint.event_types or (),
        headers=[Row(name, is_saved=True) for name in endpoint.headers or ()],
        metadata=[Row(name, one_spelling(value)) for name, value in endpoint.metadata.items()],
    )


def read(saved: EndpointForm, *, is_stale: bool = False) -> EndpointForm:
    """Return the form as the request has it. What it lacks, because a host's template leaves it out, is as saved."""
    if (request.content_length or 0) > MAX_FORM_BYTES:
        raise BodyTooLarge(MAX_FORM_BYTES)
    all_events, event_types = _events(saved)
    metadata = form_rows.read("metadata")
    return EndpointForm(
        name=request.form.get("name", saved.name),
        url=request.form.get("url", saved.url).strip(),
        timeout_seconds=request.form.get("timeout_seconds", saved.timeout_seconds),
        description=one_spelling(request.form.get("description", saved.description)),
        all_events=all_events,
        event_types=event_types,
        headers=form_rows.read_headers([row.name for row in saved.headers if row.is_saved], is_stale=is_stale),
        metadata=saved.metadata if metadata is None else metadata,
    )


def adds_row() -> bool:
    """Return whether the person pressed a button that adds a row, which saves nothing."""
    return "add" in request.form


def with_rows(form: EndpointForm) -> EndpointForm:
    """Return the form with a blank row for each kind, and one more where the person asked for it."""
    form.headers = form_rows.with_another("header", form.headers)
    form.metadata = form_rows.with_another("metadata", form.metadata)
    return form


def sent_version() -> int:
    """Return the version of the endpoint that the person saw."""
    given = request.form.get("version", "")
    if not _VERSION.fullmatch(given):
        raise InvalidRequest(gettext("The form was changed on its way. Open the page again."))
    return int(given)


def _events(saved: EndpointForm) -> tuple[bool, Sequence[str]]:
    choice = request.form.get("events")
    if choice not in ("all", "some"):
        return saved.all_events, saved.event_types
    ticked = request.form.getlist("event_type")
    typed = [line.strip() for line in request.form.get("event_lines", "").splitlines() if line.strip()]
    if len(ticked) + len(typed) > MOST_EVENT_TYPES:
        raise InvalidRequest(gettext("The form has too many event types. Open the page again."))
    return choice == "all", [*ticked, *typed]
