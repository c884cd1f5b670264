"""Requests at the same moment, on every database that threads can share."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from flask_webhook_endpoints.core import secrets
from flask_webhook_endpoints.database.models import (
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookIdempotencyKey,
    WebhookSecret,
)
from flask_webhook_endpoints.state import current_state
from tests.support import hosts
from tests.support.api import Endpoint, create_endpoint, post_endpoint
from tests.support.database import DELIVERY, QUEUE, engine_of, execute, rows
from tests.support.deliveries import claim, publish
from tests.support.waiting import at_once

pytestmark = pytest.mark.host(make=hosts.busy)

TENANTS = ("acme", "ACME", "acme ", "ácme")


def statuses(answers: Sequence[TestResponse]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def etag(answer: TestResponse) -> str:
    return answer.headers["ETag"]


CHANGES: tuple[Callable[[int], dict[str, Any]], ...] = (
    lambda n: {"name": f"name {n}"},
    lambda n: {"url": f"https://example.com/{n}"},
    lambda n: {"timeout_seconds": n % 30 + 1},
    lambda n: {"headers_json": {"X-Number": str(n)}},
    lambda n: {"status": ("ACTIVE", "PAUSED")[n % 2]},
    lambda n: {"event_types": [f"event.{n}"]},
    lambda n: {"secret": f"a secret, number {n}"},
)


@pytest.mark.several_connections
def test_64_threads_change_different_fields_of_one_endpoint_and_every_change_holds(host):
    born = post_endpoint(host.client())
    path = Endpoint(born.json).path
    sent: dict[str, dict[str, Any]] = {}
    answers: list[TestResponse] = []

    def patch_in_turn(thread: int) -> None:
        client = host.client()
        for number in range(thread, 64 * 6, 64):
            change = CHANGES[(thread + number // 64) % len(CHANGES)](number)
            answer = client.patch(path, json=change)
            answers.append(answer)
            sent[etag(answer)] = change

    at_once([lambda thread=thread: patch_in_turn(thread) for thread in range(64)])

    assert statuses(answers) == {200: 64 * 6}
    # The ETags say in which order the changes were written: each answer must show all those before it, and its own.
    answers.sort(key=lambda answer: int(etag(answer).strip('"')))
    assert [etag(answer) for answer in answers] == [f'"{version}"' for version in range(2, 64 * 6 + 2)]
    # Each took its time before it waited for the row's lock.
    times = [answer.json["updated_at"] for answer in (born, *answers)]
    assert all(earlier < later for earlier, later in pairwise(times))
    state, secret = {**born.json}, None
    for answer in answers:
        change = {**sent[etag(answer)]}
        secret = change.pop("secret", secret)
        state.update(change)
        shown = {name: answer.json[name] for name in state if name not in ("updated_at", "paused_at", "pause_reason")}
        assert shown == {name: state[name] for name in shown}
        assert (answer.json["paused_at"] is not None) == (state["status"] == "PAUSED")
    assert host.client().get(path).json == answers[-1].json
    assert host.client().get(f"{path}/secret").json["secret"] == secret


@pytest.mark.several_connections
def test_32_requests_with_one_idempotency_key_make_one_endpoint(host):
    answers = at_once([lambda: post_endpoint(host.client(), key="k")] * 32)

    assert statuses(answers) == {201: 32}
    assert len({answer.data for answer in answers}) == 1
    assert len({(etag(answer), answer.headers["Location"]) for answer in answers}) == 1
    assert host.client().get("/v1/endpoints").json == [answers[0].json]
    assert len(rows(host, sa.select(WebhookIdempotencyKey.key))) == 1
    assert len(rows(host, sa.select(WebhookSecret.id))) == 1


@pytest.mark.several_connections
def test_of_requests_with_one_idempotency_key_and_two_bodies_one_body_wins(host):
    answers = at_once([lambda name=name: post_endpoint(host.client(), key="k", name=name) for name in ("a", "b") * 8])

    assert statuses(answers) == {201: 8, 422: 8}
    assert len({answer.data for answer in answers if answer.status_code == 201}) == 1
    assert len(rows(host, sa.select(WebhookEndpoint.id))) == 1


def test_an_idempotency_key_repeats_the_first_answer_after_the_endpoint_changed_and_is_gone(host):
    first = post_endpoint(host.client(), key="k", headers_json={"X-A": "1"}, timeout_seconds=3)
    client = host.client()

    client.patch(Endpoint(first.json).path, json={"name": "other", "status": "PAUSED"})
    changed = post_endpoint(host.client(), key="k", headers_json={"X-A": "1"}, timeout_seconds=3)
    client.delete(Endpoint(first.json).path)
    deleted = post_endpoint(host.client(), key="k", headers_json={"X-A": "1"}, timeout_seconds=3)

    for answer in (changed, deleted):
        assert (answer.status_code, answer.data) == (201, first.data)
        assert dict(answer.headers) == {**first.headers, "Idempotent-Replayed": "true"}
    assert client.get("/v1/endpoints").json == []


def test_an_idempotency_key_with_another_body_is_refused(host):
    first = post_endpoint(host.client(), key="k")

    answer = post_endpoint(host.client(), key="k", name="other")

    assert answer.status_code == 422
    assert answer.mimetype == "application/problem+json"
    assert host.client().get("/v1/endpoints").json == [first.json]


def test_a_refused_request_does_not_use_its_idempotency_key(host):
    refused = post_endpoint(host.client(), key="k", name="")

    assert refused.status_code == 422
    assert post_endpoint(host.client(), key="k").status_code == 201


def test_an_idempotency_key_is_forgotten_after_24_hours_and_not_before(host):
    first = post_endpoint(host.client(), key="k")
    _age_keys(host, hours=23.99)
    within = post_endpoint(host.client(), key="k")
    _age_keys(host, hours=24)

    after = post_endpoint(host.client(), key="k", name="other")

    assert within.json["id"] == first.json["id"]
    assert after.status_code == 201
    assert after.json["id"] != first.json["id"]
    assert post_endpoint(host.client(), key="k", name="other").data == after.data


@pytest.mark.several_connections
def test_16_requests_with_one_expired_idempotency_key_make_one_new_endpoint(host):
    first = post_endpoint(host.client(), key="k")
    for _ in range(4):
        _age_keys(host, hours=25)

        answers = at_once([lambda: post_endpoint(host.client(), key="k")] * 16)

        assert statuses(answers) == {201: 16}
        assert len({answer.data for answer in answers}) == 1
        assert answers[0].json["id"] != first.json["id"]
    assert len(host.client().get("/v1/endpoints").json) == 1 + 4


def _age_keys(host: hosts.Host, *, hours: float) -> None:
    created_at = datetime.now(UTC) - timedelta(hours=hours)
    execute(host, sa.update(WebhookIdempotencyKey).values(created_at=created_at))


def test_idempotency_keys_are_of_one_tenant(host):
    answers = [post_endpoint(host.client(tenant_id), key="k", name=tenant_id.strip()) for tenant_id in TENANTS]

    assert statuses(answers) == {201: 4}
    assert len({answer.json["id"] for answer in answers}) == 4
    for tenant_id, first in zip(TENANTS, answers, strict=True):
        assert post_endpoint(host.client(tenant_id), key="k", name=tenant_id.strip()).data == first.data


def test_idempotency_keys_equal_themselves_alone(host):
    answers = [post_endpoint(host.client(), key=key) for key in ("k", "K", "k.", "0")]

    assert len({answer.json["id"] for answer in answers}) == 4


@pytest.mark.parametrize("tenant_id", TENANTS)
def test_a_tenant_is_met_under_its_exact_name_alone(host, tenant_id):
    answer = post_endpoint(host.client(tenant_id))
    path = Endpoint(answer.json).path
    owner = host.client(tenant_id)
    others = [host.client(name) for name in TENANTS if name != tenant_id]

    for other in others:
        assert other.get("/v1/endpoints").json == []
        refused = [
            other.get(path),
            other.patch(path, json={"name": "taken"}),
            other.patch(path, json={}),
            other.get(f"{path}/secret"),
            other.post(f"{path}/secret/rotate"),
            other.delete(path),
            other.delete(path, headers={"If-Match": etag(answer)}),
        ]
        assert statuses(refused) == {404: 7}
    assert owner.get("/v1/endpoints").json == [answer.json]
    assert owner.get(path).headers["ETag"] == etag(answer)


@pytest.mark.several_connections
def test_secrets_rotated_at_once_leave_one_in_force_and_three_old_ones_at_most(host):
    path = create_endpoint(host.client()).path

    answers = at_once([lambda: host.client().post(f"{path}/secret/rotate")] * 16)

    assert statuses(answers) == {200: 16}
    assert len({answer.json["secret"] for answer in answers}) == 16
    stored = rows(host, sa.select(WebhookSecret.expires_at))
    assert len(stored) == 1 + secrets.MAX_OLD_SECRETS
    assert [row.expires_at for row in stored].count(None) == 1
    shown = host.client().get(f"{path}/secret").json
    assert shown["secret"] in {answer.json["secret"] for answer in answers}
    assert host.client().get(path).headers["ETag"] == '"17"'


@pytest.mark.several_connections
def test_a_patch_beside_a_delete_is_200_or_404_and_leaves_no_secret(host):
    for _ in range(6):
        path = create_endpoint(host.client()).path
        patches = [
            lambda n=n, path=path: host.client().patch(path, json={"name": f"{n}", "secret": f"a secret, number {n}"})
            for n in range(7)
        ]

        deleted, *patched = at_once([lambda path=path: host.client().delete(path), *patches])

        assert deleted.status_code == 204
        assert set(statuses(patched)) <= {200, 404}
        assert host.client().get(path).status_code == 404
        assert rows(host, sa.select(WebhookSecret.id)) == []


@pytest.mark.several_connections
def test_of_pings_beside_a_delete_one_at_most_is_202_and_others_are_404_or_find_one_that_waits(host):
    # It was a 500 on PostgreSQL where the endpoint was gone before the delivery was read back.
    for _ in range(6):
        path = create_endpoint(host.client()).path
        pings = [lambda path=path: host.client().post(f"{path}/ping")] * 7

        deleted, *pinged = at_once([lambda path=path: host.client().delete(path), *pings])

        assert deleted.status_code == 204
        answered = Counter(answer.json.get("code", answer.status_code) for answer in pinged)
        assert set(answered) <= {202, "unknown_endpoint", "event_waiting"}
        assert answered[202] <= 1


@pytest.mark.only_on("postgresql")
def test_a_ping_whose_endpoint_is_deleted_before_it_commits_is_404_and_writes_nothing(host):
    path = create_endpoint(host.client()).path
    deleted: list[TestResponse] = []

    def delete(connection, cursor, statement, *_):
        if statement.startswith("INSERT INTO webhook_event") and not deleted:
            deleted.extend(at_once([lambda: host.client().delete(path)]))

    with host.app.app_context():
        sa.event.listen(host.db.engine, "before_cursor_execute", delete)
    answer = host.client().post(f"{path}/ping")

    assert statuses(deleted) == {204: 1}
    assert answer.status_code == 404
    assert rows(host, sa.select(WebhookDelivery.id)) == rows(host, sa.select(WebhookEvent.id)) == []


def lease(host):
    """Publish an event, and lease its delivery."""
    publish(host, 1)
    with host.app.app_context():
        assert claim(current_state().scope(), most=1).deliveries
        host.db.session.commit()


PUT_OFF = sa.update(QUEUE).values(state="WAITING", lease_owner=None)


# The DELETE has waited for the record: what it reads of other tables is from before.
@pytest.mark.only_on("postgresql")
def test_a_delete_that_waits_for_a_record_that_pauses_the_endpoint_cancels_what_is_put_off(host):
    endpoint = create_endpoint(host.client())
    lease(host)

    with engine_of(host).connect() as recording, ThreadPoolExecutor() as threads:
        recording.execute(PUT_OFF)
        recording.execute(sa.update(WebhookEndpoint).values(paused_at=datetime.now(UTC)))
        deleted = threads.submit(lambda: host.client().delete(endpoint.path).status_code)
        with pytest.raises(TimeoutError):
            deleted.result(timeout=1)
        recording.commit()

    assert deleted.result() == 204
    assert rows(host, sa.select(DELIVERY.c.status)) == [("CANCELLED",)]


# MariaDB reads in the snapshot of the host's transaction.
@pytest.mark.several_connections
def test_a_host_that_has_read_before_it_deletes_cancels_what_was_put_off_since(host):
    endpoint = create_endpoint(host.client())
    lease(host)

    with host.app.app_context():
        if engine_of(host).dialect.name != "sqlite":
            host.db.session.execute(sa.select(WebhookEndpoint)).all()
        with engine_of(host).begin() as recording:
            recording.execute(PUT_OFF)
        host.webhooks.endpoints.delete(endpoint.id, tenant_id="acme")
        host.db.session.commit()

    assert rows(host, sa.select(DELIVERY.c.status)) == [("CANCELLED",)]


@pytest.mark.several_connections
def test_of_deletes_at_once_one_is_204(host):
    for _ in range(4):
        path = create_endpoint(host.client()).path

        answers = at_once([lambda path=path: host.client().delete(path)] * 16)

        assert statuses(answers) == {204: 1, 404: 15}


@pytest.mark.several_connections
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_of_16_threads_with_one_etag_one_changes_the_endpoint(host, method):
    born = post_endpoint(host.client())
    path = Endpoint(born.json).path

    answers = at_once(
        [
            lambda n=n: host.client().open(path, method=method, json={"name": f"{n}"}, headers={"If-Match": etag(born)})
            for n in range(16)
        ]
    )

    if method == "PATCH":
        assert statuses(answers) == {200: 1, 412: 15}
        changed = next(answer for answer in answers if answer.status_code == 200)
        assert host.client().get(path).json == changed.json
    else:
        assert statuses(answers) == {204: 1, 404: 15}


@pytest.mark.several_connections
def test_read_change_write_with_etags_loses_no_update(host):
    born = post_endpoint(host.client(), name="0")
    path = Endpoint(born.json).path

    def count_up() -> None:
        client = host.client()
        for _ in range(5):
            status = 412
            while status == 412:
                seen = client.get(path)
                name = str(int(seen.json["name"]) + 1)
                status = client.patch(path, json={"name": name}, headers={"If-Match": etag(seen)}).status_code
            assert status == 200

    at_once([count_up] * 8)

    assert host.client().get(path).json["name"] == "40"


def overtaken(database: str, meanwhile: Callable[[], TestResponse]) -> hosts.Host:
    """Make a host during whose look-up of the tenant another request is answered.

    The look-up opens the transaction, and with it MariaDB's snapshot, in which that other request has not happened.
    """

    def tenant() -> str:
        host.db.session.execute(sa.select(WebhookEndpoint.id)).all()
        (answer,) = at_once([meanwhile])
        assert answer.status_code < 300
        return "acme"

    host = hosts.busy(database, tenant=tenant)
    return host


@pytest.mark.several_connections
@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}], ids=["plain", "if-match"])
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_an_endpoint_deleted_while_the_host_looked_up_its_tenant_is_404(host, database, method, headers):
    path = create_endpoint(host.client()).path

    with closing(overtaken(database, lambda: host.client().delete(path))) as late:
        answer = late.client(None).open(path, method=method, json={"name": "late"}, headers=headers)

    assert answer.status_code == 404


@pytest.mark.several_connections
@pytest.mark.parametrize("operation", ["ping", "redeliver"])
def test_an_endpoint_deleted_while_the_host_looked_up_its_tenant_is_neither_pinged_nor_paused(
    host, database, operation
):
    # MariaDB's snapshot still had it: 409, it is paused.
    path = create_endpoint(host.client()).path
    delivery = host.client().post(f"{path}/ping").json["id"]

    with closing(overtaken(database, lambda: host.client().delete(path))) as late:
        where = f"{path}/ping" if operation == "ping" else f"{path}/deliveries/{delivery}/redeliver"
        answer = late.client(None).post(where)

    assert answer.status_code == 404


@pytest.mark.several_connections
def test_a_secret_rotated_while_the_host_looked_up_its_tenant_is_an_old_one(host, database):
    path = create_endpoint(host.client()).path

    with closing(overtaken(database, lambda: host.client().post(f"{path}/secret/rotate"))) as late:
        answer = late.client(None).post(f"{path}/secret/rotate")

    assert host.client().get(f"{path}/secret").json == answer.json
    assert [row.expires_at for row in rows(host, sa.select(WebhookSecret.expires_at))].count(None) == 1


@pytest.mark.several_connections
def test_an_idempotency_key_used_while_the_host_looked_up_its_tenant_is_met(host, database):
    first: list[TestResponse] = []

    def post_first() -> TestResponse:
        first.append(post_endpoint(host.client(), key="k"))
        return first[0]

    with closing(overtaken(database, post_first)) as late:
        answer = post_endpoint(late.client(None), key="k")

    assert (answer.status_code, answer.data) == (201, first[0].data)


def test_the_quota_is_exact_in_turn(database):
    with closing(hosts.busy(database, max_endpoints_per_tenant=3)) as host:
        answers = [post_endpoint(host.client()) for _ in range(5)]

        assert [answer.status_code for answer in answers] == [201, 201, 201, 409, 409]
        assert answers[-1].mimetype == "application/problem+json"
        assert post_endpoint(host.client("globex")).status_code == 201
        assert len(rows(host, sa.select(WebhookSecret.id))) == 4
        host.client().delete(Endpoint(answers[0].json).path)
        assert post_endpoint(host.client()).status_code == 201
        assert post_endpoint(host.client()).status_code == 409


@pytest.mark.several_connections
def test_requests_at_once_pass_the_quota_by_their_number_at_most(database):
    with closing(hosts.busy(database, max_endpoints_per_tenant=10)) as host:
        for _ in range(8):
            post_endpoint(host.client())

        answers = at_once([lambda: post_endpoint(host.client())] * 8)

        assert set(statuses(answers)) <= {201, 409}
        made = len(rows(host, sa.select(WebhookEndpoint.id)))
        assert made == 8 + statuses(answers)[201]
        assert 10 <= made <= (10 if database.startswith("sqlite") else 8 + 8)
        assert post_endpoint(host.client()).status_code == 409


def test_the_secret_in_force_is_known_by_its_mark_though_clocks_of_two_processes_differ(host, monkeypatch):
    path = create_endpoint(host.client()).path
    with monkeypatch.context() as clock:
        clock.setattr(secrets, "new_id", lambda: UUID(int=1))
        rotated = host.client().post(f"{path}/secret/rotate")

    shown = host.client().get(f"{path}/secret")

    assert shown.json == rotated.json
