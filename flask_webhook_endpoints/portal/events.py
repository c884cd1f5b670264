"""The events that the host has declared, for people who write a receiver, and the OpenAPI document to download."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import orjson
from flask import Response, current_app, url_for
from werkzeug.routing import BuildError

from flask_webhook_endpoints import access
from flask_webhook_endpoints.core.declarations import DeclaredEvent
from flask_webhook_endpoints.errors import UnknownPath
from flask_webhook_endpoints.portal import json_text, pages, schema_table
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.schema_table import SchemaTable
from flask_webhook_endpoints.portal.texts import gettext

PAGES: list[Page] = []

_PACKAGE = "flask_webhook_endpoints."
_DOCUMENT = "/v1/openapi.json"
"""The path of the OpenAPI document below the API's URL."""


class Described(NamedTuple):
    """An event on the page."""

    name: str
    description: str | None
    is_deprecated: bool
    schema: SchemaTable | None
    example: str | None
    """The data of an example, as JSON that people read."""


class Group(NamedTuple):
    """Events whose names begin with the same word."""

    title: str
    events: Sequence[Described]


@page(PAGES, "GET", "/events")
def list_events() -> Response:
    """Show the declared events in groups, each with its schema and its example."""
    caller = access.enter("list_event_types")
    groups = _groups(caller.state.host.declared)
    return pages.render("events", groups=groups, has_openapi=_api_url() is not None)


@page(PAGES, "GET", "/openapi.json")
def download_openapi() -> Response:
    """Answer the OpenAPI document of the API that is registered on this application, as a file."""
    caller = access.enter("list_event_types")
    if (url := _api_url()) is None:
        raise UnknownPath
    document = caller.state.openapi([{"url": url}])
    response = Response(orjson.dumps(document, option=orjson.OPT_INDENT_2), mimetype="application/json")
    response.headers["Content-Disposition"] = "attachment; filename=openapi.json"
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def _groups(declared: Iterable[DeclaredEvent]) -> list[Group]:
    """Return the events by the first word of their names, and those of one word last."""
    # By the first word again, because `invoice-x.paid` stands between `invoice` and `invoice.paid`.
    events = sorted(declared, key=_word)
    groups = [Group(word, [_described(each) for each in within]) for word, within in groupby(events, _word) if word]
    single = [_described(each) for each in events if not _word(each)]
    return [*groups, Group(gettext("Other events"), single)] if single else groups


def _word(event: DeclaredEvent) -> str:
    word, dot, _ = event.name.partition(".")
    return word if dot else ""


def _described(event: DeclaredEvent) -> Described:
    return Described(
        name=event.name,
        description=event.description,
        is_deprecated=event.deprecated,
        schema=None if event.schema is None else schema_table.table(event.schema),
        example=None if event.example is None else json_text.indented(event.example),
    )


def _api_url() -> str | None:
    """Return the URL of the API. None: it is not registered, or its URL depends on more than this request tells."""
    for name, blueprint in current_app.blueprints.items():
        view = f"{name}.read_openapi"
        if blueprint.import_name.startswith(_PACKAGE) and view in current_app.view_functions:
            try:
                return url_for(view, _external=True).removesuffix(_DOCUMENT)
            except BuildError:
                return None
    return None
