"""The page of the declared events, and the OpenAPI document to download."""

import json
from urllib.parse import urlsplit

import pytest
from marshmallow import Schema, fields
from webtest import TestApp

from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.database import on_sqlite, statements_of
from tests.support.portal import PREFIX, person, with_portal

pytestmark = [on_sqlite, pytest.mark.host(make=with_portal)]


class Line(Schema):
    sku = fields.String(required=True, metadata={"description": "The article."})


class Invoice(Schema):
    id = fields.Integer(required=True)
    lines = fields.List(fields.Nested(Line))


def titles(page, name):
    return [each.a.text if each.a else each.text for each in page.html.find_all(name)]


def test_a_host_without_events_is_told_so_and_links_to_none(ada):
    assert "No events are described here" in ada.get(f"{PREFIX}/events")
    assert ada.get(f"{PREFIX}/").html.find("a", string="Events") is None


def test_events_are_in_groups_by_their_first_word(ada, host):
    for name in ("invoice.paid", "invoice-2.paid", "invoice.voided", "heartbeat", "order.item.added"):
        host.webhooks.event_type(name)

    page = ada.get(f"{PREFIX}/").click("^Events$")

    assert titles(page, "h2") == ["invoice", "invoice-2", "order", "Other events"]
    assert titles(page, "h3") == ["invoice.paid", "invoice.voided", "invoice-2.paid", "order.item.added", "heartbeat"]
    for each in page.html.find("nav", class_="whe-card").find_all("a"):
        assert page.html.find(id=each["href"].removeprefix("#")).h3.a.text == each.text


def test_an_event_has_its_description_its_schema_and_its_example(ada, host):
    example = {"id": 7, "lines": [{"sku": "Ä<b>"}]}
    host.webhooks.event_type("invoice.paid", description="Paid in full.", schema=Invoice, example=example)
    host.webhooks.event_type("invoice.old", deprecated=True, schema={"type": "string"})

    page = ada.get(f"{PREFIX}/events").html

    paid, old = page.find(id="invoice.paid"), page.find(id="invoice.old")
    assert "Paid in full." in paid.text
    assert "Deprecated" not in paid.text
    assert [[cell.text.split() for cell in row.find_all(["th", "td"])] for row in paid.tbody.find_all("tr")] == [
        [["id"], ["integer", "Required"], []],
        [["lines"], ["object[]"], []],
        [["lines[].sku"], ["string", "Required"], ["The", "article."]],
    ]
    assert json.loads(paid.pre.text) == example
    assert "\n  " in paid.pre.text
    assert paid.find("button")["data-copy"] == paid.pre["id"]
    assert "Deprecated" in old.h3.text
    assert "Type of the data: string" in " ".join(old.text.split())


def test_hostile_text_of_a_schema_is_shown_as_text(ada, host):
    hostile = "</td><script>alert(1)</script>"
    schema = {"properties": {hostile: {"description": hostile, "enum": [hostile], "pattern": "<script>alert"}}}
    host.webhooks.event_type("a.b", description=hostile, schema=schema, example={hostile: hostile})

    page = ada.get(f"{PREFIX}/events")

    assert "<script>alert" not in page
    assert page.html.find(id="a.b").tbody.th.text == hostile


def test_the_page_asks_the_database_for_nothing(ada, acme, host):
    host.webhooks.event_type("a.b", schema=Invoice)
    create_endpoint(acme)

    with statements_of(host) as statements:
        ada.get(f"{PREFIX}/events")

    assert statements == []


def test_who_may_not_list_events_sees_neither_page_nor_link(database):
    host = with_portal(database, authorize=lambda action, ep_id: action != "list_event_types")
    host.webhooks.event_type("a.b")

    assert person(host).get(f"{PREFIX}/").html.find("a", string="Events") is None
    for path in ("events", "openapi.json"):
        person(host).get(f"{PREFIX}/{path}", status=403)
        person(host, None).get(f"{PREFIX}/{path}", status=401)
    host.close()


def test_the_openapi_document_names_the_url_of_the_api(ada, host):
    host.webhooks.event_type("a.b", schema=Invoice)

    answer = ada.get(f"{PREFIX}/events").click("Download OpenAPI")

    assert answer.content_type == "application/json"
    assert answer.headers["Content-Disposition"] == "attachment; filename=openapi.json"
    assert "a.b" in answer.json["webhooks"]
    [server] = answer.json["servers"]
    assert ada.get(f"{urlsplit(server['url']).path}/v1/openapi.json").status_int == 200


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "http://localhost"),
        ({"url_prefix": "/hooks"}, "http://localhost/hooks"),
        ({"url_prefix": "/<org>"}, None),
        ({"name": "other"}, "http://localhost"),
        (None, None),
    ],
    ids=["root", "prefix", "variable", "name", "absent"],
)
def test_the_document_is_offered_only_where_the_api_has_a_url(database, options, expected):
    host = hosts.flask_sqlalchemy(database, register=False)
    host.app.register_blueprint(host.webhooks.portal, url_prefix=PREFIX)
    if options is not None:
        host.app.register_blueprint(host.webhooks.blueprint, **options)
    browser = TestApp(host.app, extra_environ={"HTTP_X_TENANT": "acme", "HTTP_HOST": "localhost"})

    link = browser.get(f"{PREFIX}/events").html.find("a", string="Download OpenAPI")
    answer = browser.get(f"{PREFIX}/openapi.json", status="*")

    assert (link is not None) is (expected is not None)
    assert answer.status_int == (404 if expected is None else 200)
    if expected is not None:
        assert answer.json["servers"] == [{"url": expected}]
    host.close()


def test_an_api_below_the_same_variables_as_the_pages_has_a_url(database):
    host = hosts.flask_sqlalchemy(database, register=False)
    host.app.register_blueprint(host.webhooks.portal, url_prefix="/<org>/hooks")
    host.app.register_blueprint(host.webhooks.blueprint, url_prefix="/<org>")
    browser = TestApp(host.app, extra_environ={"HTTP_X_TENANT": "acme", "HTTP_HOST": "localhost"})

    [server] = browser.get("/org7/hooks/openapi.json").json["servers"]

    assert server["url"] == "http://localhost/org7"
    host.close()
