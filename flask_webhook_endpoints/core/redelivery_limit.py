"""The limit of redeliveries that a tenant asks for in a minute, counted for all processes together."""

import math
from datetime import datetime, timedelta

import sqlalchemy as sa

from flask_webhook_endpoints.database.scope import TenantScope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import TooManyRedeliveries

_MINUTE = timedelta(minutes=1)


def count(scope: TenantScope, *, most: int, number: int = 1) -> None:
    """Count redeliveries of this minute; raise `TooManyRedeliveries` if the tenant has had `most` of them.

    Several at once are allowed while there is room for one, because a lower limit than their number would allow none.
    The row stays locked until the transaction ends, so that of two requests one sees what the other has counted. A
    rollback takes the redelivery off the count.
    """
    minute = scope.now.replace(second=0, microsecond=0)
    first = {"tenant_id": scope.tenant_id, "minute": minute, "redeliveries": number}
    table = scope.tables.redelivery_count
    # Count once more at the end, because another request may have inserted the row meanwhile.
    if (
        _is_counted(scope, minute, most, number)
        or scope.insert_if_absent(table, first)
        or _is_counted(scope, minute, most, number)
    ):
        return
    raise TooManyRedeliveries(most, seconds=math.ceil((minute + _MINUTE - scope.now).total_seconds()))


def forget_tenant(scope: TenantScope) -> None:
    """Forget the tenant's count."""
    table = scope.tables.redelivery_count
    scope.execute(sa.delete(table).where(table.c.tenant_id == scope.tenant_id))


def _is_counted(scope: TenantScope, minute: datetime, most: int, number: int) -> bool:
    values = {
        "of_tenant": scope.tenant_id,
        "this": minute,
        "next": minute + _MINUTE,
        "most": most,
        "number": number,
    }
    return scope.execute(_count(scope), values).rowcount == 1


@statement
def _count(tables: Tables, _dialect: str) -> sa.Update:
    """Count so many more, unless the tenant has had the most of this minute."""
    table = tables.redelivery_count
    this, following = (sa.bindparam(name, type_=table.c.minute.type) for name in ("this", "next"))
    # Another process may be in the next minute already. If this one went back, the count would begin again.
    counting = table.c.minute.between(this, following)
    number = sa.bindparam("number", type_=table.c.redeliveries.type)
    has_room = sa.or_(~counting, table.c.redeliveries < sa.bindparam("most"))
    # In this order, because MariaDB and MySQL read in an assignment what they have assigned before it.
    return (
        sa.update(table)
        .where(table.c.tenant_id == sa.bindparam("of_tenant"), has_room)
        .ordered_values(
            (table.c.redeliveries, sa.case((counting, table.c.redeliveries + number), else_=number)),
            (table.c.minute, sa.case((counting, table.c.minute), else_=this)),
        )
    )
