"""`flask webhooks doctor` names what holds PostgreSQL's vacuum back, and tables with many dead rows."""

import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import pq
from sqlalchemy.engine import make_url

from flask_webhook_endpoints.cli import vacuum_checks
from flask_webhook_endpoints.database.models import new_id
from tests.support.api import create_endpoint
from tests.support.commands import run_json
from tests.support.database import DELIVERY, QUEUE, engine_of, execute, rows
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


def test_a_replication_slot_that_holds_a_snapshot_is_named_until_it_is_dropped(host, database, monkeypatch):
    name = f"test_{new_id().hex}"
    execute(host, sa.text(f"SELECT pg_create_physical_replication_slot('{name}', true)"))
    try:
        be_a_standby(host, database, name)
        assert found(host, name) == []
        monkeypatch.setattr(vacuum_checks, "OLD_TRANSACTIONS", -1)

        (finding,) = found(host, name)

        assert finding["level"] == "warn"
        assert "drop the slot" in finding["advice"]
    finally:
        wait_until(lambda: not of_slot(host, "active", name))
        execute(host, sa.text(f"SELECT pg_drop_replication_slot('{name}')"))
    assert found(host, name) == []


def be_a_standby(host: Host, database: str, slot: str) -> None:
    """Tell the server by the slot, as a standby with `hot_standby_feedback` does, that it reads at this moment."""
    [(now, position)] = rows(host, sa.text("SELECT txid_current(), pg_current_wal_lsn()"))
    epoch, xid = divmod(now, 1 << 32)
    with replicating(database) as standby:
        started = standby.pgconn.exec_(f"START_REPLICATION SLOT {slot} PHYSICAL {position}".encode())
        assert started.status == pq.ExecStatus.COPY_BOTH, standby.pgconn.error_message
        # Hot standby feedback: the time, the oldest transaction that is seen, and none for the catalogs.
        standby.pgconn.put_copy_data(struct.pack("!cqIIII", b"h", int(time.time() * 1e6), xid, epoch, 0, 0))
        standby.pgconn.flush()
        wait_until(
            lambda: rows(host, sa.text(f"SELECT xmin FROM pg_replication_slots WHERE slot_name = '{slot}'"))[0][0]
        )
        standby.pgconn.finish()


def replicating(database: str) -> psycopg.Connection[Any]:
    """Connect as a standby does, or skip the test."""
    url = make_url(database)
    to = {"host": url.host, "port": url.port or 5432, "user": url.username, "password": url.password}
    try:
        return psycopg.connect(**to, replication="true")
    except psycopg.OperationalError as error:
        if "pg_hba.conf" not in str(error):
            raise
        pytest.skip("The server takes no replication connections from here (pg_hba.conf).")


def of_slot(host: Host, column: str, slot: str) -> Any:
    return rows(host, sa.text(f"SELECT {column} FROM pg_replication_slots WHERE slot_name = '{slot}'"))[0][0]


def test_a_prepared_transaction_is_named_until_it_ends(host, monkeypatch):
    [(most,)] = rows(host, sa.text("SHOW max_prepared_transactions"))
    if most == "0":
        pytest.skip("The server allows no prepared transactions (max_prepared_transactions).")
    monkeypatch.setattr(vacuum_checks, "OLD_SECONDS", 0)
    name = f"test_{new_id().hex}"
    with engine_of(host).connect() as connection:
        connection.exec_driver_sql("DELETE FROM webhook_delivery")
        connection.exec_driver_sql(f"PREPARE TRANSACTION '{name}'")

    (finding,) = found(host, name)

    assert "ROLLBACK PREPARED" in finding["advice"]
    with engine_of(host).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"ROLLBACK PREPARED '{name}'")
    assert found(host, name) == []


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
