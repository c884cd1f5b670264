"""Recent counts: each record counts its results in a new row, and a worker adds the rows up later.

A row has the counts of all endpoints of a record. It is text, because a row for each endpoint would cost the database
several times as much. Statistics read these rows and the roll-ups in one statement, so that each result counts once,
whether a worker has added it up or not.
"""

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import sqlalchemy as sa

from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.scope import Scope, TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables

RECORDS = 100
"""The number of records, on average, after which a worker adds up what it finds: statistics read all rows."""

RESULTS = 2000
"""The number of results, on average, after which a worker does so if records have many of them."""

KEPT_APART = timedelta(seconds=30)
"""The time for which added counts stay here in one row, so that roll-ups are rarely updated."""

MOST_KEPT = 2000
"""Counts of one row at most. More go to the roll-ups at once, where few of them meet the same row soon."""

_AT_ONCE = 200
"""Rows that are added up at once at most."""

_SMALL = 1500
"""Characters of a row that is added up whatever there is besides."""

Count = list[Any]
"""The fields of an `Hour` or a `Minute` as JSON has them: ids as 32 digits, times as numbers."""

_1970 = datetime(1970, 1, 1, tzinfo=UTC)


class Hour(NamedTuple):
    """Results of an endpoint within an hour, as a row of `webhook_endpoint_hour` has them."""

    tenant_id: str
    endpoint_id: UUID
    hour: datetime
    latency: int
    attempts: int
    failed_attempts: int
    delivered: int
    failed: int
    last_at: datetime


class Minute(NamedTuple):
    """Results within a minute, as a row of `webhook_worker_minute` has them, without a worker."""

    minute: datetime
    error: str
    attempts: int


def write(scope: Scope, counted_at: datetime, hours: Sequence[Count], minutes: Sequence[Count]) -> None:
    """Write counts, of which the first is of the time `counted_at`."""
    of_minutes = orjson.dumps(minutes).decode()
    row = {"id": new_id(), "counted_at": counted_at, "hours": _text_of(hours), "minutes": of_minutes}
    scope.execute(_insert(scope), row)


def with_recent(select: sa.Select[Any], recent: sa.Column[Any]) -> sa.CompoundSelect[Any]:
    """Add recent counts to a SELECT from roll-ups, as rows with a text alone, in a last column, `stored`.

    `recent` is the column of `webhook_recent_count` that has the texts.
    """
    rolled_up = select.add_columns(sa.null().label("stored"))
    return sa.union_all(rolled_up, sa.select(*(sa.null() for _ in select.selected_columns), recent))


def hours_of(rows: Iterable[Any], endpoint_ids: Collection[UUID], *, tenant_id: str, since: datetime) -> Iterator[Any]:
    """Yield rows of a SELECT `with_recent` hours. For each text, yield an `Hour` for each count of endpoints."""
    hexes, first = {each.hex for each in endpoint_ids}, number(since)
    for row in rows:
        if row.stored is None:
            yield row
            continue
        for each in _counts_of(row.stored):
            if each[1] in hexes and each[0] == tenant_id and each[2] >= first:
                yield _hour(each)


def minutes_of(rows: Iterable[Any]) -> Iterator[Minute]:
    """Yield the minutes of the rows of a SELECT `with_recent` minutes that have a text."""
    for row in rows:
        for minute, *others in orjson.loads(row.stored or "[]"):
            yield Minute(_time(minute), *others)


def attempted_since(scope: Scope, since: datetime) -> set[UUID]:
    """Return the endpoints that have recent counts since a time."""
    texts = scope.execute(sa.select(scope.tables.recent_count.c.hours)).scalars()
    first = number(since)
    return {UUID(hex_) for hex_ in {each[1] for text in texts for each in _counts_of(text) if each[8] >= first}}


def is_time_to_add_up(results: int) -> bool:
    """Return at random whether a worker adds up now, after a record of so many results."""
    return random.random() < 1 / RECORDS + results / RESULTS  # noqa: S311 - spreads load, guards nothing


def add_up(scope: Scope, owner: UUID, *, kept_apart: timedelta = KEPT_APART) -> int:
    """Add up recent counts that no other process has locked, as the worker `owner`. Return how many rows they were.

    They become one row, or go to the roll-ups if the first of them is as old as `kept_apart`.
    """
    free = _free_rows(scope)
    if not free:
        return 0
    is_over = scope.now - min(row.counted_at for row in free) >= kept_apart
    taken = free if is_over else _worth_adding(free)
    if not taken:
        return 0
    recent = scope.tables.recent_count
    scope.execute(sa.delete(recent).where(recent.c.id.in_([row.id for row in taken])))
    of_hours, of_minutes = _sums(taken)
    if not is_over and len(of_hours) <= MOST_KEPT:
        write(scope, min(row.counted_at for row in taken), of_hours, of_minutes)
        return len(taken)
    # Lock in the order of the keys, or two workers deadlock.
    if of_hours := sorted(of_hours, key=lambda each: (each[0].encode(), each[1:4])):
        # A forgotten tenant may have had all of them.
        scope.add_up(scope.tables.endpoint_hour, [_hour(each)._asdict() for each in of_hours])
    minutes = [Minute(_time(minute), *others) for minute, *others in sorted(of_minutes)]
    scope.add_up(scope.tables.worker_minute, [{"worker_id": owner, **minute._asdict()} for minute in minutes])
    return len(taken)


def forget_tenant(scope: TenantScope) -> None:
    """Take the tenant out of all recent counts, those included that a worker is adding up."""
    recent, last = scope.tables.recent_count, new_id()
    # With a row at the end, MariaDB does not lock what follows it: workers go on recording before the host commits.
    scope.execute(sa.insert(recent).values(id=last, counted_at=scope.now, hours="[]", minutes="[]"))
    before = sa.select(recent).where(recent.c.id < last).order_by(recent.c.id).with_for_update()
    rows = [row for row in scope.execute(before) if any(each[0] == scope.tenant_id for each in _counts_of(row.hours))]
    scope.execute(sa.delete(recent).where(recent.c.id.in_([last, *(row.id for row in rows)])))
    if rows:
        of_hours, of_minutes = _sums(rows)
        of_others = [each for each in of_hours if each[0] != scope.tenant_id]
        write(scope, min(row.counted_at for row in rows), of_others, of_minutes)


@statement
def _insert(tables: Tables, _dialect: str) -> sa.Insert:
    return sa.insert(tables.recent_count)


def _text_of(hours: Iterable[Count]) -> str:
    """Return counts as text that has what they share once, because PostgreSQL writes all of it ahead."""
    shared: dict[Any, dict[str, list[Count]]] = {}
    for tenant_id, endpoint_id, hour, *numbers, last_at in hours:
        shared.setdefault((tenant_id, hour, last_at), {}).setdefault(endpoint_id, []).append(numbers)
    return orjson.dumps([[*keys, numbers] for keys, numbers in shared.items()]).decode()


def _counts_of(text: str) -> Iterator[Count]:
    """Yield the counts that `_text_of` has made a text of."""
    for tenant_id, hour, *others in orjson.loads(text):
        if isinstance(hour, str):
            # A worker of an older version has written it: a single count.
            yield [tenant_id, hour, *others]
            continue
        last_at, endpoints = others
        for endpoint_id, counts in endpoints.items():
            for numbers in counts:
                yield [tenant_id, endpoint_id, hour, *numbers, last_at]


def _free_rows(scope: Scope) -> list[Any]:
    """Lock rows that no other process has locked, and return them."""
    scope.lock_writers()
    return list(scope.execute(_free(scope)).all())


@statement
def _free(tables: Tables, _dialect: str) -> Any:
    recent = tables.recent_count
    return sa.select(recent).order_by(recent.c.id).limit(_AT_ONCE).with_for_update(skip_locked=True)


def _worth_adding(rows: Iterable[Any]) -> list[Any]:
    """Return the smallest rows of which each is at most as large as all smaller ones together, or small.

    So a count is written again only where its row about doubles, and few rows are left.
    """
    taken, size = list[Any](), _SMALL
    for row in sorted(rows, key=lambda row: len(row.hours)):
        if len(row.hours) > size:
            if len(taken) > 1:
                break
            taken, size = [], _SMALL
        taken.append(row)
        size += len(row.hours)
    return taken if len(taken) > 1 else []


def _sums(rows: Iterable[Any]) -> tuple[list[Count], list[Count]]:
    """Add up the counts of rows: those of hours, and those of minutes."""
    hours: dict[tuple[Any, ...], Count] = {}
    minutes: dict[tuple[Any, ...], Count] = {}
    for row in rows:
        for each in _counts_of(row.hours):
            if (known := hours.setdefault(tuple(each[:4]), each)) is not each:
                numbers = (known[place] + each[place] for place in range(4, 8))
                known[4:] = [*numbers, max(known[8], each[8])]
        for each in orjson.loads(row.minutes):
            if (known := minutes.setdefault(tuple(each[:2]), each)) is not each:
                known[2] += each[2]
    return list(hours.values()), list(minutes.values())


def _hour(count: Count) -> Hour:
    tenant_id, endpoint_id, hour, *numbers, last_at = count
    return Hour._make((tenant_id, UUID(endpoint_id), _time(hour), *numbers, _time(last_at)))


# The counts of a record have two times in all.
@lru_cache(maxsize=16)
def number(time: datetime) -> int:
    """Return a time as a count has it: microseconds since 1970."""
    return (time - _1970) // timedelta(microseconds=1)


# What is added up together has few times: an hour, and one of each record.
@lru_cache(maxsize=256)
def _time(number: int) -> datetime:
    return _1970 + timedelta(microseconds=number)
