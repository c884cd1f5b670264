"""Who asks, and whether they may: where every request of a tenant enters."""

from uuid import UUID

from flask_webhook_endpoints import identifiers
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.errors import NotAuthorized, NoTenant, UnknownEndpoint
from flask_webhook_endpoints.state import Action, State, current_state


def enter(action: Action) -> tuple[State, str]:
    """Return the application's state and who is asking; raise where nobody is, or may not."""
    state = current_state()
    tenant_id = _tenant_id(state)
    _authorize(state, action, None)
    return state, tenant_id


def enter_one(action: Action, ep_id: str) -> tuple[State, str, UUID]:
    """Do as `enter`, for one endpoint; raise `UnknownEndpoint` for what is no id."""
    state = current_state()
    tenant_id = _tenant_id(state)
    endpoint_id = identifiers.parse_id(ep_id)
    if endpoint_id is None:
        raise UnknownEndpoint
    _authorize(state, action, ep_id)
    return state, tenant_id, endpoint_id


def _authorize(state: State, action: Action, ep_id: str | None) -> None:
    authorize = state.host.authorize
    if authorize is not None and not transactions.guarded(state.host.session, lambda: authorize(action, ep_id)):
        raise NotAuthorized


def _tenant_id(state: State) -> str:
    tenant = transactions.guarded(state.host.session, state.host.tenant)
    if tenant is None:
        raise NoTenant
    try:
        return identifiers.stored_tenant(tenant)
    except ValueError:
        raise NoTenant from None
