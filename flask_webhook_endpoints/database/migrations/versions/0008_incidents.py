"""Incidents of endpoints whose attempts fail have a table of their own, and no columns of `webhook_endpoint`.

Stop the workers first, as before 0004. Web processes of the older version can't create or resume endpoints afterwards.
This revision is history: it does not change when the models do.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

from flask_webhook_endpoints.database import moving

revision = "0008"
down_revision = "0007"

before_upgrade = "Stop the workers. Start the web processes and workers of the new version after it."
before_downgrade = "Stop the web processes and workers. Start those of the older version after it."

_MYSQL = ("mysql", "mariadb")
_UUID = sa.Uuid().with_variant(sa.CHAR(32), *_MYSQL)
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
_EXACT = sa.String(255).with_variant(mysql.VARBINARY(1020), *_MYSQL)

_OF_ENDPOINT = {
    "endpoint_id": "id",
    "tenant_id": "tenant_id",
    "began_at": "failing_since",
    "failing_since": "failing_since",
    # The most that there is.
    "balance": "10",
    "exhausted_in_a_row": "exhausted_in_a_row",
    "last_failed_at": "failing_since",
}


def upgrade() -> None:
    """Create the table, move what endpoints have of it, and drop their columns."""
    schema = context.config.attributes["schema"]
    op.create_table(
        "webhook_incident",
        sa.Column("endpoint_id", _UUID, primary_key=True),
        sa.Column("tenant_id", _EXACT, nullable=False),
        sa.Column("began_at", _TIME, nullable=False),
        sa.Column("failing_since", _TIME),
        sa.Column("balance", sa.Integer, nullable=False),
        sa.Column("exhausted_in_a_row", sa.Integer, nullable=False),
        sa.Column("last_failed_at", _TIME, nullable=False),
        sa.Column("last_error", sa.String(32)),
        sa.Column("announced_at", _TIME),
        sa.Column("pause_announced_at", _TIME),
        schema=schema,
    )
    endpoint, incident = _tables(schema)
    columns: list[Any] = [sa.literal_column(each) for each in _OF_ENDPOINT.values()]
    failing = sa.select(*columns).select_from(endpoint).where(endpoint.c.failing_since.is_not(None))
    move = sa.insert(incident)
    moving.move(
        "moved into webhook_incident",
        endpoint.c.id,
        lambda within: move.from_select(list(_OF_ENDPOINT), failing.where(*within)),
    )
    for name in ("exhausted_in_a_row", "failing_since"):
        op.drop_column("webhook_endpoint", name, schema=schema)


def downgrade() -> None:
    """Give endpoints the columns again. Those of which no delivery failed for good do not fail then."""
    schema = context.config.attributes["schema"]
    op.add_column("webhook_endpoint", sa.Column("failing_since", _TIME), schema=schema)
    exhausted = sa.Column("exhausted_in_a_row", sa.Integer, nullable=False, server_default="0")
    op.add_column("webhook_endpoint", exhausted, schema=schema)
    endpoint, incident = _tables(schema)
    of_endpoint = incident.c.endpoint_id == endpoint.c.id, incident.c.exhausted_in_a_row > op.inline_literal(0)
    values: dict[str, Any] = {
        name: sa.select(incident.c[name]).where(*of_endpoint).scalar_subquery()
        for name in ("failing_since", "exhausted_in_a_row")
    }
    back = sa.update(endpoint).where(sa.select(1).where(*of_endpoint).exists()).values(values)
    moving.move("that fail", endpoint.c.id, lambda within: back.where(*within))
    op.drop_table("webhook_incident", schema=schema)


def _tables(schema: str | None) -> tuple[sa.TableClause, sa.TableClause]:
    endpoint = sa.table(
        "webhook_endpoint", *map(sa.column, ("id", "failing_since", "exhausted_in_a_row")), schema=schema
    )
    return endpoint, sa.table("webhook_incident", *map(sa.column, _OF_ENDPOINT), schema=schema)
