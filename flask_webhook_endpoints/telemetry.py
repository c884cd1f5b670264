"""Metrics and traces through OpenTelemetry's API, which does nothing without its SDK.

Source: OpenTelemetry semantic conventions, "HTTP client" and "Messaging client metrics"; W3C Trace Context. Metrics
and spans leave out the hosts and URLs of tenants: each would make a series of its own, and URLs may hold credentials.
"""
# These names are bound if INSTALLED is True, which pyright can't see.
# pyright: reportPossiblyUnboundVariable=false

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from flask_webhook_endpoints.identifiers import format_id

if TYPE_CHECKING:
    from flask_webhook_endpoints.core.results import Claimed, Settlement

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
_METHOD = {"http.request.method": "POST"}


def trace_headers() -> Mapping[str, str]:
    """Return the W3C headers of the active trace; empty without one."""
    headers: dict[str, str] = {}
    if INSTALLED and context.get_current():
        TraceContextTextMapPropagator().inject(headers)
    return headers


class Observer:
    """Watches the attempts of a worker, with the providers that the host has set up."""

    def __init__(self) -> None:
        self._records = False
        if not INSTALLED:
            return
        tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
        self._records = not (_is_of_the_api(tracers) and _is_of_the_api(meters))
        self._tracer = tracers.get_tracer(_NAME)
        # An attempt is part of its publisher's trace alone, not of a trace that the worker is part of.
        self._no_trace = trace.set_span_in_context(trace.INVALID_SPAN)
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
        """Watch one attempt, as part of the trace in which the host published its event."""
        if not self._records and not (INSTALLED and (delivery.traceparent or context.get_current())):
            return nullcontext()
        parent = self._no_trace
        if delivery.traceparent is not None:
            parent = TraceContextTextMapPropagator().extract({"traceparent": delivery.traceparent}, parent)
        if not self._records:
            # The trace goes on to the receiver, which a span of the API itself drops in some versions.
            return trace.use_span(trace.get_current_span(parent))
        span = self._tracer.start_span("POST", context=parent, kind=SpanKind.CLIENT, attributes=_METHOD)
        if span.is_recording():
            span.set_attribute("messaging.message.id", format_id(delivery.event_id, "evt"))
            span.set_attribute("webhooks.delivery_id", format_id(delivery.id, "dlv"))
            span.set_attribute("webhooks.endpoint_id", format_id(delivery.endpoint_id))
            if delivery.attempt > 1:
                span.set_attribute("http.request.resend_count", delivery.attempt - 1)
        return trace.use_span(span, end_on_exit=True)

    def settled(self, settlement: "Settlement") -> None:
        """Note the result of an attempt, within `attempt`."""
        if not self._records:
            return
        answered = settlement.response_status
        failure = settlement.error or (None if answered is None or 200 <= answered < 300 else str(answered))  # noqa: PLR2004 - 2xx
        result: dict[str, Any] = {} if failure is None else {"error.type": failure}
        request: dict[str, Any] = {**_METHOD, **result}
        status = {"webhooks.status": settlement.status.value}
        if answered is not None:
            request["http.response.status_code"] = answered
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes({**request, **status})
            if failure is not None:
                span.set_status(Status(StatusCode.ERROR))
        self._duration.record(settlement.duration_ms / 1000, request)
        message = {"messaging.system": "webhooks", "messaging.operation.name": "send", **result, **status}
        self._sent.add(1, message)


def _is_of_the_api(provider: object) -> bool:
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


KEPT_SECONDS = 5.0
"""Seconds for which the numbers of one reading serve all gauges, and all scrapes."""


class _Numbers:
    """The numbers of the last reading; `None` while they can't be read."""

    def __init__(self, read: Callable[[], Mapping[str, Any] | None]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._read_at = -math.inf
        self._numbers: Mapping[str, Any] | None = None

    def now(self) -> Mapping[str, Any] | None:
        with self._lock:
            if time.monotonic() - self._read_at >= KEPT_SECONDS:
                self._numbers = self._read()
                self._read_at = time.monotonic()
            return self._numbers


def observe(
    described: Mapping[str, str],
    read: Callable[[], Mapping[str, Any] | None],
    samples: Callable[[Mapping[str, Any], str], Iterable[tuple[float, Mapping[str, str]]]],
) -> None:
    """Make a gauge of each number that is described, as `webhooks.<name>`, of what `read` returns at each reading.

    `webhooks.database_up` is 0 while `read` returns None.
    """
    if not INSTALLED:
        return
    meter, numbers = metrics.get_meter_provider().get_meter(_NAME), _Numbers(read)

    def gauge(name: str) -> Callable[[Any], Iterator[Any]]:
        def observations(_: Any) -> Iterator[Any]:
            known = numbers.now()
            yield from (
                metrics.Observation(value, dict(attributes))
                for value, attributes in ([] if known is None else samples(known, name))
            )

        return observations

    for name, description in described.items():
        meter.create_observable_gauge(f"webhooks.{name}", [gauge(name)], description=description)

    def is_up(_: Any) -> Iterator[Any]:
        yield metrics.Observation(int(numbers.now() is not None))

    meter.create_observable_gauge("webhooks.database_up", [is_up], description="1 if the numbers can be read, 0 if not")
