"""`/metrics`: what Prometheus scrapes, where `FLASK_METRICS=true` turns it on; keep it inside your network."""

from flask import Blueprint, Flask
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.wrappers import Response

from example_app.events import webhooks

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def show_metrics() -> Response:
    """Show the numbers of the webhooks."""
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)


def serve(app: Flask) -> None:
    """Report the numbers of the webhooks in this process."""
    metrics.set_meter_provider(MeterProvider(metric_readers=[PrometheusMetricReader()]))
    webhooks.observe(app)
    app.register_blueprint(blueprint)
