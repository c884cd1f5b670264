"""A queue of its own for what is not finished. The deliveries become a log, endpoints may rest, redeliveries count.

Stop the workers first: those of an older version fail on these tables. Hosts may go on publishing only once they run
the new version, too. This revision is history: it does not change when the models do.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

from flask_webhook_endpoints.database import moving

revision = "0004"
down_revision = "0003"

before_upgrade = "Stop the workers. Start the web processes and workers of the new version after it."
before_downgrade = "Stop the web processes and workers. Start those of the older version after it."

_MYSQL = ("mysql", "mariadb")
_UUID = sa.Uuid().with_variant(sa.CHAR(32), *_MYSQL)
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
_EXACT = sa.String(255).with_variant(mysql.VARBINARY(1020), *_MYSQL)
_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), *_MYSQL)

_LAST = [f"last_{name}" for name in ("attempt_at", "duration_ms", "response_status", "error", "response_excerpt")]

_OF_ATTEMPT = ["delivery_id", "number", "started_at", "duration_ms", "response_status", "error", "response_excerpt"]

_TO_QUEUE = {
    "delivery_id": "id",
    "tenant_id": "tenant_id",
    "endpoint_id": "endpoint_id",
    "event_id": "event_id",
    # A worker makes ready what is due.
    "state": "CASE WHEN status = 'SENDING' THEN 'LEASED' ELSE 'WAITING' END",
    "due_at": "next_attempt_at",
    "lease_owner": "lease_owner",
    "attempts": "attempts",
    "attempts_before": "attempts_before",
}


def upgrade() -> None:
    """Create the tables, move what is pending, and drop from the deliveries what the queue has now."""
    schema = context.config.attributes["schema"]
    op.create_table(
        "webhook_queue",
        sa.Column("delivery_id", _UUID, primary_key=True),
        sa.Column("tenant_id", _EXACT, nullable=False),
        sa.Column("endpoint_id", _UUID, nullable=False),
        sa.Column("event_id", _UUID, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("lease_owner", _UUID),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("attempts_before", sa.Integer, nullable=False),
        schema=schema,
    )
    op.create_table(
        "webhook_rest",
        sa.Column("endpoint_id", _UUID, primary_key=True),
        sa.Column("until", _TIME, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
        schema=schema,
    )
    op.create_table(
        "webhook_redelivery_count",
        sa.Column("tenant_id", _EXACT, primary_key=True),
        sa.Column("minute", _TIME, nullable=False),
        sa.Column("redeliveries", sa.Integer, nullable=False),
        schema=schema,
    )
    for column in (
        sa.Column("last_attempt_at", _TIME),
        sa.Column("last_duration_ms", sa.Integer),
        sa.Column("last_response_status", sa.Integer),
        sa.Column("last_error", sa.String(32)),
        sa.Column("last_response_excerpt", _BYTES),
    ):
        op.add_column("webhook_delivery", column, schema=schema)
    delivery, queue = _table("webhook_delivery", schema), _table("webhook_queue", schema)
    columns: list[Any] = [sa.literal_column(each) for each in _TO_QUEUE.values()]
    rows: Any = sa.select(*columns).select_from(delivery)
    pending = rows.where(delivery.c.status.in_(_constants("PENDING", "SENDING")))
    _move(pending, queue, list(_TO_QUEUE), delivery.c.id)
    sending = sa.update(delivery).where(delivery.c.status == op.inline_literal("SENDING"))
    op.execute(sending.values(status=op.inline_literal("PENDING")))
    moving.say("webhook_queue: its indexes are made, and columns of webhook_delivery dropped")
    # After the rows: an index is made faster than it is kept.
    op.create_index("ix_webhook_queue_state_due_at", "webhook_queue", ["state", "due_at"], schema=schema)
    of_turn = ["state", "tenant_id", "endpoint_id", "due_at"]
    op.create_index("ix_webhook_queue_turn", "webhook_queue", of_turn, schema=schema)
    op.drop_index("ix_webhook_delivery_queue", "webhook_delivery", schema=schema)
    op.drop_index("ix_webhook_delivery_finished_at", "webhook_delivery", schema=schema)
    for name in ("attempts_before", "next_attempt_at", "lease_owner"):
        op.drop_column("webhook_delivery", name, schema=schema)


def downgrade() -> None:
    """Move what the queue has back into the deliveries, and first attempts that succeeded into the attempts."""
    schema = context.config.attributes["schema"]
    delivery, queue = _table("webhook_delivery", schema), _table("webhook_queue", schema)
    attempt = _table("webhook_attempt", schema)
    rows = sa.select(*(delivery.c[name] for name in ("id", "attempts", *_LAST)))
    same = attempt.c.delivery_id == delivery.c.id, attempt.c.number == delivery.c.attempts
    kept = rows.where(delivery.c.last_attempt_at.is_not(None), ~sa.select(1).where(*same).exists())
    _move(kept, attempt, _OF_ATTEMPT, delivery.c.id)
    before = sa.Column("attempts_before", sa.Integer, nullable=False, server_default="0")
    for column in (before, sa.Column("next_attempt_at", _TIME), sa.Column("lease_owner", _UUID)):
        op.add_column("webhook_delivery", column, schema=schema)
    of_delivery = queue.c.delivery_id == delivery.c.id
    values: dict[str, Any] = {
        name: sa.select(queue.c[source]).where(of_delivery).scalar_subquery()
        for name, source in (
            ("attempts", "attempts"),
            ("attempts_before", "attempts_before"),
            ("next_attempt_at", "due_at"),
            ("lease_owner", "lease_owner"),
        )
    }
    leased = sa.select(queue.c.state).where(of_delivery).scalar_subquery() == op.inline_literal("LEASED")
    values["status"] = sa.case((leased, op.inline_literal("SENDING")), else_=op.inline_literal("PENDING"))
    back = sa.update(delivery).where(sa.select(1).where(of_delivery).exists()).values(values)
    moving.move("with what the queue had", delivery.c.id, lambda within: back.where(*within))
    moving.say("webhook_delivery: its indexes are made, and its columns of last attempts dropped")
    of_queue = ["status", "endpoint_id", "next_attempt_at"]
    op.create_index("ix_webhook_delivery_queue", "webhook_delivery", of_queue, schema=schema)
    op.create_index("ix_webhook_delivery_finished_at", "webhook_delivery", ["finished_at"], schema=schema)
    for name in reversed(_LAST):
        op.drop_column("webhook_delivery", name, schema=schema)
    for table in ("webhook_redelivery_count", "webhook_rest", "webhook_queue"):
        op.drop_table(table, schema=schema)


def _table(name: str, schema: str | None) -> sa.TableClause:
    of_queue = "attempts", "attempts_before", "next_attempt_at", "lease_owner"
    names = {
        "webhook_delivery": ["id", "status", *of_queue, *_LAST],
        "webhook_queue": list(_TO_QUEUE),
        "webhook_attempt": _OF_ATTEMPT,
    }[name]
    return sa.table(name, *map(sa.column, names), schema=schema)


def _constants(*texts: str) -> list[Any]:
    return [op.inline_literal(text) for text in texts]


def _move(rows: Any, table: sa.TableClause, names: list[str], key: sa.ColumnClause[Any]) -> None:
    """Insert the rows, which are those of `key`."""
    moving.move(
        f"moved into {table.name}", key, lambda within: sa.insert(table).from_select(names, rows.where(*within))
    )
