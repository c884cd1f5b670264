"""`WebhookEndpoints`: it takes the host's session and callables, and gives the blueprint and `publish`."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any, cast

from flask import Blueprint, Flask, current_app
from flask.blueprints import BlueprintSetupState
from flask.json.provider import DefaultJSONProvider, JSONProvider
from flask.sansio.app import App
from sqlalchemy import MetaData
from sqlalchemy.orm import Session

from flask_webhook_endpoints import settings, telemetry
from flask_webhook_endpoints.api import openapi_merge, routes
from flask_webhook_endpoints.api.openapi import cached_document
from flask_webhook_endpoints.cli import commands
from flask_webhook_endpoints.core import batches, events, numbers, tenants
from flask_webhook_endpoints.core.batches import NewEvent
from flask_webhook_endpoints.core.declarations import DeclaredEvent
from flask_webhook_endpoints.core.event_schemas import Declared
from flask_webhook_endpoints.core.events import Event
from flask_webhook_endpoints.core.numbers import NUMBERS
from flask_webhook_endpoints.core.tenants import Erased
from flask_webhook_endpoints.core.wakeups import Wakeups
from flask_webhook_endpoints.database import tables
from flask_webhook_endpoints.errors import RegistrationError
from flask_webhook_endpoints.host import transaction, uncommitted
from flask_webhook_endpoints.host.deliveries import Deliveries
from flask_webhook_endpoints.host.endpoints import Endpoints
from flask_webhook_endpoints.identifiers import TenantId
from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.security.encryption import Cipher
from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.state import (
    EXTENSION,
    Authorize,
    Host,
    Registered,
    State,
    numbers_of,
    seconds_since_celery,
)


class WebhookEndpoints:
    """Webhook endpoints in a host's database and behind its login.

    Make one for all applications, register its `blueprint` on each:

        webhooks = WebhookEndpoints(session=db.session, tenant=current_tenant, metadata=db.metadata)
        app.register_blueprint(webhooks.blueprint)
    """

    blueprint: Blueprint
    """Serves `/v1/endpoints` and `flask webhooks …`; takes whatever a blueprint takes."""

    endpoints: Endpoints
    """The endpoints of a tenant, for the host's own code: create, get, list, update, delete, rotate secrets."""

    deliveries: Deliveries
    """The deliveries of a tenant, for the host's own code: list, get, redeliver, recover."""

    def __init__(
        self,
        *,
        session: Callable[[], Session],
        tenant: Callable[[], TenantId | None],
        metadata: MetaData | None = None,
        authorize: Authorize | None = None,
        openapi: Mapping[str, Any] | None = None,
    ) -> None:
        """Take what the host gives; nothing is read or written before a request.

        Args:
            session: Returns the host's SQLAlchemy session, as Flask-SQLAlchemy's `db.session` does: the same one
                throughout a request, which the host closes at its end. Our views commit it.
            tenant: Returns whose endpoints the request is about, as int, UUID or str of at most 255 characters; None is
                answered 401. What it raises, `abort(...)` included, is answered by the host.
            metadata: The host's MetaData, which our tables join; without it, list `flask_webhook_endpoints.metadata`
                beside yours or run `flask webhooks db upgrade`.
            authorize: Decides whether the request may do an action to an endpoint; False is answered 403.
            openapi: Members of the OpenAPI document that you add to ours, such as `components` with your
                `securitySchemes`, `security`, `info`, `servers` and `tags`. Objects are merged member by member, tags
                by name; anything else replaces ours.

        Raises:
            RegistrationError: An argument is not what is expected, or `metadata` has a table with one of our names.

        """
        _check_arguments(session, tenant, metadata, authorize)
        joined = tables.DEFAULT_TABLES if metadata is None else tables.join_metadata(metadata)
        self._host = Host(
            session=session, tenant=tenant, authorize=authorize, tables=joined, openapi=openapi_merge.checked(openapi)
        )
        self.endpoints = Endpoints(self._host)
        self.deliveries = Deliveries(self._host)
        self.blueprint = Blueprint(EXTENSION, __name__, cli_group="webhooks")
        routes.add_routes(self.blueprint)
        commands.add_commands(self.blueprint)
        self.blueprint.record(self._register)

    @cached_property
    def portal(self) -> Blueprint:
        """Pages for a tenant's people: register it under a URL prefix, such as `/settings/webhooks`.

        It needs no `blueprint` beside it. The same `tenant` and `authorize` decide who sees and may do what.
        """
        from flask_webhook_endpoints.portal import blueprint  # noqa: PLC0415 - hosts of the API alone load no page

        made = blueprint.make()
        made.record(self._register)
        return made

    def event_type(
        self,
        name: str,
        *,
        description: str | None = None,
        schema: Declared | None = None,
        example: Any = None,
        deprecated: bool = False,
    ) -> DeclaredEvent:
        """Declare an event that the host publishes, at import: `webhooks.event_type("invoice.paid", …)`.

        Once an event is declared, `publish` refuses events that are not, or whose data breaks their schema, and the API
        refuses endpoints that choose other events. Without any, nothing is checked.

        Args:
            name: The type that `publish` gets.
            description: A sentence for the tenant's developers.
            schema: A marshmallow schema, by which the data could be dumped, or a JSON Schema 2020-12 as a dict.
            example: Data as it is sent: plain JSON that keeps to the schema.
            deprecated: True if new endpoints had better choose another event. The event works as before.

        Returns:
            The event as the API shows it.

        Raises:
            InvalidDeclaration: An argument breaks a rule, the event is declared already, or an app has been used.

        """
        return self._host.declared.declare(
            name, description=description, schema=schema, example=example, deprecated=deprecated
        )

    def publish(
        self, event_type: str, data: Any, *, tenant_id: TenantId, idempotency_key: str | None = None
    ) -> Event | None:
        """Publish an event in the session's transaction: delivered if, and only if, the host commits.

        Args:
            event_type: A name such as `invoice.paid`, of 128 characters at most.
            data: The `data` of the body: anything that the app's JSON provider encodes.
            tenant_id: The tenant whose endpoints receive the event, as the `tenant` callable returns it.
            idempotency_key: A second call with the same key and type returns the first event and writes nothing, even
                if no endpoint wants the event any longer.

        Returns:
            The event, or None if no endpoint of the tenant wants it; then nothing is written.

        Raises:
            InvalidEvent: The type, the key or the data breaks a rule, an event of another type has the key, or the
                body is over `MAX_BODY_BYTES`. Where events are declared: the type is not declared, or the data, as it
                is sent, breaks its schema.
            RegistrationError: The blueprint is not registered on the current app, `session` returns another session at
                each call, or the engine is in AUTOCOMMIT.

        """
        state, scope = transaction.enter(self._host, tenant_id)
        event = events.publish(
            scope,
            event_type,
            data,
            max_body_bytes=state.settings.max_body_bytes,
            delay_seconds=state.settings.retry_schedule[0],
            encode=_encoder(current_app.json),
            check=self._host.declared.checker(state.settings.check_events),
            idempotency_key=idempotency_key,
        )
        # An earlier event that had the same key needs no commit.
        if event is not None and event.created_at >= scope.now:
            uncommitted.note(scope.session)
        return event

    def publish_many(self, new_events: Iterable[NewEvent]) -> list[Event | None]:
        """Publish some thousand events, of one tenant or several, as `publish` publishes one, but much faster.

        The number of statements is the same for one event and for thousands, up to 5,000 events or 8 MiB of bodies;
        each further part of that size takes the same number again. The events are delivered if, and only if, the host
        commits. Their times are a microsecond apart, so that they keep their order.

        Args:
            new_events: The events. All are read and checked before anything is written.

        Returns:
            What `publish` would return for each event, in the same order. For the second event with a key, that is
            the first one, in the same call, too.

        Raises:
            InvalidEvent: An event breaks a rule of `publish`; the message begins with its index, such as `events[7]`.
            TypeError: One is not a `NewEvent`, or its tenant is neither int, UUID nor str; with its index, too.
            ValueError: The text of one's tenant breaks a rule; with its index, too.
            RegistrationError: As with `publish`.

        """
        # Read them before the transaction is looked at, because a generator of the host's may change the session.
        listed = list(new_events)
        state, scope = transaction.begin(self._host)
        published = batches.publish_many(
            scope,
            listed,
            max_body_bytes=state.settings.max_body_bytes,
            delay_seconds=state.settings.retry_schedule[0],
            encode=_encoder(current_app.json),
            check=self._host.declared.checker(state.settings.check_events),
        )
        # Earlier events that had the same keys need no commit.
        if any(event is not None and event.created_at >= scope.now for event in published):
            uncommitted.note(scope.session)
        return published

    def forget_tenant(self, tenant_id: TenantId) -> Erased:
        """Delete everything of a tenant in the session's transaction: gone if, and only if, the host commits.

        That is endpoints with their secrets, events, deliveries with their attempts, and idempotency keys. Deliveries
        in flight may still arrive. Commit at once, because a worker with such a delivery waits for the commit. For a
        tenant with very many events, `flask webhooks forget-tenant` works in short transactions. It is the way on
        MariaDB and MySQL beside a host that publishes: there, this call also locks the gaps beside the tenant's rows,
        and publishes of other tenants may end in a deadlock.

        Args:
            tenant_id: The tenant, as the `tenant` callable returns it.

        Returns:
            The numbers of endpoints, events and deliveries that were deleted.

        Raises:
            RegistrationError: As with `publish`.

        """
        _, scope = transaction.enter(self._host, tenant_id)
        return tenants.forget_tenant(scope)

    def observe(self, app: Flask) -> None:
        """Report the numbers of `flask webhooks status` as OpenTelemetry's gauges `webhooks.…`, from this process.

        Call it once, in the process that your metrics are collected from, after OpenTelemetry's SDK is set up. The
        numbers are those of the whole system, so one process is enough. They are read when they are collected.
        """
        telemetry.observe(NUMBERS, partial(numbers_of, app), numbers.samples)

    def _register(self, setup: BlueprintSetupState) -> None:
        app = setup.app
        known: Registered | State | None = app.extensions.get(EXTENSION)
        if known is None:
            # Read the settings at once, so that a wrong one stops the app's start. The app may still change them.
            settings.encryption_keys(app.config)
            app.extensions[EXTENSION] = Registered(host=self._host, make=partial(_state, self._host, app))
        elif known.host is not self._host:
            raise RegistrationError("This app has the blueprint of another WebhookEndpoints; one serves all of it.")


def _encoder(provider: JSONProvider) -> events.Encode:
    """Return a function that encodes data as the app does, but compactly."""
    if isinstance(provider, DefaultJSONProvider) and getattr(provider.dumps, "__func__", None) is _FLASKS_OWN:
        return partial(events.compact_json, default=provider.default)
    return lambda data: events.compacted(provider.dumps(data))


_FLASKS_OWN = DefaultJSONProvider.dumps


def _check_arguments(session: object, tenant: object, metadata: object, authorize: object) -> None:
    """Check the arguments now, because the first request would end in a TypeError that names none of them."""
    _check("session", session, "a callable such as db.session", fits=callable(session))
    _check("tenant", tenant, "a callable that says who is asking", fits=callable(tenant))
    _check("metadata", metadata, "a MetaData such as db.metadata", fits=isinstance(metadata, MetaData | None))
    _check("authorize", authorize, "a callable or None", fits=authorize is None or callable(authorize))


def _check(name: str, given: object, expected: str, *, fits: bool) -> None:
    if not fits:
        raise RegistrationError(f"{name} must be {expected}, not {type(given).__name__}.")


def _state(host: Host, app: App) -> State:
    host.declared.close()
    given = Settings.from_config(app.config)
    policy = EgressPolicy.of(
        require_https=given.require_https,
        allowed_networks=given.allowed_networks,
        blocked_networks=given.blocked_networks,
        allowed_ports=given.allowed_ports,
    )
    schemas = routes.schemas(given, policy, host.declared)
    return State(
        host=host,
        settings=given,
        cipher=Cipher(settings.encryption_keys(app.config)),
        policy=policy,
        wakeups=Wakeups(app.extensions, partial(seconds_since_celery, cast(Flask, app))),
        **schemas,
        openapi=cached_document(routes.ROUTES, list(schemas.values()), events=host.declared, added=host.openapi),
    )
