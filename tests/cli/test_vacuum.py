"""`flask webhooks doctor` names old snapshots, which hold PostgreSQL's vacuum back, and tables with many dead rows."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.cli import vacuum_checks
from flask_webhook_endpoints.database.models import new_id
from tests.support.api import create_endpoint
from tests.support.commands import run_json
from tests.support.database import DELIVERY, QUEUE, engine_of, execute, partitioned
from tests.support.deliveries import publish
from tests.support.hosts import Host
from tests.support.waiting import wait_until

# In memory there is something else to say of every host.
pytestmark = [pytest.mark.only_on("postgresql"), pytest.mark.usefixtures("logging_untouched")]

OPENED = {
    "that reads": "SELECT count(*) FROM webhook_delivery",
    "that writes": "DELETE FROM webhook_delivery",
}


def found(host: Host, part: str) -> list[dict[str, Any]]:
    """Return the findings about vacuum whose message has this part; other tests may have transactions open, too."""
    findings = [each for each in run_json(host, "doctor") if each["check"] == "vacuum"]
    assert findings
    assert all(finding["advice"] for finding in findings if finding["level"] != "ok")
    return [finding for finding in findings if part in finding["message"]]


@contextmanager
def opened(host: Host, statement: str) -> Iterator[tuple[int, sa.Connection]]:
    """Hold a transaction open that has run a statement; yield its process and its connection."""
    with engine_of(host).connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        connection.exec_driver_sql(statement)
        yield connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one(), connection


@pytest.mark.parametrize("statement", OPENED.values(), ids=OPENED)
def test_a_transaction_that_holds_a_snapshot_for_long_is_named_until_it_ends(host, monkeypatch, statement):
    with opened(host, statement) as (pid, connection):
        assert found(host, f"pid {pid}") == []
        monkeypatch.setattr(vacuum_checks, "OLD_SECONDS", 0)

        (finding,) = found(host, f"pid {pid}")

        assert finding["level"] == "warn"
        assert "idle in transaction" in finding["message"]
        assert f"pg_terminate_backend({pid})" in finding["advice"]
        assert statement not in str(finding)
        connection.rollback()
        assert found(host, f"pid {pid}") == []


# A role that may not read all statistics does not see for how long another role's transaction is open.
def test_a_snapshot_of_another_role_is_told_by_its_age_in_transactions(host, monkeypatch):
    role = f"bench_{new_id().hex}"
    with engine_of(host).connect() as connection:
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    for grant in (
        f"CREATE ROLE {role} LOGIN",
        f"GRANT ALL ON SCHEMA {schema} TO {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}",
    ):
        execute(host, sa.text(grant))
    try:
        with opened(host, OPENED["that reads"]) as (pid, _), limited(host, role):
            monkeypatch.setattr(vacuum_checks, "OLD_SECONDS", 0)
            assert found(host, f"pid {pid}") == []
            monkeypatch.setattr(vacuum_checks, "OLD_TRANSACTIONS", -1)

            (finding,) = found(host, f"pid {pid}")

            assert "transactions (pid" in finding["message"]
    finally:
        execute(host, sa.text(f"DROP OWNED BY {role}"))
        execute(host, sa.text(f"DROP ROLE {role}"))


@contextmanager
def limited(host: Host, role: str) -> Iterator[None]:
    """Have the host's connections act as another role."""

    def become(connection: Any, *_: object) -> None:
        connection.execute(f"SET SESSION AUTHORIZATION {role}")
        connection.commit()

    def leave(connection: Any, *_: object) -> None:
        connection.execute("RESET SESSION AUTHORIZATION")
        connection.commit()

    pool = engine_of(host).pool
    sa.event.listen(pool, "checkout", become)
    sa.event.listen(pool, "checkin", leave)
    try:
        yield
    finally:
        sa.event.remove(pool, "checkout", become)
        sa.event.remove(pool, "checkin", leave)


def test_a_table_with_many_dead_rows_is_named_until_it_is_vacuumed(host, monkeypatch):
    monkeypatch.setattr(vacuum_checks, "MANY_DEAD_ROWS", 20)
    create_endpoint(host.client())
    publish(host, *range(30))
    # Deleted, because the next update of a page removes rows that were updated.
    for table in (QUEUE, DELIVERY):
        execute(host, sa.delete(table))
    # Counts them, or the server does when it comes to it.
    execute(host, sa.text("ANALYZE webhook_delivery"))

    wait_until(lambda: found(host, "rows of webhook_delivery are dead"))
    (finding,) = found(host, "rows of webhook_delivery are dead")

    # PostgreSQL's statistics are estimates.
    assert re.fullmatch(r"\d+ rows of webhook_delivery are dead, \d+ live; last vacuumed: .+", finding["message"])
    assert "VACUUM webhook_delivery" in finding["advice"]
    with engine_of(host).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM webhook_delivery")
    wait_until(lambda: not found(host, "rows of webhook_delivery are dead"))


# The partitioned table itself has no rows, and no vacuum comes for it.
def test_partitions_with_many_dead_rows_are_named(host, monkeypatch):
    monkeypatch.setattr(vacuum_checks, "MANY_DEAD_ROWS", 2)
    with partitioned(host, "webhook_delivery") as parts:
        create_endpoint(host.client())
        publish(host, *range(30))
        execute(host, sa.delete(DELIVERY))
        execute(host, sa.text("ANALYZE webhook_delivery"))

        for part in parts:
            wait_until(lambda part=part: found(host, f"rows of {part} are dead"))
            (finding,) = found(host, f"rows of {part} are dead")

            assert f"VACUUM {part}." in finding["advice"]
