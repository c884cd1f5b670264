"""Forms as requests: what is too large, malformed or sent again has no effect, and no error of ours.

A form's effect, its message and its field `once` belong together: all of them happen, once, or none.
"""

from contextlib import closing

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import idempotency
from flask_webhook_endpoints.portal import forms
from tests.support.api import create_endpoint, secret_of
from tests.support.database import on_sqlite
from tests.support.portal import PREFIX, form_to, person, press, with_portal

pytestmark = [on_sqlite, pytest.mark.host(make=with_portal)]


@pytest.fixture
def endpoint(acme):
    return create_endpoint(acme)


@pytest.fixture
def path(endpoint):
    return f"{PREFIX}/{endpoint.id}"


def is_paused(client, endpoint):
    return client.get(endpoint.path).json["status"] == "PAUSED"


def messages(page):
    return [each.text for each in page.html.find_all(class_="whe-flash")]


def number_of_previous(page):
    return len(page.html.find("section", {"aria-labelledby": "whe-previous"}).find_all("li"))


# `urlsplit` raised a ValueError for some of them, which was a 500.
@pytest.mark.parametrize(
    "origin",
    [
        "http://[::1",
        "http://[",
        "http://]",
        "http://[v1.x]",
        "http://localhost:8080",
        "http://localhost:99999999",
        "http://user@localhost",
        "http://localhost@evil.example",
        "http://localhost\\@evil.example",
        "http://localhost, http://evil.example",
        "http://localhost.",
        "file://",
        "",
        "null",
    ],
)
def test_an_origin_that_is_not_ours_or_malformed_is_refused(ada, acme, endpoint, path, origin):
    ada.post(f"{path}/pause", headers={"Origin": origin}, status=403)

    assert not is_paused(acme, endpoint)


@pytest.mark.parametrize("site", ["http://[::1]:5000", "http://[::1]", "https://shop.example:8443", "http://LOCALHOST"])
def test_the_origin_of_this_site_may_be_an_address_or_have_a_port(host, endpoint, site):
    host_header = site.partition("//")[2].lower()

    answer = host.client().post(
        f"{PREFIX}/{endpoint.id}/pause", base_url=site.lower(), headers={"Origin": site, "Host": host_header}
    )

    assert answer.status_code == 303


# The form was read after the endpoint was paused.
@pytest.mark.parametrize(
    ("config", "body"),
    [
        ({"MAX_CONTENT_LENGTH": 1000}, {"data": {"q": "x" * 2000, "from": "list"}}),
        ({}, {"data": {f"f{number}": "x" for number in range(2000)}, "content_type": "multipart/form-data"}),
        ({}, {"data": {"q": "x" * (forms.MAX_BYTES + 1)}}),
    ],
    ids=["over the host's limit", "too many fields", "over ours"],
)
def test_a_form_that_is_too_large_has_no_effect_and_a_page_says_so(host, acme, endpoint, config, body):
    host.app.config.update(config)

    answer = host.client().post(f"{PREFIX}/{endpoint.id}/pause", **body)

    assert answer.status_code == 413
    assert "This form is too long." in answer.text
    assert not is_paused(acme, endpoint)


class Busy(Exception):
    """What SQLite raises where another connection writes."""

    sqlite_errorcode = 5


def fail_once(host, event, cause, part=""):
    """Have the next commit, or the next statement with this part, fail."""
    left = [sa.exc.OperationalError("", {}, cause)]

    def fail(*arguments):
        if left and (event == "commit" or part in arguments[2]):
            raise left.pop()

    with host.app.app_context():
        sa.event.listen(host.db.engine, event, fail)


def test_nothing_is_told_of_a_form_whose_commit_fails_and_it_can_be_sent_again(host, ada, acme, endpoint, path):
    form = form_to(ada.get(f"{path}/secret"), "/rotate")
    before = secret_of(acme, endpoint.path)
    fail_once(host, "commit", ConnectionError("gone"))

    form.submit(status=503)

    assert secret_of(acme, endpoint.path) == before
    assert messages(ada.get(f"{path}/secret")) == []
    assert len(messages(form.submit().follow())) == 1
    assert secret_of(acme, endpoint.path) != before


def test_a_form_that_runs_again_after_a_conflict_tells_its_effect_once(host, ada, acme, endpoint, path):
    form = form_to(ada.get(f"{path}/secret"), "/rotate")
    fail_once(host, "before_cursor_execute", Busy(), "INSERT INTO webhook_secret")

    page = form.submit().follow()

    assert len(messages(page)) == 1
    assert number_of_previous(page) == 1


def test_programs_that_use_up_the_keys_of_a_day_do_not_keep_people_from_rotating(monkeypatch, host, ada, acme, path):
    create_endpoint(acme)
    monkeypatch.setattr(idempotency, "MAX_KEYS", 0)
    form = form_to(ada.get(f"{path}/secret"), "/rotate")

    pages = [form.submit().follow(), form.submit().follow()]

    # Without a key, each of them is a form of its own.
    assert [len(page.html.find("section", {"aria-labelledby": "whe-previous"}).find_all("li")) for page in pages] == [
        1,
        2,
    ]
    with host.app.app_context():
        table = host.db.metadata.tables["webhook_idempotency_key"]
        assert host.db.session.scalar(sa.select(sa.func.count()).select_from(table)) == 0


def rotate(app, endpoint, once, **fields):
    data = {"overlap_seconds": "3600", "once": once, **fields}
    return app.post(f"{PREFIX}/{endpoint.id}/secret/rotate", data, expect_errors=True)


def test_the_mark_of_a_form_says_nothing_to_another_tenant(ada, hank, acme, globex, endpoint):
    theirs = create_endpoint(globex)
    before = secret_of(globex, theirs.path)
    rotate(ada, endpoint, "the same")

    answer = rotate(hank, theirs, "the same")

    assert (answer.status_int, theirs.id in answer.location) == (303, True)
    assert secret_of(globex, theirs.path) != before


def test_the_mark_of_a_form_is_that_forms_alone(ada, acme, endpoint):
    other = create_endpoint(acme)
    before = secret_of(acme, other.path)
    rotate(ada, endpoint, "the same")

    answers = [rotate(ada, other, "the same"), rotate(ada, endpoint, "the same", overlap_seconds="0")]

    assert [answer.status_int for answer in answers] == [422, 422]
    assert all("You sent this form before" in answer for answer in answers)
    assert secret_of(acme, other.path) == before


def test_a_form_that_is_sent_again_is_refused_where_the_host_has_come_to_refuse_it(database):
    refused = set()
    with closing(with_portal(database, authorize=lambda action, _: action not in refused)) as host:
        endpoint = create_endpoint(host.client())
        assert rotate(person(host), endpoint, "the same").status_int == 303
        refused.add("rotate_secret")

        assert rotate(person(host), endpoint, "the same").status_int == 403


def test_messages_travel_in_a_cookie_that_has_no_secret_and_no_header(host, endpoint):
    """The cookie of Flask's session is signed, not encrypted."""
    client = host.client()
    private = {"secret": "hunter22 hunter22", "header_name": "X-Key", "header_value": "hunter22"}
    settings = {"name": "n", "url": "https://example.com/?key=hunter22", "timeout_seconds": "7", **private}

    for path, data in (
        (f"{endpoint.id}/settings", {**settings, "version": "1"}),
        (f"{endpoint.id}/secret/rotate", {"overlap_seconds": "0", "secret": private["secret"]}),
        ("new", settings),
    ):
        answer = client.post(f"{PREFIX}/{path}", data=data)
        with client.session_transaction() as session:
            told = session.pop("_flashes")

        assert (answer.status_code, len(told)) == (303, 1), path
        assert "hunter22" not in str(told) + answer.location


def test_two_people_who_press_the_same_button_pause_once(ada, host, acme, endpoint):
    pages = [ada.get(f"{PREFIX}/"), person(host).get(f"{PREFIX}/")]
    press(pages[0], "Pause")
    since = acme.get(endpoint.path).json["paused_at"]

    assert "is paused" in press(pages[1], "Pause").follow()
    assert acme.get(endpoint.path).json["paused_at"] == since
