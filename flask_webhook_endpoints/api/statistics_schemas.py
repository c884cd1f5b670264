"""JSON of an endpoint's statistics, and the query that asks for them."""

from typing import Any

from marshmallow import EXCLUDE, Schema, fields, validate

from flask_webhook_endpoints.api.endpoint_schemas import TIME, TIME_OR_NULL, about, text
from flask_webhook_endpoints.core.endpoint_statistics import MOST_COUNTED, Statistics, Window
from flask_webhook_endpoints.identifiers import format_time


class StatisticsQuery(Schema):
    """The query of `GET /v1/endpoints/{ep_id}/stats`."""

    window = fields.String(
        load_default=Window.DAY.value,
        validate=validate.OneOf([window.value for window in Window]),
        metadata={
            "description": "The time that is counted, in UTC: the hour that has begun and the 23 before it, or the "
            "day that has begun and the 6 or 29 before it."
        },
    )


class LatencyShown(Schema):
    """The latency of an endpoint's answers, in an answer of ours."""

    p50 = fields.Integer(**about("Half of the answers took no longer. Null if none came.", allow_none=True))
    p95 = fields.Integer(**about("95 % of the answers took no longer. Null if none came.", allow_none=True))


class StepShown(Schema):
    """An hour or a day of a series."""

    starts_at = text(TIME, "When the hour or the day began, in UTC.")
    delivered = fields.Integer(**about("Deliveries that the receiver took in this time."))
    failed = fields.Integer(**about("Deliveries that failed for good in this time."))


class StatisticsShown(Schema):
    """The statistics of an endpoint in an answer: the fields of `Statistics`, in its order."""

    delivered = fields.Integer(**about("Deliveries that the receiver took."))
    failed = fields.Integer(**about("Deliveries that failed for good."))
    attempts = fields.Integer(**about("Attempts whose result is recorded."))
    success_ratio = fields.Float(
        **about("`delivered`, divided by `delivered` and `failed` together. Null if both are 0.", allow_none=True)
    )
    latency_ms = fields.Nested(
        LatencyShown(unknown=EXCLUDE),
        **about("Milliseconds until complete answers, whatever their status; 19 % off at most."),
    )
    pending = fields.Integer(**about(f"Deliveries that wait for an attempt or its result now, up to {MOST_COUNTED}."))
    held = fields.Integer(**about(f"Deliveries that wait now because the endpoint is paused, up to {MOST_COUNTED}."))
    oldest_pending_at = text(
        TIME_OR_NULL,
        "When the oldest of what is pending or held was published. Null if nothing is.",
    )
    series = fields.List(
        fields.Nested(StepShown(unknown=EXCLUDE)),
        **about("Each hour of `24h`, or each day of the others, oldest first, those without results included."),
    )


def show(statistics: Statistics) -> dict[str, Any]:
    """Return statistics as JSON shows them."""
    shown = {
        **statistics._asdict(),
        "latency_ms": statistics.latency_ms._asdict(),
        "oldest_pending_at": format_time(statistics.oldest_pending_at),
        "series": [{**step._asdict(), "starts_at": format_time(step.starts_at)} for step in statistics.series],
    }
    del shown["backlog"]
    return shown
