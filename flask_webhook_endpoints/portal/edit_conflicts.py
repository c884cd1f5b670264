"""Conflicts of two people who edit the same endpoint: fields that one saved while the other typed.

A page carries fingerprints of the fields that it showed. By them we tell which fields the person has changed, and which
ones somebody else has saved since. Fingerprints show nothing of a field, so that they serve for headers, too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import request

from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.portal import endpoint_form
from flask_webhook_endpoints.portal.endpoint_form import FIELDS, EndpointForm
from flask_webhook_endpoints.portal.form_rows import Row
from flask_webhook_endpoints.portal.texts import gettext
from flask_webhook_endpoints.security.encryption import Cipher
from flask_webhook_endpoints.security.private import Private


@dataclass(repr=False)
class Conflict:
    """A field that somebody saved meanwhile. Not a tuple, because error trackers would send the values."""

    field: str
    yours: Sequence[str]
    """Lines that tell the person's own value."""
    saved: Sequence[str]
    """Lines that tell the value that is saved now."""
    is_yours_changed: bool
    """False: the person left the field as it was, so that the saved value is kept."""


def shown(endpoint: Endpoint, cipher: Cipher) -> str:
    """Return the fingerprints of an endpoint's fields, as a page carries them."""
    return json.dumps(_fingerprints(endpoint, cipher))


def sent() -> Mapping[str, str]:
    """Return the fingerprints of the fields that the person saw; without them, every field counts as changed."""
    try:
        found = json.loads(request.form.get("was", ""))
    except (ValueError, RecursionError):
        return {}
    return {name: text for name, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}


def changed(form: EndpointForm, endpoint: Endpoint) -> Private[Any]:
    """Return the fields that differ from those of the endpoint."""
    saved, typed = endpoint_form.of(endpoint).fields(), form.fields()
    differing = {name for name in FIELDS if _one_order(typed[name]) != _one_order(saved[name])}
    if form.changes_headers:
        # A value that was typed may be spelt as the mask of a saved one.
        differing.add("headers_json")
    return Private({name: typed[name] for name in FIELDS if name in differing})


def between(form: EndpointForm, endpoint: Endpoint, cipher: Cipher) -> Sequence[Conflict]:
    """Return the fields that somebody saved since the person saw them, and that the form has otherwise."""
    was, now = sent(), _fingerprints(endpoint, cipher)
    saved, typed, differing = endpoint_form.of(endpoint), form.fields(), changed(form, endpoint)
    return [
        Conflict(
            name,
            yours=_told(name, form),
            saved=_told(name, saved),
            is_yours_changed=name == "headers_json" or _fingerprint(typed[name], cipher) != was.get(name),
        )
        for name in FIELDS
        if was.get(name) != now[name] and name in differing
    ]


def with_saved(form: EndpointForm, endpoint: Endpoint, conflicts: Sequence[Conflict]) -> EndpointForm:
    """Return the form with the saved values of those fields that the person has left as they were."""
    saved = endpoint_form.of(endpoint)
    kept = {conflict.field for conflict in conflicts if not conflict.is_yours_changed}
    if "event_types" in kept:
        form.all_events = saved.all_events
    for name in kept:
        setattr(form, name, getattr(saved, name))
    return form


def _fingerprints(endpoint: Endpoint, cipher: Cipher) -> dict[str, str]:
    fields = endpoint_form.of(endpoint).fields()
    prints = {name: _fingerprint(fields[name], cipher) for name in FIELDS if name != "headers_json"}
    return {**prints, "headers_json": _fingerprint(dict(endpoint.headers or ()), cipher)}


def _fingerprint(value: Any, cipher: Cipher) -> str:
    return cipher.fingerprint(json.dumps(_one_order(value), sort_keys=True))


def _one_order(value: Any) -> Any:
    # Event types are a set, which the form shows in an order of its own.
    return sorted(value) if isinstance(value, list) else value


def _told(name: str, form: EndpointForm) -> Sequence[str]:
    if name == "event_types":
        return [gettext("All events")] if form.all_events else list(form.event_types)
    if name == "headers_json":
        return [_told_header(row) for row in form.headers if not row.is_blank]
    if name == "metadata":
        return [f"{row.name} = {row.value}" for row in form.metadata if not row.is_blank]
    return str(getattr(form, name)).split("\n")


def _told_header(row: Row) -> str:
    if row.is_removed:
        return gettext("%(name)s, removed", name=row.name)
    if row.value:
        return gettext("%(name)s, with another value", name=row.name)
    return row.name
