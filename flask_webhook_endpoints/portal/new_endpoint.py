"""The page that creates an endpoint."""

from typing import Any

from flask import Response, request, url_for

from flask_webhook_endpoints import access, signals
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import endpoint_lists, endpoints
from flask_webhook_endpoints.core.endpoints import Changed
from flask_webhook_endpoints.errors import IdempotencyKeyReused, InvalidFields, Problem, QuotaExceeded
from flask_webhook_endpoints.portal import endpoint_form, event_groups, form_faults, form_labels, forms, pages
from flask_webhook_endpoints.portal.endpoint_form import EndpointForm
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.texts import gettext
from flask_webhook_endpoints.security.private import Private

PAGES: list[Page] = []


@page(PAGES, "GET", "/new")
def new_endpoint() -> Response:
    """Show the form of a new endpoint, or that the tenant has as many as it may have."""
    caller = access.enter("create")
    number, quota = caller.run(endpoint_lists.count, commit=False), caller.state.settings.max_endpoints_per_tenant
    if number >= quota:
        return pages.render("quota_reached", quota=quota)
    return _render(caller, endpoint_form.blank(caller.state.settings))


@page(PAGES, "POST", "/new")
def create_endpoint() -> Response:
    """Create an endpoint, and go to its page."""
    caller = access.enter("create")
    form = endpoint_form.read(endpoint_form.blank(caller.state.settings))
    if endpoint_form.adds_row():
        return _render(caller, form)
    cipher, quota = caller.state.cipher, caller.state.settings.max_endpoints_per_tenant
    try:
        fields = _load(caller, form)
        url = forms.run_once(
            caller,
            lambda scope: endpoints.create(scope, fields, cipher=cipher, quota=quota),
            lambda changed: _location(caller, changed.endpoint.id),
            then=lambda changed: _tell(caller, changed),
        )
    except (InvalidFields, QuotaExceeded, IdempotencyKeyReused) as problem:
        return _render(caller, form, problem=problem)
    return pages.see_url(url)


def _load(caller: Caller, form: EndpointForm) -> Private[Any]:
    state = caller.state
    fields = form.fields()
    if request.form.get("secret"):
        fields = Private(fields, secret=request.form["secret"])
    return form_faults.load(state.new_endpoint, form, fields, row_schema=state.endpoint_changes)


def _location(caller: Caller, ep_id: str) -> str:
    if pages.shows(caller, "read", ep_id):
        return url_for(".show_endpoint", ep_id=ep_id)
    return url_for(".list_endpoints", _anchor=ep_id)


def _tell(caller: Caller, changed: Changed) -> None:
    signals.send_changed(caller.tenant_id, changed)
    name = changed.endpoint.name
    if pages.shows(caller, "read_secret", changed.endpoint.id):
        pages.tell(
            gettext(
                "%(name)s is created. Give its secret to your server: you find it under “Secret”, and your server"
                " verifies deliveries with it.",
                name=name,
            )
        )
    else:
        pages.tell(gettext("%(name)s is created.", name=name))


def _render(caller: Caller, form: EndpointForm, *, problem: Problem | None = None) -> Response:
    state = caller.state
    form = endpoint_form.with_rows(form)
    errors = form_faults.by_part(problem)
    return pages.render(
        "new_endpoint",
        status=200 if problem is None else problem.status,
        # Values of headers that were typed are part of the page.
        secret=request.method == "POST",
        form=form,
        groups=event_groups.offered(state.host.declared, form.event_types),
        declared=bool(state.host.declared),
        max_timeout=state.settings.max_timeout_seconds,
        problem=problem,
        errors=errors,
        labels=form_labels.of(form),
        types_secret_again=bool(request.form.get("secret")),
    )
