"""What comes of the attempts: recorded, with what follows for the deliveries and for their endpoints.

No operation commits.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.core.leases import Claimed
from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.database.types import Array

EXHAUSTED_IN_A_ROW = 10
FAILING_FOR = timedelta(days=5)
"""An endpoint is paused when this many deliveries were exhausted in a row, the first this long ago."""


class Settlement(NamedTuple):
    """What came of an attempt."""

    delivery: Claimed
    status: DeliveryStatus
    next_attempt_at: datetime | None
    gone: bool
    started_at: datetime
    duration_ms: int
    response_status: int | None
    error: str | None
    response_excerpt: bytes | None


class Paused(NamedTuple):
    """An endpoint that what came of its deliveries has paused."""

    endpoint_id: UUID
    tenant_id: str
    reason: PauseReason


class Settled(NamedTuple):
    """What was recorded: attempts whose lease still held, and what followed for their endpoints."""

    settlements: Sequence[Settlement]
    paused: Sequence[Paused]


class Settlements:
    """Operations on `webhook_attempt`, and what they bring about; none commits."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        delivery = tables.delivery
        again = sa.update(delivery).where(delivery.c.id == sa.bindparam("of_id"))
        self._again = again.values(status=DeliveryStatus.PENDING, next_attempt_at=sa.bindparam("due"), lease_owner=None)
        # Statements are built once, for each dialect: building one takes longer than the database takes over it.
        self._leased = lru_cache(self._leased_on)
        self._finish_leased = lru_cache(self._finish_leased_on)
        self._finish_and_select_lost = self._finish_and_select_lost_on_postgresql()

    def settle(self, session: Session, owner: UUID, settlements: Sequence[Settlement], *, now: datetime) -> Settled:
        """Record attempts, and what follows for those deliveries whose lease still holds, and for their endpoints.

        Once more with the same settlements changes nothing: a commit may have gone through though its answer was lost.
        """
        # Written before anything is read: SQLite can't turn a transaction that has read into one that writes.
        attempts = [_attempt_row(settlement) for settlement in settlements]
        self._tables.insert_those_absent(session, self._tables.attempt, attempts)
        lost: set[UUID] = set()
        for became in (DeliveryStatus.DELIVERED, DeliveryStatus.FAILED):
            ids = [settlement.delivery.id for settlement in settlements if settlement.status is became]
            lost |= self._finish(session, owner, ids, became, now=now)
        pending = [settlement for settlement in settlements if settlement.status is DeliveryStatus.PENDING]
        lost |= self._retry(session, owner, {each.delivery.id: each.next_attempt_at for each in pending})
        if lost:
            self._forget_erased(session, lost)
            settlements = [settlement for settlement in settlements if settlement.delivery.id not in lost]
        return Settled(settlements, self._judge_endpoints(session, settlements, now=now))

    def _finish(
        self, session: Session, owner: UUID, ids: Sequence[UUID], became: DeliveryStatus, *, now: datetime
    ) -> set[UUID]:
        """Finish those of the deliveries that are still leased; return the others, whose lease is lost."""
        if not ids:
            return set()
        dialect = self._tables.dialect(session)
        values = {"ids": ids, "owner": owner, "became": became, "now": now}
        if dialect.name == "postgresql":
            # Not those that it finished: they are nearly all, and reading so many ids costs.
            return set(self._tables.execute(session, self._finish_and_select_lost, values).scalars().all())
        finish = self._finish_leased(dialect.name, returning=dialect.update_returning)
        if dialect.update_returning:
            return set(ids).difference(self._tables.execute(session, finish, values).scalars().all())
        leased = self._still_leased(session, owner, ids)
        self._tables.execute(session, finish, values)
        return set(ids) - leased

    def _retry(self, session: Session, owner: UUID, due: Mapping[UUID, datetime | None]) -> set[UUID]:
        """Put off those of the deliveries that are still leased; return the others, whose lease is lost."""
        leased = self._still_leased(session, owner, list(due))
        if leased:
            values = [{"of_id": delivery_id, "due": due[delivery_id]} for delivery_id in leased]
            self._tables.execute(session, self._again, values)
        return set(due) - leased

    def _still_leased(self, session: Session, owner: UUID, ids: Sequence[UUID]) -> set[UUID]:
        if not ids:
            return set()
        statement = self._leased(self._tables.dialect(session).name)
        return set(self._tables.execute(session, statement, {"ids": ids, "owner": owner}).scalars().all())

    def _forget_erased(self, session: Session, ids: Collection[UUID]) -> None:
        """Delete the attempts of deliveries that were erased while they were in flight."""
        attempt, delivery = self._tables.attempt, self._tables.delivery
        known = sa.select(1).where(delivery.c.id == attempt.c.delivery_id).exists()
        self._tables.execute(session, sa.delete(attempt).where(attempt.c.delivery_id.in_(ids), ~known))

    def _judge_endpoints(self, session: Session, settlements: Iterable[Settlement], *, now: datetime) -> list[Paused]:
        # What began to fail since the claim goes on failing until a delivery claimed later arrives.
        recovered = {
            each.delivery.endpoint_id
            for each in settlements
            if each.delivery.failing and each.status is DeliveryStatus.DELIVERED
        }
        gone = {each.delivery.endpoint_id for each in settlements if each.gone}
        exhausted = Counter(each.delivery.endpoint_id for each in settlements if each.status is DeliveryStatus.FAILED)
        endpoint = self._tables.endpoint
        if recovered:
            self._recover(session, recovered)
        # In order: engines that lock the same ones one by one would deadlock otherwise.
        for endpoint_id, count in sorted(exhausted.items()):
            failing = sa.update(endpoint).where(endpoint.c.id == endpoint_id)
            values = {
                "failing_since": sa.func.coalesce(endpoint.c.failing_since, now),
                "exhausted_in_a_row": endpoint.c.exhausted_in_a_row + count,
            }
            self._tables.execute(session, failing.values(values))
        paused: list[Paused] = []
        if exhausted:
            paused += self._pause(
                session,
                PauseReason.FAILURES,
                endpoint.c.id.in_(list(exhausted)),
                endpoint.c.exhausted_in_a_row >= EXHAUSTED_IN_A_ROW,
                endpoint.c.failing_since <= now - FAILING_FOR,
                now=now,
            )
        if gone:
            paused += self._pause(session, PauseReason.GONE, endpoint.c.id.in_(gone), now=now)
        return paused

    def _recover(self, session: Session, endpoint_ids: Collection[UUID]) -> None:
        endpoint = self._tables.endpoint
        # Looked up first: on MariaDB and MySQL, an UPDATE waits for the host's open transactions that have published to
        # the endpoint, though there be nothing to change.
        failing = sa.select(endpoint.c.id).where(endpoint.c.id.in_(endpoint_ids), endpoint.c.failing_since.is_not(None))
        if found := self._tables.execute(session, failing).scalars().all():
            recover = sa.update(endpoint).where(endpoint.c.id.in_(found))
            self._tables.execute(session, recover.values(failing_since=None, exhausted_in_a_row=0))

    def _pause(
        self, session: Session, reason: PauseReason, *which: sa.ColumnElement[bool], now: datetime
    ) -> list[Paused]:
        endpoint = self._tables.endpoint
        # Locked before it is written, so that of engines and tenants at once one alone has paused it.
        active = sa.select(endpoint.c.id, endpoint.c.tenant_id).where(endpoint.c.paused_at.is_(None), *which)
        rows = self._tables.execute(session, active.with_for_update()).all()
        if not rows:
            return []
        statement = sa.update(endpoint).where(endpoint.c.id.in_([row.id for row in rows]))
        values = {
            "paused_at": now,
            "pause_reason": reason,
            "version": endpoint.c.version + 1,
            "updated_at": self._tables.update_time(self._tables.dialect(session).name, "now"),
        }
        self._tables.execute(session, statement.values(values), {"now": now})
        return [Paused(row.id, row.tenant_id, reason) for row in rows]

    def _leased_on(self, dialect: str) -> sa.Select[Any]:
        return sa.select(self._tables.delivery.c.id).where(*self._are_leased(dialect)).with_for_update()

    def _finish_leased_on(self, dialect: str, *, returning: bool) -> Any:
        finished: dict[str, Any] = {"status": sa.bindparam("became"), "finished_at": sa.bindparam("now")}
        finish = sa.update(self._tables.delivery).where(*self._are_leased(dialect))
        finish = finish.values({**finished, "next_attempt_at": None, "lease_owner": None})
        return finish.returning(self._tables.delivery.c.id) if returning else finish

    def _finish_and_select_lost_on_postgresql(self) -> sa.Select[Any]:
        of_delivery = self._tables.delivery.c.id
        asked = (
            sa.func.unnest(sa.bindparam("ids", type_=Array(of_delivery.type)))
            .table_valued("id")
            .render_derived("asked")
        )
        finished = self._finish_leased_on("postgresql", returning=True).cte("finished")
        return sa.select(asked.c.id).where(asked.c.id.not_in(sa.select(finished.c.id)))

    def _are_leased(self, dialect: str) -> tuple[sa.ColumnElement[bool], ...]:
        delivery = self._tables.delivery
        return (
            self._tables.among(dialect, delivery.c.id, "ids"),
            delivery.c.lease_owner == sa.bindparam("owner"),
            delivery.c.status == DeliveryStatus.SENDING,
        )


def _attempt_row(settlement: Settlement) -> dict[str, Any]:
    return {
        "delivery_id": settlement.delivery.id,
        "number": settlement.delivery.attempt,
        "started_at": settlement.started_at,
        "duration_ms": settlement.duration_ms,
        "response_status": settlement.response_status,
        "error": settlement.error,
        "response_excerpt": settlement.response_excerpt,
    }
