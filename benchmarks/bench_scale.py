"""The cost of requests and claims as the tables grow.

Requests are those of a tenant with 100 endpoints among a thousand, 100 thousand and a million. A claim takes 100
deliveries in tables that are otherwise empty, beside a million finished ones, and beside 200,000 held ones.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import sqlalchemy as sa

from benchmarks import hosts, rounds
from benchmarks.bench_api import BODY, PATH, call, repeated
from flask_webhook_endpoints.core import leases
from flask_webhook_endpoints.database.models import WebhookEndpoint, new_id

SIZES = (1_000, 100_000, 1_000_000)
TENANT = "of-100"
DELIVERED = 1_000_000
HELD = 200_000
HOLDING = (20, 2_000)
"""Paused endpoints; a claim steps over each of them that has pending deliveries."""

CLAIMS = 5
"""Claims of one round, each rolled back."""

_NUMBERS = "WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < 999)"
_ENDPOINTS = f"""
    INSERT INTO webhook_endpoint (id, tenant_id, name, url, timeout_seconds, version, created_at, updated_at)
    {_NUMBERS}
    SELECT NEW_ID, CAST(high.n AS CHAR(12)), name, url, timeout_seconds, version, created_at, updated_at
    FROM number high, number low, webhook_endpoint WHERE high.n * 1000 + low.n < :most AND tenant_id = 'seed'
"""  # noqa: S608 - constants
_DELIVERIES = f"""
    INSERT INTO webhook_delivery
        (id, tenant_id, event_id, endpoint_id, status, attempts, next_attempt_at, created_at, finished_at)
    {_NUMBERS}
    SELECT NEW_ID, tenant_id, NEW_ID, endpoint_id, status, attempts, next_attempt_at, created_at, finished_at
    FROM number high, number low, webhook_delivery WHERE high.n * 1000 + low.n < :each - 1
"""  # noqa: S608 - constants
_NEW_ID = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "gen_random_uuid()"}
_FILLED = ("webhook_delivery", "webhook_endpoint", "webhook_event", "webhook_secret")


def main() -> None:
    """Print a table for each operation."""
    options = hosts.arguments(__doc__).parse_args()
    requests(options.database, options.rounds)
    claims(options.database, options.rounds)


def requests(database: str | None, turns: int) -> None:
    """Compare the cost of requests among few endpoints and among many."""
    with ExitStack() as stack:
        grown = {f"{size:,}": stack.enter_context(_host_of(database, size)) for size in SIZES}
        body = json.dumps(BODY).encode()
        for name, method, times, expect in (("GET one", "GET", 100, 200), ("list 100", "GET", 10, 200)):
            programs = {}
            for size, (host, last) in grown.items():
                path = f"{PATH}/{last}" if name == "GET one" else PATH
                programs[size] = repeated(call(host.app, method, path, tenant_id=TENANT, expect=expect), times)
            _show(f"{name}, among so many endpoints", programs, turns)
        posts = {
            size: repeated(call(host.app, "POST", PATH, tenant_id="posting", body=body, expect=201), 20)
            for size, (host, _) in grown.items()
        }
        _show("POST, among so many endpoints", posts, turns)


def claims(database: str | None, turns: int) -> None:
    """Compare the cost of a claim in tables that are otherwise empty and beside finished or held deliveries."""
    beside: dict[str, Callable[[hosts.Host], None]] = {
        "nothing": lambda host: None,
        f"{DELIVERED:,} delivered": _deliver,
        **{
            f"{HELD:,} held of {number:,} endpoints": lambda host, number=number: _hold(host, number)
            for number in HOLDING
        },
    }
    with ExitStack() as stack:
        programs = {name: _claiming(stack.enter_context(_host_beside(database, fill))) for name, fill in beside.items()}
        _show("A claim of 100 and its rollback, beside", programs, turns)


def _show(title: str, programs: rounds.Programs, turns: int) -> None:
    costs = rounds.interleave(programs, turns)
    first, *others = costs
    print(f"{title}\n{rounds.table(costs, share_of=first)}")
    for name in others:
        ratio = rounds.ratio(costs, name, to=first)
        print(f"{name}: {ratio.cpu:.2f} times the CPU, {ratio.wall:.2f} times the time")
    print(flush=True)


@contextmanager
def _host_of(database: str | None, size: int) -> Iterator[tuple[hosts.Host, str]]:
    """Make an application with this many endpoints; yield it and the id of an endpoint of the tenant with 100."""
    with hosts.host(database) as host:
        host.register(["https://example.com/"] * 100, tenant_id=TENANT)
        _add_endpoints(host, size - 101)
        _settle(host)
        with host.app.app_context():
            last = host.db.session.scalar(
                sa.select(WebhookEndpoint.id).where(WebhookEndpoint.tenant_id == TENANT).limit(1)  # type: ignore[arg-type]
            )
        yield host, f"ep_{last}"


@contextmanager
def _host_beside(database: str | None, fill: Callable[[hosts.Host], None]) -> Iterator[hosts.Host]:
    """Make an application with a thousand due deliveries, and those that `fill` adds."""
    with hosts.host(database) as host:
        host.register([f"https://example.com/{number}" for number in range(100)])
        fill(host)
        host.publish(10)
        _settle(host)
        yield host


def _deliver(host: hosts.Host) -> None:
    host.publish(1)
    host.execute(
        sa.text("UPDATE webhook_delivery SET status = 'DELIVERED', next_attempt_at = NULL, finished_at = created_at")
    )
    host.execute(_filling(host, _DELIVERIES).bindparams(each=DELIVERED // 100))


def _hold(host: hosts.Host, number: int) -> None:
    _add_endpoints(host, number)
    for thousand in range((number + 999) // 1000):
        host.publish(1, tenant_id=str(thousand))
    host.execute(sa.text("UPDATE webhook_endpoint SET paused_at = created_at WHERE tenant_id <> 'acme'"))
    host.execute(_filling(host, _DELIVERIES).bindparams(each=HELD // number))


def _claiming(host: hosts.Host) -> Callable[[], rounds.Cost]:
    settings = host.state.settings
    limits = {"cap": settings.max_in_flight_per_endpoint, "max_timeout_seconds": settings.max_timeout_seconds}

    def run() -> int:
        with host.app.app_context():
            for _ in range(CLAIMS):
                scope = host.state.scope()
                scope.hold_no_gaps()
                claimed = leases.claim(scope, new_id(), most=100, **limits).deliveries
                if len(claimed) != 100:  # noqa: PLR2004 - as many are due
                    raise RuntimeError(f"{len(claimed)} were claimed.")
                scope.session.rollback()
        return CLAIMS

    return lambda: rounds.measure(run)


def _add_endpoints(host: hosts.Host, number: int) -> None:
    """Add endpoints of other tenants, a thousand of each; without secrets, because nothing is sent to them."""
    now = datetime.now(UTC)
    seed = {"id": new_id(), "tenant_id": "seed", "name": "n", "url": "https://example.com/", "timeout_seconds": 10}
    host.execute(sa.insert(WebhookEndpoint).values({**seed, "version": 1, "created_at": now, "updated_at": now}))
    host.execute(_filling(host, _ENDPOINTS).bindparams(most=number))


def _settle(host: hosts.Host) -> None:
    """Vacuum and analyse on PostgreSQL, as its autovacuum does; do nothing on SQLite."""
    with host.app.app_context(), host.db.engine.connect() as connection:
        autocommitting = connection.execution_options(isolation_level="AUTOCOMMIT")
        for name in _FILLED if connection.dialect.name == "postgresql" else ():
            autocommitting.execute(sa.text(f"VACUUM ANALYZE {name}"))


def _filling(host: hosts.Host, statement: str) -> sa.TextClause:
    with host.app.app_context():
        new_id_of = _NEW_ID[host.db.engine.dialect.name]
    return sa.text(statement.replace("NEW_ID", new_id_of))


if __name__ == "__main__":
    main()
