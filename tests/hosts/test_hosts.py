"""Any host: whatever it keeps its tables and sessions in, wherever it puts the blueprint, it stays as it was."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing, contextmanager
from urllib.parse import quote

import flask_sqlalchemy_lite
import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from flask import Blueprint, Flask, g, request, url_for
from flask.json.provider import DefaultJSONProvider
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, scoped_session, sessionmaker
from sqlmodel import Field, Relationship, Session, SQLModel, select
from werkzeug.exceptions import HTTPException

import flask_webhook_endpoints
from flask_webhook_endpoints import RegistrationError, WebhookEndpoints
from flask_webhook_endpoints.api.routes import ROUTES
from flask_webhook_endpoints.core import events
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import NEW, create_endpoint, post_endpoint
from tests.support.commands import run_command, run_json
from tests.support.contract import life_of_an_endpoint
from tests.support.database import on_sqlite
from tests.support.deliveries import publish
from tests.support.hosts import OUR_TABLES, attaching, client, own_schema, serving, tenant_header


def plain_app(session, webhooks):
    """Set up a host without an extension for its database: its scoped session ends with each request."""
    app = hosts.new_app()
    app.register_blueprint(webhooks.blueprint)
    app.teardown_appcontext(lambda error: session.remove())
    return app


@contextmanager
def usual(database):
    host = hosts.flask_sqlalchemy(database, allowed_networks=hosts.LOOPBACK)
    yield host.app
    host.close()


@contextmanager
def second_bind(database):
    db = SQLAlchemy()

    class Mail(db.Model):
        __bind_key__ = "webhooks"
        id: Mapped[int] = mapped_column(primary_key=True)

    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadatas["webhooks"])
    app = hosts.new_app(SQLALCHEMY_DATABASE_URI="sqlite://", SQLALCHEMY_BINDS={"webhooks": database})
    with serving(db, app, webhooks.blueprint):
        yield app
        with app.app_context():
            assert set(sa.inspect(db.engines["webhooks"]).get_table_names()) == {*OUR_TABLES, "mail"}
            assert sa.inspect(db.engine).get_table_names() == []


@contextmanager
def second_bind_without_models(database):
    db = SQLAlchemy()
    # Flask-SQLAlchemy makes the MetaData of a bind at its first model, or at init_app.
    metadata = db.metadatas.setdefault("webhooks", sa.MetaData(info={"bind_key": "webhooks"}))
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=metadata)
    app = hosts.new_app(SQLALCHEMY_DATABASE_URI="sqlite://", SQLALCHEMY_BINDS={"webhooks": database})
    with serving(db, app, webhooks.blueprint):
        yield app


@contextmanager
def lite(database):
    class Base(DeclarativeBase):
        pass

    db = flask_sqlalchemy_lite.SQLAlchemy()
    webhooks = WebhookEndpoints(session=lambda: db.session, tenant=tenant_header, metadata=Base.metadata)
    with serving(db, hosts.new_app(SQLALCHEMY_ENGINES={"default": database}), webhooks.blueprint) as app:
        with app.app_context():
            Base.metadata.create_all(db.engine)
        yield app


@contextmanager
def plain_sqlmodel(database):
    with hosts.plain_engine(database) as engine:
        session = scoped_session(sessionmaker(engine, class_=Session))
        webhooks = WebhookEndpoints(session=session, tenant=tenant_header)
        flask_webhook_endpoints.metadata.create_all(engine)
        yield plain_app(session, webhooks)


@contextmanager
def plain_sqlalchemy_with_binds(database):
    with hosts.plain_engine(database) as engine:
        binds = dict.fromkeys(flask_webhook_endpoints.metadata.tables.values(), engine)
        session = scoped_session(sessionmaker(binds=binds, autoflush=False, expire_on_commit=False))
        webhooks = WebhookEndpoints(session=session, tenant=tenant_header)
        flask_webhook_endpoints.metadata.create_all(engine)
        yield plain_app(session, webhooks)


@contextmanager
def naming_convention(database):
    convention = {
        "ix": "idx_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_to_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
    db = SQLAlchemy(metadata=sa.MetaData(naming_convention=convention))
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    with serving(db, hosts.new_app(SQLALCHEMY_DATABASE_URI=database), webhooks.blueprint) as app:
        yield app
        with app.app_context():
            (key,) = sa.inspect(db.engine).get_foreign_keys("webhook_secret")
            assert key["name"] == "fk_webhook_secret_endpoint_id_to_webhook_endpoint"


@contextmanager
def schema(database):
    with own_schema(database) as name:
        db = SQLAlchemy(metadata=sa.MetaData(schema=name))

        class Order(db.Model):
            id: Mapped[int] = mapped_column(primary_key=True)

        webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
        app = hosts.new_app(SQLALCHEMY_DATABASE_URI=database)
        with attaching(database, name), serving(db, app, webhooks.blueprint):
            yield app
            with app.app_context():
                inspector = sa.inspect(db.engine)
                assert set(inspector.get_table_names(schema=name)) == {*OUR_TABLES, "order"}
                assert inspector.get_table_names() == []


@contextmanager
def clashing_models(database):
    db = SQLAlchemy()

    class Endpoint(db.Model):
        __tablename__ = "api_endpoint"
        id: Mapped[int] = mapped_column(primary_key=True)
        events: Mapped[list["Event"]] = relationship(back_populates="endpoint")

    class Event(db.Model):
        __tablename__ = "calendar_event"
        id: Mapped[int] = mapped_column(primary_key=True)
        endpoint_id: Mapped[int] = mapped_column(sa.ForeignKey("api_endpoint.id"))
        endpoint: Mapped["Endpoint"] = relationship(back_populates="events")

    class WebhookEndpoint(db.Model):
        __tablename__ = "old_webhook"
        id: Mapped[int] = mapped_column(primary_key=True)
        endpoint_id: Mapped[int] = mapped_column(sa.ForeignKey("api_endpoint.id"))
        endpoint: Mapped["Endpoint"] = relationship()

    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    with serving(db, hosts.new_app(SQLALCHEMY_DATABASE_URI=database), webhooks.blueprint) as app:
        with app.app_context():
            db.session.add(WebhookEndpoint(endpoint=Endpoint(events=[Event()])))
            db.session.commit()
        yield app
        with app.app_context():
            assert len(db.session.scalars(sa.select(WebhookEndpoint)).one().endpoint.events) == 1


# Module level, as in a host: SQLModel has one registry for all.
class Endpoint(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    webhooks: list["WebhookEndpoint"] = Relationship(back_populates="endpoint")


class WebhookEndpoint(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    endpoint_id: int = Field(foreign_key="endpoint.id")
    endpoint: Endpoint = Relationship(back_populates="webhooks")


@contextmanager
def clashing_sqlmodels(database):
    with hosts.plain_engine(database) as engine:
        session = scoped_session(sessionmaker(engine, class_=Session))
        webhooks = WebhookEndpoints(session=session, tenant=tenant_header, metadata=SQLModel.metadata)
        SQLModel.metadata.create_all(engine)
        app = plain_app(session, webhooks)
        with Session(engine) as own:
            own.add(Endpoint(webhooks=[WebhookEndpoint()]))
            own.commit()
        yield app
        with Session(engine) as own:
            assert len(own.exec(select(Endpoint)).one().webhooks) == 1


@contextmanager
def proxied_session(database):
    """What `session` returns stands for a session, and is none."""
    with hosts.plain_engine(database) as engine:
        session, metadata = scoped_session(sessionmaker(engine)), sa.MetaData()
        webhooks = WebhookEndpoints(session=lambda: session, tenant=tenant_header, metadata=metadata)
        metadata.create_all(engine)
        yield plain_app(session, webhooks)


KINDS = (
    usual,
    second_bind,
    second_bind_without_models,
    lite,
    plain_sqlmodel,
    plain_sqlalchemy_with_binds,
    naming_convention,
    schema,
    clashing_models,
    clashing_sqlmodels,
    proxied_session,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_all_routes_work_in_every_kind_of_host(kind, database):
    with kind(database) as app:
        life_of_an_endpoint(client(app, "acme"), client(app, "globex"))


# The usual kind is that of all other tests of delivery.
OTHER_KINDS = (second_bind, lite, plain_sqlmodel, plain_sqlalchemy_with_binds, naming_convention, schema)


@pytest.mark.parametrize("kind", OTHER_KINDS, ids=lambda kind: kind.__name__)
def test_events_are_published_delivered_and_pruned_in_other_kinds_of_host(kind, database, webhook_receiver):
    with kind(database) as app:
        acme, globex = client(app, "acme"), client(app, "globex")
        path = create_endpoint(acme, webhook_receiver.url).path
        create_endpoint(globex, webhook_receiver.url)
        webhook_receiver.answer(500, 200)

        def publish(**options):
            with app.app_context():
                state = current_state()
                event = events.publish(
                    state.scope().of("acme"), "invoice.paid", 7, max_body_bytes=100, delay_seconds=0, **options
                )
                state.host.session().commit()
                state.host.session().close()
            return event

        def run(*args):
            result = app.test_cli_runner().invoke(args=["webhooks", *args, "--json"])
            assert result.exit_code == 0, result.output
            return json.loads(result.stdout)

        assert publish(idempotency_key="once").id == publish(idempotency_key="once").id
        assert drain(app) == 1
        assert run("status")["later"] == 1
        with hosts.moved(app) as clock:
            clock.move(seconds=10)
            assert drain(app) == 1
            [delivery] = acme.get(f"{path}/deliveries").json
            assert delivery["status"] == "DELIVERED"
            assert len(acme.get(f"{path}/deliveries/{delivery['id']}").json["attempt_log"]) == 2
            assert acme.post(f"{path}/deliveries/{delivery['id']}/redeliver").status_code == 202
            assert acme.post(f"{path}/ping").status_code == 202
            assert drain(app) == 2
            acme.patch(path, json={"status": "PAUSED"})
            publish()
            assert run("status")["held"] == 1
            assert "fail" not in {finding["level"] for finding in run("doctor")}
            assert run("rotate-keys")["secrets"] == {"renewed": 2, "unreadable": []}
            clock.move(days=31)
            assert run("prune")["deliveries_deleted"] == 2
            acme.patch(path, json={"status": "ACTIVE"})
            assert run("redeliver", "--endpoint", path[14:], "--status", "EXPIRED", "--yes")["redelivered"] == 1
            assert drain(app) == 1
            assert run("forget-tenant", "acme", "--yes") == {"endpoints": 1, "events": 1, "deliveries": 1}
        assert len(globex.get("/v1/endpoints").json) == 1


def test_two_apps_share_one_webhook_endpoints_and_no_data(database):
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    first = hosts.new_app(SQLALCHEMY_DATABASE_URI=database)
    second = hosts.new_app(SQLALCHEMY_DATABASE_URI="sqlite://", WEBHOOK_ENDPOINTS_MAX_ENDPOINTS_PER_TENANT=1)

    with serving(db, first, webhooks.blueprint), serving(db, second, webhooks.blueprint):
        life_of_an_endpoint(client(first, "acme"), client(first, "globex"))
        created = create_endpoint(client(first, "acme"))
        elsewhere = client(second, "acme")

        assert elsewhere.get("/v1/endpoints").get_json() == []
        assert elsewhere.get(f"/v1/endpoints/{created['id']}").status_code == 404
        assert [post_endpoint(elsewhere).status_code for _ in range(2)] == [201, 409]
        assert client(first, "acme").get("/v1/endpoints").get_json() == [created]


# Where the host puts the blueprint


@pytest.fixture
def unregistered(database):
    """The usual host, before it registers the blueprint."""
    host = hosts.flask_sqlalchemy(database, register=False)
    yield host
    host.close()


def test_the_blueprint_works_under_a_prefix(unregistered):
    unregistered.app.register_blueprint(unregistered.webhooks.blueprint, url_prefix="/api")

    life_of_an_endpoint(unregistered.client("acme"), unregistered.client("globex"), "/api/v1/endpoints")
    assert unregistered.client("acme").get("/v1/endpoints").status_code == 404


def test_the_blueprint_works_on_a_subdomain(database):
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    app = Flask("host", subdomain_matching=True)
    app.config.update(TESTING=True, SECRET_KEY="s", SERVER_NAME="host.test", SQLALCHEMY_DATABASE_URI=database)
    app.register_blueprint(webhooks.blueprint, subdomain="hooks")

    with serving(db, app):
        life_of_an_endpoint(client(app, "acme"), client(app, "globex"), "http://hooks.host.test/v1/endpoints")
        assert client(app, "acme").get("http://host.test/v1/endpoints").status_code == 404


def test_the_blueprint_works_under_another_name(unregistered):
    unregistered.app.register_blueprint(unregistered.webhooks.blueprint, name="hooks")

    life_of_an_endpoint(unregistered.client("acme"), unregistered.client("globex"))
    assert "hooks.list_endpoints" in unregistered.app.view_functions


def test_the_blueprint_works_inside_a_blueprint_of_the_host(unregistered):
    outer, inner = Blueprint("outer", __name__), Blueprint("inner", __name__)
    inner.register_blueprint(unregistered.webhooks.blueprint, url_prefix="/hooks")
    outer.register_blueprint(inner, url_prefix="/inner")
    unregistered.app.register_blueprint(outer, url_prefix="/outer")

    path = "/outer/inner/hooks/v1/endpoints"
    life_of_an_endpoint(unregistered.client("acme"), unregistered.client("globex"), path)


def test_the_blueprint_registered_twice_is_one_api_at_two_paths(unregistered):
    blueprint = unregistered.webhooks.blueprint
    unregistered.app.register_blueprint(blueprint)
    unregistered.app.register_blueprint(blueprint, name="partners", url_prefix="/partners")
    acme, globex = unregistered.client("acme"), unregistered.client("globex")

    life_of_an_endpoint(acme, globex)
    life_of_an_endpoint(acme, globex, "/partners/v1/endpoints")
    created = acme.post("/partners/v1/endpoints", json=NEW).get_json()
    assert acme.get("/v1/endpoints").get_json() == [created]


@pytest.mark.parametrize(("org", "written"), [("acme", "acme"), ("ü 100%?;", "%C3%BC%20100%25%3F;")])
def test_the_tenant_may_be_a_part_of_the_path(unregistered, org, written):
    app, blueprint = unregistered.app, unregistered.webhooks.blueprint

    @app.url_value_preprocessor
    def take_org(endpoint, values):
        g.org = (values or {}).pop("org", None)

    @app.before_request
    def ask_as_org():
        request.environ["HTTP_X_TENANT"] = quote(g.org)

    app.register_blueprint(blueprint, url_prefix="/orgs/<org>")
    anybody, path = unregistered.client(None), f"/orgs/{written}/v1/endpoints"

    created = anybody.post(f"/orgs/{quote(org)}/v1/endpoints", json=NEW)
    anybody.post(path, json=NEW)
    assert created.headers["Location"] == f"{path}/{created.get_json()['id']}"
    assert anybody.get(created.headers["Location"]).get_json() == created.get_json()
    assert anybody.get(f"{path}?limit=1").headers["Link"].startswith(f"<http://localhost{path}?limit=1&cursor=")
    assert anybody.get(f"/orgs/{written}/v1/openapi.json").get_json()["servers"] == [{"url": f"/orgs/{written}"}]
    assert anybody.put(created.headers["Location"]).status_code == 405
    assert anybody.get(f"{path}/a/b/c").mimetype == "application/problem+json"
    assert anybody.get("/orgs/globex/v1/endpoints").get_json() == []


@pytest.fixture
def of_orgs(unregistered):
    """A host whose prefix has a variable, which its `tenant` finds in `request.view_args`."""

    @unregistered.app.before_request
    def ask_as_org():
        request.environ["HTTP_X_TENANT"] = quote(request.view_args["org"])

    unregistered.app.register_blueprint(unregistered.webhooks.blueprint, url_prefix="/orgs/<org>")
    return unregistered


def test_the_variables_of_a_prefix_may_stay_where_flask_puts_them(of_orgs):
    # Views of ours ended in a TypeError unless the host removed them.
    anybody, path = of_orgs.client(None), "/orgs/ac%20me/v1/endpoints"
    created = anybody.post(path, json=NEW)
    anybody.post(path, json=NEW)

    assert created.headers["Location"] == f"{path}/{created.get_json()['id']}"
    assert anybody.get(created.headers["Location"]).get_json() == created.get_json()
    assert anybody.get(f"{path}?limit=1").headers["Link"].startswith(f"<http://localhost{path}?limit=1&cursor=")
    assert anybody.get("/orgs/ac%20me/v1/openapi.json").get_json()["servers"] == [{"url": "/orgs/ac%20me"}]
    assert anybody.put(created.headers["Location"]).status_code == 405
    assert anybody.get("/orgs/globex/v1/endpoints").get_json() == []


def test_every_route_works_below_a_prefix_with_variables(of_orgs):
    anybody, ids = of_orgs.client(None), {"ep_id": "ep_x", "dlv_id": "dlv_x"}
    for route in ROUTES:
        path = "/orgs/acme" + re.sub(r"<(\w+)>", lambda name: ids[name[1]], route.path)
        answer = anybody.open(path, method=route.method, json={} if route.method in ("POST", "PATCH") else None)

        assert answer.status_code in ((404,) if route.path.count("<") else (200, 422)), path


def test_urls_of_ours_keep_the_variables_that_the_hosts_own_page_has(of_orgs):
    of_orgs.app.add_url_rule("/orgs/<org>/home", "home", lambda org: url_for("webhook_endpoints.list_endpoints"))

    assert of_orgs.client(None).get("/orgs/acme/home").text == "/orgs/acme/v1/endpoints"


@pytest.mark.parametrize("slashes", [True, False])
def test_a_host_lax_about_slashes_is_served_as_well(unregistered, slashes):
    unregistered.app.url_map.strict_slashes = slashes
    unregistered.app.register_blueprint(unregistered.webhooks.blueprint)

    life_of_an_endpoint(unregistered.client("acme"), unregistered.client("globex"))


def test_a_host_lax_about_slashes_is_told_where_the_api_is(unregistered):
    unregistered.app.url_map.strict_slashes = False
    unregistered.app.register_blueprint(unregistered.webhooks.blueprint, url_prefix="/api")

    document = unregistered.client(None).get("/api/v1/openapi.json/").get_json()
    assert document["servers"] == [{"url": "/api"}]


def test_a_second_webhook_endpoints_on_one_app_is_refused(host):
    other = WebhookEndpoints(session=host.db.session, tenant=tenant_header)

    with pytest.raises(RegistrationError, match="another WebhookEndpoints"):
        host.app.register_blueprint(other.blueprint, name="other", url_prefix="/other")


def test_what_a_session_would_never_commit_is_refused():
    webhooks = WebhookEndpoints(session=sessionmaker(), tenant=tenant_header)
    app = hosts.new_app()
    app.register_blueprint(webhooks.blueprint)

    with app.app_context():
        with pytest.raises(RegistrationError, match="not a sessionmaker"):
            webhooks.publish("invoice.paid", 1, tenant_id="acme")
        with pytest.raises(RegistrationError, match="not a sessionmaker"):
            webhooks.forget_tenant("acme")


@pytest.mark.parametrize("name", sorted(OUR_TABLES))
@pytest.mark.parametrize("schema_name", [None, "app"])
def test_a_table_of_the_host_with_our_name_is_refused(name, schema_name):
    metadata = sa.MetaData(schema=schema_name)
    sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True))

    with pytest.raises(RegistrationError, match=name):
        WebhookEndpoints(session=scoped_session(sessionmaker()), tenant=tenant_header, metadata=metadata)


# The first request ended in a TypeError that named none of them.
@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("session", SQLAlchemy(), "session must be a callable such as db.session, not SQLAlchemy."),
        ("session", Session(), "session must be a callable such as db.session, not Session."),
        ("session", None, "session must be a callable such as db.session, not NoneType."),
        ("tenant", "acme", "tenant must be a callable that says who is asking, not str."),
        ("metadata", SQLAlchemy(), "metadata must be a MetaData such as db.metadata, not SQLAlchemy."),
        ("authorize", True, "authorize must be a callable or None, not bool."),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_the_host_gives_is_checked_at_once_and_named(name, given, message):
    usual = {"session": scoped_session(sessionmaker()), "tenant": tenant_header}

    with pytest.raises(RegistrationError) as caught:
        WebhookEndpoints(**{**usual, name: given})

    assert str(caught.value) == message


def test_two_webhook_endpoints_may_share_a_metadata(database):
    db = SQLAlchemy()
    first, second = (WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata) for _ in range(2))
    public, internal = (hosts.new_app(SQLALCHEMY_DATABASE_URI=database) for _ in range(2))

    with serving(db, public, first.blueprint), serving(db, internal, second.blueprint):
        for app in (public, internal):
            life_of_an_endpoint(client(app, "acme"), client(app, "globex"))


def test_neither_import_nor_registration_touches_a_database_or_the_network(tmp_path):
    program = """
        import sys
        touched = []
        sys.addaudithook(lambda event, _: event.startswith(("sqlite3.", "socket.c")) and touched.append(event))

        from flask import Flask
        from flask_sqlalchemy import SQLAlchemy
        from flask_webhook_endpoints import WebhookEndpoints

        for url in ("postgresql+psycopg://nobody@127.0.0.1:1/none", "sqlite:///host.db"):
            db = SQLAlchemy()
            webhooks = WebhookEndpoints(session=db.session, tenant=lambda: 1, metadata=db.metadata)
            app = Flask("host")
            app.config.update(SECRET_KEY="s", SQLALCHEMY_DATABASE_URI=url)
            db.init_app(app)
            app.register_blueprint(webhooks.blueprint)
        touched_at_registration = list(touched)
        app.test_client().get("/v1/endpoints")
        print(touched_at_registration, touched[:1])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)

    assert ran.stdout.strip() == "[] ['sqlite3.connect']"


# What stays the host's


def with_pages(app, *, catch_all=False):
    """Give the host routes and error pages of its own."""
    pages = Blueprint("pages", __name__)
    pages.add_url_rule("/invoices", "invoices", lambda: "invoices", methods=["GET"])
    pages.add_url_rule("/broken", "broken", lambda: 1 / 0)
    app.register_blueprint(pages)
    if catch_all:
        app.add_url_rule("/<path:page>", "page", lambda page: (f"no page {page}", 404), methods=["GET"])
    app.register_error_handler(404, lambda error: ("host: 404", 404))
    app.register_error_handler(405, lambda error: ("host: 405", 405))
    app.register_error_handler(HTTPException, lambda error: (f"host: {error.code}", error.code))
    app.register_error_handler(Exception, lambda error: (f"host: {type(error).__name__}", 500))
    return app


HOST_REQUESTS = [
    ("GET", "/invoices"),
    ("POST", "/invoices"),
    ("OPTIONS", "/invoices"),
    ("GET", "/broken"),
    ("GET", "/nowhere"),
    ("DELETE", "/nowhere"),
    ("GET", "/v1"),
    ("GET", "/v1/other"),
    ("POST", "/v1/other"),
    ("GET", "/v1/endpointsish"),
]


@pytest.mark.parametrize("catch_all", [False, True])
def test_the_hosts_own_routes_and_error_pages_answer_as_without_us(unregistered, catch_all):
    app = with_pages(unregistered.app, catch_all=catch_all)
    app.register_blueprint(unregistered.webhooks.blueprint)
    without_us = with_pages(hosts.new_app(), catch_all=catch_all)

    assert _answers(app) == _answers(without_us)


def _answers(app):
    answers = {asked: app.test_client().open(asked[1], method=asked[0]) for asked in HOST_REQUESTS}
    return {asked: (answer.status, answer.data, sorted(answer.headers)) for asked, answer in answers.items()}


@pytest.mark.parametrize("catch_all", [False, True])
def test_our_problem_documents_pass_the_hosts_error_handlers_by(unregistered, catch_all):
    app = with_pages(unregistered.app, catch_all=catch_all)
    app.register_blueprint(unregistered.webhooks.blueprint)
    acme = unregistered.client("acme")

    life_of_an_endpoint(acme, unregistered.client("globex"))
    refused = {
        400: acme.post("/v1/endpoints", data="{", content_type="application/json"),
        401: unregistered.client(None).get("/v1/endpoints"),
        404: acme.get("/v1/endpoints/a/b/c"),
        405: acme.patch("/v1/endpoints", json={}),
        413: acme.post("/v1/endpoints", json={"name": "n" * 70_000}),
        415: acme.post("/v1/endpoints", data="name=n"),
        422: acme.post("/v1/endpoints", json={}),
    }
    assert {status: answer.status_code for status, answer in refused.items()} == {status: status for status in refused}
    assert {answer.mimetype for answer in refused.values()} == {"application/problem+json"}


MODES = [
    {"TESTING": False},
    {"TESTING": True},
    {"TESTING": False, "DEBUG": True},
    {"PROPAGATE_EXCEPTIONS": True},
    {"PROPAGATE_EXCEPTIONS": False},
    {"TRAP_HTTP_EXCEPTIONS": True},
    {"TRAP_BAD_REQUEST_ERRORS": True},
]


@on_sqlite
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_answers_do_not_depend_on_the_apps_mode(unregistered, mode):
    unregistered.app.config.update(mode)
    unregistered.app.register_blueprint(unregistered.webhooks.blueprint)

    life_of_an_endpoint(unregistered.client("acme"), unregistered.client("globex"))


def test_the_host_sees_our_requests_and_answers(unregistered):
    app, seen = unregistered.app, []

    @app.before_request
    def note_request():
        g.request_id = "r-1"

    @app.after_request
    def note_answer(response):
        response.headers["X-Request-Id"] = g.request_id
        seen.append((request.endpoint, response.status_code))
        return response

    app.register_blueprint(unregistered.webhooks.blueprint)
    acme = unregistered.client("acme")
    answers = [acme.get("/v1/endpoints"), acme.get("/v1/endpoints/unknown"), acme.post("/v1/endpoints", json={})]

    assert {answer.headers["X-Request-Id"] for answer in answers} == {"r-1"}
    assert seen == [
        ("webhook_endpoints.list_endpoints", 200),
        ("webhook_endpoints.read_endpoint", 404),
        ("webhook_endpoints.create_endpoint", 422),
    ]


HOOKS = {
    "the session's": lambda db: (db.session, "do_orm_execute"),
    "before execution": lambda db: (db.engine, "before_execute"),
    "after execution": lambda db: (db.engine, "after_execute"),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_the_hosts_hooks_on_statements_see_all_of_ours(host, acme, globex, hook):
    # They went by the session's connection for a while, to save a few microseconds, and no hook heard of them.
    seen, sent = [], []
    with host.app.app_context():
        sa.event.listen(*HOOKS[hook](host.db), lambda *given: seen.append(given))
        sa.event.listen(host.db.engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
    life_of_an_endpoint(acme, globex)

    assert len(sent) > 10
    assert len(seen) == len(sent)


def test_a_session_class_that_executes_in_its_own_way_executes_all_of_ours(database):
    executed, sent = [], []

    class Auditing(sqlalchemy.orm.Session):
        def execute(self, *args, **kwargs):
            executed.append(args)
            return super().execute(*args, **kwargs)

    with hosts.plain_engine(database) as engine:
        session, metadata = scoped_session(sessionmaker(engine, class_=Auditing)), sa.MetaData()
        webhooks = WebhookEndpoints(session=session, tenant=tenant_header, metadata=metadata)
        metadata.create_all(engine)
        sa.event.listen(engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
        app = plain_app(session, webhooks)
        life_of_an_endpoint(client(app, "acme"), client(app, "globex"))

    assert len(sent) > 10
    assert len(executed) == len(sent)


def test_publishing_flushes_what_is_pending_as_any_statement_in_the_session_does(host, acme):
    # Text handed to the driver left it pending: SQLite read before it wrote, and then could not write.
    post_endpoint(acme)

    class Invoice(host.db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)

    pending = []
    with host.app.app_context():
        host.db.create_all()
        for act in (
            lambda: host.db.session.execute(sa.select(1)),
            lambda: host.webhooks.publish("invoice.paid", {}, tenant_id="acme"),
        ):
            invoice = Invoice()
            host.db.session.add(invoice)
            act()
            pending.append(invoice in host.db.session.new)
            host.db.session.rollback()

    assert pending[0] == pending[1]


def test_our_statements_go_to_the_schema_that_the_host_translates_ours_to(database):
    sent = []
    with sa.create_engine(database, poolclass=sa.NullPool).connect() as connection:
        schema = sa.inspect(connection).default_schema_name
    options = {"execution_options": {"schema_translate_map": {None: schema}}}
    host = hosts.flask_sqlalchemy(database, SQLALCHEMY_ENGINE_OPTIONS=options)
    with host.app.app_context():
        sa.event.listen(host.db.engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
    life_of_an_endpoint(host.client(), host.client("globex"))
    host.close()

    assert len(sent) > 10
    assert [statement for statement in sent if f"{schema}.webhook_" not in statement.replace("`", "")] == []


# On PostgreSQL, no worker ever claimed: it asked for the table of the queue by a name that was not translated.
@pytest.mark.only_on("postgresql", "mariadb")
def test_workers_and_commands_find_our_tables_in_a_schema_that_the_host_translates_ours_to(database, webhook_receiver):
    with own_schema(database, "translated") as schema:
        options = {"execution_options": {"schema_translate_map": {None: schema}}}
        with closing(
            hosts.flask_sqlalchemy(database, allowed_networks=hosts.LOOPBACK, SQLALCHEMY_ENGINE_OPTIONS=options)
        ) as host:
            create_endpoint(host.client(), webhook_receiver.url)
            publish(host)
            delivered = drain(host.app)
            levels = {each["check"]: each["level"] for each in run_json(host, "doctor")}
            tuned = run_command(host, "tune", "--yes")

    assert delivered == 1
    assert levels["tables"] == "ok"
    assert tuned.exit_code == 0


def test_the_hosts_json_provider_does_not_change_our_answers(unregistered):
    class Enveloped(DefaultJSONProvider):
        def dumps(self, obj, **kwargs):
            return json.dumps({"data": obj})

        def loads(self, s, **kwargs):
            return {"body": json.loads(s)}

    unregistered.app.json = Enveloped(unregistered.app)
    unregistered.app.register_blueprint(unregistered.webhooks.blueprint)
    acme = unregistered.client("acme")
    created = acme.post("/v1/endpoints", data=json.dumps(NEW), content_type="application/json")

    assert json.loads(created.data)["name"] == NEW["name"]
    assert json.loads(acme.get("/v1/endpoints").data) == [json.loads(created.data)]
    assert json.loads(acme.get("/v1/endpoints/unknown").data)["status"] == 404


# What the host has pending in its session


@pytest.fixture
def audited(unregistered):
    return audit(unregistered)


def audit(unregistered):
    """Make the host note each request in a row of its own, in the same session, before we answer."""
    db = unregistered.db

    class Audit(db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)
        path: Mapped[str | None] = mapped_column(sa.String(255), nullable=False)

    @unregistered.app.before_request
    def note():
        path = None if request.headers.get("X-Break") else f"{request.method} {request.path}"
        db.session.add(Audit(path=path))

    with unregistered.app.app_context():
        db.create_all()
    unregistered.app.register_blueprint(unregistered.webhooks.blueprint)
    return unregistered


def noted(host):
    with host.app.app_context():
        return list(host.db.session.scalars(sa.text("SELECT path FROM audit ORDER BY id")))


def test_what_the_host_has_pending_is_committed_with_our_change(audited):
    acme = audited.client("acme")
    one = post_endpoint(acme).headers["Location"]
    acme.patch(one, json={"status": "PAUSED"})
    acme.delete(one)

    assert noted(audited) == ["POST /v1/endpoints", f"PATCH {one}", f"DELETE {one}"]


def test_what_the_host_has_pending_is_not_kept_when_we_refuse_or_only_read(audited):
    acme = audited.client("acme")
    acme.get("/v1/endpoints")
    acme.post("/v1/endpoints", json={})
    acme.patch("/v1/endpoints/ep_00000000-0000-7000-8000-000000000000", json={"status": "PAUSED"})

    assert noted(audited) == []


def test_what_the_host_can_not_commit_takes_our_change_with_it(audited):
    acme = audited.client("acme")

    with pytest.raises(sa.exc.IntegrityError):
        acme.post("/v1/endpoints", json=NEW, headers={"X-Break": "1"})
    assert acme.get("/v1/endpoints").get_json() == []
    assert noted(audited) == []


# The first try was rolled back with the host's row in it, and the second committed ours alone.
def test_what_the_host_has_pending_is_not_lost_when_the_database_is_busy(tmp_path):
    file = tmp_path / "host.db"
    impatient = {"connect_args": {"timeout": 0}}
    host = hosts.flask_sqlalchemy(f"sqlite:///{file}", register=False, SQLALCHEMY_ENGINE_OPTIONS=impatient)
    acme, path = audit(host).client("acme"), "/v1/endpoints"
    busy = sqlite3.connect(file, isolation_level=None)

    def free_after_the_first_try(context):
        if busy.in_transaction:
            busy.rollback()

    with host.app.app_context():
        sa.event.listen(host.db.engine, "handle_error", free_after_the_first_try)
    busy.execute("BEGIN IMMEDIATE")
    answer = acme.post(path, json=NEW)
    busy.close()

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (acme.get(path).get_json(), noted(host)) == ([], [])
    assert acme.post(path, json=NEW).status_code == 201
    assert noted(host) == [f"POST {path}"]
    host.close()
