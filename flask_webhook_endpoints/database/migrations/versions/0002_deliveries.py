"""Events, their deliveries and attempts, and what an endpoint's deliveries say about it.

What is written here is history: it does not change when the models do.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"

_MYSQL = ("mysql", "mariadb")
_UUID = sa.Uuid().with_variant(sa.CHAR(32), *_MYSQL)
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
_EXACT = sa.String(255).with_variant(mysql.VARBINARY(1020), *_MYSQL)
_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), *_MYSQL)


def upgrade() -> None:
    """Create the three tables and add the endpoint's columns; an endpoint that is paused was paused by its tenant."""
    schema = context.config.attributes["schema"]
    op.add_column("webhook_endpoint", sa.Column("pause_reason", sa.String(16)), schema=schema)
    op.add_column("webhook_endpoint", sa.Column("failing_since", _TIME), schema=schema)
    exhausted = sa.Column("exhausted_in_a_row", sa.Integer, nullable=False, server_default="0")
    op.add_column("webhook_endpoint", exhausted, schema=schema)
    endpoint = sa.table("webhook_endpoint", sa.column("paused_at"), sa.column("pause_reason"), schema=schema)
    paused = endpoint.c.paused_at.is_not(None)
    op.execute(sa.update(endpoint).where(paused).values(pause_reason=op.inline_literal("user")))
    op.create_table(
        "webhook_event",
        sa.Column("id", _UUID, primary_key=True),
        sa.Column("tenant_id", _EXACT, nullable=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("body", _BYTES, nullable=False),
        sa.Column("idempotency_key", _EXACT),
        sa.Column("created_at", _TIME, nullable=False),
        schema=schema,
    )
    of_key = "ix_webhook_event_tenant_id_idempotency_key"
    op.create_index(of_key, "webhook_event", ["tenant_id", "idempotency_key"], unique=True, schema=schema)
    op.create_index("ix_webhook_event_created_at", "webhook_event", ["created_at"], schema=schema)
    op.create_table(
        "webhook_delivery",
        sa.Column("id", _UUID, primary_key=True),
        sa.Column("tenant_id", _EXACT, nullable=False),
        sa.Column("event_id", _UUID, nullable=False),
        sa.Column("endpoint_id", _UUID, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("attempts_before", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_attempt_at", _TIME),
        sa.Column("lease_owner", _UUID),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        schema=schema,
    )
    for name, columns in (
        ("ix_webhook_delivery_queue", ["status", "endpoint_id", "next_attempt_at"]),
        ("ix_webhook_delivery_endpoint_id_id", ["endpoint_id", "id"]),
        ("ix_webhook_delivery_event_id", ["event_id"]),
    ):
        op.create_index(name, "webhook_delivery", columns, schema=schema)
    op.create_table(
        "webhook_attempt",
        sa.Column("delivery_id", _UUID, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("response_status", sa.Integer),
        sa.Column("error", sa.String(32)),
        sa.Column("response_excerpt", _BYTES),
        schema=schema,
    )


def downgrade() -> None:
    """Drop them, with all that they hold; endpoints stay."""
    schema = context.config.attributes["schema"]
    for table in ("webhook_attempt", "webhook_delivery", "webhook_event"):
        op.drop_table(table, schema=schema)
    for column in ("exhausted_in_a_row", "failing_since", "pause_reason"):
        op.drop_column("webhook_endpoint", column, schema=schema)
