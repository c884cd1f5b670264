"""The settings of an endpoint: read by those who may not change them, changed by those who may."""

from typing import Any
from uuid import UUID

from flask import Response, request, url_for

from flask_webhook_endpoints import access, signals
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import endpoints
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.core.endpoints import Changed, Versions
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import IdempotencyKeyReused, InvalidFields, Problem, StaleEndpoint
from flask_webhook_endpoints.portal import (
    edit_conflicts,
    endpoint_form,
    event_groups,
    form_faults,
    form_labels,
    forms,
    frame,
    pages,
)
from flask_webhook_endpoints.portal.endpoint_form import EndpointForm
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.texts import gettext

PAGES: list[Page] = []


@page(PAGES, "GET", "/<ep_id>/settings")
def show_settings(ep_id: str) -> Response:
    """Show the settings as a form to those who may change them, and as text to others."""
    caller, endpoint_id = access.enter_one("read", ep_id)
    endpoint = _read(caller, endpoint_id)
    return _render(caller, endpoint, endpoint_form.of(endpoint))


@page(PAGES, "POST", "/<ep_id>/settings")
def save_settings(ep_id: str) -> Response:
    """Save the fields that the person has changed, unless somebody else saved other values meanwhile."""
    caller, endpoint_id = access.enter_one("update", ep_id)
    endpoint, version = _read(caller, endpoint_id), endpoint_form.sent_version()
    form = _form(endpoint, version)
    if endpoint_form.adds_row():
        return _render(caller, endpoint, form, keeps_version=True)
    try:
        url = forms.run_once(
            caller,
            lambda scope: _save(caller, scope, endpoint_id, form, endpoint, is_stale=endpoint.version != version),
            lambda _: url_for(".show_settings", ep_id=ep_id),
            then=lambda changed: _tell(caller, changed),
        )
    except StaleEndpoint:
        return _render_conflicts(caller, endpoint_id)
    except InvalidFields as problem:
        return _render(caller, endpoint, form, problem=problem)
    except IdempotencyKeyReused as problem:
        return _render(caller, endpoint, form, problem=problem, keeps_version=True)
    return pages.see_url(url)


def _read(caller: Caller, endpoint_id: UUID) -> Endpoint:
    cipher = caller.state.cipher
    return caller.run(lambda scope: endpoints.get(scope, endpoint_id, cipher=cipher), commit=False)


def _form(endpoint: Endpoint, version: int) -> EndpointForm:
    return endpoint_form.read(endpoint_form.of(endpoint), is_stale=endpoint.version != version)


def _save(
    caller: Caller, scope: TenantScope, endpoint_id: UUID, form: EndpointForm, endpoint: Endpoint, *, is_stale: bool
) -> Changed:
    """Write what differs from `endpoint`, if it is still saved like that; raise `StaleEndpoint`, `InvalidFields`."""
    state = caller.state
    # A version that differs in nothing that the form shows is no conflict: a pause, for example.
    if is_stale and edit_conflicts.between(form, endpoint, state.cipher):
        raise StaleEndpoint
    schema = state.endpoint_changes
    fields = form_faults.load(
        schema, form, edit_conflicts.changed(form, endpoint), row_schema=schema, kept=endpoint.event_types or ()
    )
    versions = Versions(frozenset({endpoint.version}))
    # No page shows the values of headers, so that each one that a person left as it was is kept.
    return endpoints.update(scope, endpoint_id, fields, cipher=state.cipher, versions=versions, keeps_hidden=True)


def _tell(caller: Caller, changed: Changed) -> None:
    signals.send_changed(caller.tenant_id, changed)
    pages.tell(gettext("The settings of %(name)s are saved.", name=changed.endpoint.name))


def _render_conflicts(caller: Caller, endpoint_id: UUID) -> Response:
    """Show the person's values beside those that somebody else saved, and offer to save the person's own."""
    endpoint = _read(caller, endpoint_id)
    form = _form(endpoint, endpoint_form.sent_version())
    conflicts = edit_conflicts.between(form, endpoint, caller.state.cipher)
    form = edit_conflicts.with_saved(form, endpoint, conflicts)
    return _render(caller, endpoint, form, conflicts=conflicts, is_stale=True)


def _render(
    caller: Caller,
    endpoint: Endpoint,
    form: EndpointForm,
    *,
    problem: Problem | None = None,
    is_stale: bool = False,
    keeps_version: bool = False,
    **values: Any,
) -> Response:
    """Show the form. With `keeps_version`, it still tells which version the person saw."""
    state = caller.state
    form = endpoint_form.with_rows(form)
    status = 409 if is_stale else 200 if problem is None else problem.status
    return frame.render(
        "settings",
        caller,
        endpoint,
        status=status,
        # Values of headers that were typed are part of the page.
        secret=request.method == "POST",
        form=form,
        version=request.form["version"] if keeps_version else endpoint.version,
        was=request.form.get("was", "") if keeps_version else edit_conflicts.shown(endpoint, state.cipher),
        groups=event_groups.offered(state.host.declared, form.event_types),
        declared=bool(state.host.declared),
        max_timeout=state.settings.max_timeout_seconds,
        problem=problem,
        errors=form_faults.by_part(problem),
        labels=form_labels.of(form),
        is_stale=is_stale,
        **values,
    )
