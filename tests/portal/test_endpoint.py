"""The page of one endpoint."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core.endpoint_statistics import MOST_COUNTED
from flask_webhook_endpoints.database.models import PauseReason
from flask_webhook_endpoints.testing import drain
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import ENDPOINT, INCIDENT, execute, on_sqlite, statements_of
from tests.support.deliveries import finish, lease, publish
from tests.support.hosts import LOOPBACK
from tests.support.portal import PREFIX, person, press, with_portal
from tests.support.results import add_hour, hold

pytestmark = pytest.mark.host(make=with_portal, allowed_networks=LOOPBACK, retry_schedule=[0, 3600])


def show(app, endpoint, **query):
    return app.get(f"{PREFIX}/{endpoint.id}", query)


def figures(page):
    return {each.dt.text.strip(): each.dd.text.strip() for each in page.html.select(".whe-figures > div")}


def table(page, caption):
    found = page.html.find("caption", string=caption).parent
    return [[cell.text.strip() for cell in row.find_all(["th", "td"])] for row in found.tbody.find_all("tr")]


def pause_by_us(host, endpoint, reason, *, failing_since=None):
    paused = {"paused_at": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC), "pause_reason": reason}
    execute(host, sa.update(ENDPOINT).where(ENDPOINT.c.id == endpoint.uuid).values(paused))
    if failing_since:
        began = {"began_at": failing_since, "failing_since": failing_since, "last_failed_at": failing_since}
        numbers = {"balance": 1, "exhausted_in_a_row": 10, "last_error": "500"}
        execute(host, sa.insert(INCIDENT), {"endpoint_id": endpoint.uuid, "tenant_id": "acme", **began, **numbers})


def test_an_endpoint_that_nothing_was_sent_to_leads_to_a_test(ada, acme):
    page = show(ada, create_endpoint(acme))

    assert "Nothing was sent in this time." in page
    assert "No delivery waits for this endpoint." in page
    assert page.click("Send a test event").request.path.endswith("/test")


def test_an_endpoint_names_each_event_that_it_receives(ada, acme):
    events = [f"invoice.{number}" for number in range(5)]

    page = show(ada, create_endpoint(acme, event_types=events))

    assert [tag.text for tag in page.html.select(".whe-tags code")] == events


def test_a_receiver_that_is_gone_is_told_with_what_to_do(ada, acme, host):
    endpoint = create_endpoint(acme)
    pause_by_us(host, endpoint, PauseReason.GONE)

    page = show(ada, endpoint)

    assert "The receiver answered 410 Gone on 4 Mar 2026, 05:06:07 UTC" in page
    assert "Resume the endpoint once its receiver takes deliveries again." in page
    assert "is active" in press(page, "Resume").follow()


@pytest.mark.parametrize("since", [datetime(2026, 2, 3, tzinfo=UTC), None], ids=["since", "unknown"])
def test_an_endpoint_that_failed_for_days_is_told_with_what_to_do(ada, acme, host, since):
    endpoint = create_endpoint(acme)
    pause_by_us(host, endpoint, PauseReason.FAILURES, failing_since=since)

    page = show(ada, endpoint)

    assert ("No attempt has succeeded since 3 Feb 2026" in page) is (since is not None)
    assert "so we paused it on 4 Mar 2026, 05:06:07 UTC." in page
    state = page.html.select_one(".whe-state + .whe-note").text
    assert state == (
        "It had failed for days. 4 Mar 2026, 05:06:07 UTC"
        if since is None
        else "Failing since 3 Feb 2026, 00:00:00 UTC"
    )
    assert "a status from 200 to 299" in page


def test_a_paused_endpoint_says_what_resume_will_send(ada, acme, host):
    endpoint = create_endpoint(acme)
    change_endpoint(acme, endpoint, status="PAUSED")
    nothing = show(ada, endpoint)
    hold(host, endpoint, 1)
    one = show(ada, endpoint)
    hold(host, endpoint, 1_239)

    page = show(ada, endpoint)

    assert "Nothing is held at the moment." in nothing
    assert "Resume sends 1 held delivery." in one
    assert "Resume sends 1,240 held deliveries, 10 at once, the oldest first." in page
    assert figures(page)["Held"] == "1,240"
    assert "What is held for longer than 30 days expires." in page
    press(page, "Resume")
    assert figures(show(ada, endpoint))["Waiting"] == "1,240"


def test_what_waits_is_counted_to_a_limit(ada, acme, host):
    endpoint = create_endpoint(acme)
    change_endpoint(acme, endpoint, status="PAUSED")
    hold(host, endpoint, MOST_COUNTED + 1)

    page = show(ada, endpoint)

    assert figures(page)["Held"] == "10,000 or more"
    assert "Resume sends 10,000 or more held deliveries, 10 at once, the oldest first." in page


def test_the_backlog_tells_what_waits_and_what_is_in_flight(ada, acme, host, webhook_receiver):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(500)
    publish(host, 1)
    drain(host.app)
    retrying = show(ada, endpoint)
    lease(host, datetime.now(UTC) + timedelta(minutes=5))
    publish(host, 2)

    page = show(ada, endpoint)

    assert "This endpoint is failing" in retrying
    assert (figures(retrying)["Waiting"], figures(retrying)["In flight"]) == ("1", "0")
    assert {"Oldest", "Next retry"} <= set(figures(retrying))
    assert (figures(page)["Waiting"], figures(page)["In flight"]) == ("1", "1")


def test_results_of_each_window_have_a_chart_and_its_numbers(ada, acme, host):
    endpoint = create_endpoint(acme)
    for days_ago, delivered in enumerate((1, 10, 0, 0, 100)):
        add_hour(host, endpoint, delivered=delivered * 1_000, failed=delivered, hours_ago=days_ago * 24)
    day = show(ada, endpoint)

    shown = {days: day.click(f"^{days} days$") for days in (7, 30)}

    assert (figures(day)["Delivered"], figures(day)["Failed"], figures(day)["Success"]) == ("1,000", "1", "99.9 %")
    for days, page in shown.items():
        assert figures(page)["Delivered"] == "111,000"
        assert figures(page)["Median latency"] == "19 ms"
        rows = table(page, "Delivered and failed, the oldest first")
        assert len(rows) == days
        assert sum(int(row[1].replace(",", "")) for row in rows) == 111_000
        assert page.html.find("svg")["aria-label"] == "111,000 delivered, 111 failed."
        assert len(page.html.find_all("title")) == 1 + days
        assert [each.text for each in page.html.select("#results [aria-current]")] == [f"{days} days"]


@on_sqlite
@pytest.mark.parametrize("window", ["", "1h", "24h", "7d&window=30d", "<script>alert(1)</script>"])
def test_an_unknown_window_is_the_last_day(ada, acme, window):
    page = ada.get(f"{PREFIX}/{create_endpoint(acme).id}?window={window}")

    current = [each.text for each in page.html.select("#results [aria-current]")]
    assert current == ["7 days" if "7d" in window else "24 hours"]
    assert "<script>alert" not in page


def test_the_newest_deliveries_are_counted_by_result_and_event_type(ada, acme, host, webhook_receiver):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(200, 200, 500)
    publish(host, 1, 2, event_type="invoice.paid")
    drain(host.app)
    publish(host, 3, event_type="order.created")
    drain(host.app)

    page = show(ada, endpoint)

    assert table(page, "Deliveries by the last result") == [["200 OK", "2"], ["500 Internal Server Error", "1"]]
    rows = table(page, "Deliveries by event type")
    assert rows == [["invoice.paid", "2", "0", "0"], ["order.created", "0", "0", "1"]]
    assert "Of the last 3 deliveries" in page


def test_the_newest_failed_deliveries_are_listed_with_their_result_in_words(ada, acme, host, webhook_receiver):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(500)
    published = publish(host, *range(7))
    drain(host.app)
    finish(host)

    page = show(ada, endpoint)

    rows = table(page, "Failed deliveries, newest first")
    assert [row[:3] for row in rows] == [["invoice.paid", "500 Internal Server Error", "2"]] * 5
    assert published[-1] in page.click("^<code>invoice.paid</code>$", index=0)
    assert len(page.click("All failed deliveries").html.tbody.find_all("tr")) == 7


def test_without_statistics_the_rest_of_the_page_shows(database):
    host = with_portal(database, authorize=lambda action, ep_id: action != "read_stats")
    endpoint = create_endpoint(host.client(), description="Books invoices.")
    change_endpoint(host.client(), endpoint, status="PAUSED")

    page = show(person(host), endpoint)

    assert "It was paused on" in page
    assert "Books invoices." in page
    assert "Results" not in page
    assert "held deliver" not in page
    host.close()


def test_without_the_list_of_deliveries_none_is_shown(database):
    host = with_portal(database, authorize=lambda action, ep_id: action != "list_deliveries")
    endpoint = create_endpoint(host.client())
    publish(host, 1)
    finish(host)

    assert "Newest failed deliveries" not in show(person(host), endpoint)
    host.close()


def test_a_read_only_person_finds_no_button(database):
    may_write = True
    reading = {"list", "read", "read_stats", "list_deliveries", "read_delivery"}
    host = with_portal(database, authorize=lambda action, ep_id: may_write or action in reading)
    active, paused = (create_endpoint(host.client()) for _ in range(2))
    change_endpoint(host.client(), paused, status="PAUSED")
    may_write = False

    for endpoint in (active, paused):
        page = show(person(host), endpoint)
        assert page.html.find("form") is None
        assert page.html.find("a", string="Send a test event") is None
    host.close()


def test_hostile_text_is_shown_as_text(ada, acme, host):
    hostile = "</p><script>alert(1)</script>{{ 7 * 7 }}"
    endpoint = create_endpoint(acme, name=hostile, description=hostile)

    page = show(ada, endpoint)

    assert "<script>alert" not in page
    assert page.html.h1.bdi.text == hostile


def test_the_page_sends_no_more_statements_where_there_is_more_to_show(ada, acme, host):
    endpoint = create_endpoint(acme)
    sent = {}
    for number in (1, 25):
        add_hour(host, endpoint, delivered=1, hours_ago=number)
        publish(host, *range(number))
        finish(host)
        publish(host, *range(number))
        with statements_of(host) as statements:
            show(ada, endpoint)
        sent[number] = len([each for each, _ in statements if "webhook_" in each])

    assert sent[25] <= sent[1] <= 8
