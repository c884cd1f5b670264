"""The list of endpoints."""

import pytest
from flask import redirect
from werkzeug.exceptions import HTTPException

from flask_webhook_endpoints.core.endpoint_statistics import MOST_LISTED
from flask_webhook_endpoints.testing import drain
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import on_sqlite, statements_of
from tests.support.deliveries import publish
from tests.support.hosts import LOOPBACK
from tests.support.portal import PREFIX, person, press, with_portal
from tests.support.results import add_hour, hold

pytestmark = pytest.mark.host(make=with_portal, allowed_networks=LOOPBACK)


def names(page):
    return [row.bdi.text for row in page.html.find_all("th", scope="row")]


def test_a_tenant_without_endpoints_sees_three_steps(ada):
    assert len(ada.get(f"{PREFIX}/").html.find("ol").find_all("li")) == 3


def test_a_tenant_sees_its_endpoints_alone(ada, acme, globex):
    create_endpoint(acme, name="ours")
    create_endpoint(globex, name="theirs")

    page = ada.get(f"{PREFIX}/")

    assert names(page) == ["ours"]
    assert "1 of 100" in page


def test_pages_follow_each_other_without_a_gap(ada, acme):
    for number in range(26):
        create_endpoint(acme, name=f"n{number}")
    first = ada.get(f"{PREFIX}/")

    second = first.click("Next page")

    assert names(first) + names(second) == [f"n{number}" for number in range(26)]
    assert names(second.click("First page")) == names(first)


def test_an_endpoint_is_paused_and_resumed_from_the_list(ada, acme):
    endpoint = create_endpoint(acme)

    paused = press(ada.get(f"{PREFIX}/"), "Pause").follow()

    assert "is paused" in paused
    assert acme.get(endpoint.path).get_json()["status"] == "PAUSED"
    assert "is active" in press(paused, "Resume").follow()
    assert acme.get(endpoint.path).get_json()["status"] == "ACTIVE"


def test_the_search_finds_names_and_urls(ada, acme):
    create_endpoint(acme, name="Orders 100%")
    create_endpoint(acme, "https://example.com/invoices", name="two")
    form = ada.get(f"{PREFIX}/").forms[0]

    form["q"] = "0%"
    by_name = form.submit()
    form["q"] = "INVOICES"
    by_url = form.submit()

    assert names(by_name) == ["Orders 100%"]
    assert by_name.forms[0]["q"].value == "0%"
    assert names(by_url) == ["two"]
    assert len(names(by_url.click("Show all"))) == 2


def test_the_state_chooses_endpoints(ada, acme, host, webhook_receiver):
    active, paused, failing = (create_endpoint(acme, webhook_receiver.url, name=name) for name in "apf")
    change_endpoint(acme, paused, status="PAUSED")
    change_endpoint(acme, active, event_types=["other"])
    webhook_receiver.answer(500)
    publish(host)
    drain(host.app)

    form = ada.get(f"{PREFIX}/").forms[0]
    found = {}
    for state in ("", "active", "paused", "failing"):
        form["state"] = state
        page = form.submit()
        found[state] = "".join(names(page))
        assert page.forms[0]["state"].value == state

    assert found == {"": "apf", "active": "af", "paused": "p", "failing": "f"}
    assert failing["name"] in found["failing"]


@on_sqlite
@pytest.mark.parametrize(
    "query",
    ["state=nonsense", "state=active&state=paused", "after=nonsense", "q=", "q=%20%09", "state=", "x=1", "q=o&x=<b>"],
)
def test_an_unknown_parameter_or_value_is_ignored(ada, acme, query):
    create_endpoint(acme)

    assert names(ada.get(f"{PREFIX}/?{query}")) == ["orders"]


@pytest.mark.parametrize("search", ["nothing", "%00", "%ff%fe", "x" * 5_000, "<script>alert(1)</script>", "%25", "_"])
def test_a_search_that_finds_nothing_leads_back_to_all(ada, acme, search):
    create_endpoint(acme)

    page = ada.get(f"{PREFIX}/?q={search}")

    assert "No endpoint matches" in page
    assert "<script>alert" not in page
    assert names(page.click("Show all endpoints")) == ["orders"]


def test_pages_and_buttons_keep_the_choice(ada, acme):
    for number in range(27):
        create_endpoint(acme, name=f"n{number}")
    create_endpoint(acme, name="other")
    first = ada.get(f"{PREFIX}/?q=n&state=active")

    second = first.click("Next page")
    paused = press(second, "Pause").follow()

    assert names(second) == ["n25", "n26"]
    assert names(paused) == ["n26"]
    assert names(paused.click("First page")) == names(first)


def test_a_page_after_the_last_endpoint_leads_back(ada, acme):
    last = create_endpoint(acme)

    page = ada.get(f"{PREFIX}/?after={last.id}")

    assert names(page.click("Show all endpoints")) == ["orders"]


def test_each_endpoint_has_its_last_day(ada, acme, host):
    busy, idle = create_endpoint(acme, name="busy"), create_endpoint(acme, name="idle")
    add_hour(host, busy, delivered=1_999, failed=1)
    add_hour(host, busy, delivered=10, hours_ago=23)
    add_hour(host, busy, failed=500, hours_ago=25)
    change_endpoint(acme, idle, status="PAUSED")
    hold(host, idle, 3)

    page = ada.get(f"{PREFIX}/").html

    one, other = (page.find(id=each.id) for each in (busy, idle))
    assert one.svg["aria-label"] == "In the last 24 hours: 2,009 delivered, 1 failed."
    assert one.find("path", class_="whe-delivered")["d"].count("M") == 2
    assert one.find("path", class_="whe-failed")["d"].count("M") == 1
    assert "99.9 % delivered" in one.text
    assert "held" not in one.text
    assert other.svg["aria-label"] == "In the last 24 hours: 0 delivered, 0 failed."
    assert "Nothing sent" in other.text
    assert "3 held" in other.text


def test_an_endpoint_that_only_waits_is_not_one_that_nothing_was_sent_to(ada, acme, host):
    endpoint = create_endpoint(acme)
    publish(host)

    assert "No result yet" in ada.get(f"{PREFIX}/").html.find(id=endpoint.id).text


def test_what_is_held_is_counted_to_a_limit(ada, acme, host):
    endpoint = create_endpoint(acme)
    change_endpoint(acme, endpoint, status="PAUSED")
    hold(host, endpoint, MOST_LISTED + 1)

    assert f"{MOST_LISTED} or more held" in ada.get(f"{PREFIX}/")


def test_statistics_show_only_for_endpoints_where_the_host_allows_to_read_them(database):
    allowed = []
    host = with_portal(database, authorize=lambda action, ep_id: action != "read_stats" or ep_id in allowed)
    one, other = (create_endpoint(host.client(), name=name) for name in ("one", "other"))

    without = person(host).get(f"{PREFIX}/").html
    allowed.append(one.id)
    page = person(host).get(f"{PREFIX}/").html

    assert without.svg is None
    assert "Last 24 hours" not in without.text
    assert page.find(id=one.id).svg is not None
    assert page.find(id=other.id).svg is None
    assert [len(row.find_all(["th", "td"])) for row in page.table.find_all("tr")] == [5, 5, 5]
    host.close()


def test_a_host_that_asks_for_a_login_first_has_not_allowed_statistics(database):
    def authorize(action, ep_id):
        if action == "read_stats":
            raise HTTPException(response=redirect("/login"))
        return True

    host = with_portal(database, authorize=authorize)
    create_endpoint(host.client())

    assert person(host).get(f"{PREFIX}/").html.svg is None
    host.close()


def test_a_page_of_many_endpoints_sends_as_few_statements_as_one_of_one(ada, acme, host):
    sent = {}
    for number in (1, 25):
        while len(names(ada.get(f"{PREFIX}/"))) < number:
            add_hour(host, create_endpoint(acme), delivered=1)
        with statements_of(host) as statements:
            ada.get(f"{PREFIX}/")
        sent[number] = len([each for each, _ in statements if "webhook_" in each])

    assert sent == {1: 4, 25: 4}


def test_links_lead_to_the_endpoint_and_to_its_test(ada, acme):
    endpoint = create_endpoint(acme)
    page = ada.get(f"{PREFIX}/")

    assert page.click("^Open").request.path == f"{PREFIX}/{endpoint.id}"
    assert page.click("^Test").request.path == f"{PREFIX}/{endpoint.id}/test"


@pytest.mark.parametrize(("action", "label"), [("read", "Open"), ("ping", "Test"), ("update", "Pause")])
def test_what_the_host_refuses_is_not_offered(database, action, label):
    host = with_portal(database, authorize=lambda asked, ep_id: asked != action)
    create_endpoint(host.client())

    offered = person(host).get(f"{PREFIX}/").html.find("td", class_=None, attrs={"data-label": None})

    assert label not in offered.text
    assert len(offered.find_all(["a", "button"])) == 2
    host.close()
