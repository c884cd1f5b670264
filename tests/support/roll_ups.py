"""What is counted of results, whether a worker has added it up or not."""

import json
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from flask_webhook_endpoints.core import recent_counts
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.state import state_of
from tests.support.api import Endpoint
from tests.support.database import HOUR, MINUTE, RECENT_COUNT, rows
from tests.support.hosts import Host

COUNTED = ("attempts", "failed_attempts", "delivered", "failed")


def hours(host: Host) -> list[Any]:
    """Return what is counted by the hour."""
    recent = [
        each for (text,) in rows(host, sa.select(RECENT_COUNT.c.hours)) for each in recent_counts._counts_of(text)
    ]
    return [*rows(host, sa.select(HOUR)), *map(recent_counts._hour, recent)]


def counted(host: Host, endpoint: Endpoint | None = None) -> dict[str, int]:
    """Add up an endpoint's hours, or everybody's."""
    theirs = [hour for hour in hours(host) if endpoint is None or hour.endpoint_id == endpoint.uuid]
    return {name: sum(getattr(hour, name) for hour in theirs) for name in COUNTED}


def by_error(host: Host) -> dict[str, int]:
    """Add up everybody's minutes by their error."""
    errors = Counter[str]()
    for error, number in rows(host, sa.select(MINUTE.c.error, MINUTE.c.attempts)):
        errors[error] += number
    for (text,) in rows(host, sa.select(RECENT_COUNT.c.minutes)):
        for _, error, number in json.loads(text):
            errors[error] += number
    return dict(errors)


def add_up(host: Host, *, kept_apart: timedelta = timedelta(0)) -> int:
    """Add recent counts up, as a worker does; return how many rows they were."""
    with host.app.app_context():
        operation = partial(recent_counts.add_up, owner=new_id(), kept_apart=kept_apart)
        return state_of(host.app).run_apart(operation)
