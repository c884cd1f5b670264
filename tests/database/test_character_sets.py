"""Databases of MariaDB whose character set is not utf8mb4."""

from contextlib import closing

import pytest

from flask_webhook_endpoints import NewEvent
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.deliveries import publish, statuses

CHARACTER_SETS = ("latin1 COLLATE latin1_swedish_ci", "latin1 COLLATE latin1_general_cs", "utf8mb3", "utf8mb4")


# MariaDB's default is latin1 unless its configuration says otherwise; publishing compared an id with text in utf8mb4.
@pytest.mark.only_on("mariadb")
@pytest.mark.parametrize("characters", CHARACTER_SETS)
def test_events_are_delivered_whatever_character_set_the_database_has(database, webhook_receiver, characters):
    with hosts.plain_engine(database) as engine, engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} CHARACTER SET {characters}")
    with closing(hosts.delivering(database)) as host:
        endpoint = create_endpoint(host.client(), webhook_receiver.url)
        publish(host, 1, 2)
        with host.app.app_context():
            assert all(host.webhooks.publish_many([NewEvent("invoice.paid", 3, tenant_id="acme")]))
            host.db.session.commit()
        assert host.client().post(f"{endpoint.path}/ping").status_code == 202

        assert drain(host.app) == 4

        assert statuses(host) == {"DELIVERED": 4}
