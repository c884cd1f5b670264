"""The test of an endpoint: one event for it alone, and receivers to copy."""

import json
import re

import pytest

from flask_webhook_endpoints.portal import snippets
from tests.support import docs
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import on_sqlite
from tests.support.portal import PREFIX, person, with_portal

pytestmark = [on_sqlite, pytest.mark.host(make=with_portal)]

EXAMPLE = {"id": 7, "note": "<b>é</b>"}


@pytest.fixture
def declaring(database):
    """A host that declares an event, without a schema and with an example."""
    host = with_portal(database)
    host.webhooks.event_type("invoice.paid", example=EXAMPLE)
    host.webhooks.event_type("invoice.voided")
    yield host
    host.close()


def sending(page):
    return next(each for each in page.forms.values() if each.method.upper() == "POST" and each.action.endswith("/test"))


def sent(client, endpoint):
    return client.get(f"{endpoint.path}/deliveries").get_json()


def test_a_ping_is_sent_once_however_often_the_button_is_clicked(ada, acme):
    endpoint = create_endpoint(acme)
    form = sending(ada.get(f"{PREFIX}/{endpoint.id}/test"))

    first = form.submit()
    assert form.submit().location == first.location

    assert "/deliveries/dlv_" in first.location
    assert [each["event_type"] for each in sent(acme, endpoint)] == ["webhook.ping"]


def test_an_example_is_edited_and_sent(declaring):
    client, browser = declaring.client(), person(declaring)
    endpoint = create_endpoint(client)
    choose = browser.get(f"{PREFIX}/{endpoint.id}/test").forms[0]
    choose["event_type"] = "invoice.paid"

    form = sending(choose.submit())
    assert json.loads(form["data"].value) == EXAMPLE
    form["data"] = '{"id": 8}'
    form.submit()

    (delivery,) = sent(client, endpoint)
    details = client.get(f"{endpoint.path}/deliveries/{delivery['id']}").get_json()
    assert (details["event_type"], json.loads(details["body"])["data"]) == ("invoice.paid", {"id": 8})


@pytest.mark.parametrize(
    ("event_type", "data", "fault"),
    [
        ("invoice.paid", "{", "data"),
        ("invoice.paid", "[NaN]", "data"),
        ("invoice.paid", '{"a": 1, "a": 2}', "data"),
        ("invoice.paid", "[" * 5000, "data"),
        ("invoice.paid", '"\\ud800"', "data"),
        ("invoice.paid", json.dumps("x" * 300_000), "data"),
        ("invoice.voided", "", "data"),
        ("invoice.gone", "{}", "event_type"),
        ("webhook.other", "{}", "event_type"),
        ("", "{}", "event_type"),
        ("\x00", "{}", "event_type"),
    ],
    ids=lambda value: value[:20],
)
def test_a_fault_keeps_what_was_typed(declaring, event_type, data, fault):
    client, browser = declaring.client(), person(declaring)
    endpoint = create_endpoint(client)

    page = browser.post(f"{PREFIX}/{endpoint.id}/test", {"event_type": event_type, "data": data}, status=422)

    assert page.html.find(id=f"whe-{fault}-fault").text.strip()
    assert page.html.find(id="whe-data").text.removeprefix("\n") == data
    assert sent(client, endpoint) == []


def test_data_of_a_ping_are_not_dropped_unseen(ada, acme):
    endpoint = create_endpoint(acme)
    form = sending(ada.get(f"{PREFIX}/{endpoint.id}/test"))
    assert form["event_type"].value == "webhook.ping"
    form["data"] = '{"id": 8}'

    page = form.submit(status=422)

    assert "A webhook.ping takes no data of yours." in page.html.find(id="whe-data-fault").text
    assert page.html.find(id="whe-data").text.removeprefix("\n") == '{"id": 8}'
    assert sent(acme, endpoint) == []
    form["event_type"] = "order.made"
    form.submit(status=303)


def test_a_paused_endpoint_is_not_tested(ada, acme):
    endpoint = create_endpoint(acme)
    form = sending(ada.get(f"{PREFIX}/{endpoint.id}/test"))
    form["event_type"], form["data"] = "order.made", '{"id": 8}'
    change_endpoint(acme, endpoint, status="PAUSED")

    late = form.submit(status=409)

    assert "paused" in late
    assert sending(late)["data"].value.removeprefix("\n") == '{"id": 8}'
    assert "Resume it first" in ada.get(f"{PREFIX}/{endpoint.id}/test")
    assert sent(acme, endpoint) == []


def test_another_tenants_endpoint_is_not_tested(hank, acme):
    endpoint = create_endpoint(acme)

    hank.get(f"{PREFIX}/{endpoint.id}/test", status=404)
    hank.post(f"{PREFIX}/{endpoint.id}/test", status=404)
    assert sent(acme, endpoint) == []


def test_a_person_who_may_ping_alone_chooses_no_event(database):
    host = with_portal(database, authorize=lambda action, _: action != "ping_event")
    host.webhooks.event_type("invoice.paid", example=EXAMPLE)
    endpoint = create_endpoint(host.client())
    browser = person(host)

    page = browser.get(f"{PREFIX}/{endpoint.id}/test?event_type=invoice.paid")

    assert "invoice.paid" not in page
    sending(page).submit().follow()
    browser.post(f"{PREFIX}/{endpoint.id}/test", {"event_type": "invoice.paid"}, status=403)
    host.close()


def test_the_receivers_are_those_that_the_page_for_customers_shows():
    page = (docs.ROOT / "docs" / "receivers.md").read_text()
    for each in snippets.receivers():
        _, _, section = page.partition(f"### {each.language}\n")
        section = section.partition("\n### ")[0]

        assert f"`{each.file}`:\n" in section
        assert f"```{each.name}\n{each.code}```" in section
        (commands,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
        assert [line.removeprefix("$ ") for line in commands.splitlines()] == list(each.commands)


@pytest.mark.parametrize(("secret", "is_raw"), [(None, False), ("sixteen characters", True)])
def test_the_commands_have_the_endpoints_format_and_not_its_secret(ada, acme, secret, is_raw):
    endpoint = create_endpoint(acme, **({"secret": secret} if secret else {}))

    page = ada.get(f"{PREFIX}/{endpoint.id}/test")

    assert ("export WEBHOOK_SECRET_FORMAT=raw" in page) is is_raw
    assert "sixteen characters" not in page
