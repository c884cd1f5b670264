"""What publishing costs in the host's transaction: one event to 1, 10, 100, 1000 endpoints."""

from statistics import median
from typing import Any

import sqlalchemy as sa

from benchmarks import hosts, rounds

ENDPOINTS = (1, 10, 100, 1000)


def main() -> None:
    """Print the table."""
    options = hosts.arguments(__doc__).parse_args()
    print(f"{'endpoints':>9}{'statements':>12}{'CPU µs':>10}{'wall µs':>10}{'wall µs per delivery':>22}")
    with hosts.host(options.database) as host:
        for endpoints in ENDPOINTS:
            host.register([f"https://example.com/{number}" for number in range(endpoints)], tenant_id=f"of {endpoints}")
        # All sizes in turn, round after round.
        programs = {str(size): lambda size=size: _publish(host, f"of {size}") for size in ENDPOINTS}
        costs = rounds.interleave(programs, 3 * rounds.ROUNDS)
        for size in ENDPOINTS:
            cpu = median(cost.cpu for cost in costs[str(size)])
            wall = median(cost.wall for cost in costs[str(size)])
            statements = _statements(host, f"of {size}")
            print(f"{size:>9}{statements:>12}{cpu:>10.0f}{wall:>10.0f}{wall / size:>22.1f}")


def _publish(host: hosts.Host, tenant_id: str) -> rounds.Cost:
    with host.app.app_context():

        def publish() -> int:
            host.webhooks.publish("invoice.paid", {"id": 7, "text": "x" * 1024}, tenant_id=tenant_id)
            return 1

        cost = rounds.measure(publish)
        host.db.session.commit()
    return cost


def _statements(host: hosts.Host, tenant_id: str) -> int:
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement)

    with host.app.app_context():
        sa.event.listen(host.db.engine, "before_cursor_execute", note)
        host.webhooks.publish("invoice.paid", {"id": 7}, tenant_id=tenant_id)
        sa.event.remove(host.db.engine, "before_cursor_execute", note)
        host.db.session.rollback()
    return len(sent)


if __name__ == "__main__":
    main()
