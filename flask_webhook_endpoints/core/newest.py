"""The newest deliveries of a tenant on PostgreSQL, merged of the lists of its endpoints, which an index has.

The log has no index of tenants there: its entries would be a seventeenth of all that a delivery writes ahead.
"""

import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database.scope import TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables

MANY = 3_000
"""The number of a tenant's endpoints, beyond which a page reads all that it may by one statement."""


class Newest:
    """The ids of a tenant's deliveries from `first` on and before `end`, the newest first."""

    def __init__(self, scope: TenantScope, first: UUID, end: UUID, *, at_once: int) -> None:
        """Count the tenant's endpoints: the more there are, the fewer deliveries of each are read first.

        Of more than `MANY` endpoints, `at_once` ids are read at once, because most of the cost is the look at each.
        """
        self._scope, self._at_once = scope, at_once
        self._values = {"of_tenant": scope.tenant_id, "first": first, "end": end}
        self._endpoints = scope.execute(_count(scope), self._values).scalar_one()
        self._ids: Sequence[UUID] = ()
        self._are_all = False

    def ids(self, limit: int, *, offset: int = 0) -> Sequence[UUID]:
        """Return ids, which are read once."""
        if len(self._ids) < limit + offset and not self._are_all:
            self._read(max(limit + offset, self._at_once if self._endpoints > MANY else 0))
        return self._ids[offset : offset + limit]

    def _read(self, most: int) -> None:
        few = math.ceil(most / math.sqrt(max(self._endpoints, 1)) / 4)
        limits = {"most": most, "before_last": most - 1, "few": few}
        self._ids = self._scope.execute(_merged(self._scope), {**self._values, **limits}).scalars().all()
        self._are_all = len(self._ids) < most


@statement
def _count(tables: Tables, _dialect: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(tables.endpoint.c.tenant_id == sa.bindparam("of_tenant"))


@statement
def _merged(tables: Tables, dialect: str) -> sa.Select[Any]:
    """Select the newest `most` ids in two rounds, so that few are read in vain.

    The first round reads the newest `few` of each endpoint. Of these, the `most`-th newest is a bound: no older id is
    wanted. The second round reads of each endpoint what is as new as that. Only most / few endpoints may have more than
    the first round has read of them.
    """
    endpoint, kind = tables.endpoint, tables.delivery.c.id.type
    first, end = sa.bindparam("first", type_=kind), sa.bindparam("end", type_=kind)
    few = _of_each(tables, dialect, endpoint, endpoint.c.id, (first, end), most="few")
    heads = few.where(endpoint.c.tenant_id == sa.bindparam("of_tenant")).cte("heads")
    last = sa.select(heads.c.id).order_by(heads.c.id.desc()).offset(_constant("before_last")).limit(1)
    bound = sa.select(sa.func.coalesce(last.scalar_subquery(), first).label("id")).cte("bound")
    bounded = sa.select(bound.c.id).scalar_subquery()
    some = sa.select(heads.c.endpoint_id).where(heads.c.id >= bounded).distinct().subquery("some")
    found = _of_each(tables, dialect, some, some.c.endpoint_id, (bounded, end), most="most").subquery("found")
    return sa.select(found.c.id).order_by(found.c.id.desc()).limit(_constant("most"))


def _of_each(
    tables: Tables, dialect: str, endpoints: sa.FromClause, endpoint_id: Any, within: tuple[Any, Any], *, most: str
) -> sa.Select[Any]:
    """Select the newest ids of each endpoint, by its entries in the index alone."""
    delivery, (first, end) = tables.delivery, within
    which = (
        tables.is_one(dialect, delivery.c.endpoint_id, endpoint_id),
        delivery.c.id >= first,
        delivery.c.id < end,
    )
    newest = sa.select(delivery.c.id).where(*which).order_by(delivery.c.endpoint_id.desc(), delivery.c.id.desc())
    of_each = newest.limit(_constant(most)).correlate(endpoints).lateral("of_each")
    ids: sa.Select[Any] = sa.select(endpoint_id.label("endpoint_id"), of_each.c.id)
    return ids.select_from(endpoints.join(of_each, sa.true()))


def _constant(name: str) -> sa.BindParameter[int]:
    """Return a parameter that the driver gets as text of the statement: PostgreSQL plans for limits that it knows."""
    return sa.bindparam(name, type_=sa.Integer(), literal_execute=True)
