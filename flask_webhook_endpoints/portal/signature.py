"""The page where a person pastes a request that a receiver got, and reads which secret signed it."""

from http import HTTPStatus
from uuid import UUID

from flask import Response

from flask_webhook_endpoints import access
from flask_webhook_endpoints.access import Caller
from flask_webhook_endpoints.core import endpoints, signature_checks
from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.portal import forms, frame, pages, verdicts
from flask_webhook_endpoints.portal.pages import Page, page
from flask_webhook_endpoints.security.private import Private
from flask_webhook_endpoints.security.signature_check import Diagnosis

PAGES: list[Page] = []


@page(PAGES, "GET", "/<ep_id>/secret/check")
def show_signature_check(ep_id: str) -> Response:
    """Show the form of the check."""
    caller, endpoint_id = access.enter_one("read_secret", ep_id)
    endpoint = caller.run(lambda scope: endpoints.get(scope, endpoint_id, cipher=caller.state.cipher), commit=False)
    return _render(caller, endpoint)


@page(PAGES, "POST", "/<ep_id>/secret/check")
def check_signature(ep_id: str) -> Response:
    """Check what was pasted, and show the result above it."""
    caller, endpoint_id = access.enter_one("read_secret", ep_id)
    cipher = caller.state.cipher
    # Error trackers send the variables of each frame: a pasted request may have credentials.
    pasted = Private(headers=forms.typed("headers"), body=_body())

    def may_read(other_id: UUID) -> bool:
        return pages.reads(caller, "read_secret", format_id(other_id))

    def check(scope: TenantScope) -> tuple[Endpoint, Diagnosis]:
        endpoint = endpoints.get(scope, endpoint_id, cipher=cipher)
        texts = pasted["headers"], pasted["body"]
        return endpoint, signature_checks.check(scope, endpoint_id, *texts, may_read=may_read, cipher=cipher)

    endpoint, diagnosis = caller.run(check, commit=False)
    return _render(caller, endpoint, diagnosis)


def _body() -> str:
    # Browsers send each line end of a field as CRLF; what we send has none.
    return forms.typed("body").replace("\r\n", "\n").removesuffix("\n")


def _render(caller: Caller, endpoint: Endpoint, diagnosis: Diagnosis | None = None) -> Response:
    return frame.render(
        "signature",
        caller,
        endpoint,
        status=HTTPStatus.OK,
        secret=True,
        answer=None if diagnosis is None else verdicts.answer(diagnosis),
    )
