"""A table of the deliveries that finished without success; lists across endpoints; more of each attempt.

This revision is history: it does not change when the models do.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

from flask_webhook_endpoints.database import moving

revision = "0011"
down_revision = "0010"

before_upgrade = "Stop the workers: those of the older version do not note what fails."
before_downgrade = "Stop the web processes and workers. Start those of the older version after it."

_MYSQL = ("mysql", "mariadb")
_UUID = sa.Uuid().with_variant(sa.CHAR(32), *_MYSQL)
_EXACT = sa.String(255).with_variant(mysql.VARBINARY(1020), *_MYSQL)
_URL = sa.String(2048).with_variant(mysql.VARCHAR(2048, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)

_COLUMNS = {"delivery_id": "id", "tenant_id": "tenant_id", "endpoint_id": "endpoint_id", "status": "status"}


def upgrade() -> None:
    """Create the table with what has failed so far, the index and the columns."""
    schema = context.config.attributes["schema"]
    op.add_column("webhook_attempt", sa.Column("url", _URL), schema=schema)
    op.add_column("webhook_attempt", sa.Column("response_headers", sa.Text), schema=schema)
    op.create_table(
        "webhook_undelivered",
        sa.Column("delivery_id", _UUID, primary_key=True),
        sa.Column("tenant_id", _EXACT, nullable=False),
        sa.Column("endpoint_id", _UUID, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        schema=schema,
    )
    delivery = sa.table("webhook_delivery", *map(sa.column, _COLUMNS.values()), schema=schema)
    undelivered = sa.table("webhook_undelivered", *map(sa.column, _COLUMNS), schema=schema)
    statuses = [op.inline_literal(status) for status in ("FAILED", "EXPIRED", "CANCELLED")]
    rows = sa.select(*(delivery.c[name] for name in _COLUMNS.values())).where(delivery.c.status.in_(statuses))
    moving.move(
        "noted in webhook_undelivered",
        delivery.c.id,
        lambda within: sa.insert(undelivered).from_select(list(_COLUMNS), rows.where(*within)),
    )
    moving.say("webhook_undelivered and webhook_delivery: their indexes are made")
    # After the rows: an index is made faster than it is kept.
    for owner in ("endpoint_id", "tenant_id"):
        columns = [owner, "status", "delivery_id"]
        op.create_index(f"ix_webhook_undelivered_{owner}_status", "webhook_undelivered", columns, schema=schema)
    op.create_index("ix_webhook_delivery_tenant_id_id", "webhook_delivery", ["tenant_id", "id"], schema=schema)


def downgrade() -> None:
    """Drop them; the log has all that the table had."""
    schema = context.config.attributes["schema"]
    op.drop_index("ix_webhook_delivery_tenant_id_id", "webhook_delivery", schema=schema)
    op.drop_table("webhook_undelivered", schema=schema)
    for name in ("response_headers", "url"):
        op.drop_column("webhook_attempt", name, schema=schema)
