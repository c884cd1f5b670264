"""The endpoints of a tenant: read, created, updated, deleted."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import (
    cancellations,
    endpoint_lists,
    endpoint_row,
    headers,
    idempotency,
    incidents,
    queue,
    redelivery_limit,
    rests,
    secrets,
    transitions,
)
from flask_webhook_endpoints.core.endpoint_row import Endpoint, Fields
from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.models import EndpointStatus, PauseReason, new_id
from flask_webhook_endpoints.database.scope import TenantScope, as_committed, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import QuotaExceeded, StaleEndpoint, UnknownEndpoint
from flask_webhook_endpoints.security.encryption import Cipher, Secret
from flask_webhook_endpoints.security.private import Private


class Change(Enum):
    """A change that a request made to an endpoint."""

    CREATED = "created"
    UPDATED = "updated"
    PAUSED = "paused"
    RESUMED = "resumed"


class Changed(NamedTuple):
    """An endpoint after a write, and what the write did."""

    endpoint: Endpoint
    changes: tuple[Change, ...] = ()


class Versions(NamedTuple):
    """The versions of an endpoint that a request accepts: those numbers, or all others."""

    numbers: frozenset[int]
    excluded: bool = False

    def __contains__(self, version: object) -> bool:
        return (version in self.numbers) is not self.excluded


def get(scope: TenantScope, endpoint_id: UUID, *, cipher: Cipher) -> Endpoint:
    """Return one endpoint; raise `UnknownEndpoint` where the tenant has none of this id."""
    if (row := scope.execute(_get(scope), _names(scope, endpoint_id)).one_or_none()) is None:
        raise UnknownEndpoint
    return endpoint_row.read(row, cipher)


def create(scope: TenantScope, fields: Fields, *, cipher: Cipher, quota: int | None) -> Changed:
    """Create an endpoint, with a generated secret if none is given.

    Requests at the same moment may together exceed the quota by their number. Raises `QuotaExceeded`.
    """
    endpoint_id = new_id()
    own = {"id": endpoint_id, "tenant_id": scope.tenant_id, "created_at": scope.now, "updated_at": scope.now}
    given = endpoint_row.written(scope.tables, endpoint_id, fields, cipher)
    row = {**given, **own, "version": 1}
    # Insert before counting (SQLite).
    scope.execute(_insert(scope), row)
    secret = secrets.row_of(scope, endpoint_id, fields.get("secret") or secrets.generate(), cipher=cipher)
    inserted = scope.execute(_insert_secret(scope, counts=quota is not None), {**secret, "of_tenant": scope.tenant_id})
    if quota is not None and (inserted.scalar_one() if inserted.returns_rows else endpoint_lists.count(scope)) > quota:
        # Delete it again, because the host may go on in its transaction.
        _remove(scope, endpoint_id)
        raise QuotaExceeded(quota)
    return Changed(endpoint_row.newborn(endpoint_id, fields, scope.now), (Change.CREATED,))


def update(
    scope: TenantScope,
    endpoint_id: UUID,
    fields: Fields,
    *,
    cipher: Cipher,
    versions: Versions | None = None,
    keeps_hidden: bool = False,
) -> Changed:
    """Change what `fields` names and return the endpoint; no fields change nothing.

    With `keeps_hidden`, the value `headers.HIDDEN` of a header keeps the stored one, or raises `InvalidFields` as
    `headers.keep_hidden` does. Raises `UnknownEndpoint`, or `StaleEndpoint` where `versions` is given and does not have
    the endpoint's version.
    """
    if keeps_hidden and headers.HIDDEN in dict(fields.get("headers_json", ())).values():
        stored = _locked(scope, endpoint_id, cipher=cipher, versions=versions)
        fields = Private(fields, headers_json=headers.keep_hidden(fields["headers_json"], stored.headers_json))
    if not fields:
        endpoint = get(scope, endpoint_id, cipher=cipher)
        if versions is not None and endpoint.version not in versions:
            raise StaleEndpoint
        return Changed(endpoint)
    changed = _change(scope, endpoint_id, fields, cipher=cipher, versions=versions)
    if Change.RESUMED in changed.changes:
        # The deliveries that it held are due.
        queue.end_rests(scope, [(scope.tenant_id, endpoint_id)])
        scope.wake_at_commit()
        # An endpoint that was active keeps its incident, because a client may send the status with each change.
        incidents.forget(scope, [endpoint_id])
        changed.endpoint.failing_since = None
    if "secret" in fields:
        overlap = secrets.DEFAULT_OVERLAP_SECONDS
        secrets.rotate(scope, endpoint_id, fields["secret"], overlap_seconds=overlap, cipher=cipher)
    return changed


def rotate_secret(
    scope: TenantScope, endpoint_id: UUID, secret: Secret | None = None, *, overlap_seconds: int, cipher: Cipher
) -> tuple[secrets.SecretInForce, Changed]:
    """Put another secret in force, a generated one if none is given; raise `UnknownEndpoint`."""
    changed = _change(scope, endpoint_id, Private(), cipher=cipher, versions=None)
    secret = secret or secrets.generate()
    return secrets.rotate(scope, endpoint_id, secret, overlap_seconds=overlap_seconds, cipher=cipher), changed


def delete(scope: TenantScope, endpoint_id: UUID, *, versions: Versions | None = None) -> None:
    """Delete an endpoint and its secrets, and cancel its deliveries; raise `UnknownEndpoint`, `StaleEndpoint`."""
    has_more = _remove(scope, endpoint_id, versions)
    if has_more is None:
        raise _refusal(scope, endpoint_id, versions)
    if has_more:
        cancellations.cancel(scope, scope.tenant_id, endpoint_id)


def remove_all(scope: TenantScope) -> int:
    """Delete the tenant's endpoints, secrets, idempotency keys and count of redeliveries; return how many endpoints.

    After the commit `publish` writes nothing for the tenant, and workers claim nothing. Deliveries may be in flight. On
    MariaDB and MySQL, `publish` in a transaction that has read before that commit still writes.
    """
    endpoint = scope.tables.endpoint
    # Keys and counts first, in the order in which a redelivery locks them.
    idempotency.forget_tenant(scope)
    redelivery_limit.forget_tenant(scope)
    rests.forget_tenant(scope)
    incidents.forget_tenant(scope)
    # Lock the endpoints after rests and incidents, as a worker does, and before their secrets, as `delete` does.
    locked = sa.select(endpoint.c.id).where(endpoint.c.tenant_id == scope.tenant_id).order_by(endpoint.c.id)
    scope.execute(locked.with_for_update()).all()
    secrets.remove(scope)
    return scope.execute(sa.delete(endpoint).where(endpoint.c.tenant_id == scope.tenant_id)).rowcount


def _remove(scope: TenantScope, endpoint_id: UUID, versions: Versions | None = None) -> bool | None:
    """Delete an endpoint's row and secrets. Return whether it may have more to cancel, None if there is no such row."""
    deleted = scope.execute(_delete(scope, versions and versions.excluded), _names(scope, endpoint_id, versions))
    has_more: bool | None = True
    if deleted.returns_rows:
        has_more = deleted.scalar_one_or_none()
    elif not deleted.rowcount:
        has_more = None
    if has_more is not None:
        secrets.remove(scope, endpoint_id)
    return has_more


def _change(
    scope: TenantScope, endpoint_id: UUID, fields: Fields, *, cipher: Cipher, versions: Versions | None
) -> Changed:
    """Write `fields`, and say whether that paused or resumed the endpoint."""
    status = fields.get("status")
    given = endpoint_row.written(scope.tables, endpoint_id, fields, cipher)
    values = {**given, **_names(scope, endpoint_id, versions), "now": scope.now}
    options: dict[str, Any] = {"excluded": versions and versions.excluded}
    # The UPDATE itself looks at the status, so that of two requests at once only one pauses the endpoint.
    row = _write(scope, _update(scope, status, must_change=True, **options), values) if status else None
    if status and row:
        change = Change.PAUSED if status is EndpointStatus.PAUSED else Change.RESUMED
        return Changed(endpoint_row.read(row, cipher), (change,) if len(fields) == 1 else (Change.UPDATED, change))
    if (row := _write(scope, _update(scope, status, must_change=False, **options), values)) is None:
        raise _refusal(scope, endpoint_id, versions)
    return Changed(endpoint_row.read(row, cipher), (Change.UPDATED,))


def _write(scope: TenantScope, update: sa.Update, values: Mapping[str, Any]) -> sa.Row[Any] | None:
    """Return the endpoint's row as written; None if the UPDATE found none."""
    result = scope.execute(update, values)
    if result.returns_rows:
        return result.one_or_none()
    return scope.execute(_get(scope), values).one() if result.rowcount else None


def _locked(scope: TenantScope, endpoint_id: UUID, *, cipher: Cipher, versions: Versions | None) -> Endpoint:
    """Return the endpoint as it is committed, and lock its row; raise `UnknownEndpoint`, `StaleEndpoint`."""
    # Write first (SQLite).
    touch = _touch(scope, versions and versions.excluded)
    if not scope.execute(touch, _names(scope, endpoint_id, versions)).rowcount:
        raise _refusal(scope, endpoint_id, versions)
    return endpoint_row.read(scope.execute(_get(scope, committed=True), _names(scope, endpoint_id)).one(), cipher)


def _refusal(scope: TenantScope, endpoint_id: UUID, versions: Versions | None) -> Exception:
    """Return why a write found no row: `StaleEndpoint` if the tenant has the endpoint, else `UnknownEndpoint`."""
    if versions is not None and scope.execute(_get(scope, committed=True), _names(scope, endpoint_id)).first():
        return StaleEndpoint()
    return UnknownEndpoint()


def _names(scope: TenantScope, endpoint_id: UUID, versions: Versions | None = None) -> dict[str, Any]:
    """Return the parameters that choose the endpoint; an UPDATE takes parameters named like columns as their values."""
    names: dict[str, Any] = {"of_tenant": scope.tenant_id, "of_id": endpoint_id}
    return names if versions is None else {**names, "of_versions": list(versions.numbers)}


def _one(tables: Tables, excluded: bool | None = None) -> list[sa.ColumnElement[bool]]:
    """Choose the endpoint; with `excluded`, only at one of the versions, or at none of them."""
    endpoint = tables.endpoint
    one = [endpoint_row.of_tenant(tables), endpoint.c.id == sa.bindparam("of_id")]
    if excluded is None:
        return one
    named = endpoint.c.version.in_(sa.bindparam("of_versions", expanding=True))
    return [*one, sa.not_(named) if excluded else named]


@statement
def _insert(tables: Tables, _dialect: str) -> sa.Insert:
    return sa.insert(tables.endpoint)


@statement
def _get(tables: Tables, _dialect: str, *, committed: bool = False) -> Any:
    select = sa.select(*endpoint_row.columns(tables)).where(*_one(tables))
    return as_committed(select) if committed else select


@statement
def _insert_secret(tables: Tables, dialect: str, *, counts: bool) -> Any:
    """Insert the secret of a new endpoint; `counts` returns the number of the tenant's endpoints, not on MariaDB."""
    insert = sa.insert(tables.secret)
    if not (counts and dialect in dialects.RETURNING):
        return insert
    return insert.returning(endpoint_lists.number(tables).scalar_subquery())


@statement
def _update(
    tables: Tables,
    dialect: str,
    status: EndpointStatus | None,
    *,
    must_change: bool,
    excluded: bool | None,
) -> Any:
    """Write what the parameters name, at the time `now`, and what follows from `status`.

    One statement decides and writes, so that concurrent updates of different columns all hold. With
    `must_change` it writes only if the endpoint has the other status.
    """
    endpoint = tables.endpoint
    values: dict[str, Any] = {"version": endpoint.c.version + sa.literal_column("1")}
    values["updated_at"] = tables.update_time(dialect, "now")
    if status is EndpointStatus.PAUSED:
        values |= transitions.paused(tables, PauseReason.USER, sa.bindparam("now", type_=endpoint.c.paused_at.type))
    elif status is EndpointStatus.ACTIVE:
        values |= transitions.resumed()
    update = sa.update(endpoint).where(*_one(tables, excluded)).values(values)
    if must_change and status is not None:
        update = update.where(sa.not_(endpoint_row.has_status(tables, status)))
    return update.returning(*endpoint_row.columns(tables)) if dialect in dialects.RETURNING else update


@statement
def _touch(tables: Tables, _dialect: str, excluded: bool | None) -> sa.Update:
    endpoint = tables.endpoint
    return sa.update(endpoint).where(*_one(tables, excluded)).values(version=endpoint.c.version)


@statement
def _delete(tables: Tables, dialect: str, excluded: bool | None) -> Any:
    """Delete the endpoint and return whether `cancellations.cancel` has anything to do; not on MariaDB.

    Most endpoints have nothing that waits, and three statements would find that out.
    """
    delete = sa.delete(tables.endpoint).where(*_one(tables, excluded))
    return delete.returning(cancellations.is_to_cancel(tables, dialect)) if dialect in dialects.RETURNING else delete
