"""No password, secret, header, body or URL's query stands in what doctor, status, the log and the metrics show."""

import logging

import pytest
from flask_sqlalchemy import SQLAlchemy
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest
from sqlalchemy.engine import make_url

from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.commands import run_command
from tests.support.deliveries import publish

MARK = "planted"
"""Part of all that nobody may see."""

pytestmark = [
    pytest.mark.several_connections,
    pytest.mark.host(make=hosts.delivering, SECRET_KEY=f"{MARK} secret key, which is long enough"),
]


@pytest.fixture
def reported(host, monkeypatch):
    provider = MeterProvider([PrometheusMetricReader()])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    host.webhooks.observe(host.app)
    yield lambda: generate_latest().decode()
    provider.shutdown()


def shown(host: hosts.Host) -> str:
    commands = (["doctor"], ["doctor", "--json"], ["status"], ["status", "--json"], ["status", "--check"])
    return "".join(run_command(host, *command).output for command in commands)


def test_nothing_of_a_customer_is_shown(host, webhook_receiver, caplog, reported):
    caplog.set_level(logging.DEBUG, logger="flask_webhook_endpoints")
    secret = {"secret": f"{MARK} signing secret", "headers_json": {"X-Key": f"{MARK} header"}}
    for answer, path in ((200, ""), (500, "/failing")):
        webhook_receiver.answer(answer)
        create_endpoint(host.client(), f"{webhook_receiver.url}{path}?token={MARK}", **secret)
        publish(host, f"{MARK} body")
        drain(host.app)
    publish(host, f"{MARK} body")

    logged = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "webhooks.attempt_failed" in logged
    for text in (shown(host), reported(), logged):
        assert text
        assert MARK not in text


@pytest.mark.only_on("postgresql", "mariadb")
def test_no_password_is_shown_whether_the_database_answers_or_not(database, caplog):
    url = make_url(database).set(password=f"{MARK}-password")
    for each in (url, url.set(username="nobody"), url.set(database="no_such"), url.set(port=1)):
        db = SQLAlchemy()
        app = hosts.new_app(SQLALCHEMY_DATABASE_URI=each.render_as_string(hide_password=False))
        webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header)
        db.init_app(app)
        app.register_blueprint(webhooks.blueprint)
        text = shown(hosts.Host(app, webhooks, db))
        with app.app_context():
            db.engine.dispose()

        assert '"check"' in text
        assert MARK not in text + "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
