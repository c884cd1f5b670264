"""Retention: rows are deleted after their time, and deliveries that were held for too long expire.

For operators and workers, across all tenants. Each function does one batch and never commits. Any number of processes
may prune at once, because each skips the deliveries and events that another one has locked. Rows stay if a table
of the host refers to them by a foreign key.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core import idempotency, references, roll_ups, transitions
from flask_webhook_endpoints.core.transitions import Transition
from flask_webhook_endpoints.database import delivery_ids, transactions
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.identifiers import format_id

_log = logs.logger("flask_webhook_endpoints.pruner")  # the name that hosts have configured

MOST_COUNTED = 10_000
"""Rows that are counted at most, so that the number costs the same however many there are."""

_NAMED = 10
"""Ids of rows that stay, which one line of the log names at most."""


class Batch(NamedTuple):
    """One batch of a step: how many rows it took, and those that it had to leave."""

    taken: int
    left: tuple[str, ...] = ()
    """Ids of the rows to which a table of the host refers."""
    last: Any = None
    """Its last row, after which the next batch begins."""


class Prune(Protocol):
    """Prunes the batch of rows after the row `after`; returns None when no rows are left."""

    def __call__(self, scope: Scope, /, *, after: Any = None) -> Batch | None:
        """Prune in this scope."""
        ...


class Step(NamedTuple):
    """One kind of row that is pruned."""

    name: str
    """Its key in the JSON of `flask webhooks prune`."""
    text: str
    """Its name for people."""
    prune: Prune
    tally: Callable[[Scope], int]
    """Returns how many rows there are to prune, those included to which a table of the host refers."""


def steps(*, retention_days: int, hold_max_days: int) -> tuple[Step, ...]:
    """Return the steps of pruning, in their order."""
    return (
        Step(
            "deliveries_expired",
            "Held deliveries expired",
            partial(expire_held, hold_max_days=hold_max_days),
            partial(count_held, hold_max_days=hold_max_days),
        ),
        Step(
            "deliveries_deleted",
            "Deliveries deleted",
            partial(prune_deliveries, retention_days=retention_days),
            partial(count_finished, retention_days=retention_days),
        ),
        Step(
            "events_deleted",
            "Events without deliveries deleted",
            partial(prune_events, retention_days=retention_days),
            partial(count_left, retention_days=retention_days),
        ),
        Step("idempotency_keys_deleted", "Idempotency keys deleted", prune_idempotency_keys, count_idempotency_keys),
        Step("secrets_deleted", "Expired secrets deleted", prune_secrets, count_secrets),
        Step(
            "statistics_deleted",
            "Rows of statistics deleted",
            partial(prune_statistics, retention_days=retention_days),
            partial(roll_ups.count_old, retention_days=retention_days),
        ),
    )


def expire_held(scope: Scope, *, hold_max_days: int, after: UUID | None = None) -> Batch | None:
    """Expire deliveries that are as old as `HOLD_MAX_DAYS`, of endpoints that have been paused for as long."""
    queue = scope.tables.queue
    held = sa.select(queue.c.delivery_id).where(*_is_held_too_long(scope, hold_max_days))
    if after is not None:
        held = held.where(queue.c.delivery_id > after)
    ids = [row.delivery_id for row in _lock(scope, held.order_by(queue.c.delivery_id))]
    if not ids:
        return None
    transitions.finish(scope, Transition.EXPIRED, ids)
    transitions.note_undelivered(scope, ids)
    return Batch(len(ids), last=ids[-1])


def _is_held_too_long(scope: Scope, hold_max_days: int) -> tuple[sa.ColumnElement[bool], ...]:
    queue, endpoint = scope.tables.queue, scope.tables.endpoint
    since = scope.now - timedelta(days=hold_max_days)
    paused = sa.select(endpoint.c.id).where(endpoint.c.paused_at <= since)
    not_in_flight = transitions.is_source(scope.tables, Transition.EXPIRED, by_index=False)
    # Little else is as old in the queue; ids begin with a time.
    return queue.c.delivery_id <= delivery_ids.last(since), not_in_flight, queue.c.endpoint_id.in_(paused)


def prune_deliveries(scope: Scope, *, retention_days: int, after: Any = None) -> Batch | None:
    """Delete deliveries that finished `RETENTION_DAYS` ago, with their attempts and the events that lose their last."""
    delivery, event = scope.tables.delivery, scope.tables.event
    until = scope.now - timedelta(days=retention_days)
    # Read by id, which begins with the time of the publish: few that were published before finished later.
    finished = sa.select(delivery.c.id, delivery.c.event_id).where(*_is_finished(delivery, until))
    if after is not None:
        finished = finished.where(delivery.c.id > after.id)
    rows = _lock(scope, finished.order_by(delivery.c.id))
    if not rows:
        return None
    left = references.delete_unreferenced(scope, [row.id for row in rows], partial(delete_deliveries, scope))
    old = sa.select(event.c.id, event.c.created_at).where(event.c.created_at <= until)
    of_these = scope.execute(old.where(event.c.id.in_({row.event_id for row in rows}))).all()
    delete_events = sa.delete(event).where(event.c.id.in_(_without_deliveries(scope, of_these)))
    # If a table of the host refers to one of them, all stay; `prune_events` finds the others one by one.
    references.is_done(scope, lambda: scope.execute(delete_events))
    return _finished(len(rows), left, "dlv", rows[-1])


def _is_finished(delivery: sa.Table, until: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return delivery.c.id <= delivery_ids.last(until), delivery.c.finished_at <= until


def delete_deliveries(scope: Scope, ids: Sequence[UUID]) -> None:
    """Delete deliveries and their attempts."""
    queue, delivery, attempt = scope.tables.queue, scope.tables.delivery, scope.tables.attempt
    undelivered = scope.tables.undelivered
    # No transition, because nothing remains that could have a status; a tenant who is forgotten has pending ones, too.
    # The queue first and the attempts last: this waits for a worker that records one, and then sees what it wrote.
    scope.execute(sa.delete(queue).where(queue.c.delivery_id.in_(ids)))
    scope.execute(sa.delete(delivery).where(delivery.c.id.in_(ids)))
    scope.execute(sa.delete(undelivered).where(undelivered.c.delivery_id.in_(ids)))
    scope.execute(sa.delete(attempt).where(attempt.c.delivery_id.in_(ids)))


def prune_events(scope: Scope, *, retention_days: int, after: Any = None) -> Batch | None:
    """Delete old events without deliveries, which stay when two processes each delete one of the last deliveries."""
    event = scope.tables.event
    scope.lock_writers()
    rows = _old_events(scope, retention_days, after)
    if not rows:
        return None
    lacking = sa.select(event.c.id).where(event.c.id.in_(_without_deliveries(scope, rows)))
    ids = [row.id for row in _lock(scope, lacking.order_by(event.c.id))]
    delete = sa.delete(event)
    left = references.delete_unreferenced(scope, ids, lambda these: scope.execute(delete.where(event.c.id.in_(these))))
    return _finished(len(ids), left, "evt", rows[-1])


def prune_idempotency_keys(scope: Scope, *, after: datetime | None = None) -> Batch | None:
    """Delete the oldest of the idempotency keys that are no longer kept, about one batch of them."""
    created_at = scope.tables.idempotency_key.c.created_at
    until = scope.now - idempotency.KEPT
    following = [] if after is None else [created_at > after]
    expired = sa.select(created_at).where(created_at <= until, *following).order_by(created_at)
    last = scope.execute(expired.offset(transactions.BATCH - 1).limit(1)).scalar_one_or_none() or until
    count = scope.execute(sa.delete(created_at.table).where(created_at <= last, *following)).rowcount
    return Batch(count, last=last) if count else None


def prune_secrets(scope: Scope, *, after: Any = None) -> Batch | None:
    """Delete previous secrets whose overlap has ended."""
    expires_at = scope.tables.secret.c.expires_at
    return _delete(scope, expires_at, expires_at <= scope.now, prefix="secret", after=after)


def prune_statistics(scope: Scope, *, retention_days: int, after: roll_ups.Place | None = None) -> Batch | None:
    """Delete one batch of the roll-ups whose time is over."""
    count, last = roll_ups.prune(scope, retention_days=retention_days, after=after)
    return Batch(count, last=last) if count else None


def count_finished(scope: Scope, *, retention_days: int) -> int:
    """Return the number of deliveries that `prune_deliveries` has to delete."""
    until = scope.now - timedelta(days=retention_days)
    return _count(scope, *_is_finished(scope.tables.delivery, until))


def count_held(scope: Scope, *, hold_max_days: int) -> int:
    """Return the number of deliveries that `expire_held` has to expire."""
    return _count(scope, *_is_held_too_long(scope, hold_max_days))


def count_left(scope: Scope, *, retention_days: int) -> int:
    """Return the number of events without deliveries. `prune_deliveries` deletes those that lose their last one."""
    count, after = 0, None
    while rows := _old_events(scope, retention_days, after):
        count += len(_without_deliveries(scope, rows))
        after = rows[-1]
    return count


def _old_events(scope: Scope, retention_days: int, after: Any) -> Sequence[Any]:
    """Return a batch of the events that are past retention."""
    event = scope.tables.event
    is_old = event.c.created_at <= scope.now - timedelta(days=retention_days)
    old = _following(sa.select(event.c.id, event.c.created_at).where(is_old), after, event.c.created_at, event.c.id)
    return scope.execute(old.limit(transactions.BATCH)).all()


def count_idempotency_keys(scope: Scope) -> int:
    """Return the number of idempotency keys that are no longer kept."""
    return _count(scope, scope.tables.idempotency_key.c.created_at <= scope.now - idempotency.KEPT)


def count_secrets(scope: Scope) -> int:
    """Return the number of previous secrets whose overlap has ended."""
    return _count(scope, scope.tables.secret.c.expires_at <= scope.now)


def _count(scope: Scope, *which: sa.ColumnElement[bool]) -> int:
    return int(scope.execute(sa.select(sa.func.count()).where(*which)).scalar_one())


class Overdue(NamedTuple):
    """The finished deliveries that pruning should have deleted."""

    deliveries: int
    """At most `MOST_COUNTED`."""
    oldest_at: datetime | None
    """When that delivery of them finished that was published first."""

    @property
    def text(self) -> str:
        """The number for people."""
        return f"{self.deliveries}{'+' if self.deliveries == MOST_COUNTED else ''}"


def overdue(scope: Scope, *, retention_days: int) -> Overdue:
    """Count the finished deliveries that are past their retention, up to `MOST_COUNTED`, the oldest first."""
    delivery = scope.tables.delivery
    until = scope.now - timedelta(days=retention_days)
    finished = sa.select(delivery.c.finished_at).where(*_is_finished(delivery, until)).order_by(delivery.c.id)
    counted = finished.limit(MOST_COUNTED).subquery()
    return Overdue._make(scope.execute(sa.select(sa.func.count(), sa.func.min(counted.c.finished_at))).one())


def _without_deliveries(scope: Scope, rows: Sequence[Any]) -> list[UUID]:
    """Return the ids of those of the events that have no deliveries."""
    events = {row.id: row.created_at for row in rows}
    if not events:
        return []
    has_some = sa.select(scope.tables.delivery.c.event_id).where(delivery_ids.of_events(scope.tables, events))
    return list(events.keys() - set(scope.execute(has_some.distinct()).scalars()))


def _lock(scope: Scope, which: Any) -> Sequence[Any]:
    """Lock a batch of rows that no other process has locked, and return them."""
    scope.lock_writers()
    return scope.execute(which.limit(transactions.BATCH).with_for_update(skip_locked=True)).all()


def _following(which: Any, after: Any, time: sa.Column[Any], key: sa.Column[Any]) -> Any:
    """Order by time and id; leave out what comes before the row `after`, and that row."""
    if after is not None:
        _, last = after[:2]
        # Not a comparison of pairs: MariaDB uses no index for it.
        which = which.where(time >= last, ~sa.and_(time == last, key <= after.id))
    return which.order_by(time, key)


def _delete(
    scope: Scope, time: sa.Column[Any], which: sa.ColumnElement[bool], *, prefix: str, after: Any
) -> Batch | None:
    table = time.table
    rows = _lock(scope, _following(sa.select(table.c.id, time).where(which), after, time, table.c.id))
    if not rows:
        return None
    delete = sa.delete(table)
    left = references.delete_unreferenced(
        scope, [row.id for row in rows], lambda ids: scope.execute(delete.where(table.c.id.in_(ids)))
    )
    return _finished(len(rows), left, prefix, rows[-1])


def _finished(count: int, left: Sequence[UUID], prefix: str, last: Any) -> Batch:
    names = tuple(format_id(each, prefix) for each in left)
    if names:
        _log.warning("webhooks.referenced", extra={"webhooks.count": len(names), "webhooks.ids": names[:_NAMED]})
    return Batch(count - len(names), names, last)
