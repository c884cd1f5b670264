"""Tables filled by the hundred thousand, by few statements and past the API.

No other benchmark knows the columns of a delivery.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from benchmarks import hosts
from flask_webhook_endpoints.core import roll_ups, secrets
from flask_webhook_endpoints.database.models import WebhookModel, new_id
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.security import encryption

_tables = WebhookModel.metadata.tables
_endpoint, _secret, _event, _delivery, _undelivered, _queue, _hour = (
    _tables[f"webhook_{name}"]
    for name in ("endpoint", "secret", "event", "delivery", "undelivered", "queue", "endpoint_hour")
)

PER_TENANT = 10
"""Endpoints of each tenant, unless the benchmark says otherwise."""

PUT_OFF_FOR = timedelta(hours=1)
_THOUSAND = 1000
_LOGGED = timedelta(days=30)
_OF_ORDERS = 3
"""The last digit of the number of a delivery in a log that is of an order."""


def endpoints(
    host: hosts.Host,
    number: int,
    *,
    tenants: str,
    url: str = "https://example.com/",
    per_tenant: int = PER_TENANT,
    signed: bool = False,
    timeout_seconds: int = 10,
) -> None:
    """Add endpoints of the tenants `<tenants>0`, `<tenants>1`, …; deliveries are sent to those that are `signed`."""
    now, head = datetime.now(UTC), new_id().hex[:20]
    numbered = _numbers(number)
    dialect = _dialect(host)
    of_tenant = numbered.c.n // per_tenant
    # SQLite has CONCAT since 3.44.
    tenant = sa.func.printf("%s%d", tenants, of_tenant) if dialect == "sqlite" else sa.func.concat(tenants, of_tenant)
    values = {
        "id": _id(head, numbered.c.n, dialect),
        "tenant_id": tenant,
        "name": sa.literal("n"),
        "url": sa.literal(url),
        "timeout_seconds": sa.literal(timeout_seconds),
        "version": sa.literal(1),
        **{name: sa.literal(now, _endpoint.c.created_at.type) for name in ("created_at", "updated_at")},
    }
    host.execute(sa.insert(_endpoint).from_select(list(values), sa.select(*values.values())))
    if signed:
        _sign(host, [UUID(f"{head}{n:012x}") for n in range(number)], now)


def deliveries(host: hosts.Host, *, tenants: str, each: int = 1, put_off: bool = False, body_bytes: int = 1024) -> None:
    """Add `each` deliveries to every endpoint of the tenants whose names begin so, all of one event.

    They are due now, or in an hour, after one attempt that failed, where they are `put_off`.
    """
    now, head, event_id = datetime.now(UTC), new_id().hex[:20], new_id()
    body = b'{"type":"invoice.paid","timestamp":"2026-01-01T00:00:00.000000Z","data":"%s"}' % (b"x" * body_bytes)
    event = {"id": event_id, "tenant_id": f"{tenants}0", "type": "invoice.paid", "body": body, "created_at": now}
    host.execute(sa.insert(_event).values(event))
    dialect, numbered = _dialect(host), _numbers(each)
    # In turn, because publishing makes one delivery to each endpoint before a second one to any.
    turn = sa.func.row_number().over(order_by=(numbered.c.n, _endpoint.c.id))
    values = {
        "id": _id(head, turn, dialect),
        "tenant_id": _endpoint.c.tenant_id,
        "event_id": sa.literal(event_id, _delivery.c.event_id.type),
        "endpoint_id": _endpoint.c.id,
        "status": sa.literal("PENDING"),
        "attempts": sa.literal(int(put_off)),
        "created_at": sa.literal(now, _delivery.c.created_at.type),
    }
    wanted = sa.select(*values.values()).select_from(_endpoint.join(numbered, sa.true()))
    wanted = wanted.where(_endpoint.c.tenant_id.between(tenants, f"{tenants}~"))
    host.execute(sa.insert(_delivery).from_select(list(values), wanted))
    queued = {
        "delivery_id": _delivery.c.id,
        **{name: _delivery.c[name] for name in ("tenant_id", "endpoint_id", "attempts")},
        "state": sa.literal("WAITING" if put_off else "READY"),
        "due_at": sa.literal(now + PUT_OFF_FOR if put_off else now, _queue.c.due_at.type),
        "attempts_before": sa.literal(0),
    }
    of_event = sa.select(*queued.values()).where(_delivery.c.event_id == event_id)
    host.execute(sa.insert(_queue).from_select(list(queued), of_event))


def finished(host: hosts.Host, *, tenants: str, each: int) -> None:
    """Add deliveries that were delivered, as `deliveries` does."""
    deliveries(host, tenants=tenants, each=each)
    host.execute(sa.delete(_queue).where(_queue.c.tenant_id.between(tenants, f"{tenants}~")))
    values = {"status": "DELIVERED", "attempts": 1, "finished_at": _delivery.c.created_at}
    host.execute(sa.update(_delivery).where(_delivery.c.tenant_id.between(tenants, f"{tenants}~")).values(values))


def log(host: hosts.Host, number: int, *, tenant_id: str) -> None:
    """Add deliveries of the last 30 days, each of its own event, to two endpoints of a tenant.

    Of twenty, one has failed, one waits for the first endpoint, and one for the second, which is to be paused. Of ten,
    one is of the type `order.created`.
    """
    begun, dialect, n = datetime.now(UTC) - _LOGGED, _dialect(host), _numbers(number).c.n
    step_ms = int(_LOGGED.total_seconds() * 1000) // number
    # Of the whole span, whatever the number, because pages choose by time.
    moment_ms = sa.literal(int(begun.timestamp() * 1000), sa.BigInteger) + n * sa.literal(step_ms, sa.BigInteger)
    id_ = _id_of_time(moment_ms, dialect)
    first, second = (sa.literal(each, _delivery.c.endpoint_id.type) for each in _endpoints_of(host, tenant_id))
    # One time for all: lists know times by the ids.
    at = {"created_at": sa.literal(begun, _event.c.created_at.type)}
    event = {
        "id": id_,
        "tenant_id": sa.literal(tenant_id),
        "type": sa.case((n % 10 == _OF_ORDERS, "order.created"), else_="invoice.paid"),
        "body": sa.literal(b"{}", _event.c.body.type),
        **at,
    }
    waits = (n % 20).in_([1, 2])
    delivery = {
        "id": id_,
        "event_id": id_,
        "tenant_id": sa.literal(tenant_id),
        "endpoint_id": sa.case((n % 2 == 0, first), else_=second),
        "status": sa.case((waits, "PENDING"), (n % 20 == 0, "FAILED"), else_="DELIVERED"),
        "attempts": sa.literal(1),
        "last_response_status": sa.case((waits, 503), (n % 20 == 0, 500), else_=200),
        **at,
    }
    for table, values in ((_event, event), (_delivery, delivery)):
        host.execute(sa.insert(table).from_select(list(values), sa.select(*values.values())))
    _note_log(host, due_at=begun + 2 * _LOGGED)


def _note_log(host: hosts.Host, *, due_at: datetime) -> None:
    """Put the deliveries of a log that are pending into the queue, and those that failed among the undelivered."""
    owner = {"delivery_id": _delivery.c.id, **{name: _delivery.c[name] for name in ("tenant_id", "endpoint_id")}}
    queued = {
        **owner,
        "attempts": sa.literal(1),
        "state": sa.literal("WAITING"),
        "due_at": sa.literal(due_at, _queue.c.due_at.type),
        "attempts_before": sa.literal(0),
    }
    failed = {**owner, "status": _delivery.c.status}
    for table, values, status in ((_queue, queued, "PENDING"), (_undelivered, failed, "FAILED")):
        rows = sa.select(*values.values()).where(_delivery.c.status == status)
        host.execute(sa.insert(table).from_select(list(values), rows))


def hours(host: hosts.Host, *, tenant_id: str) -> None:
    """Add results in each hour of 30 days to every endpoint of a tenant, in three ranges of latency."""
    now = datetime.now(UTC)
    begun, numbers = roll_ups.beginning_of_hour(now), {"attempts": 100, "failed_attempts": 2, "failed": 1}
    rows = [
        {"tenant_id": tenant_id, "endpoint_id": each, "hour": begun - timedelta(hours=ago), "latency": latency}
        for each in _endpoints_of(host, tenant_id)
        for ago in range(int(_LOGGED / timedelta(hours=1)))
        for latency in (8, 10, 14)
    ]
    with host.app.app_context():
        for first in range(0, len(rows), _THOUSAND):
            some = [{**row, **numbers, "delivered": 98, "last_at": now} for row in rows[first : first + _THOUSAND]]
            host.db.session.execute(sa.insert(_hour), some)
        host.db.session.commit()


def _endpoints_of(host: hosts.Host, tenant_id: str) -> list[UUID]:
    found = sa.select(_endpoint.c.id).where(_endpoint.c.tenant_id == tenant_id).order_by(_endpoint.c.id)
    return [row.id for row in host.execute(found)]


def unfinished(host: hosts.Host, tenants: str) -> int:
    """Count the deliveries of these tenants that are not finished."""
    of_tenants = _queue.c.tenant_id.between(tenants, f"{tenants}~")
    return int(host.execute(sa.select(sa.func.count()).select_from(_queue).where(of_tenants))[0][0])


def clear(host: hosts.Host) -> None:
    """Delete all events, deliveries and attempts."""
    for table in (_queue, _tables["webhook_attempt"], _undelivered, _delivery, _event):
        host.execute(sa.delete(table))


def settle(host: hosts.Host) -> None:
    """Vacuum and analyse, as autovacuum would, so that the planner knows the tables; do nothing on SQLite."""
    statement = {"postgresql": "VACUUM ANALYZE", "mysql": "ANALYZE TABLE", "mariadb": "ANALYZE TABLE"}
    with host.app.app_context(), host.db.engine.connect() as connection:
        autocommitting = connection.execution_options(isolation_level="AUTOCOMMIT")
        if connection.dialect.name in statement:
            for table in _tables:
                autocommitting.exec_driver_sql(f"{statement[connection.dialect.name]} {table}")


def _sign(host: hosts.Host, endpoint_ids: list[UUID], now: datetime) -> None:
    rows, cipher, secret = [], host.state.cipher, secrets.generate().reveal()
    for endpoint_id in endpoint_ids:
        secret_id = new_id()
        place = encryption.place_of_secret(secret_id, format_id(endpoint_id))
        token = cipher.encrypt(secret, place)
        rows.append({"id": secret_id, "endpoint_id": endpoint_id, "secret_encrypted": token, "created_at": now})
    with host.app.app_context():
        host.db.session.execute(sa.insert(_secret), rows)
        host.db.session.commit()


def _numbers(number: int) -> Any:
    """Return the numbers below `number`, up to a million, as rows."""
    if number <= _THOUSAND:
        return _counted(number, "low").subquery("numbered")
    high, low = _counted(-(-number // _THOUSAND), "high").subquery(), _counted(_THOUSAND, "low").subquery()
    n = (high.c.n * _THOUSAND + low.c.n).label("n")
    return sa.select(n).select_from(high.join(low, sa.true())).where(n < number).subquery("numbered")


def _counted(number: int, name: str) -> sa.Select[Any]:
    counted = sa.select(sa.literal(0).label("n")).cte(name, recursive=True)
    counted = counted.union_all(sa.select(counted.c.n + 1).where(counted.c.n < number - 1))
    return sa.select(counted.c.n)


def _id(head: str, number: Any, dialect: str) -> Any:
    """Return a UUID of these 20 hexadecimal digits and the number. Ids sort as the rows are made."""
    match dialect:
        case "sqlite":
            return sa.func.printf("%s%012x", head, number)
        case "postgresql":
            return sa.cast(sa.func.concat(head, sa.func.lpad(sa.func.to_hex(number), 12, "0")), sa.Uuid)
        case _:
            return sa.func.concat(head, sa.func.lpad(sa.func.lower(sa.func.hex(number)), 12, "0"))


def _id_of_time(milliseconds: Any, dialect: str) -> Any:
    """Return the first UUIDv7 of a time."""
    tail = "70008" + "0" * 15
    match dialect:
        case "sqlite":
            return sa.func.printf("%012x%s", milliseconds, tail)
        case "postgresql":
            return sa.cast(sa.func.concat(sa.func.lpad(sa.func.to_hex(milliseconds), 12, "0"), tail), sa.Uuid)
        case _:
            return sa.func.concat(sa.func.lpad(sa.func.lower(sa.func.hex(milliseconds)), 12, "0"), tail)


def _dialect(host: hosts.Host) -> str:
    with host.app.app_context():
        return host.db.engine.dialect.name
