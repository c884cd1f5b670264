"""The host's listeners on statements see ours as they see the host's own."""

import re

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import create_endpoint, post_endpoint


def requests(host):
    """Return requests and publishes that execute each statement that a request of a tenant or of the host can."""
    acme = host.client()
    path = create_endpoint(acme).path
    other = create_endpoint(acme).path
    acme.post(f"{path}/ping")

    def publish(**options):
        with host.app.app_context():
            host.webhooks.publish("invoice.paid", 1, tenant_id="acme", **options)
            host.db.session.commit()

    def forget():
        with host.app.app_context():
            host.webhooks.forget_tenant("globex")
            host.db.session.commit()

    def delivery():
        return f"{path}/deliveries/{acme.get(f'{path}/deliveries').json[0]['id']}"

    drain(host.app)
    return {
        "create": lambda: post_endpoint(acme),
        "create once": lambda: post_endpoint(acme, key="k"),
        "create once again": lambda: post_endpoint(acme, key="k"),
        "list": lambda: acme.get("/v1/endpoints?limit=1&status=ACTIVE"),
        "read": lambda: acme.get(path),
        "update": lambda: acme.patch(path, json={"name": "m", "secret": "a secret of Acme's"}),
        "pause": lambda: acme.patch(path, json={"status": "PAUSED"}, headers={"If-Match": "*"}),
        "publish and hold": publish,
        "resume": lambda: acme.patch(path, json={"status": "ACTIVE"}),
        "read the secret": lambda: acme.get(f"{path}/secret"),
        "rotate": lambda: acme.post(f"{path}/secret/rotate", json={"overlap_seconds": 0}),
        "ping": lambda: acme.post(f"{other}/ping"),
        "publish": publish,
        "publish once": lambda: publish(idempotency_key="k"),
        "publish once again": lambda: publish(idempotency_key="k"),
        "list deliveries": lambda: acme.get(f"{path}/deliveries?limit=1&status=DELIVERED"),
        "list all that failed": lambda: acme.get("/v1/endpoints/deliveries?status=FAILED&event_type=a.*"),
        "list what waits": lambda: acme.get("/v1/endpoints/deliveries?status=PENDING"),
        "read a delivery": lambda: acme.get(delivery()),
        "redeliver": lambda: acme.post(f"{delivery()}/redeliver"),
        "recover": lambda: acme.post(f"{path}/recover", json={"since": "2026-01-01T00:00:00Z"}),
        "forget": forget,
        "delete": lambda: acme.delete(path),
    }


@pytest.fixture
def sent(host):
    """Collect the statements that the database is sent, each with its context."""
    sent = []
    with host.app.app_context():
        sa.event.listen(host.db.engine, "before_cursor_execute", lambda *given: sent.append((given[2], given[4])))
    return sent


def test_listeners_see_what_each_statement_of_ours_is(host, sent):
    # They went to the driver as text: listeners saw no INSERT in them.
    for name, ask in requests(host).items():
        sent.clear()
        answer = ask()

        assert answer is None or answer.status_code in (200, 201, 202, 204), (name, answer.text)
        assert sent, name
        for statement, context in sent:
            # The statement's own, after the common table expressions.
            verb = re.match(r"(?:WITH .*?\)\s*\n\s*)?(\w+)", statement, re.DOTALL)[1]
            assert context.compiled is not None, (name, statement)
            assert (context.isinsert, context.isupdate, context.isdelete) == (
                verb == "INSERT",
                verb == "UPDATE",
                verb == "DELETE",
            ), (name, statement)


class InMaintenance(Exception):
    """Raised by the host's guard."""


def test_a_guard_of_the_host_against_writes_keeps_ours_out(host):
    asked = requests(host)
    acme = host.client()
    closed = []

    def guard(*given):
        context = given[4]
        if closed and (context.isinsert or context.isupdate or context.isdelete):
            raise InMaintenance

    with host.app.app_context():
        sa.event.listen(host.db.engine, "before_cursor_execute", guard)
        tables = [table for name, table in host.db.metadata.tables.items() if name != "webhook_worker"]

    def rows():
        with host.app.app_context():
            return [host.db.session.execute(sa.select(table).order_by(*table.primary_key)).all() for table in tables]

    asked["publish"]()
    before, shown = rows(), acme.get("/v1/endpoints").data
    closed.append(True)
    lists = {"list", "list deliveries", "list all that failed", "list what waits"}
    readers = {*lists, "read", "read the secret", "read a delivery"}
    for name in asked.keys() - readers - {"create once again", "publish once again", "resume"}:
        with pytest.raises(InMaintenance):
            asked[name]()
    for name in readers:
        assert asked[name]().status_code == 200

    assert rows() == before
    assert acme.get("/v1/endpoints").data == shown


def test_a_listener_may_rewrite_our_statements_as_the_hosts_own(database):
    """As SQLAlchemy's documentation has it, for comments that name the request."""
    host = hosts.flask_sqlalchemy(database)
    sent = []

    def comment(connection, cursor, statement, parameters, *rest):
        return f"{statement} /* tenant */", parameters

    with host.app.app_context():
        sa.event.listen(host.db.engine, "before_cursor_execute", comment, retval=True)
        sa.event.listen(host.db.engine, "after_cursor_execute", lambda *given: sent.append(given[2]))
    acme = host.client()
    path = create_endpoint(acme).path
    answers = [acme.get(path), acme.patch(path, json={"name": "m"}), acme.delete(path)]
    host.close()

    assert [answer.status_code for answer in answers] == [200, 200, 204]
    assert all(statement.endswith("/* tenant */") for statement in sent)
