"""Access: the tenant of a request, and whether the host allows the request. Every view begins here."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar
from uuid import UUID

from flask_webhook_endpoints import identifiers
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import NotAuthorized, NoTenant, UnknownEndpoint
from flask_webhook_endpoints.state import Action, State, current_state

T = TypeVar("T")


class Caller(NamedTuple):
    """The tenant of an allowed request, and the state of the application that serves it."""

    state: State
    tenant_id: str

    def scope(self) -> TenantScope:
        """Return the host's transaction as core sees it, on behalf of the tenant."""
        return self.state.scope().of(self.tenant_id)

    def run(self, operation: Callable[[TenantScope], T], *, commit: bool) -> T:
        """Run an operation in the host's session, as `transactions.run` does."""
        return transactions.run(self.scope, operation, commit=commit)


def enter(action: Action) -> Caller:
    """Return the caller of a request about no single endpoint; raise `NoTenant`, `NotAuthorized`."""
    caller = _caller()
    _authorize(caller.state, action, None)
    return caller


def enter_one(action: Action, ep_id: str) -> tuple[Caller, UUID]:
    """Return the caller and the endpoint's id; raise `NoTenant`, `NotAuthorized`, or `UnknownEndpoint` for no id."""
    caller = _caller()
    endpoint_id = identifiers.parse_id(ep_id)
    if endpoint_id is None:
        raise UnknownEndpoint
    _authorize(caller.state, action, ep_id)
    return caller, endpoint_id


def _caller() -> Caller:
    state = current_state()
    tenant = transactions.guarded(state.host.session, state.host.tenant)
    if tenant is None:
        raise NoTenant
    return Caller(state, identifiers.stored_tenant(tenant))


def _authorize(state: State, action: Action, ep_id: str | None) -> None:
    authorize = state.host.authorize
    if authorize is not None and not transactions.guarded(state.host.session, lambda: authorize(action, ep_id)):
        raise NotAuthorized
