"""The sweep: it releases what is held though its endpoint takes deliveries.

There should be nothing to release: a race, or a person at the database, may have left some. For the same reason the
sweep cancels what is held for endpoints that were deleted, and forgets rests and incidents that began when the endpoint
was deleted.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import cancellations, incidents, queue, rests, transitions
from flask_webhook_endpoints.core.marks import START
from flask_webhook_endpoints.database import dialects, plans
from flask_webhook_endpoints.database.models import QueueState
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables

AT_ONCE = 1000
"""The number of endpoints with held deliveries that a sweep looks at."""

EVERY_SECONDS = 60.0
"""Seconds between two sweeps of a worker that has passed all endpoints once."""


class Swept(NamedTuple):
    """The result of a sweep."""

    to: tuple[str, UUID]
    """The tenant and the endpoint after which the next sweep begins."""
    released: bool
    """True if it released something."""


def sweep(scope: Scope, after: tuple[str, UUID] = ("", START)) -> Swept:
    """Sweep endpoints that have held deliveries, those after one."""
    scope.lock_writers()
    plans.trust_indexes(scope)
    tenant_id, endpoint_id = after
    values = {"of_tenant": tenant_id, "of_endpoint": endpoint_id, "now": scope.now}
    rows: Sequence[Any] = scope.execute(_swept(scope), values).all()
    active = [(row.tenant_id, row.endpoint_id) for row in rows if row.active]
    queue.release(scope, active)
    for row in rows:
        if not row.known:
            cancellations.cancel(scope, row.tenant_id, row.endpoint_id)
    rests.forget_orphaned(scope)
    incidents.forget_orphaned(scope)
    # The sweep has passed the last endpoint: the next one begins at the first.
    last = (rows[-1].tenant_id, rows[-1].endpoint_id) if len(rows) == AT_ONCE else ("", START)
    return Swept(last, bool(active))


@statement
def _swept(tables: Tables, dialect: str) -> Any:
    """Select endpoints that have held deliveries, those after one, and what there is of them."""
    queue, endpoint, rest = tables.queue, tables.endpoint, tables.rest
    some = _with_held(tables, dialect)
    joined = some.outerjoin(endpoint, endpoint.c.id == some.c.endpoint_id)
    is_resting = sa.func.coalesce(rest.c.until > sa.bindparam("now", type_=queue.c.due_at.type), sa.false())
    return (
        sa.select(
            some.c.tenant_id,
            some.c.endpoint_id,
            endpoint.c.id.is_not(None).label("known"),
            sa.and_(endpoint.c.id.is_not(None), endpoint.c.paused_at.is_(None), ~is_resting).label("active"),
        )
        .select_from(joined.outerjoin(rest, rest.c.endpoint_id == some.c.endpoint_id))
        .order_by(some.c.tenant_id, some.c.endpoint_id)
    )


def _with_held(tables: Tables, dialect: str) -> sa.FromClause:
    """Select endpoints that have held deliveries, by steps through an index past all that each of them has."""
    queue = tables.queue
    state, pair, held = queue.c.state, (queue.c.tenant_id, queue.c.endpoint_id), transitions.constant(QueueState.HELD)
    asked: Any = [sa.bindparam(f"of_{name}", type_=queue.c[f"{name}_id"].type) for name in ("tenant", "endpoint")]
    if dialect in dialects.LOOSE_SCANS:
        # Not a comparison of pairs, for which MariaDB reads all before the pair.
        # No `=`: after it, MariaDB leaves the state out of the groups, and steps through no index that begins with it.
        tenant_id, endpoint_id = asked
        after = sa.or_(pair[0] > tenant_id, sa.and_(pair[0] == tenant_id, pair[1] > endpoint_id))
        groups = sa.select(*pair).where(state >= held, state <= held, after).group_by(state, *pair)
        return groups.order_by(state, *pair).limit(AT_ONCE).subquery("some")

    def first_after(table: Any, *one: Any) -> sa.Select[Any]:
        its_pair = table.c.tenant_id, table.c.endpoint_id
        which = table.c.state == held, sa.tuple_(*its_pair) > sa.tuple_(*one)
        return sa.select(table.c.delivery_id).where(*which).order_by(*its_pair).limit(1)

    at, following = queue.alias("at"), queue.alias("following")
    steps = sa.select(first_after(queue, *asked).scalar_subquery().label("delivery_id")).cte("steps", recursive=True)
    # `coalesce`, because SQLite seeks by the first column of a pair alone where the second is compared with a column.
    its_endpoint_id = sa.func.coalesce(at.c.endpoint_id, at.c.endpoint_id)
    step = first_after(following, at.c.tenant_id, its_endpoint_id).correlate(at).scalar_subquery()
    steps = steps.union_all(sa.select(step).select_from(steps.join(at, at.c.delivery_id == steps.c.delivery_id)))
    found = sa.select(steps.c.delivery_id).where(steps.c.delivery_id.is_not(None)).limit(AT_ONCE).subquery()
    return sa.select(*pair).join(found, found.c.delivery_id == queue.c.delivery_id).subquery("some")
