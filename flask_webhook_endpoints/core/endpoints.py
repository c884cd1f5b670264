"""The endpoints of a tenant: listed, read, created, updated, deleted.

Operations take the host's session and the tenant, and never commit.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from flask_webhook_endpoints import identifiers
from flask_webhook_endpoints.core import secrets, transitions
from flask_webhook_endpoints.core.endpoint_statements import EndpointStatements
from flask_webhook_endpoints.core.idempotency import IdempotencyKey, IdempotencyKeys
from flask_webhook_endpoints.core.secrets import EndpointSecrets, SecretInForce
from flask_webhook_endpoints.core.wakeups import Wakes
from flask_webhook_endpoints.database.models import EndpointStatus, new_id
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import QuotaExceeded, StaleEndpoint, UnknownEndpoint, UnreadableValue
from flask_webhook_endpoints.security.encryption import Cipher, Headers, Secret

_log = logging.getLogger("flask_webhook_endpoints.endpoints")


class Endpoint(NamedTuple):
    """An endpoint as its tenant sees it: ids and times as they are outside. The secret is not part of it."""

    id: str
    name: str
    url: str
    timeout_seconds: int
    event_types: list[str] | None
    paused_at: str | None
    created_at: str
    updated_at: str
    version: int
    headers: Headers | None
    """Null where the key that encrypted them is lost."""

    @property
    def status(self) -> EndpointStatus:
        """Whether deliveries are sent or held."""
        return EndpointStatus.ACTIVE if self.paused_at is None else EndpointStatus.PAUSED


class Change(Enum):
    """What was done to an endpoint."""

    CREATED = "created"
    UPDATED = "updated"
    PAUSED = "paused"
    RESUMED = "resumed"


class Changed(NamedTuple):
    """An endpoint after a write, and what that did; nothing, where it only repeated what was done before."""

    endpoint: Endpoint
    changes: tuple[Change, ...] = ()


Fields = Mapping[str, Any]
"""What a tenant writes, as the schemas load it: names as in the JSON, the secret wrapped, the status an enum."""


class Endpoints:
    """Operations on `webhook_endpoint`; none commits."""

    def __init__(self, tables: Tables, cipher: Cipher, wakes: Wakes, *, quota: int) -> None:
        """Make the statements; `quota` is how many endpoints a tenant may have."""
        self.secrets = EndpointSecrets(tables, cipher)
        self.idempotency_keys = IdempotencyKeys(tables, cipher)
        self._wakes = wakes
        self._cipher = cipher
        self._quota = quota
        self._tables = tables
        self._statements = EndpointStatements(tables)

    def page(
        self,
        session: Session,
        tenant_id: str,
        *,
        after: UUID | None = None,
        limit: int | None = None,
        status: EndpointStatus | None = None,
    ) -> list[Endpoint]:
        """Return the tenant's endpoints, oldest first: those after the id `after`, `limit` at most."""
        statement = self._statements.page(after=after, limit=limit, status=status)
        rows = self._tables.execute(session, statement, {"of_tenant": tenant_id}).all()
        return [self._endpoint(row) for row in rows]

    def get(self, session: Session, tenant_id: str, endpoint_id: UUID) -> Endpoint:
        """Return one endpoint; raise `UnknownEndpoint` where the tenant has none of this id."""
        rows = self._statements.get.fetch(session, _names(tenant_id, endpoint_id))
        if not rows:
            raise UnknownEndpoint
        return self._endpoint(rows[0])

    def create(
        self,
        session: Session,
        tenant_id: str,
        fields: Fields,
        *,
        now: datetime,
        idempotency_key: IdempotencyKey | None = None,
    ) -> Changed:
        """Register an endpoint, with a secret of its own if none is given.

        With the key and body of an earlier request, return what that one made, as it was then. Raises `QuotaExceeded`,
        `IdempotencyKeyReused`. Requests at the same moment may together pass the quota by their number.
        """
        endpoint_id = new_id()
        if idempotency_key is not None:
            claim = self.idempotency_keys.claim(session, tenant_id, idempotency_key, endpoint_id=endpoint_id, now=now)
            if claim.endpoint_id != endpoint_id:
                return Changed(_newborn(claim.endpoint_id, fields, claim.created_at))
        endpoint = _newborn(endpoint_id, fields, now)
        row = {
            "id": endpoint_id,
            "tenant_id": tenant_id,
            "name": endpoint.name,
            "url": endpoint.url,
            "headers_encrypted": self._cipher.encrypt_headers(fields["headers_json"]),
            "timeout_seconds": endpoint.timeout_seconds,
            "event_types": endpoint.event_types,
            "paused_at": None,
            "exhausted_in_a_row": 0,
            "version": endpoint.version,
            "created_at": now,
            "updated_at": now,
        }
        # Written before it is counted: SQLite can't turn a transaction that has read into one that writes.
        self._statements.insert.execute(session, row)
        [[count]] = self._statements.count.fetch(session, {"of_tenant": tenant_id})
        if count > self._quota:
            raise QuotaExceeded(self._quota)
        self.secrets.add(session, endpoint_id, fields.get("secret") or secrets.generate(), now=now)
        return Changed(endpoint, (Change.CREATED,))

    def update(
        self,
        session: Session,
        tenant_id: str,
        endpoint_id: UUID,
        fields: Fields,
        *,
        now: datetime,
        versions: Collection[int] | None = None,
    ) -> Changed:
        """Change what `fields` names and return the endpoint; nothing named changes nothing.

        Raises `UnknownEndpoint`, or `StaleEndpoint` where `versions` is given and the endpoint is at none of them.
        """
        if not fields:
            endpoint = self.get(session, tenant_id, endpoint_id)
            if versions is not None and endpoint.version not in versions:
                raise StaleEndpoint
            return Changed(endpoint)
        changed = self._turn(session, tenant_id, endpoint_id, fields, now=now, versions=versions)
        if Change.RESUMED in changed.changes:
            # What was held is due.
            self._wakes.at_commit(session)
        if "secret" in fields:
            overlap = secrets.DEFAULT_OVERLAP_SECONDS
            self.secrets.rotate(session, endpoint_id, fields["secret"], overlap_seconds=overlap, now=now)
        return changed

    def rotate_secret(
        self,
        session: Session,
        tenant_id: str,
        endpoint_id: UUID,
        secret: Secret | None = None,
        *,
        overlap_seconds: int = secrets.DEFAULT_OVERLAP_SECONDS,
        now: datetime,
    ) -> tuple[SecretInForce, Changed]:
        """Put another secret in force, a generated one if none is given; raise `UnknownEndpoint`."""
        endpoint = self._write(session, tenant_id, endpoint_id, {}, now=now)
        secret = secret or secrets.generate()
        in_force = self.secrets.rotate(session, endpoint_id, secret, overlap_seconds=overlap_seconds, now=now)
        return in_force, Changed(endpoint, (Change.UPDATED,))

    def delete(
        self,
        session: Session,
        tenant_id: str,
        endpoint_id: UUID,
        *,
        now: datetime,
        versions: Collection[int] | None = None,
    ) -> None:
        """Remove an endpoint and its secrets, and cancel its deliveries; raise `UnknownEndpoint`, `StaleEndpoint`."""
        statement = self._statements.delete(versioned=versions is not None)
        names = _names(tenant_id, endpoint_id, versions)
        if not statement.execute(session, names):
            raise self._why_not(session, tenant_id, endpoint_id, versions)
        self.secrets.remove(session, endpoint_id)
        dialect = self._tables.dialect(session)
        scope = Scope(session=session, tables=self._tables, dialect=dialect, now=now, wake=self._wakes.at_commit)
        transitions.cancel(scope, [endpoint_id])

    def _turn(
        self,
        session: Session,
        tenant_id: str,
        endpoint_id: UUID,
        fields: Fields,
        *,
        now: datetime,
        versions: Collection[int] | None,
    ) -> Changed:
        """Write `fields`, and tell whether that paused or resumed the endpoint."""
        status, values = fields.get("status"), self._values(fields)
        if status is not None:
            turn = Change.PAUSED if status is EndpointStatus.PAUSED else Change.RESUMED
            # What an UPDATE finds is what the endpoint was, whoever writes at the same moment.
            endpoint = self._written(
                session, tenant_id, endpoint_id, values, now=now, versions=versions, status=status, turning=True
            )
            if endpoint is not None:
                return Changed(endpoint, (turn,) if len(fields) == 1 else (Change.UPDATED, turn))
        endpoint = self._write(session, tenant_id, endpoint_id, values, now=now, versions=versions, status=status)
        return Changed(endpoint, (Change.UPDATED,))

    def _write(
        self,
        session: Session,
        tenant_id: str,
        endpoint_id: UUID,
        values: Mapping[str, Any],
        *,
        now: datetime,
        versions: Collection[int] | None = None,
        status: EndpointStatus | None = None,
    ) -> Endpoint:
        endpoint = self._written(
            session, tenant_id, endpoint_id, values, now=now, versions=versions, status=status, turning=False
        )
        if endpoint is None:
            raise self._why_not(session, tenant_id, endpoint_id, versions)
        return endpoint

    def _written(
        self,
        session: Session,
        tenant_id: str,
        endpoint_id: UUID,
        values: Mapping[str, Any],
        *,
        now: datetime,
        versions: Collection[int] | None,
        status: EndpointStatus | None,
        turning: bool,
    ) -> Endpoint | None:
        """Return the endpoint as written; None where `turning` finds the status already there, or for `versions`."""
        dialect = self._tables.dialect(session)
        statement = self._statements.update(
            dialect.name,
            status,
            turning=turning,
            versioned=versions is not None,
            returning=dialect.update_returning,
        )
        names = {**values, **_names(tenant_id, endpoint_id, versions), "now": now}
        if dialect.update_returning:
            rows = statement.fetch(session, names)
            return self._endpoint(rows[0]) if rows else None
        return self.get(session, tenant_id, endpoint_id) if statement.execute(session, names) else None

    def _why_not(
        self, session: Session, tenant_id: str, endpoint_id: UUID, versions: Collection[int] | None
    ) -> Exception:
        """Return why a write met no row: `StaleEndpoint` if the tenant has the endpoint, else `UnknownEndpoint`."""
        if versions is None:
            return UnknownEndpoint()
        is_known = self._statements.get_committed.fetch(session, _names(tenant_id, endpoint_id))
        return StaleEndpoint() if is_known else UnknownEndpoint()

    def _values(self, fields: Fields) -> dict[str, Any]:
        values: dict[str, Any] = {
            name: fields[name] for name in ("name", "url", "timeout_seconds", "event_types") if name in fields
        }
        if "headers_json" in fields:
            values["headers_encrypted"] = self._cipher.encrypt_headers(fields["headers_json"])
        return values

    def _endpoint(self, row: Sequence[Any]) -> Endpoint:
        return Endpoint._make((*row[:-1], self._opened(row[0], row[-1])))

    def _opened(self, endpoint_id: str, headers_encrypted: str | None) -> Headers | None:
        try:
            return self._cipher.decrypt_headers(headers_encrypted)
        except UnreadableValue:
            _log.error("webhooks.headers_unreadable", extra={"webhooks.endpoint_id": endpoint_id})
            return None


def _names(tenant_id: str, endpoint_id: UUID, versions: Collection[int] | None = None) -> dict[str, Any]:
    names: dict[str, Any] = {"of_tenant": tenant_id, "of_id": endpoint_id}
    return names if versions is None else {**names, "of_versions": list(versions)}


def _newborn(endpoint_id: UUID, fields: Fields, now: datetime) -> Endpoint:
    time = identifiers.format_time(now)
    return Endpoint(
        id=identifiers.format_id(endpoint_id),
        name=fields["name"],
        url=fields["url"],
        timeout_seconds=fields["timeout_seconds"],
        event_types=fields.get("event_types"),
        paused_at=None,
        created_at=time,
        updated_at=time,
        version=1,
        headers=fields["headers_json"],
    )
