"""Forms that pages of ours send: from this site alone, with one effect however often one is sent.

Where the host has Flask-WTF, its token protects the forms, too. Source: W3C Fetch Metadata Request Headers
(`Sec-Fetch-Site`), RFC 6454 (`Origin`).
"""

import json
import secrets
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from flask import current_app, request

from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import idempotency
from flask_webhook_endpoints.core.idempotency import IdempotencyKey
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import (
    BodyTooLarge,
    CrossSiteRequest,
    IdempotencyKeyReused,
    InvalidRequest,
    TooManyIdempotencyKeys,
)
from flask_webhook_endpoints.identifiers import IDEMPOTENCY_KEY
from flask_webhook_endpoints.portal.texts import gettext
from flask_webhook_endpoints.security.encryption import Cipher, Secret

T = TypeVar("T")

ONCE = "once"
"""The field that tells a form that is sent twice from two forms."""

MAX_BYTES = 4 * 1024 * 1024
"""Bytes that a form may have. A body to check fits, with each character in the longest spelling that URLs have."""


def read() -> None:
    """Read the form now, so that one that can't be read has no effect; raise `BodyTooLarge`, `InvalidRequest`."""
    if (request.content_length or 0) > MAX_BYTES:
        raise BodyTooLarge(MAX_BYTES)
    # A field in a part of its own may lack a name.
    if None in request.form:
        raise InvalidRequest(gettext("The form was changed on its way. Open the page again."))


def check_site() -> None:
    """Raise `CrossSiteRequest` unless a page of this site sent the form."""
    site = request.headers.get("Sec-Fetch-Site", "").strip().lower()
    if site:
        # A page of another subdomain may be a customer's.
        is_ours = site in ("same-origin", "none")
    else:
        origin = request.headers.get("Origin")
        is_ours = origin is None or _host_of(origin) == request.host.lower()
    if not is_ours:
        raise CrossSiteRequest(gettext("A page of another site sent this form. Open the page here, and send it again."))


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def typed(field: str) -> str:
    """Return the text that the person typed into a field; only templates ask, so that no frame has it."""
    return request.form.get(field, "")


def csrf_field() -> str:
    """Return the name of the field for the token of the host's Flask-WTF."""
    return str(current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token"))


def once() -> str:
    """Return the value of the field `ONCE` for a new form."""
    return secrets.token_urlsafe(16)


def run_once(
    caller: Caller,
    operation: Callable[[TenantScope], T],
    location: Callable[[T], str],
    *,
    then: Callable[[T], object] | None = None,
) -> str:
    """Run the operation of a form and commit; return the URL where the browser sees its result.

    A form that is sent twice has one effect: the second time, the first URL is returned.

    Args:
        caller: The tenant of the request.
        operation: Has the effect.
        location: Makes the URL from the operation's result; it holds no secret.
        then: Runs with the result after the commit, and only the first time.

    Raises `IdempotencyKeyReused` if the form was sent before with other values, and what the operation raises.

    """
    return caller.run_once(
        _key(), operation, location, written=Secret, read=lambda url: url.reveal(), claim=_claim, then=then
    )


def _claim(scope: TenantScope, key: IdempotencyKey, *, cipher: Cipher) -> Secret | None:
    try:
        return idempotency.claim(scope, key, cipher=cipher)
    except IdempotencyKeyReused:
        sent = gettext(
            "You sent this form before, with other values. Look what it did; then send it again if you like."
        )
        raise IdempotencyKeyReused(sent) from None
    except TooManyIdempotencyKeys:
        # Programs of the tenant have used all keys of the day: that must not keep people from rotating a secret.
        idempotency.release(scope, key)
        return None


def _key() -> IdempotencyKey | None:
    given = request.form.get(ONCE)
    if given is None:
        return None
    key = f"portal:{given}"
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest(gettext("The form was changed on its way. Open the page again."))
    # The host's CSRF token differs from one page to the next.
    other = (ONCE, csrf_field())
    values = sorted((name, value) for name, value in request.form.items(multi=True) if name not in other)
    return IdempotencyKey(key, Secret(json.dumps([request.path, values])))
