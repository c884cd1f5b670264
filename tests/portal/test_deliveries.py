"""The lists of deliveries: filters, pages, and the button that sends the ticked ones again."""

from datetime import UTC, datetime, timedelta
from time import process_time
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import delivery_lists
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.portal import deliveries as lists
from flask_webhook_endpoints.state import set_clock
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import REDELIVERY_COUNT, count, engine_of, on_sqlite, rows, statements_of
from tests.support.deliveries import finish, lease, publish, statuses
from tests.support.portal import PREFIX, person, with_portal

pytestmark = pytest.mark.host(make=with_portal, allowed_networks=hosts.LOOPBACK, retry_schedule=[0, 60])

NO_EVENT = "evt_00000000-0000-7000-8000-000000000000"
NO_DELIVERY = "dlv_00000000-0000-7000-8000-000000000000"
PER_MINUTE = 3


def refusing(*refused):
    return lambda action, ep_id: action not in refused


def path_of(endpoint, query=""):
    return f"{PREFIX}/{endpoint.id}/deliveries{query}"


def shown(page):
    """Return the event types of a page's table, in its order."""
    return [row.find("th", scope="row").text.strip() for row in page.html.select("tbody tr")]


def cells(page, label):
    return [" ".join(cell.text.split()) for cell in page.html.find_all("td", attrs={"data-label": label})]


def boxes(page):
    return [box["value"] for box in page.html.find_all("input", attrs={"name": "delivery"})]


def list_form(page):
    return next(form for form in page.forms.values() if form.method.upper() == "POST")


def tick(page, *ids):
    """Return the form of the list in which these deliveries are ticked."""
    form = list_form(page)
    for box in form.fields["delivery"]:
        box.checked = box._value in ids
    return form


def faults(page):
    return [fault.text.strip() for fault in page.html.find_all(class_="whe-fault")]


def flashed(page):
    return [message.text for message in page.html.find_all(class_="whe-flash")]


def ids_of(client, endpoint):
    return [each["id"] for each in client.get(f"{endpoint.path}/deliveries").get_json()]


def test_a_list_tells_of_each_delivery_in_words(host, ada, acme, webhook_receiver, drain_webhooks):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(200, 500)
    publish(host, event_type="first")
    drain_webhooks()
    publish(host, event_type="second")
    drain_webhooks()
    change_endpoint(acme, endpoint, url="http://127.0.0.1:1025/")
    publish(host, event_type="third")
    drain_webhooks()

    page = ada.get(f"{PREFIX}/{endpoint.id}").click("Deliveries", index=1)

    assert shown(page) == ["third", "second", "first"]
    assert cells(page, "State") == ["Pending", "Pending", "Delivered"]
    assert cells(page, "Last result") == ["No connection", "500 Internal Server Error", "200 OK"]
    assert cells(page, "Attempts") == ["1", "1", "1"]
    assert cells(page, "Next attempt")[2] == "None"
    assert page.click("second").status_int == 200


def test_a_held_delivery_says_so_and_a_paused_endpoint_says_why_nothing_is_sent_again(host, ada, acme):
    endpoint = create_endpoint(acme)
    change_endpoint(acme, endpoint, status="PAUSED")
    publish(host)

    page = ada.get(path_of(endpoint))

    assert (cells(page, "State"), cells(page, "Next attempt")) == (["Held"], ["When resumed"])
    assert "Nothing can be sent again while the endpoint is paused" in page
    assert boxes(page) == []
    assert "Recover" not in page
    assert page.click("Go to the endpoint to resume it").status_int == 200


def test_an_endpoint_without_deliveries_says_what_will_be_here(ada, acme):
    assert "No deliveries yet" in ada.get(path_of(create_endpoint(acme)))


@pytest.fixture
def endpoint(host, acme, webhook_clock):
    """An endpoint with three deliveries, a second apart: one failed, one is pending, one is in flight."""
    endpoint = create_endpoint(acme, event_types=["invoice.*", "order.paid"])
    publish(host, event_type="invoice.paid")
    finish(host, DeliveryStatus.FAILED)
    webhook_clock.move(seconds=1)
    publish(host, event_type="order.paid")
    lease(host, datetime(2100, 1, 1, tzinfo=UTC))
    webhook_clock.move(seconds=1)
    publish(host, event_type="invoice.voided")
    return endpoint


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["invoice.voided", "order.paid", "invoice.paid"]),
        ("?status=&event_type=&since=&until=&id=", ["invoice.voided", "order.paid", "invoice.paid"]),
        ("?status=FAILED", ["invoice.paid"]),
        ("?status=PENDING", ["invoice.voided", "order.paid"]),
        ("?status=HELD", []),
        ("?event_type=invoice.*", ["invoice.voided", "invoice.paid"]),
        ("?event_type=%20invoice.paid%20", ["invoice.paid"]),
        ("?event_type=invoice.*&status=FAILED", ["invoice.paid"]),
        ("?since=2000-01-01T00:00", ["invoice.voided", "order.paid", "invoice.paid"]),
        ("?since=0001-01-01T00:00&until=9999-12-31T23:59:59.999", ["invoice.voided", "order.paid", "invoice.paid"]),
        ("?until=2000-01-01T00:00:00%2B01:00", []),
        (f"?id={NO_EVENT}", []),
        (f"?id={NO_DELIVERY}", []),
    ],
)
def test_filters_choose_deliveries(ada, endpoint, query, found):
    page = ada.get(path_of(endpoint, query))

    assert shown(page) == found
    assert ("No delivery matches these filters." in page) is (not found)


def test_a_time_is_read_as_utc_and_a_pasted_id_finds_one(ada, acme, endpoint):
    deliveries = acme.get(f"{endpoint.path}/deliveries").get_json()
    at = deliveries[1]["created_at"]
    local = datetime.fromisoformat(at).replace(microsecond=0, tzinfo=None).isoformat()

    assert shown(ada.get(path_of(endpoint, f"?since={quote(at)}"))) == ["invoice.voided", "order.paid"]
    assert shown(ada.get(path_of(endpoint, f"?since={local}"))) == ["invoice.voided", "order.paid"]
    assert shown(ada.get(path_of(endpoint, f"?until={quote(at)}"))) == ["invoice.paid"]
    assert shown(ada.get(path_of(endpoint, f"?id={deliveries[1]['id']}"))) == ["order.paid"]
    assert shown(ada.get(path_of(endpoint, f"?id={deliveries[1]['event_id']}"))) == ["order.paid"]


def test_the_form_filters_and_keeps_what_was_typed(ada, endpoint):
    form = ada.get(path_of(endpoint)).forms[0]
    form["status"], form["event_type"], form["since"] = "FAILED", "invoice.*", "2020-02-29T08:05"

    page = form.submit()

    assert shown(page) == ["invoice.paid"]
    kept = page.forms[0]
    assert (kept["status"].value, kept["event_type"].value, kept["since"].value) == (
        "FAILED", "invoice.*", "2020-02-29T08:05",
    )  # fmt: skip
    assert len(shown(page.click("Clear"))) == 3


BROKEN = {
    "status": ("status=SENT", "No such state."),
    "event_type": ("event_type=invoice.p*", "Not an event type."),
    "event_type-long": (f"event_type={'x' * 129}", "Not an event type."),
    "event_type-nul": ("event_type=a%00b", "Not an event type."),
    "since": ("since=yesterday", "Not a time."),
    "since-day": ("since=2026-02-30T00:00", "Not a time."),
    "since-year": ("since=275760-09-13T00:00", "Not a time."),
    "until": ("until=2026-01-01", "Not a time."),
    "until-before": ("since=2026-01-02T00:00&until=2026-01-01T00:00", "The end must be later"),
    "id": ("id=ep_00000000-0000-7000-8000-000000000000", "Not an id of a delivery or an event."),
    "id-markup": ("id=%3Cscript%3Ealert(1)%3C/script%3E%E2%80%AE", "Not an id of a delivery or an event."),
    "status-twice": ("status=FAILED&status=HELD", "Choose one value"),
}


@on_sqlite
@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("of_all", [False, True], ids=["endpoint", "all"])
def test_a_filter_that_cant_be_read_is_told_and_nothing_is_shown_instead(ada, endpoint, name, of_all):
    query, message = BROKEN[name]
    path = f"{PREFIX}/deliveries" if of_all else path_of(endpoint)

    page = ada.get(f"{path}?{query}", status=422)

    field = name.partition("-")[0]
    assert message in faults(page)[0]
    assert page.html.find(id=f"whe-{field}")["aria-describedby"] == page.html.find(class_="whe-fault")["id"]
    assert page.html.find(id="whe-errors").a["href"] == f"#whe-{field}"
    assert shown(page) == []
    assert "<script>alert" not in page


def test_what_is_no_time_stays_in_its_field(ada, endpoint):
    page = ada.get(path_of(endpoint, "?since=yesterday&until=2026-01-31T08:00:30%2B01:00"), status=422)

    assert page.forms[0]["since"].value == "yesterday"
    assert page.html.find(id="whe-since")["type"] == "text"
    assert page.forms[0]["until"].value == "2026-01-31T07:00:30"
    assert page.html.find(id="whe-until")["type"] == "datetime-local"


@pytest.mark.parametrize("cursor", ["after=x", "after=ep_1", f"after={NO_DELIVERY}&after={NO_DELIVERY}"])
def test_a_broken_cursor_is_told(ada, endpoint, cursor):
    page = ada.get(path_of(endpoint, f"?{cursor}"), status=422)

    assert shown(page) == []
    assert len(shown(page.click("First page"))) == 3


def test_pages_follow_each_other_and_keep_the_filters(host, ada, acme, monkeypatch):
    monkeypatch.setattr(lists, "_ON_PAGE", 2)
    endpoint = create_endpoint(acme)
    for number in range(5):
        publish(host, event_type=f"n.{number}")
    first = ada.get(path_of(endpoint, "?event_type=n.*&status=PENDING"))

    second = first.click("Next page")
    third = second.click("Next page")

    assert shown(first) + shown(second) + shown(third) == ["n.4", "n.3", "n.2", "n.1", "n.0"]
    assert shown(third.click("First page")) == ["n.4", "n.3"]
    assert "Next page" not in third


def test_an_empty_page_with_more_to_come_says_so(host, ada, acme, monkeypatch):
    monkeypatch.setattr(delivery_lists, "SCANNED", 2)
    monkeypatch.setattr(lists, "_ON_PAGE", 1)
    endpoint = create_endpoint(acme)
    publish(host, event_type="wanted")
    for _ in range(3):
        publish(host, event_type="other")

    page = ada.get(path_of(endpoint, "?event_type=wanted"))

    assert "Nothing among the last 2 deliveries; look further." in page
    assert shown(page.click("Look further", index=0)) == ["wanted"]


def test_a_list_of_all_endpoints_names_them(host, ada, acme, globex):
    create_endpoint(acme, name="orders", event_types=["a"])
    create_endpoint(acme, name="<b>crm</b>", event_types=["b"])
    create_endpoint(globex, name="theirs")
    publish(host, event_type="a")
    publish(host, event_type="b")
    publish(host, event_type="c", tenant_id="globex")

    page = ada.get(f"{PREFIX}/").click("Deliveries", index=0)

    assert shown(page) == ["b", "a"]
    assert cells(page, "Endpoint") == ["<b>crm</b>", "orders"]
    assert "theirs" not in page
    assert page.click("b").status_int == 200


@pytest.mark.parametrize("kind", ["event_id", "id"])
def test_ids_of_another_tenant_find_nothing(host, ada, acme, globex, kind):
    ours, theirs = create_endpoint(acme), create_endpoint(globex)
    publish(host, tenant_id="globex")
    (foreign,) = globex.get(f"{theirs.path}/deliveries").get_json()

    assert shown(ada.get(f"{PREFIX}/deliveries?id={foreign[kind]}")) == []
    assert shown(ada.get(path_of(ours, f"?id={foreign[kind]}"))) == []
    assert ada.get(path_of(theirs), status=404).text == ada.get(f"{PREFIX}/ep_x/deliveries", status=404).text


def test_ticked_deliveries_are_sent_again_and_those_in_flight_are_told(host, ada, acme, endpoint):
    pending, in_flight, failed = ids_of(acme, endpoint)
    page = ada.get(path_of(endpoint))
    assert boxes(page) == [pending, failed]
    form = tick(page, pending, failed)
    form.fields["delivery"][0].force_value(in_flight)

    answer = form.submit()

    assert answer.status_int == 303
    assert flashed(answer.follow()) == [
        "1 delivery is sent again.",
        "1 delivery was not sent again: an attempt of it is under way.",
    ]
    assert statuses(host) == {"PENDING": 3}


def test_a_double_click_sends_once_and_counts_once(host, ada, acme, endpoint):
    form = tick(ada.get(path_of(endpoint)), *ids_of(acme, endpoint))

    first, second = form.submit(), form.submit()

    assert first.location == second.location
    assert rows(host, sa.select(REDELIVERY_COUNT.c.redeliveries)) == [(2,)]


def test_the_list_comes_back_with_its_filters(ada, acme, endpoint):
    page = ada.get(path_of(endpoint, "?event_type=invoice.*"))

    answer = tick(page, *ids_of(acme, endpoint)).submit()

    assert answer.location.endswith(path_of(endpoint, "?event_type=invoice.*"))


def test_other_values_with_the_same_form_are_told_and_can_be_sent(ada, acme, endpoint):
    pending, _, failed = ids_of(acme, endpoint)
    page = ada.get(path_of(endpoint))
    tick(page, pending).submit()

    refused = tick(page, failed).submit(status=422)

    assert "this page was used before" in refused.html.find(id="whe-errors").text
    assert flashed(tick(refused, failed).submit().follow())[-1] == "1 delivery is sent again."


def test_foreign_and_unknown_ids_are_not_found_and_nothing_of_theirs_is_sent(host, ada, acme, globex, endpoint):
    other, theirs = create_endpoint(acme, event_types=["other"]), create_endpoint(globex)
    publish(host, event_type="other")
    publish(host, tenant_id="globex")
    foreign = [*ids_of(acme, other), *ids_of(globex, theirs), NO_DELIVERY]
    finish(host, DeliveryStatus.FAILED)
    (_, _, ours) = ids_of(acme, endpoint)
    form = tick(ada.get(path_of(endpoint)), ours)
    values = [*((name, value) for name, value in form.submit_fields()), *(("delivery", each) for each in foreign)]

    page = ada.post(form.action, values).follow()

    assert flashed(page) == [
        "1 delivery is sent again.",
        "3 deliveries were not sent again: this endpoint has no such deliveries.",
    ]
    assert statuses(host) == {"PENDING": 1, "FAILED": 4}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "tick the deliveries"),
        (["<script>alert(1)</script>"], "is no id of a delivery"),
        ([NO_DELIVERY, "x\x00"], "is no id of a delivery"),
        ([f"dlv_00000000-0000-7000-8000-{number:012}" for number in range(5000)], "more than 50 deliveries were"),
    ],
    ids=["none", "markup", "nul", "5000"],
)
def test_what_cant_be_sent_is_told_above_the_list(host, ada, endpoint, ids, message):
    with statements_of(host) as statements:
        page = ada.post(path_of(endpoint), [("delivery", each) for each in ids], status=422)

    assert message in page.html.find(id="whe-errors").text
    assert len(shown(page)) == 3
    assert not [each for each, _ in statements if each.startswith(("UPDATE", "INSERT"))]


def test_ticks_are_kept_where_the_endpoint_was_paused_meanwhile(ada, acme, endpoint):
    form = tick(ada.get(path_of(endpoint)), *ids_of(acme, endpoint))
    change_endpoint(acme, endpoint, status="PAUSED")

    page = form.submit(status=409)

    assert "the endpoint is paused" in page.html.find(id="whe-errors").text


@pytest.mark.host(make=with_portal, max_redeliveries_per_minute=PER_MINUTE)
def test_each_ticked_delivery_counts_in_the_limit_of_a_minute(host, ada, acme):
    set_clock(host.app, lambda: datetime(2030, 1, 1, 12, 0, 20, tzinfo=UTC))
    endpoint = create_endpoint(acme)
    publish(host, *range(5))
    ids = ids_of(acme, endpoint)
    tick(ada.get(path_of(endpoint)), *ids[:2]).submit()
    # There is room for one, so that all are sent.
    tick(ada.get(path_of(endpoint)), *ids).submit()

    page = tick(ada.get(path_of(endpoint)), ids[0]).submit(status=429)

    assert "3 a minute is the limit of redeliveries. Try again in 40 seconds." in page
    assert page.headers["Retry-After"] == "40"
    assert tick(page, ids[0]).fields["delivery"][0].checked
    assert rows(host, sa.select(REDELIVERY_COUNT.c.redeliveries)) == [(7,)]


@pytest.mark.parametrize("number", [1, 50])
def test_a_page_and_a_redelivery_take_the_same_statements_whatever_their_number(host, ada, acme, number):
    for name in ("a", "b", "c"):
        create_endpoint(acme, name=name)
    endpoint = create_endpoint(acme)
    publish(host, *range(number))
    finish(host, DeliveryStatus.FAILED)
    ada.get(path_of(endpoint))

    with statements_of(host) as of_list:
        page = ada.get(path_of(endpoint))
    with statements_of(host) as of_all:
        ada.get(f"{PREFIX}/deliveries")
    form = tick(page, *ids_of(acme, endpoint))
    with statements_of(host) as of_form:
        form.submit()

    # MariaDB reads first which of them are among the undelivered.
    asks = int(engine_of(host).dialect.name == "mysql")
    assert (len(shown(page)), len(of_list), len(of_form)) == (number, 3, STATEMENTS_OF_FORM + asks)
    # PostgreSQL merges the lists of the endpoints: their number, and the ids.
    assert len(of_all) <= (5 if engine_of(host).dialect.name == "postgresql" else 3)


STATEMENTS_OF_FORM = 11


@pytest.mark.parametrize(
    ("action", "path"),
    [("list_deliveries", "deliveries"), ("list_deliveries", "{ep_id}/deliveries")],
)
def test_authorize_refuses_the_lists_and_hides_the_way_there(database, action, path):
    host = with_portal(database, authorize=refusing(action))
    endpoint = create_endpoint(host.client())
    browser = person(host)

    answer = browser.get(f"{PREFIX}/{path.format(ep_id=endpoint.id)}", status=403)

    assert "You may not do this." in answer
    assert not browser.get(f"{PREFIX}/{endpoint.id}").html.find_all("a", string="Deliveries")
    host.close()


def test_who_only_reads_finds_no_button(database):
    host = with_portal(database, authorize=refusing("redeliver", "recover", "read_delivery", "list_event_types"))
    host.webhooks.event_type("invoice.paid")
    endpoint = create_endpoint(host.client())
    publish(host)
    browser = person(host)

    page, of_all = browser.get(path_of(endpoint)), browser.get(f"{PREFIX}/deliveries")

    assert boxes(page) == []
    assert [form.method.upper() for form in page.forms.values()] == ["GET"]
    assert "Recover" not in page
    assert not [a for a in (*page.html.find_all("a"), *of_all.html.find_all("a")) if "dlv_" in a["href"]]
    assert page.html.find("datalist") is None
    assert browser.post(path_of(endpoint), status=403).status_int == 403
    host.close()


def test_declared_events_are_proposed(database):
    host = with_portal(database)
    host.webhooks.event_type("invoice.paid")
    endpoint = create_endpoint(host.client())

    options = person(host).get(path_of(endpoint)).html.find("datalist").find_all("option")

    assert {"invoice.paid", "invoice.*"} <= {option["value"] for option in options}
    host.close()


def test_nothing_is_counted_of_a_refused_form(host, ada, endpoint):
    ada.post(path_of(endpoint), [("delivery", "x")], status=422)

    assert count(host, REDELIVERY_COUNT) == 0


@pytest.mark.slow
def test_a_full_page_takes_less_than_50_ms_of_cpu(host, ada, acme):
    endpoint = create_endpoint(acme)
    publish(host, *range(60), event_type="x" * 128)
    ada.get(path_of(endpoint))

    begun = process_time()
    for _ in range(10):
        host.app.test_client().get(path_of(endpoint), headers={"X-Tenant": "acme"})
    each = timedelta(seconds=(process_time() - begun) / 10)

    assert each < timedelta(milliseconds=50), each
