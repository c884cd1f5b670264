"""Idempotency of a POST: a request repeated with its `Idempotency-Key` has no effect, and gets the first answer.

Source: the IETF draft "The Idempotency-Key HTTP Header Field"; `Idempotent-Replayed` is what other services send.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Response, request

from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.api import responses
from flask_webhook_endpoints.api.requests import BODY
from flask_webhook_endpoints.core.idempotency import IdempotencyKey
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import InvalidRequest
from flask_webhook_endpoints.identifiers import IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_RULE
from flask_webhook_endpoints.security.encryption import Secret
from flask_webhook_endpoints.security.private import Private

T = TypeVar("T")

REPLAYED = "Idempotent-Replayed"
"""The header of an answer that a repeated request gets."""


def run_once(
    caller: Caller,
    body: Private[Any],
    operation: Callable[[TenantScope], T],
    answer: Callable[[T], Response],
    *,
    then: Callable[[T], object] | None = None,
) -> Response:
    """Run the operation of a POST, commit, and return its answer, or the first answer to a repeated key.

    Args:
        caller: Who asks.
        body: The request's body, as `requests.read_body` returns it.
        operation: Has the effect, in the transaction that also keeps the answer.
        answer: Makes the answer from the operation's result.
        then: Runs with the result after the commit, and not for a repeated request.

    Raises `InvalidRequest`, `IdempotencyKeyReused`, `TooManyIdempotencyKeys`, and what the operation raises.

    """
    return caller.run_once(_key(body), operation, answer, written=_written, read=_replay, then=then)


def _key(body: Private[Any]) -> IdempotencyKey | None:
    """Return the `Idempotency-Key` with the request that it stands for; None where it is absent."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest(f"Idempotency-Key {IDEMPOTENCY_KEY_RULE}")
    canonical = json.dumps([request.method, responses.own_path(), body[BODY]], sort_keys=True)
    return IdempotencyKey(key, Secret(canonical))


def _written(response: Response) -> Secret:
    """Return an answer as text: its status, its headers and its body."""
    head = json.dumps([response.status_code, list(response.headers)])
    return Secret(f"{head}\n{response.get_data(as_text=True)}")


def _replay(answer: Secret) -> Response:
    head, _, data = answer.reveal().partition("\n")
    status, headers = json.loads(head)
    return Response(data, status=status, headers=[*headers, (REPLAYED, "true")])
