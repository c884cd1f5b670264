"""The memory of a worker: large bodies neither fill it nor keep the bodies of other tenants from being sent."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from flask_webhook_endpoints.database.models import DeliveryStatus
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.deliveries import all_are, in_flight, publish
from tests.support.inbox import Answer, Arrived, Inbox, hang
from tests.support.waiting import SLOWNESS, wait_until
from tests.support.workers import workers

pytestmark = [pytest.mark.slow, pytest.mark.host(make=hosts.delivering), pytest.mark.several_connections]

LARGE = "x" * (256 * 1024 - 200)


def peak_mib(process: Any) -> int:
    """Return the most memory that a process has had at once."""
    [kib] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    return int(kib) // 1024


def forget(inbox: Inbox) -> None:
    """Have the inbox keep nothing of what comes: the tests' own process is small, too."""

    async def answer(arrived: Arrived) -> Answer:
        inbox.arrived.clear()
        return Answer()

    inbox.answer = answer


def test_a_thousand_pending_bodies_of_256_kib_take_less_than_200_mib(database, host, inbox):
    forget(inbox)
    for number in range(100):
        create_endpoint(host.client(f"tenant-{number}"), inbox.url())
        publish(host, *[LARGE] * 10, tenant_id=f"tenant-{number}")

    with workers(1, database, {"poll_seconds": 0.05}) as [worker]:
        wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED), 120)
        peak = peak_mib(worker)

    print(f"The worker took {peak} MiB at most.")
    assert peak < 200


def test_large_bodies_to_receivers_that_hang_do_not_delay_another_tenant(database, host, inbox):
    inbox.answers["/hang"] = hang
    for _ in range(30):
        create_endpoint(host.client("hostile"), inbox.url("/hang"))
    create_endpoint(host.client("healthy"), inbox.url("/healthy"))
    with workers(1, database, {"poll_seconds": 0.05, "max_timeout_seconds": 5}) as _:
        publish(host, *[LARGE] * 10, tenant_id="hostile")
        wait_until(lambda: len(inbox.at("/hang")) >= 40)
        seconds = {}
        for size, data in {"large": LARGE, "small": 7}.items():
            before, began = len(inbox.at("/healthy")), time.monotonic()
            publish(host, data, tenant_id="healthy")
            wait_until(lambda before=before: len(inbox.at("/healthy")) > before)
            seconds[size] = time.monotonic() - began
        print(f"Beside them, {seconds}")
        assert max(seconds.values()) < 1.5 * SLOWNESS
        assert in_flight(host) < 60


# MariaDB takes no row of that size, unless told otherwise.
@pytest.mark.only_on("sqlite", "postgresql")
def test_a_body_larger_than_all_room_is_delivered_alone(database, inbox):
    settings = {"max_body_bytes": 40 * 1024 * 1024, "poll_seconds": 0.05}
    forget(inbox)
    host = hosts.delivering(database, **settings)
    try:
        create_endpoint(host.client(), inbox.url())
        publish(host, "x" * (26 * 1024 * 1024), *[LARGE] * 5)
        with workers(1, database, settings):
            wait_until(lambda: all_are(host, DeliveryStatus.DELIVERED), 60)
    finally:
        host.close()
