"""A batch: some thousand events, of any tenants, published in as many statements as a few events."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import events, fan_out, subscriptions
from flask_webhook_endpoints.core.declarations import Check
from flask_webhook_endpoints.core.events import Encode, Event
from flask_webhook_endpoints.database import given
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.database.scope import Scope, as_committed, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import InvalidEvent
from flask_webhook_endpoints.identifiers import TenantId, stored_tenant

MAX_EVENTS = 5_000
"""The number of events that are written together. More take another round of statements."""

MAX_BYTES = 8 * 1024 * 1024
"""Bytes of bodies that are written together. MariaDB takes 16 MiB at once, and PostgreSQL gets each byte as two."""

_Key = tuple[str, str]
"""A tenant, and one of its idempotency keys."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to publish with `publish_many`; the fields are the arguments of `publish`."""

    event_type: str
    data: Any
    _: KW_ONLY
    tenant_id: TenantId
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class _Draft:
    """An event that breaks no rule, with its place in the batch."""

    index: int
    tenant_id: str
    event: Event
    body: bytes
    idempotency_key: str | None

    @property
    def key(self) -> _Key | None:
        """Its idempotency key, which is its tenant's; None: it has none."""
        return None if self.idempotency_key is None else (self.tenant_id, self.idempotency_key)

    @property
    def topic(self) -> subscriptions.Topic:
        """Its tenant and its type."""
        return self.tenant_id, self.event.type


def publish_many(
    scope: Scope,
    new_events: Sequence[NewEvent],
    *,
    max_body_bytes: int,
    delay_seconds: float,
    encode: Encode,
    check: Check | None = None,
) -> list[Event | None]:
    """Publish events as `events.publish` publishes one; return the same for each, in their order.

    Their times are a microsecond apart, and the last one's is the scope's.

    Raises:
        InvalidEvent: One breaks a rule; nothing is written.
        TypeError: One is not a `NewEvent`, or its tenant is neither int, UUID nor str; nothing is written.
        ValueError: The text of one's tenant is empty, too long, or has characters that databases can't store.

    """
    rules: dict[str, Any] = {"encode": encode, "max_bytes": max_body_bytes, "check": check}
    last = len(new_events) - 1
    drafts = [_draft(index, new, _moment(scope, last - index), **rules) for index, new in enumerate(new_events)]
    known: dict[_Key, Event] = {}
    wanted: dict[subscriptions.Topic, subscriptions.Ids] = {}
    for chunk in _chunks(drafts):
        wanted |= subscriptions.wanting_ids_of(scope, list(dict.fromkeys(draft.topic for draft in chunk)))
        known |= _known(scope, chunk)
    new, answers = _new(drafts, wanted, known)
    lost: dict[UUID, Event | None] = {}
    for chunk in _chunks(new):
        lost |= _write(scope, chunk, wanted, delay_seconds=delay_seconds)
    return [answer and lost.get(answer.id, answer) for answer in answers]


def _moment(scope: Scope, microseconds: int) -> datetime:
    return scope.now - timedelta(microseconds=microseconds)


def _draft(index: int, new: NewEvent, now: datetime, **rules: Any) -> _Draft:
    if not isinstance(new, NewEvent):
        raise TypeError(f"events[{index}]: An event must be a NewEvent, not {type(new).__name__}.")
    try:
        tenant_id = stored_tenant(new.tenant_id)
        body = events.make_body(new.event_type, new.data, now=now, **rules)
        events.check_key(new.idempotency_key)
    except (TypeError, ValueError) as error:
        raise type(error)(f"events[{index}]: {error}") from error
    return _Draft(index, tenant_id, Event(new_id(), new.event_type, now), body, new.idempotency_key)


def _chunks(drafts: Iterable[_Draft]) -> Iterator[list[_Draft]]:
    chunk: list[_Draft] = []
    size = 0
    for draft in drafts:
        if len(chunk) == MAX_EVENTS or (chunk and size + len(draft.body) > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(draft)
        size += len(draft.body)
    if chunk:
        yield chunk


def _new(
    drafts: Iterable[_Draft], wanted: Container[subscriptions.Topic], known: Mapping[_Key, Event]
) -> tuple[list[_Draft], list[Event | None]]:
    """Return the drafts to write, and the answer for each. Those are wanted, and the first with their key."""
    new: list[_Draft] = []
    answers: list[Event | None] = []
    first_of = dict(known)
    for draft in drafts:
        first = first_of.get(draft.key) if draft.key else None
        if first is not None:
            _check_type(draft, first)
        elif draft.topic in wanted:
            new.append(draft)
            first = draft.event
            if draft.key is not None:
                first_of[draft.key] = first
        answers.append(first)
    return new, answers


def _check_type(draft: _Draft, first: Event) -> None:
    try:
        events.check_type(first, draft.event.type)
    except InvalidEvent as error:
        raise InvalidEvent(f"events[{draft.index}]: {error}") from error


def _write(
    scope: Scope,
    chunk: Sequence[_Draft],
    wanted: Mapping[subscriptions.Topic, subscriptions.Ids],
    *,
    delay_seconds: float,
) -> dict[UUID, Event | None]:
    """Write the events and their deliveries.

    Return the earlier event for each one that was not written, because another transaction has just taken its key.
    """
    # In the order of their keys: each insert waits for another transaction that has the key, or both would deadlock.
    by_key = sorted(chunk, key=lambda draft: draft.key or ("", ""))
    rows = [events.row_of(each.event, each.tenant_id, each.body, each.idempotency_key) for each in by_key]
    scope.insert_those_absent(scope.tables.event, rows)
    firsts = _known(scope, chunk, committed=True)
    lost = {
        draft.event.id: first
        for draft in chunk
        if draft.key is not None and (first := firsts.get(draft.key)) != draft.event
    }
    ours = [draft for draft in chunk if draft.event.id not in lost]
    try:
        for draft in chunk:
            if (first := lost.get(draft.event.id)) is not None:
                _check_type(draft, first)
    except InvalidEvent:
        scope.execute(_delete(scope), {"ids": [draft.event.id for draft in ours]})
        raise
    if ours:
        published = [fan_out.Published(each.tenant_id, *each.event, wanted[each.topic]) for each in ours]
        fan_out.to_wanting_each(scope, published, delay_seconds=delay_seconds)
    return lost


def _known(scope: Scope, drafts: Iterable[_Draft], *, committed: bool = False) -> Mapping[_Key, Event]:
    """Return the events that have the drafts' keys; `committed` finds what other transactions have just committed."""
    keys = sorted({draft.key for draft in drafts if draft.key is not None})
    if not keys:
        return {}
    values = given.parameters(scope.dialect, _columns_of_keys(scope.tables), keys)
    rows = scope.execute(_of_keys(scope, committed=committed), values)
    return {(row.tenant_id, row.idempotency_key): Event(row.id, row.type, row.created_at) for row in rows}


def _columns_of_keys(tables: Tables) -> given.Columns:
    event = tables.event.c
    return {"tenant_id": event.tenant_id.type, "idempotency_key": event.idempotency_key.type}


@statement
def _of_keys(tables: Tables, dialect: str, *, committed: bool) -> sa.Select[Any]:
    event = tables.event
    rows = given.rows_of(dialect, _columns_of_keys(tables))
    of_key = sa.and_(*(event.c[name] == rows.c[name] for name in _columns_of_keys(tables)))
    columns = event.c.tenant_id, event.c.idempotency_key, *(event.c[name] for name in Event._fields)
    select = subscriptions.in_order(dialect, columns, rows, event).where(of_key)
    return as_committed(select) if committed else select


@statement
def _delete(tables: Tables, dialect: str) -> sa.Delete:
    return sa.delete(tables.event).where(tables.among(dialect, tables.event.c.id, "ids"))
