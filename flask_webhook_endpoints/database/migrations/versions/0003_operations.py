"""For operators: an index for retention, the workers at work, and the trace that an event came from.

This revision is history: it does not change when the models do.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"

_MYSQL = ("mysql", "mariadb")
_UUID = sa.Uuid().with_variant(sa.CHAR(32), *_MYSQL)
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
_TEXT = sa.String(255).with_variant(mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)


def upgrade() -> None:
    """Add the column, the index and the table; no row is rewritten."""
    schema = context.config.attributes["schema"]
    op.add_column("webhook_event", sa.Column("traceparent", sa.String(55)), schema=schema)
    op.create_index("ix_webhook_delivery_finished_at", "webhook_delivery", ["finished_at"], schema=schema)
    op.create_table(
        "webhook_worker",
        sa.Column("id", _UUID, primary_key=True),
        sa.Column("engine", sa.String(16), nullable=False),
        sa.Column("hostname", _TEXT, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        schema=schema,
    )


def downgrade() -> None:
    """Drop them."""
    schema = context.config.attributes["schema"]
    op.drop_table("webhook_worker", schema=schema)
    op.drop_index("ix_webhook_delivery_finished_at", "webhook_delivery", schema=schema)
    op.drop_column("webhook_event", "traceparent", schema=schema)
