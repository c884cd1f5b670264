"""The settings of an endpoint: each person writes the fields that the person has changed, and nothing else."""

import re

import pytest
from werkzeug.datastructures import MultiDict

from flask_webhook_endpoints import signals
from flask_webhook_endpoints.api.endpoint_schemas import EndpointChanges
from flask_webhook_endpoints.portal import endpoint_form, forms
from flask_webhook_endpoints.security.encryption import Cipher
from flask_webhook_endpoints.settings import Settings
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import on_sqlite
from tests.support.portal import PREFIX, person, with_portal

pytestmark = pytest.mark.host(make=with_portal)

SECRET = "Bearer of-theirs"
FULL = {
    "name": "orders",
    "url": "https://example.com/hook?x=1",
    "timeout_seconds": 7,
    "description": "Two\r\nlines",
    "event_types": ["b.*", "a.b"],
    "headers_json": {"Authorization": SECRET, "X-Team": "blue"},
    "metadata": {"k": "v", "lines": "one\r\ntwo\n"},
}


def test_people_change_every_field_that_programs_change():
    elsewhere = {"secret": "the page of secrets", "status": "buttons"}

    # Add a new one to `FIELDS` in portal/endpoint_form.py, and a value of it to `FULL` above.
    assert set(endpoint_form.FIELDS) == EndpointChanges._declared_fields.keys() - elsewhere.keys()
    assert endpoint_form.FIELDS.keys() == FULL.keys()
    assert endpoint_form.FIELDS.keys() == dict(endpoint_form.EndpointForm().fields()).keys()


@pytest.fixture
def endpoint(acme):
    return create_endpoint(acme, **FULL)


@pytest.fixture
def path(endpoint):
    return f"{PREFIX}/{endpoint.id}/settings"


def form_of(page):
    return page.forms[0]


def now(client, endpoint):
    return client.get(endpoint.path).get_json()


def fault(page, part):
    return page.html.find(id=f"whe-{part}-fault").text.strip()


def conflicts(page):
    """Return the conflicts that a page shows: of each field, the person's own value and the saved one."""
    shown = {}
    for each in page.html.find(id="whe-errors").find_all("dl"):
        yours, saved = ([line.text for line in side.find_all("dd")] for side in each.find_all("div"))
        shown[each.find_previous("h3").text] = (yours, saved)
    return shown


def test_the_form_shows_and_takes_every_field(host, ada, endpoint, path):
    page = ada.get(path)
    sent = MultiDict([*form_of(page).submit_fields(), ("header_name", "X-Team"), ("header_value", "blue")])
    blank = endpoint_form.blank(Settings())
    with host.app.test_request_context(method="POST", data=sent):
        taken = endpoint_form.read(blank).fields()

    # If it fails: `EndpointForm`, its `fields`, `of` and `read` in portal/endpoint_form.py, or form_endpoint.html.
    for name in endpoint_form.FIELDS:
        assert taken[name] != blank.fields()[name], name
        # Links to what is wrong, or was saved meanwhile, lead there.
        assert page.html.find(id=f"whe-{name.removesuffix('_json')}"), name


def test_a_form_that_is_sent_as_it_came_changes_nothing(ada, acme, endpoint, path):
    page = form_of(ada.get(path)).submit().follow()

    assert "are saved" in page
    assert now(acme, endpoint) == endpoint


def test_a_line_end_at_the_beginning_of_a_text_is_doubled_for_browsers_which_leave_one_out(ada, acme, endpoint, path):
    change_endpoint(acme, endpoint, description="\nafter it")

    assert ">\n\nafter it</textarea>" in ada.get(path)


def test_what_the_person_changes_is_written(ada, acme, endpoint, path):
    form = form_of(ada.get(path))
    form["name"], form["timeout_seconds"], form["description"] = "new name", "9", ""
    form["event_lines"] = "a.b\nc"
    form.set("metadata_value", "w", 0)
    form.set("metadata_name", "", 1)
    form.set("metadata_value", "", 1)

    form.submit(status=303)

    changed = now(acme, endpoint)
    assert {name for name in endpoint if changed[name] != endpoint[name]} == {
        "name", "timeout_seconds", "description", "event_types", "metadata", "updated_at",
    }  # fmt: skip
    assert changed["description"] is None
    assert changed["event_types"] == ["a.b", "c"]
    assert changed["metadata"] == {"k": "w"}


def test_values_of_headers_are_in_no_page(ada, endpoint, path):
    form = form_of(ada.get(path))
    added = form.submit("add", value="header")
    form["name"] = ""
    refused = form.submit(status=422)

    for page in (ada.get(path), added, refused):
        assert SECRET not in page.text
        assert "blue" not in page.text
        assert "Authorization" in page


def test_a_header_is_replaced_another_removed_and_one_is_added(ada, acme, endpoint, path):
    form = form_of(ada.get(path))
    form["replace-Authorization"] = "another"
    form["remove-X-Team"] = True
    form["header_name"], form["header_value"] = "X-New", ""

    form.submit(status=303)

    assert now(acme, endpoint)["headers_json"] == {"Authorization": "another", "X-New": ""}


def test_a_removed_header_may_be_added_with_an_empty_value(ada, acme, endpoint, path):
    form = form_of(ada.get(path))
    form["remove-X-Team"] = True
    form["header_name"] = "x-team"

    form.submit(status=303)

    assert now(acme, endpoint)["headers_json"] == {"Authorization": SECRET, "x-team": ""}


def test_saved_headers_stay_beside_a_new_one(ada, acme, endpoint, path):
    form = form_of(ada.get(path))
    form["header_name"], form["header_value"] = "X-New", "1"

    form.submit(status=303)

    assert now(acme, endpoint)["headers_json"] == {**FULL["headers_json"], "X-New": "1"}


def test_a_header_whose_value_is_the_mask_is_kept_and_none_gets_it(ada, acme, path, endpoint):
    """Tenants that read values may give `***` by the API; in a form it is what somebody copied from a page."""
    change_endpoint(acme, endpoint, headers_json={"X-Stars": "***", "X-Other": "o"})
    form = form_of(ada.get(path))
    form["replace-X-Other"] = "p"
    form.submit(status=303)
    assert now(acme, endpoint)["headers_json"] == {"X-Stars": "***", "X-Other": "p"}

    form = form_of(ada.get(path))
    form["replace-X-Other"] = "***"
    page = form.submit(status=422)

    assert "Give the value itself" in fault(page, "headers-0")
    assert page.html.find("details", open=True)


def test_who_may_not_read_the_values_changes_headers_all_the_same(database):
    host = with_portal(database, authorize=lambda action, ep_id: action != "read_headers")
    ada, acme = person(host), host.client()
    endpoint = create_endpoint(acme, headers_json={"A": "a", "B": "b"})
    form = form_of(ada.get(f"{PREFIX}/{endpoint.id}/settings"))
    form["replace-A"] = "c"

    form.submit(status=303)

    with host.app.test_request_context(headers={"X-Tenant": "acme"}):
        assert dict(host.webhooks.endpoints.get(endpoint.id, tenant_id="acme").headers) == {"A": "c", "B": "b"}
    host.close()


def test_headers_that_are_too_large_with_the_saved_ones_are_refused(ada, acme, endpoint, path):
    change_endpoint(acme, endpoint, headers_json={"A": "a" * 4096})
    form = form_of(ada.get(path))
    form["header_name"], form["header_value"] = "B", "b" * 4096

    page = form.submit(status=422)

    assert "8192 bytes" in fault(page, "headers")
    assert page.html.find("a", href="#whe-headers")


@pytest.mark.several_connections
def test_headers_whose_key_is_lost_can_be_given_again(database):
    keys = ["A" * 43 + "=", "B" * 42 + "A="]
    host = with_portal(database, encryption_keys=(keys[0],))
    endpoint = create_endpoint(host.client(), headers_json={"A": "a"})
    host.close()
    host = with_portal(database, encryption_keys=(keys[1],))
    ada = person(host)
    path = f"{PREFIX}/{endpoint.id}/settings"
    form = form_of(ada.get(path))
    form["name"] = "renamed"
    form.submit(status=303)

    page = ada.get(path)
    assert "The saved headers can" in page
    form = form_of(page)
    form["header_name"], form["header_value"] = "A", "again"
    form.submit(status=303)

    assert now(host.client(), endpoint)["headers_json"] == {"A": "again"}
    host.close()


def test_faults_keep_what_was_typed(ada, acme, endpoint, path):
    form = form_of(ada.get(path))
    form["name"], form["url"] = "kept", "ftp://x"
    form["replace-X-Team"] = "red"
    form["remove-Authorization"] = True

    page = form.submit(status=422)

    again = form_of(page)
    assert fault(page, "url")
    assert (again["name"].value, again["url"].value) == ("kept", "ftp://x")
    assert again["replace-X-Team"].value == "red"
    assert again["remove-Authorization"].checked
    assert now(acme, endpoint) == endpoint
    again["url"] = "https://example.com/mended"
    again.submit(status=303)
    assert now(acme, endpoint)["headers_json"] == {"X-Team": "red"}


@pytest.mark.several_connections
def test_a_field_that_is_saved_and_not_changed_is_not_judged(database):
    """A host may have tightened its rules since: the other fields can be changed all the same."""
    host = with_portal(database)
    endpoint = create_endpoint(host.client(), "http://example.com/")
    host.close()
    host = with_portal(database, require_https=True)
    form = form_of(person(host).get(f"{PREFIX}/{endpoint.id}/settings"))
    form["name"] = "renamed"

    form.submit(status=303)

    assert now(host.client(), endpoint)["name"] == "renamed"
    host.close()


def declaring(url):
    host = with_portal(url)
    host.webhooks.event_type("invoice.paid")
    host.webhooks.event_type("invoice.sent")
    return host


@pytest.mark.several_connections
def test_a_choice_that_is_not_declared_any_more_is_shown_and_kept(database):
    host = with_portal(database)
    endpoint = create_endpoint(host.client(), event_types=["old.event", "webhook.ping", "invoice.paid"])
    host.close()
    host = declaring(database)
    ada, acme = person(host), host.client()
    path = f"{PREFIX}/{endpoint.id}/settings"
    page = ada.get(path)
    assert "Chosen besides" in page
    assert page.text.count("This event is not among those that are published.") == 1
    form = form_of(page)
    form.fields["event_type"][2].checked = True

    form.submit(status=303)

    assert set(now(acme, endpoint)["event_types"]) == {"old.event", "webhook.ping", "invoice.paid", "invoice.sent"}
    form = form_of(ada.get(path))
    for box in form.fields["event_type"]:
        box.checked = box._value == "old.event"
    form.submit(status=303)
    assert now(acme, endpoint)["event_types"] == ["old.event"]
    form = form_of(ada.get(path))
    form["events"] = "all"
    form.submit(status=303)
    assert now(acme, endpoint)["event_types"] is None
    host.close()


# Two people who edit at once.


def test_two_people_who_change_the_same_field_see_both_values_and_lose_nothing(ada, acme, endpoint, path):
    mine, theirs = form_of(ada.get(path)), form_of(ada.get(path))
    theirs["name"] = "theirs"
    theirs.submit(status=303)
    mine["name"], mine["description"] = "mine", "mine too"

    page = mine.submit(status=409)

    assert conflicts(page) == {"Name": (["mine"], ["theirs"])}
    assert now(acme, endpoint)["name"] == "theirs"
    again = form_of(page)
    assert (again["name"].value, again["description"].value.strip()) == ("mine", "mine too")
    again.submit(status=303)
    assert (now(acme, endpoint)["name"], now(acme, endpoint)["description"]) == ("mine", "mine too")


def test_a_field_that_only_the_other_person_changed_keeps_that_value(ada, acme, endpoint, path):
    mine = form_of(ada.get(path))
    change_endpoint(acme, endpoint, url="https://theirs.example/", event_types=None, timeout_seconds=3)
    mine["name"] = "mine"

    page = mine.submit(status=409)

    assert conflicts(page) == {
        "URL": (["https://example.com/hook?x=1"], ["https://theirs.example/"]),
        "Events": (["b.*", "a.b"], ["All events"]),
        "Time limit": (["7"], ["3"]),
    }
    assert page.text.count("You did not change this field") == 3
    form_of(page).submit(status=303)
    saved = now(acme, endpoint)
    assert (saved["name"], saved["url"], saved["event_types"]) == ("mine", "https://theirs.example/", None)
    assert saved["timeout_seconds"] == 3


def test_the_person_may_leave_everything_as_it_was_saved(ada, acme, endpoint, path):
    mine = form_of(ada.get(path))
    change_endpoint(acme, endpoint, name="theirs")
    mine["name"] = "mine"

    page = mine.submit(status=409).click("Leave it as it was saved")

    assert form_of(page)["name"].value == "theirs"
    assert now(acme, endpoint)["name"] == "theirs"


def test_headers_that_two_people_change_are_both_kept(ada, acme, endpoint, path):
    mine = form_of(ada.get(path))
    change_endpoint(acme, endpoint, headers_json={"Authorization": "theirs", "X-Theirs": "t"})
    mine["replace-X-Team"] = "green"
    mine["header_name"], mine["header_value"] = "x-theirs", "mine"

    page = mine.submit(status=409)

    assert "theirs" not in page.text.replace("X-Theirs", "").replace("x-theirs", "")
    assert conflicts(page) == {
        "Custom headers": (
            ["Authorization", "X-Theirs, with another value", "X-Team, with another value"],
            ["Authorization", "X-Theirs"],
        )
    }
    form_of(page).submit(status=303)
    assert now(acme, endpoint)["headers_json"] == {"Authorization": "theirs", "X-Theirs": "mine", "X-Team": "green"}


def test_a_change_of_headers_alone_is_seen(ada, acme, endpoint, path):
    mine = form_of(ada.get(path))
    change_endpoint(acme, endpoint, headers_json={**FULL["headers_json"], "X-Team": "theirs"})
    mine["remove-X-Team"] = True

    page = mine.submit(status=409)

    assert conflicts(page) == {"Custom headers": (["Authorization", "X-Team, removed"], ["Authorization", "X-Team"])}
    assert now(acme, endpoint)["headers_json"]["X-Team"] == "theirs"


@pytest.mark.parametrize("change", [{"status": "PAUSED"}, {"secret": "a secret of theirs"}, {"name": "mine"}], ids=str)
def test_a_change_that_the_form_does_not_show_or_that_is_the_same_is_no_conflict(ada, acme, endpoint, path, change):
    mine = form_of(ada.get(path))
    change_endpoint(acme, endpoint, **change)
    mine["name"] = "mine"
    mine["replace-X-Team"] = "green"

    mine.submit(status=303)

    saved = now(acme, endpoint)
    assert (saved["name"], saved["headers_json"]) == ("mine", {"Authorization": SECRET, "X-Team": "green"})
    assert saved["status"] == change.get("status", "ACTIVE")


def test_a_row_that_is_added_meanwhile_hides_no_conflict(ada, acme, endpoint, path):
    mine = form_of(ada.get(path))
    mine["name"] = "mine"
    change_endpoint(acme, endpoint, name="theirs")

    page = form_of(mine.submit("add", value="metadata")).submit(status=409)

    assert conflicts(page) == {"Name": (["mine"], ["theirs"])}


def test_somebody_who_saves_at_the_same_moment_is_noticed(ada, acme, endpoint, path, monkeypatch):
    """The other person's write comes between our look at the endpoint and our own write."""
    run_once = forms.run_once

    def beaten(*arguments, **options):
        change_endpoint(acme, endpoint, name="theirs")
        return run_once(*arguments, **options)

    form = form_of(ada.get(path))
    form["name"] = "mine"
    monkeypatch.setattr(forms, "run_once", beaten)

    page = form.submit(status=409)

    assert conflicts(page) == {"Name": (["mine"], ["theirs"])}
    assert now(acme, endpoint)["name"] == "theirs"


@on_sqlite
@pytest.mark.parametrize("was", ["", "{", "[]", "[" * 20_000, '{"name": 1}', '{"name": "x"}'], ids=lambda was: was[:12])
def test_a_form_that_lost_what_it_showed_overwrites_nothing(ada, acme, endpoint, path, was):
    form = form_of(ada.get(path))
    change_endpoint(acme, endpoint, name="theirs")
    form["name"], form["was"] = "mine", was

    page = form.submit(status=409)

    assert "Name" in conflicts(page)
    assert now(acme, endpoint)["name"] == "theirs"


def test_a_form_that_is_sent_twice_is_saved_once_and_no_conflict_with_itself(ada, acme, endpoint, path):
    form = form_of(ada.get(path))
    form["name"], form["replace-X-Team"] = "mine", "green"

    first, second = form.submit(status=303), form.submit(status=303)

    assert first.location == second.location
    assert now(acme, endpoint)["name"] == "mine"


def test_the_button_back_and_other_values_show_the_form_again(ada, acme, endpoint, path):
    form = form_of(ada.get(path))
    form["name"] = "first"
    form.submit(status=303)
    form["name"] = "second"

    page = form.submit(status=422)

    assert form_of(page)["name"].value == "second"
    page = form_of(page).submit(status=409)
    assert conflicts(page) == {"Name": (["second"], ["first"])}


def test_fingerprints_tell_nothing_and_depend_on_the_key(ada, endpoint, path):
    was = form_of(ada.get(path))["was"].value

    assert not re.search("orders|Bearer|example", was)
    ours, theirs = Cipher(["A" * 43 + "="]), Cipher(["B" * 42 + "A="])
    assert ours.fingerprint("x") == Cipher(["A" * 43 + "="]).fingerprint("x")
    assert len({ours.fingerprint("x"), ours.fingerprint("y"), theirs.fingerprint("x")}) == 3


# Who may do what.


def test_who_may_not_change_the_settings_reads_them_and_finds_no_button(database):
    host = with_portal(database, authorize=lambda action, ep_id: action not in ("update", "delete"))
    ada, acme = person(host), host.client()
    endpoint = create_endpoint(acme, **FULL)
    path = f"{PREFIX}/{endpoint.id}/settings"

    page = ada.get(path)

    # If it fails: settings_shown.html.
    shown = {fact.find_previous("dt").text: fact.text.strip() for fact in page.html.find_all("dd")}
    for name, label in {**endpoint_form.FIELDS, "metadata": "k"}.items():
        assert shown.get(label), name
    assert "Authorization: ***" in page
    assert SECRET not in page.text
    assert "https://example.com/hook?x=1" in page
    assert not page.forms
    assert "Delete" not in page
    ada.post(path, {"version": "1", "name": "x"}, status=403)
    assert "Pause" not in ada.get(f"{PREFIX}/{endpoint.id}")
    host.close()


def test_who_may_not_read_an_endpoint_has_no_settings(database):
    host = with_portal(database, authorize=lambda action, ep_id: action != "read")
    endpoint = create_endpoint(host.client())

    person(host).get(f"{PREFIX}/{endpoint.id}/settings", status=403)
    host.close()


def test_another_tenants_settings_are_not_found(hank, endpoint, path, acme):
    hank.get(path, status=404)
    hank.post(path, {"version": "1", "name": "stolen"}, status=404)

    assert now(acme, endpoint) == endpoint


@on_sqlite
@pytest.mark.parametrize("version", [None, "", "0", "-1", "x", "1.0", "9" * 40, "\u0661", "1\n", "\0"])
def test_a_broken_version_is_answered_by_a_page(ada, acme, endpoint, path, version):
    body = {"name": "x"} if version is None else {"name": "x", "version": version}

    answer = ada.post(path, body, status=400)

    assert "Open the page again" in answer
    assert now(acme, endpoint) == endpoint


def test_fields_that_a_hosts_template_leaves_out_stay_as_they_are(ada, acme, endpoint, path):
    ada.post(path, {"version": "1", "name": "x"}, status=303)

    assert now(acme, endpoint) == {**endpoint, "name": "x", "updated_at": now(acme, endpoint)["updated_at"]}


def test_signals_tell_of_a_change_and_not_of_none(ada, endpoint, path):
    heard = []

    def hear(app, *, endpoint, **_):
        heard.append(endpoint.name)

    with signals.endpoint_updated.connected_to(hear):
        form_of(ada.get(path)).submit()
        form = form_of(ada.get(path))
        form["name"] = "heard"
        form.submit()

    assert heard == ["heard"]
