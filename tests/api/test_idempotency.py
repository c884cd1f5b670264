"""`Idempotency-Key` on every POST: one effect, and the first answer as often as it is asked for."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet

from flask_webhook_endpoints import signals
from flask_webhook_endpoints.api.routes import ROUTES
from flask_webhook_endpoints.core.idempotency import MAX_KEYS
from flask_webhook_endpoints.database.models import WebhookIdempotencyKey, WebhookRedeliveryCount
from tests.support import hosts
from tests.support.api import NEW, PATH, Endpoint, assert_problem, create_endpoint, post_endpoint, secret_of
from tests.support.database import DELIVERY, ENDPOINT, SECRET, TABLES, count, execute, on_sqlite, rows
from tests.support.deliveries import publish
from tests.support.waiting import at_once

KEYS = TABLES["webhook_idempotency_key"]
KEY = {"Idempotency-Key": "k"}
BODIES = {
    "create_endpoint": {**NEW, "headers_json": {"X-Key": "hunter22"}, "secret": "a secret of theirs"},
    "rotate_secret": {"overlap_seconds": 60},
    "redeliver": {},
    "ping": {},
    "recover": {"since": "2020-01-01T00:00:00Z"},
}
"""A body for each POST."""
ALL = pytest.mark.parametrize("operation", BODIES)


@pytest.fixture
def paths(host):
    """The path of each POST, of an endpoint of acme with a delivery."""
    endpoint = create_endpoint(host.client())
    publish(host)
    (delivery,) = host.client().get(f"{endpoint.path}/deliveries").json
    return {
        route.view.__name__: route.path.replace("<ep_id>", endpoint.id).replace("<dlv_id>", delivery["id"])
        for route in ROUTES
        if route.method == "POST"
    }


def effects(host):
    """Count what requests have written, the keys left out."""
    redeliveries = rows(host, sa.select(WebhookRedeliveryCount.redeliveries))
    versions = rows(host, sa.select(ENDPOINT.c.id, ENDPOINT.c.version).order_by(ENDPOINT.c.id))
    return count(host, SECRET), count(host, DELIVERY), redeliveries, versions


def test_every_post_is_tried_here(paths):
    assert paths.keys() == BODIES.keys()
    assert all("Idempotency-Key" in route.headers for route in ROUTES if route.method == "POST")


@ALL
def test_a_repeated_request_gets_the_first_answer_and_does_nothing(host, paths, operation):
    client, path, body = host.client(), paths[operation], BODIES[operation]
    before = effects(host)

    first = client.post(path, json=body, headers=KEY)
    done = effects(host)
    again = [client.post(path, json=body, headers=KEY) for _ in range(2)]

    assert first.status_code in (200, 201, 202)
    assert "Idempotent-Replayed" not in first.headers
    assert before != done == effects(host)
    for answer in again:
        assert (answer.status_code, answer.data) == (first.status_code, first.data)
        assert list(answer.headers) == [*first.headers, ("Idempotent-Replayed", "true")]
    # A second ping is refused while the first one waits.
    client.post(path, json=body, headers={"Idempotency-Key": "other"})
    assert (effects(host) == done) == (operation == "ping")


@ALL
def test_a_key_with_another_path_or_body_is_refused(host, paths, operation):
    client, path, body = host.client(), paths[operation], BODIES[operation]
    first = client.post(path, json=body, headers=KEY)
    done = effects(host)

    for other, other_path in paths.items():
        if other != operation:
            problem = client.post(other_path, json=BODIES[other], headers=KEY)
            assert_problem(problem, 422)
            assert problem.json["code"] == "idempotency_key_reused"
    for other_body in ({**NEW, "name": "other"}, {"overlap_seconds": 61}, {"x": 1}):
        assert client.post(path, json=other_body, headers=KEY).status_code == 422

    assert effects(host) == done
    assert client.post(path, json=body, headers=KEY).data == first.data


@ALL
def test_keys_are_of_one_tenant(host, paths, operation):
    acme, globex = host.client(), host.client("globex")
    first = acme.post(paths[operation], json=BODIES[operation], headers=KEY)

    theirs = globex.post(paths[operation], json=BODIES[operation], headers=KEY)

    assert "Idempotent-Replayed" not in theirs.headers
    assert theirs.status_code == (201 if operation == "create_endpoint" else 404)
    assert theirs.json.get("id") != first.json.get("id", 0)


@ALL
def test_a_request_that_is_refused_or_fails_leaves_no_key(host, paths, operation):
    client = host.client()
    wrong = {"create_endpoint": {"name": ""}, "rotate_secret": {"overlap_seconds": -1}, "recover": {}}

    if operation in wrong:
        assert client.post(paths[operation], json=wrong[operation], headers=KEY).status_code == 422
    else:
        one = paths["ping"].removesuffix("/ping")
        client.patch(one, json={"status": "PAUSED"})
        assert client.post(paths[operation], json={}, headers=KEY).status_code == 409
        client.patch(one, json={"status": "ACTIVE"})
    assert count(host, KEYS) == 0

    accepted = client.post(paths[operation], json=BODIES[operation], headers=KEY)
    assert accepted.status_code in (200, 201, 202)
    assert "Idempotent-Replayed" not in accepted.headers


@ALL
@pytest.mark.several_connections
def test_of_12_requests_at_once_one_has_the_effect(host, paths, operation):
    before = effects(host)
    clients = [host.client() for _ in range(12)]

    answers = at_once([lambda c=c: c.post(paths[operation], json=BODIES[operation], headers=KEY) for c in clients])

    assert len({(answer.status_code, answer.data) for answer in answers}) == 1
    assert sorted("Idempotent-Replayed" in answer.headers for answer in answers) == [False] + [True] * 11
    endpoints, redeliveries = (2, 1) if operation == "create_endpoint" else (1, 1)
    secrets, deliveries, counted, versions = effects(host)
    assert len(versions) == endpoints
    assert secrets - before[0] <= 1
    assert deliveries - before[1] <= 1
    assert counted in ([], [(redeliveries,)])


def test_signals_are_sent_once(host, paths):
    heard = []

    def listen(sender, *, endpoint_id, **_):
        heard.append(endpoint_id)

    client = host.client()
    with signals.endpoint_created.connected_to(listen), signals.endpoint_updated.connected_to(listen):
        for operation, body in BODIES.items():
            for _ in range(3):
                client.post(paths[operation], json=body, headers={"Idempotency-Key": operation})

    assert len(heard) == 2


def test_a_secret_that_was_generated_is_shown_again_and_stored_nowhere_in_clear(host, paths):
    client = host.client()
    first = client.post(paths["rotate_secret"], headers=KEY).json
    client.post(paths["rotate_secret"])
    again = client.post(paths["rotate_secret"], headers=KEY)
    client.post(PATH, json=BODIES["create_endpoint"], headers={"Idempotency-Key": "other"})

    assert again.json == first
    assert again.headers["Cache-Control"] == "no-store"
    tokens = [token for (token,) in rows(host, sa.select(KEYS.c.answer_encrypted))]
    assert len(tokens) == 2
    assert all(token.isascii() and token.startswith("gAAAA") for token in tokens)
    assert not any(first["secret"] in token or "hunter22" in token for token in tokens)


def test_an_answer_that_was_copied_to_another_key_or_tenant_is_not_shown(host, paths):
    host.client().post(paths["rotate_secret"], headers=KEY)
    (token,) = rows(host, sa.select(KEYS.c.answer_encrypted))[0]
    theirs = create_endpoint(host.client("globex"))
    body = {**BODIES["create_endpoint"], "name": "theirs"}
    host.client("globex").post(PATH, json=body, headers=KEY)

    execute(host, sa.update(KEYS).where(KEYS.c.tenant_id == "globex").values(answer_encrypted=token))

    problem = host.client("globex").post(PATH, json=body, headers=KEY)
    assert problem.json["code"] == "idempotency_key_reused"
    assert len(host.client("globex").get(PATH).json) == 2
    assert host.client("globex").get(theirs.path).json == theirs


@pytest.mark.several_connections
def test_an_answer_whose_encryption_key_is_lost_is_not_shown_and_nothing_is_done_again(database):
    hosts_of = [hosts.flask_sqlalchemy(database, encryption_keys=[Fernet.generate_key().decode()]) for _ in range(2)]
    first, second = (host.client() for host in hosts_of)
    created = post_endpoint(first, key="k")

    problem = post_endpoint(second, key="k")

    assert problem.json["code"] == "idempotency_key_reused"
    assert [each["id"] for each in first.get(PATH).json] == [created.json["id"]]
    for host in hosts_of:
        host.close()


def test_a_key_without_an_answer_is_of_an_older_version_and_free(host):
    first = post_endpoint(host.client(), key="k")
    execute(host, sa.update(KEYS).values(answer_encrypted=None))

    again = post_endpoint(host.client(), key="k")

    assert again.status_code == 201
    assert again.json["id"] != first.json["id"]
    assert post_endpoint(host.client(), key="k").data == again.data


def test_a_tenant_uses_10000_keys_a_day_at_most(host):
    now = datetime.now(UTC)
    old = {"tenant_id": "acme", "answer_encrypted": "x", "created_at": now - timedelta(hours=23)}
    many = [{**old, "key": f"old {number}"} for number in range(MAX_KEYS)]
    execute(host, sa.insert(WebhookIdempotencyKey), many)

    refused = post_endpoint(host.client(), key="k")

    assert_problem(refused, 429)
    assert refused.json["code"] == "too_many_idempotency_keys"
    assert 3500 < int(refused.headers["Retry-After"]) <= 3600
    assert count(host, KEYS) == MAX_KEYS
    assert host.client().get(PATH).json == []
    assert post_endpoint(host.client()).status_code == 201
    assert post_endpoint(host.client("globex"), key="k").status_code == 201

    expired = sa.update(KEYS).where(KEYS.c.key.like("old 1%")).values(created_at=now - timedelta(hours=24))
    execute(host, expired)
    assert post_endpoint(host.client(), key="k").status_code == 201
    assert count(host, KEYS, KEYS.c.tenant_id == "acme") < MAX_KEYS


@on_sqlite
@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb"])
@ALL
def test_a_bad_key_is_400_on_every_post(host, paths, operation, key):
    before = effects(host)

    bad = host.client().post(paths[operation], json=BODIES[operation], headers={"Idempotency-Key": key})

    assert_problem(bad, 400)
    assert effects(host) == before


def test_a_replay_of_the_largest_answer_is_whole_on_every_database(host):
    body = {
        "name": '"' * 255,
        "url": "https://example.com/".ljust(2048, "x"),
        "headers_json": {"A": '"' * 4096, "B": "\\" * 4094},
        "event_types": [f"{number:03}{'x' * 125}" for number in range(100)],
        "description": "😀" * 1000,
        "metadata": {"a": '"' * 2044},
    }
    first = host.client().post(PATH, json=body, headers=KEY)
    again = host.client().post(PATH, json=body, headers=KEY)

    assert first.status_code == again.status_code == 201, first.text
    assert again.data == first.data


def test_a_forgotten_tenants_keys_are_gone(host, paths):
    host.client().post(paths["ping"], headers=KEY)
    with host.app.app_context():
        host.webhooks.forget_tenant("acme")
        host.db.session.commit()

    assert count(host, KEYS) == 0


def test_a_replay_keeps_the_secret_of_the_first_answer(host):
    first = post_endpoint(host.client(), key="k", secret="a secret of theirs")
    path = Endpoint(first.json).path
    host.client().patch(path, json={"secret": "another secret of theirs"})

    assert post_endpoint(host.client(), key="k", secret="a secret of theirs").data == first.data
    assert secret_of(host.client(), path) == "another secret of theirs"
