"""What a request costs as the table grows: a tenant of 100 among a thousand, 100 thousand and a million endpoints."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import sqlalchemy as sa

from benchmarks import hosts, rounds
from benchmarks.bench_api import BODY, PATH, call, repeated
from flask_webhook_endpoints.models import WebhookEndpoint, new_id

SIZES = (1_000, 100_000, 1_000_000)
OF_OTHERS = 900
"""Endpoints that each other tenant has, about."""

TENANT = "of-100"
_MORE = sa.text("""
    INSERT INTO webhook_endpoint (id, tenant_id, name, url, timeout_seconds, version, created_at, updated_at)
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :most)
    SELECT NEW_ID, 'tenant-' || (n / :of_others), name, url, timeout_seconds, version, created_at, updated_at
    FROM number, webhook_endpoint WHERE tenant_id = 'seed'
""")
_NEW_ID = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "gen_random_uuid()"}


def main() -> None:
    """Print a table for each operation."""
    options = hosts.arguments(__doc__).parse_args()
    with ExitStack() as stack:
        grown = {f"{size:,}": stack.enter_context(_host_of(options.database, size)) for size in SIZES}
        body = json.dumps(BODY).encode()
        for name, method, times, expect in (("GET one", "GET", 100, 200), ("list 100", "GET", 10, 200)):
            programs = {}
            for size, (host, last) in grown.items():
                path = f"{PATH}/{last}" if name == "GET one" else PATH
                programs[size] = repeated(call(host.app, method, path, tenant_id=TENANT, expect=expect), times)
            _show(name, programs)
        posts = {
            size: repeated(call(host.app, "POST", PATH, tenant_id="posting", body=body, expect=201), 20)
            for size, (host, _) in grown.items()
        }
        _show("POST", posts)


def _show(name: str, programs: rounds.Programs) -> None:
    costs = rounds.interleave(programs)
    print(f"\n{name}, among so many endpoints\n{rounds.table(costs, share_of=f'{SIZES[0]:,}')}", flush=True)


@contextmanager
def _host_of(database: str | None, size: int) -> Iterator[tuple[hosts.Host, str]]:
    """Make an application whose tables hold so many endpoints; yield it and an id of the tenant of 100."""
    with hosts.host(database) as host:
        host.register(["https://example.com/"] * 100, tenant_id=TENANT)
        now = datetime.now(UTC)
        seed = {"id": new_id(), "tenant_id": "seed", "name": "n", "url": "https://example.com/", "timeout_seconds": 10}
        seed |= {"version": 1, "created_at": now, "updated_at": now}
        host.execute(sa.insert(WebhookEndpoint).values(seed))
        with host.app.app_context():
            new_id_of = _NEW_ID[host.db.engine.dialect.name]
        more = sa.text(_MORE.text.replace("NEW_ID", new_id_of))
        host.execute(more.bindparams(most=size - 101, of_others=OF_OTHERS))
        host.execute(sa.text("ANALYZE"))
        with host.app.app_context():
            last = host.db.session.scalar(
                sa.select(WebhookEndpoint.id).where(WebhookEndpoint.tenant_id == TENANT).limit(1)  # type: ignore[arg-type]
            )
        yield host, f"ep_{last}"


if __name__ == "__main__":
    main()
