"""`/receiver/…`: stands for a customer's server, so that deliveries arrive somewhere while you try the webhooks.

A customer's own server has nothing of this app but the endpoint's secret: docs/receivers.md tells how to write one.
"""

import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from standardwebhooks import Webhook, WebhookVerificationError

from example_app.events import webhooks
from example_app.login import require_login
from example_app.models import db
from flask_webhook_endpoints import Problem

blueprint = Blueprint("receiver", __name__, url_prefix="/receiver")

KEPT_REQUESTS = 50
"""The number of requests that the page shows. They are kept in this process, and lost when it ends."""

_KEPT_CHARACTERS = 16_384


class Manner(NamedTuple):
    """How a receiver answers."""

    status: int
    says: str
    after_seconds: float = 0
    headers: Mapping[str, str] = MappingProxyType({})


MANNERS = {
    "works": Manner(204, "Answers 204: the delivery succeeds."),
    "fails": Manner(500, "Answers 500: the delivery is tried again later."),
    "busy": Manner(429, "Answers 429 with Retry-After: the worker waits a minute.", headers={"Retry-After": "60"}),
    "slow": Manner(204, "Answers after 5 seconds: an endpoint with a shorter timeout fails.", after_seconds=5),
    "gone": Manner(410, "Answers 410: the endpoint is paused."),
}


@dataclass(frozen=True)
class Received:
    """A request that came, and the status of the answer."""

    tenant_id: int
    manner: str
    at: datetime
    event_type: str
    headers: dict[str, str]
    body: str
    verdict: str
    """Tells whether the signature is valid."""
    status: int


_received: deque[Received] = deque(maxlen=KEPT_REQUESTS)


@blueprint.get("")
def show_received() -> ResponseReturnValue:
    """Show the addresses of the tenant's receivers, and the last requests that came to them."""
    return require_login() or render_template(
        "receiver.html",
        manners=MANNERS,
        received=[each for each in reversed(list(_received)) if each.tenant_id == current_user.tenant_id],
    )


@blueprint.post("/<manner>/endpoint")
def add_endpoint(manner: str) -> ResponseReturnValue:
    """Add an endpoint for a receiver, and go to its page in the portal."""
    if (refusal := require_login()) is not None:
        return refusal
    tenant_id = current_user.tenant_id
    url = url_for(".receive", tenant_id=tenant_id, manner=_known(manner), _external=True)
    try:
        endpoint = webhooks.endpoints.create(tenant_id=tenant_id, name=f"Receiver: {manner}", url=url)
    except Problem as problem:
        flash(f"No endpoint was added. {problem.detail}", "error")
        return redirect(url_for(".show_received"), 303)
    db.session.commit()
    flash(f"{endpoint.name} gets the events of your invoices from now on.")
    return redirect(url_for("webhook_portal.show_endpoint", ep_id=endpoint.id), 303)


@blueprint.post("/<int(max=2147483647):tenant_id>/<manner>")
def receive(tenant_id: int, manner: str) -> Response:
    """Receive a delivery, verify its signature, and answer as the receiver of this name does."""
    answer = MANNERS[_known(manner)]
    body = request.get_data()
    event = _decoded(body)
    _received.append(
        Received(
            tenant_id=tenant_id,
            manner=manner,
            at=datetime.now(UTC),
            event_type=str(event.get("type")) if isinstance(event, dict) else "no event",
            headers=dict(request.headers),
            body=(json.dumps(event, indent=2) if event else body.decode(errors="replace"))[:_KEPT_CHARACTERS],
            verdict=_verdict(tenant_id, body),
            status=answer.status,
        )
    )
    # Hold no transaction meanwhile.
    db.session.rollback()
    time.sleep(answer.after_seconds)
    return Response(status=answer.status, headers=answer.headers)


def _known(manner: str) -> str:
    if manner not in MANNERS:
        abort(404, f"Choose one of: {', '.join(MANNERS)}.")
    return manner


def _verdict(tenant_id: int, body: bytes) -> str:
    """Return whether an endpoint with this URL has signed the request."""
    for endpoint in webhooks.endpoints.list(tenant_id=tenant_id):
        if endpoint.url == request.url:
            secret = webhooks.endpoints.secret(endpoint.id, tenant_id=tenant_id).secret.reveal()
            # A secret signs by what it encodes, or by its own characters: its `format` says which.
            if _is_signed(body, secret) or _is_signed(body, secret.encode()):
                return f"Valid: signed by {endpoint.name}"
    return "Not valid: not signed by an endpoint with this URL"


def _is_signed(body: bytes, key: str | bytes) -> bool:
    try:
        Webhook(key).verify(body, dict(request.headers), json_parse=False)
    except (WebhookVerificationError, ValueError):  # ValueError: a header is garbled, or the key is not base64
        return False
    return True


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
