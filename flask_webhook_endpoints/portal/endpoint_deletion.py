"""The page that deletes an endpoint: it tells what ends with it, and the name is typed to confirm."""

import unicodedata
from uuid import UUID

from flask import Response, request, url_for

from flask_webhook_endpoints import access, signals
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import endpoint_statistics, endpoints
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.core.endpoint_statistics import MOST_COUNTED, Backlog
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import IdempotencyKeyReused, InvalidFields, Problem, Referenced
from flask_webhook_endpoints.portal import forms, frame, pages, problems
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.texts import gettext

PAGES: list[Page] = []


@page(PAGES, "GET", "/<ep_id>/delete")
def confirm_deletion(ep_id: str) -> Response:
    """Show what ends with the endpoint, and ask for its name."""
    caller, endpoint_id = access.enter_one("delete", ep_id)
    return _render(caller, endpoint_id)


@page(PAGES, "POST", "/<ep_id>/delete")
def delete_endpoint(ep_id: str) -> Response:
    """Delete the endpoint whose name the person typed, and go to the list."""
    caller, endpoint_id = access.enter_one("delete", ep_id)
    try:
        with transactions.deleting():
            url = forms.run_once(
                caller,
                lambda scope: _delete(caller, scope, endpoint_id),
                lambda _: url_for(".list_endpoints"),
                then=lambda name: _tell(caller, endpoint_id, name),
            )
    except (InvalidFields, IdempotencyKeyReused, Referenced) as problem:
        return _render(caller, endpoint_id, problem=problem)
    return pages.see_url(url)


def _delete(caller: Caller, scope: TenantScope, endpoint_id: UUID) -> str:
    """Delete the endpoint and return its name; raise `InvalidFields` if the person typed another name."""
    name = endpoints.get(scope, endpoint_id, cipher=caller.state.cipher).name
    if _comparable(request.form.get("name", "")) != _comparable(name):
        raise InvalidFields({"name": [gettext("This is not its name. Type the name as it stands above.")]})
    endpoints.delete(scope, endpoint_id)
    return name


def _comparable(name: str) -> str:
    """Return the name as a page shows it: browsers show several spaces as one, and accents in one way."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def _tell(caller: Caller, endpoint_id: UUID, name: str) -> None:
    signals.send_deleted(caller.tenant_id, endpoint_id)
    pages.tell(gettext("%(name)s is deleted.", name=name))


def _render(caller: Caller, endpoint_id: UUID, *, problem: Problem | None = None) -> Response:
    cipher = caller.state.cipher

    def read(scope: TenantScope) -> tuple[Endpoint, Backlog]:
        return endpoints.get(scope, endpoint_id, cipher=cipher), endpoint_statistics.backlog(scope, endpoint_id)

    endpoint, backlog = caller.run(read, commit=False)
    return frame.render(
        "delete",
        caller,
        endpoint,
        status=200 if problem is None else problem.status,
        backlog=backlog,
        most_counted=MOST_COUNTED,
        typed=request.form.get("name", ""),
        problem=problem,
        errors=problems.faults_of(problem),
    )
