"""Retention: what has served its time is deleted, and what was held for too long expires, batch by batch.

For operators, so across all tenants. One call is one short transaction; nothing here commits. Any number of processes
may prune at once: each passes by what another one has locked.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.core.idempotency import IdempotencyKeys
from flask_webhook_endpoints.core.secrets import EndpointSecrets
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.tables import Tables

BATCH = 500
"""Rows of one transaction: short enough that no request waits for it."""


class Prune(Protocol):
    """One batch, in the transaction that the session has open."""

    def __call__(self, session: Session, *, now: datetime) -> int:
        """Return how many rows it took, 0 where there are no more."""
        ...


class Step(NamedTuple):
    """One kind of what is pruned."""

    name: str
    """As in the JSON of `flask webhooks prune`."""
    text: str
    """As people read it."""
    prune: Prune


class Retention:
    """Takes what is to be deleted; none of its steps commits."""

    def __init__(
        self,
        tables: Tables,
        secrets: EndpointSecrets,
        idempotency_keys: IdempotencyKeys,
        *,
        retention_days: int,
        hold_max_days: int,
    ) -> None:
        self._tables = tables
        self._secrets = secrets
        self._idempotency_keys = idempotency_keys
        self._kept = timedelta(days=retention_days)
        self._held = timedelta(days=hold_max_days)
        self.steps = (
            Step("deliveries_expired", "Held deliveries expired", self.expire_held),
            Step("deliveries_deleted", "Deliveries deleted", self.prune_deliveries),
            Step("events_deleted", "Events without deliveries deleted", self.prune_events),
            Step("idempotency_keys_deleted", "Idempotency keys deleted", self.prune_idempotency_keys),
            Step("secrets_deleted", "Expired secrets deleted", self.prune_secrets),
        )

    def expire_held(self, session: Session, *, now: datetime) -> int:
        """Expire what is pending since `HOLD_MAX_DAYS`, of endpoints that have been paused for as long."""
        delivery, endpoint = self._tables.delivery, self._tables.endpoint
        since = now - self._held
        paused = sa.select(endpoint.c.id).where(endpoint.c.paused_at <= since)
        held = sa.select(delivery.c.id).where(
            delivery.c.status == DeliveryStatus.PENDING,
            delivery.c.endpoint_id.in_(paused),
            delivery.c.created_at <= since,
        )
        ids = list(self._tables.execute(session, _batch(held)).scalars())
        if ids:
            values = {"status": DeliveryStatus.EXPIRED, "finished_at": now, "next_attempt_at": None}
            self._tables.execute(session, sa.update(delivery).where(delivery.c.id.in_(ids)).values(values))
        return len(ids)

    def prune_deliveries(self, session: Session, *, now: datetime) -> int:
        """Delete what was finished `RETENTION_DAYS` ago, with its attempts, and its event where that was the last."""
        delivery, attempt = self._tables.delivery, self._tables.attempt
        # What is pending or in flight has not finished.
        finished = sa.select(delivery.c.id, delivery.c.event_id).where(delivery.c.finished_at <= now - self._kept)
        rows = self._tables.execute(session, _batch(finished.order_by(delivery.c.finished_at))).all()
        if rows:
            ids = [row.id for row in rows]
            self._tables.execute(session, sa.delete(attempt).where(attempt.c.delivery_id.in_(ids)))
            self._tables.execute(session, sa.delete(delivery).where(delivery.c.id.in_(ids)))
            event = self._tables.event
            of_these = event.c.id.in_({row.event_id for row in rows})
            self._tables.execute(session, sa.delete(event).where(of_these, self._left_behind(now)))
        return len(rows)

    def prune_events(self, session: Session, *, now: datetime) -> int:
        """Delete the events that two at once each took a last delivery of."""
        event = self._tables.event
        left = _batch(sa.select(event.c.id).where(self._left_behind(now)))
        ids = list(self._tables.execute(session, left).scalars())
        if ids:
            self._tables.execute(session, sa.delete(event).where(event.c.id.in_(ids)))
        return len(ids)

    def prune_idempotency_keys(self, session: Session, *, now: datetime) -> int:
        """Delete the keys that are no longer kept."""
        return self._idempotency_keys.prune(session, limit=BATCH, now=now)

    def prune_secrets(self, session: Session, *, now: datetime) -> int:
        """Delete the secrets that sign no more."""
        return len(self._secrets.prune(session, after=None, limit=BATCH, now=now))

    def count_finished(self, session: Session, *, now: datetime) -> int:
        """Return how many deliveries there are to delete."""
        delivery = self._tables.delivery
        finished = sa.select(sa.func.count()).where(delivery.c.finished_at <= now - self._kept)
        return int(self._tables.execute(session, finished).scalar_one())

    def _left_behind(self, now: datetime) -> sa.ColumnElement[bool]:
        delivery, event = self._tables.delivery, self._tables.event
        has_deliveries = sa.select(1).where(delivery.c.event_id == event.c.id).exists()
        return sa.and_(event.c.created_at <= now - self._kept, ~has_deliveries)


def _batch(statement: Any) -> Any:
    return statement.limit(BATCH).with_for_update(skip_locked=True)
