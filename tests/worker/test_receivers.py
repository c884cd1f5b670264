"""What a worker's process records of receivers that behave ill, and of names that lead inside."""

import functools
import gzip
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trustme

from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.worker import http_client
from tests.support import hosts
from tests.support import names as name_server
from tests.support.api import PATH, create_endpoint
from tests.support.database import ATTEMPT, DELIVERY, ENDPOINT, execute, rows
from tests.support.deliveries import publish, statuses
from tests.support.proxy import EgressProxy, page
from tests.support.receivers import (
    OK_HEAD,
    endless,
    ok,
    say,
    then_close,
    then_half_close,
    then_hang,
    then_reset,
)
from tests.support.waiting import SLOWNESS, wait_until
from tests.support.workers import deliver, kill, start

TIMEOUT_SECONDS = SLOWNESS
SETTINGS = {"retry_schedule": [0], "poll_seconds": 0.05}

pytestmark = [pytest.mark.several_connections, pytest.mark.host(make=hosts.delivering)]


def wait_until_finished(host: hosts.Host, worker: Any) -> None:
    unfinished = sa.select(DELIVERY.c.id).where(DELIVERY.c.finished_at.is_(None)).limit(1)

    def finished() -> bool:
        assert worker.is_alive()
        return not rows(host, unfinished)

    wait_until(finished)


def recorded(host: hosts.Host) -> dict[str, list[tuple[int | None, str | None, int]]]:
    """Return status, error and duration of the attempts at each URL."""
    statement = (
        sa.select(ENDPOINT.c.url, ATTEMPT.c.response_status, ATTEMPT.c.error, ATTEMPT.c.duration_ms)
        .join(DELIVERY, DELIVERY.c.endpoint_id == ENDPOINT.c.id)
        .join(ATTEMPT, ATTEMPT.c.delivery_id == DELIVERY.c.id)
    )
    last = DELIVERY.c.last_response_status, DELIVERY.c.last_error, DELIVERY.c.last_duration_ms
    # What succeeds at once stands in the delivery's row alone.
    at_once = sa.select(ENDPOINT.c.url, *last).join(DELIVERY, DELIVERY.c.endpoint_id == ENDPOINT.c.id)
    at_once = at_once.where(DELIVERY.c.status == DeliveryStatus.DELIVERED, DELIVERY.c.attempts == 1)
    attempts: dict[str, list[tuple[int | None, str | None, int]]] = {}
    for url, *attempt in rows(host, statement) + rows(host, at_once):
        attempts.setdefault(url, []).append(tuple(attempt))
    return attempts


def peak_kib(process: Any) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def deliver_on_this_internet(
    database: str, settings: dict[str, Any], *, issuer: str = "", names: Mapping[str, list[str]] | None = None
) -> None:
    """Be a worker to whom one issuer is trusted and names lead elsewhere at each lookup, the last one for good."""
    os.environ["SSL_CERT_FILE"] = issuer
    # Lookups are kept for ten seconds: longer than a test should take.
    http_client.Connector = functools.partial(http_client.Connector, use_dns_cache=False)  # type: ignore[assignment,misc]
    with name_server.answering({name: [[each] for each in addresses] for name, addresses in (names or {}).items()}):
        deliver(database, settings)


BOMB = gzip.compress(bytes(64 * 1024 * 1024))

# Each with what it answers, and the status and the error that are recorded.
ILL_BEHAVED = {
    "says nothing": (then_hang(say()), None, "timeout"),
    "drips a header": (endless(OK_HEAD + b"X: ", b"x", pause=1), None, "timeout"),
    "drips a body": (endless(OK_HEAD + b"\r\n", b"x", pause=1), 200, "timeout"),
    "10 MB in a header": (say(OK_HEAD, b"X: ", b"a" * 10_000_000, b"\r\n\r\n"), None, "protocol"),
    "10 MB in headers": (say(OK_HEAD, b"X: y\r\n" * 1_666_666, b"\r\n"), None, "protocol"),
    "malformed": (say(b"SSH-2.0-OpenSSH_9.2\r\n"), None, "protocol"),
    "resets": (then_reset(say()), None, "disconnected"),
    "resets in the body": (then_reset(say(OK_HEAD, b"Content-Length: 9\r\n\r\nx")), 200, "disconnected"),
    "half-closes": (then_half_close(say(OK_HEAD)), None, "disconnected"),
    # Answers as good as any once they are cut off: the status is what counts.
    "endless body": (endless(OK_HEAD + b"\r\n", b"a" * 65_536), 200, None),
    "gzip bomb": (ok(BOMB, b"Content-Encoding: gzip"), 200, None),
    "redirects inside": (
        say(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\nContent-Length: 0\r\n\r\n"), 302, None,
    ),
}  # fmt: skip


@pytest.mark.slow
def test_each_ill_behaved_receiver_has_its_outcome_on_record_and_the_worker_lives(database, host, receivers, tmp_path):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(issuer := tmp_path / "ca.pem"))
    for_another = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("example.org").configure_cert(for_another)
    good = receivers.start(ok())
    expected: dict[str, tuple[int | None, str | None]] = {}
    for answer, *outcome in ILL_BEHAVED.values():
        expected[f"http://127.0.0.1:{receivers.start(answer).port}/"] = (outcome[0], outcome[1])
    expected[f"https://localhost:{receivers.start(ok(), tls=for_another).port}/"] = (None, "certificate")
    good_url = f"http://127.0.0.1:{good.port}/"
    create_endpoint(host.client(), good_url, timeout_seconds=TIMEOUT_SECONDS)
    publish(host)
    worker = start(deliver_on_this_internet, database, SETTINGS, issuer=str(issuer))
    try:
        wait_until_finished(host, worker)
        before = peak_kib(worker)
        for url in expected:
            create_endpoint(host.client(), url, timeout_seconds=TIMEOUT_SECONDS, event_types=["invoice.paid"])
        publish(host, *range(5))
        wait_until_finished(host, worker)
        publish(host, event_type="afterwards")
        wait_until_finished(host, worker)
        grown = peak_kib(worker) - before
    finally:
        kill(worker)

    print(f"{grown} KiB more at the peak, for {5 * len(expected)} attempts at ill-behaved receivers")
    attempts = recorded(host)
    assert [(status, error) for status, error, _ in attempts.pop(good_url)] == [(200, None)] * 7
    assert {url: {(status, error) for status, error, _ in each} for url, each in attempts.items()} == {
        url: {outcome} for url, outcome in expected.items()
    }
    assert {len(each) for each in attempts.values()} == {5}
    for each in attempts.values():
        for _, error, duration_ms in each:
            assert duration_ms <= 1000 * TIMEOUT_SECONDS + SLOWNESS * 200
            assert error != "timeout" or duration_ms >= 1000 * TIMEOUT_SECONDS
    excerpts = {row.last_response_excerpt for row in rows(host, sa.select(DELIVERY.c.last_response_excerpt))}
    # As it came: nothing was unpacked.
    assert BOMB[:1024] in excerpts
    assert grown < 64 * 1024


def test_a_name_that_leads_inside_when_it_is_connected_to_is_refused_and_on_record(database, host, receivers):
    # 127.0.0.2 stands for a public address, so that the test needs no Internet.
    inside = receivers.start(ok())
    outside = receivers.start(then_close(ok(b"", b"Connection: close")), host="127.0.0.2", port=inside.port)
    names = {
        "rebinding.test": ["127.0.0.2", "127.0.0.1"],
        "mapped.test": ["::ffff:127.0.0.1"],
        "nat64.test": ["64:ff9b::7f00:1"],
        "6to4.test": ["2002:7f00:1::1"],
    }
    for name in names:
        create_endpoint(host.client(), f"http://{name}:{inside.port}/", timeout_seconds=TIMEOUT_SECONDS)
    worker = start(deliver_on_this_internet, database, {**SETTINGS, "allowed_networks": ["127.0.0.2/32"]}, names=names)
    try:
        for _ in range(2):
            publish(host)
            wait_until_finished(host, worker)
    finally:
        kill(worker)

    attempts = {re.split("[/:]+", url)[1]: sorted(each, key=str) for url, each in recorded(host).items()}
    outcomes = {name: [(status, error) for status, error, _ in each] for name, each in attempts.items()}
    refused = (None, "blocked_address")
    assert outcomes.pop("rebinding.test") == [(200, None), refused]
    assert outcomes == {name: [refused] * 2 for name in ("mapped.test", "nat64.test", "6to4.test")}
    assert (outside.connections, inside.connections) == (1, 0)
    assert statuses(host) == {DeliveryStatus.DELIVERED: 1, DeliveryStatus.FAILED: 7}


def test_a_worker_sends_by_the_proxy_of_its_settings_and_to_no_address_that_is_closed(database, host, receivers):
    receiver = receivers.start(ok())
    outside = f"http://nowhere.invalid:{receiver.port}/a%2Fb"
    for url in (outside, "https://example.com/"):
        create_endpoint(host.client(), url, timeout_seconds=TIMEOUT_SECONDS)
    # What rules of before have taken, and those of today would not.
    inside = "http://169.254.169.254/latest/"
    execute(host, sa.update(ENDPOINT).where(ENDPOINT.c.url != outside).values(url=inside))
    publish(host)
    with closing(EgressProxy()) as proxy:
        worker = start(deliver, database, {**SETTINGS, "proxy": proxy.url()})
        try:
            wait_until_finished(host, worker)
        finally:
            kill(worker)

    assert {url: (status, error) for url, [(status, error, _)] in recorded(host).items()} == {
        outside: (200, None),
        inside: (None, "blocked_address"),
    }
    assert [request.split(b"\r\n")[0] for request in proxy.requests] == [
        b"CONNECT nowhere.invalid:%d HTTP/1.1" % receiver.port
    ]
    assert receiver.requests[0].startswith(b"POST /a%2Fb HTTP/1.1\r\n")


def test_a_wrong_password_for_the_proxy_uses_up_no_attempts(database, host, receivers):
    receiver = receivers.start(ok())
    create_endpoint(host.client(), f"http://receiver.example:{receiver.port}/", timeout_seconds=TIMEOUT_SECONDS)
    publish(host)
    with closing(EgressProxy(user="ann:s3cret")) as proxy:
        settings = {**SETTINGS, "retry_schedule": [0, 0.1, 300], "proxy": proxy.url("ann:typo")}
        worker = start(deliver, database, settings)
        try:
            # More of them than the schedule has.
            wait_until(lambda: len(rows(host, sa.select(ATTEMPT.c.number))) >= 5)
            proxy.user = "ann:typo"
            wait_until_finished(host, worker)
        finally:
            kill(worker)

    assert statuses(host) == {DeliveryStatus.DELIVERED: 1}
    *failed, delivered = [(status, error) for status, error, _ in next(iter(recorded(host).values()))]
    assert set(failed) == {(None, "proxy")}
    assert delivered == (200, None)


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_tenant_sees_that_the_proxy_failed_and_nothing_of_what_it_said(database, host, status):
    client = host.client()
    for scheme in ("http", "https"):
        create_endpoint(client, f"{scheme}://receiver.example/", timeout_seconds=TIMEOUT_SECONDS)
    publish(host)
    with closing(EgressProxy(answer=page(status))) as proxy:
        worker = start(deliver, database, {**SETTINGS, "proxy": proxy.url("ann:typo")})
        try:
            wait_until_finished(host, worker)
        finally:
            kill(worker)

    for endpoint in client.get(PATH).json:
        path = f"{PATH}/{endpoint['id']}/deliveries"
        shown = client.get(f"{path}/{client.get(path).json[0]['id']}")
        [attempt] = shown.json["attempt_log"]
        assert (attempt["error"], attempt["response_status"], attempt["response_excerpt"]) == ("proxy", None, None)
        assert not re.search(r"gate-7|svc-webhooks|10\.7\.0\.4|127\.0\.0\.1|typo", shown.text)


def test_a_worker_that_requires_https_sends_nothing_to_http_that_was_taken_before(database, host, receivers):
    receiver = receivers.start(ok())
    create_endpoint(host.client(), f"http://127.0.0.1:{receiver.port}/", timeout_seconds=TIMEOUT_SECONDS)
    publish(host)
    worker = start(deliver, database, {**SETTINGS, "require_https": True})
    try:
        wait_until_finished(host, worker)
    finally:
        kill(worker)

    assert [[(status, error) for status, error, _ in each] for each in recorded(host).values()] == [
        [(None, "invalid_url")]
    ]
    assert receiver.connections == 0
