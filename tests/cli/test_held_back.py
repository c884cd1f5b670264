"""`flask webhooks doctor` names replication slots and prepared transactions that hold PostgreSQL's vacuum back.

The server that other tests use may allow neither, so these have one of their own.
"""

import struct
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import pq

from flask_webhook_endpoints.cli import vacuum_checks
from tests.support import hosts
from tests.support.commands import run_json
from tests.support.database import engine_of, execute, rows
from tests.support.hosts import Host
from tests.support.standby import own_server
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("logging_untouched")]

NAME = "of_a_test"


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with own_server(max_prepared_transactions=2, wal_level="replica") as port:
        yield port


@pytest.fixture
def host(server: int) -> Iterator[Host]:
    with closing(hosts.flask_sqlalchemy(f"postgresql+psycopg://postgres@127.0.0.1:{server}/postgres")) as host:
        yield host


def found(host: Host) -> list[dict[str, Any]]:
    """Return the findings about vacuum that have the name of the slot or the transaction."""
    findings = [each for each in run_json(host, "doctor") if each["check"] == "vacuum"]
    assert findings
    return [finding for finding in findings if NAME in finding["message"]]


def test_a_replication_slot_that_holds_a_snapshot_is_named_until_it_is_dropped(host, server, monkeypatch):
    execute(host, sa.text(f"SELECT pg_create_physical_replication_slot('{NAME}', true)"))
    try:
        be_a_standby(host, server)
        assert found(host) == []
        monkeypatch.setattr(vacuum_checks, "OLD_TRANSACTIONS", -1)

        (finding,) = found(host)

        assert finding["level"] == "warn"
        assert "drop the slot" in finding["advice"]
    finally:
        wait_until(lambda: not of_slot(host, "active"))
        execute(host, sa.text(f"SELECT pg_drop_replication_slot('{NAME}')"))
    assert found(host) == []


def be_a_standby(host: Host, port: int) -> None:
    """Tell the server by the slot, as a standby with `hot_standby_feedback` does, that it reads at this moment."""
    [(now, position)] = rows(host, sa.text("SELECT txid_current(), pg_current_wal_lsn()"))
    epoch, xid = divmod(now, 1 << 32)
    with psycopg.connect(host="127.0.0.1", port=port, user="postgres", replication="true") as standby:
        started = standby.pgconn.exec_(f"START_REPLICATION SLOT {NAME} PHYSICAL {position}".encode())
        assert started.status == pq.ExecStatus.COPY_BOTH, standby.pgconn.error_message
        # Hot standby feedback: the time, the oldest transaction that is seen, and none for the catalogs.
        standby.pgconn.put_copy_data(struct.pack("!cqIIII", b"h", int(time.time() * 1e6), xid, epoch, 0, 0))
        standby.pgconn.flush()
        wait_until(lambda: of_slot(host, "xmin"))
        standby.pgconn.finish()


def of_slot(host: Host, column: str) -> Any:
    return rows(host, sa.text(f"SELECT {column} FROM pg_replication_slots WHERE slot_name = '{NAME}'"))[0][0]


def test_a_prepared_transaction_is_named_until_it_ends(host, monkeypatch):
    monkeypatch.setattr(vacuum_checks, "OLD_SECONDS", 0)
    with engine_of(host).connect() as connection:
        connection.exec_driver_sql("DELETE FROM webhook_delivery")
        connection.exec_driver_sql(f"PREPARE TRANSACTION '{NAME}'")

    (finding,) = found(host)

    assert "ROLLBACK PREPARED" in finding["advice"]
    with engine_of(host).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"ROLLBACK PREPARED '{NAME}'")
    assert found(host) == []
