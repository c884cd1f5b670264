"""Plans: what PostgreSQL's planner is told of statements on the queue, whose size changes faster than its statistics.

Each setting ends with the transaction.
"""

from typing import Any

import sqlalchemy as sa

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables


def trust_indexes(scope: Scope) -> None:
    """Keep PostgreSQL from reading or sorting the whole queue where an index finds the few.

    It would do so for most of a minute, if the last vacuum found the queue empty and a backlog came since.
    """
    if scope.dialect.name in dialects.EXPECTS_EMPTY:
        scope.execute(_trust_indexes(scope))


def trusting_indexes() -> list[sa.ColumnElement[Any]]:
    """Return the columns by which another SELECT does the same."""
    # JIT, too: a plan that has to sort all the same looks so dear that PostgreSQL would compile it, for longer than it
    # takes.
    return [_set(name, "off") for name in ("enable_seqscan", "enable_sort", "jit")]


def plan_again(scope: Scope) -> None:
    """Have PostgreSQL plan each statement for its values, and for the size of the queue at this time.

    It would keep a plan that it made when the queue was empty, and read all of a backlog by it.
    """
    if scope.dialect.name in dialects.EXPECTS_EMPTY:
        scope.execute(_plan_again(scope))


@statement
def _trust_indexes(_tables: Tables, _dialect: str) -> sa.Select[Any]:
    return sa.select(*trusting_indexes())


@statement
def _plan_again(_tables: Tables, _dialect: str) -> sa.Select[Any]:
    return sa.select(_set("plan_cache_mode", "force_custom_plan"))


def _set(name: str, value: str) -> sa.ColumnElement[Any]:
    return sa.func.set_config(name, value, sa.true())
