"""Databases and hosts for the tests: real ones, without rows for each test.

There is no fixture `app`: pytest-flask would push a request's context into each test that uses it, and a test that
forgets a context must fail as a host's code does. Our plugin's fixtures, which need `app`, stand here for `host`.
"""

import gc
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from sqlalchemy.engine import make_url

from flask_webhook_endpoints.testing import Clock, Receiver, drain
from tests.support import compiled, hosts
from tests.support.inbox import Inbox
from tests.support.kept import KeptSchema, url_of
from tests.support.receivers import Receivers

# No example has a deadline, because a machine may be slow (`tests.support.waiting.SLOWNESS`).
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")

compiled.keep()

pytest_plugins = ["tests.support.browser"]

DATABASES = ("sqlite", "sqlite-memory", "postgresql", "mariadb")
SERVERS = {
    "postgresql": os.environ.get("TEST_POSTGRESQL_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
    "mariadb": os.environ.get("TEST_MARIADB_URL", "mysql+pymysql://root@127.0.0.1:3306/?ssl_disabled=true"),
}

FEW = 100
"""The number of tests up to which they are dealt out to the processes one by one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--database", action="append", choices=DATABASES, help="run on these; default: SQLite, in a file")
    parser.addoption("--broker", action="append", choices=BROKERS, help="run the tests of the engines, on these")


BROKERS = {
    "rabbitmq": os.environ.get("TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//"),
    "redis": os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/0"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        brokers: list[str | None] = [BROKERS[name] for name in metafunc.config.getoption("broker") or ()]
        ids = list(metafunc.config.getoption("broker") or ())
        if ids and metafunc.definition.get_closest_marker("every_engine"):
            brokers, ids = [None, *brokers], ["worker", *ids]
        metafunc.parametrize("broker", brokers or ["none"], ids=ids or ["none"])
    if "database" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("database") or ["sqlite"]
        if metafunc.definition.get_closest_marker("several_connections"):
            chosen = [name for name in chosen if name != "sqlite-memory"]
        if about := metafunc.definition.get_closest_marker("only_on"):
            # One stands for all that are left out below.
            chosen = [name for name in chosen if name in about.args] or chosen[:1]
        metafunc.parametrize("database", chosen, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # A page is the same page on each database.
        if "database" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("browser"):
            item.add_marker("on_database")
    # Left out rather than skipped: a test of one database has nothing to say about another.
    left_out = {item for item in items if _is_about_another_database(item) or _lacks_a_broker(item)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    processes = getattr(session.config, "workerinput", {}).get("workercount", 1)
    if len(session.items) <= FEW:
        # Each process begins with a part of the list. Few are long: neighbours are one test on several databases.
        session.items[:] = [item for first in range(processes) for item in session.items[first::processes]]
    else:
        # Tests of the worker wait for half of their time. Let one process begin with them, while others use the cores.
        session.items.sort(key=lambda item: not item.nodeid.startswith("tests/worker/"))
    # Modules and tests live as long as pytest: the garbage collector need not look at them again and again.
    gc.collect()
    gc.freeze()
    # A request makes thousands of objects, so that Python's 700 would have it look dozens of times in each test.
    gc.set_threshold(5_000)


def _is_about_another_database(item: pytest.Item) -> bool:
    marker, callspec = item.get_closest_marker("only_on"), getattr(item, "callspec", None)
    database = callspec and callspec.params.get("database")
    return marker is not None and database is not None and database not in marker.args


def _lacks_a_broker(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("broker") == "none"


@pytest.fixture(scope="session")
def kept_schemas() -> Iterator[dict[str, KeptSchema]]:
    """The schemas, by server, that tests of the fixture `host` have one after the other."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(closing(KeptSchema(server))) for name, server in SERVERS.items()}


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path, kept_schemas: dict[str, KeptSchema]) -> Iterator[str]:
    """The URL of an empty database of this test alone; `host` gets one with our tables, without rows.

    An unreachable server fails the test.
    """
    match request.param:
        case "sqlite":
            yield f"sqlite:///{tmp_path}/host.db"
        case "sqlite-memory":
            yield "sqlite://"
        case name if "host" in request.fixturenames:
            with kept_schemas[name].lent() as url:
                yield url
        case name:
            with hosts.own_schema(SERVERS[name], "test") as schema:
                yield url_of(SERVERS[name], schema)


@pytest.fixture(scope="session")
def sqlite_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with our tables and nothing in them: to copy it is quicker than to make them."""
    path = tmp_path_factory.mktemp("tables") / "host.db"
    hosts.flask_sqlalchemy(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def host(request: pytest.FixtureRequest, database: str, sqlite_tables: Path) -> Iterator[hosts.Host]:
    """A host with Flask-SQLAlchemy, whose tenant is the header `X-Tenant`; the marker `host` says how it is made."""
    if (url := make_url(database)).database and url.get_backend_name() == "sqlite":
        shutil.copy(sqlite_tables, url.database)
    marker = request.node.get_closest_marker("host")
    config = dict(marker.kwargs) if marker else {}
    make = config.pop("make", hosts.flask_sqlalchemy)
    with closing(make(database, **config)) as host:
        yield host


@pytest.fixture
def webhook_clock(host: hosts.Host, webhook_receiver: Receiver) -> Iterator[Clock]:
    """The clock of `host`, to be moved; the receiver's moves along, so that signatures verify."""
    with hosts.moved(host.app) as clock:
        webhook_receiver.now = clock
        yield clock


@pytest.fixture
def drain_webhooks(host: hosts.Host) -> Callable[[], int]:
    """Deliver what is due by now; returns the number of attempts."""
    return lambda: drain(host.app)


@pytest.fixture
def acme(host: hosts.Host) -> FlaskClient:
    """A client that asks as the tenant `acme`."""
    return host.client("acme")


@pytest.fixture
def globex(host: hosts.Host) -> FlaskClient:
    """A client that asks as the tenant `globex`."""
    return host.client("globex")


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with closing(Inbox()) as inbox:
        yield inbox


@pytest.fixture(scope="module")
def receivers() -> Iterator[Receivers]:
    with closing(Receivers()) as receivers:
        yield receivers


@pytest.fixture
def logging_untouched() -> Iterator[None]:
    """Undoes what the env.py of Alembic's and Flask-Migrate's generators does: it silences every logger made before."""
    root, ours = logging.getLogger(), logging.getLogger("flask_webhook_endpoints")
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in (root, ours)]
    yield
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers, logger.propagate = handlers, propagate
    for logger in root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
