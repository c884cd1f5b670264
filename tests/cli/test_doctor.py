"""`flask webhooks doctor`: each check finds what it is for, and nothing where all is well."""

import json
import re
import resource
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery
from click.testing import Result
from cryptography.fernet import Fernet
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.engine import make_url

from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.celery import BEAT_SCHEDULE
from flask_webhook_endpoints.cli import celery_checks, machine_checks, settings_checks
from flask_webhook_endpoints.core import wakeups
from flask_webhook_endpoints.core.heartbeats import VERSION
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import Clock
from tests.support import docs, hosts
from tests.support.api import create_endpoint
from tests.support.commands import run_command
from tests.support.database import NEWEST_REVISION, QUEUE, TABLES, WORKER, execute, on_sqlite
from tests.support.deliveries import finish, lease, publish, set_due
from tests.support.waiting import wait_until

# In memory there is something to say of every host.
pytestmark = [pytest.mark.several_connections, pytest.mark.usefixtures("logging_untouched")]

STRONG, LOST, NEW = (f"{number}{'0123456789abcdef' * 4}" for number in range(3))
"""Keys that are long enough."""

HostWith = Callable[..., hosts.Host]


@pytest.fixture
def host_with(database: str) -> Iterator[HostWith]:
    """Makes a host with a worker that was seen just now."""
    made: list[hosts.Host] = []

    def make(**config: Any) -> hosts.Host:
        made.append(hosts.busy(database, **{"require_https": True, "SECRET_KEY": STRONG, **config}))
        return made[-1]

    yield make
    for host in made:
        host.close()


@pytest.fixture
def host(host_with: HostWith) -> hosts.Host:
    return host_with()


def add_worker(host: hosts.Host, *, seen: timedelta = timedelta(0), **told: Any) -> None:
    now = datetime.now(UTC)
    row = {"id": new_id(), "engine": "worker", "hostname": "web-1", "pid": 7, "started_at": now, "seen_at": now - seen}
    execute(host, sa.insert(WORKER).values({**row, "version": VERSION, **told}))


def publish_due(host: hosts.Host, *, due: timedelta) -> None:
    create_endpoint(host.client())
    publish(host)
    set_due(host, datetime.now(UTC) - due)


def doctor(host: hosts.Host, *options: str) -> Result:
    return run_command(host, "doctor", *options)


def found(host: hosts.Host, *levels: str) -> list[tuple[str, str, str]]:
    """Return check, level and message of what was found, beside what is well."""
    result = doctor(host, "--json")
    findings = json.loads(result.stdout)
    assert result.exit_code == int("fail" in {finding["level"] for finding in findings})
    assert all(finding["advice"] for finding in findings if finding["level"] != "ok")
    levels = levels or ("warn", "fail")
    return [(each["check"], each["level"], each["message"]) for each in findings if each["level"] in levels]


def test_where_all_is_well_it_says_so(host):
    add_worker(host)
    publish_due(host, due=timedelta(0))

    result = doctor(host)

    assert found(host) == []
    assert result.exit_code == 0
    assert {line.split()[0] for line in result.output.splitlines() if line[0] != " "} == {"ok"}
    assert "ok    workers: 1 at work" in result.output


def test_a_key_that_is_lost_fails_and_shows_nothing_secret(host_with):
    secret = "whsec_c2l4dGVlbiBieXRlcyBvciBtb3JlIG9mIGtleSE="
    before = host_with(SECRET_KEY=LOST)
    add_worker(before)
    create_endpoint(before.client(), secret=secret, headers_json={"X-Key": "v"})
    host = host_with(SECRET_KEY=NEW)

    assert found(host) == [("keys", "fail", "no key reads 2 of 2 stored secrets and headers")]
    assert found(host_with(SECRET_KEY=NEW, SECRET_KEY_FALLBACKS=[LOST])) == []
    shown = doctor(host).output
    assert not [hidden for hidden in (secret, LOST, NEW) if hidden in shown]


# With one endpoint, its secret was among the oldest and among the newest, and counted twice.
@pytest.mark.parametrize(("endpoints", "read"), [(1, 1), (2, 2), (3, 3), (4, 4), (6, 4)])
def test_a_secret_is_counted_once_however_few_there_are(host_with, monkeypatch, endpoints, read):
    monkeypatch.setattr(settings_checks, "SAMPLE", 2)
    before = host_with(SECRET_KEY=LOST)
    add_worker(before)
    for _ in range(endpoints):
        create_endpoint(before.client())

    lost = found(host_with(SECRET_KEY=NEW))

    assert lost == [("keys", "fail", f"no key reads {read} of {read} stored secrets and headers")]


def test_tables_that_are_missing_fail(host):
    with host.app.app_context():
        host.db.drop_all()

    ((check, level, message),) = found(host, "fail")
    assert (check, level) == ("tables", "fail")
    assert all(f"table {name}" in message for name in TABLES)
    assert "create_all() makes them, too." in doctor(host).output


def test_a_column_and_an_index_that_are_missing_fail(host):
    add_worker(host)
    on = " ON webhook_event" if host.app.config["SQLALCHEMY_DATABASE_URI"].startswith("mysql") else ""
    execute(host, sa.text(f"DROP INDEX ix_webhook_event_created_at{on}"))
    execute(host, sa.text("ALTER TABLE webhook_event DROP COLUMN traceparent"))

    ((check, _, message),) = found(host, "fail")

    missing = {"column webhook_event.traceparent", "index webhook_event (created_at)"}
    assert (check, set(message.removeprefix("missing: ").split(", "))) == ("tables", missing)


def test_shipped_migrations_that_were_not_run_are_named(database):
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header)
    host = hosts.Host(hosts.Flask("host"), webhooks, db)
    host.app.config.update(TESTING=True, SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI=database)
    db.init_app(host.app)
    host.app.register_blueprint(webhooks.blueprint)
    upgrade = ("webhooks", "db", "upgrade")
    assert host.app.test_cli_runner().invoke(args=[*upgrade, "0002"]).exit_code == 0

    findings = {check: (level, message) for check, level, message in found(host)}
    assert findings["migrations"] == ("warn", f"at 0002, the newest is {NEWEST_REVISION}")
    assert findings["tables"][0] == "fail"
    assert host.app.test_cli_runner().invoke(args=upgrade).exit_code == 0

    well = {check: (level, message) for check, level, message in found(host, "ok")}
    assert well["migrations"] == ("ok", f"at the newest revision, {NEWEST_REVISION}")
    assert "tables" in well
    host.close()


@pytest.mark.parametrize(
    ("seen", "due", "expected"),
    [
        (None, None, ("warn", "none was seen lately")),
        (None, 10, ("warn", "none was seen lately")),
        (None, 90, ("fail", "none was seen lately, and 1 deliveries are due")),
        (0, 90, ("warn", "1 at work, but 1 deliveries are due")),
        (50, 10, ("ok", "1 at work")),
        (3600, 90, ("fail", "none was seen lately, and 1 deliveries are due")),
    ],
)
def test_a_worker_that_is_missed_is_told_from_one_that_is_slow(host, seen, due, expected):
    if seen is not None:
        add_worker(host, seen=timedelta(seconds=seen))
    if due is not None:
        publish_due(host, due=timedelta(seconds=due))

    level, message = expected
    ours = [each for each in found(host, "ok", "warn", "fail") if each[0] == "workers"]
    assert ours[0][1] == level
    assert ours[0][2].startswith(message)
    assert len(ours) == (2 if seen == 3600 else 1)


def test_what_a_worker_tells_of_itself_is_named_where_it_hurts(host):
    now = datetime.now(UTC)
    add_worker(host, version="0.0.9", short_of="EMFILE", short_at=now, file_limit=256, clock_skew_ms=-7000)
    add_worker(host, short_of="EMFILE", short_at=now - timedelta(hours=1), clock_skew_ms=100)

    assert found(host) == [
        ("workers", "warn", f"the worker on web-1, pid 7, runs version 0.0.9, not {VERSION}"),
        ("workers", "warn", "the worker on web-1, pid 7, lacked EMFILE lately; it may open 256 files"),
        ("clock", "warn", "the worker on web-1, pid 7, is -7.0 seconds from the database's"),
        *([("sqlite", "warn", "2 workers share the file")] if is_sqlite(host) else []),
    ]


def is_sqlite(host: hosts.Host) -> bool:
    return str(host.app.config["SQLALCHEMY_DATABASE_URI"]).startswith("sqlite")


# One customer whose receiver is slow looked like workers that do not keep up.
def test_what_waits_behind_its_own_endpoint_is_no_workers_fault(host):
    add_worker(host)
    create_endpoint(host.client())
    publish(host, *range(12))
    lease(host, datetime.now(UTC) + timedelta(seconds=30))
    publish(host, 12)
    set_due(host, datetime.now(UTC) - timedelta(hours=1), QUEUE.c.lease_owner.is_(None))

    assert found(host) == []


def test_a_lease_that_has_ended_is_named(host):
    add_worker(host)
    publish_due(host, due=timedelta(seconds=90))
    lease(host, datetime.now(UTC) - timedelta(seconds=5))

    assert found(host) == [("leases", "warn", "1 deliveries were claimed and not recorded in time")]


def test_http_and_networks_of_ones_own_are_named_in_production_alone(host_with):
    insecure = {"WEBHOOK_ENDPOINTS_REQUIRE_HTTPS": False, "WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS": ("10.0.0.0/8",)}
    host = host_with(**insecure)
    add_worker(host)
    assert found(host) == []

    host.app.testing = False

    assert [each[:2] for each in found(host)] == [("https", "warn"), ("egress", "warn")]


@pytest.mark.parametrize(("limit", "level"), [(1024, "warn"), (4096, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_a_low_limit_of_open_files_is_named(monkeypatch, limit, level):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, limit))

    (finding,) = machine_checks.check_descriptors()

    assert (finding.check, finding.level) == ("files", level)
    assert ("LimitNOFILE" in finding.advice) == (level == "warn")


@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.parametrize(("seconds", "level"), [(1, "ok"), (-12, "warn"), (12, "warn"), (40, "fail")])
def test_a_clock_that_differs_from_the_databases_is_named(host, seconds, level):
    clock = Clock()
    clock.move(seconds=seconds)

    with host.app.app_context():
        (finding,) = machine_checks.check_clock(current_state().scope(), clock)

    assert finding.level == level
    assert abs(float(finding.message.split()[0]) - abs(seconds)) < 0.9


@pytest.mark.only_on("sqlite")
def test_sqlite_is_told_what_makes_it_wait(host):
    add_worker(host)
    add_worker(host)
    host.close()
    options = {"connect_args": {"timeout": 0.1}}
    impatient = hosts.flask_sqlalchemy(
        host.app.config["SQLALCHEMY_DATABASE_URI"],
        SECRET_KEY=STRONG,
        SQLALCHEMY_ENGINE_OPTIONS=options,
    )
    execute(impatient, sa.text("PRAGMA journal_mode = DELETE"))

    messages = [message for check, _, message in found(impatient) if check == "sqlite"]

    assert messages == ["journal_mode is delete", "busy_timeout is 100 ms", "2 workers share the file"]
    impatient.close()


@pytest.mark.only_on("postgresql")
def test_a_database_without_a_pool_is_named(database):
    host = hosts.flask_sqlalchemy(database, SECRET_KEY=STRONG, SQLALCHEMY_ENGINE_OPTIONS={"poolclass": sa.NullPool})
    add_worker(host)

    assert found(host) == [("pool", "warn", "none: a worker connects again for each claim and each record")]
    host.close()


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({}, []),
        ({"beat_schedule": {}}, [("warn", "beat_schedule has no entry")]),
        ({"task_always_eager": True}, [("fail", "task_always_eager is on")]),
        (
            {"task_acks_late": True, "broker_transport_options": {"visibility_timeout": 30}},
            [("warn", "visibility_timeout of 30 s")],
        ),
        ({"broker_transport_options": {"visibility_timeout": 30}}, []),
        ({"task_routes": {}}, [("warn", "webhooks share the default queue 'celery' with your tasks")]),
    ],
    ids=["good", "no beat", "eager", "short visibility", "not late", "default queue"],
)
def test_settings_of_celery_that_would_hurt_are_named(conf, expected):
    celery = Celery("host", set_as_current=False)
    routes = {"flask_webhook_endpoints.*": {"queue": "webhooks"}}
    celery.conf.update({"beat_schedule": BEAT_SCHEDULE, "task_routes": routes, **conf})

    findings = [finding for finding in celery_checks.check_celery(celery) if finding.level != "ok"]

    assert [finding.level for finding in findings] == [level for level, _ in expected]
    assert all(finding.message.startswith(text) for finding, (_, text) in zip(findings, expected, strict=True))
    assert all(finding.advice for finding in findings)


def test_a_celery_without_our_task_is_none_of_our_business():
    celery = SimpleNamespace(tasks={"shop.tidy": ...}, conf=SimpleNamespace(task_always_eager=True))

    assert list(celery_checks.check_celery(celery)) == []


@pytest.mark.parametrize("command", ["status", "redeliver --tenant acme", "forget-tenant acme --yes"])
def test_a_database_that_is_away_is_a_message(command):
    away = SQLAlchemy()
    app = hosts.Flask("host")
    webhooks = WebhookEndpoints(session=away.session, tenant=hosts.tenant_header)
    url = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
    app.config.update(TESTING=True, SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI=url)
    away.init_app(app)
    app.register_blueprint(webhooks.blueprint)

    result = app.test_cli_runner().invoke(args=["webhooks", *command.split()])

    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert result.stderr == (
        "Error: The database can't be reached at the moment; try again. `flask webhooks doctor` says why.\n"
    )


def unreachable(url: str) -> hosts.Flask:
    db = SQLAlchemy()
    app = hosts.Flask("host")
    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header)
    app.config.update(TESTING=True, SECRET_KEY=STRONG, SQLALCHEMY_DATABASE_URI=url)
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint)
    return app


def _of_server(base: str, **parts: Any) -> str:
    url = make_url(base).set(**{"query": {}, **parts})
    return url.render_as_string(hide_password=False)


# Each of these read "The database can't be reached at the moment; try again."
@pytest.mark.parametrize(
    ("parts", "said", "advice"),
    [
        ({"database": "no_such"}, "no_such", "Create the database, or correct its name"),
        ({"username": "nobody", "password": "pass-word"}, "nobody", "Correct user and password"),
        ({"host": "no-such.invalid"}, "no-such.invalid", "Correct the host"),
        ({"host": "127.0.0.1", "port": 1}, "refused", "Start the server"),
    ],
    ids=["name", "role", "host", "port"],
)
@pytest.mark.only_on("postgresql", "mariadb")
def test_the_databases_own_reason_is_told_with_advice_that_fits(database, parts, said, advice):
    app = unreachable(_of_server(database, **parts))

    result = app.test_cli_runner().invoke(args=["webhooks", "doctor", "--json"])

    (finding,) = [each for each in json.loads(result.stdout) if each["level"] == "fail"]
    assert (result.exit_code, finding["check"]) == (1, "database")
    assert said in finding["message"]
    assert finding["advice"].startswith(advice)
    assert "pass-word" not in result.output


@pytest.mark.only_on("sqlite")
def test_a_folder_that_is_missing_is_told_with_its_path(database):
    assert database
    result = unreachable("sqlite:////no/such/folder/shop.db").test_cli_runner().invoke(args=["webhooks", "doctor"])

    assert "fail  database: sqlite:////no/such/folder/shop.db: unable to open database file" in result.output
    assert "The folder must exist" in result.output


# It was told to look at the session's routing.
@pytest.mark.only_on("sqlite")
def test_a_file_that_may_not_be_written_is_told_with_advice_that_fits(tmp_path, host_with):
    host = host_with(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/shop.db")
    add_worker(host)
    url = f"sqlite:///file:{tmp_path}/shop.db?mode=ro&uri=true"

    result = unreachable(url).test_cli_runner().invoke(args=["webhooks", "doctor", "--json"])

    (finding,) = [each for each in json.loads(result.stdout) if each["level"] == "fail"]
    assert finding["message"].endswith("attempt to write a readonly database")
    assert finding["advice"].startswith("Let this user write the file and its folder")


@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.parametrize("query", [{"sslmode": "no"}, {"no": "1"}, {"options": "-c no=1"}, {"ssl_ca": "/no"}], ids=str)
def test_an_option_of_the_url_that_is_wrong_is_told_from_a_server_that_is_away(database, query):
    app = unreachable(_of_server(database, query=query))

    result = app.test_cli_runner().invoke(args=["webhooks", "doctor", "--json"])

    (finding,) = [each for each in json.loads(result.stdout) if each["level"] == "fail"]
    assert finding["advice"].startswith("Correct the options in the database's URL")


@on_sqlite
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("change me", "has 9 characters"),
        ("dev", "has 3 characters"),
        (b"bytes count, too", "has 16 characters"),
        ("please-change-me-in-production-please", "is an example"),
        ("0" * 64, "is an example"),
    ],
)
@pytest.mark.parametrize("mode", ["debug", "testing", None])
def test_a_weak_secret_key_fails_in_production_and_warns_elsewhere(host_with, monkeypatch, key, said, mode):
    host = host_with(SECRET_KEY=key)
    add_worker(host)
    host.app.testing = mode == "testing"
    monkeypatch.setenv("FLASK_DEBUG", str(int(mode == "debug")))

    ((check, level, message),) = found(host)

    assert (check, level) == ("secret-key", "fail" if mode is None else "warn")
    assert message.startswith(f"SECRET_KEY {said}")


def test_a_weak_secret_key_is_nothing_to_keys_of_their_own(host_with):
    host = host_with(SECRET_KEY="dev", encryption_keys=[Fernet.generate_key().decode()])
    add_worker(host)
    host.app.testing = False

    assert found(host) == []


def test_the_key_of_the_readme_is_known_as_an_example(host_with):
    (key,) = re.findall(r'SECRET_KEY="(\w+)"', (docs.ROOT / "README.md").read_text())
    host = host_with(SECRET_KEY=key)
    add_worker(host)

    assert [each[:2] for each in found(host)] == [("secret-key", "warn")]


def test_a_setting_that_was_changed_too_late_fails(host):
    add_worker(host)
    host.client().get("/v1/endpoints")
    host.app.config["WEBHOOK_ENDPOINTS_RETENTION_DAYS"] = 90

    assert found(host) == [
        ("settings", "fail", "WEBHOOK_ENDPOINTS_RETENTION_DAYS was changed after the app had used its settings")
    ]


def test_deliveries_past_their_retention_are_named(host):
    add_worker(host)
    create_endpoint(host.client())
    publish(host, 1, 2)
    finish(host)
    assert found(host) == []
    with hosts.moved(host.app) as clock:
        clock.move(days=30, hours=2)
        execute(host, sa.update(WORKER).values(seen_at=clock()))
        late = [each for each in found(host) if each[0] == "retention"]
        assert late == []
        clock.move(hours=2)
        (late,) = [each for each in found(host) if each[0] == "retention"]

    assert late[1:] == (
        "warn",
        "2 finished deliveries are past WEBHOOK_ENDPOINTS_RETENTION_DAYS, 30: pruning does not run",
    )


@pytest.mark.parametrize("instead", [True, False])
def test_a_broker_that_is_away_is_named_without_its_password(instead):
    celery = Celery("host", broker="amqp://shop:pass-word@127.0.0.1:1//", set_as_current=False)
    celery.conf.broker_connection_timeout = 1

    (finding,) = celery_checks.check_consumers(celery, instead=instead, beats=False)

    assert (finding.check, finding.level) == ("broker", "warn" if instead else "fail")
    assert "refused" in finding.message
    assert "pass-word" not in str(finding)
    assert "broker_url" in finding.advice


# A slash in a password ended the doctor with a traceback, which told the password up to there.
@pytest.mark.parametrize(
    "url",
    [
        "amqp://shop:pass-word/x@127.0.0.1:1//",
        "redis://:pass-word#x@127.0.0.1:1/0",
        "redis://:[pass-word@127.0.0.1:1/0",
        "none://shop:pass-word@127.0.0.1:1/0",
        "amqp://127.0.0.1:1//;amqp://shop:pass-word@127.0.0.1:1//",
    ],
)
def test_a_broker_url_that_is_wrong_is_told_without_its_password(url, caplog):
    celery = Celery("host", broker=url, set_as_current=False)
    celery.conf.broker_connection_timeout = 1
    waker = wakeups.Waker(celery, lambda: 0.0)

    (finding,) = celery_checks.check_consumers(celery, instead=False, beats=False)
    waker.wake()
    wait_until(lambda: "webhooks.not_woken" in [record.msg for record in caplog.records])
    # Or its thread would try for as long as pytest runs.
    waker.reset()

    assert (finding.check, finding.level) == ("broker", "fail")
    assert "%2F" in finding.advice
    assert "pass-word" not in str(finding) + caplog.text


@pytest.mark.parametrize("said", ["no pass/word", "no pass%2Fword"])
def test_a_password_is_hidden_as_it_is_and_as_it_stands_in_the_url(said):
    celery = Celery("host", broker="amqp://a.invalid//;amqp://shop:pass%2Fword@b.invalid//", set_as_current=False)

    assert wakeups.said(OSError(said), celery) == "OSError: no ***"
