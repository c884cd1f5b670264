"""A claimed delivery, and the result of its attempt: what the worker and core tell each other."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.security.private import PrivateURL


class Claimed(NamedTuple):
    """A delivery that a worker may attempt now, with all that it needs; headers and secrets are still encrypted."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    attempt: int
    """The attempt's number, counted from 1."""
    counted: int
    """The attempts that count in the retry schedule, this one included."""
    tenant_id: str
    body: bytes
    traceparent: str | None
    """The trace in which the host published the event."""
    evt_id: str
    """The event's id as text."""
    url: PrivateURL
    headers_encrypted: str | None
    timeout_seconds: int
    failing: bool
    """True if the endpoint had an incident when the worker claimed this one."""
    rests: int
    """How often in a row the endpoint has asked for rest; 0: it has not."""
    ep_id: str
    """The endpoint's id as text."""
    secrets_encrypted: tuple[tuple[str, str], ...]
    """Each with its place, the current secret first, then the previous ones that have not expired."""


class Settlement(NamedTuple):
    """The result of an attempt."""

    delivery: Claimed
    status: DeliveryStatus
    """PENDING: there is another attempt."""
    next_attempt_at: datetime | None
    attempts_before: int
    """Attempts, this one perhaps, that do not count in the retry schedule."""
    gone: bool
    rests_seconds: float | None
    """Seconds for which the endpoint has asked for rest. None: it has not."""
    started_at: datetime
    duration_ms: int
    response_status: int | None
    error: str | None
    response_excerpt: bytes | None
    response_headers: Mapping[str, str] | None = None
    """Some headers of an answer that is no success."""


def error_of(settlement: Settlement) -> str:
    """Return the error code of a result, or the response's status where that failed it; empty where it succeeded."""
    if settlement.status is DeliveryStatus.DELIVERED:
        return ""
    return settlement.error or str(settlement.response_status)
