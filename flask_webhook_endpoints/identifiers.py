"""Names and values as tenants see them: ids, times, tenants, event types, idempotency keys, names of headers.

Source: RFC 9562 (UUIDs), RFC 3339 (times, here in UTC), RFC 9110 section 5.6.2 (names of headers).
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils

UUID_PATTERN = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_UUID = re.compile(UUID_PATTERN)

TenantId = int | UUID | uuid_utils.UUID | str
"""A tenant's id as hosts have it."""

MAX_KEY_LENGTH = 255
"""Characters that a tenant id or an idempotency key may have."""

IDEMPOTENCY_KEY = re.compile(rf"[ -~]{{1,{MAX_KEY_LENGTH}}}")
IDEMPOTENCY_KEY_RULE = f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters."

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`\|~0-9A-Za-z\-]+")
"""The name of a header of HTTP."""

# Python's own parser takes far more than RFC 3339 section 5.6.
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)

# Characters that some database can't store: NUL, lone surrogates.
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")

MAX_EVENT_TYPE_LENGTH = 128
"""Characters that an event type may have."""

EVENT_NAME = re.compile(r"[A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)*")
"""An event type, such as `invoice.paid`."""

EVENT_PATTERN = re.compile(EVENT_NAME.pattern + r"(?:\.\*)?")
"""An event type or `prefix.*`, by which an endpoint chooses events."""


def format_id(uuid: UUID, prefix: str = "ep") -> str:
    """Return an id as tenants see it: `ep_` (`evt_`, `dlv_`) and the canonical UUID."""
    return f"{prefix}_{uuid}"


def parse_id(text: str, prefix: str = "ep") -> UUID | None:
    """Return what `format_id` was given, or None for any other spelling."""
    head, _, tail = text.partition("_")
    return UUID(tail) if head == prefix and _UUID.fullmatch(tail) else None


def format_time(moment: datetime | None) -> str | None:
    """Return a time in RFC 3339, UTC, with microseconds; None for None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime | None:
    """Return a time in RFC 3339, with its zone, or None for any other spelling."""
    if not _TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def is_storable(text: str) -> bool:
    """Return whether every database can store a text, and be asked for it."""
    return not _UNSTORABLE.search(text)


def stored_tenant(tenant: object) -> str:
    """Return a tenant's id as it is stored: a string of 1 to 255 characters.

    Raises:
        TypeError: It is neither int, UUID nor str.
        ValueError: Its text is empty, too long, or has characters that databases can't store.

    """
    if isinstance(tenant, bool) or not isinstance(tenant, int | UUID | uuid_utils.UUID | str):
        raise TypeError(f"A tenant must be an int, a UUID or a str, not {type(tenant).__name__}.")
    tenant_id = str(tenant)
    if not 1 <= len(tenant_id) <= MAX_KEY_LENGTH:
        raise ValueError(f"A tenant's id must be 1 to {MAX_KEY_LENGTH} characters, not {len(tenant_id)}.")
    if not is_storable(tenant_id):
        raise ValueError("A tenant's id must not contain NUL or lone surrogates.")
    return tenant_id


def is_event_type(value: object) -> bool:
    """Return whether a value is an event type, such as `invoice.paid`."""
    return isinstance(value, str) and len(value) <= MAX_EVENT_TYPE_LENGTH and EVENT_NAME.fullmatch(value) is not None


def is_event_pattern(text: str) -> bool:
    """Return whether a text is an event type or `prefix.*`, by which endpoints and filters choose events."""
    return len(text) <= MAX_EVENT_TYPE_LENGTH and EVENT_PATTERN.fullmatch(text) is not None


def patterns_of(event_type: str) -> Iterator[str]:
    """Yield every pattern that `event_type` matches: for `a.b.c` itself, `a.b.*` and `a.*`."""
    yield event_type
    prefix = event_type
    while prefix := prefix.rpartition(".")[0]:
        yield f"{prefix}.*"
