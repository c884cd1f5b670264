"""The cost of requests as the tables grow.

A tenant with 100 endpoints, among a thousand, 100 thousand and a million; a tenant's lists and statistics, with a
thousand and a million deliveries of its own.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from benchmarks import filling, hosts, rounds
from benchmarks.bench_api import BODY, PATH, call, repeated
from flask_webhook_endpoints.database.models import WebhookEndpoint

SIZES = (1_000, 100_000, 1_000_000)
LOGS = (1_000, 1_000_000)
TENANT = "of-100"


def main() -> None:
    """Print a table for each operation."""
    parser = hosts.arguments(__doc__)
    parser.add_argument("--only", choices=("endpoints", "deliveries"), help="default: both")
    options = parser.parse_args()
    if options.only != "deliveries":
        _endpoints(options.database, options.rounds)
    if options.only != "endpoints":
        _deliveries(options.database, options.rounds)


def _endpoints(database: str | None, turns: int) -> None:
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


def _deliveries(database: str | None, turns: int) -> None:
    with ExitStack() as stack:
        logs = {f"{size:,}": stack.enter_context(_host_with_log(database, size)) for size in LOGS}
        for name in _queries("", ""):
            requests = {
                size: call(host.app, "GET", f"{PATH}/{_queries(*of_log)[name]}", tenant_id=TENANT, expect=200)
                for size, (host, *of_log) in logs.items()
            }
            _check_rows(name, requests)
            programs = {size: repeated(request, 5) for size, request in requests.items()}
            _show(f"{name}, of so many deliveries", programs, turns)


def _queries(first: str, second: str) -> dict[str, str]:
    """Return what to ask of a log that has deliveries to these endpoints, of which the second is paused."""
    days_ago = {days: (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ") for days in (10, 20)}
    between = f"since={days_ago[20]}&until={days_ago[10]}"
    filters = {
        "all": "",
        "FAILED": "status=FAILED",
        "DELIVERED": "status=DELIVERED",
        "a type": "event_type=order.*",
        "ten days": between,
        "FAILED, a type, ten days": f"status=FAILED&event_type=invoice.*&{between}&limit=10",
    }
    of_tenant = {**filters, "PENDING": "status=PENDING", "HELD": "status=HELD"}
    of_first, of_second = {**filters, "PENDING": "status=PENDING"}, {"HELD": "status=HELD"}
    lists = ("deliveries", of_tenant), (f"{first}/deliveries", of_first), (f"{second}/deliveries", of_second)
    return {
        **{
            f"list of {'the tenant' if path == 'deliveries' else 'an endpoint'}, {name}": f"{path}?{query}"
            for path, queries in lists
            for name, query in queries.items()
        },
        "statistics of an endpoint": f"{first}/stats?window=30d",
    }


def _check_rows(name: str, requests: Mapping[str, Callable[[], bytes]]) -> None:
    """Raise an error unless the answers have as many rows, so that their costs compare."""
    numbers = {size: len(json.loads(request())) for size, request in requests.items()}
    if len(set(numbers.values())) > 1:
        raise RuntimeError(f"{name}: {numbers} rows.")


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
    """Make an application with this many endpoints. Yield it and the id of an endpoint of the tenant with 100."""
    with hosts.host(database) as host:
        host.register(["https://example.com/"] * 100, tenant_id=TENANT)
        filling.endpoints(host, size - 100, tenants="others", per_tenant=1000)
        filling.settle(host)
        with host.app.app_context():
            last = host.db.session.scalar(
                sa.select(WebhookEndpoint.id).where(WebhookEndpoint.tenant_id == TENANT).limit(1)  # type: ignore[arg-type]
            )
        yield host, f"ep_{last}"


@contextmanager
def _host_with_log(database: str | None, size: int) -> Iterator[tuple[hosts.Host, str, str]]:
    """Make an application with this many deliveries; yield it and the ids of their endpoints, the second paused."""
    with hosts.host(database) as host:
        host.register(["https://example.com/"] * 2, tenant_id=TENANT)
        filling.log(host, size, tenant_id=TENANT)
        client, as_tenant = host.app.test_client(), {"X-Tenant": TENANT}
        first, second = (endpoint["id"] for endpoint in client.get(PATH, headers=as_tenant).get_json())
        client.patch(f"{PATH}/{second}", json={"status": "PAUSED"}, headers=as_tenant)
        filling.settle(host)
        yield host, first, second


if __name__ == "__main__":
    main()
