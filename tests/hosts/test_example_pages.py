"""The example app as a person sees it in a browser: login, pages, forms, and a receiver for tries."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.security import generate_password_hash
from werkzeug.test import TestResponse

import example_app
from example_app import accounts
from example_app.demo_accounts import ACME, GLOBEX, PORTAL, Account
from example_app.login import FRESH_SECONDS
from example_app.models import db
from tests.support.example import arguments, copy_to, environment, processes_with
from tests.support.servers import free_port, is_open
from tests.support.waiting import PATIENCE_SECONDS, wait_until

OF_ACME = {"Authorization": f"Bearer {ACME.key}"}
INVOICE = {"customer": "Initech", "amount": "42.00"}

FROM_ELSEWHERE = pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:8000"},
        {"Origin": "null"},
    ],
    ids=["cross-site", "same-site", "origin", "port", "null"],
)


@contextmanager
def made(database: Path) -> Iterator[Flask]:
    """The example app on this database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", f"sqlite:///{database}")
        patch.setenv("SECRET_KEY", "a secret of the tests")
        app = example_app.create_app()
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture(scope="module", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Passwords that are quick to check: what makes guessing slow takes longer than all else in these tests."""
    accounts._nobodys_hash.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        quick = partial(generate_password_hash, method="pbkdf2:sha256:1")
        patch.setattr(accounts, "generate_password_hash", quick)
        yield
    accounts._nobodys_hash.cache_clear()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the demo's accounts."""
    database = tmp_path_factory.mktemp("fresh") / "example.db"
    with made(database):
        return database


@pytest.fixture
def example(fresh: Path, tmp_path: Path) -> Iterator[Flask]:
    with made(Path(shutil.copy(fresh, tmp_path))) as app:
        yield app


def log_in(browser: FlaskClient, who: Account, path: str = "/login") -> TestResponse:
    return browser.post(path, data={"email": who.email, "password": who.password})


def person(app: Flask, who: Account = ACME) -> FlaskClient:
    browser = app.test_client()
    browser.environ_base["HTTP_ACCEPT"] = "text/html,*/*;q=0.8"
    assert log_in(browser, who).status_code == 303
    return browser


def invoices(app: Flask, who: Account = ACME) -> Any:
    return app.test_client().get("/invoices", headers={"Authorization": f"Bearer {who.key}"}).json


@pytest.mark.parametrize("path", ["/", "/receiver?x=1"])
def test_a_page_asks_for_a_login_and_is_shown_after_it(example, path):
    browser = example.test_client()

    asked = browser.get(path)
    shown = browser.get(asked.location)
    logged_in = log_in(browser, ACME, asked.location)

    assert (asked.status_code, shown.status_code) == (302, 200)
    assert (logged_in.status_code, logged_in.location) == (303, path)
    assert ">acme<" in browser.get(path).text


def test_the_cookie_is_for_no_script_and_for_no_other_sites_forms(example):
    cookie = log_in(example.test_client(), ACME).headers["Set-Cookie"]

    assert cookie.startswith("example_app=")
    assert "; HttpOnly" in cookie
    assert "; SameSite=Lax" in cookie


@pytest.mark.parametrize(
    ("email", "password"),
    [
        (ACME.email, GLOBEX.password),
        (ACME.email, ""),
        (ACME.email, ACME.key),
        ("nobody@acme.example", ACME.password),
        ("a\x00b", ACME.password),
    ],
    ids=["another's", "empty", "key", "nobody", "nul"],
)
def test_a_wrong_login_is_told_the_same_way_and_keeps_the_address(example, email, password):
    browser = example.test_client()

    refused = browser.post("/login", data={"email": email, "password": password})

    assert refused.status_code == 422
    assert "Email or password is wrong." in refused.text
    assert f'value="{email.replace(chr(0), "")}"' in refused.text
    assert browser.get("/").status_code == 302


def test_a_user_without_a_password_cannot_log_in_until_one_is_set(example):
    commands = example.test_cli_runner()
    commands.invoke(args=["add-tenant", "initech", "ada@initech.example"])
    newcomer = Account("initech", "ada@initech.example", "", "correct horse")

    before = log_in(example.test_client(), newcomer)
    done = commands.invoke(args=["set-password", newcomer.email], input="correct horse\ncorrect horse\n")
    unknown = commands.invoke(args=["set-password", "nobody@initech.example", "--password", "x"])

    assert before.status_code == 422
    assert (done.exit_code, unknown.exit_code) == (0, 1)
    assert ">initech<" in person(example, newcomer).get("/").text


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "javascript:alert(1)", ""]
)
def test_no_link_leads_from_the_login_to_another_site(example, path):
    browser = example.test_client()

    answer = browser.post("/login", query_string={"next": path}, data={"email": ACME.email, "password": ACME.password})

    assert answer.location == "/"


def test_a_logout_ends_the_login(example):
    browser = person(example)

    browser.post("/logout")

    assert browser.get("/").status_code == 302


@FROM_ELSEWHERE
def test_a_form_of_another_site_is_refused(example, headers):
    browser = person(example)
    browser.post("/", data=INVOICE)
    before = invoices(example)

    forms = {**INVOICE, "email": GLOBEX.email, "password": GLOBEX.password}
    paths = ["/", "/1/pay", "/1/void", "/login", "/logout", "/v1/endpoints", "/v1/endpoints/ep_1/ping"]
    refused = [browser.post(path, data=forms, headers=headers).status_code for path in paths]

    assert refused == [403] * len(paths)
    assert invoices(example) == before
    assert ">acme<" in browser.get("/").text


def test_a_program_with_a_key_may_write_from_anywhere(example):
    invoice = {"customer": "Initech", "amount_cents": 4200}
    headers = OF_ACME | {"Sec-Fetch-Site": "cross-site", "Origin": "http://shop.example"}

    assert example.test_client().post("/invoices", json=invoice, headers=headers).status_code == 201


def test_the_login_is_good_for_the_endpoints_and_a_key_goes_first(example):
    browser = person(example)
    new = {"name": "n", "url": "https://example.com/"}

    made = browser.post("/v1/endpoints", json=new, headers={"Sec-Fetch-Site": "same-origin"}).json

    of_globex = {"Authorization": f"Bearer {GLOBEX.key}"}
    assert browser.get("/v1/endpoints").json == [made]
    assert browser.get("/v1/endpoints", headers=of_globex).json == []
    assert browser.get("/v1/endpoints", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert browser.get("/invoices", headers={"Accept": "*/*"}).status_code == 401


def test_a_person_writes_pays_and_voids_invoices_and_each_is_published(example):
    browser = person(example)
    browser.post("/v1/endpoints", json={"name": "n", "url": "https://example.com/"})

    written = browser.post("/", data=INVOICE, follow_redirects=True)
    paid = browser.post("/1/pay", follow_redirects=True)
    browser.post("/", data={"customer": "Initech", "amount": "7"})
    voided = browser.post("/2/void", follow_redirects=True)

    assert "Invoice 1 is written" in written.text
    assert "Invoice 1 is paid" in paid.text
    assert "Invoice 2 is voided" in voided.text
    assert "is voided" not in browser.get("/").text
    assert [(invoice["amount_cents"], invoice["paid_on"] is None) for invoice in invoices(example)] == [(4200, False)]
    deliveries = browser.get("/v1/endpoints/deliveries").json
    assert [delivery["event_type"] for delivery in reversed(deliveries)] == [
        "customer.created",
        "invoice.created",
        "invoice.paid",
        "invoice.settled",
        "invoice.created",
        "invoice.voided",
    ]


@pytest.mark.parametrize("action", ["pay", "void"])
@pytest.mark.parametrize("number", [1, 99])
def test_what_cannot_be_done_is_said_and_does_nothing(example, action, number):
    browser = person(example)
    browser.post("/", data=INVOICE)
    browser.post("/1/pay")
    before = invoices(example)

    shown = browser.post(f"/{number}/{action}", follow_redirects=True)

    assert "Nothing has changed." in shown.text
    assert invoices(example) == before


@pytest.mark.parametrize(
    ("customer", "amount", "field"),
    [
        ("", "42.00", "customer"),
        ("a" * 201, "42.00", "customer"),
        ("Initech", "", "amount"),
        ("Initech", "0", "amount"),
        ("Initech", "-1", "amount"),
        ("Initech", "1.005", "amount"),
        ("Initech", "1e9", "amount"),
        ("Initech", "99999999", "amount"),
    ],
)
def test_a_form_that_is_not_valid_keeps_what_was_typed(example, customer, amount, field):
    shown = person(example).post("/", data={"customer": customer, "amount": amount})

    assert shown.status_code == 422
    assert f'aria-describedby="{field}-error"' in shown.text
    assert f'id="{field}-error"' in shown.text
    assert f'value="{customer}"' in shown.text
    assert f'value="{amount}"' in shown.text
    assert invoices(example) == []


def test_a_person_sees_and_changes_nothing_of_another_tenant(example):
    person(example).post("/", data=INVOICE)
    hank = person(example, GLOBEX)

    hank.post("/1/pay")
    hank.post("/1/void")

    assert "Initech" not in hank.get("/").text
    assert [invoice["paid_on"] for invoice in invoices(example)] == [None]


def test_markup_is_shown_as_text_and_no_page_has_any_inline_script_or_style(example):
    browser = person(example)
    browser.post("/", data={"customer": "<script>alert(1)</script>", "amount": "1"})
    browser.post(f"/receiver/{1}/works", data=b'{"type": "<img src=x>"}', headers={"X-Team": "<b>"})

    for path in ("/", "/receiver", "/login", "/nowhere"):
        page = browser.get(path, follow_redirects=True)
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert page.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<script|<style|<img src=x|<b>| style=| on\w+=|javascript:", page.text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in browser.get("/").text


def test_a_browser_gets_errors_as_pages_and_a_program_as_documents(example):
    browser = person(example)

    page = browser.get("/nowhere")
    document = browser.get("/nowhere", headers={"Accept": "*/*"})

    assert (page.status_code, document.status_code) == (404, 404)
    assert "<h1>Not Found</h1>" in page.text
    assert document.json["title"] == "Not Found"
    assert browser.delete("/").headers["Allow"]


@pytest.mark.parametrize(
    ("manner", "status"), [("works", 204), ("fails", 500), ("busy", 429), ("gone", 410), ("nothing", 404)]
)
def test_a_receiver_answers_as_its_name_says(example, manner, status):
    assert example.test_client().post(f"/receiver/1/{manner}", data=b"{}").status_code == status


def test_a_person_adds_an_endpoint_for_a_receiver_and_comes_to_its_page(example):
    ada = person(example)

    shown = ada.post("/receiver/works/endpoint", follow_redirects=True)

    [endpoint] = ada.get("/v1/endpoints").json
    assert shown.request.path == f"{PORTAL}/{endpoint['id']}"
    assert "Receiver: works gets the events of your invoices from now on." in shown.text
    assert endpoint["url"] == "http://localhost/receiver/1/works"
    assert ada.post("/receiver/nothing/endpoint").status_code == 404
    assert example.test_client().post("/receiver/works/endpoint").status_code == 302


def test_one_endpoint_too_many_is_refused_in_words(example):
    ada = person(example)
    for number in range(100):
        endpoint_of(ada, f"number {number}")

    shown = ada.post("/receiver/works/endpoint", follow_redirects=True)

    assert "No endpoint was added." in shown.text
    assert shown.request.path == "/receiver"


def test_the_receiver_shows_what_came_to_its_tenant_alone_and_that_nobody_signed_it(example):
    example.test_client().post("/receiver/1/works", data=b"hello, acme")

    shown = person(example).get("/receiver").text
    assert "hello, acme" in shown
    assert "Not valid" in shown
    assert "hello, acme" not in person(example, GLOBEX).get("/receiver").text


def endpoint_of(browser: FlaskClient, name: str = "the first") -> str:
    """The path of the portal's page of a new endpoint."""
    made = browser.post("/v1/endpoints", json={"name": name, "url": "https://example.com/"})
    return f"{PORTAL}/{made.json['id']}"


def let_minutes_pass(browser: FlaskClient) -> None:
    with browser.session_transaction() as session:
        session["password_typed_at"] -= FRESH_SECONDS


def test_the_portal_is_in_the_apps_own_layout_and_shows_a_person_their_own_tenants_endpoints(example):
    ada, hank = person(example), person(example, GLOBEX)
    page = endpoint_of(ada)

    shown = ada.get(PORTAL, follow_redirects=True)

    assert "the first" in shown.text
    assert ">acme<" in shown.text
    assert f'<a href="{PORTAL}/" aria-current="page">Webhooks</a>' in shown.text
    assert "the first" in ada.get(page).text
    assert "the first" not in hank.get(PORTAL, follow_redirects=True).text
    assert {hank.get(page).status_code, hank.post(f"{page}/pause").status_code} == {404}


def test_no_page_of_the_portal_is_shown_without_a_login(example):
    page = endpoint_of(person(example))
    visitor = example.test_client()

    asked = [visitor.get(path) for path in (f"{PORTAL}/", page, f"{page}/secret", f"{PORTAL}/static/portal.css")]
    sent = visitor.post(f"{page}/pause")

    assert {answer.status_code for answer in (*asked, sent)} == {302}
    assert asked[1].location == f"/login?next={page}"


def test_a_secret_asks_for_the_password_unless_it_was_typed_lately(example):
    ada = person(example)
    page = endpoint_of(ada)
    before = ada.post(f"{page}/secret")
    let_minutes_pass(ada)

    listed = ada.get(f"{PORTAL}/")
    asked = ada.post(f"{page}/secret", headers={"Referer": f"http://localhost{page}/secret"})
    wrong = ada.post(asked.location, data={"password": GLOBEX.password})
    right = ada.post(asked.location, data={"password": ACME.password})
    after = ada.post(f"{page}/secret")

    assert (listed.status_code, asked.status_code, wrong.status_code) == (200, 303, 422)
    assert right.location == f"{page}/secret"
    assert [len(re.findall("whsec_[A-Za-z0-9+/=]{44}", shown.text)) for shown in (before, asked, after)] == [1, 0, 1]


def test_the_api_gives_an_old_login_no_secret_but_a_key(example):
    ada = person(example)
    path = f"/v1/endpoints/{endpoint_of(ada).rpartition('/')[2]}/secret"
    let_minutes_pass(ada)

    assert ada.get(path).status_code == 403
    assert ada.get(path, headers=OF_ACME).status_code == 200


def test_people_of_a_database_from_before_the_login_can_log_in(example, tmp_path):
    person(example).post("/", data=INVOICE)
    with example.app_context():
        db.session.execute(text("DROP TABLE user_password"))
        db.session.commit()

    with made(tmp_path / "example.db") as upgraded:
        assert "Initech" in person(upgraded).get("/").text


class TestRun:
    """`python -m example_app`, as `make run` runs it."""

    @pytest.fixture
    def port(self) -> int:
        return free_port()

    @pytest.fixture
    def run(self, tmp_path: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
        command = [sys.executable, "-m", "example_app", "--port", str(port)]
        folder = copy_to(tmp_path)
        with subprocess.Popen(
            command, cwd=folder, env=environment(HERE=str(tmp_path)), stderr=subprocess.PIPE, text=True
        ) as process:
            yield process
            process.kill()
        assert processes_with(f"HERE={tmp_path}") == []

    @pytest.mark.slow
    def test_it_delivers_what_a_person_does_and_ctrl_c_ends_all_of_it(self, run, port, tmp_path):
        wait_until(lambda: is_open(port))
        url = f"http://127.0.0.1:{port}"
        for path, body in (
            ("/v1/endpoints", {"name": "mine", "url": f"{url}/receiver/1/works"}),
            ("/invoices", {"customer": "Initech", "amount_cents": 4200}),
        ):
            new = Request(url + path, json.dumps(body).encode(), OF_ACME | {"Content-Type": "application/json"})
            urlopen(new, timeout=PATIENCE_SECONDS).close()
        wait_until(lambda: len(delivered(tmp_path / "instance" / "example.db")) == 2)
        browser = build_opener(HTTPCookieProcessor())
        browser.open(f"{url}/login", urlencode({"email": ACME.email, "password": ACME.password}).encode())
        received = browser.open(f"{url}/receiver").read().decode()

        run.send_signal(signal.SIGINT)
        _, shown = run.communicate(timeout=PATIENCE_SECONDS)

        assert received.count("Valid: signed by mine") == 2
        assert run.returncode == 0
        assert f"Log in at {url}/settings/webhooks as ada@acme.example with the password demo-ada." in shown
        assert shown.endswith("\nServer and worker are stopped.\n")
        assert processes_with(f"HERE={tmp_path}") == []

    @pytest.mark.slow
    @pytest.mark.parametrize("program", ["run", "worker"])
    def test_if_one_ends_the_other_is_ended(self, run, port, tmp_path, program):
        wait_until(lambda: is_open(port))
        [one] = [pid for pid in processes_with(f"HERE={tmp_path}") if program in arguments(pid)]

        subprocess.run(["kill", "-KILL", one], check=True)
        run.communicate(timeout=PATIENCE_SECONDS)

        assert run.returncode != 0
        assert processes_with(f"HERE={tmp_path}") == []


def delivered(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT id FROM webhook_delivery WHERE status = 'DELIVERED'").fetchall()
