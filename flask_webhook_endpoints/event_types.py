"""The names of events, and the patterns by which an endpoint chooses among them."""

import re
from collections.abc import Iterator

MAX_EVENT_TYPE_LENGTH = 128

EVENT_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
EVENT_PATTERN = re.compile(EVENT_NAME.pattern + r"(?:\.\*)?")


def patterns_of(event_type: str) -> Iterator[str]:
    """Yield every pattern that `event_type` matches: for `a.b.c` itself, `a.b.*` and `a.*`."""
    yield event_type
    prefix = event_type
    while prefix := prefix.rpartition(".")[0]:
        yield f"{prefix}.*"
