"""The host's own transaction, which our functions join: they write if, and only if, the host commits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

from flask import Flask, current_app, has_app_context
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from flask_webhook_endpoints import identifiers
from flask_webhook_endpoints.database.scope import Scope, TenantScope
from flask_webhook_endpoints.identifiers import TenantId
from flask_webhook_endpoints.state import Host, State, current_state

_KEY = "webhook_endpoints.after_commit"


def begin(host: Host) -> tuple[State, Scope]:
    """Return the state of the current app, and the transaction of the host's session.

    Raises `RegistrationError` if the blueprint is not registered on the current app, `session` returns another session
    at each call, or the engine is in AUTOCOMMIT.
    """
    state = current_state()
    scope = host.scope(host.shared_session(), now=state.now(), wake=state.wakeups.at_commit)
    scope.require_transaction()
    return state, scope


def enter(host: Host, tenant_id: TenantId) -> tuple[State, TenantScope]:
    """Begin for a tenant: return the state of the current app, and the tenant's scope.

    Raises:
        RegistrationError: As `begin`.
        TypeError: The tenant is neither int, UUID nor str.
        ValueError: The tenant's text is empty, too long, or has characters that databases can't store.

    """
    state, scope = begin(host)
    return state, scope.of(identifiers.stored_tenant(tenant_id))


def after_commit(session: Session, call: Callable[[], object]) -> None:
    """Call a function in the current app's context once the session's transaction is committed, and only then.

    A rollback to a savepoint that was there before drops it, too.
    """
    if (calls := session.info.get(_KEY)) is None:
        calls = session.info[_KEY] = _Calls()
        event.listen(session, "after_commit", calls.commit)
        event.listen(session, "after_soft_rollback", calls.roll_back)
        event.listen(session, "after_transaction_end", calls.end)
    transaction = session.get_nested_transaction() or session.get_transaction()
    app: Flask = cast(Any, current_app)._get_current_object()
    calls.pending.append(_Call(transaction, partial(_in_context, app, call)))


class _Call(NamedTuple):
    transaction: SessionTransaction | None
    """The innermost one at the time of the call: a savepoint, or the transaction itself."""
    run: Callable[[], object]


@dataclass(eq=False)
class _Calls:
    """The calls that wait for the commit of one session."""

    pending: list[_Call] = field(default_factory=list)
    committed: bool = False

    def commit(self, session: Session) -> None:
        # A savepoint that is released is not committed yet.
        if not session.in_nested_transaction():
            self.committed = True

    def roll_back(self, _: Session, transaction: SessionTransaction) -> None:
        self.pending = [call for call in self.pending if not _is_within(call.transaction, transaction)]

    def end(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is not None:
            return
        # Take them off before they run, because they may begin and commit another transaction.
        pending, committed = self.pending, self.committed
        self.pending, self.committed = [], False
        for call in pending if committed else ():
            call.run()


def _is_within(inner: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while inner is not None:
        if inner is outer:
            return True
        inner = inner.parent
    return False


def _in_context(app: Flask, call: Callable[[], object]) -> None:
    if has_app_context() and cast(Any, current_app)._get_current_object() is app:
        call()
        return
    with app.app_context():
        call()
