import logging
import traceback
from base64 import b64decode
from dataclasses import fields
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flask_webhook_endpoints.core.endpoint_row import Endpoint
from flask_webhook_endpoints.core.idempotency import IdempotencyKey
from flask_webhook_endpoints.core.secrets import SecretInForce
from flask_webhook_endpoints.security.encryption import Headers, Secret
from flask_webhook_endpoints.state import state_of
from tests.support import hosts
from tests.support.api import create_endpoint, secret_of

GIVEN = "hunter22-given-at-first"
PATCHED = "hunter22-patched-then"
ROTATED = "hunter22-rotated-last"
HEADER = "hunter22-header"
MARK = "hunter22"
NEW = {
    "name": "n",
    "url": "https://example.com/",
    "secret": GIVEN,
    "headers_json": {"Authorization": HEADER},
}


def forms(secret):
    """Return the secret as text that a leak could hold: itself, quoted, and its bytes where it is a key."""
    forms = {secret, quote(secret, safe="")}
    if secret.startswith("whsec_"):
        key = b64decode(secret.removeprefix("whsec_"))
        forms |= {secret.removeprefix("whsec_"), key.hex(), repr(key)}
    return forms


def life(client):
    """Lead an endpoint through every request that touches a secret; return all answers' texts, and all secrets."""
    created = client.post("/v1/endpoints", json=NEW, headers={"Idempotency-Key": "k"})
    repeated = client.post("/v1/endpoints", json=NEW, headers={"Idempotency-Key": "k"})
    reused = client.post("/v1/endpoints", json={**NEW, "name": "m"}, headers={"Idempotency-Key": "k"})
    path = f"/v1/endpoints/{created.json['id']}"
    generated = client.post("/v1/endpoints", json={**NEW, "secret": GIVEN, "name": "g"})
    own = client.post("/v1/endpoints", json={"name": "n", "url": "https://example.com/"})
    own_path = f"/v1/endpoints/{own.json['id']}"
    secrets = {GIVEN, PATCHED, ROTATED, secret_of(client, own_path)}
    answers = [
        *(created, repeated, reused, generated, own),
        client.patch(path, json={"secret": PATCHED}),
        client.patch(path, json={"secret": PATCHED, "name": ""}),
        client.patch(path, json={"secret": PATCHED, "x": 1}),
        client.patch(path, json={"secret": PATCHED}, headers={"If-Match": '"99"'}),
        client.patch("/v1/endpoints/ep_x", json={"secret": PATCHED}),
        client.patch(path, json={"secret": f"{GIVEN}\n"}),
        client.patch(path, json={"secret": [GIVEN]}),
        client.patch(path, json={"secret": GIVEN * 20}),
        client.patch(path, data=f'{{"secret": "{GIVEN}"', content_type="application/json"),
        client.patch(path, data=f'{{"secret": "{GIVEN}", "secret": 1}}', content_type="application/json"),
        client.patch(path, data=f'{{"secret": "{GIVEN}"}}', content_type="text/plain"),
        client.post(f"{path}/secret/rotate", json={"secret": ROTATED, "overlap_seconds": -1}),
        client.post(f"{path}/secret/rotate", json={"secret": f"{ROTATED}\n"}),
        client.get("/v1/endpoints"),
        client.get(path),
        client.put(path, json={"secret": GIVEN}),
    ]
    for wanted in ({"secret": ROTATED}, {}):
        rotated = client.post(f"{path}/secret/rotate", json=wanted)
        assert rotated.headers["Cache-Control"] == "no-store"
        secrets.add(rotated.json["secret"])
    answers += [client.get(path), client.delete(path), client.get(path)]
    return [f"{answer.headers}{answer.text}" for answer in answers], secrets


def test_no_answer_but_the_secrets_own_shows_a_secret(acme):
    texts, secrets = life(acme)

    assert len(secrets) == 5
    assert not [text for text in texts for secret in secrets for form in forms(secret) if form in text]


def test_header_values_are_shown_as_stored_and_in_no_refusal(acme):
    path = create_endpoint(acme, **NEW).path

    assert acme.get(path).json["headers_json"] == {"Authorization": HEADER}
    for headers in (
        {"Host": HEADER},
        {"A": f"{HEADER}\n"},
        {"A": HEADER * 300},
        {"A": [HEADER]},
        {"A": HEADER, "": ""},
    ):
        answer = acme.patch(path, json={"headers_json": headers})
        assert answer.status_code == 422
        assert HEADER not in answer.text


def test_no_log_record_shows_a_secret_or_a_header(database, caplog):
    caplog.set_level(logging.DEBUG)  # of the root: SQLAlchemy, werkzeug, flask, the driver and ours
    host = hosts.flask_sqlalchemy(database, SQLALCHEMY_ECHO="debug", SQLALCHEMY_RECORD_QUERIES=True)

    _, secrets = life(host.client())

    host.close()
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "INSERT INTO webhook_secret" in logged  # the statements are there, with their parameters
    assert not [form for secret in {*secrets, HEADER} for form in forms(secret) if form in logged]


def test_no_repr_shows_a_secret_or_a_header():
    secret, headers = Secret(MARK), Headers(Authorization=MARK)
    endpoint = Endpoint(**{**dict.fromkeys(each.name for each in fields(Endpoint)), "headers_json": headers})
    things = [secret, headers, endpoint, IdempotencyKey("k", secret), SecretInForce(secret, None, None)]

    for thing in things:
        for text in (repr(thing), str(thing), f"{thing}", f"{[thing]}", f"{({'k': thing},)}"):
            assert MARK not in text
    assert "Authorization" in repr(headers)
    assert not hasattr(secret, "__dict__")


def test_no_object_of_the_application_shows_a_secret_or_a_key(host, acme):
    life(acme)

    state = state_of(host.app)
    things = [host.webhooks, host.webhooks.blueprint, state, *vars(state).values()]
    assert not [thing for thing in things if MARK in repr(thing) or "host secret" in repr(thing)]


BROKEN_TABLES = {
    "secrets are gone": "DROP TABLE webhook_secret",
    "idempotency keys are gone": "DROP TABLE webhook_idempotency_key",
    "endpoints are gone": "DROP TABLE webhook_endpoint",
}


@pytest.mark.parametrize("statement", BROKEN_TABLES.values(), ids=BROKEN_TABLES.keys())
def test_no_traceback_with_local_variables_shows_a_secret(host, acme, statement):
    path = create_endpoint(acme, **NEW).path
    with host.app.app_context(), host.db.engine.begin() as connection:
        if "webhook_endpoint" in statement:
            connection.execute(sa.text("DROP TABLE webhook_secret"))
        connection.execute(sa.text(statement))

    failures = []
    for method, where, body, headers in (
        ("POST", "/v1/endpoints", NEW, {}),
        ("POST", "/v1/endpoints", NEW, {"Idempotency-Key": "k"}),
        ("PATCH", path, {**NEW, "secret": PATCHED}, {}),
        ("POST", f"{path}/secret/rotate", {"secret": ROTATED}, {}),
        ("POST", f"{path}/secret/rotate", {}, {}),
        ("GET", f"{path}/secret", None, {}),
    ):
        try:
            acme.open(where, method=method, json=body, headers=headers)
        except DBAPIError as error:
            failures.append(error)

    assert failures
    for error in failures:
        shown = our_part_of(traceback.TracebackException.from_exception(error, capture_locals=True))
        assert "transactions.py" in shown
        assert MARK not in shown
        assert "whsec_" not in shown
        assert MARK not in f"{error} {error!r} {error.params} {error.__context__!r} {error.__cause__!r}"


def our_part_of(trace):
    """Return the traceback as it is formatted, chained ones included, less the frames of the client that asks."""
    chained = []
    while trace is not None:
        # The client's frames hold the request; from Flask's inward everything is looked at.
        server = [i for i, frame in enumerate(trace.stack) if frame.filename.endswith("flask/app.py")]
        frames = trace.stack[server[0] :] if server else trace.stack
        trace.stack = traceback.StackSummary.from_list([])
        trace.stack.extend(frames)
        following = trace.__cause__ or trace.__context__
        chained.append("".join(trace.format(chain=False)))
        trace = following
    return "\n".join(chained)


@pytest.mark.several_connections
def test_an_unavailable_database_is_logged_without_a_secret(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    host = hosts.flask_sqlalchemy(f"sqlite:///{tmp_path}/host.db?timeout=0")
    other = sa.create_engine(f"sqlite:///{tmp_path}/host.db")

    with other.connect() as connection:
        connection.execute(sa.text("BEGIN IMMEDIATE"))
        answer = host.client().post("/v1/endpoints", json=NEW, headers={"Idempotency-Key": "k"})
        connection.rollback()

    other.dispose()
    host.close()
    assert answer.status_code == 503
    assert "webhooks.database_unavailable" in [record.msg for record in caplog.records]
    assert MARK not in "".join(str(vars(record)) for record in caplog.records) + answer.text


@pytest.mark.parametrize("journal", ["DELETE", "PERSIST", "WAL"])
def test_the_files_of_sqlite_hold_no_secret_in_clear(tmp_path, journal):
    host = hosts.flask_sqlalchemy(f"sqlite:///{tmp_path}/host.db")
    with host.app.app_context(), host.db.engine.connect() as connection:
        connection.execute(sa.text(f"PRAGMA journal_mode={journal}"))
    client = host.client()
    _, secrets = life(client)
    client.post("/v1/endpoints", json={**NEW, "name": "a name in clear"})

    # Not closed yet: WAL and journal are there.
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    host.close()
    assert b"a name in clear" in b"".join(files.values())
    assert len(files) == {"DELETE": 1, "PERSIST": 2, "WAL": 3}[journal]
    for content in files.values():
        assert not [form for secret in {*secrets, HEADER} for form in forms(secret) if form.encode() in content]
