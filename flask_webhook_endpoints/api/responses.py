"""Writing an answer: endpoints, lists, secrets, problems.

Source: RFC 9110 section 8 (ETag), RFC 8288 (`Link`), RFC 9457 (problem documents).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import orjson
from flask import Response, request
from werkzeug import datastructures

from flask_webhook_endpoints.api import requests
from flask_webhook_endpoints.core import secrets
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.core.headers import HIDDEN
from flask_webhook_endpoints.core.secrets import SecretInForce
from flask_webhook_endpoints.errors import Problem
from flask_webhook_endpoints.identifiers import format_time
from flask_webhook_endpoints.security.encryption import Headers

_NOT_SNIFFED = ("X-Content-Type-Options", "nosniff")

_SAFE = "/!$&'()*+,;=:@"
"""The characters that a path may have beside letters, digits and `-._~` (RFC 3986 section 3.3)."""

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def endpoint_answer(endpoint: Endpoint, *, headers: bool, status: int = 200) -> Response:
    """Show an endpoint, with or without the values of its `headers`, and with its tag as ETag."""
    response = _guarded(json_answer(endpoint, headers=headers, status=status), [endpoint])
    response.headers["ETag"] = f'"{tag_of(endpoint)}"'
    return response


def unless_known(response: Response, tag: str) -> Response:
    """Return the response, or 304 without its body if `If-None-Match` names its tag."""
    if requests.has(tag):
        response.status_code = HTTPStatus.NOT_MODIFIED
        response.set_data(b"")
    return response


def tag_of(endpoint: Endpoint) -> str:
    """Return the tag of an endpoint as it is shown. It has the version, and the time since when its deliveries fail.

    That time changes without a new version, because workers do not write endpoints.
    """
    since = endpoint.failing_since
    return str(endpoint.version) if since is None else f"{endpoint.version}~{re.sub('[^0-9]', '', since)}"


def created_answer(endpoint: Endpoint, *, headers: bool) -> Response:
    """Show an endpoint that was created, and where it is."""
    response = endpoint_answer(endpoint, headers=headers, status=HTTPStatus.CREATED)
    response.headers["Location"] = f"{own_path()}/{endpoint.id}"
    return response


def without_header_values(response: Response) -> Response:
    """Hide the header values in an answer that shows an endpoint."""
    shown = orjson.loads(response.get_data())
    shown["headers_json"] = dict.fromkeys(shown["headers_json"], HIDDEN)
    response.set_data(orjson.dumps(shown))
    return response


def endpoints_answer(endpoints: Sequence[Endpoint], *, headers: bool, limit: int | None) -> Response:
    """Show the first `limit` endpoints, or all; with or without the values of their `headers`."""
    response = _guarded(json_answer(endpoints[:limit], headers=headers), endpoints)
    if limit is not None and len(endpoints) > limit:
        _link_next(response, after=endpoints[limit - 1].id)
    return response


def _guarded(response: Response, endpoints: Sequence[Endpoint]) -> Response:
    """Let no cache store an answer that shows custom headers, because they may hold credentials."""
    if any(endpoint.headers_json for endpoint in endpoints):
        response.headers["Cache-Control"] = "no-store"
    return response


def page_answer(shown: Sequence[Mapping[str, Any]], *, limit: int) -> Response:
    """Show the first `limit` items; if there are more, `Link` names the next page."""
    return cursor_answer(shown[:limit], after=shown[limit - 1]["id"] if len(shown) > limit else None)


def cursor_answer(shown: Sequence[Mapping[str, Any]], *, after: str | None) -> Response:
    """Show items; if there are more, `Link` names the next page, which begins after the item of this id."""
    response = json_answer(shown)
    if after is not None:
        _link_next(response, after=after)
    return response


def _link_next(response: Response, *, after: str) -> None:
    following = {**request.args.to_dict(flat=False), "cursor": [after]}
    response.headers["Link"] = f'<{_origin()}{own_path()}?{urlencode(following, doseq=True)}>; rel="next"'


def secret_answer(in_force: SecretInForce) -> Response:
    """Show a secret, in an answer that no cache may store."""
    shown = {
        "secret": in_force.secret.reveal(),
        "format": secrets.format_of(in_force.secret),
        "created_at": format_time(in_force.created_at),
        "previous_expires_at": format_time(in_force.previous_expires_at),
    }
    response = json_answer(shown)
    response.headers["Cache-Control"] = "no-store"
    return response


def json_answer(value: Any, *, headers: bool = False, status: int = 200) -> Response:
    """Answer with a JSON value; values of custom headers in it are hidden unless `headers`."""
    encoded = orjson.dumps(value, default=_reveal if headers else _hide)
    return _answer(encoded, status=status, content_type="application/json")


def _reveal(headers: Any) -> dict[str, str]:
    return dict(headers.items()) if isinstance(headers, Headers) else _refuse(headers)


def _hide(headers: Any) -> dict[str, str]:
    return dict.fromkeys(headers, HIDDEN) if isinstance(headers, Headers) else _refuse(headers)


def _refuse(value: Any) -> NoReturn:
    raise TypeError(f"Not JSON: {type(value).__name__}.")


def public_answer(value: Any) -> Response:
    """Answer with a JSON value that anybody may read, pages of other sites and caches included, or 304."""
    encoded = orjson.dumps(value)
    response = _PublicResponse(encoded, content_type="application/json", headers=[_NOT_SNIFFED])
    response.headers["Cache-Control"] = "public, max-age=300"
    response.set_etag(hashlib.sha256(encoded).hexdigest())
    response.make_conditional(request)
    return response


class _PublicResponse(Response):
    """An answer that pages of any site may read, unless the host's extension has said which sites may."""

    def get_wsgi_headers(self, environ: Any) -> Any:
        # Not before: Flask-CORS adds its own header to ours, and browsers refuse two.
        headers = super().get_wsgi_headers(environ)
        headers.setdefault("Access-Control-Allow-Origin", "*")
        return headers


def empty_answer(**headers: str) -> Response:
    """Answer 204."""
    response = Response(status=204, headers=[*headers.items(), _NOT_SNIFFED])
    del response.headers["Content-Type"]
    return response


def problem_answer(problem: Problem) -> Response:
    """Answer with a problem document."""
    # The document repeats names as the client sent them. Lone surrogates are among them, which orjson refuses.
    encoded = json.dumps(problem.document())
    response = _answer(encoded, status=problem.status, content_type="application/problem+json")
    response.headers.update(problem.headers)
    return response


def _answer(encoded: bytes | str, *, status: int, content_type: str) -> Response:
    # Headers of a dict take as long as the rest of the answer.
    headers = datastructures.Headers()
    headers.add("Content-Type", content_type)
    headers.add(*_NOT_SNIFFED)
    # A tenant's data: no shared cache may store it, and the client's own cache must ask each time.
    headers.add("Cache-Control", "private, no-cache")
    return Response(encoded, status=status, headers=headers)


def _origin() -> str:
    """Return scheme and host of the request's URL, as the host's proxy settings have them. An odd `Host` gives ""."""
    return f"{request.scheme}://{request.host}" if _HOST.fullmatch(request.host) else ""


def own_path() -> str:
    """Return the path of the request's URL, percent-encoded (RFC 3986), wherever the application is mounted."""
    # Servers pass the mount point on as the client wrote it, percent signs included, but decode the rest of the path.
    mount, path = quote(request.root_path, safe=f"{_SAFE}%"), quote(request.path, safe=_SAFE)
    # Some hosts accept a slash at the end.
    return f"{mount}{path}".rstrip("/")
