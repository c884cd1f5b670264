"""Publishing: an event and its deliveries, written in the host's own transaction (an outbox).

Source: Standard Webhooks 1.0.0, "Payload structure" (`type`, `timestamp`, `data`) and "webhook-id".
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import sqlalchemy as sa

from flask_webhook_endpoints import telemetry
from flask_webhook_endpoints.core import fan_out, subscriptions
from flask_webhook_endpoints.core.declarations import Check
from flask_webhook_endpoints.database import delivery_ids
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.database.scope import TenantScope, as_committed, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import EventWaiting, InvalidEvent
from flask_webhook_endpoints.identifiers import (
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_KEY_RULE,
    MAX_EVENT_TYPE_LENGTH,
    format_id,
    format_time,
    is_event_type,
    patterns_of,
)

Encode = Callable[[Any], str]
"""Returns compact JSON; raises `TypeError`, `ValueError` or `RecursionError` for data that is not JSON."""

_SPACED = re.compile(r"[\s][\]:,{}[]|[\]:,{}[][\s]")
_STRINGS_AND_SPACES = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|\s+')


class Event(NamedTuple):
    """A published event."""

    id: UUID
    type: str
    created_at: datetime


def publish(
    scope: TenantScope,
    event_type: str,
    data: Any,
    *,
    max_body_bytes: int,
    delay_seconds: float,
    encode: Encode | None = None,
    check: Check | None = None,
    idempotency_key: str | None = None,
) -> Event | None:
    """Write an event, and a delivery to each endpoint of the tenant that wants it. Return None if none wants it.

    An event with the `idempotency_key` of an earlier one is not written: the earlier event is returned, even if no
    endpoint wants it today. Deliveries are due after `delay_seconds`.

    Raises:
        InvalidEvent: The type or the key breaks a rule, the earlier event has another type, the data is not JSON, the
            body is over `max_body_bytes`, or `check` refuses the event.

    """
    body = make_body(
        event_type, data, now=scope.now, encode=encode or compact_json, max_bytes=max_body_bytes, check=check
    )
    check_key(idempotency_key)
    patterns = {f"pattern_{number}": f" {pattern} " for number, pattern in enumerate(patterns_of(event_type))}
    wanting = subscriptions.wanting_ids(scope, patterns)
    if not wanting:
        return _find(scope, event_type, idempotency_key)
    event = Event(new_id(), event_type, scope.now)
    if not _insert(scope, event, body, idempotency_key):
        return _find(scope, event_type, idempotency_key, committed=True)
    fan_out.to_wanting(scope, event.id, event.created_at, patterns, wanting, delay_seconds=delay_seconds)
    return event


def publish_to(scope: TenantScope, endpoint_id: UUID, event_type: str, data: Any, *, kind: str) -> Event | None:
    """Write an event and its delivery to one endpoint, whatever it wants. Return None if it is paused or unknown.

    Raises `EventWaiting` if an event of this kind waits for the endpoint already.
    """
    event = Event(new_id(), event_type, scope.now)
    # Write first (SQLite).
    if not fan_out.to_active(scope, event.id, event.created_at, endpoint_id):
        return None
    # No key of the host's begins like this. It is unique, so that two requests at once can't both write.
    key = f"\x01{kind} {format_id(endpoint_id)}"
    body = make_body(event_type, data, now=scope.now, encode=compact_json)
    if not _insert(scope, event, body, key) and not (_free_key(scope, key) and _insert(scope, event, body, key)):
        raise EventWaiting
    return event


def compact_json(data: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return data as compact JSON; `default` encodes what `json` cannot."""
    return json.dumps(data, default=default, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def compacted(encoded: str | bytes) -> str:
    """Return JSON of another encoder without the spaces between its tokens; raise `ValueError` if it is not JSON."""
    orjson.loads(encoded)
    text = (encoded.decode() if isinstance(encoded, bytes) else str(encoded)).strip()
    # Most encoders write no spaces.
    return _STRINGS_AND_SPACES.sub(r"\1", text) if _SPACED.search(text) else text


def make_body(
    event_type: str,
    data: Any,
    *,
    now: datetime,
    encode: Encode,
    max_bytes: int | None = None,
    check: Check | None = None,
) -> bytes:
    """Return the body of an event. Raise `InvalidEvent` if the type, the data or the body's size breaks a rule.

    `check` is asked about the data as it is sent, so that no rule is about what the host's encoder has changed.
    """
    if not is_event_type(event_type):
        raise InvalidEvent(
            f"Not an event type: {event_type!r}."
            f" Write one like invoice.paid, of at most {MAX_EVENT_TYPE_LENGTH} characters."
        )
    try:
        encoded = encode(data)
        body = f'{{"type":"{event_type}","timestamp":"{format_time(now)}","data":{encoded}}}'.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"The data of {event_type} is not JSON: {error}") from error
    if max_bytes is not None and len(body) > max_bytes:
        raise InvalidEvent(f"The body has {len(body)} bytes; WEBHOOK_ENDPOINTS_MAX_BODY_BYTES allows {max_bytes}.")
    if check is not None:
        check(event_type, encoded)
    return body


def check_key(key: object) -> None:
    """Raise `InvalidEvent` if an idempotency key breaks a rule."""
    if key is not None and not (isinstance(key, str) and IDEMPOTENCY_KEY.fullmatch(key)):
        raise InvalidEvent(f"idempotency_key {IDEMPOTENCY_KEY_RULE}")


def _insert(scope: TenantScope, event: Event, body: bytes, idempotency_key: str | None) -> bool:
    """Insert the event; return False if an earlier one has its idempotency key."""
    row = row_of(event, scope.tenant_id, body, idempotency_key)
    if idempotency_key is not None:
        return scope.insert_if_absent(scope.tables.event, row)
    # Few events have a trace, and none has a key here.
    scope.execute(_insert_event(scope), {name: value for name, value in row.items() if value is not None})
    return True


def _free_key(scope: TenantScope, key: str) -> bool:
    """Take the key from the event that has it, if its delivery is finished; return whether that is so."""
    event, delivery = scope.tables.event, scope.tables.delivery
    of_key = event.c.tenant_id == scope.tenant_id, event.c.idempotency_key == key
    locked = sa.select(event.c.id, event.c.created_at).where(*of_key).with_for_update()
    first: Any = scope.execute(locked).first()
    if first is None:
        return False
    of_event = delivery_ids.of_events(scope.tables, {first.id: first.created_at})
    pending = of_event, delivery.c.status == DeliveryStatus.PENDING
    if scope.execute(as_committed(sa.select(delivery.c.id).where(*pending))).first() is not None:
        return False
    scope.execute(sa.update(event).where(event.c.id == first.id).values({event.c.idempotency_key: None}))
    return True


def row_of(event: Event, tenant_id: str, body: bytes, idempotency_key: str | None) -> dict[str, Any]:
    """Return the row of an event, which is part of the trace that is active."""
    return {
        "id": event.id,
        "tenant_id": tenant_id,
        "type": event.type,
        "body": body,
        "idempotency_key": idempotency_key,
        "created_at": event.created_at,
        "traceparent": telemetry.trace_headers().get("traceparent"),
    }


@statement
def _insert_event(tables: Tables, _dialect: str) -> sa.Insert:
    return sa.insert(tables.event).inline()


def _find(scope: TenantScope, event_type: str, idempotency_key: str | None, *, committed: bool = False) -> Event | None:
    """Return the event with this key, or None; `committed` finds what another transaction has just committed."""
    if idempotency_key is None:
        return None
    event = scope.tables.event
    of_key = (event.c.tenant_id == scope.tenant_id, event.c.idempotency_key == idempotency_key)
    select = sa.select(*(event.c[name] for name in Event._fields)).where(*of_key)
    row = scope.execute(as_committed(select) if committed else select).first()
    if row is None:
        return None
    first = Event._make(row)
    check_type(first, event_type)
    return first


def check_type(first: Event, event_type: str) -> None:
    """Raise `InvalidEvent` if the first event with an idempotency key has another type."""
    if first.type != event_type:
        raise InvalidEvent(f"The idempotency_key is that of an event of type {first.type}, not {event_type}.")
