"""Roll-ups of results: an endpoint's by the hour, a worker's by the minute.

This revision is history: it does not change when the models do.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"

_MYSQL = ("mysql", "mariadb")
_UUID = sa.Uuid().with_variant(sa.CHAR(32), *_MYSQL)
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
_EXACT = sa.String(255).with_variant(mysql.VARBINARY(1020), *_MYSQL)


def upgrade() -> None:
    """Create the tables. They count from now on: earlier results are not in them."""
    schema = context.config.attributes["schema"]
    op.create_table(
        "webhook_endpoint_hour",
        sa.Column("tenant_id", _EXACT, primary_key=True),
        sa.Column("endpoint_id", _UUID, primary_key=True),
        sa.Column("hour", _TIME, primary_key=True),
        sa.Column("latency", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("failed_attempts", sa.Integer, nullable=False),
        sa.Column("delivered", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("last_at", _TIME, nullable=False),
        schema=schema,
    )
    op.create_index("ix_webhook_endpoint_hour_hour", "webhook_endpoint_hour", ["hour"], schema=schema)
    op.create_table(
        "webhook_worker_minute",
        sa.Column("minute", _TIME, primary_key=True),
        sa.Column("worker_id", _UUID, primary_key=True),
        sa.Column("error", sa.String(32), primary_key=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        schema=schema,
    )


def downgrade() -> None:
    """Drop them."""
    schema = context.config.attributes["schema"]
    op.drop_table("webhook_worker_minute", schema=schema)
    op.drop_table("webhook_endpoint_hour", schema=schema)
