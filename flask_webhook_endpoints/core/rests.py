"""Endpoints that have asked for rest: their deliveries wait, uncounted, and one of them is tried first afterwards."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import queue
from flask_webhook_endpoints.database.scope import Scope, TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables


def begin(scope: Scope, endpoint_id: UUID, *, seconds: float, times: int) -> None:
    """Let an endpoint rest for so many seconds from now; it has asked so many times in a row."""
    rest = scope.tables.rest
    values = {"until": scope.now + timedelta(seconds=seconds), "times": times}
    if not scope.insert_if_absent(rest, {"endpoint_id": endpoint_id, **values}):
        scope.execute(sa.update(rest).where(rest.c.endpoint_id == endpoint_id).values(values))


def end(scope: Scope, endpoints: Collection[tuple[str, UUID]]) -> None:
    """End the rest of endpoints, each given with its tenant, and have their deliveries sent."""
    ordered = sorted(endpoints)
    # Before the rest is forgotten, by whose end they are known.
    queue.wake(scope, ordered)
    forget(scope, [endpoint_id for _, endpoint_id in ordered])
    queue.release(scope, ordered)


def forget(scope: Scope, endpoint_ids: Collection[UUID]) -> None:
    """Forget the rest of endpoints, if they rest."""
    scope.execute(_forget(scope), {"ids": endpoint_ids})


def forget_tenant(scope: TenantScope) -> None:
    """Forget the rest of the tenant's endpoints."""
    rest, endpoint = scope.tables.rest, scope.tables.endpoint
    of_tenant = sa.select(endpoint.c.id).where(endpoint.c.tenant_id == scope.tenant_id)
    # Look them up first: on MariaDB the DELETE would lock the endpoints.
    resting = sa.select(rest.c.endpoint_id).where(rest.c.endpoint_id.in_(of_tenant))
    if ids := scope.execute(resting).scalars().all():
        forget(scope, ids)


@statement
def _forget(tables: Tables, dialect: str) -> Any:
    return sa.delete(tables.rest).where(tables.among(dialect, tables.rest.c.endpoint_id, "ids"))
