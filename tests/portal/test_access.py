"""Who sees each page and sends each form: a table that has every page, so that a new one can't be forgotten."""

from typing import get_args

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.portal.blueprint import PAGES
from flask_webhook_endpoints.state import Action
from tests.support.api import create_endpoint
from tests.support.database import on_sqlite
from tests.support.portal import PREFIX, person, with_portal

ACTIONS = {
    "GET /": "list",
    "GET /new": "create",
    "POST /new": "create",
    "GET /events": "list_event_types",
    "GET /openapi.json": "list_event_types",
    "GET /deliveries": "list_deliveries",
    "GET /<ep_id>": "read",
    "POST /<ep_id>/pause": "update",
    "POST /<ep_id>/resume": "update",
    "GET /<ep_id>/settings": "read",
    "POST /<ep_id>/settings": "update",
    "GET /<ep_id>/delete": "delete",
    "POST /<ep_id>/delete": "delete",
    "GET /<ep_id>/secret": "read_secret",
    "POST /<ep_id>/secret": "read_secret",
    "POST /<ep_id>/secret/rotate": "rotate_secret",
    "GET /<ep_id>/secret/check": "read_secret",
    "POST /<ep_id>/secret/check": "read_secret",
    "GET /<ep_id>/test": "ping",
    "POST /<ep_id>/test": "ping",
    "GET /<ep_id>/deliveries": "list_deliveries",
    "POST /<ep_id>/deliveries": "redeliver",
    "GET /<ep_id>/deliveries/<dlv_id>": "read_delivery",
    "POST /<ep_id>/deliveries/<dlv_id>": "redeliver",
    "POST /<ep_id>/deliveries/<dlv_id>/curl": "read_secret",
    "GET /<ep_id>/recover": "recover",
    "POST /<ep_id>/recover": "recover",
}
"""The action that each page asks for first, as docs/portal.md tells it. Files are for everybody."""

ALSO = {"POST /<ep_id>/deliveries/<dlv_id>/curl": {"read_headers", "read_delivery"}}
"""Actions that a page asks for after the first one."""

GUARDED = {f"{page.method} {page.path}": page for page in PAGES if page.view.__name__ != "asset"}
NO_DELIVERY = "dlv_01900000-0000-7000-8000-000000000000"

pytestmark = [on_sqlite, pytest.mark.host(make=with_portal)]

asked = []
refused = set()


def authorize(action, ep_id):
    asked.append((action, ep_id))
    return action not in refused


@pytest.fixture
def endpoint(acme):
    refused.clear()
    return create_endpoint(acme, "https://acme.example/hook", name="orders of acme")


def answers(browser, endpoint, **headers):
    """Send a request to each page, and return the answers by the lines of the table."""
    return {line: answer_of(browser, page, endpoint, **headers) for line, page in GUARDED.items()}


def answer_of(browser, page, endpoint, dlv_id=NO_DELIVERY, **headers):
    path = PREFIX + page.path.replace("<ep_id>", endpoint.id).replace("<dlv_id>", dlv_id)
    return browser.request(path, method=page.method, headers=headers, expect_errors=True)


def state_of(client, endpoint):
    paths = ("/v1/endpoints", f"{endpoint.path}/secret", f"{endpoint.path}/deliveries")
    return [client.get(path).json for path in paths]


def test_every_page_has_a_line():
    assert GUARDED.keys() <= ACTIONS.keys()


@pytest.mark.host(make=with_portal, authorize=authorize)
def test_every_page_asks_for_its_action_and_is_403_where_the_host_refuses_it(ada, acme, endpoint):
    before = state_of(acme, endpoint)

    for line, page in GUARDED.items():
        asked.clear()
        refused.add(ACTIONS[line])
        answer = answer_of(ada, page, endpoint)
        refused.clear()

        assert asked[0] == (ACTIONS[line], endpoint.id if "<ep_id>" in page.path else None), line
        assert answer.status_int == 403, line
        assert "You may not do this." in answer, line
        assert endpoint["name"] not in answer, line
        assert state_of(acme, endpoint) == before, line


def dead_ends(host, page):
    """Return the lines of the table that links and forms of a page lead to, though the host refuses them."""
    adapter = host.app.url_map.bind("localhost")
    to = [("GET", link["href"]) for link in page.html.find_all("a", href=True)]
    to += [(form.get("method", "get").upper(), form["action"]) for form in page.html.find_all("form")]
    for method, address in to:
        if address.startswith(PREFIX):
            rule, _ = adapter.match(address.partition("#")[0].partition("?")[0], method, return_rule=True)
            line = f"{method} {rule.rule.removeprefix(PREFIX)}"
            if {ACTIONS[line], *ALSO.get(line, ())} & refused:
                yield line


EVERY = set(get_args(Action))


@pytest.mark.host(make=with_portal, authorize=authorize)
@pytest.mark.parametrize("others", [True, False], ids=["all other actions", "one other action"])
def test_no_page_leads_to_one_that_the_host_refuses(host, acme, ada, endpoint, others):
    acme.post(f"{endpoint.path}/ping")
    [delivery] = acme.get(f"{endpoint.path}/deliveries").json

    for line, page in GUARDED.items():
        own = {ACTIONS[line], *ALSO.get(line, ())}
        for chosen in [EVERY - own] if others else [{each} for each in sorted(EVERY - own)]:
            refused.clear()
            refused.update(chosen)
            answer = answer_of(ada, page, endpoint, delivery["id"])

            if answer.content_type == "text/html" and answer.status_int != 303:
                assert list(dead_ends(host, answer)) == [], (line, chosen)


@pytest.mark.host(make=with_portal, authorize=authorize)
def test_a_page_that_is_refused_leads_nowhere_that_is_refused(host, ada, endpoint):
    refused.update(EVERY)

    for line, answer in answers(ada, endpoint).items():
        assert (answer.status_int, list(dead_ends(host, answer))) == (403, []), line


def test_nobody_is_let_in_without_a_tenant(host, endpoint):
    for line, answer in answers(person(host, None), endpoint).items():
        assert answer.status_int == 401, line
        assert endpoint["name"] not in answer, line


def test_another_tenants_endpoint_is_not_there_on_any_page(acme, hank, endpoint):
    before = state_of(acme, endpoint)

    for line, answer in answers(hank, endpoint).items():
        if "<ep_id>" in line:
            # A form of theirs may have faults of its own, which tell nothing of the endpoint.
            assert answer.status_int in ((404, 422) if line.startswith("POST") else (404,)), line
        assert endpoint["name"] not in answer, line
        assert endpoint["url"] not in answer, line
    assert state_of(acme, endpoint) == before


@pytest.mark.parametrize("site", ["cross-site", "same-site", "SAME-SITE", "anything"])
def test_a_form_of_another_site_has_no_effect_on_any_page(acme, ada, endpoint, site):
    before = state_of(acme, endpoint)

    for line, answer in answers(ada, endpoint, **{"Sec-Fetch-Site": site}).items():
        assert (answer.status_int == 403) is line.startswith("POST"), line
    assert state_of(acme, endpoint) == before


def test_a_page_that_fetches_a_delivery_of_ours_is_refused(ada, endpoint):
    """An endpoint whose URL is a form of the portal would answer each delivery with another one."""
    for line, answer in answers(ada, endpoint, **{"Webhook-Id": "evt_1"}).items():
        assert answer.status_int == 403, line


def test_caches_that_people_share_keep_no_page(ada, endpoint):
    for line, answer in answers(ada, endpoint).items():
        if answer.status_int != 303:
            assert {"no-store", "private"} & set(answer.headers["Cache-Control"].split(", ")), line


def test_no_page_of_another_site_has_ours_in_a_frame(ada, endpoint):
    for line, answer in answers(ada, endpoint).items():
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN", line
        assert answer.headers["X-Content-Type-Options"] == "nosniff", line


def test_every_page_says_that_the_database_is_away(host, ada, endpoint):
    def fail(*_):
        raise sa.exc.OperationalError("SELECT 1", {}, ConnectionError("gone"))

    with host.app.app_context():
        sa.event.listen(host.db.engine, "before_cursor_execute", fail)

    for line, answer in answers(ada, endpoint).items():
        if answer.status_int not in (200, 422):
            assert answer.status_int == 503, line
            assert "The database can't be reached at the moment; try again." in answer.html.text, line
        else:
            assert line in {"GET /events", "GET /openapi.json", "POST /new"}, line
