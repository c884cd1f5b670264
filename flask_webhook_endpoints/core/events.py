"""The outbox: an event and its deliveries, written in the host's own transaction.

Source: Standard Webhooks 1.0.0, "Payload structure" (`type`, `timestamp`, `data`) and "webhook-id".
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement

from flask_webhook_endpoints import telemetry
from flask_webhook_endpoints.core.wakeups import Wakes
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.database.prepared import Prepared
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import InvalidEvent
from flask_webhook_endpoints.identifiers import (
    EVENT_NAME,
    MAX_EVENT_TYPE_LENGTH,
    MAX_KEY_LENGTH,
    format_time,
    patterns_of,
)

_EPOCH = datetime.fromtimestamp(0, UTC)


class Event(NamedTuple):
    """What `publish` wrote."""

    id: UUID
    type: str
    created_at: datetime


class Outbox:
    """Operations that publish; none commits."""

    def __init__(self, tables: Tables, wakes: Wakes, *, max_body_bytes: int, delay_seconds: float = 0) -> None:
        """Take how many bytes a body may have, and how long after its event a delivery is due."""
        self._tables = tables
        self._wakes = wakes
        self._max_body_bytes = max_body_bytes
        self._delay = timedelta(seconds=delay_seconds)
        endpoint = tables.endpoint
        self._of_tenant = endpoint.c.tenant_id == sa.bindparam("of_tenant")
        active = sa.and_(self._of_tenant, endpoint.c.id == sa.bindparam("of_id"), endpoint.c.paused_at.is_(None))
        # Statements are built once, for so many patterns: building one takes longer than the database takes over it.
        self._insert = Prepared(tables, sa.insert(tables.event))
        self._fan_out_to_active = self._fan_out_to(active)
        self._is_wanted = lru_cache(
            lambda patterns: Prepared(tables, sa.select(1).where(self._wanting(patterns)).limit(1))
        )
        self._fan_out_to_wanting = lru_cache(lambda patterns: self._fan_out_to(self._wanting(patterns)))

    def publish(
        self,
        session: Session,
        tenant_id: str,
        event_type: str,
        data: Any,
        *,
        now: datetime,
        default: Callable[[Any], Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Event | None:
        """Write an event and one delivery for each endpoint of the tenant that wants it; None where none does.

        Args:
            session: The host's; what it has open decides whether the event ever was.
            tenant_id: Whose endpoints get it.
            event_type: A name such as `invoice.paid`.
            data: What JSON can hold, or what `default` makes of it.
            now: The event's time.
            default: Turns what `json` does not know into what it does, as `json.dumps` has it.
            idempotency_key: Publishing again with the same key returns the first event and writes nothing, whatever
                wants it by then.

        Raises:
            InvalidEvent: The type is no event name, the key is no key, or the data is not JSON or too large.

        """
        body = _body(event_type, data, now, default)
        if len(body) > self._max_body_bytes:
            raise InvalidEvent(
                f"The body has {len(body)} bytes; WEBHOOK_ENDPOINTS_MAX_BODY_BYTES allows {self._max_body_bytes}."
            )
        if idempotency_key is not None and not _is_key(idempotency_key):
            raise InvalidEvent(f"idempotency_key must be 1 to {MAX_KEY_LENGTH} printable ASCII characters.")
        patterns = list(patterns_of(event_type))
        wanting = {"of_tenant": tenant_id, **{f"pattern_{n}": f" {pattern} " for n, pattern in enumerate(patterns)}}
        if not self._is_wanted(len(patterns)).fetch(session, wanting):
            return None if idempotency_key is None else self._first(session, tenant_id, idempotency_key)
        event = Event(new_id(), event_type, now)
        row = _row(event, tenant_id, body, idempotency_key)
        if idempotency_key is None:
            self._insert.execute(session, row)
        elif not self._tables.insert_if_absent(session, self._tables.event, row):
            return self._first(session, tenant_id, idempotency_key, locked=True)
        self._fan_out(session, event, self._fan_out_to_wanting(len(patterns)), wanting, due=now + self._delay)
        return event

    def publish_to(
        self, session: Session, tenant_id: str, endpoint_id: UUID, event_type: str, data: Any, *, now: datetime
    ) -> Event | None:
        """Write an event and its delivery to one endpoint, wanted or not; None where that is paused or unknown."""
        event = Event(new_id(), event_type, now)
        active = {"of_tenant": tenant_id, "of_id": endpoint_id}
        # Written before anything is read: SQLite can't turn a transaction that has read into one that writes.
        if not self._fan_out(session, event, self._fan_out_to_active, active, due=now):
            return None
        row = _row(event, tenant_id, _body(event_type, data, now, None), None)
        self._insert.execute(session, row)
        return event

    def _fan_out(
        self, session: Session, event: Event, statement: Prepared, chosen: Mapping[str, Any], *, due: datetime
    ) -> int:
        values = {
            **chosen,
            "head_of_id": _head_of_id(event),
            "event_hex": event.id.hex,
            "event": event.id,
            "due": due,
            "published_at": event.created_at,
        }
        count = statement.execute(session, values)
        if count:
            self._wakes.at_commit(session)
        return count

    def _fan_out_to(self, chosen: sa.ColumnElement[bool]) -> Prepared:
        """Make what writes a delivery for each endpoint; one statement however many, the ids made by the database."""
        endpoint, delivery = self._tables.endpoint, self._tables.delivery
        made_id = _DeliveryId(
            sa.bindparam("head_of_id", type_=sa.String()), sa.bindparam("event_hex", type_=sa.String()), endpoint.c.id
        )
        values = {
            delivery.c.id: sa.type_coerce(made_id, delivery.c.id.type),
            delivery.c.tenant_id: endpoint.c.tenant_id,
            delivery.c.event_id: sa.bindparam("event", type_=delivery.c.event_id.type),
            delivery.c.endpoint_id: endpoint.c.id,
            delivery.c.status: sa.literal(DeliveryStatus.PENDING.value),
            delivery.c.attempts: sa.literal(0),
            delivery.c.next_attempt_at: sa.bindparam("due", type_=delivery.c.next_attempt_at.type),
            delivery.c.created_at: sa.bindparam("published_at", type_=delivery.c.created_at.type),
        }
        rows = sa.select(*values.values()).where(chosen)
        # Without the option an INSERT that SQLAlchemy executes may report -1 rows.
        insert = sa.insert(delivery).from_select(list(values), rows).execution_options(preserve_rowcount=True)
        return Prepared(self._tables, insert)

    def _wanting(self, patterns: int) -> sa.ColumnElement[bool]:
        endpoint = self._tables.endpoint
        names = sa.type_coerce(endpoint.c.event_types, sa.Text)
        given = [sa.bindparam(f"pattern_{number}", type_=sa.Text()) for number in range(patterns)]
        # REPLACE finds exactly on every database; LIKE and its kin ignore case on some.
        wanted = [sa.func.replace(names, pattern, "") != names for pattern in given]
        return sa.and_(self._of_tenant, sa.or_(endpoint.c.event_types.is_(None), *wanted))

    def _first(self, session: Session, tenant_id: str, idempotency_key: str, *, locked: bool = False) -> Event | None:
        event = self._tables.event
        statement = sa.select(event.c.id, event.c.type, event.c.created_at).where(
            event.c.tenant_id == tenant_id, event.c.idempotency_key == idempotency_key
        )
        if locked:
            # Known to be there: the lock makes MariaDB read what is committed now, not what its snapshot holds.
            statement = statement.with_for_update(read=True)
        first = self._tables.execute(session, statement).first()
        return None if first is None else Event._make(first)


class _DeliveryId(FunctionElement[Any]):
    """A UUIDv7 that begins with a given head; the rest comes from the event and the endpoint, or from chance."""

    inherit_cache = True
    name = "delivery_id"


@compiles(_DeliveryId)
def _delivery_id(element: Any, compiler: Any, **options: Any) -> str:
    head, event_id, endpoint_id = (compiler.process(clause, **options) for clause in element.clauses)
    # md5 spreads what is unique already; nothing rests on it.
    return f"CONCAT({head}, SUBSTR(MD5(CONCAT({event_id}, {endpoint_id})), 18))"


@compiles(_DeliveryId, "postgresql")
def _delivery_id_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"CAST({_delivery_id(element, compiler, **options)} AS uuid)"


@compiles(_DeliveryId, "sqlite")
def _delivery_id_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    head, *_ = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{head} || SUBSTR(LOWER(HEX(RANDOMBLOB(16))), 18)"


def _head_of_id(event: Event) -> str:
    """Return the first 17 digits of a UUIDv7: the event's time, to the microsecond (RFC 9562 section 6.2, method 3)."""
    milliseconds, microseconds = divmod((event.created_at - _EPOCH) // timedelta(microseconds=1), 1000)
    return f"{milliseconds:012x}7{microseconds * 4096 // 1000:03x}8"


def _row(event: Event, tenant_id: str, body: bytes, idempotency_key: str | None) -> dict[str, Any]:
    return {
        "id": event.id,
        "tenant_id": tenant_id,
        "type": event.type,
        "body": body,
        "idempotency_key": idempotency_key,
        "created_at": event.created_at,
        "traceparent": telemetry.trace_headers().get("traceparent"),
    }


def _is_key(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[ -~]{{1,{MAX_KEY_LENGTH}}}", value) is not None


def _body(event_type: str, data: Any, now: datetime, default: Callable[[Any], Any] | None) -> bytes:
    if not (
        isinstance(event_type, str) and len(event_type) <= MAX_EVENT_TYPE_LENGTH and EVENT_NAME.fullmatch(event_type)
    ):
        raise InvalidEvent(
            f"{event_type!r} is no event type: write one like invoice.paid, {MAX_EVENT_TYPE_LENGTH} characters at most."
        )
    envelope = {"type": event_type, "timestamp": format_time(now), "data": data}
    try:
        text = json.dumps(envelope, default=default, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"The data of {event_type} is not JSON: {error}") from error
