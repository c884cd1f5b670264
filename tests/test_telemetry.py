"""What OpenTelemetry's SDK sees of a delivery."""

import inspect
import re
import subprocess
import sys

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flask_webhook_endpoints import telemetry
from tests.support import deliveries, docs, hosts
from tests.support.api import create_endpoint

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK)

CUSTOM = "00-11111111111111111111111111111111-2222222222222222-01"


@pytest.fixture
def spans(monkeypatch):
    """What is exported of traces, in this test alone."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def measured(monkeypatch):
    """Return the points of a metric, in this test alone."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)

    def points(name):
        data = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        return [point for metric in data if metric.name == name for point in metric.data.data_points]

    yield points
    provider.shutdown()


@pytest.fixture
def publish(host, acme, webhook_receiver, drain_webhooks):
    create_endpoint(acme, webhook_receiver.url, headers_json={"Traceparent": CUSTOM})

    def publish():
        deliveries.publish(host)
        drain_webhooks()
        return webhook_receiver.received[-1].headers

    return publish


def test_a_delivery_goes_on_with_the_trace_of_its_publisher(spans, publish):
    with trace.get_tracer("host").start_as_current_span("pay") as paying:
        headers = publish()

    (post, _) = spans.get_finished_spans()
    assert post.name == "POST"
    assert post.kind is trace.SpanKind.CLIENT
    assert post.context.trace_id == paying.get_span_context().trace_id
    assert post.parent.span_id == paying.get_span_context().span_id
    assert (
        headers["traceparent"]
        == f"00-{post.context.trace_id:032x}-{post.context.span_id:016x}-{post.context.trace_flags:02x}"
    )
    assert post.attributes["http.response.status_code"] == 200
    assert post.attributes["messaging.message.id"] == headers["webhook-id"]


def test_the_span_of_an_attempt_says_what_came_of_it_and_how_often_it_was_tried(
    spans, webhook_receiver, webhook_clock, drain_webhooks, publish
):
    webhook_receiver.answer(500, 200)
    publish()
    webhook_clock.move(seconds=10)
    assert drain_webhooks() == 1

    failed, repeated = spans.get_finished_spans()
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert (failed.attributes["error.type"], failed.attributes["webhooks.status"]) == ("500", "PENDING")
    assert "http.request.resend_count" not in failed.attributes
    assert repeated.status.status_code is trace.StatusCode.UNSET
    assert repeated.attributes["http.request.resend_count"] == 1
    same = ("messaging.message.id", "webhooks.delivery_id", "webhooks.endpoint_id")
    assert [failed.attributes[name] for name in same] == [repeated.attributes[name] for name in same]
    assert [failed.attributes[name].partition("_")[0] for name in same] == ["evt", "dlv", "ep"]
    assert not {"url.full", "server.address"} & set(failed.attributes)


def test_without_a_trace_the_tenants_own_header_stays(publish):
    assert publish()["traceparent"] == CUSTOM


def test_without_the_sdk_a_trace_goes_on_and_ends_with_its_attempt(publish):
    came_in = trace.NonRecordingSpan(trace.SpanContext(0x3333, 0x4444, is_remote=True))
    with trace.use_span(came_in):
        headers = publish()

    assert headers["traceparent"] == "00-00000000000000000000000000003333-0000000000004444-00"
    assert publish()["traceparent"] == CUSTOM


@pytest.mark.usefixtures("webhook_clock")
def test_attempts_are_counted_and_timed_by_what_came_of_them(measured, webhook_receiver, publish):
    webhook_receiver.answer(500, 200)
    publish()
    publish()

    durations = measured("http.client.request.duration")
    assert [dict(point.attributes) for point in durations] == [
        {"http.request.method": "POST", "http.response.status_code": 500, "error.type": "500"},
        {"http.request.method": "POST", "http.response.status_code": 200},
    ]
    assert all(0 < point.sum < 10 for point in durations)
    sent = measured("messaging.client.sent.messages")
    assert [(point.value, point.attributes["webhooks.status"]) for point in sent] == [(1, "PENDING"), (1, "DELIVERED")]
    assert all("127.0.0.1" not in str(dict(point.attributes)) for point in (*durations, *sent))


def test_the_page_has_each_metric():
    page = (docs.ROOT / "docs" / "telemetry.md").read_text()
    (table,) = re.findall(r"^\| Metric .*?\n\n", page, re.MULTILINE | re.DOTALL)
    meters = re.findall(r'create_(?:histogram|counter|gauge|up_down_counter)\(\s*"(.+?)"', inspect.getsource(telemetry))

    assert meters == re.findall(r"^\| `(\S+)` \|", table, re.MULTILINE)


def test_without_the_api_nothing_is_missed():
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from flask_webhook_endpoints import telemetry, worker\n"
        "assert not telemetry.INSTALLED and telemetry.trace_headers() == {}\n"
        "with telemetry.Observer().attempt(None): pass\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
