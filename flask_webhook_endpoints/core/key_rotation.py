"""Renewal of what is stored encrypted: secrets and headers get under the newest key, batch by batch.

For operators, so across all tenants. Nothing here commits.
"""

from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import UnreadableValue
from flask_webhook_endpoints.security.encryption import Cipher


class Encrypted(NamedTuple):
    """A column that holds encrypted values."""

    what: str
    """How people call it."""
    column: sa.Column[Any]
    endpoint_id: sa.Column[Any]
    """The column beside it that names the endpoint."""


class Renewed(NamedTuple):
    """What became of one batch."""

    read: int
    """Values that the batch had."""
    renewed: int
    """Those now under the newest key; of the others, what was not unreadable was written anew meanwhile."""
    unreadable: list[UUID]
    """The endpoints whose value no key decrypts."""
    last: UUID | None
    """The row after which the next batch begins; null: there are no more."""


def encrypted(tables: Tables) -> tuple[Encrypted, ...]:
    """Return all that is stored encrypted."""
    endpoint, secret = tables.endpoint.c, tables.secret.c
    return (
        Encrypted("secrets", secret.secret_encrypted, secret.endpoint_id),
        Encrypted("headers", endpoint.headers_encrypted, endpoint.id),
    )


def count(session: Session, tables: Tables, column: sa.Column[Any]) -> int:
    """Return how many values the column holds."""
    total: int = tables.execute(session, sa.select(sa.func.count(column))).scalar_one()
    return total


def renew(
    session: Session, tables: Tables, cipher: Cipher, values: Encrypted, *, after: UUID | None, limit: int
) -> Renewed:
    """Encrypt the values of `limit` rows at most, those after the row `after`, with the newest key."""
    column, row_id = values.column, values.column.table.c.id
    batch = sa.select(row_id, values.endpoint_id, column).where(column.is_not(None)).order_by(row_id).limit(limit)
    rows = tables.execute(session, batch if after is None else batch.where(row_id > after)).all()
    unreadable: list[UUID] = []
    updates = []
    for row in rows:
        of_id, endpoint_id, token = tuple(row)
        try:
            updates.append({"of_id": of_id, "read": token, "new": cipher.renew(token)})
        except UnreadableValue:
            unreadable.append(endpoint_id)
    # Only where the value is still the one read: what a request writes meanwhile stays.
    still_the_one = sa.and_(row_id == sa.bindparam("of_id"), column == sa.bindparam("read"))
    update = sa.update(column.table).where(still_the_one).values({column: sa.bindparam("new")})
    renewed = tables.execute(session, update, updates).rowcount if updates else 0
    return Renewed(len(rows), renewed, unreadable, rows[-1][0] if rows else None)
