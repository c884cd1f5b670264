"""The secret of an endpoint: shown on demand, rotated with an overlap.

Source: Standard Webhooks 1.0.0, "Secret rotation".
"""

from typing import NamedTuple
from uuid import UUID

from flask import Response, request, url_for

from flask_webhook_endpoints import access, signals
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import endpoints, secrets, validation
from flask_webhook_endpoints.core.endpoint_row import Endpoint, Fields
from flask_webhook_endpoints.core.secrets import MAX_OVERLAP_SECONDS, StoredSecret
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import IdempotencyKeyReused, InvalidFields
from flask_webhook_endpoints.portal import forms, frame, pages, problems
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.portal.texts import gettext, moment
from flask_webhook_endpoints.security.private import Private

PAGES: list[Page] = []

OVERLAPS_SECONDS = (0, 3_600, 86_400, MAX_OVERLAP_SECONDS)
"""The overlaps that the form offers, in seconds."""


class Signing(NamedTuple):
    """The secrets that sign the deliveries to an endpoint."""

    endpoint: Endpoint
    current: StoredSecret
    previous: list[StoredSecret]


@page(PAGES, "GET", "/<ep_id>/secret")
def show_secret(ep_id: str) -> Response:
    """Show which secrets sign, and until when; the secret itself only on demand."""
    caller, endpoint_id = access.enter_one("read_secret", ep_id)
    return _render(caller, endpoint_id)


@page(PAGES, "POST", "/<ep_id>/secret")
def reveal_secret(ep_id: str) -> Response:
    """Show the secret in force, in an answer that no browser keeps."""
    caller, endpoint_id = access.enter_one("read_secret", ep_id)
    return _render(caller, endpoint_id, is_revealed=True)


@page(PAGES, "POST", "/<ep_id>/secret/rotate")
def rotate_secret(ep_id: str) -> Response:
    """Put another secret in force: the person's own, or a generated one."""
    caller, endpoint_id = access.enter_one("rotate_secret", ep_id)
    try:
        fields = validation.load_private(caller.state.new_secret, _given())
        url = forms.run_once(
            caller,
            lambda scope: _rotate(caller, scope, endpoint_id, fields),
            lambda _: url_for(".show_secret", ep_id=ep_id),
            then=lambda rotated: _tell(caller, *rotated),
        )
    except (InvalidFields, IdempotencyKeyReused) as problem:
        return _render(caller, endpoint_id, problem=problem)
    return pages.see_url(url)


def _given() -> Fields:
    """Return the fields of the form as the schema takes them."""
    overlap = request.form.get("overlap_seconds", "")
    own = request.form.get("secret", "")
    # The schema names what is wrong with other text.
    seconds = int(overlap) if overlap.isascii() and overlap.isdigit() and len(overlap) < len("1000000") else overlap
    return Private({"overlap_seconds": seconds} | ({"secret": own} if own else {}))


def _rotate(
    caller: Caller, scope: TenantScope, endpoint_id: UUID, fields: Fields
) -> tuple[secrets.SecretInForce, endpoints.Changed]:
    return endpoints.rotate_secret(scope, endpoint_id, cipher=caller.state.cipher, **dict(fields))


def _tell(caller: Caller, in_force: secrets.SecretInForce, changed: endpoints.Changed) -> None:
    signals.send_changed(caller.tenant_id, changed)
    if in_force.previous_expires_at is None:
        pages.tell(gettext("The new secret signs from now on, alone."))
    else:
        ends = moment(in_force.previous_expires_at)
        pages.tell(gettext("The new secret signs from now on. The previous one signs, too, until %(time)s.", time=ends))


def _render(
    caller: Caller,
    endpoint_id: UUID,
    *,
    is_revealed: bool = False,
    problem: InvalidFields | IdempotencyKeyReused | None = None,
) -> Response:
    found = caller.run(lambda scope: _read(caller, scope, endpoint_id), commit=False)
    return frame.render(
        "secret",
        caller,
        found.endpoint,
        status=200 if problem is None else problem.status,
        secret=True,
        current=found.current,
        previous=found.previous,
        format=secrets.format_of(found.current.secret),
        is_revealed=is_revealed,
        overlaps=OVERLAPS_SECONDS,
        overlap=request.form.get("overlap_seconds", str(secrets.DEFAULT_OVERLAP_SECONDS)),
        problem=problem,
        errors=problems.faults_of(problem),
    )


def _read(caller: Caller, scope: TenantScope, endpoint_id: UUID) -> Signing:
    cipher = caller.state.cipher
    current, *previous = secrets.all_of(scope, endpoint_id, cipher=cipher)
    return Signing(endpoints.get(scope, endpoint_id, cipher=cipher), current, previous)
