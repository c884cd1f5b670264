"""Endpoints, their secrets, and the idempotency keys that made them.

What is written here is history: it does not change when the models do.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_MYSQL = ("mysql", "mariadb")
_UUID = sa.Uuid().with_variant(sa.CHAR(32), *_MYSQL)
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
_EXACT = sa.String(255).with_variant(mysql.VARBINARY(1020), *_MYSQL)
_EVENT_TYPES = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)


def upgrade() -> None:
    """Create the three tables."""
    schema = context.config.attributes["schema"]
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", _UUID, primary_key=True),
        sa.Column("tenant_id", _EXACT, nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("url", _text(2048), nullable=False),
        sa.Column("headers_encrypted", sa.Text),
        sa.Column("timeout_seconds", sa.Integer, nullable=False),
        sa.Column("event_types", _EVENT_TYPES),
        sa.Column("paused_at", _TIME),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        schema=schema,
    )
    op.create_index("ix_webhook_endpoint_tenant_id_id", "webhook_endpoint", ["tenant_id", "id"], schema=schema)
    endpoint_id = "webhook_endpoint.id" if schema is None else f"{schema}.webhook_endpoint.id"
    op.create_table(
        "webhook_secret",
        sa.Column("id", _UUID, primary_key=True),
        sa.Column("endpoint_id", _UUID, sa.ForeignKey(endpoint_id, ondelete="CASCADE"), nullable=False),
        sa.Column("secret_encrypted", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.UniqueConstraint("endpoint_id", "id", name="uq_webhook_secret_endpoint_id_id"),
        schema=schema,
    )
    op.create_table(
        "webhook_idempotency_key",
        sa.Column("tenant_id", _EXACT, primary_key=True),
        sa.Column("key", _EXACT, primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("endpoint_id", _UUID, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        schema=schema,
    )
    op.create_index("ix_webhook_idempotency_key_created_at", "webhook_idempotency_key", ["created_at"], schema=schema)


def downgrade() -> None:
    """Drop them, with all that they hold."""
    schema = context.config.attributes["schema"]
    op.drop_table("webhook_idempotency_key", schema=schema)
    op.drop_table("webhook_secret", schema=schema)
    op.drop_table("webhook_endpoint", schema=schema)
