"""The secrets that an endpoint's deliveries are signed with: made, read, rotated; stored encrypted.

Source: Standard Webhooks 1.0.0, "Signature scheme" (`whsec_` keys) and "Secret rotation".
"""

import secrets
from base64 import b64encode
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.prepared import Prepared
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import UnknownEndpoint, UnreadableSecret, UnreadableValue
from flask_webhook_endpoints.security.encryption import Cipher, Secret

DEFAULT_OVERLAP_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 604_800
MAX_OLD_SECRETS = 3
"""Old secrets that may sign along; a rotation beyond it drops the oldest, so that the header stays short."""


class SecretInForce(NamedTuple):
    """The secret that signs first, and until when the one before it signs along (null: no longer)."""

    secret: Secret
    created_at: datetime
    previous_expires_at: datetime | None


def generate() -> Secret:
    """Return a Standard Webhooks key of 32 random bytes."""
    return Secret(f"whsec_{b64encode(secrets.token_bytes(32)).decode('ascii')}")


class EndpointSecrets:
    """Operations on `webhook_secret`; none commits."""

    def __init__(self, tables: Tables, cipher: Cipher) -> None:
        self._cipher = cipher
        self._tables = tables
        self._table = table = tables.secret
        endpoint = tables.endpoint
        self._insert = Prepared(tables, sa.insert(table))
        self._delete = Prepared(tables, sa.delete(table).where(table.c.endpoint_id == sa.bindparam("of_endpoint")))
        self._of_tenant = (
            sa.select(table.c.secret_encrypted, table.c.created_at, table.c.expires_at)
            .join(endpoint, endpoint.c.id == table.c.endpoint_id)
            .where(
                endpoint.c.id == sa.bindparam("endpoint_id"),
                endpoint.c.tenant_id == sa.bindparam("tenant_id"),
            )
            # The one in force before the old ones: ids of two processes may be in another order than their writes.
            .order_by(table.c.expires_at.is_not(None), table.c.id.desc())
        )
        # The lock makes MariaDB read what is committed now, not what its snapshot holds.
        self._of_endpoint = (
            sa.select(table.c.id, table.c.expires_at)
            .where(table.c.endpoint_id == sa.bindparam("endpoint_id"))
            .order_by(table.c.id.desc())
            .with_for_update()
        )

    def add(self, session: Session, endpoint_id: UUID, secret: Secret, *, now: datetime) -> None:
        """Store the secret in force of an endpoint that has none."""
        row = {
            "id": new_id(),
            "endpoint_id": endpoint_id,
            "secret_encrypted": self._cipher.encrypt(secret.reveal()),
            "created_at": now,
            "expires_at": None,
        }
        self._insert.execute(session, row)

    def rotate(
        self, session: Session, endpoint_id: UUID, secret: Secret, *, overlap_seconds: int, now: datetime
    ) -> SecretInForce:
        """Put `secret` in force; the one before it signs along for `overlap_seconds`, and with 0 none at all does.

        The caller holds the lock on the endpoint's row, by having updated it, so that rotations come one after another.
        """
        until = now + timedelta(seconds=overlap_seconds)
        rows = self._tables.execute(session, self._of_endpoint, {"endpoint_id": endpoint_id}).all()
        signing = [row for row in rows if row.expires_at is None]
        signing += [row for row in rows if row.expires_at is not None and row.expires_at > now]
        kept = {row.id: row.expires_at or until for row in signing[:MAX_OLD_SECRETS] if overlap_seconds}
        table = self._table
        if dropped := [row.id for row in rows if row.id not in kept]:
            self._tables.execute(session, sa.delete(table).where(table.c.id.in_(dropped)))
        if in_force := [row.id for row in rows if row.expires_at is None and row.id in kept]:
            expire = sa.update(table).where(table.c.id.in_(in_force)).values(expires_at=until)
            self._tables.execute(session, expire)
        self.add(session, endpoint_id, secret, now=now)
        return SecretInForce(secret, now, max(kept.values(), default=None))

    def in_force(self, session: Session, tenant_id: str, endpoint_id: UUID, *, now: datetime) -> SecretInForce:
        """Return the secret that signs; raise `UnknownEndpoint`, or `UnreadableSecret` when its key is lost."""
        names = {"endpoint_id": endpoint_id, "tenant_id": tenant_id}
        rows = self._tables.execute(session, self._of_tenant, names).all()
        if not rows:
            raise UnknownEndpoint
        in_force = rows[0]
        previous = [row.expires_at for row in rows[1:] if row.expires_at is not None and row.expires_at > now]
        try:
            secret = Secret(self._cipher.decrypt(in_force.secret_encrypted))
        except UnreadableValue:
            raise UnreadableSecret from None
        return SecretInForce(secret, in_force.created_at, max(previous, default=None))

    def remove(self, session: Session, endpoint_id: UUID) -> None:
        """Wipe the secrets of an endpoint that is being deleted (SQLite cascades only where the host turned it on)."""
        self._delete.execute(session, {"of_endpoint": endpoint_id})

    def prune(self, session: Session, *, after: UUID | None, limit: int, now: datetime) -> list[UUID]:
        """Delete the secrets that sign no more, `limit` at most of those after the id `after`; return their ids.

        For operators, so across all tenants.
        """
        table = self._table
        expired = sa.select(table.c.id).where(table.c.expires_at <= now).order_by(table.c.id).limit(limit)
        if after is not None:
            expired = expired.where(table.c.id > after)
        ids = list(self._tables.execute(session, expired).scalars())
        if ids:
            self._tables.execute(session, sa.delete(table).where(table.c.id.in_(ids)))
        return ids
