"""On PostgreSQL, the index of a tenant's deliveries without entries: lists merge those of the tenant's endpoints.

This revision is history: it does not change when the models do.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Make the index again, empty."""
    _make_again(postgresql_where=sa.false())


def downgrade() -> None:
    """Make the index again, with all deliveries."""
    _make_again()


def _make_again(**options: Any) -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    name, table, schema = "ix_webhook_delivery_tenant_id_id", "webhook_delivery", context.config.attributes["schema"]
    op.drop_index(name, table, schema=schema)
    op.create_index(name, table, ["tenant_id", "id"], schema=schema, **options)
