"""The secrets that sign an endpoint's deliveries: made, read, rotated; stored encrypted.

Source: Standard Webhooks 1.0.0, "Signature scheme" (`whsec_` keys) and "Secret rotation".
"""

import secrets
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.scope import TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import UnknownEndpoint, UnreadableSecret, UnreadableValue
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.security import encryption, signing
from flask_webhook_endpoints.security.encryption import Cipher, Secret

DEFAULT_OVERLAP_SECONDS = 86_400
"""Seconds, a day, for which deliveries are also signed with the previous secret, unless the tenant says otherwise."""

MAX_OVERLAP_SECONDS = 604_800
"""Seconds, a week: the longest overlap that a tenant may ask for."""

MAX_OLD_SECRETS = 3
"""Previous secrets that still sign. A rotation drops the oldest beyond them, which keeps the signature header short."""


class SecretInForce(NamedTuple):
    """The secret that signs first, and when the last previous secret stops signing (null: it has stopped)."""

    secret: Secret
    created_at: datetime
    previous_expires_at: datetime | None


class StoredSecret(NamedTuple):
    """A secret that signs: the current one, or a previous one until it expires."""

    secret: Secret | None
    """None where the key that encrypted it is lost. Deliveries are not signed with it then."""
    created_at: datetime
    expires_at: datetime | None
    """When a previous secret stops signing. None: this is the current secret."""


def generate() -> Secret:
    """Return a Standard Webhooks key of 32 random bytes."""
    return Secret(f"whsec_{b64encode(secrets.token_bytes(32)).decode('ascii')}")


def row_of(scope: TenantScope, endpoint_id: UUID, secret: Secret, *, cipher: Cipher) -> dict[str, Any]:
    """Return the row of a secret that is put in force."""
    secret_id = new_id()
    place = encryption.place_of_secret(secret_id, format_id(endpoint_id))
    return {
        "id": secret_id,
        "endpoint_id": endpoint_id,
        "secret_encrypted": cipher.encrypt(secret.reveal(), place),
        "created_at": scope.now,
        "expires_at": None,
    }


def rotate(
    scope: TenantScope, endpoint_id: UUID, secret: Secret, *, overlap_seconds: int, cipher: Cipher
) -> SecretInForce:
    """Put `secret` in force. The previous one also signs for `overlap_seconds`; 0 ends all previous ones at once.

    The caller has updated the endpoint's row: its lock makes rotations come one after another.
    """
    until = scope.now + timedelta(seconds=overlap_seconds)
    rows = scope.execute(_of_endpoint(scope), {"endpoint_id": endpoint_id}).all()
    signing = [row for row in rows if row.expires_at is None]
    signing += [row for row in rows if row.expires_at is not None and row.expires_at > scope.now]
    kept = {row.id: row.expires_at or until for row in signing[:MAX_OLD_SECRETS] if overlap_seconds}
    if dropped := [row.id for row in rows if row.id not in kept]:
        scope.execute(_drop(scope), {"ids": dropped})
    if in_force := [row.id for row in rows if row.expires_at is None and row.id in kept]:
        scope.execute(_expire(scope), {"ids": in_force, "until": until})
    scope.execute(_insert(scope), row_of(scope, endpoint_id, secret, cipher=cipher))
    return SecretInForce(secret, scope.now, max(kept.values(), default=None))


def in_force(scope: TenantScope, endpoint_id: UUID, *, cipher: Cipher) -> SecretInForce:
    """Return the secret that signs; raise `UnknownEndpoint`, or `UnreadableSecret` when its key is lost."""
    newest, *previous = all_of(scope, endpoint_id, cipher=cipher)
    if newest.secret is None:
        raise UnreadableSecret
    ends = (each.expires_at for each in previous if each.expires_at is not None)
    return SecretInForce(newest.secret, newest.created_at, max(ends, default=None))


def all_of(
    scope: TenantScope, endpoint_id: UUID, *, cipher: Cipher, with_expired: bool = False
) -> Sequence[StoredSecret]:
    """Return the current secret, then the previous ones, newest first; raise `UnknownEndpoint`.

    With `with_expired`, they include previous secrets that sign no longer, if these are still stored.
    """
    rows = scope.execute(_of_tenant(scope), {"endpoint_id": endpoint_id, "tenant_id": scope.tenant_id}).all()
    if not rows:
        raise UnknownEndpoint
    return [
        StoredSecret(_decrypted(row, endpoint_id, cipher), row.created_at, row.expires_at)
        for row in rows
        if with_expired or row.expires_at is None or row.expires_at > scope.now
    ]


def format_of(secret: Secret | None) -> Literal["whsec", "raw"] | None:
    """Return how a secret is written: base64 of the bytes that sign, or their text. None: its key is lost."""
    if secret is None:
        return None
    return "whsec" if signing.is_key(secret.reveal()) else "raw"


def remove(scope: TenantScope, endpoint_id: UUID | None = None) -> None:
    """Delete the secrets of one endpoint, or of all endpoints of the tenant, which are being deleted."""
    # SQLite cascades only where the host turned it on.
    values = {"of_endpoint": endpoint_id, "of_tenant": scope.tenant_id}
    scope.execute(_delete(scope, all_of_tenant=endpoint_id is None), values)


def current_first(tables: Tables) -> tuple[sa.ColumnElement[Any], ...]:
    """Return the order of an endpoint's secrets: the current one, then the previous ones, newest first."""
    secret = tables.secret
    # Not by their ids alone: the ids of two processes may be in another order than their writes.
    return secret.c.expires_at.is_not(None), secret.c.id.desc()


def _decrypted(row: Any, endpoint_id: UUID, cipher: Cipher) -> Secret | None:
    try:
        return Secret(cipher.decrypt(row.secret_encrypted, encryption.place_of_secret(row.id, format_id(endpoint_id))))
    except UnreadableValue:
        return None


@statement
def _insert(tables: Tables, _dialect: str) -> sa.Insert:
    return sa.insert(tables.secret)


@statement
def _delete(tables: Tables, _dialect: str, *, all_of_tenant: bool) -> sa.Delete:
    endpoint, secret = tables.endpoint, tables.secret
    if not all_of_tenant:
        return sa.delete(secret).where(secret.c.endpoint_id == sa.bindparam("of_endpoint"))
    of_tenant = sa.select(endpoint.c.id).where(endpoint.c.tenant_id == sa.bindparam("of_tenant"))
    return sa.delete(secret).where(secret.c.endpoint_id.in_(of_tenant))


@statement
def _drop(tables: Tables, dialect: str) -> sa.Delete:
    return sa.delete(tables.secret).where(tables.among(dialect, tables.secret.c.id, "ids"))


@statement
def _expire(tables: Tables, dialect: str) -> sa.Update:
    secret = tables.secret
    return sa.update(secret).where(tables.among(dialect, secret.c.id, "ids")).values(expires_at=sa.bindparam("until"))


@statement
def _of_tenant(tables: Tables, _dialect: str) -> Any:
    endpoint, secret = tables.endpoint, tables.secret
    return (
        sa.select(secret.c.id, secret.c.secret_encrypted, secret.c.created_at, secret.c.expires_at)
        .join(endpoint, endpoint.c.id == secret.c.endpoint_id)
        .where(endpoint.c.id == sa.bindparam("endpoint_id"), endpoint.c.tenant_id == sa.bindparam("tenant_id"))
        .order_by(*current_first(tables))
    )


@statement
def _of_endpoint(tables: Tables, _dialect: str) -> Any:
    secret = tables.secret
    return (
        sa.select(secret.c.id, secret.c.expires_at)
        .where(secret.c.endpoint_id == sa.bindparam("endpoint_id"))
        .order_by(secret.c.id.desc())
        # The lock makes MariaDB read what is committed now, not its transaction's snapshot.
        .with_for_update()
    )
