"""What a host handles: our problems, each by its name and code, and errors of its database with advice."""

import inspect
import re
import traceback
from contextlib import closing

import pytest
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy

import flask_webhook_endpoints
from flask_webhook_endpoints import Problem, WebhookEndpoints, WebhookEndpointsError, errors
from tests.support import docs, hosts
from tests.support.api import create_endpoint, post_endpoint
from tests.support.hosts import client, new_app, tenant_header

UNKNOWN = "/v1/endpoints/ep_00000000-0000-7000-8000-000000000000"
CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, WebhookEndpointsError)]
LEAVES = [each for each in CLASSES if issubclass(each, Problem) and each is not Problem]


def test_problems_are_exported():
    assert flask_webhook_endpoints.Problem is errors.Problem
    assert "Problem" in flask_webhook_endpoints.__all__


def test_each_problem_has_a_code_of_its_own():
    codes = [leaf.code for leaf in LEAVES]

    assert len(LEAVES) > 15
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)
    assert {"endpoint_paused", "delivery_in_flight", "quota_exceeded", "unreadable_secret"} <= set(codes)
    assert {"idempotency_key_reused", "invalid_fields"} <= set(codes)


@pytest.fixture
def refused(acme, host):
    """Problems of many kinds, as they are answered."""
    path = post_endpoint(acme, key="k").headers["Location"]
    answers = {
        "invalid_request": acme.post("/v1/endpoints", data=b"{", content_type="application/json"),
        "no_tenant": host.client(None).get("/v1/endpoints"),
        "unknown_path": acme.get(f"{path}/nothing"),
        "unknown_endpoint": acme.get(UNKNOWN),
        "unknown_delivery": acme.get(f"{path}/deliveries/x"),
        "method_not_allowed": acme.put(path),
        "stale_endpoint": acme.delete(path, headers={"If-Match": '"9"'}),
        "body_too_large": acme.post("/v1/endpoints", json={"name": "n" * 70_000}),
        "unsupported_media_type": acme.post("/v1/endpoints", data=b"{}", content_type="text/plain"),
        "invalid_fields": acme.post("/v1/endpoints", json={}),
        "idempotency_key_reused": post_endpoint(acme, key="k", name="m"),
    }
    acme.patch(path, json={"status": "PAUSED"})
    return {**answers, "endpoint_paused": acme.post(f"{path}/ping")}


def test_answers_tell_the_code(refused, acme):
    document = acme.get("/v1/openapi.json").json

    assert {code: answer.json["code"] for code, answer in refused.items()} == {code: code for code in refused}
    told = document["components"]["schemas"]["ProblemCode"]["enum"]
    assert set(refused) <= set(told)
    assert set(told) == {leaf.code for leaf in LEAVES}


def test_a_host_answers_our_problems_its_own_way(database):
    """As the documentation has it: on the blueprint, by class and by code."""
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)

    @webhooks.blueprint.errorhandler(Problem)
    def answer(problem):
        return {"error": problem.code, "message": problem.detail}, problem.status, problem.headers

    @webhooks.blueprint.errorhandler(errors.InvalidFields)
    def answer_fields(problem):
        return {"error": problem.code, "fields": sorted(problem.errors)}, 400

    app = new_app(SQLALCHEMY_DATABASE_URI=database)
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint)
    with app.app_context():
        db.create_all()
    acme = client(app, "acme")
    unknown, wrong, nobody = acme.get(UNKNOWN), acme.post("/v1/endpoints", json={}), client(app, None).get(UNKNOWN)
    method = acme.put("/v1/endpoints")

    assert (unknown.status_code, unknown.json) == (
        404,
        {"error": "unknown_endpoint", "message": "No such endpoint."},
    )
    assert (wrong.status_code, wrong.json) == (400, {"error": "invalid_fields", "fields": ["name", "url"]})
    assert nobody.headers["WWW-Authenticate"] == "Bearer"
    assert (method.status_code, method.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    with app.app_context():
        db.engine.dispose()


def test_the_documentation_has_each_problem_with_its_status_code_and_fields():
    page = (docs.ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| `(\w+)` \| (.*) \|$", page, flags=re.MULTILINE)

    assert {(name, int(status), code) for name, status, code, _ in rows} == {
        (leaf.__name__, int(leaf.status), leaf.code) for leaf in LEAVES
    }
    assert "`errors`" in next(said for name, _, _, said in rows if name == "InvalidFields")
    assert "`quota`" in next(said for name, _, _, said in rows if name == "QuotaExceeded")
    assert "`limit`" in next(said for name, _, _, said in rows if name == "BodyTooLarge")
    assert "`limit`" in next(said for name, _, _, said in rows if name == "TooManyRedeliveries")


# The worker and the commands said what to do where the tables are missing; the web's traceback did not.


@pytest.fixture
def empty(database):
    """A host that has made no tables."""
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    app = new_app(SQLALCHEMY_DATABASE_URI=database)
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint)
    with closing(hosts.Host(app, webhooks, db)) as host:
        yield host


def test_the_traceback_of_a_request_says_what_to_do_where_tables_are_missing(empty):
    acme = empty.client()
    advice = "Make the tables: create_all(), your migrations, or `flask webhooks db upgrade`."

    def publish():
        with empty.app.app_context():
            empty.webhooks.publish("invoice.paid", "the body", tenant_id="acme")

    def forget():
        with empty.app.app_context():
            empty.webhooks.forget_tenant("acme")

    for ask in (
        lambda: acme.get("/v1/endpoints"),
        lambda: post_endpoint(acme),
        lambda: acme.patch(UNKNOWN, json={"name": "n"}),
        lambda: acme.post(f"{UNKNOWN}/ping"),
        publish,
        forget,
    ):
        with pytest.raises(sa.exc.DBAPIError) as caught:
            ask()
        shown = "".join(traceback.format_exception(caught.value))
        assert shown.count(advice) == 1
    told = empty.app.test_cli_runner().invoke(args=["webhooks", "status"])
    assert told.exit_code == 1
    assert advice in told.output


VALUE = "a value of the request or of the event"
UPGRADE = "Upgrade the tables, which another version of this library made: your migrations, or"


@pytest.fixture
def behind(host):
    """A host whose tables lack what a newer version of the library has."""
    path = create_endpoint(host.client()).path
    with host.app.app_context():
        for table, column in (("webhook_queue", "attempts_before"), ("webhook_endpoint", "metadata_json")):
            host.db.session.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        host.db.session.commit()
    return path


def test_tables_that_are_behind_are_called_so_in_the_web_in_commands_and_in_workers(host, behind):
    acme = host.client()

    def publish():
        with host.app.app_context():
            host.webhooks.publish("invoice.paid", {"id": VALUE}, tenant_id="acme")

    for ask in (
        publish,
        lambda: post_endpoint(acme, name=VALUE),
        lambda: acme.patch(behind, json={"status": "ACTIVE", "name": VALUE}),
    ):
        with pytest.raises(sa.exc.DBAPIError) as caught:
            ask()
        shown = "".join(traceback.format_exception(caught.value))
        assert shown.count(UPGRADE) == 1
        assert VALUE not in shown
    command = host.app.test_cli_runner().invoke(args=["webhooks", "doctor"])
    assert command.exit_code == 1
    assert "attempts_before" in command.output
    with host.app.app_context():
        host.db.session.execute(sa.text("ALTER TABLE webhook_worker DROP COLUMN hostname"))
        host.db.session.commit()
    told = host.app.test_cli_runner().invoke(args=["webhooks", "worker", "--drain"])
    assert told.exit_code == 1
    assert UPGRADE in told.output


def test_other_errors_of_the_database_get_no_such_advice(host, acme):
    with host.app.app_context():
        sa.event.listen(
            host.db.engine, "before_execute", lambda *given: host.db.session.connection().exec_driver_sql("NO SQL")
        )
        with pytest.raises(sa.exc.DBAPIError) as caught:
            host.webhooks.publish("invoice.paid", 1, tenant_id="acme")

    assert not getattr(caught.value, "__notes__", [])


TENANT = "tenant-0815"


# PostgreSQL: "Key (name)=(…) already exists", "Failing row contains (…)". MariaDB: "Duplicate entry '…' for key".
def test_errors_of_the_database_show_no_value_of_a_key_or_a_row(host, caplog):
    client = host.client(TENANT)
    create_endpoint(client, name=VALUE)
    path = create_endpoint(client, name="another").path
    with host.app.app_context():
        backend = host.db.engine.dialect.name
        host.db.session.execute(sa.text("CREATE UNIQUE INDEX theirs ON webhook_endpoint (name)"))
        if backend == "postgresql":
            host.db.session.execute(sa.text("ALTER TABLE webhook_event ADD COLUMN theirs INTEGER NOT NULL"))
        host.db.session.commit()

    def publish():
        with host.app.app_context():
            host.webhooks.publish("invoice.paid", VALUE, tenant_id=TENANT)

    caplog.set_level("DEBUG")
    for ask in [lambda: client.patch(path, json={"name": VALUE}), *([publish] if backend == "postgresql" else [])]:
        with pytest.raises(sa.exc.IntegrityError) as caught:
            ask()
        error = caught.value
        shown = "".join(traceback.format_exception(error))
        assert "IntegrityError" in shown
        assert "theirs" in shown or backend == "sqlite"
        for value in (VALUE, TENANT, VALUE.encode().hex()[:20]):
            assert value not in f"{shown} {error!r} {error.params} {error.orig!r} {caplog.text}"
