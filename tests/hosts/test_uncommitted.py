"""In debug and tests, an app context that ends without a commit after `publish` is told of."""

import re
from pathlib import Path

import pytest

from flask_webhook_endpoints import NewEvent
from tests.support.api import create_endpoint

HERE = Path(__file__).name


@pytest.fixture
def warnings(host, caplog):
    """The warnings of this kind, once the endpoint is there."""
    create_endpoint(host.client())

    def of_publish() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.msg == "webhooks.not_committed"]

    return of_publish


def pay(host):
    return host.webhooks.publish("invoice.paid", {"id": 7}, tenant_id="acme")


def fail_after_publishing(host):
    pay(host)
    raise RuntimeError


@pytest.mark.parametrize("end", ["forget", "close", "publish many"])
@pytest.mark.parametrize("mode", ["debug", "testing"])
def test_a_context_that_ends_without_a_commit_names_where_it_published(host, warnings, end, mode):
    host.app.testing, host.app.debug = mode == "testing", mode == "debug"

    with host.app.app_context():
        if end == "publish many":
            host.webhooks.publish_many([NewEvent("invoice.paid", {}, tenant_id="acme")])
        else:
            pay(host)
        if end == "close":
            host.db.session.close()

    (said,) = warnings()
    where = re.search(r"where=(\S+):(\d+) in (\w+) count=1", said)
    assert where is not None
    assert Path(where[1]).name == HERE
    assert where[3] == (
        "pay" if end != "publish many" else "test_a_context_that_ends_without_a_commit_names_where_it_published"
    )


def test_what_is_committed_is_not_named_nor_what_nobody_wants_nor_a_second_call_with_a_key(host, warnings):
    with host.app.app_context():
        pay(host)
        host.db.session.commit()
        assert host.webhooks.publish("invoice.paid", {}, tenant_id="globex") is None
    for _ in range(2):
        with host.app.app_context():
            host.webhooks.publish("invoice.paid", {}, tenant_id="acme", idempotency_key="once")
            if not _:
                host.db.session.commit()

    assert warnings() == []


def test_a_savepoint_is_no_commit(host, warnings):
    with host.app.app_context(), host.db.session.begin_nested():
        pay(host)

    assert len(warnings()) == 1


# A request that failed told in its log of an event that its handler had undone on purpose.
def test_who_rolls_back_or_fails_has_not_forgotten_to_commit(host, warnings):
    with host.app.app_context():
        pay(host)
        host.db.session.rollback()
    with pytest.raises(RuntimeError), host.app.app_context():
        fail_after_publishing(host)
    with host.app.app_context(), pytest.raises(RuntimeError), host.db.session.begin():
        fail_after_publishing(host)

    assert warnings() == []


def test_a_savepoint_that_is_rolled_back_and_a_second_transaction_are_no_end_of_the_first(host, warnings):
    with host.app.app_context():
        pay(host)
        host.db.session.begin_nested().rollback()
    with host.app.app_context():
        pay(host)
        host.db.session.commit()
        pay(host)
        pay(host)

    assert [said.rpartition(" ")[2] for said in warnings()] == ["count=1", "count=2"]


def test_in_production_nobody_is_told(host, warnings):
    host.app.testing = False

    with host.app.app_context():
        pay(host)

    assert warnings() == []
