"""Access: the tenant of a request, and whether the host allows the request. Every view begins here.

Source: W3C Fetch Metadata Request Headers (`Sec-Fetch-Site`).
"""

from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from flask import current_app, request
from sqlalchemy.orm import scoped_session
from werkzeug.local import LocalProxy

from flask_webhook_endpoints import identifiers
from flask_webhook_endpoints.core import idempotency
from flask_webhook_endpoints.core.idempotency import IdempotencyKey
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import (
    CrossSiteRequest,
    NotAuthorized,
    NoTenant,
    UnknownDelivery,
    UnknownEndpoint,
    WebhookLoop,
)
from flask_webhook_endpoints.security.encryption import Cipher, Secret
from flask_webhook_endpoints.state import Action, State, current_state

A = TypeVar("A")
T = TypeVar("T")

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class ClaimKey(Protocol):
    """Claims an idempotency key: returns the first answer, or None for the first request."""

    def __call__(self, scope: TenantScope, key: IdempotencyKey, *, cipher: Cipher) -> Secret | None:
        """Claim the key in the transaction that has the effect."""
        ...


class Caller(NamedTuple):
    """The tenant of an allowed request, and the state of the application that serves it."""

    state: State
    tenant_id: str
    in_hosts_transaction: bool
    """The host had begun a transaction before the request came to us."""

    def run(self, operation: Callable[[TenantScope], T], *, commit: bool) -> T:
        """Run an operation in the host's session, as `transactions.run` does."""
        # A rollback loses what the host has set for its transaction, such as a schema or the user of row-level
        # security: without it, a second try could write for another tenant.
        may_repeat = None if self.in_hosts_transaction else self._is_tenant_still
        # A request that only reads may ask a follower.
        return transactions.run(
            lambda: self.state.scope(writes=commit).of(self.tenant_id), operation, commit=commit, may_repeat=may_repeat
        )

    def run_once(
        self,
        key: IdempotencyKey | None,
        operation: Callable[[TenantScope], T],
        answer: Callable[[T], A],
        *,
        written: Callable[[A], Secret],
        read: Callable[[Secret], A],
        claim: ClaimKey = idempotency.claim,
        then: Callable[[T], object] | None = None,
    ) -> A:
        """Run an operation, commit, and return its answer; where the key comes again, return the first answer.

        Args:
            key: None: the request has none, and its operation runs.
            operation: Has the effect, in the transaction that also keeps the answer.
            answer: Makes the answer from the operation's result.
            written: Returns the answer as the text that is kept.
            read: Returns the answer that the text tells.
            claim: Claims the key, as `idempotency.claim` does.
            then: Runs with the result after the commit, and not where the first answer is returned.

        """
        cipher = self.state.cipher

        def operate(scope: TenantScope) -> tuple[A, Callable[[], object] | None]:
            if key is not None and (first := claim(scope, key, cipher=cipher)) is not None:
                return read(first), None
            result = operation(scope)
            shown = answer(result)
            if key is not None:
                idempotency.keep(scope, key, written(shown), cipher=cipher)
            return shown, then and partial(then, result)

        shown, following = self.run(operate, commit=True)
        if following is not None:
            following()
        return shown

    def may(self, action: Action, ep_id: str | None = None) -> bool:
        """Return whether the host allows the action; raise `TypeError` where it answers neither True nor False."""
        authorize = self.state.host.authorize
        if authorize is None:
            return True
        answer = _ask(self.state, lambda: authorize(action, ep_id))
        if not isinstance(answer, bool):
            raise TypeError(f"authorize must return True or False, not {type(answer).__name__}.")
        return answer

    def check(self, action: Action, ep_id: str | None = None) -> None:
        """Raise `NotAuthorized` unless the host allows the action."""
        if not self.may(action, ep_id):
            raise NotAuthorized

    def _is_tenant_still(self) -> bool:
        # Asked again, `tenant` sets again what it had set for its transaction.
        return _tenant_id(self.state) == self.tenant_id


def enter(action: Action) -> Caller:
    """Return the caller of a request about no single endpoint; raise `NoTenant`, `NotAuthorized`."""
    caller = _caller()
    caller.check(action)
    return caller


def enter_one(action: Action, ep_id: str) -> tuple[Caller, UUID]:
    """Return the caller and the endpoint's id; raise `NoTenant`, `NotAuthorized`, or `UnknownEndpoint` for no id."""
    caller = _caller()
    endpoint_id = identifiers.parse_id(ep_id)
    if endpoint_id is None:
        raise UnknownEndpoint
    caller.check(action, ep_id)
    return caller, endpoint_id


def enter_delivery(action: Action, ep_id: str, dlv_id: str) -> tuple[Caller, UUID, UUID]:
    """Return the caller and the ids of an endpoint and a delivery; raise as `enter_one`, and `UnknownDelivery`."""
    caller, endpoint_id = enter_one(action, ep_id)
    delivery_id = identifiers.parse_id(dlv_id, "dlv")
    if delivery_id is None:
        raise UnknownDelivery
    return caller, endpoint_id, delivery_id


def _caller() -> Caller:
    _check_sender()
    state = current_state()
    session = state.host.session()
    # A host may return the proxy instead of its session.
    session = session() if isinstance(session, scoped_session) else session
    in_hosts_transaction = session.in_transaction()
    return Caller(state, _tenant_id(state), in_hosts_transaction)


def _check_sender() -> None:
    """Refuse a delivery of ours, and a request that a page of another site sends without asking the host."""
    environ = request.environ
    if "HTTP_WEBHOOK_ID" in environ:
        raise WebhookLoop
    # Before a browser sends JSON to another site, it asks the host's CORS rules.
    is_cross_site = environ.get("HTTP_SEC_FETCH_SITE", "").strip().lower() == "cross-site"
    if is_cross_site and request.method not in _SAFE_METHODS and request.mimetype != "application/json":
        raise CrossSiteRequest


def _tenant_id(state: State) -> str:
    tenant = _ask(state, state.host.tenant)
    if tenant is None:
        raise NoTenant
    return identifiers.stored_tenant(tenant)


def _ask(state: State, question: Callable[[], Any]) -> Any:
    """Return what a callable of the host answers: the result of a coroutine, the object behind a proxy."""

    def ask() -> Any:
        answer = _unproxied(question())
        return _unproxied(current_app.ensure_sync(_result)(answer)) if isawaitable(answer) else answer

    return transactions.guarded(state.host.session, ask)


async def _result(answer: Awaitable[Any]) -> Any:
    return await answer


def _unproxied(answer: Any) -> Any:
    while type(answer) is LocalProxy:
        answer = answer._get_current_object()
    return answer
