"""The answer that a repeated `Idempotency-Key` gets, in place of the endpoint that the first request made.

Keys that were used before are forgotten, because their answers were not kept. This revision is history: it does not
change when the models do.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0009"
down_revision = "0008"

_MYSQL = ("mysql", "mariadb")
_UUID = sa.Uuid().with_variant(sa.CHAR(32), *_MYSQL)
_ANSWER = sa.Text().with_variant(mysql.MEDIUMTEXT(), *_MYSQL)
_TABLE = "webhook_idempotency_key"


def upgrade() -> None:
    """Forget all keys, and keep answers."""
    schema = context.config.attributes["schema"]
    op.execute(sa.delete(sa.table(_TABLE, schema=schema)))
    op.add_column(_TABLE, sa.Column("answer_encrypted", _ANSWER), schema=schema)
    for name in ("fingerprint", "endpoint_id"):
        op.drop_column(_TABLE, name, schema=schema)


def downgrade() -> None:
    """Forget all keys, and the answers."""
    schema = context.config.attributes["schema"]
    op.execute(sa.delete(sa.table(_TABLE, schema=schema)))
    op.drop_column(_TABLE, "answer_encrypted", schema=schema)
    # The table is empty, but SQLite wants a default for what may not be null.
    op.add_column(_TABLE, sa.Column("fingerprint", sa.String(64), nullable=False, server_default=""), schema=schema)
    no_id = "0" * 32
    op.add_column(_TABLE, sa.Column("endpoint_id", _UUID, nullable=False, server_default=no_id), schema=schema)
