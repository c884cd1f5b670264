"""Settings that the host changes after it has registered the blueprint, as tests do with `create_app()`."""

import threading

import pytest
from cryptography.fernet import Fernet

from flask_webhook_endpoints import InvalidSetting, testing
from tests.support import hosts
from tests.support.database import on_sqlite
from tests.support.projects import run_pytest

pytestmark = on_sqlite

NEW = {"name": "n", "url": "https://example.com/"}


@pytest.fixture
def created(database):
    """A host whose factory has returned: the blueprint is registered, nothing is asked yet."""
    host = hosts.flask_sqlalchemy(database)
    yield host
    host.close()


def test_a_setting_that_is_changed_before_the_first_request_holds(created):
    created.app.config.update(WEBHOOK_ENDPOINTS_MAX_ENDPOINTS_PER_TENANT=1, WEBHOOK_ENDPOINTS_REQUIRE_HTTPS=True)
    acme = created.client("acme")

    assert acme.post("/v1/endpoints", json={**NEW, "url": "http://example.com/"}).status_code == 422
    assert [acme.post("/v1/endpoints", json=NEW).status_code for _ in range(2)] == [201, 409]


def test_the_tests_of_a_host_may_open_loopback_after_create_app(created, webhook_receiver):
    created.app.config.update(WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS=["127.0.0.0/8"])
    acme = created.client("acme")
    path = acme.post("/v1/endpoints", json={**NEW, "url": webhook_receiver.url}).headers["Location"]
    acme.post(f"{path}/ping")
    testing.drain(created.app)

    assert [received.type for received in webhook_receiver.received] == ["webhook.ping"]


def test_publish_and_commands_take_settings_at_their_first_use(created):
    created.app.config["WEBHOOK_ENDPOINTS_MAX_BODY_BYTES"] = 100
    with created.app.app_context(), pytest.raises(ValueError, match="MAX_BODY_BYTES allows 100"):
        created.webhooks.publish("invoice.paid", "x" * 100, tenant_id="acme")

    other = hosts.flask_sqlalchemy("sqlite://")
    other.app.config["WEBHOOK_ENDPOINTS_MAX_TIMEOUT_SECONDS"] = 7
    printed = other.app.test_cli_runner().invoke(args=["webhooks", "openapi"])
    assert '"maximum": 7' in printed.output
    other.close()


def test_keys_that_are_changed_before_the_first_request_encrypt(created):
    key = Fernet.generate_key().decode()
    created.app.config.update(SECRET_KEY="another", WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS=[key])
    created.client("acme").post("/v1/endpoints", json={**NEW, "secret": "a secret of Acme's"})

    with created.app.app_context():
        table = created.db.metadata.tables["webhook_secret"]
        token = created.db.session.execute(table.select()).one().secret_encrypted
    assert b"a secret of Acme's" in Fernet(key).decrypt(token.encode())


def test_settings_are_checked_when_the_blueprint_is_registered(database):
    with pytest.raises(InvalidSetting, match="WEBHOOK_ENDPOINTS_TIMOUT"):
        hosts.flask_sqlalchemy(database, WEBHOOK_ENDPOINTS_TIMOUT=1)
    with pytest.raises(InvalidSetting, match="WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS"):
        hosts.flask_sqlalchemy(database, SECRET_KEY=None)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"WEBHOOK_ENDPOINTS_MAX_BODY_BYTES": "many"}, "WEBHOOK_ENDPOINTS_MAX_BODY_BYTES"),
        ({"WEBHOOK_ENDPOINTS_TIMOUT": 1}, "WEBHOOK_ENDPOINTS_TIMOUT"),
        ({"SECRET_KEY": None}, "WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_change_is_named_at_the_first_use_until_it_is_right(created, changed, named):
    before = dict(created.app.config)
    created.app.config.update(changed)
    for _ in range(2):
        with pytest.raises(InvalidSetting, match=named):
            created.client("acme").get("/v1/endpoints")

    created.app.config.clear()
    created.app.config.update(before)
    assert created.client("acme").get("/v1/endpoints").status_code == 200


def test_what_is_changed_after_the_first_use_is_not_taken_in_the_middle(created):
    acme = created.client("acme")
    acme.post("/v1/endpoints", json=NEW)
    created.app.config["WEBHOOK_ENDPOINTS_MAX_ENDPOINTS_PER_TENANT"] = 1

    assert acme.post("/v1/endpoints", json=NEW).status_code == 201


def test_first_requests_at_once_take_settings_once(created):
    created.app.config["WEBHOOK_ENDPOINTS_MAX_ENDPOINTS_PER_TENANT"] = 10
    barrier, statuses = threading.Barrier(8), []

    def ask():
        barrier.wait(10)
        statuses.append(created.client("acme").get("/v1/openapi.json").status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert statuses == [200] * 8


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS": ["127.0.0.0/8"]}, "WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS"),
        ({"WEBHOOK_ENDPOINTS_RETRY_SCHEDULE": [0]}, "WEBHOOK_ENDPOINTS_RETRY_SCHEDULE"),
        ({"WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS": [Fernet.generate_key().decode()]}, "WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS"),
        ({"SECRET_KEY": "another"}, "SECRET_KEY"),
        ({"SECRET_KEY_FALLBACKS": ["older"]}, "SECRET_KEY_FALLBACKS"),
        ({"WEBHOOK_ENDPOINTS_TIMOUT": 1}, "WEBHOOK_ENDPOINTS_TIMOUT"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_drain_fails_where_a_setting_was_changed_too_late_and_names_it(created, changed, named):
    created.client("acme").get("/v1/endpoints")
    created.app.config.update(changed)

    with pytest.raises((InvalidSetting, AssertionError), match=named) as caught:
        testing.drain(created.app)
    assert "hunter" not in str(caught.value)
    assert "another" not in str(caught.value)


def test_a_drain_does_not_mind_what_is_changed_back_or_not_ours(created):
    created.client("acme").get("/v1/endpoints")
    created.app.config.update(TESTING=False, WEBHOOKS="x")
    created.app.config["WEBHOOK_ENDPOINTS_MAX_BODY_BYTES"] = 262_144
    created.app.config["WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS"] = []

    assert testing.drain(created.app) == 0


@pytest.mark.slow
def test_the_fixtures_fail_where_a_setting_was_changed_too_late(tmp_path):
    (tmp_path / "test_late.py").write_text(
        """
import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_webhook_endpoints import WebhookEndpoints


@pytest.fixture
def app():
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=lambda: "acme", metadata=db.metadata)
    app = Flask("host")
    app.config.update(TESTING=True, SECRET_KEY="s", SQLALCHEMY_DATABASE_URI="sqlite://")
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint)
    with app.app_context():
        db.create_all()
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def late(app):
    app.test_client().get("/v1/endpoints")
    app.config["WEBHOOK_ENDPOINTS_RETRY_JITTER"] = 0


@pytest.fixture
def early(app):
    app.config["WEBHOOK_ENDPOINTS_MAX_ENDPOINTS_PER_TENANT"] = 1


def test_clock(late, webhook_clock):
    raise AssertionError("not reached")


def test_drain(late, drain_webhooks):
    raise AssertionError("not reached")


def test_in_time(early, app, webhook_clock, drain_webhooks):
    new = {"name": "n", "url": "https://example.com/"}
    assert [app.test_client().post("/v1/endpoints", json=new).status_code for _ in range(2)] == [201, 409]
    webhook_clock.move(minutes=1)


def test_between(app, drain_webhooks):
    app.test_client().get("/v1/endpoints")
    app.config["WEBHOOK_ENDPOINTS_RETRY_JITTER"] = 0
    with pytest.raises(Exception, match="WEBHOOK_ENDPOINTS_RETRY_JITTER"):
        drain_webhooks()
"""
    )
    done = run_pytest(tmp_path)

    assert " 2 passed, 2 errors in " in done.stdout, done.stdout
    assert done.stdout.count("WEBHOOK_ENDPOINTS_RETRY_JITTER: was changed") >= 2
