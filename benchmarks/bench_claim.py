"""What a claim of 100 costs alone, and beside a million deliveries that are done and 200,000 that are held.

The held ones are of 20 paused endpoints, and then of 2,000: a claim steps over each endpoint that has something
waiting, however much. PostgreSQL alone, which fills the table by itself.
"""

import time
from statistics import median

import sqlalchemy as sa

from benchmarks import hosts
from flask_webhook_endpoints.models import new_id
from flask_webhook_endpoints.state import utc_now

CLAIMS = 25
HELD = 200_000
DELIVERED = 1_000_000
_FILL = sa.text("""
    INSERT INTO webhook_delivery
        (id, tenant_id, event_id, endpoint_id, status, attempts, next_attempt_at, created_at, finished_at)
    SELECT gen_random_uuid(), tenant_id, gen_random_uuid(), id, :status, 0,
        CASE :status WHEN 'PENDING' THEN now() END, now(), CASE :status WHEN 'PENDING' THEN NULL ELSE now() END
    FROM webhook_endpoint, generate_series(1, :each) WHERE tenant_id = :tenant_id
""")


def main() -> None:
    """Print all three."""
    options = hosts.arguments(__doc__).parse_args()
    with hosts.host(options.database) as host:
        host.register([f"https://example.com/{number}" for number in range(100)])
        host.publish(10)
        vacuum(host)
        alone = claim_seconds(host)
        print(f"A claim of 100 takes {alone * 1000:.1f} ms alone;")
        host.execute(_FILL.bindparams(status="DELIVERED", tenant_id="acme", each=DELIVERED // 100))
        for number in (20, 2000):
            hold(host, number)
            beside = claim_seconds(host)
            print(f"beside {DELIVERED} that are done and {HELD} held of {number} endpoints ", end="")
            print(f"{beside * 1000:.1f} ms: {beside / alone:.2f} times")


def hold(host: hosts.Host, number: int) -> None:
    """Let so many paused endpoints hold all that is held."""
    host.execute(sa.text("DELETE FROM webhook_delivery WHERE tenant_id = 'paused'"))
    host.execute(sa.text("DELETE FROM webhook_endpoint WHERE tenant_id = 'paused'"))
    host.register([f"https://example.com/{each}" for each in range(number)], tenant_id="paused")
    host.execute(sa.text("UPDATE webhook_endpoint SET paused_at = now() WHERE tenant_id = 'paused'"))
    host.execute(_FILL.bindparams(status="PENDING", tenant_id="paused", each=HELD // number))
    vacuum(host)


def vacuum(host: hosts.Host) -> None:
    """Leave the tables as autovacuum would."""
    with host.app.app_context(), host.db.engine.connect() as connection:
        autocommitting = connection.execution_options(isolation_level="AUTOCOMMIT")
        for name in ("webhook_delivery", "webhook_endpoint", "webhook_event", "webhook_secret"):
            autocommitting.execute(sa.text(f"VACUUM ANALYZE {name}"))


def claim_seconds(host: hosts.Host) -> float:
    """Return the median of claims, each rolled back."""
    seconds = []
    with host.app.app_context():
        session = host.db.session()
        for _ in range(CLAIMS):
            started = time.perf_counter()
            host.state.deliveries.claim(session, new_id(), most=100, now=utc_now())
            seconds.append(time.perf_counter() - started)
            session.rollback()
    return median(seconds)


if __name__ == "__main__":
    main()
