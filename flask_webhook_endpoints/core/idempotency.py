"""`Idempotency-Key`: a request repeated within a day gets the first answer again and makes nothing new.

Source: the IETF draft "The Idempotency-Key HTTP Header Field". The transaction that makes the endpoint also claims the
key's row, so that the primary key decides between two requests at the same moment.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database.scope import TenantScope, as_committed, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import IdempotencyKeyReused
from flask_webhook_endpoints.security.encryption import Cipher, Secret

KEPT = timedelta(hours=24)
"""The time for which a key is kept; after it the key may be used for another request."""


class IdempotencyKey(NamedTuple):
    """The value of the header, and the request's body in a canonical form, which may hold a secret."""

    key: str
    body: Secret


class Claim(NamedTuple):
    """The endpoint that the first request with a key made, and when."""

    endpoint_id: UUID
    created_at: datetime


def claim(scope: TenantScope, key: IdempotencyKey, *, endpoint_id: UUID, cipher: Cipher) -> Claim:
    """Return the claim that holds: of this request, or of the first request with the same key and body.

    Raises `IdempotencyKeyReused` where the first request had another body.
    """
    row = {
        "tenant_id": scope.tenant_id,
        "key": key.key,
        "fingerprint": cipher.fingerprint(key.body.reveal()),
        "endpoint_id": endpoint_id,
        "created_at": scope.now,
    }
    table = scope.tables.idempotency_key
    while True:
        if scope.insert_if_absent(table, row):
            return Claim(endpoint_id, scope.now)
        first = scope.execute(_first(scope), row).one_or_none()
        if first is None:
            continue
        if first.created_at > scope.now - KEPT:
            if not cipher.matches(first.fingerprint, key.body.reveal()):
                raise IdempotencyKeyReused
            return Claim(first.endpoint_id, first.created_at)
        expired = (table.c.created_at <= first.created_at, table.c.tenant_id == scope.tenant_id, table.c.key == key.key)
        scope.execute(sa.delete(table).where(*expired))


@statement
def _first(tables: Tables, dialect: str) -> Any:
    table = tables.idempotency_key
    first: Any = sa.select(table.c.fingerprint, table.c.endpoint_id, table.c.created_at).where(
        table.c.tenant_id == sa.bindparam("tenant_id"), table.c.key == sa.bindparam("key")
    )
    # On PostgreSQL the shared lock would only make requests wait for each other, each to delete the same expired key.
    return first if dialect == "postgresql" else as_committed(first)
