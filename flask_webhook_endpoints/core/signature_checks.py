"""The check of a pasted signature against all secrets of the tenant that may have made it."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import secrets
from flask_webhook_endpoints.database.scope import TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import UnreadableValue
from flask_webhook_endpoints.identifiers import format_id, parse_id
from flask_webhook_endpoints.security import encryption, pasted, signature_check
from flask_webhook_endpoints.security.encryption import Cipher, Secret
from flask_webhook_endpoints.security.signature_check import Diagnosis, KnownSecret

MAX_OTHERS = 100
"""The number of the tenant's other endpoints, the oldest ones, whose current secrets are tried."""


def check(
    scope: TenantScope,
    endpoint_id: UUID,
    headers_text: str,
    body_text: str,
    *,
    may_read: Callable[[UUID], bool],
    cipher: Cipher,
) -> Diagnosis:
    """Return which secret signed what a person has pasted, or why none did; raise `UnknownEndpoint`.

    Secrets whose key is lost are not tried, nor those of other endpoints unless `may_read` returns True: the answer
    would tell the person about them.
    """
    own = [
        KnownSecret(
            secret=each.secret,
            endpoint_id=endpoint_id,
            endpoint_name=None,
            created_at=each.created_at,
            expires_at=each.expires_at,
        )
        for each in secrets.all_of(scope, endpoint_id, cipher=cipher, with_expired=True)
        if each.secret is not None
    ]
    return signature_check.check(
        headers_text,
        body_text,
        own=own,
        others=(other for other in _others(scope, endpoint_id, cipher) if may_read(other.endpoint_id)),
        sent=_sent(scope, headers_text),
        now=scope.now,
    )


def _others(scope: TenantScope, endpoint_id: UUID, cipher: Cipher) -> Iterator[KnownSecret]:
    """Yield the current secrets of the tenant's other endpoints; ask the database with the first one."""
    values = {"of_tenant": scope.tenant_id, "of_endpoint": endpoint_id}
    rows: Any = scope.execute(_current_of_others(scope), values).all()
    for secret_id, token, created_at, other_id, name in rows:
        try:
            secret = Secret(cipher.decrypt(token, encryption.place_of_secret(secret_id, format_id(other_id))))
        except UnreadableValue:
            continue
        yield KnownSecret(
            secret=secret, endpoint_id=other_id, endpoint_name=name, created_at=created_at, expires_at=None
        )


def _sent(scope: TenantScope, headers_text: str) -> bytes | None:
    """Return the body of the event that the pasted headers name; None where the tenant has no such event."""
    if len(headers_text) > signature_check.MAX_HEADERS_LENGTH:
        return None
    event_id = parse_id(pasted.headers(headers_text).get(pasted.ID, ""), "evt")
    if event_id is None:
        return None
    values = {"of_tenant": scope.tenant_id, "of_event": event_id}
    return scope.execute(_body(scope), values).scalar_one_or_none()


@statement
def _current_of_others(tables: Tables, _dialect: str) -> Any:
    endpoint, secret = tables.endpoint, tables.secret
    # The limit is on endpoints, so that MariaDB does not read the secrets of all of them.
    others = (
        sa.select(endpoint.c.id, endpoint.c.name)
        .where(endpoint.c.tenant_id == sa.bindparam("of_tenant"), endpoint.c.id != sa.bindparam("of_endpoint"))
        .order_by(endpoint.c.id)
        .limit(MAX_OTHERS)
        .subquery("others")
    )
    return (
        sa.select(secret.c.id, secret.c.secret_encrypted, secret.c.created_at, others.c.id, others.c.name)
        .join_from(others, secret, secret.c.endpoint_id == others.c.id)
        .where(secret.c.expires_at.is_(None))
        .order_by(others.c.id)
    )


@statement
def _body(tables: Tables, _dialect: str) -> Any:
    event = tables.event
    return sa.select(event.c.body).where(
        event.c.id == sa.bindparam("of_event"), event.c.tenant_id == sa.bindparam("of_tenant")
    )
