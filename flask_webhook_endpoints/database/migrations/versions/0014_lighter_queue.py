"""The queue without the events of its deliveries, which the log has.

This revision is history: it does not change when the models do.
"""

import sqlalchemy as sa
from alembic import context, op

from flask_webhook_endpoints.database import moving

revision = "0014"
down_revision = "0013"

before_upgrade = "Stop the web processes and workers. Start those of the new version after it."
before_downgrade = (
    "Stop the web processes and workers, and run `flask webhooks prune` until webhook_recent_count is empty."
    " Start those of the older version after it."
)

_UUID = sa.Uuid().with_variant(sa.CHAR(32), "mysql", "mariadb")


def upgrade() -> None:
    """Drop the column. Workers and publishers of the older version fail from then on, and lose nothing."""
    op.drop_column("webhook_queue", "event_id", schema=context.config.attributes["schema"])


def downgrade() -> None:
    """Fill the column from the log. What that does not have can't be delivered, and would stop older workers."""
    schema = context.config.attributes["schema"]
    # Without NOT NULL, which SQLite can't add. The older version writes it always.
    op.add_column("webhook_queue", sa.Column("event_id", _UUID), schema=schema)
    queue = sa.table("webhook_queue", sa.column("delivery_id"), sa.column("event_id"), schema=schema)
    delivery = sa.table("webhook_delivery", sa.column("id"), sa.column("event_id"), schema=schema)
    of_log = sa.select(delivery.c.event_id).where(delivery.c.id == queue.c.delivery_id).scalar_subquery()
    fill = sa.update(queue).values(event_id=of_log)
    moving.move("with their event", queue.c.delivery_id, lambda within: fill.where(*within))
    op.execute(sa.delete(queue).where(queue.c.event_id.is_(None)))
