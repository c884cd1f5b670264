"""What is stored encrypted belongs to its row: copied to another one, it can't be read there."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from flask.testing import FlaskClient

from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.database import ENDPOINT, SECRET, execute, rows

KEY = Fernet.generate_key().decode()
NEWER = Fernet.generate_key().decode()
MINE, THEIRS = "the secret of acme", "the secret of globex"
HEADERS = {"Authorization": "Bearer hunter2"}


@pytest.fixture
def host(database: str) -> Iterator[hosts.Host]:
    host = make(database)
    yield host
    host.close()


def make(database: str, *keys: str) -> hosts.Host:
    config = {"WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS": list(keys or [KEY])}
    return hosts.flask_sqlalchemy(database, allowed_networks=hosts.LOOPBACK, **config)


def secrets_of(host: hosts.Host) -> dict[str, str]:
    """Return the tenants' tokens; each has one endpoint with one secret."""
    of_tenants = sa.select(ENDPOINT.c.tenant_id, SECRET.c.secret_encrypted)
    stored = rows(host, of_tenants.join_from(SECRET, ENDPOINT, ENDPOINT.c.id == SECRET.c.endpoint_id))
    return {row[0]: row[1] for row in stored}


@pytest.fixture
def url(webhook_receiver: Any) -> str:
    return webhook_receiver.url


@pytest.fixture
def both(host: hosts.Host, url: str) -> tuple[FlaskClient, str, FlaskClient, str]:
    acme, globex = host.client(), host.client("globex")
    return (
        acme,
        create_endpoint(acme, url, secret=MINE, headers_json=HEADERS).path,
        globex,
        create_endpoint(globex, url, secret=THEIRS, headers_json=HEADERS).path,
    )


def id_of(tenant_id: str) -> Any:
    return sa.select(ENDPOINT.c.id).where(ENDPOINT.c.tenant_id == tenant_id).scalar_subquery()


def set_secret(host: hosts.Host, tenant_id: str, token: str) -> None:
    execute(host, sa.update(SECRET).where(SECRET.c.endpoint_id == id_of(tenant_id)).values(secret_encrypted=token))


def set_headers(host: hosts.Host, tenant_id: str, token: str) -> None:
    execute(host, sa.update(ENDPOINT).where(ENDPOINT.c.tenant_id == tenant_id).values(headers_encrypted=token))


def headers_of(host: hosts.Host, tenant_id: str) -> str:
    stored = sa.select(ENDPOINT.c.headers_encrypted).where(ENDPOINT.c.tenant_id == tenant_id)
    return str(rows(host, stored)[0][0])


def error_of_a_delivery(host: hosts.Host, client: FlaskClient, path: str) -> Any:
    """Return what the first attempt of a new event ended in; None where it was delivered."""
    with host.app.app_context():
        host.webhooks.publish("invoice.paid", 7, tenant_id=client.environ_base["HTTP_X_TENANT"])
        host.db.session.commit()
    newest = client.get(f"{path}/deliveries").json[0]["id"]
    drain(host.app)
    log = client.get(f"{path}/deliveries/{newest}").json["attempt_log"]
    return log[-1]["error"]


def test_a_secret_copied_into_another_row_is_unreadable_there(host, both):
    acme, mine, globex, theirs = both
    tokens = secrets_of(host)

    set_secret(host, "acme", tokens["globex"])

    answer = acme.get(f"{mine}/secret")
    assert (answer.status_code, answer.mimetype) == (409, "application/problem+json")
    assert THEIRS not in answer.text
    assert error_of_a_delivery(host, acme, mine) == "unreadable_secret"
    assert globex.get(f"{theirs}/secret").json["secret"] == THEIRS
    assert acme.post(f"{mine}/secret/rotate", json={"secret": MINE}).status_code == 200
    assert error_of_a_delivery(host, acme, mine) is None


def test_a_secret_whose_row_is_given_to_another_endpoint_is_unreadable_there(host, both):
    acme, mine, *_ = both
    execute(host, sa.delete(SECRET).where(SECRET.c.endpoint_id == id_of("acme")))

    execute(host, sa.update(SECRET).values(endpoint_id=id_of("acme")))

    assert acme.get(f"{mine}/secret").status_code == 409
    assert error_of_a_delivery(host, acme, mine) == "unreadable_secret"


def test_an_old_secret_copied_over_the_one_in_force_is_unreadable(host, both):
    acme, mine, *_ = both
    old = secrets_of(host)["acme"]
    acme.post(f"{mine}/secret/rotate", json={"secret": "another secret of acme", "overlap_seconds": 0})

    set_secret(host, "acme", old)

    assert acme.get(f"{mine}/secret").status_code == 409


def test_headers_copied_into_another_row_are_unreadable_there(host, both):
    acme, mine, globex, theirs = both

    set_headers(host, "acme", headers_of(host, "globex"))

    assert acme.get(mine).json["headers_json"] is None
    assert acme.get("/v1/endpoints").json[0]["headers_json"] is None
    assert error_of_a_delivery(host, acme, mine) == "unreadable_secret"
    assert globex.get(theirs).json["headers_json"] == HEADERS
    assert acme.patch(mine, json={"headers_json": {}}).json["headers_json"] == {}
    assert error_of_a_delivery(host, acme, mine) is None


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "as stored before"])
def test_a_token_of_the_wrong_kind_is_unreadable_and_never_a_500(host, both, bound):
    acme, mine, *_ = both
    if bound:
        secret, headers = secrets_of(host)["acme"], headers_of(host, "acme")
    else:
        secret, headers = (Fernet(KEY).encrypt(text.encode()).decode() for text in (MINE, json.dumps(HEADERS)))

    set_headers(host, "acme", secret)
    if bound:
        set_secret(host, "acme", headers)

    for path in ("/v1/endpoints", mine):
        assert acme.get(path).status_code == 200
        assert MINE not in acme.get(path).text
    assert acme.get(mine).json["headers_json"] is None
    assert acme.get(f"{mine}/secret").status_code == (409 if bound else 200)
    assert error_of_a_delivery(host, acme, mine) == "unreadable_secret"
    assert acme.patch(mine, json={"name": "m"}).status_code == 200


WRONG_PLAIN_TEXTS = [
    "",
    "null",
    "[]",
    "7",
    '"text"',
    '{"A": 1}',
    '{"A": null}',
    '{"A": {"B": "C"}}',
    "{",
    "\x00",
    "\x00\x00\x00",
]


def test_headers_that_are_no_headers_are_unreadable(host, both):
    acme, mine, *_ = both

    for text in WRONG_PLAIN_TEXTS:
        set_headers(host, "acme", Fernet(KEY).encrypt(text.encode()).decode())

        assert acme.get(mine).json["headers_json"] is None, text
        assert error_of_a_delivery(host, acme, mine) == "unreadable_secret", text


def test_what_is_no_token_is_unreadable(host, both):
    acme, mine, *_ = both

    for token in ("", "x", "é", "gAAAAA", "A" * 43 + "="):
        set_headers(host, "acme", token)
        set_secret(host, "acme", token)

        assert acme.get(mine).json["headers_json"] is None, token
        assert acme.get(f"{mine}/secret").status_code == 409, token
        assert error_of_a_delivery(host, acme, mine) == "unreadable_secret", token


def store_as_before(host: hosts.Host) -> None:
    """Store all values as versions before this one did: by the text alone."""
    old = Fernet(KEY)
    set_secret(host, "acme", old.encrypt(MINE.encode()).decode())
    set_secret(host, "globex", old.encrypt(THEIRS.encode()).decode())
    for tenant_id in ("acme", "globex"):
        set_headers(host, tenant_id, old.encrypt(json.dumps(HEADERS).encode()).decode())


def test_what_was_stored_before_is_read(host, both, webhook_receiver):
    acme, mine, *_ = both
    store_as_before(host)

    assert acme.get(mine).json["headers_json"] == HEADERS
    assert acme.get(f"{mine}/secret").json["secret"] == MINE
    assert error_of_a_delivery(host, acme, mine) is None
    webhook_receiver.received[-1].verify(MINE)
    assert webhook_receiver.received[-1].headers["authorization"] == HEADERS["Authorization"]


def test_rotate_keys_binds_what_was_stored_before(database, host, both):
    acme, mine, globex, theirs = both
    store_as_before(host)

    result = host.app.test_cli_runner().invoke(args=["webhooks", "rotate-keys", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["secrets"] == {"renewed": 2, "unreadable": []}

    assert acme.get(mine).json["headers_json"] == HEADERS
    assert acme.get(f"{mine}/secret").json["secret"] == MINE
    assert error_of_a_delivery(host, acme, mine) is None
    set_secret(host, "acme", secrets_of(host)["globex"])
    set_headers(host, "acme", headers_of(host, "globex"))
    assert acme.get(f"{mine}/secret").status_code == 409
    assert acme.get(mine).json["headers_json"] is None
    assert globex.get(f"{theirs}/secret").json["secret"] == THEIRS


def test_rotate_keys_names_what_was_copied_and_leaves_it(host, both):
    acme, mine, *_ = both
    set_secret(host, "acme", secrets_of(host)["globex"])
    set_headers(host, "acme", secrets_of(host)["globex"])

    result = host.app.test_cli_runner().invoke(args=["webhooks", "rotate-keys", "--json"])

    renewed = json.loads(result.stdout)
    endpoint_id = mine.rpartition("/")[2]
    assert renewed["secrets"] == {"renewed": 1, "unreadable": [endpoint_id]}
    assert renewed["headers"] == {"renewed": 1, "unreadable": [endpoint_id]}
    assert acme.get(f"{mine}/secret").status_code == 409


@pytest.mark.several_connections
def test_tokens_stay_bound_under_a_newer_key(database, host, both):
    mine = both[1]
    with_both = make(database, NEWER, KEY)
    with_both.app.test_cli_runner().invoke(args=["webhooks", "rotate-keys"])
    newer = make(database, NEWER)

    assert newer.client("acme").get(f"{mine}/secret").json["secret"] == MINE
    assert newer.client("acme").get(mine).json["headers_json"] == HEADERS
    set_secret(host, "acme", secrets_of(host)["globex"])
    assert newer.client("acme").get(f"{mine}/secret").status_code == 409
    for each in (with_both, newer):
        each.close()


def test_doctor_counts_what_was_copied_as_unreadable(host, both):
    set_secret(host, "acme", secrets_of(host)["globex"])

    result = host.app.test_cli_runner().invoke(args=["webhooks", "doctor", "--json"])

    (keys,) = [finding for finding in json.loads(result.stdout) if finding["check"] == "keys"]
    assert (keys["level"], keys["message"]) == ("fail", "no key reads 1 of 4 stored secrets and headers")


# A worker keeps what it has decrypted by its token: the same token in another row must not be found there.
def test_a_worker_that_has_read_a_token_does_not_read_it_for_another_row(host, both):
    acme, mine, globex, theirs = both
    set_secret(host, "acme", secrets_of(host)["globex"])
    set_headers(host, "acme", headers_of(host, "globex"))
    deliveries = [(globex, theirs), (acme, mine)]
    ids = [client.post(f"{path}/ping").json["id"] for client, path in deliveries]

    drain(host.app)

    logs = [
        client.get(f"{path}/deliveries/{delivery}").json["attempt_log"]
        for (client, path), delivery in zip(deliveries, ids, strict=True)
    ]
    assert [log[-1]["error"] for log in logs] == [None, "unreadable_secret"]
