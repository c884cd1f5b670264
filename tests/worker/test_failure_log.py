"""A failed attempt is in the log once: an endpoint's first one in a minute as a warning, with a count."""

import logging

import pytest

from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.deliveries import publish

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0])


def test_an_endpoint_is_warned_of_once_a_minute_and_each_failure_is_logged(
    host, acme, webhook_receiver, webhook_clock, caplog
):
    caplog.set_level(logging.INFO, "flask_webhook_endpoints.delivery")
    endpoints = [create_endpoint(acme, webhook_receiver.url) for _ in range(2)]
    webhook_receiver.answer(500)

    def levels(number: int) -> dict[str, list[tuple[int, int | None]]]:
        """Publish, deliver, and return the levels and counts of what is logged of each endpoint."""
        caplog.clear()
        publish(host, *range(number))
        drain(host.app)
        records = [vars(record) for record in caplog.records if record.msg == "webhooks.attempt_failed"]
        return {
            endpoint.id: [
                (record["levelno"], record.get("webhooks.count"))
                for record in records
                if record["webhooks.endpoint_id"] == endpoint.id
            ]
            for endpoint in endpoints
        }

    def of_each(logged: list[tuple[int, int | None]]) -> dict[str, list[tuple[int, int | None]]]:
        return {endpoint.id: logged for endpoint in endpoints}

    assert levels(3) == of_each([(30, 1), (20, None), (20, None)])
    webhook_clock.move(seconds=30)
    assert levels(1) == of_each([(20, None)])
    webhook_clock.move(seconds=40)
    assert levels(2) == of_each([(30, 4), (20, None)])
