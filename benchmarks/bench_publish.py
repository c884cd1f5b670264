"""The cost of publishing an event to 1 to 1000 endpoints, by us, the raw driver and an ORM.

And that of an event of several, published one by one or in a batch, with one commit for all. And that of checking an
event that is declared, which no endpoint wants, so that little else is done.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import sqlalchemy as sa
from marshmallow import Schema, fields

from benchmarks import hosts, outboxes, rounds
from flask_webhook_endpoints import NewEvent

ENDPOINTS = (1, 10, 100, 1000)
BATCHES = (1, 100, 3000)
DATA = {"id": 7, "text": "x" * 1024}


_SCHEMAS: dict[str, Any] = {
    "not declared": None,
    "marshmallow": Schema.from_dict({"id": fields.Integer(strict=True, required=True), "text": fields.String()}),
    "JSON Schema": {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "text": {"type": "string"}},
        "required": ["id"],
    },
}


def main() -> None:
    """Print a table for each number of endpoints."""
    options = hosts.arguments(__doc__).parse_args()
    _show_checks(options.database, options.rounds)
    with hosts.host(options.database) as host, host.app.app_context():
        publishers: dict[str, outboxes.Publish] = {
            "by hand": outboxes.by_hand(host.app.config["SQLALCHEMY_DATABASE_URI"]),
            "SQLAlchemy entities": outboxes.by_entities(host.db.engine),
            "ours": _ours(host),
        }
        for size in ENDPOINTS:
            tenant_id = f"of {size}"
            host.register([f"https://example.com/{number}" for number in range(size)], tenant_id=tenant_id)
            programs = {name: _publishing(publish, tenant_id, size) for name, publish in publishers.items()}
            statements = _statements(host, lambda tenant_id=tenant_id: publishers["ours"](tenant_id, DATA))
            _show(size, statements, rounds.interleave(programs, options.rounds))
        for size in BATCHES:
            many = _batch(host, size)
            print(f"Each of {size} events in one transaction; statements of publish_many: {_statements(host, many)}")
            programs = {"publish": _of_batch(_loop(host, size), size), "publish_many": _of_batch(many, size)}
            print(rounds.table(rounds.interleave(programs, options.rounds), share_of="publish"), "\n", flush=True)


def _show_checks(database: str | None, times: int) -> None:
    with ExitStack() as stack:
        programs = {}
        for name, schema in _SCHEMAS.items():
            host = stack.enter_context(hosts.host(database))
            if schema is not None:
                host.webhooks.event_type(outboxes.TYPE, schema=schema)
            programs[name] = _checking(host)
        print("One event that no endpoint wants, by its declaration")
        print(rounds.table(rounds.interleave(programs, times), share_of="not declared"), "\n", flush=True)


def _checking(host: hosts.Host) -> Callable[[], rounds.Cost]:
    def run() -> int:
        with host.app.app_context():
            for _ in range(100):
                host.webhooks.publish(outboxes.TYPE, DATA, tenant_id="nobody")
        return 100

    return lambda: rounds.measure(run)


def _batch(host: hosts.Host, size: int) -> Callable[[], None]:
    def publish() -> None:
        host.webhooks.publish_many(NewEvent(outboxes.TYPE, DATA, tenant_id="of 1") for _ in range(size))
        host.db.session.commit()

    return publish


def _loop(host: hosts.Host, size: int) -> Callable[[], None]:
    def publish() -> None:
        for _ in range(size):
            host.webhooks.publish(outboxes.TYPE, DATA, tenant_id="of 1")
        host.db.session.commit()

    return publish


def _of_batch(publish: Callable[[], None], size: int) -> Callable[[], rounds.Cost]:
    def run() -> int:
        times = max(1, 100 // size)
        for _ in range(times):
            publish()
        return times * size

    return lambda: rounds.measure(run)


def _ours(host: hosts.Host) -> outboxes.Publish:
    def publish(tenant_id: str, data: dict[str, Any]) -> None:
        host.webhooks.publish(outboxes.TYPE, data, tenant_id=tenant_id)
        host.db.session.commit()

    return publish


def _publishing(publish: outboxes.Publish, tenant_id: str, size: int) -> Callable[[], rounds.Cost]:
    events = max(2, 100 // size)

    def run() -> int:
        for _ in range(events):
            publish(tenant_id, DATA)
        return events

    return lambda: rounds.measure(run)


def _statements(host: hosts.Host, publish: Callable[[], None]) -> int:
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement)

    sa.event.listen(host.db.engine, "before_cursor_execute", note)
    publish()
    sa.event.remove(host.db.engine, "before_cursor_execute", note)
    return len(sent)


def _show(size: int, statements: int, costs: rounds.Costs) -> None:
    print(f"One event; endpoints that get it: {size}; statements of ours: {statements}")
    print(rounds.table(costs, share_of="by hand"))
    each = [f"{name} {cost.cpu / size:.1f} CPU, {cost.wall / size:.1f} wall" for name, cost in rounds.medians(costs)]
    print(f"µs per delivery: {'; '.join(each)}\n", flush=True)


if __name__ == "__main__":
    main()
