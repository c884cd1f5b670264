"""Ids and times as they are outside: prefixed UUIDs, RFC 3339 in UTC."""

import re
from datetime import UTC, datetime
from typing import overload
from uuid import UUID

UUID_PATTERN = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_UUID = re.compile(UUID_PATTERN)


def format_id(uuid: UUID, prefix: str = "ep") -> str:
    """Return an id as it is outside: `ep_` (`evt_`, `dlv_`) and the canonical UUID."""
    return f"{prefix}_{uuid}"


def parse_id(text: str, prefix: str = "ep") -> UUID | None:
    """Return what `format_id` was given, or None for any other spelling."""
    head, _, tail = text.partition("_")
    return UUID(tail) if head == prefix and _UUID.fullmatch(tail) else None


@overload
def format_time(moment: datetime) -> str: ...
@overload
def format_time(moment: None) -> None: ...
@overload
def format_time(moment: datetime | None) -> str | None: ...
def format_time(moment: datetime | None) -> str | None:
    """Return a time in RFC 3339, UTC, with microseconds."""
    return (
        None if moment is None else f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    )
