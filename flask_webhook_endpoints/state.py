"""The state of one application: the arguments of its host, and the objects made from them."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from flask import Flask, current_app
from marshmallow import Schema
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flask_webhook_endpoints.core import heartbeats, numbers
from flask_webhook_endpoints.core.declarations import Declarations
from flask_webhook_endpoints.core.wakeups import Wakeups
from flask_webhook_endpoints.database import sessions, transactions
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import DatabaseUnavailable, InvalidSetting, RegistrationError
from flask_webhook_endpoints.identifiers import TenantId
from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.security.encryption import Cipher
from flask_webhook_endpoints.settings import PREFIX, Settings, encryption_keys

T = TypeVar("T")

EXTENSION = "webhook_endpoints"
"""The key in `app.extensions`."""

Action = Literal[
    "list",
    "create",
    "read",
    "update",
    "delete",
    "read_headers",
    "read_secret",
    "rotate_secret",
    "list_deliveries",
    "read_delivery",
    "redeliver",
    "recover",
    "ping",
    "ping_event",
    "list_event_types",
    "read_stats",
]
"""The action of a request, which `authorize` allows or not."""


class Authorize(Protocol):
    """Decides whether the caller may do `action`; `endpoint_id` is `ep_…`, or None where the path names no endpoint."""

    def __call__(self, action: Action, endpoint_id: str | None, /) -> bool:
        """Return True to allow the action, False to have it answered 403; a coroutine function may do so, too."""
        ...


def utc_now() -> datetime:
    """Return the time, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Host:
    """The arguments of the host, for all of its applications."""

    session: Callable[[], Session]
    tenant: Callable[[], TenantId | None]
    authorize: Authorize | None
    tables: Tables
    declared: Declarations = field(default_factory=Declarations)
    """The events that the host has declared."""
    openapi: Mapping[str, Any] = field(default_factory=dict)
    """Members that the host adds to the OpenAPI document."""

    def shared_session(self) -> Session:
        """Return the session that the host's own code writes in, and commits; raise `RegistrationError` if none is."""
        session = self.session()
        if self.session() is not session:
            raise RegistrationError(
                "session must return the same session throughout a request or an app context, or what is written in it"
                " is never committed: pass db.session or a scoped_session, not a sessionmaker."
            )
        return session

    def scope(self, session: Session, *, now: datetime, wake: Callable[[Session], None], writes: bool = True) -> Scope:
        """Return the transaction of a session as core sees it."""
        return Scope(session=session, tables=self.tables, writes=writes, now=now, wake=wake)


@dataclass(frozen=True, kw_only=True)
class State:
    """The objects of one application."""

    host: Host
    settings: Settings
    cipher: Cipher
    policy: EgressPolicy
    wakeups: Wakeups
    new_endpoint: Schema
    endpoint_changes: Schema
    new_secret: Schema
    ping_input: Schema
    delivery_query: Schema
    recovery_input: Schema
    openapi: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    """Returns the OpenAPI document of the API that is mounted at these servers."""
    now: Callable[[], datetime] = utc_now
    """The clock; tests move it."""

    def scope(self, *, writes: bool = True) -> Scope:
        """Return the host's session, and its transaction as core sees it at this moment."""
        return self.host.scope(self.host.session(), now=self.now(), wake=self.wakeups.at_commit, writes=writes)

    def run(self, operation: Callable[[Scope], T], *, commit: bool) -> T:
        """Run an operation across all tenants, in the host's session as it is."""
        return transactions.run(self.scope, operation, commit=commit)

    def run_apart(self, operation: Callable[[Scope], T], *, first: Callable[[Scope], object] | None = None) -> T:
        """Run an operation of a worker or an operator in a transaction of its own, after `first`, and commit."""
        # The host's hooks may have read in this context; that must not become a part of this transaction.
        self.host.session().rollback()

        def begin_and_operate(scope: Scope) -> T:
            scope.hold_no_gaps()
            if first is not None:
                first(scope)
            return operation(scope)

        return self.run(begin_and_operate, commit=True)

    def look(self, operation: Callable[[Scope], T]) -> T:
        """Run an operation that locks and writes nothing, in a transaction that ends when the session is closed.

        It costs the database half as many statements as `run_apart`: no isolation is set, and nothing is committed.
        """
        self.host.session().rollback()
        return self.run(operation, commit=False)

    def in_batches(
        self, operation: Callable[..., T | None], *, cursor: Callable[[T], Any] | None = None
    ) -> Iterator[T]:
        """Run an operation again and again, each time in a transaction of its own, and yield its results.

        The operation does `transactions.BATCH` rows at most. It returns None or 0 when no rows are left, which ends it.
        With `cursor`, the next batch begins after the row that `cursor` returns, which the operation takes as `after`.
        """
        while batch := self.run_apart(operation):
            yield batch
            if cursor is not None:
                operation = partial(operation, after=cursor(batch))


@dataclass(frozen=True, kw_only=True)
class Registered:
    """An application that has the blueprint, and has not used its settings yet."""

    host: Host
    make: Callable[[], State]
    """Makes the state from the settings as they are now."""
    now: Callable[[], datetime] = utc_now


_making = threading.Lock()


def state_of(app: Flask) -> State:
    """Return the state of an application, made at its first use; raise `RegistrationError` if there is no blueprint."""
    found: Registered | State | None = app.extensions.get(EXTENSION)
    if isinstance(found, State):
        return found
    with _making:
        found = app.extensions.get(EXTENSION)
        if found is None:
            raise RegistrationError(f"The app {app.name!r} has no webhook endpoints: register the blueprint on it.")
        if isinstance(found, Registered):
            found = app.extensions[EXTENSION] = replace(found.make(), now=found.now)
        return found


def current_state() -> State:
    """Return the state of the current application; raise `RegistrationError` where it has none of ours."""
    return state_of(current_app)


def seconds_since_celery(app: Flask) -> float | None:
    """Return how long ago a Celery process was seen, from a thread without context; None: never."""
    state = state_of(app)
    with app.app_context(), closing(state.host.session()) as session:
        bind = session.get_bind(clause=state.host.tables.bind_of_writes)
        if isinstance(bind, Connection) or sessions.shares_connections(bind.engine):
            # This thread would share a connection with others, or sees another database in memory than they do.
            return 0.0
        seen_at = state.run(partial(heartbeats.last_seen, engine="celery"), commit=False)
        return None if seen_at is None else (state.now() - seen_at).total_seconds()


def numbers_of(app: Flask) -> Mapping[str, Any] | None:
    """Return the numbers of an application for its operator; None while the database does not answer."""
    state = state_of(app)
    with app.app_context(), closing(state.host.session()):
        try:
            return state.run(partial(numbers.gather, settings=state.settings), commit=False)
        except (DatabaseUnavailable, SQLAlchemyError):
            return None


def set_clock(app: Flask, now: Callable[[], datetime]) -> Callable[[], datetime]:
    """Give an application another clock, for its tests; return the clock that it had."""
    known: Registered | State = app.extensions[EXTENSION]
    app.extensions[EXTENSION] = replace(known, now=now)
    return known.now


def check_settings(app: Flask) -> None:
    """Raise `InvalidSetting` if a setting was changed after its first use, so that it has no effect."""
    state = app.extensions.get(EXTENSION)
    if not isinstance(state, State):
        return
    used, given = (vars(settings) for settings in (state.settings, Settings.from_config(app.config)))
    changed = [f"{PREFIX}{name.upper()}" for name in used if used[name] != given[name]]
    if not changed and not state.cipher.has_keys(encryption_keys(app.config)):
        changed = ["SECRET_KEY or SECRET_KEY_FALLBACKS"]
    if changed:
        raise InvalidSetting(changed[0], "was changed after the app had used its settings: change it before.")
