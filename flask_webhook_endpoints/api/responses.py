"""What HTTP carries in and out: bodies, preconditions, answers.

Source: RFC 8259 (JSON), RFC 9110 sections 8 and 13 (ETag, preconditions), RFC 9457 (problem documents).
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from flask import Response, request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from flask_webhook_endpoints.api import endpoint_schemas
from flask_webhook_endpoints.api.endpoint_schemas import MAX_BODY_BYTES
from flask_webhook_endpoints.core.endpoints import Endpoint
from flask_webhook_endpoints.core.idempotency import IdempotencyKey
from flask_webhook_endpoints.core.secrets import SecretInForce
from flask_webhook_endpoints.errors import BodyTooLarge, InvalidFields, InvalidRequest, Problem, UnsupportedMediaType
from flask_webhook_endpoints.identifiers import MAX_KEY_LENGTH
from flask_webhook_endpoints.security.encryption import Secret

_log = logging.getLogger("flask_webhook_endpoints.wire")

_secret_shown = endpoint_schemas.SecretShown()

_SAFE = "/!$&'()*+,;=:@"
"""What may stand in a path beside letters, digits and `-._~` (RFC 3986 section 3.3)."""

_BROKEN_OFF = "The body broke off, or its chunks are not well-formed."


def read_body(*, optional: bool = False) -> Any:
    """Return the JSON value of the request's body."""
    length = request.content_length
    data = _bounded_data(length)
    if optional and not (data or length):
        return {}
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    if length is not None and len(data) < length:
        # Some servers, gunicorn for one, hand on what came of it: where that is JSON, too, it is not what was sent.
        raise InvalidRequest(_BROKEN_OFF)
    try:
        return _decoder.decode(data.decode())
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not JSON (RFC 8259) in UTF-8, or too deeply nested.") from None


def _bounded_data(length: int | None) -> bytes:
    if length is not None and length > MAX_BODY_BYTES:
        raise BodyTooLarge(MAX_BODY_BYTES)
    try:
        # Where the host has read it already, it is kept by get_data.
        data = (_streamed_data() if length is None else b"") or request.get_data()
    except RequestEntityTooLarge:
        raise BodyTooLarge(min(MAX_BODY_BYTES, request.max_content_length or MAX_BODY_BYTES)) from None
    except Exception as error:  # each server has errors of its own for a body that breaks off or has broken chunks
        _log.info("webhooks.body_unreadable", extra={"webhooks.error": type(error).__name__})
        raise InvalidRequest(_BROKEN_OFF) from None
    if len(data) > MAX_BODY_BYTES:
        raise BodyTooLarge(MAX_BODY_BYTES)
    return data


def _streamed_data() -> bytes:
    """Return a body sent in chunks, perhaps without end: one byte more than allowed at most."""
    data = b""
    # A server may hand on what has arrived so far, which is less than was asked for.
    while part := request.stream.read(MAX_BODY_BYTES + 1 - len(data)):
        data += part
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidRequest("The body names a member of an object twice.")
    return members


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)


def load(schema: Schema, data: Any) -> Any:
    """Return what `schema` makes of `data`; raise `InvalidFields`."""
    try:
        return schema.load(data)
    except ValidationError as error:
        raise InvalidFields(error.messages_dict) from None


def idempotency_key(body: Any) -> IdempotencyKey | None:
    """Return the `Idempotency-Key` with the body that it stands for; None where it is absent."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not re.fullmatch(rf"[ -~]{{1,{MAX_KEY_LENGTH}}}", key):
        raise InvalidRequest(f"Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable ASCII characters.")
    return IdempotencyKey(key, Secret(json.dumps(body, sort_keys=True)))


def if_match() -> list[int] | None:
    """Return the versions that `If-Match` names; None where it is absent or `*`."""
    if "HTTP_IF_MATCH" not in request.environ or request.if_match.star_tag:
        return None
    # Werkzeug reads the empty tag, `""`, as None.
    return [int(tag) for tag in request.if_match.as_set() if re.fullmatch(r"[1-9][0-9]{0,8}", tag or "")]


def endpoint_answer(endpoint: Endpoint, *, status: int = 200) -> Response:
    """Show an endpoint, with its version as ETag."""
    response = json_answer(endpoint_schemas.show(endpoint), status=status)
    response.set_etag(str(endpoint.version))
    return response


def own_path() -> str:
    """Return the path that was asked for, wherever the application is mounted, as URLs have it (RFC 3986)."""
    # Where the application is mounted, servers say as it was written, percent signs included; what follows is decoded.
    mount, path = quote(request.root_path, safe=f"{_SAFE}%"), quote(request.path, safe=_SAFE)
    # Some hosts let a slash follow.
    return f"{mount}{path}".rstrip("/")


def page_answer(shown: Sequence[Mapping[str, Any]], *, limit: int | None) -> Response:
    """Show the first `limit` of a list; where it has more, `Link` names the next page."""
    response = json_answer(shown[:limit])
    if limit is not None and len(shown) > limit:
        following = {**request.args.to_dict(flat=False), "cursor": [shown[limit - 1]["id"]]}
        response.headers["Link"] = f'<{own_path()}?{urlencode(following, doseq=True)}>; rel="next"'
    return response


def secret_answer(in_force: SecretInForce) -> Response:
    """Show a secret, once, to whoever asked."""
    response = json_answer(_secret_shown.dump(in_force))
    response.headers["Cache-Control"] = "no-store"
    return response


def json_answer(value: Any, *, status: int = 200) -> Response:
    """Answer with a JSON value."""
    return _answer(orjson.dumps(value), status=status, content_type="application/json")


def _answer(encoded: bytes | str, *, status: int, content_type: str) -> Response:
    response = Response(encoded, status=status, content_type=content_type)
    # A tenant's data: no shared cache may keep it, and no cache may show it unasked.
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def empty_answer(**headers: str) -> Response:
    """Answer 204."""
    response = Response(status=204, headers=headers)
    del response.headers["Content-Type"]
    return response


def problem_answer(problem: Problem) -> Response:
    """Answer with a problem document."""
    # It repeats names as they were sent, lone surrogates included, which orjson refuses.
    encoded = json.dumps(problem.document())
    response = _answer(encoded, status=problem.status, content_type="application/problem+json")
    response.headers.update(problem.headers)
    return response
