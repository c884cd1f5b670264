"""Workers tell their version, how much they take on, what they lacked, and how far their clock is off.

This revision is history: it does not change when the models do.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0010"
down_revision = "0009"

_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "version": sa.String(32),
    "concurrency": sa.Integer(),
    "file_limit": sa.Integer(),
    "short_of": sa.String(32),
    "short_at": _TIME,
    "clock_skew_ms": sa.Integer(),
}


def upgrade() -> None:
    """Add the columns."""
    schema = context.config.attributes["schema"]
    for name, kind in _COLUMNS.items():
        op.add_column("webhook_worker", sa.Column(name, kind), schema=schema)


def downgrade() -> None:
    """Drop them, with what they hold."""
    schema = context.config.attributes["schema"]
    for name in reversed(_COLUMNS):
        op.drop_column("webhook_worker", name, schema=schema)
