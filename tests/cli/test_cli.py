"""`flask webhooks rotate-keys` and `prune`."""

import json
import logging
import os
import pty
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from flask.cli import ScriptInfo

from flask_webhook_endpoints.core import key_rotation
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.models import DeliveryStatus, WebhookModel
from flask_webhook_endpoints.security.encryption import Cipher, derive_key
from flask_webhook_endpoints.state import current_state
from tests.support import hosts
from tests.support.api import create_endpoint, post_endpoint
from tests.support.commands import run_command
from tests.support.database import on_sqlite
from tests.support.deliveries import finish

SECRET = "whsec_c2l4dGVlbiBieXRlcyBvciBtb3JlIG9mIGtleSE="
PRIVATE = {"secret": SECRET, "headers_json": {"X-Key": "header value"}}
"""Fields of an endpoint that are stored encrypted."""

TABLES = WebhookModel.metadata.tables
MAKE_TABLES = (
    "\nMake the tables: create_all(), your migrations, or `flask webhooks db upgrade`."
    " `flask webhooks doctor` names what is missing.\n"
)

HostWith = Callable[..., hosts.Host]


@pytest.fixture
def host_with(database: str) -> Iterator[HostWith]:
    """Makes the host anew, as a deployment with another configuration does."""
    made: list[hosts.Host] = []

    def make(**config: Any) -> hosts.Host:
        made.append(hosts.flask_sqlalchemy(database, **config))
        return made[-1]

    yield make
    for host in made:
        host.close()


def assert_all_is_there(host: hosts.Host, ep_id: str) -> None:
    client = host.client()
    assert client.get(f"/v1/endpoints/{ep_id}").json["headers_json"] == PRIVATE["headers_json"]
    assert client.get(f"/v1/endpoints/{ep_id}/secret").json["secret"] == SECRET


def stored(host: hosts.Host, column: sa.Column[Any]) -> list[Any]:
    with host.app.app_context():
        return list(host.db.session.execute(sa.select(column)).scalars())


@pytest.mark.several_connections
def test_a_rotated_secret_key_loses_nothing_once_the_keys_are_rotated(host_with):
    ep_id = create_endpoint(host_with(SECRET_KEY="old").client(), **PRIVATE).id
    both = host_with(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"])
    assert_all_is_there(both, ep_id)

    rotated = run_command(both, "rotate-keys")

    assert rotated.exit_code == 0
    assert "Secrets renewed: 1, unreadable: 0\n" in rotated.output
    assert "Headers renewed: 1, unreadable: 0\n" in rotated.output
    assert_all_is_there(host_with(SECRET_KEY="new"), ep_id)


@pytest.mark.several_connections
def test_encryption_keys_take_over_from_the_secret_key(host_with):
    ep_id = create_endpoint(host_with(SECRET_KEY="host secret").client(), **PRIVATE).id
    keys = [Fernet.generate_key().decode()]
    moved = host_with(SECRET_KEY="host secret", WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS=keys)
    assert_all_is_there(moved, ep_id)

    assert run_command(moved, "rotate-keys").exit_code == 0

    assert_all_is_there(host_with(SECRET_KEY="another", WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS=keys), ep_id)


@pytest.mark.several_connections
def test_a_lost_key_takes_secrets_and_headers_and_nothing_else(host_with):
    ep_id = create_endpoint(host_with(SECRET_KEY="lost").client(), **PRIVATE).id
    client = host_with(SECRET_KEY="new").client("acme")
    path = f"/v1/endpoints/{ep_id}"

    assert client.get(path).json["headers_json"] is None
    assert [endpoint["headers_json"] for endpoint in client.get("/v1/endpoints").json] == [None]
    assert client.get(f"{path}/secret").status_code == 409
    assert client.patch(path, json={"name": "renamed"}).json["headers_json"] is None
    assert client.patch(path, json={"secret": SECRET, "headers_json": {"X-Key": "again"}}).status_code == 200
    assert client.get(path).json["headers_json"] == {"X-Key": "again"}
    assert client.get(f"{path}/secret").json["secret"] == SECRET
    assert client.delete(path).status_code == 204
    assert client.get("/v1/endpoints").json == []


@pytest.mark.several_connections
def test_rotate_keys_names_what_it_can_not_read_and_renews_the_rest(host_with):
    lost = create_endpoint(host_with(SECRET_KEY="lost").client(), **PRIVATE).id
    host = host_with(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"])
    kept = create_endpoint(host_with(SECRET_KEY="old").client(), **PRIVATE).id

    rotated = run_command(host, "rotate-keys")

    assert rotated.exit_code == 1
    assert "Secrets renewed: 1, unreadable: 1\n" in rotated.output
    assert f"No key reads the secrets of {lost}\n" in rotated.output
    assert f"No key reads the headers of {lost}\n" in rotated.output
    assert_all_is_there(host_with(SECRET_KEY="new"), kept)
    as_json = run_command(host, "rotate-keys", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.output) == {
        "secrets": {"renewed": 1, "unreadable": [lost]},
        "headers": {"renewed": 1, "unreadable": [lost]},
    }


def test_rotate_keys_goes_through_all_batches_and_repeats(host, monkeypatch):
    monkeypatch.setattr(transactions, "BATCH", 3)
    for number in range(8):
        create_endpoint(
            host.client(), secret=SECRET, name=f"endpoint {number}", headers_json={"X-Key": "v"} if number % 2 else {}
        )
    tokens = set(stored(host, TABLES["webhook_secret"].c.secret_encrypted))

    first, second = run_command(host, "rotate-keys"), run_command(host, "rotate-keys")

    assert first.exit_code == second.exit_code == 0
    assert "Secrets renewed: 8, unreadable: 0\n" in second.output
    assert "Headers renewed: 4, unreadable: 0\n" in second.output
    assert not tokens & set(stored(host, TABLES["webhook_secret"].c.secret_encrypted))


def test_rotate_keys_changes_nothing_that_a_tenant_sees(host):
    ep_id = create_endpoint(host.client(), **PRIVATE).id
    before = host.client().get(f"/v1/endpoints/{ep_id}")

    run_command(host, "rotate-keys")

    after = host.client().get(f"/v1/endpoints/{ep_id}")
    assert after.json == before.json
    assert after.headers["ETag"] == before.headers["ETag"]


@pytest.mark.several_connections
def test_rotate_keys_does_not_overwrite_a_concurrent_patch(host_with):
    host, patching = host_with(), host_with()
    ep_id = create_endpoint(host.client(), **PRIVATE).id

    class CipherWhileATenantWrites(Cipher):
        def renew(self, token: str, place: str | None = None) -> str:
            # Its own connection and transaction, between the batch's read and its write.
            changes = {"headers_json": {"X-Key": "newer"}, "secret": "a newer secret of mine"}
            assert patching.client("acme").patch(f"/v1/endpoints/{ep_id}", json=changes).status_code == 200
            return super().renew(token, place)

    cipher = CipherWhileATenantWrites([derive_key("host secret")])
    with host.app.app_context():
        scope = current_state().scope()
        (headers,) = [values for values in key_rotation.encrypted(scope.tables) if values.what == "headers"]
        batch = key_rotation.renew(scope, headers, cipher=cipher, after=None)
        scope.session.commit()

    assert batch is not None
    assert (batch.read, batch.renewed) == (1, 0)
    client = host.client()
    assert client.get(f"/v1/endpoints/{ep_id}").json["headers_json"] == {"X-Key": "newer"}
    assert client.get(f"/v1/endpoints/{ep_id}/secret").json["secret"] == "a newer secret of mine"


@pytest.mark.several_connections
def test_rotate_keys_prints_and_logs_nothing_secret(host_with, caplog):
    create_endpoint(host_with(SECRET_KEY="the lost key").client(), **PRIVATE)
    host = host_with(SECRET_KEY="the new key")
    create_endpoint(host.client(), **PRIVATE)
    tokens = stored(host, TABLES["webhook_secret"].c.secret_encrypted)

    with caplog.at_level(logging.DEBUG):
        shown = run_command(host, "rotate-keys").output + run_command(host, "prune").output

    shown += "".join(str(vars(record)) for record in caplog.records if not record.name.startswith("sqlalchemy"))
    for hidden in (SECRET, "header value", "the lost key", "the new key", *tokens):
        assert hidden not in shown


def shown_to_a_terminal(host: hosts.Host, command: str) -> str:
    """Return what a person sees on stderr, beside what the command prints."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stderr, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        program = ScriptInfo(create_app=lambda: host.app)
        assert not host.app.cli.main(["webhooks", *command.split()], standalone_mode=False, obj=program)
    shown = b""
    # Linux says by an error that the other end is closed.
    with suppress(OSError):
        while piece := os.read(ours, 65_536):
            shown += piece
    os.close(ours)
    return shown.decode()


@on_sqlite
@pytest.mark.parametrize(
    ("command", "label"),
    [
        ("prune", "Pruning deliveries"),
        ("rotate-keys", "Renewing secrets"),
        ("redeliver --tenant acme --status EXPIRED --yes", "Sending again"),
        ("forget-tenant acme --yes", "Deleting events"),
    ],
)
def test_long_work_shows_a_person_how_far_it_has_come_and_a_script_nothing(host, webhook_clock, command, label):
    create_endpoint(host.client(), **PRIVATE)
    with host.app.app_context():
        host.webhooks.publish("invoice.paid", 1, tenant_id="acme")
        host.db.session.commit()
    finish(host, DeliveryStatus.EXPIRED)
    webhook_clock.move(days=31)

    assert re.search(rf"{label} .*100%", shown_to_a_terminal(host, command))
    assert label not in shown_to_a_terminal(host, f"{command} --json")


@pytest.mark.parametrize(
    "command", ["rotate-keys", "prune", "status", "redeliver --tenant acme", "forget-tenant acme --yes"]
)
def test_commands_on_a_database_without_tables_say_what_to_do_without_a_traceback(host, command):
    with host.app.app_context():
        host.db.drop_all()

    result = run_command(host, *command.split())

    assert result.exit_code == 1
    assert "Error: The database refused: " in result.output
    assert result.output.endswith(MAKE_TABLES)
    assert isinstance(result.exception, SystemExit)


def test_what_else_the_database_refuses_is_not_put_down_to_missing_tables(host):
    with host.app.app_context():
        host.db.session.execute(sa.text("ALTER TABLE webhook_secret RENAME COLUMN secret_encrypted TO away"))
        host.db.session.commit()

    result = run_command(host, "rotate-keys")

    assert "Error: The database refused: " in result.output
    assert "secret_encrypted" in result.output
    assert "Make the tables" not in result.output


def test_prune_deletes_what_has_served_its_time_and_nothing_else(host, monkeypatch):
    monkeypatch.setattr(transactions, "BATCH", 3)
    client = host.client()
    ep_id = create_endpoint(host.client(), **PRIVATE).id
    for number in range(10):
        post_endpoint(client, key=f"key {number}")
    for overlap_seconds in (3600, 60, 60):
        client.post(f"/v1/endpoints/{ep_id}/secret/rotate", json={"overlap_seconds": overlap_seconds})
    in_force = client.get(f"/v1/endpoints/{ep_id}/secret").json["secret"]
    secret, key = (TABLES[name] for name in ("webhook_secret", "webhook_idempotency_key"))
    now = datetime.now(UTC)
    with host.app.app_context():
        session = host.db.session
        times = ((1, now - timedelta(hours=23)), (9, now - timedelta(hours=25)))
        session.execute(sa.update(key).values(created_at=times[1][1]))
        session.execute(sa.update(key).where(key.c.key == "key 4").values(created_at=times[0][1]))
        last_two = sa.select(secret.c.id).where(secret.c.expires_at < now + timedelta(minutes=5))
        expired = list(session.execute(last_two).scalars())
        session.execute(sa.update(secret).where(secret.c.id.in_(expired)).values(expires_at=now))
        session.commit()

    pruned = run_command(host, "prune")

    assert pruned.exit_code == 0
    assert "Idempotency keys deleted: 9\nExpired secrets deleted: 2\n" in pruned.output
    assert stored(host, key.c.key) == ["key 4"]
    assert not set(expired) & set(stored(host, secret.c.id))
    assert client.get(f"/v1/endpoints/{ep_id}/secret").json["secret"] == in_force
    assert not any(json.loads(run_command(host, "prune", "--json").stdout).values())
