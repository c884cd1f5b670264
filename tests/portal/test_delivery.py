"""The page of one delivery: its attempts, made and planned, its request, and what sends it again."""

import json
import re
from datetime import UTC, datetime
from time import process_time

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import transitions
from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.core.deliveries import STATUSES
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.portal import delivery_states, json_text, results
from flask_webhook_endpoints.state import set_clock
from flask_webhook_endpoints.testing import drain
from tests.support import hosts, receivers
from tests.support.api import change_endpoint, create_endpoint, secret_of
from tests.support.database import ATTEMPT, DELIVERY, ENDPOINT, SECRET, execute, on_sqlite, statements_of
from tests.support.deliveries import finish, lease, publish
from tests.support.portal import PREFIX, person, press, with_portal

pytestmark = pytest.mark.host(make=with_portal, allowed_networks=hosts.LOOPBACK, retry_schedule=[0, 5, 300])

FAR = datetime(2100, 1, 1, tzinfo=UTC)
OVERRIDE = "\u202e"


def refusing(*refused):
    return lambda action, ep_id: action not in refused


def path_of(client, endpoint):
    """Return the page of an endpoint's newest delivery."""
    (newest, *_) = client.get(f"{endpoint.path}/deliveries").get_json()
    return f"{PREFIX}/{endpoint.id}/deliveries/{newest['id']}"


def words_of(host, status, error):
    with host.app.app_context():
        return results.words(status, error)


def timeline(page):
    return [" ".join(item.text.split()) for item in page.html.find(class_="whe-timeline").find_all("li")]


def summary(page):
    return page.html.find(id="whe-errors").text.strip()


def labelled(page, label):
    return page.html.find("pre", attrs={"aria-label": label}).text


def test_a_timeline_has_the_attempts_made_and_planned(host, ada, acme, webhook_receiver, drain_webhooks):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(401)
    publish(host)
    drain_webhooks()

    page = ada.get(path_of(acme, endpoint))

    made, second, third = timeline(page)
    assert made.startswith("401 Unauthorized Attempt 1 · ")
    assert re.search(r"· [0-9,]+ ms", made)
    assert "Check the secret that it verifies with" in made
    assert "Attempt 2 is planned" in second
    assert "unless one before it succeeds" not in second
    assert ("Attempt 3 is planned" in third, "unless one before it succeeds" in third) == (True, True)


def test_a_time_that_has_come_is_due_now(host, ada, acme, webhook_receiver, webhook_clock):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(500)
    publish(host)
    drain(host.app)
    path = path_of(acme, endpoint)
    pages = [path, path.rpartition("/")[0], f"{PREFIX}/{endpoint.id}"]

    planned = [ada.get(each).html.select_one("[data-due]") for each in pages]
    webhook_clock.move(seconds=6)
    due = [ada.get(each).html.select_one("[data-due]") for each in pages]

    assert {each.text == each["title"] for each in planned} == {True}
    assert {each.text for each in due} == {"Due now"}
    assert [each["title"] for each in due] == [each["title"] for each in planned]


def test_a_delivery_that_was_delivered_has_one_attempt_and_none_planned(host, ada, acme, webhook_receiver):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    publish(host)
    drain(host.app)

    page = ada.get(path_of(acme, endpoint))

    (made,) = timeline(page)
    assert made.startswith("200 OK")
    assert page.html.select("[data-refresh]") == []


@on_sqlite
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("due", "Attempt 1 is planned"),
        ("in flight", "Attempt 1 is under way"),
        ("held", "The next attempt is made when it is resumed."),
        ("failed", "No attempt is left."),
        ("expired", "the endpoint was paused for too long"),
        ("cancelled", "It was cancelled"),
    ],
)
def test_a_page_tells_what_comes_next_and_refreshes_while_a_result_is_near(host, ada, acme, state, words):
    endpoint = create_endpoint(acme)
    publish(host)
    match state:
        case "in flight":
            lease(host, FAR)
        case "held":
            change_endpoint(acme, endpoint, status="PAUSED")
        case "failed" | "expired" | "cancelled":
            finish(host, DeliveryStatus(state.upper()))

    page = ada.get(path_of(acme, endpoint))

    assert words in " ".join(page.html.text.split())
    assert [each["data-refresh"] for each in page.html.select("[data-refresh]")] == ["3"] * (
        state in ("due", "in flight")
    )


def test_an_advice_stands_once_for_failures_that_are_alike(host, ada, acme, webhook_receiver, webhook_clock):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(500, 500, 404)
    publish(host)
    for _ in range(3):
        drain(host.app)
        webhook_clock.move(seconds=1000)

    first, second, third = timeline(ada.get(path_of(acme, endpoint)))

    advice = "Its log at this time says why."
    assert [advice in each for each in (first, second, third)] == [False, True, False]
    assert "nothing there takes a POST request" in third


def test_every_status_has_words():
    # If it fails: `STATES` in portal/delivery_states.py.
    assert delivery_states.STATES.keys() == set(STATUSES)
    noted = {status for status, state in delivery_states.STATES.items() if state.note}
    assert noted == set(transitions.UNDELIVERED)


def test_every_error_and_every_status_has_words(host):
    assert {error.value for error in SendError} == set(results._ERRORS)
    for error in SendError:
        assert not words_of(host, None, error).is_success
    for status in range(100, 1000):
        found = words_of(host, status, None)
        assert found.title.startswith(str(status))
        assert found.is_success is (200 <= status <= 299)
        assert bool(found.advice) is not found.is_success
    assert words_of(host, 410, "timeout").title == "No complete answer in time"
    assert words_of(host, None, "of a newer worker").title == "Fault on our side"
    assert words_of(host, None, None) is None


@on_sqlite
@pytest.mark.parametrize("error", [*SendError, "of_a_newer_worker"])
def test_a_page_and_a_list_show_every_error(host, ada, acme, error):
    endpoint = create_endpoint(acme)
    publish(host)
    values = {"attempts": 1, "last_attempt_at": datetime(2030, 1, 1, tzinfo=UTC), "last_duration_ms": 1}
    execute(host, sa.update(DELIVERY).values(**values, last_error=str(error)))

    page = ada.get(path_of(acme, endpoint))

    words = words_of(host, None, str(error))
    assert words.title in timeline(page)[0]
    assert words.advice in timeline(page)[0]
    assert words.title in ada.get(f"{PREFIX}/{endpoint.id}/deliveries").html.text


def test_the_request_is_shown_with_its_body_pretty_and_as_sent(host, ada, acme):
    endpoint = create_endpoint(acme, "https://example.com/hooks", headers_json={"X-Key": "s3cret"})
    publish(host, {"id": 12345678901234567890123, "ratio": 1.10, "empty": {}, "list": [1, []]})
    path = path_of(acme, endpoint)

    page = ada.get(path)

    body = acme.get(path.replace(PREFIX, "/v1/endpoints")).get_json()["body"]
    assert labelled(page, "Body as it is sent") == body
    pretty = labelled(page, "Body, a member on each line")
    assert json.loads(pretty) == json.loads(body)
    assert '\n    "id": 12345678901234567890123,\n' in pretty
    assert '"empty": {},' in pretty
    request = labelled(page, "Request without its body")
    assert request.splitlines()[0] == "POST https://example.com/hooks"
    assert {"X-Key: ***", "webhook-signature: ***"} <= set(request.splitlines())
    assert page.headers["Cache-Control"] == "private, no-cache"


def test_header_values_are_in_the_command_alone(host, ada, acme):
    endpoint = create_endpoint(acme, headers_json={"X-Key": "s3cret"})
    publish(host)
    page = ada.get(path_of(acme, endpoint))
    assert "s3cret" not in page
    # A browser then shows the end of the page, where the command is.
    assert page.html.find("button", string="Show as curl").parent["action"].endswith("/curl#whe-curl")

    shown = press(page, "Show as curl")

    assert "X-Key: s3cret" in shown.html.find(id="whe-curl").text
    assert "X-Key: ***" in labelled(shown, "Request without its body")


def test_who_may_not_read_header_values_gets_no_command(database):
    host = with_portal(database, authorize=refusing("read_headers"))
    client, browser = host.client(), person(host)
    endpoint = create_endpoint(client, headers_json={"X-Key": "s3cret"})
    publish(host)
    path = path_of(client, endpoint)

    page = browser.get(path)

    assert "X-Key: ***" in labelled(page, "Request without its body")
    assert "s3cret" not in page
    assert "Show as curl" not in page
    assert browser.post(f"{path}/curl", status=403).status_int == 403
    host.close()


def test_headers_that_cant_be_decrypted_are_told(host, ada, acme):
    endpoint = create_endpoint(acme, headers_json={"X-Key": "s3cret"})
    publish(host)
    execute(host, sa.update(ENDPOINT).values(headers_encrypted="lost"))

    page = ada.get(path_of(acme, endpoint))

    assert "The endpoint's own headers can't be decrypted." in page.html.text
    assert "There is no command" in summary(press(page, "Show as curl", status=409))


def test_a_secret_that_cant_be_decrypted_is_told(host, ada, acme):
    endpoint = create_endpoint(acme)
    publish(host)
    execute(host, sa.update(SECRET).values(secret_encrypted="lost"))

    assert "There is no command" in summary(press(ada.get(path_of(acme, endpoint)), "Show as curl", status=409))


def test_the_command_is_signed_now_and_kept_by_no_browser(host, ada, acme):
    endpoint = create_endpoint(acme, "https://example.com/hooks")
    publish(host, {"text": "it's </script>"})
    page = ada.get(path_of(acme, endpoint))
    assert "v1," not in page

    shown = press(page, "Show as curl")

    command = shown.html.find(id="whe-curl").text
    assert "https://example.com/hooks" in command
    assert re.search(r"webhook-signature: v1,[A-Za-z0-9+/=]{44}", command)
    assert secret_of(acme, endpoint.path) not in shown
    assert shown.headers["Cache-Control"] == "no-store"
    # It would be gone, and browsers ask before they send a form again.
    assert shown.html.select("[data-refresh]") == []


@pytest.mark.several_connections
@pytest.mark.parametrize("action", ["read_secret", "read_headers", "read_delivery"])
def test_who_may_not_read_all_of_it_gets_no_command(database, action):
    host = with_portal(database)
    client = host.client()
    endpoint = create_endpoint(client)
    publish(host)
    path = path_of(client, endpoint)
    host.close()
    host = with_portal(database, authorize=refusing(action))
    browser = person(host)

    assert browser.post(f"{path}/curl", status=403).status_int == 403
    if action != "read_delivery":
        assert "As a command" not in browser.get(path)
    host.close()


def test_a_delivery_is_sent_again_once_however_often_the_button_is_clicked(host, ada, acme, webhook_receiver):
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(410, 200)
    publish(host)
    finish(host)
    form = next(each for each in ada.get(path_of(acme, endpoint)).forms.values() if each.method.upper() == "POST")

    again = form.submit().follow()
    form.submit()

    assert "The delivery is sent again." in again
    assert "Send now" in again
    assert drain(host.app) == 1


def test_a_button_that_is_late_is_told_why_nothing_was_sent(host, ada, acme):
    endpoint = create_endpoint(acme)
    publish(host)
    page = ada.get(path_of(acme, endpoint))
    lease(host, FAR)

    in_flight = press(page, "Send now", status=409)
    change_endpoint(acme, endpoint, status="PAUSED")
    paused = press(page, "Send now", status=409)

    assert "an attempt is under way" in summary(in_flight)
    assert "It can be sent again once the result is known." in in_flight
    assert "the endpoint is paused" in summary(paused)
    assert "To send it again, resume the endpoint first" in paused


@pytest.mark.host(make=with_portal, max_redeliveries_per_minute=1)
def test_the_limit_of_a_minute_is_told(host, ada, acme):
    set_clock(host.app, lambda: datetime(2030, 1, 1, 12, 0, 20, tzinfo=UTC))
    endpoint = create_endpoint(acme)
    publish(host)
    page = press(ada.get(path_of(acme, endpoint)), "Send now").follow()

    refused = press(page, "Send now", status=429)

    assert "Try again in 40 seconds." in summary(refused)
    assert refused.headers["Retry-After"] == "40"


def test_another_tenants_delivery_is_answered_as_one_that_is_not_there(host, ada, acme, globex):
    ours, other, theirs = create_endpoint(acme), create_endpoint(acme, event_types=["x"]), create_endpoint(globex)
    publish(host)
    publish(host, tenant_id="globex")
    dlv_id = path_of(acme, ours).rpartition("/")[2]
    foreign = path_of(globex, theirs)
    absent = "dlv_00000000-0000-7000-8000-000000000000"
    paths = [
        f"{PREFIX}/{ours.id}/deliveries/{foreign.rpartition('/')[2]}",
        f"{PREFIX}/{ours.id}/deliveries/{absent}",
        f"{PREFIX}/{ours.id}/deliveries/nonsense",
        f"{PREFIX}/{other.id}/deliveries/{dlv_id}",
    ]

    answers = [ada.get(path, status=404).text for path in paths]

    assert len(set(answers)) == 1
    unknown = ada.get(f"{PREFIX}/ep_x/deliveries/{dlv_id}", status=404).text
    assert ada.get(foreign, status=404).text == unknown
    for path in (foreign, *paths):
        assert ada.post(path, status=404).status_int == 404
        assert ada.post(f"{path}/curl", status=404).status_int == 404


@pytest.mark.several_connections
@pytest.mark.parametrize("action", ["read_delivery", "redeliver"])
def test_authorize_refuses_what_it_hides(database, action):
    host = with_portal(database)
    endpoint = create_endpoint(host.client())
    publish(host)
    path = path_of(host.client(), endpoint)
    host.close()
    host = with_portal(database, authorize=refusing(action))
    browser = person(host)

    if action == "redeliver":
        assert "Send now" not in browser.get(path)
        assert browser.post(path, status=403).status_int == 403
    else:
        assert browser.get(path, status=403).status_int == 403
    host.close()


def test_other_deliveries_of_the_event_are_a_click_away(host, ada, acme):
    create_endpoint(acme, name="first")
    endpoint = create_endpoint(acme, name="second")
    publish(host)

    page = ada.get(path_of(acme, endpoint)).click("All deliveries of this event")

    assert len(page.html.select("tbody tr")) == 2


def test_hostile_texts_are_text(host, ada, acme, receivers):
    text = f"</script><script>alert(1)</script>{OVERRIDE}"
    answer = b"\xff\xfe<script>alert(2)</script>\x00\x1b[31m"
    rude = receivers.start(
        receivers_say(b"HTTP/1.1 302 Found\r\nLocation: javascript:alert(3)\r\n", answer),
    )
    endpoint = create_endpoint(acme, f"http://127.0.0.1:{rude.port}/{'u' * 1960}", name="<i>")
    publish(host, {text: text}, event_type="x" * 128)
    drain(host.app)

    page = ada.get(path_of(acme, endpoint))

    assert "<script>alert" not in page.text
    assert page.html.find(href=re.compile("^javascript")) is None
    excerpt = labelled(page, "Beginning of the answer")
    assert excerpt.startswith("\ufffd\ufffd<script>alert(2)</script>")
    assert OVERRIDE not in labelled(page, "Body, a member on each line")
    assert OVERRIDE in labelled(page, "Body as it is sent")
    assert "x" * 128 in page


def receivers_say(head, body):
    return receivers.say(head, b"Content-Length: %d\r\n\r\n" % len(body), body)


BODIES = {
    "one line": "x" * 262_000,
    "deep": json.loads("[" * 200 + "]" * 200),
    "wide": list(range(40_000)),
    "quotes": '"\\' * 60_000,
    "empty": [[]] * 80_000,
}


@pytest.mark.parametrize("name", BODIES)
def test_a_huge_body_is_shown_whole_as_sent_and_its_beginning_by_members(host, ada, acme, name):
    endpoint = create_endpoint(acme)
    publish(host, BODIES[name])

    page = ada.get(path_of(acme, endpoint))

    assert json.loads(labelled(page, "Body as it is sent"))["data"] == BODIES[name]
    assert len(labelled(page, "Body, a member on each line")) <= json_text.MAX_SHOWN
    assert ("This is its beginning." in page) is (name != "deep")


@pytest.mark.parametrize(
    "text",
    ['{"a":[1,{"b":[]},{}],"c":"[{,:}]\\"","d":-1.50e+3,"e":[true,null]}', "[]", '"x"', "7", '{"a":{"b":{"c":1}}}'],
)
def test_pretty_json_is_the_same_json(text):
    found = json_text.pretty(text)

    assert found.is_whole
    assert json.loads(found.text) == json.loads(text)
    assert found.text == json.dumps(json.loads(text), indent=2).replace("-1500.0", "-1.50e+3")


def test_pretty_text_is_bounded_and_never_fails():
    for text in ("[" * 262_144, "}" * 1000, '"' + "\\" * 1001, '{"a', ",,,:::", ""):
        assert len(json_text.pretty(text).text) <= json_text.MAX_SHOWN


def test_a_page_takes_the_same_statements_whatever_the_attempts(host, ada, acme):
    endpoint = create_endpoint(acme)
    publish(host)
    path = path_of(acme, endpoint)
    (delivery_id,) = host_rows(host)
    attempts = [
        {"delivery_id": delivery_id, "number": number, "started_at": datetime(2030, 1, 1, tzinfo=UTC), "duration_ms": 1}
        for number in range(1, 101)
    ]
    with statements_of(host) as before:
        ada.get(path)

    execute(host, sa.insert(ATTEMPT), attempts)
    with statements_of(host) as after:
        page = ada.get(path)

    assert len(timeline(page)) == 103
    assert len(before) == len(after) == 3


def host_rows(host):
    with host.app.app_context():
        return host.db.session.execute(sa.select(DELIVERY.c.id)).scalars().all()


@pytest.mark.slow
def test_the_largest_page_takes_less_than_50_ms_of_cpu(host, ada, acme):
    endpoint = create_endpoint(acme)
    publish(host, BODIES["quotes"])
    path = path_of(acme, endpoint)
    ada.get(path)

    begun = process_time()
    for _ in range(10):
        host.app.test_client().get(path, headers={"X-Tenant": "acme"})
    each = (process_time() - begun) / 10

    assert each < 0.05, each
