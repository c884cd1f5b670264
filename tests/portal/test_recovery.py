"""Recovery: which deliveries, how many they are, and then all of them again."""

from datetime import UTC, datetime, timedelta

import pytest

from flask_webhook_endpoints.core import redelivery
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.portal import recovery
from flask_webhook_endpoints.state import set_clock
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import on_sqlite, statements_of
from tests.support.deliveries import finish, publish, statuses
from tests.support.portal import PREFIX, person, press, with_portal

pytestmark = pytest.mark.host(make=with_portal)

ALL = "since=2000-01-01T00:00&status=FAILED&status=EXPIRED"


def refusing(*refused):
    return lambda action, ep_id: action not in refused


def path_of(endpoint, query=""):
    return f"{PREFIX}/{endpoint.id}/recover{query and '?'}{query}"


def words(page):
    return " ".join(page.html.text.split())


@pytest.fixture
def endpoint(host, acme):
    """An endpoint with three deliveries that failed, one that expired and one that is pending."""
    endpoint = create_endpoint(acme)
    publish(host, 1, 2, event_type="invoice.paid")
    publish(host, event_type="order.paid")
    finish(host, DeliveryStatus.FAILED)
    publish(host)
    finish(host, DeliveryStatus.EXPIRED)
    publish(host)
    return endpoint


def test_a_person_chooses_counts_and_confirms(host, ada, endpoint):
    form = ada.get(f"{PREFIX}/{endpoint.id}/deliveries").click("Recover").forms[0]
    assert form["since"].value[:10] == (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    assert [box.checked for box in form.fields["status"]] == [True, True]

    counted = form.submit()

    assert "4 deliveries will be sent again" in words(counted)
    assert statuses(host) == {"FAILED": 3, "EXPIRED": 1, "PENDING": 1}
    page = press(counted, "Send 4 deliveries again").follow()
    assert "4 deliveries are sent again." in page
    assert page.request.path.endswith("/deliveries")
    assert statuses(host) == {"PENDING": 5}


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("since=2000-01-01T00:00&status=FAILED", "3 deliveries will"),
        ("since=2000-01-01T00:00&status=EXPIRED", "1 delivery will"),
        (f"{ALL}&event_type=order.*", "1 delivery will"),
        (f"{ALL}&until=2000-01-02T00:00:00Z", "There is nothing to send again"),
    ],
)
def test_what_is_counted_is_what_was_chosen(ada, endpoint, query, number):
    assert number in words(ada.get(path_of(endpoint, query)))


def test_the_confirmation_sends_what_was_chosen(host, ada, endpoint):
    press(ada.get(path_of(endpoint, f"{ALL}&event_type=invoice.*&status=FAILED")), "Send 3 deliveries again")

    assert statuses(host) == {"FAILED": 1, "PENDING": 4}


def test_a_double_click_recovers_once(host, ada, endpoint, monkeypatch):
    page = ada.get(path_of(endpoint, ALL))

    first, second = press(page, "Send 4"), press(page, "Send 4")

    assert (first.status_int, first.location) == (303, second.location)
    assert "4 deliveries are sent again" in words(second.follow())


def test_more_than_one_request_may_recover_are_told_and_sent_by_the_next(host, ada, endpoint, monkeypatch):
    monkeypatch.setattr(redelivery, "MAX_RECOVERED", 3)
    monkeypatch.setattr(recovery, "MAX_RECOVERED", 3)
    with statements_of(host) as sent:
        page = ada.get(path_of(endpoint, ALL))
    assert "3 deliveries will be sent again The oldest 3 are sent at once." in words(page)
    # The page reads no more than it tells.
    assert " LIMIT " in next(statement for statement, _ in sent if "webhook_undelivered" in statement)

    page = press(page, "Send 3 deliveries again").follow()

    assert "More deliveries are left." in page
    press(page, "Send 1 delivery again")
    assert statuses(host) == {"PENDING": 5}


@on_sqlite
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=&status=FAILED", "since"),
        ("since=yesterday&status=FAILED", "since"),
        ("since=2026-01-02T00:00&until=2026-01-01T00:00&status=FAILED", "until"),
        ("since=2026-01-02T00:00&since=2026-01-03T00:00&status=FAILED", "since"),
        ("since=2026-01-02T00:00", "status"),
        ("since=2026-01-02T00:00&status=DELIVERED", "status"),
        ("since=2026-01-02T00:00&status=FAILED&status=%3Cscript%3E", "status"),
        ("since=2026-01-02T00:00&status=FAILED&event_type=%00", "event_type"),
    ],
)
def test_a_choice_that_cant_be_read_is_told_beside_its_field(host, ada, endpoint, query, field):
    asked = ada.get(path_of(endpoint, query), status=422)
    confirmed = ada.post(path_of(endpoint), query, status=422)

    for page in (asked, confirmed):
        assert page.html.find(id=f"whe-{field}-fault") is not None
        assert page.html.find(id="whe-errors").a["href"] == f"#whe-{field}"
        assert page.html.find(id=f"whe-{field}") is not None
        assert "will be sent again" not in page
    assert statuses(host) == {"FAILED": 3, "EXPIRED": 1, "PENDING": 1}


def test_a_paused_endpoint_says_that_it_must_be_resumed_first(host, ada, acme, endpoint):
    page = ada.get(path_of(endpoint, ALL))
    change_endpoint(acme, endpoint, status="PAUSED")

    late = press(page, "Send 4", status=409)

    assert "the endpoint is paused" in late.html.find(id="whe-errors").text
    for paused in (late, ada.get(path_of(endpoint)), ada.get(path_of(endpoint, ALL))):
        assert "Nothing can be sent again while the endpoint is paused" in paused
        assert not paused.html.find_all("button")


@pytest.mark.host(make=with_portal, max_redeliveries_per_minute=1)
def test_the_limit_of_a_minute_is_told(host, ada, acme):
    set_clock(host.app, lambda: datetime(2030, 1, 1, 12, 0, 20, tzinfo=UTC))
    endpoint = create_endpoint(acme)
    publish(host)
    finish(host)
    page = ada.get(path_of(endpoint, ALL))
    press(page, "Send 1")
    finish(host)

    refused = press(ada.get(path_of(endpoint, ALL)), "Send 1", status=429)

    assert "Try again in 40 seconds." in refused
    assert refused.headers["Retry-After"] == "40"


def test_another_tenants_endpoint_is_answered_as_one_that_is_not_there(host, hank, endpoint):
    unknown = hank.get(f"{PREFIX}/ep_x/recover?{ALL}", status=404).text

    assert hank.get(path_of(endpoint, ALL), status=404).text == unknown
    assert hank.post(path_of(endpoint), ALL, status=404).text == unknown
    assert statuses(host) == {"FAILED": 3, "EXPIRED": 1, "PENDING": 1}


def test_authorize_refuses_recovery(database):
    host = with_portal(database, authorize=refusing("recover"))
    endpoint = create_endpoint(host.client())
    browser = person(host)

    assert browser.get(path_of(endpoint, ALL), status=403).status_int == 403
    assert browser.post(path_of(endpoint), ALL, status=403).status_int == 403
    host.close()


def test_a_page_takes_the_same_statements_whatever_is_counted(host, ada, acme):
    endpoint = create_endpoint(acme)
    ada.get(path_of(endpoint, ALL))

    with statements_of(host) as none:
        ada.get(path_of(endpoint, ALL))
    publish(host, *range(40))
    finish(host)
    with statements_of(host) as many:
        ada.get(path_of(endpoint, ALL))

    assert len(none) == len(many) == 3
