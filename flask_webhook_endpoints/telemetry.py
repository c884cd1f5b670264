"""Metrics and traces through OpenTelemetry's API, where that is installed; else nothing, at no cost.

Source: OpenTelemetry semantic conventions, "HTTP client" and "Messaging client metrics"; W3C Trace Context. The hosts
and URLs of tenants are left out: metrics would have one series for each, and URLs may hold credentials.
"""
# What INSTALLED says is bound.
# pyright: reportPossiblyUnboundVariable=false

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from flask_webhook_endpoints.identifiers import format_id

if TYPE_CHECKING:
    from flask_webhook_endpoints.core.attempts import Settlement
    from flask_webhook_endpoints.core.leases import Claimed

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError:
    INSTALLED = False
else:
    INSTALLED = True

_NAME = "flask_webhook_endpoints"
# The boundaries that the conventions give.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class Observer(Protocol):
    """Watches the attempts of an engine."""

    def attempt(self, delivery: "Claimed") -> AbstractContextManager[Any]:
        """Watch one attempt, as part of the trace that its event came from."""
        ...

    def settled(self, settlement: "Settlement") -> None:
        """Note what came of it, within `attempt`."""
        ...


def trace_headers() -> Mapping[str, str]:
    """Return the W3C headers of the trace that is active; none where none is."""
    headers: dict[str, str] = {}
    if INSTALLED and context.get_current():
        TraceContextTextMapPropagator().inject(headers)
    return headers


def observer() -> Observer:
    """Return what watches the attempts of an engine, by what the host has set up so far."""
    if not INSTALLED:
        return _Blind()
    tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    if _is_of_the_api(tracers) and _is_of_the_api(meters):
        return _PassingOn()
    return _Recording(tracers, meters)


class _Blind:
    def attempt(self, delivery: "Claimed") -> AbstractContextManager[None]:
        return nullcontext()

    def settled(self, settlement: "Settlement") -> None:
        return


class _PassingOn(_Blind):
    """Where the API is alone, without the SDK: nothing to record, but a publisher's trace goes on to the receiver."""

    def attempt(self, delivery: "Claimed") -> AbstractContextManager[Any]:
        if not (delivery.traceparent or context.get_current()):
            return nullcontext()
        # Spans of the API itself do not go on with their parent's trace in each of its versions.
        return trace.use_span(trace.get_current_span(_trace_of(delivery)))


class _Recording:
    def __init__(self, tracers: "trace.TracerProvider", meters: "metrics.MeterProvider") -> None:
        self._tracer = tracers.get_tracer(_NAME)
        meter = meters.get_meter(_NAME)
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            unit="{message}",
            description="Number of messages producer attempted to send to the broker.",
        )

    def attempt(self, delivery: "Claimed") -> AbstractContextManager[Any]:
        method = {"http.request.method": "POST"}
        span = self._tracer.start_span("POST", context=_trace_of(delivery), kind=SpanKind.CLIENT, attributes=method)
        if span.is_recording():
            span.set_attributes(_of_delivery(delivery))
        return trace.use_span(span, end_on_exit=True)

    def settled(self, settlement: "Settlement") -> None:
        failure = settlement.error or (str(settlement.response_status) if _failed(settlement) else None)
        outcome: dict[str, Any] = {} if failure is None else {"error.type": failure}
        request: dict[str, Any] = {"http.request.method": "POST", **outcome}
        span = trace.get_current_span()
        if settlement.response_status is not None:
            request["http.response.status_code"] = settlement.response_status
        if span.is_recording():
            span.set_attributes({**request, "webhooks.status": settlement.status.value})
            if failure is not None:
                span.set_status(Status(StatusCode.ERROR))
        self._duration.record(settlement.duration_ms / 1000, request)
        message = {"messaging.system": "webhooks", "messaging.operation.name": "send", **outcome}
        self._sent.add(1, {**message, "webhooks.status": settlement.status.value})


def _trace_of(delivery: "Claimed") -> "context.Context":
    """Return the publisher's trace alone, whatever the engine itself is part of."""
    none = trace.set_span_in_context(trace.INVALID_SPAN)
    if delivery.traceparent is None:
        return none
    return TraceContextTextMapPropagator().extract({"traceparent": delivery.traceparent}, none)


def _is_of_the_api(provider: object) -> bool:
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def _of_delivery(delivery: "Claimed") -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.message.id": format_id(delivery.event_id, "evt"),
        "webhooks.delivery_id": format_id(delivery.id, "dlv"),
        "webhooks.endpoint_id": format_id(delivery.endpoint_id),
    }
    if delivery.attempt > 1:
        attributes["http.request.resend_count"] = delivery.attempt - 1
    return attributes


def _failed(settlement: "Settlement") -> bool:
    return settlement.response_status is not None and not 200 <= settlement.response_status < 300  # noqa: PLR2004 - 2xx
