"""The results of an endpoint's newest deliveries, counted by event type and by the last response.

They cost the same whatever the log has: one statement takes the newest `MOST` deliveries in the order of an index.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import deliveries
from flask_webhook_endpoints.database import delivery_ids, dialects
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.scope import TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables

MOST = 1_000
"""The number of deliveries, the newest ones, whose results are counted."""


class Results(NamedTuple):
    """The deliveries of one event type, counted by their results."""

    delivered: int = 0
    failed: int = 0
    """They finished without success: failed, expired or cancelled."""
    pending: int = 0
    """They are not finished; held ones are among them."""


class RecentResults(NamedTuple):
    """The results of the newest deliveries to an endpoint."""

    number: int
    """The number of deliveries that are counted, `MOST` at most."""
    by_event_type: Mapping[str, Results]
    """The type with the most deliveries first."""
    by_response: Mapping[str, int]
    """Deliveries by the last attempt's error code or response status, the most frequent first. Deliveries that were not
    attempted are not in it."""


def of_endpoint(scope: TenantScope, endpoint_id: UUID, *, since: datetime) -> RecentResults:
    """Count the newest deliveries to an endpoint of events published since a time; raise `UnknownEndpoint`."""
    rows: Sequence[Any] = deliveries.execute(scope, _counts(scope), endpoint_id, first=delivery_ids.first(since)).all()
    if not rows:
        deliveries.is_paused(scope, endpoint_id)
    by_event_type: dict[str, Results] = {}
    by_response = Counter[str]()
    for event_type, status, response_status, error, number in rows:
        results = by_event_type.get(event_type, Results())
        by_event_type[event_type] = _added(results, status, number)
        if error is not None or response_status is not None:
            by_response[error or str(response_status)] += number
    types = dict(sorted(by_event_type.items(), key=lambda item: (-sum(item[1]), item[0])))
    responses = dict(sorted(by_response.items(), key=lambda item: (-item[1], item[0])))
    return RecentResults(sum(map(sum, types.values())), types, responses)


def _added(results: Results, status: str, number: int) -> Results:
    match status:
        case DeliveryStatus.DELIVERED:
            return results._replace(delivered=results.delivered + number)
        case DeliveryStatus.PENDING:
            return results._replace(pending=results.pending + number)
        case _:
            return results._replace(failed=results.failed + number)


@statement
def _counts(tables: Tables, dialect: str) -> Any:
    delivery, event = tables.delivery, tables.event
    # Asked once: nothing of another tenant's endpoint is looked at.
    is_theirs = sa.select(1).where(*deliveries.of_endpoint(tables)).exists()
    since = delivery.c.id >= sa.bindparam("first")
    endpoint_id = sa.bindparam("of_endpoint", type_=delivery.c.endpoint_id.type)
    is_one = tables.is_one(dialect, delivery.c.endpoint_id, endpoint_id)
    results = delivery.c.status, delivery.c.last_response_status, delivery.c.last_error
    newest = sa.select(delivery.c.event_id, *results)
    newest = newest.where(is_one, since, is_theirs)
    # Of its own accord, MariaDB may read all that is newer, of all endpoints.
    newest = dialects.by_index(dialect, newest, delivery, "ix_webhook_delivery_endpoint_id_id")
    looked = newest.order_by(delivery.c.endpoint_id.desc(), delivery.c.id.desc()).limit(MOST).subquery("looked")
    # Not a join, for which PostgreSQL may read all events.
    event_type = sa.select(event.c.type).where(event.c.id == looked.c.event_id).scalar_subquery().label("event_type")
    typed = sa.select(event_type, *(looked.c[each.name] for each in results)).subquery("typed")
    return sa.select(*typed.c, sa.func.count()).group_by(*typed.c)
