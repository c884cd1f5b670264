"""Room: how many bodies a worker may hold in memory, so that large ones never fill a small container."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables

SMALL_BYTES = 8 * 1024
"""Bytes of a body that always has room: with the default concurrency, such bodies take 8 MiB."""

LARGE_BYTES = 24 * 1024 * 1024
"""Bytes that all larger bodies may take in a worker's memory."""


class Room(NamedTuple):
    """The memory that a worker has left for large bodies."""

    held: Mapping[str, int]
    """Bytes of the large bodies that the worker holds, by tenant."""
    max_body_bytes: int
    """Bytes that a body has at most."""

    def is_enough_for_any(self, count: int) -> bool:
        """Return whether so many bodies fit, however large each is."""
        return not self.held and 2 * count * self.max_body_bytes <= LARGE_BYTES


def fitting(scope: Scope, delivery_ids: Sequence[UUID], room: Room) -> Sequence[UUID]:
    """Return those deliveries whose bodies the worker has room for, in the same order.

    A tenant gets at most as much room as it leaves for the others: large bodies to receivers that hang delay no other
    tenant's. A worker that holds no large body takes one of any size.
    """
    if room.is_enough_for_any(len(delivery_ids)):
        return delivery_ids
    found = scope.read(_large(scope), {"ids": delivery_ids})
    large = {delivery_id.int: (tenant_id, size) for delivery_id, tenant_id, size in found}
    held = dict(room.held)
    free = LARGE_BYTES - sum(held.values())
    fit = []
    for delivery_id in delivery_ids:
        tenant_id, size = large.get(delivery_id.int, ("", 0))
        if size:
            of_tenant = held.get(tenant_id, 0)
            if held and (size > free or (of_tenant and of_tenant + size > free)):
                continue
            held[tenant_id] = of_tenant + size
            free -= size
        fit.append(delivery_id)
    return fit


@statement
def _large(tables: Tables, dialect: str) -> Any:
    delivery, event = tables.delivery, tables.event
    size = sa.func.length(event.c.body)
    return (
        sa.select(delivery.c.id, delivery.c.tenant_id, size)
        .select_from(delivery.join(event, event.c.id == delivery.c.event_id))
        .where(tables.among(dialect, delivery.c.id, "ids"), size > sa.text(str(SMALL_BYTES)))
    )
