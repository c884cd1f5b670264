"""The events that endpoints have chosen, counted across all tenants."""

from collections import Counter
from typing import Any, NamedTuple

import sqlalchemy as sa

from flask_webhook_endpoints.core.declarations import RESERVED_PATTERNS, Declarations, DeclaredEvent
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.identifiers import patterns_of


class Choices(NamedTuple):
    """The number of endpoints that want each event, paused ones among them."""

    all_events: int
    """Endpoints that want all events."""
    wanted: list[tuple[DeclaredEvent, int]]
    """Each declared event, by name, and how many endpoints get it: those that want all events, too."""
    undeclared: list[tuple[str, int]]
    """The number of endpoints that have chosen each event type that matches no declared event."""


def count(scope: Scope, declared: Declarations) -> Choices:
    """Count the endpoints that want each declared event, and those that want something else."""
    event_types = scope.tables.endpoint.c.event_types
    # One row for each set of choices, of which there are few.
    rows: Any = scope.execute(sa.select(event_types, sa.func.count()).group_by(event_types))
    names_of: dict[str, set[str]] = {}
    for event in declared:
        for pattern in patterns_of(event.name):
            names_of.setdefault(pattern, set()).add(event.name)
    all_events, wanting, undeclared = 0, Counter[str](), Counter[str]()
    for chosen, endpoints in rows:
        if chosen is None:
            all_events += endpoints
            continue
        wanted = set[str]().union(*(names_of.get(pattern, ()) for pattern in chosen))
        wanting.update(dict.fromkeys(wanted, endpoints))
        unknown = {pattern for pattern in chosen if pattern not in names_of and pattern not in RESERVED_PATTERNS}
        undeclared.update(dict.fromkeys(unknown, endpoints))
    events = [(event, all_events + wanting[event.name]) for event in declared]
    return Choices(all_events, events, sorted(undeclared.items()))
