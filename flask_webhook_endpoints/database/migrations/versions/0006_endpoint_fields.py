"""Give endpoints a description and metadata, which tenants write for themselves.

This revision is history: it does not change when the models do.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"

_MYSQL = ("mysql", "mariadb")
_DESCRIPTION = sa.String(1000).with_variant(mysql.VARCHAR(1000, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)
_METADATA = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)


def upgrade() -> None:
    """Add the columns."""
    schema = context.config.attributes["schema"]
    op.add_column("webhook_endpoint", sa.Column("description", _DESCRIPTION), schema=schema)
    op.add_column("webhook_endpoint", sa.Column("metadata_json", _METADATA), schema=schema)


def downgrade() -> None:
    """Drop them, with what they hold."""
    schema = context.config.attributes["schema"]
    for name in ("metadata_json", "description"):
        op.drop_column("webhook_endpoint", name, schema=schema)
