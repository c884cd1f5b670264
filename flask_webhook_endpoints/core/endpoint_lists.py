"""Lists of a tenant's endpoints, oldest first: in pages, searched, and filtered by their state."""

import re
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import endpoint_row
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.database.models import EndpointStatus
from flask_webhook_endpoints.database.scope import TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.identifiers import is_storable
from flask_webhook_endpoints.security.egress import MAX_URL_LENGTH
from flask_webhook_endpoints.security.encryption import Cipher

# Not a backslash, which MariaDB reads as an escape of its own in some modes.
_ESCAPE = "!"
_WILDCARDS = re.compile(rf"[%_{_ESCAPE}]")


def page(
    scope: TenantScope,
    *,
    cipher: Cipher,
    after: UUID | None = None,
    limit: int | None = None,
    status: EndpointStatus | None = None,
    search: str | None = None,
    failing: bool = False,
) -> list[Endpoint]:
    """Return the tenant's endpoints, oldest first: those after the id `after`, `limit` at most.

    Args:
        scope: The transaction, on behalf of the tenant.
        cipher: It decrypts the headers.
        after: The last endpoint of the page before.
        limit: The number of endpoints at most. None: all of them.
        status: Only active or only paused endpoints.
        search: Only endpoints that have this text in their name or URL, in any case of letters. SQLite knows the case
            of ASCII letters alone.
        failing: Only endpoints whose last attempt failed, paused ones among them.

    """
    if search is not None and not (len(search) <= MAX_URL_LENGTH and is_storable(search)):
        return []
    options = {"follows": after is not None, "searched": bool(search), "failing": failing}
    select = _page(scope, status, **options, limited=limit is not None)
    values = {"of_tenant": scope.tenant_id, "after": after, "most": limit}
    if search:
        escaped = _WILDCARDS.sub(rf"{_ESCAPE}\g<0>", search)
        values["pattern"] = f"%{escaped}%"
    return [endpoint_row.read(row, cipher) for row in scope.execute(select, values).all()]


def count(scope: TenantScope) -> int:
    """Return how many endpoints the tenant has, paused ones among them."""
    return int(scope.execute(_count(scope), {"of_tenant": scope.tenant_id}).scalar_one())


def number(tables: Tables) -> sa.Select[Any]:
    """Select the number of endpoints of the tenant `of_tenant`."""
    return sa.select(sa.func.count()).select_from(tables.endpoint).where(endpoint_row.of_tenant(tables))


@statement
def _page(
    tables: Tables,
    _dialect: str,
    status: EndpointStatus | None,
    *,
    follows: bool,
    limited: bool,
    searched: bool,
    failing: bool,
) -> Any:
    endpoint = tables.endpoint
    select = sa.select(*endpoint_row.columns(tables)).where(endpoint_row.of_tenant(tables)).order_by(endpoint.c.id)
    if follows:
        select = select.where(endpoint.c.id > sa.bindparam("after"))
    if status is not None:
        select = select.where(endpoint_row.has_status(tables, status))
    if searched:
        # The database folds both sides, because Python folds letters that it does not.
        pattern = sa.func.lower(sa.bindparam("pattern", type_=sa.String))
        texts = (sa.func.lower(endpoint.c[name]) for name in ("name", "url"))
        select = select.where(sa.or_(*(text.like(pattern, escape=_ESCAPE) for text in texts)))
    if failing:
        incident = tables.incident
        of_endpoint = sa.select(1).where(incident.c.endpoint_id == endpoint.c.id, incident.c.failing_since.is_not(None))
        select = select.where(of_endpoint.exists())
    return select.limit(sa.bindparam("most", type_=sa.Integer)) if limited else select


@statement
def _count(tables: Tables, _dialect: str) -> Any:
    return number(tables)
