"""The stylesheet and the module of JavaScript, whose addresses change with their content, so that browsers keep them.

Source: RFC 8246 (`immutable`).
"""

import hashlib
from functools import cache
from pathlib import Path

from flask import Response, request, send_from_directory, url_for

from flask_webhook_endpoints.errors import UnknownPath
from flask_webhook_endpoints.portal.pages import Page, page

PAGES: list[Page] = []

_FOLDER = Path(__file__).parent / "static"
_NAMES = frozenset(path.name for path in _FOLDER.iterdir())
_YEAR_SECONDS = 31_536_000


@page(PAGES, "GET", "/static/<name>")
def asset(name: str) -> Response:
    """Answer one of our static files."""
    if name not in _NAMES:
        raise UnknownPath
    is_named_by_content = request.args.get("v") == _digest(name)
    response = send_from_directory(_FOLDER, name, max_age=_YEAR_SECONDS if is_named_by_content else None)
    if is_named_by_content:
        response.cache_control.public = True
        response.cache_control.immutable = True
    return response


def asset_url(name: str) -> str:
    """Return the URL of a static file, with the hash of its content."""
    return url_for(".asset", name=name, v=_digest(name))


@cache
def _digest(name: str) -> str:
    return hashlib.sha256((_FOLDER / name).read_bytes()).hexdigest()[:16]
