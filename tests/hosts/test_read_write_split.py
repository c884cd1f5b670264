"""Hosts whose session sends statements to a leader or a follower: what we write, and what a write reads, is together.

Both engines reach the same database, so that a follower is always up to date, except for what is not committed yet.
"""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session as FlaskSession
from sqlalchemy import Delete, Insert, Update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

import flask_webhook_endpoints
from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.testing import drain
from flask_webhook_endpoints.worker.loop import Worker
from tests.support import hosts
from tests.support.api import NEW, create_endpoint, post_endpoint
from tests.support.waiting import wait_until
from tests.support.workers import in_thread

pytestmark = pytest.mark.several_connections


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(primary_key=True)


class Engines:
    """A leader and two followers, and what each of them was asked."""

    def __init__(self, url: str) -> None:
        self.by_name = {name: sa.create_engine(url) for name in ("leader", "follower1", "follower2")}
        self.asked: dict[str, list[str]] = {"leader": [], "follower": []}
        for name, engine in self.by_name.items():
            self._listen(engine, self.asked[name.rstrip("12")])

    def _listen(self, engine: sa.Engine, asked: list[str]) -> None:
        @sa.event.listens_for(engine, "before_cursor_execute")
        def keep(connection, cursor, statement, *_):
            asked.append(" ".join(statement.split()))

    @property
    def leader(self) -> sa.Engine:
        return self.by_name["leader"]

    @property
    def follower(self) -> sa.Engine:
        return self.by_name[random.choice(["follower1", "follower2"])]

    def forget(self) -> None:
        for asked in self.asked.values():
            asked.clear()

    def close(self) -> None:
        for engine in self.by_name.values():
            engine.dispose()


def sqlalchemys_recipe(engines: Engines) -> type[Session]:
    """SQLAlchemy's own, word for word but for the names of the engines ("Custom Vertical Partitioning")."""

    class RoutingSession(Session):
        def get_bind(self, mapper=None, clause=None):
            if mapper and issubclass(mapper.class_, sa.Table):
                raise AssertionError
            if self._flushing or isinstance(clause, Update | Delete):
                return engines.leader
            return engines.follower

    return RoutingSession


def by_kind(engines: Engines) -> type[Session]:
    """The same with Insert, as hosts that write by Core statements have it."""

    class RoutingSession(Session):
        def get_bind(self, mapper=None, clause=None, **options):
            if self._flushing or isinstance(clause, Insert | Update | Delete):
                return engines.leader
            return engines.follower

    return RoutingSession


def by_flag(engines: Engines) -> type[Session]:
    """By what a statement says of itself."""

    class RoutingSession(Session):
        def get_bind(self, mapper=None, *, clause=None, **options):
            is_dml = clause is not None and getattr(clause, "is_dml", False)
            return engines.leader if self._flushing or is_dml else engines.follower

    return RoutingSession


def by_table(engines: Engines) -> type[Session]:
    """By the table that is written, too: as hosts have it that keep some tables elsewhere."""

    class RoutingSession(Session):
        def get_bind(self, mapper=None, *, clause=None, **options):
            table = getattr(clause, "table", None)
            if isinstance(clause, sa.UpdateBase) and table is not None and table.name.startswith("webhook_"):
                assert table.metadata is flask_webhook_endpoints.metadata
                return engines.leader
            return engines.leader if self._flushing or isinstance(clause, sa.UpdateBase) else engines.follower

    return RoutingSession


RECIPES = (sqlalchemys_recipe, by_kind, by_flag, by_table)


@pytest.fixture(params=RECIPES, ids=lambda recipe: recipe.__name__)
def host(request, database) -> Iterator[SimpleNamespace]:
    with closing(Engines(database)) as engines:
        session = scoped_session(sessionmaker(class_=request.param(engines)))
        webhooks = WebhookEndpoints(session=session, tenant=hosts.tenant_header)
        app = Flask("host")
        app.config.update(TESTING=True, SECRET_KEY="host secret", WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS=hosts.LOOPBACK)
        app.register_blueprint(webhooks.blueprint)
        app.teardown_appcontext(lambda error: session.remove())
        flask_webhook_endpoints.metadata.create_all(engines.leader)
        Base.metadata.create_all(engines.leader)
        engines.forget()
        yield SimpleNamespace(
            app=app, engines=engines, session=session, webhooks=webhooks, acme=hosts.client(app, "acme")
        )


@contextmanager
def nothing_asked_of(host: SimpleNamespace, name: str) -> Iterator[None]:
    host.engines.forget()
    yield
    assert host.engines.asked[name] == []
    other = {"leader": "follower", "follower": "leader"}[name]
    assert host.engines.asked[other]


def test_every_request_that_writes_asks_the_leader_alone(host, webhook_receiver):
    body = {**NEW, "url": webhook_receiver.url, "headers_json": {"A": "1"}}
    acme = host.acme

    def writes(method: str, path: str, expected: int, **options: Any) -> Any:
        with nothing_asked_of(host, "follower"):
            answer = acme.open(path, method=method, **options)
        assert answer.status_code == expected, answer.text
        return answer

    created = writes("POST", "/v1/endpoints", 201, json=body, headers={"Idempotency-Key": "k"})
    writes("POST", "/v1/endpoints", 201, json=body, headers={"Idempotency-Key": "k"})
    path = f"/v1/endpoints/{created.json['id']}"
    for changes in ({}, {"name": "m"}, {"status": "PAUSED"}, {"status": "ACTIVE"}, {"secret": "a secret of sixteen"}):
        writes("PATCH", path, 200, json=changes)
    writes("PATCH", path, 412, json={"name": "m"}, headers={"If-Match": '"99"'})
    writes("PATCH", path, 412, json={}, headers={"If-Match": '"99"'})
    writes("POST", f"{path}/secret/rotate", 200)
    delivery = writes("POST", f"{path}/ping", 202).json["id"]
    with nothing_asked_of(host, "follower"):
        assert drain(host.app) == 1
    writes("POST", f"{path}/deliveries/{delivery}/redeliver", 202)
    writes("POST", f"{path}/recover", 202, json={"since": "2026-01-01T00:00:00Z"})
    unknown = "/v1/endpoints/ep_00000000-0000-7000-8000-000000000000"
    writes("PATCH", unknown, 404, json={"name": "m"})
    writes("DELETE", unknown, 404)
    writes("DELETE", path, 204)


def test_requests_that_read_ask_the_follower_alone(host, webhook_receiver):
    path = create_endpoint(host.acme, webhook_receiver.url).path
    delivery = host.acme.post(f"{path}/ping").json["id"]

    listed = f"{path}/deliveries", "/v1/endpoints/deliveries", "/v1/endpoints/deliveries?status=PENDING"
    for asked in ("/v1/endpoints", path, f"{path}/secret", *listed, f"{path}/deliveries/{delivery}"):
        with nothing_asked_of(host, "leader"):
            assert host.acme.get(asked).status_code == 200
        assert not [each for each in host.engines.asked["follower"] if not each.startswith(("SELECT", "WITH heads"))]
        assert not [each for each in host.engines.asked["follower"] if "FOR " in each]


@pytest.mark.parametrize("commits", [True, False])
def test_an_event_is_where_the_hosts_invoice_is(host, webhook_receiver, commits):
    create_endpoint(host.acme, webhook_receiver.url)

    with host.app.app_context(), nothing_asked_of(host, "follower"):
        host.session.add(Invoice(id=7))
        event = host.webhooks.publish("invoice.paid", {"id": 7}, tenant_id="acme", idempotency_key="k")
        again = host.webhooks.publish("invoice.paid", {"id": 7}, tenant_id="acme", idempotency_key="k")
        assert event.id == again.id
        host.session.commit() if commits else host.session.rollback()

    with nothing_asked_of(host, "follower"):
        assert drain(host.app) == int(commits)
    with host.engines.leader.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM invoice")) == int(commits)
        assert connection.scalar(sa.text("SELECT count(*) FROM webhook_event")) == int(commits)


def test_what_is_erased_is_erased_at_the_leader(host, webhook_receiver):
    create_endpoint(host.acme, webhook_receiver.url)

    with host.app.app_context(), nothing_asked_of(host, "follower"):
        host.webhooks.forget_tenant("acme")
        host.session.commit()

    assert host.acme.get("/v1/endpoints").json == []


COMMANDS = [
    ["worker", "--drain"],
    ["status", "--json"],
    ["redeliver", "--tenant", "acme", "--status", "FAILED", "--yes", "--json"],
    ["prune", "--json"],
    ["rotate-keys", "--json"],
    ["forget-tenant", "acme", "--yes", "--json"],
]


def test_commands_ask_the_leader_alone(host, webhook_receiver):
    path = create_endpoint(host.acme, webhook_receiver.url).path
    host.acme.post(f"{path}/ping")

    for command in COMMANDS:
        with nothing_asked_of(host, "follower"):
            result = host.app.test_cli_runner().invoke(args=["webhooks", *command])

        assert result.exit_code == 0, result.output


def test_an_idle_worker_asks_the_leader_alone(host):
    with nothing_asked_of(host, "follower"), in_thread(Worker(host.app)):
        wait_until(lambda: len(host.engines.asked["leader"]) > 30)


def test_a_signal_of_a_pause_has_the_endpoint_of_the_leader(host, webhook_receiver):
    heard = []
    webhook_receiver.answer(410)
    path = create_endpoint(host.acme, webhook_receiver.url).path
    host.acme.post(f"{path}/ping")

    def hear(app, *, endpoint, **_):
        heard.append(endpoint.status)

    signal = flask_webhook_endpoints.signals.endpoint_paused
    with signal.connected_to(hear, sender=host.app), nothing_asked_of(host, "follower"):
        drain(host.app)

    assert heard == ["PAUSED"]


def doctor(app: Flask) -> dict[str, dict[str, str]]:
    result = app.test_cli_runner().invoke(args=["webhooks", "doctor", "--json"])
    return {finding["check"]: finding for finding in json.loads(result.stdout)}


def test_doctor_says_that_writes_and_reads_go_to_different_places(host):
    finding = doctor(host.app)["routing"]

    assert finding["level"] == "warn", finding
    with host.engines.leader.connect() as connection:
        tables = flask_webhook_endpoints.metadata.sorted_tables
        assert [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in tables] == [0] * len(
            tables
        )


def test_doctor_says_where_both_go_and_shows_no_password(database, monkeypatch):
    host = hosts.flask_sqlalchemy(database)
    with closing(host):
        finding = doctor(host.app)["routing"]
        with host.app.app_context():
            url = host.db.engine.url

    assert finding["level"] == "ok", finding
    assert url.render_as_string().partition("?")[0] in finding["message"]


@pytest.mark.only_on("sqlite")
def test_doctor_fails_where_nothing_can_be_written(database):
    hosts.flask_sqlalchemy(database).close()
    host = hosts.flask_sqlalchemy(f"{database.replace('///', '///file:')}?mode=ro&uri=true")

    with closing(host):
        finding = doctor(host.app)["routing"]

    assert finding["level"] == "fail", finding


# --- Flask-SQLAlchemy


def test_flask_sqlalchemys_session_may_route_too(database, webhook_receiver):
    class RoutingSession(FlaskSession):
        def get_bind(self, mapper=None, clause=None, bind=None, **options):
            if self._flushing or isinstance(clause, sa.UpdateBase):
                return self._db.engines["leader"]
            return super().get_bind(mapper=mapper, clause=clause, bind=bind, **options)

    db = SQLAlchemy(session_options={"class_": RoutingSession})
    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header, metadata=db.metadata)
    app = Flask("host")
    app.config.update(TESTING=True, SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI=database)
    app.config["SQLALCHEMY_BINDS"] = {"leader": database}
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint)
    asked: list[str] = []
    with app.app_context():
        db.create_all()
        engines = db.engines

        @sa.event.listens_for(engines[None], "before_cursor_execute")
        def keep(connection, cursor, statement, *_):
            asked.append(statement)

    acme = hosts.client(app, "acme")
    path = create_endpoint(acme).path
    acme.patch(path, json={"name": "m", "secret": "a secret of sixteen"})
    assert asked == []
    assert acme.get(path).json["name"] == "m"
    assert asked
    for engine in engines.values():
        engine.dispose()


def binds_of_tables(engine: sa.Engine) -> dict[str, Any]:
    return {"binds": dict.fromkeys(flask_webhook_endpoints.metadata.tables.values(), engine)}


def bind_of_one_table(engine: sa.Engine) -> dict[str, Any]:
    return {"binds": {flask_webhook_endpoints.metadata.tables["webhook_endpoint"]: engine}}


@pytest.mark.parametrize("options", [binds_of_tables, bind_of_one_table], ids=lambda options: options.__name__)
def test_binds_by_table_go_on_working(database, options: Callable[[sa.Engine], dict[str, Any]]):
    # All that is written goes to where the endpoints are, as it did before.
    engine, other = sa.create_engine(database), sa.create_engine("sqlite://")
    session = scoped_session(sessionmaker(other, **options(engine)))
    webhooks = WebhookEndpoints(session=session, tenant=hosts.tenant_header)
    app = Flask("host")
    app.config.update(TESTING=True, SECRET_KEY="host secret")
    app.register_blueprint(webhooks.blueprint)
    app.teardown_appcontext(lambda error: session.remove())
    flask_webhook_endpoints.metadata.create_all(engine)
    acme = hosts.client(app, "acme")

    created = post_endpoint(acme)

    assert created.status_code == 201
    assert acme.get("/v1/endpoints").json == [created.json]
    assert sa.inspect(other).get_table_names() == []
    engine.dispose()
    other.dispose()
