"""How many redeliveries a tenant may ask for in a minute, across processes."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from flask_webhook_endpoints.state import set_clock
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.commands import run_json
from tests.support.database import DELIVERY, REDELIVERY_COUNT, count, rows
from tests.support.deliveries import finish
from tests.support.waiting import at_once

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)

pytestmark = pytest.mark.host(make=hosts.busy, max_redeliveries_per_minute=3)


@pytest.fixture
def at(host) -> Callable[[float], None]:
    """Set the host's clock to so many seconds after noon; it stands still."""

    def at(seconds: float) -> None:
        set_clock(host.app, lambda: NOON + timedelta(seconds=seconds))

    at(0)
    return at


def redelivery(client: FlaskClient) -> str:
    """Make an endpoint with a delivery, and return the path that sends it again."""
    path = create_endpoint(client).path
    return f"{path}/deliveries/{client.post(f'{path}/ping').json['id']}/redeliver"


def redelivered(host: hosts.Host) -> list[int]:
    return [row.redeliveries for row in rows(host, sa.select(REDELIVERY_COUNT.c.redeliveries))]


def test_one_too_many_is_429_and_says_when_the_next_may_come(host, acme, at):
    again = redelivery(acme)
    at(42.5)

    *allowed, refused = [acme.post(again) for _ in range(4)]

    assert [answer.status_code for answer in allowed] == [202] * 3
    assert (refused.status_code, refused.mimetype) == (429, "application/problem+json")
    assert refused.headers["Retry-After"] == "18"
    assert refused.headers["Cache-Control"] == acme.get(PATH_OF_NONE).headers["Cache-Control"]
    assert refused.json == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "The limit of 3 redeliveries a minute is reached; try again in 18 seconds.",
        "code": "too_many_redeliveries",
    }


PATH_OF_NONE = "/v1/endpoints/ep_00000000-0000-7000-8000-000000000000"


def test_one_that_is_refused_sends_nothing_and_does_not_count(host, acme, at):
    again = redelivery(acme)
    for _ in range(3):
        assert acme.post(again).status_code == 202
    finish(host)
    finished = rows(host, sa.select(DELIVERY))

    assert [acme.post(again).status_code for _ in range(3)] == [429] * 3

    assert rows(host, sa.select(DELIVERY)) == finished
    assert drain(host.app) == 0
    assert redelivered(host) == [3]


def test_each_tenant_has_its_own_limit(host, acme, globex, at):
    paths = {client: redelivery(client) for client in (acme, globex)}

    for client, again in paths.items():
        assert [client.post(again).status_code for _ in range(4)] == [202, 202, 202, 429]
    assert redelivered(host) == [3, 3]


def test_all_endpoints_of_a_tenant_share_it(acme, at):
    paths = [redelivery(acme) for _ in range(4)]

    assert [acme.post(again).status_code for again in paths] == [202, 202, 202, 429]


def test_the_next_minute_begins_again(host, acme, at):
    again = redelivery(acme)

    def ask() -> list[int]:
        return [acme.post(again).status_code for _ in range(4)]

    at(59.999)
    assert ask() == [202, 202, 202, 429]
    at(60)
    assert ask() == [202, 202, 202, 429]
    at(100_000)
    assert ask() == [202, 202, 202, 429]
    assert redelivered(host) == [3]


def test_clocks_of_two_processes_that_differ_give_no_second_count(acme, at):
    again = redelivery(acme)
    answers = []
    for seconds in (61, 58, 61, 58, 61):
        at(seconds)
        answers.append(acme.post(again).status_code)

    assert answers == [202, 202, 202, 429, 429]


def test_a_clock_that_was_far_ahead_holds_nobody_back(acme, at):
    again = redelivery(acme)
    at(86_400)
    assert [acme.post(again).status_code for _ in range(4)] == [202, 202, 202, 429]
    at(0)

    assert acme.post(again).status_code == 202


def test_what_is_refused_for_another_reason_does_not_count(host, acme, at):
    again = redelivery(acme)
    path = again.partition("/deliveries")[0]
    unknown = f"{path}/deliveries/dlv_00000000-0000-7000-8000-000000000000/redeliver"
    acme.patch(path, json={"status": "PAUSED"})

    refused = [acme.post(each).status_code for each in (again, unknown) * 5]
    acme.patch(path, json={"status": "ACTIVE"})
    refused += [acme.post(each).status_code for each in (unknown, f"{PATH_OF_NONE}/deliveries/x/redeliver") * 5]

    assert Counter(refused) == {409: 10, 404: 10}
    assert redelivered(host) == []
    assert [acme.post(again).status_code for _ in range(4)] == [202, 202, 202, 429]


def test_operators_are_not_limited(host, acme, at):
    again = redelivery(acme)
    dlv_id = again.split("/")[-2]

    for _ in range(5):
        assert run_json(host, "redeliver", dlv_id)["redelivered"] == 1
    assert redelivered(host) == []


@pytest.mark.host(make=hosts.busy, max_redeliveries_per_minute=None)
def test_none_lifts_the_limit(host, acme, at):
    again = redelivery(acme)

    assert [acme.post(again).status_code for _ in range(70)] == [202] * 70
    assert count(host, REDELIVERY_COUNT) == 0


@pytest.mark.several_connections
def test_requests_at_once_do_not_pass_it(host, acme, at):
    for minute in range(6):
        at(60 * minute)
        paths = [redelivery(acme) for _ in range(8)]

        answers = at_once([lambda again=again: host.client().post(again) for again in paths])

        # The first minute inserts the row, the others change it.
        assert Counter(answer.status_code for answer in answers) == {202: 3, 429: 5}
        assert redelivered(host) == [3]


@pytest.mark.several_connections
def test_two_processes_share_it(host, acme, at, database):
    again = redelivery(acme)
    with closing(hosts.busy(database, max_redeliveries_per_minute=3)) as other:
        set_clock(other.app, lambda: NOON)

        answers = [each.client().post(again).status_code for each in (host, other, host, other, host)]

    assert answers == [202, 202, 202, 429, 429]


@pytest.mark.several_connections
def test_first_redeliveries_of_several_tenants_at_once_all_go(host, at):
    # On MariaDB, the UPDATE that meets no row locks the gap into which the others insert.
    tenants = [f"tenant {number}" for number in range(8)]
    paths = {tenant_id: redelivery(host.client(tenant_id)) for tenant_id in tenants}

    answers = at_once([lambda each=each: host.client(each[0]).post(each[1]) for each in paths.items()])

    assert Counter(answer.status_code for answer in answers) == {202: 8}
    assert redelivered(host) == [1] * 8
