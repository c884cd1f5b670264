"""Incidents: times in which the attempts of an endpoint fail, and what the host has been told of each.

An incident begins with an attempt that fails. Each failed attempt adds one to its balance, up to `MOST`; each success
takes one off. So the balance grows while more than half of the attempts fail. The incident is over when the balance is
0, or with a success after `CALM` without a failure. It has a row only while it lasts, so that endpoints without one
cost a record nothing.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import results
from flask_webhook_endpoints.core.results import Settlement
from flask_webhook_endpoints.database import dialects, transactions
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.scope import Scope, TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables

ANNOUNCED_AT_BALANCE = 3
"""The balance from which on the host is told that an endpoint fails."""

ANNOUNCED_AFTER = timedelta(minutes=2)
"""The time that it must have lasted, too, because the host need not hear of a receiver that restarts."""

MOST = 10
"""The balance at most, so that ten successes end the longest incident."""

CALM = timedelta(minutes=10)
"""A success that comes so long after the last failed attempt ends an incident, whatever its balance."""

PENDING_FOR = timedelta(days=1)
"""The time before a pause at which the host is told that it may come."""


class PauseRule(NamedTuple):
    """The rule by which an endpoint that fails is paused."""

    failures: int = 10
    """Deliveries in a row that used up their attempts."""
    days: int = 5
    """Days for which every attempt has failed, too."""


DEFAULT_RULE = PauseRule()


class News(Enum):
    """A change of an endpoint's health, of which the host is told once for each incident."""

    FAILING = "failing"
    RECOVERED = "recovered"
    PAUSE_PENDING = "pause_pending"


class Notice(NamedTuple):
    """Something to tell the host about an endpoint."""

    news: News
    endpoint_id: UUID
    tenant_id: str
    failing_since: datetime
    """For `RECOVERED`: when the incident had begun."""
    error: str | None
    """The error code or the response's status of the last attempt that failed."""
    pauses_at: datetime | None
    """For `PAUSE_PENDING`: the time from which on the endpoint is paused."""


class Incident(NamedTuple):
    """A row of `webhook_incident`."""

    endpoint_id: UUID
    tenant_id: str
    began_at: datetime
    failing_since: datetime | None
    balance: int
    exhausted_in_a_row: int
    last_failed_at: datetime
    last_error: str | None
    announced_at: datetime | None
    pause_announced_at: datetime | None


class Judgement(NamedTuple):
    """An incident after some results."""

    incident: Incident | None
    """None: it is over."""
    notices: tuple[Notice, ...]
    pauses: bool
    """True: the endpoint is to be paused."""


class Noted(NamedTuple):
    """The notices for the host, and the endpoints to pause, that follow from the results of a record."""

    notices: Sequence[Notice]
    to_pause: Sequence[UUID]


def note(scope: Scope, settlements: Iterable[Settlement], *, rule: PauseRule) -> Noted:
    """Note which endpoints fail and which recover."""
    concerned = _concerned(list(settlements))
    if not concerned:
        return Noted([], [])
    found = _lock(scope, concerned)
    begun = {
        each: incident
        for each, results in concerned.items()
        if each not in found and (incident := judge(None, results, now=scope.now, rule=rule).incident) is not None
    }
    if begun:
        # Insert incidents as they begin. If another worker has inserted one, the results are judged by that one.
        rows = [_at_its_beginning(begun[each])._asdict() for each in sorted(begun)]
        scope.insert_those_absent(scope.tables.incident, rows)
        found |= _lock(scope, begun)
    judged = {each: judge(found[each], concerned[each], now=scope.now, rule=rule) for each in sorted(found)}
    if lasting := [each.incident for each in judged.values() if each.incident is not None]:
        scope.update_each(scope.tables.incident, dict(zip(Incident._fields, zip(*lasting, strict=True), strict=True)))
    if over := [each for each, judgement in judged.items() if judgement.incident is None]:
        forget(scope, over)
    return Noted(
        [notice for judgement in judged.values() for notice in judgement.notices],
        [each for each, judgement in judged.items() if judgement.pauses],
    )


def judge(incident: Incident | None, results: Sequence[Settlement], *, now: datetime, rule: PauseRule) -> Judgement:
    """Return what an endpoint's results, in their order, make of its incident, or of having none."""
    notices: list[Notice] = []
    exhausted = False
    for each in results:
        if each.status is not DeliveryStatus.DELIVERED:
            incident = _after_failure(incident, each)
            exhausted = exhausted or each.status is DeliveryStatus.FAILED
        elif incident is not None and (each.delivery.failing or _ended_at(each) >= incident.last_failed_at):
            is_over = incident.balance <= 1 or _ended_at(each) - incident.last_failed_at >= CALM
            if is_over and incident.announced_at is not None:
                notices.append(_notice(News.RECOVERED, incident))
            incident = None if is_over else _after_success(incident)
            exhausted = False
    if incident is None or incident.failing_since is None:
        return Judgement(incident, tuple(notices), pauses=False)
    pauses = exhausted and _is_due(incident, rule, now=now)
    if _is_to_announce(incident, now):
        incident = incident._replace(announced_at=now)
        notices.append(_notice(News.FAILING, incident))
    if not pauses and _is_pause_to_announce(incident, rule, now=now):
        incident = incident._replace(pause_announced_at=now)
        notices.append(_notice(News.PAUSE_PENDING, incident, rule=rule))
    return Judgement(incident, tuple(notices), pauses)


def announce_pauses(scope: Scope, *, rule: PauseRule) -> Sequence[Notice]:
    """Announce the pauses that come within a day, of endpoints that had no attempt since this time came."""
    incident, endpoint = scope.tables.incident, scope.tables.endpoint
    active = sa.select(endpoint.c.id).where(endpoint.c.id == incident.c.endpoint_id, endpoint.c.paused_at.is_(None))
    found = sa.select(incident.c.endpoint_id).where(
        incident.c.failing_since <= scope.now + PENDING_FOR - timedelta(days=rule.days),
        incident.c.pause_announced_at.is_(None),
        active.exists(),
    )
    # Lock only what is found, because workers record meanwhile; another worker may announce the same.
    ids = scope.execute(found.limit(transactions.BATCH)).scalars().all()
    locked = _lock(scope, ids) if ids else {}
    due = [each for each in locked.values() if _is_pause_to_announce(each, rule, now=scope.now)]
    # SQLite locks nothing by a SELECT: the worker whose UPDATE changes the row announces the pause.
    mark = sa.update(incident).where(incident.c.pause_announced_at.is_(None)).values(pause_announced_at=scope.now)
    announced = [each for each in due if scope.execute(mark.where(incident.c.endpoint_id == each.endpoint_id)).rowcount]
    return [_notice(News.PAUSE_PENDING, each, rule=rule) for each in announced]


def forget(scope: Scope, endpoint_ids: Collection[UUID]) -> None:
    """Forget the incidents of endpoints, if they have any."""
    if scope.dialect.name in dialects.LOCKS_WHAT_IT_READS:
        # As in `rests.may_rest`.
        endpoint_ids = scope.execute(_known(scope), {"ids": endpoint_ids}).scalars().all()
    if endpoint_ids:
        scope.execute(_forget(scope), {"ids": endpoint_ids})


def forget_tenant(scope: TenantScope) -> None:
    """Forget the incidents of the tenant's endpoints."""
    incident = scope.tables.incident
    # Look them up first: a DELETE would wait for the workers that have locked others.
    of_tenant = sa.select(incident.c.endpoint_id).where(incident.c.tenant_id == scope.tenant_id)
    if ids := scope.execute(of_tenant).scalars().all():
        forget(scope, ids)


def forget_orphaned(scope: Scope) -> None:
    """Forget incidents that began when their endpoints were deleted already."""
    # Look them up first: a DELETE would wait for the workers that have locked others.
    if ids := scope.execute(_orphaned(scope)).scalars().all():
        forget(scope, ids)


def _concerned(settlements: Sequence[Settlement]) -> Mapping[UUID, list[Settlement]]:
    """Return the results of endpoints that have an incident or may begin one, in the order of their ends."""
    # By their numbers, because Python hashes UUIDs slowly.
    ids = {
        each.delivery.endpoint_id.int
        for each in settlements
        if each.delivery.failing or each.status is not DeliveryStatus.DELIVERED
    }
    results: dict[UUID, list[Settlement]] = {}
    for each in sorted(settlements, key=_ended_at) if ids else ():
        if each.delivery.endpoint_id.int in ids:
            results.setdefault(each.delivery.endpoint_id, []).append(each)
    return results


def _ended_at(settlement: Settlement) -> datetime:
    return settlement.started_at + timedelta(milliseconds=settlement.duration_ms)


def _new(endpoint_id: UUID, tenant_id: str, began_at: datetime) -> Incident:
    return Incident(endpoint_id, tenant_id, began_at, None, 0, 0, began_at, None, None, None)


def _at_its_beginning(incident: Incident) -> Incident:
    return _new(incident.endpoint_id, incident.tenant_id, incident.began_at)


def _after_failure(incident: Incident | None, failure: Settlement) -> Incident:
    incident = incident or _new(failure.delivery.endpoint_id, failure.delivery.tenant_id, failure.started_at)
    return incident._replace(
        failing_since=incident.failing_since or failure.started_at,
        balance=min(incident.balance + 1, MOST),
        exhausted_in_a_row=incident.exhausted_in_a_row + (failure.status is DeliveryStatus.FAILED),
        last_failed_at=max(incident.last_failed_at, _ended_at(failure)),
        last_error=results.error_of(failure),
    )


def _after_success(incident: Incident) -> Incident:
    return incident._replace(
        failing_since=None, balance=incident.balance - 1, exhausted_in_a_row=0, pause_announced_at=None
    )


def _is_to_announce(incident: Incident, now: datetime) -> bool:
    lasts = now - incident.began_at >= ANNOUNCED_AFTER
    return incident.announced_at is None and lasts and incident.balance >= ANNOUNCED_AT_BALANCE


def _is_due(incident: Incident, rule: PauseRule, *, now: datetime) -> bool:
    """Return whether the endpoint is to be paused."""
    in_a_row = incident.exhausted_in_a_row >= rule.failures
    return in_a_row and incident.failing_since is not None and _pauses_at(incident.failing_since, rule) <= now


def _is_pause_to_announce(incident: Incident, rule: PauseRule, *, now: datetime) -> bool:
    if incident.pause_announced_at is not None or incident.failing_since is None or not incident.exhausted_in_a_row:
        return False
    return _pauses_at(incident.failing_since, rule) - PENDING_FOR <= now


def _pauses_at(failing_since: datetime, rule: PauseRule) -> datetime:
    return failing_since + timedelta(days=rule.days)


def _notice(news: News, incident: Incident, *, rule: PauseRule | None = None) -> Notice:
    since = incident.failing_since
    if news is News.RECOVERED or since is None:
        since = incident.began_at
    pauses_at = None if rule is None else _pauses_at(since, rule)
    return Notice(news, incident.endpoint_id, incident.tenant_id, since, incident.last_error, pauses_at)


def _lock(scope: Scope, endpoint_ids: Iterable[UUID]) -> dict[UUID, Incident]:
    """Lock the incidents of endpoints, and return them."""
    rows = scope.execute(_select(scope), {"ids": list(endpoint_ids)}).all()
    return {row[0]: Incident._make(row) for row in rows}


@statement
def _select(tables: Tables, dialect: str) -> Any:
    incident = tables.incident
    those = sa.select(*(incident.c[name] for name in Incident._fields))
    # Lock in id order, or two workers deadlock.
    ordered = those.where(tables.among(dialect, incident.c.endpoint_id, "ids")).order_by(incident.c.endpoint_id)
    return dialects.by_key(ordered, incident).with_for_update()


@statement
def _known(tables: Tables, dialect: str) -> sa.Select[Any]:
    endpoint_id = tables.incident.c.endpoint_id
    return sa.select(endpoint_id).where(tables.among(dialect, endpoint_id, "ids"))


@statement
def _forget(tables: Tables, dialect: str) -> Any:
    incident = tables.incident
    those = tables.among(dialect, incident.c.endpoint_id, "ids"), incident.c.balance >= 0
    return dialects.by_key(sa.delete(incident).where(*those), incident)


@statement
def _orphaned(tables: Tables, _dialect: str) -> Any:
    incident, endpoint = tables.incident, tables.endpoint
    is_known = sa.select(1).where(endpoint.c.id == incident.c.endpoint_id).exists()
    return sa.select(incident.c.endpoint_id).where(~is_known)
