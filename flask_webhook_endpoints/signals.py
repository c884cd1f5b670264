"""The signals that tell the host about endpoints and deliveries, sent after the commit.

The sender is the Flask app. If a function connected to a signal raises, the error is logged. What the function leaves
uncommitted is rolled back. So it harms neither the answer, nor the worker, nor the functions after it.
"""

from typing import Any, cast
from uuid import UUID

from blinker import NamedSignal, Namespace
from flask import Flask, current_app

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core import endpoints
from flask_webhook_endpoints.core.attempts import Paused, Settled, Settlement
from flask_webhook_endpoints.core.endpoints import Change, Changed
from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason
from flask_webhook_endpoints.errors import UnknownEndpoint
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.state import State, current_state

_signals = Namespace()
_log = logs.logger(__name__)

endpoint_created = _signals.signal("webhook-endpoint-created", "A tenant has registered an endpoint.")
endpoint_updated = _signals.signal(
    "webhook-endpoint-updated", "A tenant has changed an endpoint, otherwise than by pausing or resuming it alone."
)
endpoint_paused = _signals.signal(
    "webhook-endpoint-paused", "An endpoint was paused: by its tenant (`reason` is user), or by us (gone, failures)."
)
endpoint_resumed = _signals.signal("webhook-endpoint-resumed", "A tenant has resumed a paused endpoint.")
endpoint_deleted = _signals.signal("webhook-endpoint-deleted", "A tenant has deleted an endpoint.")
delivery_succeeded = _signals.signal("webhook-delivery-succeeded", "A receiver has taken a delivery.")
delivery_failed = _signals.signal("webhook-delivery-failed", "An attempt has failed; another one will follow.")
delivery_exhausted = _signals.signal("webhook-delivery-exhausted", "The last attempt has failed.")

_OF_CHANGE = {
    Change.CREATED: endpoint_created,
    Change.UPDATED: endpoint_updated,
    Change.PAUSED: endpoint_paused,
    Change.RESUMED: endpoint_resumed,
}
_OF_STATUS = {
    DeliveryStatus.DELIVERED: delivery_succeeded,
    DeliveryStatus.PENDING: delivery_failed,
    DeliveryStatus.FAILED: delivery_exhausted,
}


def send_changed(tenant_id: str, changed: Changed) -> None:
    """Tell the host what a tenant did to an endpoint."""
    for change in changed.changes:
        reason = {"reason": PauseReason.USER} if change is Change.PAUSED else {}
        endpoint = changed.endpoint
        _send(_OF_CHANGE[change], tenant_id=tenant_id, endpoint_id=endpoint.id, endpoint=endpoint, **reason)


def send_deleted(tenant_id: str, endpoint_id: UUID) -> None:
    """Tell the host that a tenant has deleted an endpoint."""
    _send(endpoint_deleted, tenant_id=tenant_id, endpoint_id=format_id(endpoint_id))


def concern(settled: Settled) -> bool:
    """Return whether any function listens to the results of attempts or to the pauses in `settled`."""
    return any(_OF_STATUS[each.status].receivers for each in settled.settlements) or bool(
        settled.paused and endpoint_paused.receivers
    )


def send_settled(settled: Settled) -> None:
    """Tell the host the results of attempts, and which endpoints they paused."""
    for settlement in settled.settlements:
        _send_delivery(_OF_STATUS[settlement.status], settlement)
    for paused in settled.paused if endpoint_paused.receivers else ():
        _send_paused(current_state(), paused)


def _send_delivery(signal: NamedSignal, settlement: Settlement) -> None:
    if not signal.receivers:
        return
    delivery = settlement.delivery
    _send(
        signal,
        tenant_id=delivery.tenant_id,
        delivery_id=format_id(delivery.id, "dlv"),
        endpoint_id=format_id(delivery.endpoint_id),
        event_id=format_id(delivery.event_id, "evt"),
        attempt=delivery.attempt,
        response_status=settlement.response_status,
        error=settlement.error,
        duration_ms=settlement.duration_ms,
        next_attempt_at=settlement.next_attempt_at,
    )


def _send_paused(state: State, paused: Paused) -> None:
    try:
        endpoint = endpoints.get(state.scope().of(paused.tenant_id), paused.endpoint_id, cipher=state.cipher)
    except UnknownEndpoint:
        # A request deleted it after the pause.
        return
    about = {"tenant_id": paused.tenant_id, "endpoint_id": endpoint.id, "endpoint": endpoint}
    _send(endpoint_paused, **about, reason=paused.reason)


def _send(signal: NamedSignal, **arguments: Any) -> None:
    if not signal.receivers or signal.is_muted:
        return
    app: Flask = cast(Any, current_app)._get_current_object()
    for receiver in signal.receivers_for(app):
        try:
            app.ensure_sync(receiver)(app, **arguments)
        except Exception:
            _log.exception("webhooks.signal_failed", extra={"webhooks.signal": signal.name})
        _forget_uncommitted(signal)


def _forget_uncommitted(signal: NamedSignal) -> None:
    try:
        current_state().host.session().rollback()
    except Exception:
        _log.exception("webhooks.signal_failed", extra={"webhooks.signal": signal.name})
