"""A table of results that workers have counted and have not added up yet.

This revision is history: it does not change when the models do.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0012"
down_revision = "0011"

before_downgrade = (
    "Stop the workers, and run `flask webhooks prune`: the statistics of the last minutes are lost otherwise."
    " Start the web processes and workers of the older version after it."
)

_MYSQL = ("mysql", "mariadb")
_UUID = sa.Uuid().with_variant(sa.CHAR(32), *_MYSQL)
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
_LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "webhook_recent_count",
        sa.Column("id", _UUID, primary_key=True),
        sa.Column("counted_at", _TIME, nullable=False),
        sa.Column("hours", _LONG_TEXT, nullable=False),
        sa.Column("minutes", _LONG_TEXT, nullable=False),
        schema=context.config.attributes["schema"],
    )


def downgrade() -> None:
    """Drop it. To keep what it counts, stop the workers and run `flask webhooks prune` first, which adds it up."""
    op.drop_table("webhook_recent_count", schema=context.config.attributes["schema"])
