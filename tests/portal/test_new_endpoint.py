"""A new endpoint: created by a form that keeps what was typed until it is right."""

import pytest
from webtest import TestApp

from flask_webhook_endpoints import signals
from tests.support.api import PATH, create_endpoint, post_endpoint, secret_of
from tests.support.database import on_sqlite
from tests.support.portal import PREFIX, person, with_portal

pytestmark = [on_sqlite, pytest.mark.host(make=with_portal)]

NEW = f"{PREFIX}/new"
OWN = "a secret of their own"


def declaring(url, **config):
    host = with_portal(url, **config)
    host.webhooks.event_type("invoice.paid", description="The customer <paid>.")
    host.webhooks.event_type("invoice.sent", deprecated=True)
    host.webhooks.event_type("user.created")
    host.webhooks.event_type("heartbeat")
    return host


def form_of(page):
    return page.forms[0]


def filled(app, **fields):
    form = form_of(app.get(NEW))
    for name, value in {"name": "orders", "url": "https://example.com/hook", **fields}.items():
        form[name] = value
    return form


def fault(page, part):
    return page.html.find(id=f"whe-{part}-fault").text.strip()


def only(client):
    [endpoint] = client.get(PATH).get_json()
    return endpoint


def test_an_endpoint_of_all_that_the_form_has(ada, acme):
    form = filled(ada, timeout_seconds="7", description="Of the shop.\nAsk Ada.", events="some", secret=OWN)
    form["event_lines"] = "invoice.paid\r\n\r\n  user.*  "
    form["header_name"], form["header_value"] = " X-Key ", "k 1"
    form["metadata_name"], form["metadata_value"] = "customer", "4711"

    page = form.submit().follow()

    made = only(acme)
    assert {name: made[name] for name in ("name", "url", "timeout_seconds", "description", "event_types")} == {
        "name": "orders",
        "url": "https://example.com/hook",
        "timeout_seconds": 7,
        "description": "Of the shop.\nAsk Ada.",
        "event_types": ["invoice.paid", "user.*"],
    }
    assert made["headers_json"] == {"X-Key": "k 1"}
    assert made["metadata"] == {"customer": "4711"}
    assert secret_of(acme, f"{PATH}/{made['id']}") == OWN
    assert page.request.path == f"{PREFIX}/{made['id']}"
    assert "you find it under “Secret”" in page


def test_an_endpoint_of_the_least_gets_all_events_and_a_generated_secret(ada, acme):
    filled(ada).submit()

    made = only(acme)
    assert (made["event_types"], made["headers_json"], made["metadata"], made["description"]) == (None, {}, {}, None)
    assert secret_of(acme, f"{PATH}/{made['id']}").startswith("whsec_")


def test_declared_events_are_ticked_in_groups(database):
    host = declaring(database)
    ada = person(host)
    page = ada.get(NEW)
    form = form_of(page)
    form["name"], form["url"], form["events"] = "n", "https://example.com", "some"
    boxes = form.fields["event_type"]

    assert [box._value for box in boxes] == [
        "invoice.*",
        "invoice.paid",
        "invoice.sent",
        "user.*",
        "user.created",
        "heartbeat",
    ]
    assert "The customer &lt;paid&gt;." in page.text
    assert page.text.count("Deprecated") == 1
    boxes[0].checked = boxes[5].checked = True
    form.submit()

    assert only(host.client())["event_types"] == ["invoice.*", "heartbeat"]
    host.close()


def test_a_form_with_faults_keeps_what_was_typed_and_says_what_to_do(ada, acme):
    form = filled(ada, name=" ", url="http://127.0.0.1/", timeout_seconds="soon", events="some", secret=OWN)
    form["description"] = "\nkept\n"
    form["header_name"], form["header_value"] = "Host", "v"
    form["metadata_name"], form["metadata_value"] = "", "lost key"

    page = form.submit(status=422)

    assert fault(page, "name") == "Give the endpoint a name."
    assert "must not be" in fault(page, "url") or "address" in fault(page, "url")
    assert fault(page, "timeout_seconds") == "Give a whole number of seconds."
    assert fault(page, "event_types") == "Choose at least one event, or all events."
    assert fault(page, "headers-0") == "This header may not be set."
    assert fault(page, "metadata-0") == "Give the value a key, or empty it."
    summary = page.html.find(id="whe-errors")
    assert [a["href"] for a in summary.find_all("a")] == [
        "#whe-name",
        "#whe-url",
        "#whe-timeout_seconds",
        "#whe-event_types",
        "#whe-headers-0",
        "#whe-metadata-0",
    ]
    assert all(page.html.find(id=a["href"][1:]) for a in summary.find_all("a"))
    again = form_of(page)
    assert again["url"].value == "http://127.0.0.1/"
    assert again["description"].value.strip("\r\n") == "kept"
    assert [field.value for field in again.fields["header_value"]] == ["v", ""]
    assert again["secret"].value == ""
    assert OWN not in page.text
    assert "Type the secret again" in page
    assert page.headers["Cache-Control"] == "no-store"
    assert acme.get(PATH).get_json() == []


def test_the_mended_form_creates_the_endpoint(ada, acme):
    form = form_of(filled(ada, url="").submit(status=422))
    form["url"] = "https://example.com/mended"

    form.submit(status=303)

    assert only(acme)["url"] == "https://example.com/mended"


@pytest.mark.parametrize("kind", ["header", "metadata"])
def test_a_row_is_added_without_scripts_and_checks_nothing(ada, acme, kind):
    form = filled(ada, name="", secret=OWN)
    form[f"{kind}_name"], form[f"{kind}_value"] = "a", "b"

    page = form.submit("add", value=kind)
    form = form_of(page)

    assert page.status_int == 200
    assert "whe-errors" not in page
    assert [field.value for field in form.fields[f"{kind}_name"]] == ["a", ""]
    form = form_of(form.submit("add", value=kind))
    assert [field.value for field in form.fields[f"{kind}_name"]] == ["a", "", ""]
    assert OWN not in page.text
    assert acme.get(PATH).get_json() == []


def test_faults_stand_beside_their_rows(ada):
    form = form_of(filled(ada).submit("add", value="header"))
    form = form_of(form.submit("add", value="header"))
    rows = [("X-A", "1"), ("x-a", "2"), ("", "3")]
    for index, (name, value) in enumerate(rows):
        form.set("header_name", name, index)
        form.set("header_value", value, index)

    page = form.submit(status=422)

    assert page.html.find(id="whe-headers-0-fault") is None
    assert "in the list already" in fault(page, "headers-1")
    assert "Give the header a name" in fault(page, "headers-2")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("X A", "v", "Must have names of"),
        ("webhook-id", "v", "This header may not be set."),
        ("X-A", "v" * 4097, "Longer than maximum length 4096."),
        ("X-A", "snow \u2603", "Must not contain control characters or characters outside Latin-1."),
        ("X-A", "***", "Give the value itself."),
    ],
)
def test_the_message_of_a_header_stands_beside_its_row(ada, name, value, says):
    form = filled(ada)
    form["header_name"], form["header_value"] = name, value

    assert says in fault(form.submit(status=422), "headers-0")


def test_metadata_that_is_too_large_has_its_message_in_its_section(ada):
    form = filled(ada)
    form["metadata_name"], form["metadata_value"] = "k", "v" * 5000

    assert "4096 bytes" in fault(form.submit(status=422), "metadata-0")


def test_an_undeclared_event_that_a_form_was_made_to_send_is_named(database):
    host = declaring(database)
    body = {"name": "n", "url": "https://example.com", "events": "some", "event_type": "invoice.payd"}

    page = person(host).post(NEW, body, status=422)

    assert "Did you mean invoice.paid?" in fault(page, "event_types")
    assert page.html.find("input", value="invoice.payd").has_attr("checked")
    host.close()


def test_a_form_that_is_sent_twice_creates_one_endpoint(ada, acme):
    form = filled(ada)

    first, second = form.submit(), form.submit()

    assert first.location == second.location
    assert len(acme.get(PATH).get_json()) == 1


def test_a_form_sent_again_with_other_values_is_shown_and_can_be_sent_then(ada, acme):
    form = filled(ada)
    form.submit()
    form["name"] = "another"

    page = form.submit(status=422)

    assert page.html.find(id="whe-errors")
    form_of(page).submit(status=303)
    assert [each["name"] for each in acme.get(PATH).get_json()] == ["orders", "another"]


def test_signals_tell_of_the_endpoint_once(ada, host):
    heard = []

    def hear(app, *, endpoint, **_):
        heard.append(endpoint.name)

    form = filled(ada)
    with signals.endpoint_created.connected_to(hear):
        form.submit()
        form.submit()

    assert heard == ["orders"]


def test_a_tenant_with_all_endpoints_it_may_have_reads_what_to_do(database):
    host = with_portal(database, max_endpoints_per_tenant=1)
    ada, acme = person(host), host.client()
    form = filled(ada)
    create_endpoint(acme)

    assert "Delete an endpoint that you need no longer" in ada.get(NEW)
    page = form.submit(status=409)

    assert "You have 1 endpoints, as many as you may have." in page
    assert form_of(page)["name"].value == "orders"
    assert len(acme.get(PATH).get_json()) == 1
    host.close()


def test_who_may_not_create_finds_no_link_and_no_page(database):
    host = with_portal(database, authorize=lambda action, ep_id: action != "create")
    ada = person(host)

    assert "New endpoint" not in ada.get(f"{PREFIX}/")
    ada.get(NEW, status=403)
    ada.post(NEW, {"name": "n", "url": "https://example.com"}, status=403)
    host.close()


def test_the_list_links_to_the_form_in_both_of_its_states(ada, acme):
    ada.get(f"{PREFIX}/").click("New endpoint")
    post_endpoint(acme)
    ada.get(f"{PREFIX}/").click("New endpoint")


HOSTILE = "</textarea></script><script>alert(1)</script>'\" onfocus=x {{ 7*7 }} %(name)s %s \u202e"


def test_hostile_text_is_shown_as_text(ada):
    form = filled(ada, name="", description=HOSTILE, url=HOSTILE, events="some")
    form["event_lines"] = HOSTILE
    form["header_name"], form["header_value"] = HOSTILE, HOSTILE
    form["metadata_name"], form["metadata_value"] = HOSTILE, HOSTILE

    page = form.submit(status=422)

    assert "<script>alert" not in page.text
    assert form_of(page)["description"].value == HOSTILE
    assert form_of(page).fields["metadata_value"][0].value == HOSTILE


def sent(app: TestApp, body, **options):
    return app.post(NEW, body, expect_errors=True, **options)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 422),
        ("%00=%00&name=%00&url=%00&description=%00&metadata_name=%00&header_name=%00&once=%00", 422),
        ("name=n&url=https://example.com&once=%00", 400),
        ("name=n&url=https://example.com&once=" + "x" * 300, 400),
        ("name=%00&url=%00&description=%00&metadata_name=%00&header_name=%00&secret=%00", 422),
        ("name=%ED%A0%80&url=%ED%A0%80&description=%ED%A0%80&event_lines=%ED%A0%80&events=some", 422),
        (b"name=\xff\xfe&url=\xed\xa0\x80", 422),
        ("name=a&name=b&url=x&url=y&timeout_seconds=1&timeout_seconds=z", 422),
        ("header_name=a&header_name=b&header_value=c&metadata_value=x&metadata_value=y", 422),
        ("&".join(f"header_name=x{number}&header_value=v" for number in range(50)), 422),
        ("&".join(f"header_name=x{number}&header_value=v" for number in range(1000)), 400),
        ("&".join(f"metadata_name=x{number}" for number in range(1000)), 400),
        ("&".join(f"replace-x{number}=v" for number in range(1000)), 400),
        ("events=some&" + "&".join("event_type=a" for _ in range(2000)), 400),
        ("events=some&event_lines=" + "a%0A" * 999, 422),
        ("add=nonsense&name=x", 200),
        ("add=header&" + "&".join("header_name=" for _ in range(100)), 400),
        ("timeout_seconds=" + "9" * 5000, 422),
        ("timeout_seconds=%D9%A1", 422),
        ("name=" + "x" * 300_000, 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_form_that_no_page_of_ours_sends_has_a_page_as_its_answer(ada, acme, body, status):
    answer = sent(ada, body, content_type="application/x-www-form-urlencoded")

    assert answer.status_int == status
    assert answer.content_type == "text/html"
    assert answer.html.h1
    assert acme.get(PATH).get_json() == []


def test_a_form_beyond_the_hosts_limit_is_answered_by_a_page(database):
    host = with_portal(database, MAX_CONTENT_LENGTH=1)

    answer = sent(person(host), [("name", "x")] * 3, content_type="multipart/form-data")

    assert answer.status_int == 413
    assert answer.content_type == "text/html"
    host.close()


def test_a_field_without_a_name_is_answered_by_a_page(host):
    body = b"--x\r\nContent-Disposition: form-data\r\n\r\nv\r\n--x--\r\n"

    answer = host.client().post(NEW, data=body, content_type="multipart/form-data; boundary=x")

    assert (answer.status_code, answer.mimetype) == (400, "text/html")


def test_a_form_in_parts_is_read_as_well(ada, acme):
    ada.post(NEW, {"name": "n", "url": "https://example.com"}, content_type="multipart/form-data", status=303)

    assert only(acme)["name"] == "n"


def test_a_form_of_another_site_creates_nothing(ada, acme):
    answer = sent(ada, {"name": "n", "url": "https://example.com"}, headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_int == 403
    assert acme.get(PATH).get_json() == []
