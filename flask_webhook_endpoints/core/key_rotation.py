"""Key rotation: stored secrets and headers are re-encrypted with the newest key.

For operators, across all tenants. No function here commits.
"""

from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import UnreadableValue
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.security import encryption
from flask_webhook_endpoints.security.encryption import Cipher


class Encrypted(NamedTuple):
    """A column that holds encrypted values."""

    what: str
    """Its name for people, and in the JSON of `flask webhooks rotate-keys`."""
    column: sa.Column[Any]
    endpoint_id: sa.Column[Any]
    """The column of the same table that names the endpoint."""

    def place(self, row_id: UUID, endpoint_id: UUID) -> str:
        """Return the only place where the value of a row can be read."""
        ep_id = format_id(endpoint_id)
        if row_id == endpoint_id:
            return encryption.place_of_headers(ep_id)
        return encryption.place_of_secret(row_id, ep_id)


class Renewed(NamedTuple):
    """The result of one batch."""

    read: int
    """Values in the batch."""
    renewed: int
    """Values that were re-encrypted. A request wrote the others meanwhile, unless they are unreadable."""
    unreadable: list[UUID]
    """The endpoints whose value no key decrypts."""
    last: UUID
    """The last row of the batch; the next batch begins after it."""


def encrypted(tables: Tables) -> tuple[Encrypted, ...]:
    """Return all columns that hold encrypted values."""
    endpoint, secret = tables.endpoint.c, tables.secret.c
    return (
        Encrypted("secrets", secret.secret_encrypted, secret.endpoint_id),
        Encrypted("headers", endpoint.headers_encrypted, endpoint.id),
    )


def count(scope: Scope, values: Encrypted) -> int:
    """Return the number of values that the column holds."""
    return int(scope.execute(sa.select(sa.func.count(values.column))).scalar_one())


def renew(scope: Scope, values: Encrypted, *, cipher: Cipher, after: UUID | None = None) -> Renewed | None:
    """Re-encrypt one batch of values, in the rows after the row `after`; return None when none is left."""
    column, row_id = values.column, values.column.table.c.id
    batch = sa.select(row_id, values.endpoint_id, column).where(column.is_not(None)).order_by(row_id)
    batch = batch.limit(transactions.BATCH)
    rows = scope.execute(batch if after is None else batch.where(row_id > after)).all()
    if not rows:
        return None
    unreadable: list[UUID] = []
    updates = []
    for row in rows:
        of_id, endpoint_id, token = tuple(row)
        try:
            renewed_token = cipher.renew(token, values.place(of_id, endpoint_id))
            updates.append({"of_id": of_id, "read": token, "new": renewed_token})
        except UnreadableValue:
            unreadable.append(endpoint_id)
    # Only where the value is still the one that was read: a value that a request writes meanwhile stays.
    unchanged = sa.and_(row_id == sa.bindparam("of_id"), column == sa.bindparam("read"))
    update = sa.update(column.table).where(unchanged).values({column: sa.bindparam("new")})
    renewed = scope.execute(update, updates).rowcount if updates else 0
    return Renewed(len(rows), renewed, unreadable, rows[-1][0])
