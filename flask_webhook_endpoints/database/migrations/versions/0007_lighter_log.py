"""The log without an index of events, whose deliveries are found by their ids; on PostgreSQL, lighter leases.

PostgreSQL's index of turns has no leases, and the rows of the queue and of the log find room on their pages when they
are updated. That holds for pages that are written from now on.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0007"
down_revision = "0006"

_OF_TURN = ["state", "tenant_id", "endpoint_id", "due_at"]
_TABLES = ("webhook_delivery", "webhook_queue")


def upgrade() -> None:
    """Drop the index, and tell PostgreSQL how to store the rows."""
    schema = context.config.attributes["schema"]
    op.drop_index("ix_webhook_delivery_event_id", "webhook_delivery", schema=schema)
    if op.get_context().dialect.name != "postgresql":
        return
    op.drop_index("ix_webhook_queue_turn", "webhook_queue", schema=schema)
    without_leases = sa.text("state <> 'LEASED'")
    op.create_index("ix_webhook_queue_turn", "webhook_queue", _OF_TURN, schema=schema, postgresql_where=without_leases)
    for table in _TABLES:
        op.execute(sa.text(f"ALTER TABLE {_quoted(table, schema)} SET (fillfactor = 45)"))


def downgrade() -> None:
    """Make the indexes as they were."""
    schema = context.config.attributes["schema"]
    op.create_index("ix_webhook_delivery_event_id", "webhook_delivery", ["event_id"], schema=schema)
    if op.get_context().dialect.name != "postgresql":
        return
    op.drop_index("ix_webhook_queue_turn", "webhook_queue", schema=schema)
    op.create_index("ix_webhook_queue_turn", "webhook_queue", _OF_TURN, schema=schema)
    for table in _TABLES:
        op.execute(sa.text(f"ALTER TABLE {_quoted(table, schema)} RESET (fillfactor)"))


def _quoted(table: str, schema: str | None) -> str:
    return op.get_context().dialect.identifier_preparer.format_table(sa.table(table, schema=schema))
