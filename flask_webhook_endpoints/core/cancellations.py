"""Cancellations: what waits for a deleted endpoint leaves the queue."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import incidents, rests, transitions
from flask_webhook_endpoints.core.marks import BEGINNING, START
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables

AT_ONCE = 1_000
"""The number of deliveries that one round of statements cancels on MariaDB and MySQL."""


def cancel(scope: Scope, tenant_id: str, endpoint_id: UUID) -> None:
    """Cancel the deliveries that wait for a deleted endpoint, and forget its rest and its incident.

    Those in flight may finish.
    """
    values = {"of_tenant": tenant_id, "of_endpoint": endpoint_id, "now": scope.now}
    if scope.dialect.name not in dialects.LOCKS_WHAT_IT_READS:
        logged, *left = _cancel(scope)
        # Most endpoints have nothing that waits.
        if scope.execute(logged, values).rowcount and left:
            scope.execute(left[0], values)
    else:
        # Look them up first: MariaDB would lock the index in which it finds them, and all that is published meanwhile
        # would wait, or end in a deadlock with workers.
        # Look in every state, because a worker may have put off since what this transaction still sees in flight.
        for state in QueueState:
            after = {"due_from": BEGINNING, "after": START}
            while found := scope.execute(_of_endpoint(scope, state), {**values, **after}).all():
                transitions.finish(scope, Transition.CANCELLED, [row.delivery_id for row in found])
                after = {"due_from": found[-1].due_at, "after": found[-1].delivery_id}
    rests.forget(scope, [endpoint_id])
    incidents.forget(scope, [endpoint_id])


@statement
def _of_endpoint(tables: Tables, _dialect: str, state: QueueState) -> Any:
    """Select a batch of an endpoint's deliveries in a state, those after one, in the order of the index."""
    queue = tables.queue
    due_from = sa.bindparam("due_from", type_=queue.c.due_at.type)
    is_before = sa.and_(queue.c.due_at == due_from, queue.c.delivery_id <= sa.bindparam("after"))
    which = queue.c.tenant_id == sa.bindparam("of_tenant"), queue.c.endpoint_id == sa.bindparam("of_endpoint")
    rows = sa.select(queue.c.delivery_id, queue.c.due_at)
    rows = rows.where(queue.c.state == transitions.constant(state), *which, queue.c.due_at >= due_from, ~is_before)
    return rows.order_by(queue.c.due_at, queue.c.delivery_id).limit(AT_ONCE)


def is_to_cancel(tables: Tables, dialect: str) -> sa.ColumnElement[bool]:
    """Return whether `cancel` has anything to do for an endpoint that is being deleted."""
    queue, name = tables.queue, tables.endpoint.name
    # With the table's name, which SQLAlchemy leaves out on SQLite: the queue has a tenant, too.
    tenant_id: sa.ColumnElement[Any] = sa.literal_column(f"{name}.tenant_id")
    endpoint_id: sa.ColumnElement[Any] = sa.literal_column(f"{name}.id")
    of_endpoint = queue.c.tenant_id == tenant_id, queue.c.endpoint_id == endpoint_id
    # `min` takes the first by the index. EXISTS could have PostgreSQL read a queue that other endpoints fill.
    firsts = [
        sa.select(sa.func.min(queue.c.due_at)).where(queue.c.state == state, *of_endpoint).scalar_subquery()
        for state in map(transitions.constant, Transition.CANCELLED.sources)
    ]
    others: list[sa.ColumnElement[bool]] = [
        sa.exists().where(table.c.endpoint_id == endpoint_id) for table in (tables.rest, tables.incident)
    ]
    if dialect in dialects.SNAPSHOT_OF_STATEMENT:
        # If the DELETE waited for a worker's record, it sees that record's pause, but not the deliveries it put off.
        others.append(tables.endpoint.c.paused_at.is_not(None))
    return sa.or_(*(first.is_not(None) for first in firsts), *others)


@statement
def _cancel(tables: Tables, dialect: str) -> tuple[Any, ...]:
    queue, delivery = tables.queue, tables.delivery
    # By the index, and in no more statements than there must be: a paused endpoint may have a million.
    which = (
        queue.c.tenant_id == sa.bindparam("of_tenant"),
        queue.c.endpoint_id == sa.bindparam("of_endpoint"),
    )
    if dialect in dialects.WRITES_IN_CTES:
        left = transitions.leave(tables, Transition.CANCELLED, *which, by_index=True)
        gone = left.returning(queue.c.delivery_id).cte("gone")
        return (transitions.log(tables, Transition.CANCELLED, delivery.c.id == gone.c.delivery_id),)
    waiting = sa.and_(*which, transitions.is_source(tables, Transition.CANCELLED))
    is_cancelled = delivery.c.id == queue.c.delivery_id, delivery.c.status == DeliveryStatus.CANCELLED
    cancelled = sa.select(1).where(*is_cancelled).exists()
    return (
        transitions.log(tables, Transition.CANCELLED, delivery.c.id.in_(sa.select(queue.c.delivery_id).where(waiting))),
        transitions.leave(tables, Transition.CANCELLED, *which, cancelled, by_index=True),
    )
