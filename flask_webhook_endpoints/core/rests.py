"""Rests: times in which the worker begins no attempt to an endpoint, because its receiver has asked for that.

`queue.end_rests` ends one, because deliveries then become ready.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.scope import Scope, TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables


def begin(scope: Scope, endpoint_id: UUID, *, seconds: float, times: int) -> None:
    """Let an endpoint rest for so many seconds from now; it has asked so many times in a row.

    It rests for longer if it has asked for that before: attempts in flight together end one after another.
    """
    rest, until = scope.tables.rest, scope.now + timedelta(seconds=seconds)
    if scope.insert_if_absent(rest, {"endpoint_id": endpoint_id, "until": until, "times": times}):
        return
    of_endpoint = rest.c.endpoint_id == endpoint_id
    known = scope.execute(sa.select(rest.c.until, rest.c.times).where(of_endpoint).with_for_update()).one_or_none()
    if known is not None and known.until > scope.now:
        until, times = max(until, known.until), max(times, known.times)
    scope.execute(sa.update(rest).where(of_endpoint).values(until=until, times=times))


def forget(scope: Scope, endpoint_ids: Collection[UUID]) -> None:
    """Forget the rest of endpoints, if they rest."""
    if found := may_rest(scope, endpoint_ids):
        forget_those(scope, found)


def forget_those(scope: Scope, endpoint_ids: Collection[UUID]) -> None:
    """Forget the rest of endpoints that `may_rest` has returned."""
    scope.execute(_forget(scope), {"ids": endpoint_ids})


def may_rest(scope: Scope, endpoint_ids: Collection[UUID]) -> Collection[UUID]:
    """Return the endpoints that may rest: on MariaDB and MySQL those that have a row, elsewhere all.

    A statement that locks or deletes what is not there would lock the gap where it could be. All workers that note the
    rest of another endpoint there would wait for the host's transaction.
    """
    if scope.dialect.name not in dialects.LOCKS_WHAT_IT_READS:
        return endpoint_ids
    return scope.execute(_known(scope), {"ids": endpoint_ids}).scalars().all()


def forget_tenant(scope: TenantScope) -> None:
    """Forget the rest of the tenant's endpoints."""
    rest, endpoint = scope.tables.rest, scope.tables.endpoint
    of_tenant = sa.select(endpoint.c.id).where(endpoint.c.tenant_id == scope.tenant_id)
    # Look them up first: on MariaDB the DELETE would lock the endpoints.
    resting = sa.select(rest.c.endpoint_id).where(rest.c.endpoint_id.in_(of_tenant))
    if ids := scope.execute(resting).scalars().all():
        forget(scope, ids)


def forget_orphaned(scope: Scope) -> None:
    """Forget rests that are over and whose endpoints were deleted."""
    # Look them up first: on MariaDB the DELETE would lock the endpoints.
    if ids := scope.execute(_orphaned(scope), {"now": scope.now}).scalars().all():
        forget(scope, ids)


@statement
def _known(tables: Tables, dialect: str) -> sa.Select[Any]:
    endpoint_id = tables.rest.c.endpoint_id
    return sa.select(endpoint_id).where(tables.among(dialect, endpoint_id, "ids"))


@statement
def _forget(tables: Tables, dialect: str) -> Any:
    rest = tables.rest
    return dialects.by_key(
        sa.delete(rest).where(tables.among(dialect, rest.c.endpoint_id, "ids"), rest.c.times > 0), rest
    )


@statement
def _orphaned(tables: Tables, _dialect: str) -> sa.Select[Any]:
    """Select the rests that are over, of endpoints that were deleted."""
    rest, endpoint = tables.rest, tables.endpoint
    is_known = sa.select(1).where(endpoint.c.id == rest.c.endpoint_id).exists()
    is_over = rest.c.until <= sa.bindparam("now", type_=rest.c.until.type)
    return sa.select(rest.c.endpoint_id).where(is_over, ~is_known)
