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
from flask_webhook_endpoints.core.attempts import Settled
from flask_webhook_endpoints.core.endpoints import Change, Changed
from flask_webhook_endpoints.core.incidents import News, Notice
from flask_webhook_endpoints.core.results import Settlement
from flask_webhook_endpoints.database.models import DeliveryStatus, PauseReason
from flask_webhook_endpoints.errors import UnknownEndpoint
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.state import current_state

_signals = Namespace()
_log = logs.logger(__name__)

endpoint_created = _signals.signal(
    "webhook-endpoint-created", "An endpoint was created: by its tenant, or by your code."
)
endpoint_updated = _signals.signal(
    "webhook-endpoint-updated", "An endpoint was changed, otherwise than by pausing or resuming it alone."
)
endpoint_paused = _signals.signal(
    "webhook-endpoint-paused",
    "An endpoint was paused: by its tenant or by your code (`reason` is user), or by us (gone, failures).",
)
endpoint_resumed = _signals.signal("webhook-endpoint-resumed", "A paused endpoint was resumed.")
endpoint_failing = _signals.signal("webhook-endpoint-failing", "The attempts of an endpoint fail; once an incident.")
endpoint_recovered = _signals.signal("webhook-endpoint-recovered", "An endpoint that failed takes deliveries again.")
endpoint_pause_pending = _signals.signal(
    "webhook-endpoint-pause-pending", "An endpoint that fails may be paused a day from now; once an incident."
)
endpoint_deleted = _signals.signal("webhook-endpoint-deleted", "An endpoint was deleted.")
delivery_succeeded = _signals.signal("webhook-delivery-succeeded", "A receiver has taken a delivery.")
delivery_failed = _signals.signal("webhook-delivery-failed", "An attempt has failed; another one will follow.")
delivery_exhausted = _signals.signal("webhook-delivery-exhausted", "The last attempt has failed.")

_OF_CHANGE = {
    Change.CREATED: endpoint_created,
    Change.UPDATED: endpoint_updated,
    Change.PAUSED: endpoint_paused,
    Change.RESUMED: endpoint_resumed,
}
_OF_NEWS = {
    News.FAILING: endpoint_failing,
    News.RECOVERED: endpoint_recovered,
    News.PAUSE_PENDING: endpoint_pause_pending,
}
_OF_STATUS = {
    DeliveryStatus.DELIVERED: delivery_succeeded,
    DeliveryStatus.PENDING: delivery_failed,
    DeliveryStatus.FAILED: delivery_exhausted,
}


def send_changed(tenant_id: str, changed: Changed) -> None:
    """Tell the host how a request, or the host's own code, changed an endpoint."""
    for change in changed.changes:
        reason = {"reason": PauseReason.USER} if change is Change.PAUSED else {}
        endpoint = changed.endpoint
        _send(_OF_CHANGE[change], tenant_id=tenant_id, endpoint_id=endpoint.id, endpoint=endpoint, **reason)


def send_deleted(tenant_id: str, endpoint_id: UUID) -> None:
    """Tell the host that an endpoint was deleted."""
    _send(endpoint_deleted, tenant_id=tenant_id, endpoint_id=format_id(endpoint_id))


def concern(settled: Settled) -> bool:
    """Return whether any function listens to what is in `settled`."""
    return (
        any(_OF_STATUS[each.status].receivers for each in settled.settlements)
        or any(_OF_NEWS[each.news].receivers for each in settled.notices)
        or bool(settled.paused and endpoint_paused.receivers)
    )


def send_settled(settled: Settled) -> None:
    """Tell the host the results of attempts, the news of endpoints, and which ones were paused."""
    for settlement in settled.settlements:
        _send_delivery(_OF_STATUS[settlement.status], settlement)
    for notice in settled.notices:
        _send_notice(notice)
    for paused in settled.paused:
        _send_of_endpoint(endpoint_paused, paused.tenant_id, paused.endpoint_id, reason=paused.reason)


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


def _send_notice(notice: Notice) -> None:
    about: dict[str, Any] = {"failing_since": notice.failing_since}
    match notice.news:
        case News.FAILING:
            about["error"] = notice.error
        case News.PAUSE_PENDING:
            about |= {"error": notice.error, "pauses_at": notice.pauses_at}
    _send_of_endpoint(_OF_NEWS[notice.news], notice.tenant_id, notice.endpoint_id, **about)


def _send_of_endpoint(signal: NamedSignal, tenant_id: str, endpoint_id: UUID, **arguments: Any) -> None:
    if not signal.receivers:
        return
    state = current_state()
    try:
        endpoint = endpoints.get(state.scope().of(tenant_id), endpoint_id, cipher=state.cipher)
    except UnknownEndpoint:
        # A request deleted it meanwhile.
        return
    _send(signal, tenant_id=tenant_id, endpoint_id=endpoint.id, endpoint=endpoint, **arguments)


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
