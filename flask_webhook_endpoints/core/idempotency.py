"""`Idempotency-Key`: a request repeated within a day gets the first answer again and does nothing twice.

Source: the IETF draft "The Idempotency-Key HTTP Header Field". The transaction that has the request's effect also
writes the key's row, so that the primary key decides between two requests at the same moment. A request that is refused
or fails leaves no row.
"""

import hashlib
import math
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.scope import TenantScope, as_committed, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import IdempotencyKeyReused, TooManyIdempotencyKeys, UnreadableValue
from flask_webhook_endpoints.security.encryption import Cipher, Secret, place_of_answer

KEPT = timedelta(hours=24)
"""The time for which a key is kept; after it the key may be used for another request."""

MAX_KEYS = 10_000
"""The number of keys that a tenant may use within that time."""

_DIGEST_LENGTH = 64


class IdempotencyKey(NamedTuple):
    """The value of the header, and the request in a canonical form, which may hold a secret."""

    key: str
    request: Secret


def claim(scope: TenantScope, key: IdempotencyKey, *, cipher: Cipher) -> Secret | None:
    """Return the answer to the first request with this key; None: this is the first, so `keep` its answer.

    Raises `IdempotencyKeyReused` where the first request was another one, and `TooManyIdempotencyKeys`.
    """
    table = scope.tables.idempotency_key
    row = {"tenant_id": scope.tenant_id, "key": key.key, "created_at": scope.now, "answer_encrypted": None}
    while True:
        if scope.insert_if_absent(table, row):
            _check_number(scope)
            return None
        first = scope.execute(_first(scope), row).one_or_none()
        if first is None:
            continue
        # An older version kept no answers.
        if first.created_at > scope.now - KEPT and first.answer_encrypted is not None:
            return _answer(scope, key, first.answer_encrypted, cipher)
        expired = (table.c.created_at <= first.created_at, table.c.tenant_id == scope.tenant_id, table.c.key == key.key)
        scope.execute(sa.delete(table).where(*expired))


def keep(scope: TenantScope, key: IdempotencyKey, answer: Secret, *, cipher: Cipher) -> None:
    """Keep the answer to the first request with this key, encrypted: it may show a secret or header values."""
    text = f"{_digest(key)}{answer.reveal()}"
    token = cipher.encrypt(text, place_of_answer(scope.tenant_id, key.key))
    scope.execute(_keep(scope), {"of_tenant": scope.tenant_id, "of_key": key.key, "token": token})


def release(scope: TenantScope, key: IdempotencyKey) -> None:
    """Forget a key that this transaction has claimed, so that the request runs as one without a key."""
    table = scope.tables.idempotency_key
    scope.execute(sa.delete(table).where(table.c.tenant_id == scope.tenant_id, table.c.key == key.key))


def forget_tenant(scope: TenantScope) -> None:
    """Forget the tenant's keys."""
    table = scope.tables.idempotency_key
    scope.execute(sa.delete(table).where(table.c.tenant_id == scope.tenant_id))


def _answer(scope: TenantScope, key: IdempotencyKey, token: str, cipher: Cipher) -> Secret:
    try:
        text = cipher.decrypt(token, place_of_answer(scope.tenant_id, key.key))
    except UnreadableValue:
        # Without the key, nobody can tell which request it was.
        raise IdempotencyKeyReused from None
    if text[:_DIGEST_LENGTH] != _digest(key):
        raise IdempotencyKeyReused
    return Secret(text[_DIGEST_LENGTH:])


def _digest(key: IdempotencyKey) -> str:
    return hashlib.sha256(key.request.reveal().encode()).hexdigest()


def _check_number(scope: TenantScope) -> None:
    """Raise `TooManyIdempotencyKeys` if the tenant has used more keys than it may, this one included."""
    values = {"of_tenant": scope.tenant_id}
    if scope.execute(_count(scope), values).scalar_one() <= MAX_KEYS:
        return
    table, since = scope.tables.idempotency_key, scope.now - KEPT
    expired = sa.delete(table).where(table.c.tenant_id == scope.tenant_id, table.c.created_at <= since)
    if scope.execute(expired).rowcount:
        return
    oldest = sa.select(sa.func.min(table.c.created_at)).where(table.c.tenant_id == scope.tenant_id)
    seconds = (scope.execute(oldest).scalar_one() - since).total_seconds()
    raise TooManyIdempotencyKeys(MAX_KEYS, seconds=math.ceil(seconds))


@statement
def _first(tables: Tables, dialect: str) -> Any:
    table = tables.idempotency_key
    first: Any = sa.select(table.c.answer_encrypted, table.c.created_at).where(
        table.c.tenant_id == sa.bindparam("tenant_id"), table.c.key == sa.bindparam("key")
    )
    # Elsewhere a shared lock would only make requests wait for each other, each to delete the same expired key.
    return as_committed(first) if dialect in dialects.SNAPSHOT_OF_TRANSACTION else first


@statement
def _keep(tables: Tables, _dialect: str) -> sa.Update:
    table = tables.idempotency_key
    of_key = table.c.tenant_id == sa.bindparam("of_tenant"), table.c.key == sa.bindparam("of_key")
    return sa.update(table).where(*of_key).values(answer_encrypted=sa.bindparam("token"))


@statement
def _count(tables: Tables, _dialect: str) -> sa.Select[Any]:
    table = tables.idempotency_key
    return sa.select(sa.func.count()).select_from(table).where(table.c.tenant_id == sa.bindparam("of_tenant"))
