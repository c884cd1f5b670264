"""A failover: pooled connections lead to a server that does not write, and a new one to the server that does."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import NEW, create_endpoint, post_endpoint
from tests.support.database import DELIVERY, engine_of, execute
from tests.support.deliveries import publish, statuses

pytestmark = [pytest.mark.only_on("postgresql", "mariadb"), pytest.mark.host(make=hosts.delivering)]

OWN_READ_ONLY = {
    # As a server that became a standby answers: 25006, and 1792.
    "postgresql": "SET default_transaction_read_only = on",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}


def for_each_pooled(host: hosts.Host, do: Callable[[sa.Connection], Any]) -> None:
    """Do something in each of three connections that the host's pool then has."""
    engine = engine_of(host)
    connections = [engine.connect() for _ in range(3)]
    for connection in connections:
        do(connection)
        connection.commit()
        connection.close()


def make_read_only(host: hosts.Host) -> None:
    for_each_pooled(host, lambda connection: connection.exec_driver_sql(OWN_READ_ONLY[connection.dialect.name]))


@pytest.mark.parametrize("method", ["PATCH", "POST", "DELETE"])
def test_a_request_on_a_read_only_connection_is_answered_on_a_new_one(host, method):
    path = create_endpoint(host.client()).path
    make_read_only(host)

    path = "/v1/endpoints" if method == "POST" else path
    answers = [host.client().open(path, method=method, json=NEW).status_code for _ in range(4)]

    expected = {"POST": [201] * 4, "PATCH": [200] * 4, "DELETE": [204, 404, 404, 404]}
    assert answers == expected[method]


def test_a_worker_with_read_only_connections_delivers_on_a_new_one(host, inbox):
    create_endpoint(host.client(), inbox.url())
    publish(host, 1, 2)
    make_read_only(host)

    assert drain(host.app) == 2
    assert statuses(host) == {"DELIVERED": 2}


def test_one_publish_fails_on_a_read_only_connection_and_then_all_go_on(host, inbox):
    create_endpoint(host.client(), inbox.url())
    make_read_only(host)

    with pytest.raises(DBAPIError):
        publish(host)

    for _ in range(4):
        publish(host)
    assert statuses(host) == {"PENDING": 4}


def test_a_tenant_lookup_that_writes_on_a_read_only_connection_is_503_once(database):
    def seen() -> str:
        host.db.session.execute(sa.update(DELIVERY).values(attempts=DELIVERY.c.attempts).where(sa.true()))
        return "acme"

    host = hosts.delivering(database, tenant=seen)
    try:
        make_read_only(host)

        answers = [host.client().get("/v1/endpoints").status_code for _ in range(4)]

        assert answers == [503, 200, 200, 200]
    finally:
        host.close()


@pytest.mark.only_on("mariadb")
@pytest.mark.parametrize("number", [1290, 1792, 1836, 1874])
def test_each_code_of_a_read_only_server_has_the_connection_replaced(host, number):
    signal = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'read-only'"
    trigger = f"CREATE TRIGGER standby BEFORE INSERT ON webhook_endpoint FOR EACH ROW IF @standby THEN {signal}; END IF"
    execute(host, sa.text(trigger))
    for_each_pooled(host, lambda connection: connection.exec_driver_sql("SET @standby = 1"))

    answers = [post_endpoint(host.client()).status_code for _ in range(4)]

    assert answers == [201] * 4
