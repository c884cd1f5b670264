"""`Idempotency-Key`: a request repeated within a day is answered as the first time and makes nothing new.

Source: the IETF draft "The Idempotency-Key HTTP Header Field". The row is claimed in the transaction that makes the
endpoint, so that the primary key decides between two requests at once.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import IdempotencyKeyReused
from flask_webhook_endpoints.security.encryption import Cipher, Secret

KEPT = timedelta(hours=24)


class IdempotencyKey(NamedTuple):
    """The value of the header, and the request's body in a canonical form, which may hold a secret."""

    key: str
    body: Secret


class Claim(NamedTuple):
    """The endpoint that the first request with a key made, and when."""

    endpoint_id: UUID
    created_at: datetime


class IdempotencyKeys:
    """Operations on `webhook_idempotency_key`; none commits."""

    def __init__(self, tables: Tables, cipher: Cipher) -> None:
        self._cipher = cipher
        self._tables = tables
        self._table = table = tables.idempotency_key
        self._select = sa.select(table.c.fingerprint, table.c.endpoint_id, table.c.created_at).where(
            table.c.tenant_id == sa.bindparam("tenant_id"), table.c.key == sa.bindparam("key")
        )

    def claim(
        self, session: Session, tenant_id: str, key: IdempotencyKey, *, endpoint_id: UUID, now: datetime
    ) -> Claim:
        """Return the claim that holds: this request's, or that of the first one with the same key and body.

        Raises `IdempotencyKeyReused` where the first one had another body.
        """
        row = {
            "tenant_id": tenant_id,
            "key": key.key,
            "fingerprint": self._cipher.fingerprint(key.body.reveal()),
            "endpoint_id": endpoint_id,
            "created_at": now,
        }
        while True:
            if self._tables.insert_if_absent(session, self._table, row):
                return Claim(endpoint_id, now)
            first = self._first(session, row)
            if first is None:
                continue
            if first.created_at > now - KEPT:
                if not self._cipher.matches(first.fingerprint, key.body.reveal()):
                    raise IdempotencyKeyReused
                return Claim(first.endpoint_id, first.created_at)
            self.forget(session, before=first.created_at, tenant_id=tenant_id, key=key.key)

    def forget(
        self, session: Session, *, before: datetime, tenant_id: str | None = None, key: str | None = None
    ) -> int:
        """Delete the keys first used at `before` or earlier; return how many."""
        table = self._table
        statement = sa.delete(table).where(table.c.created_at <= before)
        if tenant_id is not None:
            statement = statement.where(table.c.tenant_id == tenant_id, table.c.key == key)
        return self._tables.execute(session, statement).rowcount

    def prune(self, session: Session, *, limit: int, now: datetime) -> int:
        """Delete the oldest of the keys that are no longer kept, about `limit` of them; return how many."""
        created_at = self._table.c.created_at
        expired = sa.select(created_at).where(created_at <= now - KEPT).order_by(created_at)
        last = self._tables.execute(session, expired.offset(limit - 1).limit(1)).scalar_one_or_none()
        return self.forget(session, before=last or now - KEPT)

    def _first(self, session: Session, row: Mapping[str, Any]) -> Any:
        statement = self._select
        if self._tables.dialect(session).name != "postgresql":
            # The shared lock makes MariaDB read what is committed now, not what its snapshot holds. On PostgreSQL it
            # would only make those who share it wait for each other, each to delete the same expired key.
            statement = statement.with_for_update(read=True)
        return self._tables.execute(session, statement, row).one_or_none()
