"""Rules for browsers: pages load and run our own files alone, and no other site sends our forms.

Source: W3C Fetch Metadata Request Headers (`Sec-Fetch-Site`), Content Security Policy Level 3.
"""

from urllib.parse import urlsplit

from flask import Flask, abort, request
from werkzeug.wrappers import Response

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def protect(app: Flask) -> None:
    """Keep these rules in every request and answer of an application."""
    app.before_request(_refuse_other_sites)
    app.after_request(_add_headers)


def is_browser() -> bool:
    """Tell whether the request prefers a page to JSON, as browsers do."""
    accepted = request.accept_mimetypes
    return accepted["text/html"] > accepted["application/json"]


def _refuse_other_sites() -> None:
    """Answer 403 to a write that a page of another origin sends, for which the cookie would vouch."""
    if request.method in ("GET", "HEAD", "OPTIONS") or request.authorization is not None:
        return
    site = request.headers.get("Sec-Fetch-Site")
    # Over plain HTTP, except to this machine, browsers tell the origin alone.
    origin = request.headers.get("Origin")
    is_ours = site in ("same-origin", "none") if site else origin is None or urlsplit(origin).netloc == request.host
    if not is_ours:
        abort(403, "This form came from another site. Open the page here, and send it again.")


def _add_headers(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if response.mimetype == "text/html":
        response.headers.setdefault("Content-Security-Policy", _POLICY)
        response.headers.setdefault("Referrer-Policy", "same-origin")
        # Nobody who comes to this browser after a logout may look at the pages.
        response.headers.setdefault("Cache-Control", "no-store")
    return response
