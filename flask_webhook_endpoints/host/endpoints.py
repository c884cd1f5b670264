"""`webhooks.endpoints`: a tenant's endpoints for the host's own code, in the host's transaction.

The schemas and the functions of the core are those of the API, so that rules and errors are the same.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, TypedDict, Unpack
from uuid import UUID

from flask_webhook_endpoints import identifiers, signals
from flask_webhook_endpoints.core import endpoint_lists, endpoints, secrets, validation
from flask_webhook_endpoints.core.endpoint_row import Endpoint, Fields
from flask_webhook_endpoints.core.endpoints import Changed, Versions
from flask_webhook_endpoints.core.secrets import DEFAULT_OVERLAP_SECONDS, SecretInForce
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.models import EndpointStatus
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import InvalidFields, UnknownEndpoint
from flask_webhook_endpoints.host import transaction
from flask_webhook_endpoints.identifiers import TenantId
from flask_webhook_endpoints.security.private import Private
from flask_webhook_endpoints.state import Host

_MOST = 2**31 - 1
"""The highest `limit`: databases take no more."""


class OptionalFields(TypedDict, total=False):
    """The fields that an endpoint may be created without."""

    secret: str
    headers_json: dict[str, str] | None
    timeout_seconds: int
    event_types: Sequence[str] | None
    description: str | None
    metadata: dict[str, str] | None


class NewFields(OptionalFields):
    """The fields of a new endpoint."""

    name: str
    url: str


class ChangedFields(OptionalFields, total=False):
    """The fields of an endpoint that change; the others stay as they are."""

    name: str
    url: str
    status: EndpointStatus | Literal["ACTIVE", "PAUSED"]


class Endpoints:
    """The endpoints of a tenant, in the host's session and transaction: written if, and only if, the host commits.

    Fields have the names, rules and errors of the API. Signals are sent after the host's commit. No method asks
    `authorize`, because the host's own code decides what it does.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def create(self, *, tenant_id: TenantId, ignore_limit: bool = False, **fields: Unpack[NewFields]) -> Endpoint:
        """Create an endpoint, with a generated secret if none is given.

        Args:
            tenant_id: The tenant, as the `tenant` callable returns it.
            ignore_limit: Create it even if the tenant then has more than `MAX_ENDPOINTS_PER_TENANT`, as an import may.
            fields: `name` and `url`, and what `POST /v1/endpoints` takes beside them.

        Raises:
            InvalidFields: A field breaks its rule; nothing is written.
            QuotaExceeded: The tenant has as many endpoints as it may have; nothing is written.

        """
        state, scope = transaction.enter(self._host, tenant_id)
        given: Fields = Private(fields)
        del fields
        loaded = validation.load_private(state.new_endpoint, given)
        quota = None if ignore_limit else state.settings.max_endpoints_per_tenant
        return _told(scope, endpoints.create(scope, loaded, quota=quota, cipher=state.cipher))

    def get(self, endpoint_id: str, *, tenant_id: TenantId) -> Endpoint:
        """Return an endpoint by its id (`ep_…`); raise `UnknownEndpoint` if the tenant has none of this id."""
        state, scope = transaction.enter(self._host, tenant_id)
        return endpoints.get(scope, parsed(endpoint_id), cipher=state.cipher)

    def update(
        self, endpoint_id: str, *, tenant_id: TenantId, if_version: int | None = None, **fields: Unpack[ChangedFields]
    ) -> Endpoint:
        """Change the fields that are named; pause or resume with `status`.

        Args:
            endpoint_id: Its id (`ep_…`).
            tenant_id: The tenant, as the `tenant` callable returns it.
            if_version: Change it only if this is still its `version`.
            fields: What `PATCH` takes; a `secret` is rotated with an overlap of a day.

        Raises:
            InvalidFields: A field breaks its rule; nothing is written.
            UnknownEndpoint: The tenant has no endpoint of this id.
            StaleEndpoint: It has another version.

        """
        state, scope = transaction.enter(self._host, tenant_id)
        given: Fields = Private(fields)
        del fields
        loaded: Fields = validation.load_private(state.endpoint_changes, given)
        ep_id, versions = parsed(endpoint_id), _only(if_version)
        return _told(scope, endpoints.update(scope, ep_id, loaded, versions=versions, cipher=state.cipher))

    def rotate_secret(
        self,
        endpoint_id: str,
        *,
        tenant_id: TenantId,
        secret: str | None = None,
        overlap_seconds: int = DEFAULT_OVERLAP_SECONDS,
    ) -> SecretInForce:
        """Put another secret in force, generated if none is given; the previous one signs, too, for a time.

        Raises:
            InvalidFields: The secret or the overlap breaks its rule; nothing is written.
            UnknownEndpoint: The tenant has no endpoint of this id.

        """
        state, scope = transaction.enter(self._host, tenant_id)
        given: Fields = Private({"overlap_seconds": overlap_seconds} | ({} if secret is None else {"secret": secret}))
        del secret
        loaded = validation.load_private(state.new_secret, given)
        in_force, changed = endpoints.rotate_secret(scope, parsed(endpoint_id), cipher=state.cipher, **dict(loaded))
        _told(scope, changed)
        return in_force

    def secret(self, endpoint_id: str, *, tenant_id: TenantId) -> SecretInForce:
        """Return the secret in force; its `secret.reveal()` is the text that the receiver verifies with.

        Raises `UnknownEndpoint`, or `UnreadableSecret` if the key that encrypted it is lost.
        """
        state, scope = transaction.enter(self._host, tenant_id)
        return secrets.in_force(scope, parsed(endpoint_id), cipher=state.cipher)

    def delete(self, endpoint_id: str, *, tenant_id: TenantId, if_version: int | None = None) -> None:
        """Delete an endpoint and its secrets, and cancel its deliveries.

        Raises:
            UnknownEndpoint: The tenant has no endpoint of this id.
            StaleEndpoint: It has another version than `if_version`.
            Referenced: A table of the host refers to it. Roll back, because databases refuse the rest of a transaction.

        """
        _, scope = transaction.enter(self._host, tenant_id)
        ep_id = parsed(endpoint_id)
        with transactions.deleting():
            endpoints.delete(scope, ep_id, versions=_only(if_version))
        transaction.after_commit(scope.session, partial(signals.send_deleted, scope.tenant_id, ep_id))

    def list(
        self,
        *,
        tenant_id: TenantId,
        status: EndpointStatus | Literal["ACTIVE", "PAUSED"] | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Endpoint]:
        """Return the tenant's endpoints, oldest first: those of the status, after the id `after`, `limit` at most.

        Raises `InvalidFields`, or `UnknownEndpoint` if `after` is no id.
        """
        if limit is not None and not (type(limit) is int and 0 < limit <= _MOST):
            raise InvalidFields({"limit": [f"Must be an integer from 1 to {_MOST}."]})
        if status is not None and status not in list(EndpointStatus):
            raise InvalidFields({"status": [f"Must be one of: {', '.join(EndpointStatus)}."]})
        state, scope = transaction.enter(self._host, tenant_id)
        last_id = None if after is None else parsed(after)
        wanted = None if status is None else EndpointStatus(status)
        return endpoint_lists.page(scope, cipher=state.cipher, after=last_id, limit=limit, status=wanted)


def parsed(endpoint_id: str) -> UUID:
    """Return the UUID of an endpoint's id; raise `UnknownEndpoint` if it is no id, as the API does."""
    if not isinstance(endpoint_id, str):
        raise TypeError(f"An endpoint's id must be a str such as ep_0190…, not {type(endpoint_id).__name__}.")
    if (found := identifiers.parse_id(endpoint_id)) is None:
        raise UnknownEndpoint
    return found


def _only(version: int | None) -> Versions | None:
    if version is not None and type(version) is not int:
        raise InvalidFields({"if_version": ["Must be an integer."]})
    return None if version is None else Versions(frozenset({version}))


def _told(scope: TenantScope, changed: Changed) -> Endpoint:
    """Send the signals of a change after the commit, and return the endpoint."""
    if changed.changes:
        transaction.after_commit(scope.session, partial(signals.send_changed, scope.tenant_id, changed))
    return changed.endpoint
