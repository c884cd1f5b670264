"""A database that goes away, comes back, is locked or says no; met on real connections, cut by a proxy in between."""

import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from werkzeug.test import TestResponse

from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.database.models import WebhookEndpoint, WebhookIdempotencyKey, WebhookSecret
from flask_webhook_endpoints.errors import DatabaseUnavailable
from tests.support import hosts
from tests.support.api import NEW, create_endpoint, post_endpoint
from tests.support.database import engine_of
from tests.support.proxy import Proxy
from tests.support.waiting import PATIENCE_SECONDS

servers_only = pytest.mark.only_on("postgresql", "mariadb")


@pytest.fixture
def proxy(database: str) -> Iterator[Proxy]:
    url = make_url(database)
    assert url.host is not None
    default = {"postgresql": 5432, "mysql": 3306}[url.get_backend_name()]
    with closing(Proxy((url.host, url.port or default))) as proxy:
        yield proxy


@pytest.fixture
def proxied(database: str, proxy: Proxy) -> str:
    url = make_url(database).set(host="127.0.0.1", port=proxy.port)
    if url.get_backend_name() == "postgresql":
        # The proxy reads along; libpq waits two seconds at least.
        url = url.update_query_dict({"sslmode": "disable", "connect_timeout": "2"})
    return url.render_as_string(hide_password=False)


def make_host(
    url: str,
    *,
    tenant: Callable[[hosts.Host], str] | None = None,
    **options: Any,
) -> hosts.Host:
    def ask() -> str:
        return "acme" if tenant is None else tenant(host)

    host = hosts.flask_sqlalchemy(url, tenant=ask, SQLALCHEMY_ENGINE_OPTIONS=options)
    return host


def impatient(database: str) -> dict[str, Any]:
    """Return engine options with which a locked row or file is given up at once."""
    url = make_url(database)
    connect_args: dict[str, dict[str, Any]] = {
        "sqlite": {"timeout": 0.02},
        "postgresql": {"options": f"{url.query.get('options')} -clock_timeout=20"},
        "mysql": {"init_command": "SET innodb_lock_wait_timeout = 0"},
    }
    return {"connect_args": connect_args[url.get_backend_name()]}


def reads_the_database(host: hosts.Host) -> str:
    host.db.session.execute(sa.select(WebhookEndpoint.id)).all()
    return "acme"


@contextmanager
def other_connection(database: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection


def every_route(host: hosts.Host, ep_id: str) -> list[TestResponse]:
    client, path = host.client(), f"/v1/endpoints/{ep_id}"
    return [
        client.get("/v1/endpoints"),
        post_endpoint(client),
        client.get(path),
        client.patch(path, json={"name": "renamed"}),
        client.patch(path, json={}),
        client.get(f"{path}/secret"),
        client.post(f"{path}/secret/rotate"),
        client.delete(path),
    ]


def is_unavailable(answer: TestResponse) -> bool:
    if answer.status_code != 503:
        return False
    assert answer.mimetype == "application/problem+json"
    assert answer.json["status"] == 503
    assert int(answer.headers["Retry-After"]) >= 1
    return True


def counts(database: str) -> tuple[int, int, int]:
    """Return how many endpoints, secrets and idempotency keys there are, read beside host and proxy."""
    with other_connection(database) as connection:
        endpoints, secrets, keys = (
            connection.execute(sa.select(sa.func.count()).select_from(model)).scalar_one()
            for model in (WebhookEndpoint, WebhookSecret, WebhookIdempotencyKey)
        )
    return endpoints, secrets, keys


@contextmanager
def errors_of(host: hosts.Host, then: Callable[[], None] = lambda: None) -> Iterator[list[Any]]:
    """Collect the codes of the database's errors, and do `then` at each."""
    codes: list[Any] = []

    def note(context: Any) -> None:
        error = context.original_exception
        is_number = isinstance(error.args[0], int)
        codes.append(
            error.args[0] if is_number else getattr(error, "sqlite_errorcode", getattr(error, "sqlstate", None))
        )
        then()

    engine = engine_of(host)
    sa.event.listen(engine, "handle_error", note)
    yield codes
    sa.event.remove(engine, "handle_error", note)


@servers_only
@pytest.mark.parametrize("tenant", [None, reads_the_database], ids=["tenant", "tenant-reads"])
def test_while_the_database_is_away_every_route_is_503_and_then_all_is_as_before(database, proxy, proxied, tenant):
    with closing(make_host(proxied, tenant=tenant)) as host:
        born = post_endpoint(host.client())
        before = counts(database)

        proxy.cut()
        answers = every_route(host, born.json["id"])
        proxy.restore()

        assert [answer for answer in answers if not is_unavailable(answer)] == []
        assert counts(database) == before
        assert host.client().get("/v1/endpoints").json == [born.json]
        after = every_route(host, born.json["id"])
        assert [answer.status_code for answer in after] == [200, 201, 200, 200, 200, 200, 200, 204]


@servers_only
def test_a_server_that_refuses_connections_is_503(database, proxied, proxy):
    with closing(make_host(proxied)) as host:
        proxy.close()

        assert is_unavailable(post_endpoint(host.client()))
        assert is_unavailable(host.client().get("/v1/endpoints"))


@servers_only
def test_a_server_that_hangs_is_503_when_the_hosts_own_time_limit_ends(database, proxy, proxied):
    limits = {"connect_args": {"read_timeout": 1, "connect_timeout": 1}} if "mysql" in database else {}
    with closing(make_host(proxied, **limits)) as host:
        post_endpoint(host.client())

        # Open lines end by the host's limit where the driver has one: PyMySQL. Psycopg's holds for connecting.
        proxy.hang() if limits else proxy.cut("hanging")
        answer = host.client().get("/v1/endpoints")
        proxy.restore()

        assert is_unavailable(answer)
        assert host.client().get("/v1/endpoints").status_code == 200


@servers_only
@pytest.mark.parametrize("statement", [b"INSERT INTO webhook_endpoint", b"INSERT INTO webhook_secret"])
def test_a_line_cut_within_a_transaction_is_mended_without_the_client_noticing(database, proxy, proxied, statement):
    with closing(make_host(proxied)) as host:
        post_endpoint(host.client())

        proxy.cut_at(statement)
        answer = post_endpoint(host.client(), key="k")

        assert proxy.cuts == 1
        assert answer.status_code == 201
        assert counts(database) == (2, 2, 1)


@servers_only
@pytest.mark.parametrize("statement", [b"INSERT INTO webhook_endpoint", b"INSERT INTO webhook_secret", b"COMMIT"])
def test_a_database_lost_within_a_transaction_is_503_and_has_no_half_of_it(database, proxy, proxied, statement):
    with closing(make_host(proxied)) as host:
        post_endpoint(host.client())

        proxy.cut_at(statement)
        proxy.mode = "dropped"
        answer = post_endpoint(host.client(), key="k")
        proxy.restore()

        assert proxy.cuts == 1
        assert is_unavailable(answer)
        assert counts(database) == (1, 1, 0)
        assert post_endpoint(host.client(), key="k").status_code == 201
        assert counts(database) == (2, 2, 1)


@servers_only
def test_a_commit_whose_answer_is_lost_is_503_and_not_made_twice(database, proxy, proxied):
    with closing(make_host(proxied)) as host:
        proxy.cut_at(b"COMMIT", after_it=True)
        lost = post_endpoint(host.client(), key="k")
        again = post_endpoint(host.client(), key="k")

        assert proxy.cuts == 1
        assert is_unavailable(lost)
        assert again.status_code == 201
        assert counts(database) == (1, 1, 1)


@servers_only
def test_a_line_cut_at_the_rollback_is_503_too(database, proxy, proxied):
    with closing(make_host(proxied, **impatient(database))) as host:
        born = post_endpoint(host.client())
        path = f"/v1/endpoints/{born.json['id']}"
        with other_connection(database) as other:
            other.execute(sa.update(WebhookEndpoint).values(name="held"))

            proxy.cut_at(b"ROLLBACK")
            proxy.mode = "dropped"
            answer = host.client().patch(path, json={"name": "renamed"})
            proxy.restore()

            assert proxy.cuts == 1
            assert is_unavailable(answer)
        assert host.client().patch(path, json={"name": "renamed"}).status_code == 200


def end_pooled_sessions(database: str, host: hosts.Host) -> int:
    """End the sessions of the host's pooled connections, as an administrator or a restart does."""
    number = "pg_backend_pid()" if "postgresql" in database else "connection_id()"
    engine = engine_of(host)
    connections = [engine.connect() for _ in range(3)]
    numbers = [connection.execute(sa.text(f"SELECT {number}")).scalar_one() for connection in connections]
    for connection in connections:
        connection.close()
    with other_connection(database) as other:
        for session in numbers:
            kill = f"SELECT pg_terminate_backend({session}, 5000)" if "postgresql" in database else f"KILL {session}"
            other.execute(sa.text(kill))
    return len(numbers)


@servers_only
@pytest.mark.parametrize("method", ["GET", "PATCH", "POST", "DELETE"])
def test_pooled_connections_that_the_server_ended_are_replaced_without_a_503(database, method):
    with closing(make_host(database)) as host:
        path = create_endpoint(host.client()).path
        assert end_pooled_sessions(database, host) == 3

        path = "/v1/endpoints" if method == "POST" else path
        answers = [host.client().open(path, method=method, json=NEW) for _ in range(4)]

        assert answers[0].status_code == {"POST": 201, "DELETE": 204}.get(method, 200)
        assert {answer.status_code for answer in answers} <= {200, 201, 204, 404}


@servers_only
def test_a_tenant_lookup_on_a_connection_that_the_server_ended_is_503_once_and_leaves_the_session_usable(database):
    with closing(make_host(database, tenant=reads_the_database)) as host:
        usable: list[int] = []

        @host.app.after_request
        def note(answer):
            usable.append(host.db.session.execute(sa.text("SELECT 1")).scalar_one())
            return answer

        post_endpoint(host.client())
        end_pooled_sessions(database, host)

        answers = [host.client().get("/v1/endpoints") for _ in range(4)]

        assert is_unavailable(answers[0])
        assert [answer.status_code for answer in answers[1:]] == [200, 200, 200]
        assert usable == [1] * 5


@pytest.mark.several_connections
def test_a_pool_without_a_free_connection_is_503(database):
    with closing(make_host(database, pool_size=1, max_overflow=0, pool_timeout=0.05)) as host:
        born = post_endpoint(host.client())
        with engine_of(host).connect():
            answers = every_route(host, born.json["id"])

        assert [answer for answer in answers if not is_unavailable(answer)] == []
        assert host.client().get("/v1/endpoints").json == [born.json]


LOCKED = {"sqlite": sqlite3.SQLITE_BUSY, "postgresql": "55P03", "mysql": 1205}


@pytest.mark.several_connections
def test_a_write_that_waits_for_a_lock_too_long_is_tried_again(database):
    with closing(make_host(database, **impatient(database))) as host, other_connection(database) as other:
        path = create_endpoint(host.client()).path
        other.execute(sa.update(WebhookEndpoint).values(timeout_seconds=20))

        with errors_of(host, then=other.commit) as codes:
            answer = host.client().patch(path, json={"name": "renamed"})

        assert codes == [LOCKED[other.dialect.name]]
        assert answer.status_code == 200
        assert (answer.json["name"], answer.json["timeout_seconds"]) == ("renamed", 20)


@pytest.mark.several_connections
def test_a_lock_that_is_not_given_back_is_503_with_a_usable_session_and_then_all_is_as_before(database):
    with closing(make_host(database, **impatient(database))) as host, other_connection(database) as other:
        usable: list[int] = []

        @host.app.after_request
        def note(answer):
            usable.append(host.db.session.execute(sa.text("SELECT 1")).scalar_one())
            return answer

        born = post_endpoint(host.client())
        path = f"/v1/endpoints/{born.json['id']}"
        other.execute(sa.update(WebhookEndpoint).values(timeout_seconds=20))

        answer = host.client().patch(path, json={"name": "renamed"})
        other.rollback()

        assert is_unavailable(answer)
        assert usable == [1, 1]
        assert host.client().get(path).json == born.json
        assert host.client().patch(path, json={"name": "renamed"}).status_code == 200


@pytest.mark.several_connections
def test_a_client_does_not_wait_for_try_after_try_where_each_takes_long(database, monkeypatch):
    monkeypatch.setattr("flask_webhook_endpoints.database.transactions._PATIENCE_SECONDS", 0.0)
    with closing(make_host(database, **impatient(database))) as host, other_connection(database) as other:
        path = create_endpoint(host.client()).path
        other.execute(sa.update(WebhookEndpoint).values(timeout_seconds=20))

        with errors_of(host) as codes:
            answer = host.client().patch(path, json={"name": "renamed"})

        assert is_unavailable(answer)
        assert codes == [LOCKED[other.dialect.name]]


CHANGED_SINCE = {"sqlite": sqlite3.SQLITE_BUSY_SNAPSHOT, "postgresql": "40001", "mysql": 1020}


@pytest.mark.several_connections
def test_a_write_after_a_read_that_another_write_has_overtaken_is_tried_again(database):
    # Isolation by snapshots, as a host may choose: its look-up of the tenant takes the snapshot.
    backend = make_url(database).get_backend_name()
    options: dict[str, Any] = {
        "sqlite": {},
        "postgresql": {"isolation_level": "SERIALIZABLE"},
        "mysql": {"connect_args": {"init_command": "SET innodb_snapshot_isolation = ON"}},
    }[backend]
    overtaking: list[sa.Executable] = []

    def read_and_be_overtaken(host: hosts.Host) -> str:
        reads_the_database(host)
        if overtaking:
            with other_connection(database) as other:
                other.execute(overtaking.pop())
                other.commit()
        return "acme"

    with closing(make_host(database, tenant=read_and_be_overtaken, **options)) as host:
        if backend == "sqlite":
            _begin_as_sqlalchemy_advises(engine_of(host))
        path = create_endpoint(host.client()).path
        overtaking.append(sa.update(WebhookEndpoint).values(timeout_seconds=20))

        with errors_of(host) as codes:
            answer = host.client().patch(path, json={"name": "renamed"})

        assert codes == [CHANGED_SINCE[backend]]
        assert answer.status_code == 200
        assert (answer.json["name"], answer.json["timeout_seconds"]) == ("renamed", 20)


def _begin_as_sqlalchemy_advises(engine: sa.Engine) -> None:
    """Make transactions begin with the first read, which Python's sqlite3 alone does not do."""

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection, record):
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection):
        connection.exec_driver_sql("BEGIN")

    engine.dispose()


DEADLOCK = {"postgresql": "40P01", "mysql": 1213}


@servers_only
def test_the_victim_of_a_deadlock_is_tried_again(database):
    # The host holds its own row and wants the endpoint's, another connection the other way round.
    is_postgresql = "postgresql" in database
    options = {"options": f"{make_url(database).query.get('options')} -cdeadlock_timeout=50"} if is_postgresql else {}
    waiting = threading.Event()
    threads: list[threading.Thread] = []

    def lock_own_row(host: hosts.Host) -> str:
        if waiting.is_set():
            # The second try asks for the tenant again.
            waiting.clear()
            host.db.session.execute(sa.text("UPDATE host_row SET n = n + 1 WHERE id = 1"))
            threads[0].start()
            deadline = threading.Event()
            blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NULL"
            if not is_postgresql:
                blocked = "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
            for _ in range(200):
                with other_connection(database) as watcher:
                    if watcher.execute(sa.text(blocked)).scalar_one():
                        break
                deadline.wait(0.02)
        return "acme"

    def want_the_hosts_row(other: sa.Connection) -> None:
        other.execute(sa.text("UPDATE host_row SET n = n + 10"))
        other.commit()

    host = make_host(database, tenant=lock_own_row, connect_args=options)
    with closing(host), other_connection(database) as other:
        path = create_endpoint(host.client()).path
        other.execute(sa.text("CREATE TABLE host_row (id INTEGER PRIMARY KEY, n INTEGER)"))
        other.execute(sa.text(f"INSERT INTO host_row VALUES {', '.join(f'({n}, 0)' for n in range(1, 100))}"))
        other.commit()
        other.execute(sa.update(WebhookEndpoint).values(timeout_seconds=20))
        # MariaDB ends the transaction that has written less.
        other.execute(sa.text("UPDATE host_row SET n = n + 10 WHERE id > 1"))
        threads.append(threading.Thread(target=want_the_hosts_row, args=(other,)))
        waiting.set()

        with errors_of(host) as codes:
            answer = host.client().patch(path, json={"name": "renamed"})
        threads[0].join(PATIENCE_SECONDS)

        assert codes == [DEADLOCK[other.dialect.name]]
        assert answer.status_code == 200
        assert (answer.json["name"], answer.json["timeout_seconds"]) == ("renamed", 20)


@servers_only
def test_a_statement_that_the_hosts_time_limit_ends_is_503(database):
    options = {
        "postgresql": {"options": f"{make_url(database).query.get('options')} -cstatement_timeout=100"},
        "mysql": {"init_command": "SET max_statement_time = 0.1"},
    }[make_url(database).get_backend_name()]
    with closing(make_host(database, connect_args=options)) as host, other_connection(database) as other:
        path = create_endpoint(host.client()).path
        other.execute(sa.update(WebhookEndpoint).values(timeout_seconds=20))

        with errors_of(host) as codes:
            answer = host.client().patch(path, json={"name": "renamed"})

        assert codes == [{"postgresql": "57014", "mysql": 1969}[other.dialect.name]]
        assert is_unavailable(answer)


READ_ONLY = {"sqlite": sqlite3.SQLITE_READONLY, "postgresql": "25006", "mysql": 1792}


@pytest.mark.several_connections
def test_a_database_that_only_reads_is_503_for_what_writes(database):
    # As on a standby that a failover has not promoted yet.
    with closing(make_host(database)) as host:
        born = post_endpoint(host.client())
    url = make_url(database)
    options: dict[str, Any] = {}
    match url.get_backend_name():
        case "sqlite":
            url = make_url(f"sqlite:///file:{url.database}?mode=ro&uri=true")
        case "postgresql":
            options = {"options": f"{url.query.get('options')} -cdefault_transaction_read_only=on"}
        case _:
            options = {"init_command": "SET SESSION TRANSACTION READ ONLY"}
    with closing(make_host(url.render_as_string(hide_password=False), connect_args=options)) as host:
        with errors_of(host) as codes:
            answers = every_route(host, born.json["id"])

        reading, writing = [answers[n] for n in (0, 2, 4, 5)], [answers[n] for n in (1, 3, 6, 7)]
        assert [answer for answer in writing if not is_unavailable(answer)] == []
        assert [answer.status_code for answer in reading] == [200] * 4
        assert set(codes) == {READ_ONLY[engine_of(host).dialect.name]}


@pytest.mark.only_on("sqlite")
def test_sqlite_locked_by_another_process_is_503_and_normal_afterwards(database):
    program = (
        "import sqlite3, sys\n"
        f"connection = sqlite3.connect({make_url(database).database!r}, isolation_level=None)\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with closing(make_host(database, **impatient(database))) as host:
        born = post_endpoint(host.client())
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            client = host.client()
            answers = [client.get("/v1/endpoints"), client.delete(f"/v1/endpoints/{born.json['id']}")]
            process.communicate()

        assert [answer for answer in answers if not is_unavailable(answer)] == []
        assert host.client().get("/v1/endpoints").json == [born.json]


@pytest.mark.only_on("sqlite")
def test_a_sqlite_file_that_can_not_be_opened_is_503(database, tmp_path):
    with closing(make_host(database)) as host:
        born = post_endpoint(host.client())
        engine_of(host).dispose()
        (tmp_path / "host.db").rename(tmp_path / "moved.db")
        (tmp_path / "host.db").mkdir()

        answers = every_route(host, born.json["id"])
        (tmp_path / "host.db").rmdir()
        (tmp_path / "moved.db").rename(tmp_path / "host.db")

        assert [answer for answer in answers if not is_unavailable(answer)] == []
        assert host.client().get("/v1/endpoints").json == [born.json]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_missing_tables_reach_the_host_as_the_error_they_are(database, method):
    with closing(make_host(database)) as host:
        seen: list[tuple[DBAPIError, int]] = []

        @host.app.errorhandler(DBAPIError)
        def show(error):
            # The session is rolled back: the host's own handler may use it.
            seen.append((error, host.db.session.execute(sa.text("SELECT 1")).scalar_one()))
            return "a developer sees this", 500

        with host.app.app_context():
            host.db.drop_all()

        answer = host.client().open("/v1/endpoints", method=method, json=NEW)

        assert (answer.status_code, answer.text) == (500, "a developer sees this")
        assert "webhook_endpoint" in str(seen[0][0].orig)
        assert seen[0][1] == 1


@pytest.mark.several_connections
def test_the_log_of_an_outage_names_the_drivers_error_and_no_value_of_the_request(database, caplog):
    with closing(make_host(database, **impatient(database))) as host, other_connection(database) as other:
        path = create_endpoint(host.client()).path
        other.execute(sa.update(WebhookEndpoint).values(timeout_seconds=20))
        values = {"name": "the name", "url": "https://example.com/the-path", "secret": "the secret that is ours"}

        with caplog.at_level(logging.DEBUG, logger="flask_webhook_endpoints"):
            answer = host.client().patch(path, json=values)

        assert is_unavailable(answer)
        records = [record for record in caplog.records if record.name.startswith("flask_webhook_endpoints")]
        assert [record.msg for record in records] == ["webhooks.database_unavailable"]
        assert "lock" in records[0].__dict__["webhooks.error"].lower()
        written = repr([record.__dict__ for record in records])
        assert not [value for value in (*values.values(), "UPDATE") if value in written]


def register(database: str, **given: Any) -> tuple[Flask, SQLAlchemy, WebhookEndpoints]:
    """Make what a host is made of, with a pool of one connection; the blueprint is not registered yet."""
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=lambda: "acme", metadata=db.metadata, **given)
    app = Flask("host")
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
    app.config.update(SECRET_KEY="s", SQLALCHEMY_DATABASE_URI=database, SQLALCHEMY_ENGINE_OPTIONS=options)
    db.init_app(app)
    return app, db, webhooks


@pytest.mark.several_connections
def test_a_host_may_answer_an_outage_in_its_own_words(database):
    app, db, webhooks = register(database)

    @webhooks.blueprint.errorhandler(DatabaseUnavailable)
    def answer_myself(error):
        return {"sorry": True}, 503

    app.register_blueprint(webhooks.blueprint)
    with closing(hosts.Host(app, webhooks, db)) as host, engine_of(host).connect():
        answer = host.client().get("/v1/endpoints")

    assert (answer.status_code, answer.json) == (503, {"sorry": True})


@pytest.mark.several_connections
def test_an_authorization_that_can_not_read_the_database_is_503(database):
    app, db, webhooks = register(
        database, authorize=lambda action, endpoint_id: bool(db.session.execute(sa.text("SELECT 1")).scalar())
    )
    app.register_blueprint(webhooks.blueprint)
    with closing(hosts.Host(app, webhooks, db)) as host, engine_of(host).connect():
        answer = host.client().get("/v1/endpoints/ep_01a209b5-d10f-774f-84ce-43521a7fab1e")

    assert is_unavailable(answer)
