"""The pytest plugin, as a host's tests load it: by its entry point, in a pytest of their own."""

import re
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

import flask_webhook_endpoints
from flask_webhook_endpoints import testing
from flask_webhook_endpoints.errors import InvalidSignature
from tests.support import deliveries, docs, hosts
from tests.support.api import create_endpoint
from tests.support.projects import run_pytest
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK)

SECRET = "a secret of Acme's"


# The plugin's own, which the fixtures of `conftest.py` stand in for elsewhere.
webhook_clock, drain_webhooks = testing.webhook_clock, testing.drain_webhooks


@pytest.mark.slow
def test_the_documented_test_file_passes_in_a_hosts_project(tmp_path):
    for example in docs.examples(docs.ROOT / "docs" / "testing.md"):
        (tmp_path / example.file).write_text(example.code)

    done = run_pytest(tmp_path)

    assert done.returncode == 0, done.stdout
    assert " 5 passed in " in done.stdout


@pytest.mark.slow
@pytest.mark.several_connections
def test_the_documented_suite_that_rolls_back_leaves_nothing(database, tmp_path):
    for example in docs.examples(docs.ROOT / "docs" / "testing.md"):
        (tmp_path / example.file).write_text(example.code)

    done = run_pytest(tmp_path, "test_shop_that_rolls_back.py", SHOP_TEST_DATABASE=database)

    assert done.returncode == 0, done.stdout
    assert " 2 passed in " in done.stdout
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.connect() as connection:
        for table in ("invoice", *hosts.OUR_TABLES):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0


DECLARING = """
import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_webhook_endpoints import InvalidEvent, WebhookEndpoints

db = SQLAlchemy()
webhooks = WebhookEndpoints(session=db.session, tenant=lambda: "acme", metadata=db.metadata)
webhooks.event_type("invoice.paid", schema={"required": ["id"]})


@pytest.fixture(params=["raise", "log", "off"])
def app(request, tmp_path):
    app = Flask(__name__)
    app.config.update(SECRET_KEY="x", SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/shop.db")
    app.config["WEBHOOK_ENDPOINTS_CHECK_EVENTS"] = request.param
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint)
    with app.app_context():
        db.create_all()
        engine = db.engine
    yield app
    engine.dispose()


def publish(data, event_type="invoice.paid"):
    try:
        webhooks.publish(event_type, data, tenant_id="acme")
    except InvalidEvent:
        pass


def test_valid(app):
    publish({"id": 7})

def test_invalid_data(app):
    publish({"total": "a secret of Acme's"})

def test_undeclared(app):
    publish({"id": 7}, "invoice.payed")

def test_on_purpose(app, invalid_webhook_events):
    publish({})
    assert len(invalid_webhook_events) == 1

@pytest.fixture
def published_first(app):
    publish({})

def test_in_a_fixture(published_first):
    pass

@pytest.fixture
def published_last(app):
    yield
    publish({})

def test_at_its_end(published_last):
    pass

def test_that_failed_already(app):
    publish({})
    raise RuntimeError("its own")
"""


@pytest.mark.slow
def test_a_test_that_publishes_against_a_declaration_fails_whatever_becomes_of_the_error(tmp_path):
    (tmp_path / "test_shop.py").write_text(DECLARING)

    done = run_pytest(tmp_path, "--no-header", "-rA")

    passed, failed, errors = (
        set(re.findall(rf"^{word} test_shop\.py::(\w+)\[(?:raise|log|off)\]", done.stdout, re.MULTILINE))
        for word in ("PASSED", "FAILED", "ERROR")
    )
    assert passed == {"test_valid", "test_on_purpose", "test_at_its_end"}
    assert failed == {"test_invalid_data", "test_undeclared", "test_in_a_fixture", "test_that_failed_already"}
    assert errors == {"test_at_its_end"}
    assert " 12 failed, 9 passed, 3 errors in " in done.stdout
    assert "The data of invoice.paid breaks its schema. data.id: Missing data for required field." in done.stdout
    assert "No such event type: invoice.payed. Did you mean invoice.paid?" in done.stdout
    assert "RuntimeError: its own" in done.stdout
    assert "a secret of Acme's" not in done.stdout.replace(DECLARING, "").replace('publish({"total": "a secret', "")


def test_a_project_without_an_app_is_left_alone(tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import sys\n\n"
        "def test_of_its_own():\n"
        "    assert not {'aiohttp', 'flask_sqlalchemy', 'celery', 'alembic'} & set(sys.modules)\n\n"
        "def test_the_receiver_alone(webhook_receiver):\n"
        "    assert webhook_receiver.received == []\n\n"
        "def test_that_needs_an_app(drain_webhooks):\n"
        "    raise AssertionError\n"
    )

    done = run_pytest(tmp_path, "-p", "no:flask")

    assert " 2 passed, 1 error in " in done.stdout, done.stdout
    assert "fixture 'app' not found" in done.stdout


@pytest.fixture
def app(host):
    """What the plugin's own fixtures ask a host for."""
    return host.app


@pytest.fixture
def publish(host, acme, webhook_receiver):
    create_endpoint(acme, webhook_receiver.url, secret=SECRET, timeout_seconds=1)

    def publish(event_type: str) -> None:
        deliveries.publish(host, {"id": 7}, event_type=event_type)
        testing.drain(host.app)

    return publish


def test_one_returns_what_came_verified(publish, webhook_receiver):
    publish("invoice.created")
    publish("invoice.paid")

    paid = webhook_receiver.one("invoice.paid", secret=SECRET)

    assert (paid.type, paid.data, paid.path) == ("invoice.paid", {"id": 7}, "/")
    assert paid.headers["content-type"] == "application/json"


def test_one_says_what_came_instead(publish, webhook_receiver):
    publish("invoice.created")
    publish("invoice.created")

    with pytest.raises(AssertionError) as none:
        webhook_receiver.one("invoice.paid", secret=SECRET)
    with pytest.raises(AssertionError) as several:
        webhook_receiver.one("invoice.created", secret=SECRET)
    assert str(none.value) == (
        "Expected one delivery of invoice.paid, got 0. Attempts that came: 2 of invoice.created."
        " Was it committed, is an endpoint active that wants it, was it drained?"
    )
    assert str(several.value) == (
        "Expected one delivery of invoice.created, got 2. Attempts that came: 2 of invoice.created."
    )


def test_one_does_not_believe_another_secret(publish, webhook_receiver):
    publish("invoice.paid")

    with pytest.raises(
        AssertionError, match=r"^The delivery of invoice\.paid does not verify: No signature matches\.$"
    ):
        webhook_receiver.one("invoice.paid", secret="another secret")


def test_the_clock_makes_retries_due_and_the_receiver_goes_by_it(
    publish, webhook_receiver, webhook_clock, drain_webhooks
):
    webhook_receiver.answer(500, 200)
    publish("invoice.paid")

    assert drain_webhooks() == 0
    webhook_clock.move(minutes=10)
    assert drain_webhooks() == 1
    for attempt in webhook_receiver.received:
        attempt.verify(SECRET)


def test_an_old_signature_is_not_believed(publish, webhook_receiver):
    clock = webhook_receiver.now = testing.Clock()
    clock.move(minutes=6)
    publish("invoice.paid")

    with pytest.raises(InvalidSignature, match="too old"):
        webhook_receiver.received[0].verify(SECRET)


def test_answers_come_in_turn_with_their_headers(publish, webhook_receiver, webhook_clock, drain_webhooks):
    webhook_receiver.answer(429, headers={"Retry-After": "600"})
    publish("invoice.paid")
    # While the endpoint rests, nothing is sent.
    publish("invoice.created")
    assert len(webhook_receiver.received) == 1
    webhook_clock.move(seconds=600 - PATIENCE_SECONDS)  # The clock goes on by itself.
    assert drain_webhooks() == 0

    webhook_receiver.answer(500, 200)
    webhook_clock.move(seconds=PATIENCE_SECONDS)
    assert drain_webhooks() == 2
    assert len(webhook_receiver.received) == 3


def test_a_late_answer_is_a_failed_attempt_and_holds_nobody_up_afterwards(publish, webhook_receiver):
    webhook_receiver.answer(200, delay_seconds=60)

    publish("invoice.paid")

    started = time.monotonic()
    webhook_receiver.close()
    assert time.monotonic() - started < 30
    assert len(webhook_receiver.received) == 1


def test_the_plugin_that_every_pytest_loads_imports_neither_flask_nor_the_tables():
    heavy = "{'flask', 'sqlalchemy', 'sqlmodel', 'marshmallow', 'cryptography'}"
    code = f"import sys, flask_webhook_endpoints.testing; print({heavy} & set(sys.modules))"

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_every_public_name_is_there_though_it_is_imported_late():
    for name in flask_webhook_endpoints.__all__:
        assert getattr(flask_webhook_endpoints, name).__class__
    with pytest.raises(AttributeError, match="no attribute 'WebhookEndpoint'"):
        getattr(flask_webhook_endpoints, "WebhookEndpoint")  # noqa: B009 - typed, it would not pass
