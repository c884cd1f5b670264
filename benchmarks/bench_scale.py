"""The cost of requests as the tables grow: a tenant with 100 endpoints among a thousand, 100 thousand and a million."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import sqlalchemy as sa

from benchmarks import filling, hosts, rounds
from benchmarks.bench_api import BODY, PATH, call, repeated
from flask_webhook_endpoints.database.models import WebhookEndpoint

SIZES = (1_000, 100_000, 1_000_000)
TENANT = "of-100"


def main() -> None:
    """Print a table for each operation."""
    options = hosts.arguments(__doc__).parse_args()
    database, turns = options.database, options.rounds
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
        filling.endpoints(host, size - 100, tenants="others", per_tenant=1000)
        filling.settle(host)
        with host.app.app_context():
            last = host.db.session.scalar(
                sa.select(WebhookEndpoint.id).where(WebhookEndpoint.tenant_id == TENANT).limit(1)  # type: ignore[arg-type]
            )
        yield host, f"ep_{last}"


if __name__ == "__main__":
    main()
