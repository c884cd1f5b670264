"""What a claim of 100 costs alone, and beside a million deliveries that are done and 200,000 that are held.

PostgreSQL alone, which fills the table by itself.
"""

import time
from statistics import median

import sqlalchemy as sa

from benchmarks import hosts
from flask_webhook_endpoints.models import new_id
from flask_webhook_endpoints.state import utc_now

CLAIMS = 25
_FILL = sa.text("""
    INSERT INTO webhook_delivery
        (id, tenant_id, event_id, endpoint_id, status, attempts, next_attempt_at, created_at, finished_at)
    SELECT gen_random_uuid(), tenant_id, gen_random_uuid(), id, :status, 0,
        CASE :status WHEN 'PENDING' THEN now() END, now(), CASE :status WHEN 'PENDING' THEN NULL ELSE now() END
    FROM webhook_endpoint, generate_series(1, 10000) WHERE tenant_id = :tenant_id
""")


def main() -> None:
    """Print both."""
    options = hosts.arguments(__doc__).parse_args()
    with hosts.host(options.database) as host:
        host.register([f"https://example.com/{number}" for number in range(100)])
        host.publish(10)
        host.register([f"https://example.com/{number}" for number in range(20)], tenant_id="paused")
        host.execute(sa.text("UPDATE webhook_endpoint SET paused_at = now() WHERE tenant_id = 'paused'"))
        host.execute(sa.text("ANALYZE"))
        alone = claim_seconds(host)
        host.execute(_FILL.bindparams(status="PENDING", tenant_id="paused"))
        host.execute(_FILL.bindparams(status="DELIVERED", tenant_id="acme"))
        host.execute(sa.text("ANALYZE webhook_delivery"))
        beside = claim_seconds(host)
    print(f"A claim of 100 takes {alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside 1,200,000: ", end="")
    print(f"{beside / alone:.2f} times")


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
