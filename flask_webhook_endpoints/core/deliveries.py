"""Deliveries as their tenant sees them: one of them with its attempts; the ping.

A tenant sees a delivery through its endpoint. Deliveries of a deleted endpoint are not found.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult

from flask_webhook_endpoints.core import events
from flask_webhook_endpoints.core import headers as request_headers
from flask_webhook_endpoints.core.attempts import MAX_LOGGED
from flask_webhook_endpoints.core.transitions import constant
from flask_webhook_endpoints.database import delivery_ids
from flask_webhook_endpoints.database.models import DeliveryStatus, QueueState
from flask_webhook_endpoints.database.scope import TenantScope, as_committed, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import EndpointPaused, UnknownDelivery, UnknownEndpoint, UnreadableValue
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.security import encryption
from flask_webhook_endpoints.security.encryption import Cipher, Headers
from flask_webhook_endpoints.security.private import PrivateURL

PING = "webhook.ping"
"""The type of the event that tries out an endpoint."""

HELD = "HELD"
"""The status that a tenant sees of a paused endpoint's pending delivery, unless an attempt is in flight."""

STATUSES = (*(status.value for status in DeliveryStatus), HELD)
"""The statuses that a tenant sees of deliveries."""


class Delivery(NamedTuple):
    """A delivery as its tenant may see it; one in flight is `PENDING` without a next attempt."""

    id: UUID
    event_id: UUID
    event_type: str
    status: str
    """A `DeliveryStatus`, or `HELD`."""
    attempts: int
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    last_attempt_at: datetime | None
    last_response_status: int | None
    last_error: str | None
    endpoint_id: UUID


class Attempt(NamedTuple):
    """One HTTP request of a delivery, and its result."""

    number: int
    started_at: datetime
    duration_ms: int
    response_status: int | None
    error: str | None
    response_excerpt: bytes | None
    url: PrivateURL | None = None
    """The URL that it was sent to, where that is not the endpoint's present one."""
    response_headers: Mapping[str, str] | None = None
    """Some headers of a response that is no success."""


OF_LOG = Attempt._fields[:6]
"""The fields of an attempt that the log has of the last one."""


@dataclass(frozen=True, slots=True, repr=False)
class Details:
    """A delivery with all that is known of it."""

    delivery: Delivery
    body: bytes
    attempts: Sequence[Attempt]
    """The last `MAX_LOGGED`, oldest first."""
    url: PrivateURL
    """The endpoint's present URL."""
    headers: Headers | None
    """The endpoint's present headers; None where the key that encrypted them is lost."""
    planned: Sequence[datetime]
    """When the attempts of the retry schedule are due that are still to come, if each of them fails."""


def get(
    scope: TenantScope, endpoint_id: UUID, delivery_id: UUID, *, cipher: Cipher, schedule: Sequence[float]
) -> Details:
    """Return a delivery with its body, its attempts and what is planned; raise `UnknownEndpoint`, `UnknownDelivery`."""
    row = execute(scope, _details(scope), endpoint_id, of_id=delivery_id).one_or_none()
    if row is None:
        is_paused(scope, endpoint_id)
        raise UnknownDelivery
    found = Delivery._make(row[: len(Delivery._fields)])
    body, url, token, begun, *last = row[len(Delivery._fields) :]
    rows = execute(scope, _attempts(scope), endpoint_id, of_id=delivery_id).all()
    attempts = [_attempt(each, url) for each in reversed(rows)]
    of_log = Attempt(*last)
    # The log alone has an attempt that succeeded at once.
    if of_log.started_at is not None and all(each.number != of_log.number for each in attempts):
        attempts.append(of_log)
    planned = [] if begun is None else list(_planned(found, begun, schedule, scope.now))
    return Details(found, body, attempts, PrivateURL(url), _headers(token, endpoint_id, cipher), planned)


def shown_headers(details: Details, *, in_clear: bool) -> Headers:
    """Return the headers of a delivery's request, without the signature.

    The values of the endpoint's own headers are hidden unless `in_clear`. `webhook-timestamp` is that of the last
    recorded attempt, and is absent before one.
    """
    custom, last = details.headers or Headers(), details.delivery.last_attempt_at
    sent = request_headers.request_headers(
        custom if in_clear else Headers(dict.fromkeys(custom, request_headers.HIDDEN)),
        message_id=format_id(details.delivery.event_id, "evt"),
        timestamp=0 if last is None else int(last.timestamp()),
        # With the signature, anyone who may read deliveries could send this one again for some minutes.
        signature=request_headers.HIDDEN,
    )
    return Headers((name, value) for name, value in sent.items() if not (last is None and name == "webhook-timestamp"))


def ping(scope: TenantScope, endpoint_id: UUID, *, event_type: str = PING, data: Any = None) -> Delivery:
    """Publish an event to this endpoint alone, whatever its event types, and return the delivery.

    The data of `webhook.ping` is the endpoint's id. Raises `UnknownEndpoint`, `EndpointPaused`, `EventWaiting`.
    """
    sent = {"endpoint_id": format_id(endpoint_id)} if event_type == PING else data
    event = events.publish_to(scope, endpoint_id, event_type, sent, kind=PING)
    if event is None:
        is_paused(scope, endpoint_id, committed=True)
        raise EndpointPaused
    names = delivery_ids.parameters(event.id, event.created_at)
    row = execute(scope, _of_event(scope), endpoint_id, **names).one_or_none()
    if row is None:
        # Deleted since the delivery was written, on PostgreSQL, whose INSERT … SELECT locks nothing.
        raise UnknownEndpoint
    return Delivery._make(row)


def execute(scope: TenantScope, statement: sa.Executable, endpoint_id: UUID, **values: Any) -> CursorResult[Any]:
    """Execute a statement on what belongs to an endpoint of the tenant."""
    return scope.execute(statement, {"of_tenant": scope.tenant_id, "of_endpoint": endpoint_id, **values})


def is_paused(scope: TenantScope, endpoint_id: UUID, *, committed: bool = False) -> bool:
    """Return whether the endpoint is paused; raise `UnknownEndpoint`.

    After a write, read with `committed`, because the write saw the endpoint as it is committed now.
    """
    row = execute(scope, _is_paused(scope, committed=committed), endpoint_id).one_or_none()
    if row is None:
        raise UnknownEndpoint
    return bool(row[0])


def last_attempt(delivery: sa.Table) -> tuple[sa.ColumnElement[Any], ...]:
    """Return the columns of the last attempt in the log, as `OF_LOG` names them."""
    return (
        delivery.c.attempts,
        delivery.c.last_attempt_at,
        delivery.c.last_duration_ms,
        delivery.c.last_response_status,
        delivery.c.last_error,
        delivery.c.last_response_excerpt,
    )


def of_endpoint(tables: Tables) -> tuple[sa.ColumnElement[bool], ...]:
    """Return which endpoint `execute` has named."""
    endpoint = tables.endpoint
    return endpoint.c.tenant_id == sa.bindparam("of_tenant"), endpoint.c.id == sa.bindparam("of_endpoint")


def is_held(tables: Tables) -> sa.ColumnElement[bool]:
    """Return whether the tenant sees a delivery as `HELD`; false, too, where the queue does not have it."""
    queue, endpoint = tables.queue, tables.endpoint
    states = map(constant, (QueueState.READY, QueueState.WAITING, QueueState.HELD))
    is_waiting = sa.func.coalesce(queue.c.state, sa.literal_column("''")).in_(list(states))
    is_pending = tables.delivery.c.status == constant(DeliveryStatus.PENDING)
    return sa.and_(endpoint.c.paused_at.is_not(None), is_pending, is_waiting)


def shown_status(tables: Tables) -> sa.ColumnElement[str]:
    """Return the status that the tenant sees of a delivery."""
    return sa.case((is_held(tables), sa.literal_column(f"'{HELD}'", sa.String)), else_=tables.delivery.c.status)


def shown_columns(tables: Tables) -> list[Any]:
    """Return the columns of `Delivery`."""
    delivery, event, queue = tables.delivery, tables.event, tables.queue
    held = is_held(tables)
    columns: dict[str, Any] = {
        "event_type": event.c.type,
        "status": shown_status(tables).label("status"),
        "attempts": sa.func.coalesce(queue.c.attempts, delivery.c.attempts).label("attempts"),
        # While it is in flight, the column holds the end of the worker's lease.
        "next_attempt_at": sa.case(
            (sa.and_(queue.c.state != constant(QueueState.LEASED), ~held), queue.c.due_at), else_=sa.null()
        ).label("next_attempt_at"),
    }
    return [columns[name] if name in columns else delivery.c[name] for name in Delivery._fields]


@statement
def one(tables: Tables, _dialect: str) -> sa.Select[Any]:
    """Select as `Delivery` the one to an endpoint that has the id `of_id`."""
    return _shown(tables).where(tables.delivery.c.id == sa.bindparam("of_id"))


@statement
def _details(tables: Tables, _dialect: str) -> sa.Select[Any]:
    delivery, event, endpoint, queue = tables.delivery, tables.event, tables.endpoint, tables.queue
    turn = queue.c.attempts - queue.c.attempts_before
    more = event.c.body, endpoint.c.url, endpoint.c.headers_encrypted, turn, *last_attempt(delivery)
    return _shown(tables).add_columns(*more).where(delivery.c.id == sa.bindparam("of_id"))


@statement
def _of_event(tables: Tables, _dialect: str) -> sa.Select[Any]:
    return _shown(tables).where(delivery_ids.of_event(tables))


def _shown(tables: Tables) -> sa.Select[Any]:
    """Select deliveries to an endpoint as `Delivery`."""
    delivery, event, endpoint, queue = tables.delivery, tables.event, tables.endpoint, tables.queue
    through = delivery.join(endpoint, endpoint.c.id == delivery.c.endpoint_id)
    of_queue = through.outerjoin(queue, queue.c.delivery_id == delivery.c.id)
    of_event = of_queue.join(event, event.c.id == delivery.c.event_id)
    selected: Any = sa.select(*shown_columns(tables))
    return cast("sa.Select[Any]", selected.select_from(of_event).where(*of_endpoint(tables)))


@statement
def _is_paused(tables: Tables, _dialect: str, *, committed: bool) -> sa.Select[Any]:
    paused = sa.select(tables.endpoint.c.paused_at.is_not(None)).where(*of_endpoint(tables))
    return as_committed(paused) if committed else paused


@statement
def _attempts(tables: Tables, _dialect: str) -> sa.Select[Any]:
    attempt, delivery, endpoint = tables.attempt, tables.delivery, tables.endpoint
    through = delivery.join(endpoint, endpoint.c.id == delivery.c.endpoint_id)
    attempts = sa.select(*(attempt.c[name] for name in Attempt._fields))
    of_delivery = attempts.select_from(through.join(attempt, attempt.c.delivery_id == delivery.c.id))
    chosen = of_delivery.where(*of_endpoint(tables), delivery.c.id == sa.bindparam("of_id"))
    return chosen.order_by(attempt.c.number.desc()).limit(sa.literal_column(str(MAX_LOGGED), sa.Integer))


def _attempt(row: sa.Row[Any], present_url: str) -> Attempt:
    attempt = Attempt._make(row)
    # Columns of the row, which are text.
    url, headers = cast(str | None, attempt.url), cast(str | None, attempt.response_headers)
    return attempt._replace(
        url=None if url in (None, present_url) else PrivateURL(url),
        response_headers=None if headers is None else json.loads(headers),
    )


def _headers(token: str | None, endpoint_id: UUID, cipher: Cipher) -> Headers | None:
    if token is None:
        return Headers()
    try:
        return cipher.decrypt_headers(token, encryption.place_of_headers(format_id(endpoint_id)))
    except UnreadableValue:
        return None


def _planned(delivery: Delivery, begun: int, schedule: Sequence[float], now: datetime) -> Iterator[datetime]:
    """Yield when the attempts after the `begun` ones of the schedule are due, without jitter."""
    if delivery.status == HELD:
        return
    moment, following = now, begun
    if delivery.next_attempt_at is not None:
        yield delivery.next_attempt_at
        moment, following = delivery.next_attempt_at, begun + 1
    for wait in schedule[following:]:
        moment += timedelta(seconds=wait)
        yield moment
