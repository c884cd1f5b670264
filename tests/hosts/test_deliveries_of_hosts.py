"""`webhooks.deliveries`: the host's own code looks at deliveries, and sends them again, in its own transaction."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from flask_webhook_endpoints import errors
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.identifiers import format_id, format_time
from tests.support import docs
from tests.support.api import PATH, create_endpoint
from tests.support.database import on_sqlite
from tests.support.deliveries import finish, publish, statuses

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def endpoint(acme):
    return create_endpoint(acme, headers_json={"X-Key": "hunter22"})


@pytest.fixture
def theirs(host, endpoint):
    """The deliveries of acme, with the host's session and context."""
    with host.app.app_context():
        yield host.webhooks.deliveries


def test_a_page_has_what_the_api_lists(host, acme, endpoint, theirs):
    publish(host, 1, 2, 3)
    listed = acme.get(f"{PATH}/deliveries").json

    first = theirs.list(tenant_id="acme", limit=2)
    second = theirs.list(tenant_id="acme", limit=2, after=first.cursor)

    assert [format_id(each.id, "dlv") for each in (*first.deliveries, *second.deliveries)] == [
        each["id"] for each in listed
    ]
    assert second.cursor is None
    (oldest,) = second.deliveries
    assert (format_time(oldest.created_at), oldest.status) == (listed[2]["created_at"], listed[2]["status"])
    assert theirs.list(tenant_id="acme", endpoint_id=endpoint.id).deliveries == [*first.deliveries, oldest]


def test_filters_are_those_of_the_api(host, endpoint, theirs):
    (event_id,) = publish(host, event_type="a.b")
    finish(host)
    publish(host, event_type="c")
    now = datetime.now(UTC)

    def number(**filters):
        return len(theirs.list(tenant_id="acme", **filters).deliveries)

    assert number() == 2
    assert number(status=DeliveryStatus.FAILED) == number(status="FAILED") == 1
    assert number(event_type="a.*") == 1
    assert number(event_id=event_id) == number(event_id=UUID(event_id[4:])) == 1
    assert number(since=now - timedelta(hours=1), until=now + timedelta(hours=1)) == 2
    assert number(until="2020-01-01T00:00:00Z") == 0


@on_sqlite
@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"status": "failed"}, "status"),
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"since": datetime(2020, 1, 1)}, "since"),  # noqa: DTZ001 - the fault
        ({"since": 1}, "since"),
        ({"event_id": "1"}, "event_id"),
        ({"after": "1"}, "cursor"),
        ({"event_type": "*"}, "event_type"),
    ],
    ids=str,
)
def test_a_filter_that_breaks_a_rule_is_named(theirs, filters, field):
    with pytest.raises(errors.InvalidFields) as raised:
        theirs.list(tenant_id="acme", **filters)

    assert list(raised.value.errors) == [field]


def test_a_filter_that_there_is_none_of_is_an_error(theirs):
    # With `cursor=page.cursor`, a loop had the first page for ever.
    for unknown in ("cursor", "colour"):
        with pytest.raises(TypeError, match=f"No such filter: {unknown}"):
            theirs.list(tenant_id="acme", **{unknown: None})


def test_one_delivery_has_all_that_the_api_shows(host, acme, endpoint, theirs):
    publish(host)
    (listed,) = theirs.list(tenant_id="acme").deliveries

    found = theirs.get(endpoint.id, listed.id, tenant_id="acme")

    shown = acme.get(f"{endpoint.path}/deliveries/{format_id(listed.id, 'dlv')}").json
    assert found.delivery == listed
    assert found.body.decode() == shown["body"]
    assert found.url.reveal() == shown["request"]["url"]
    assert dict(found.headers) == {"X-Key": "hunter22"}
    assert [format_time(moment) for moment in found.planned] == shown["planned_attempts"]
    assert "hunter22" not in repr(found)
    assert found.attempts == []


def test_what_is_sent_again_is_due_if_and_only_if_the_host_commits(host, endpoint, theirs):
    publish(host)
    finish(host)
    (failed,) = theirs.list(tenant_id="acme").deliveries

    assert theirs.redeliver(endpoint.id, failed.id, tenant_id="acme").status == "PENDING"
    host.db.session.rollback()
    assert statuses(host) == {"FAILED": 1}
    recovered = theirs.recover(endpoint.id, tenant_id="acme", since=LONG_AGO)
    host.db.session.rollback()
    assert (recovered.count, recovered.more, statuses(host)) == (1, False, {"FAILED": 1})
    assert theirs.recover(endpoint.id, tenant_id="acme", since=LONG_AGO, dry_run=True).count == 1
    example = docs.example("docs/python-api.md", "recover")

    assert example.recover(host.webhooks, host.db.session, endpoint.id, "acme", LONG_AGO) == (1, False)
    assert statuses(host) == {"PENDING": 1}
    assert theirs.recover(endpoint.id, tenant_id="acme", since=LONG_AGO).count == 0
    host.db.session.rollback()


def test_errors_are_those_of_the_api(host, acme, globex, endpoint, theirs):
    foreign = create_endpoint(globex)
    publish(host)
    (listed,) = theirs.list(tenant_id="acme").deliveries
    for ep_id in (foreign.id, uuid4(), "1"):
        with pytest.raises(errors.UnknownEndpoint):
            theirs.list(tenant_id="acme", endpoint_id=ep_id)
        with pytest.raises(errors.UnknownEndpoint):
            theirs.get(ep_id, listed.id, tenant_id="acme")
        with pytest.raises(errors.UnknownEndpoint):
            theirs.redeliver(ep_id, listed.id, tenant_id="acme")
        with pytest.raises(errors.UnknownEndpoint):
            theirs.recover(ep_id, tenant_id="acme", since=LONG_AGO)
    for dlv_id in (uuid4(), "1"):
        with pytest.raises(errors.UnknownDelivery):
            theirs.get(endpoint.id, dlv_id, tenant_id="acme")
    with pytest.raises(errors.InvalidFields):
        theirs.recover(endpoint.id, tenant_id="acme", since=LONG_AGO, statuses=["DELIVERED"])
    with pytest.raises(TypeError):
        theirs.get(endpoint.id, 7, tenant_id="acme")
    host.db.session.rollback()
    acme.patch(endpoint.path, json={"status": "PAUSED"})
    with pytest.raises(errors.EndpointPaused):
        theirs.recover(endpoint.id, tenant_id="acme", since=LONG_AGO)


def test_only_the_hosts_code_decides_how_often(host, endpoint, theirs):
    publish(host)
    for _ in range(70):
        (listed,) = theirs.list(tenant_id="acme").deliveries
        theirs.redeliver(endpoint.id, listed.id, tenant_id="acme")
    host.db.session.commit()

    assert statuses(host) == {"PENDING": 1}
