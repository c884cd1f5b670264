"""A failover between real servers: the pool leads to a hot standby, and its name by now to the primary."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import NEW, create_endpoint, post_endpoint
from tests.support.database import ENDPOINT, count, engine_of
from tests.support.deliveries import publish, statuses
from tests.support.proxy import Proxy
from tests.support.standby import primary_and_standby
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


class Servers(NamedTuple):
    """The host on the primary, and the host whose name leads elsewhere."""

    direct: hosts.Host
    by_name: hosts.Host
    proxy: Proxy
    primary: tuple[str, int]
    standby: tuple[str, int]


@pytest.fixture
def servers() -> Iterator[Servers]:
    url = "postgresql+psycopg://postgres@127.0.0.1:{}/postgres"
    with ExitStack() as stack:
        primary, standby = (("127.0.0.1", port) for port in stack.enter_context(primary_and_standby()))
        direct = stack.enter_context(closing(hosts.delivering(url.format(primary[1]))))
        engine = sa.create_engine(url.format(standby[1]))
        wait_until(lambda: sa.inspect(engine).has_table("webhook_endpoint"))
        engine.dispose()
        proxy = stack.enter_context(closing(Proxy(standby)))
        by_name = hosts.flask_sqlalchemy(url.format(proxy.port), allowed_networks=hosts.LOOPBACK)
        stack.callback(by_name.close)
        yield Servers(direct, by_name, proxy, primary, standby)


def fail_over(servers: Servers) -> None:
    """Let the pool have three connections to the standby, and the name lead to the primary from now on."""
    engine = engine_of(servers.by_name)
    connections = [engine.connect() for _ in range(3)]
    for connection in connections:
        assert connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one()
        connection.rollback()
        connection.close()
    servers.proxy.lead_to(servers.primary)


def test_requests_and_a_worker_leave_a_standby_for_the_primary(servers, inbox):
    endpoint = create_endpoint(servers.direct.client(), inbox.url())
    wait_until(lambda: count(servers.by_name, ENDPOINT) == 1)
    client = servers.by_name.client()
    assert client.get(endpoint.path).status_code == 200
    # A write is refused, and says so, as long as there is no other server.
    assert client.patch(endpoint.path, json={"name": "n"}).status_code == 503
    fail_over(servers)

    assert [post_endpoint(client, event_types=["other"]).status_code for _ in range(4)] == [201] * 4
    assert client.patch(endpoint.path, json=NEW | {"url": inbox.url()}).status_code == 200
    publish(servers.direct, 1, 2)
    engine_of(servers.by_name).dispose()
    servers.proxy.lead_to(servers.standby)
    wait_until(lambda: statuses(servers.by_name) == {"PENDING": 2})
    fail_over(servers)

    assert drain(servers.by_name.app) == 2
    assert statuses(servers.direct) == {"DELIVERED": 2}
