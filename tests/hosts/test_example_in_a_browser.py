"""The example app in a real browser: a person logs in, writes invoices, and sees what becomes of them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import example_app
from example_app.demo_accounts import ACME, PORTAL
from example_app.models import db
from tests.support import servers
from tests.support.accessible import assert_accessible, assert_fits
from tests.support.browser import Look, Visit
from tests.support.sites import Site

pytestmark = pytest.mark.browser


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The example app under its own policy; `visit` opens its pages."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/example.db")
    monkeypatch.setenv("SECRET_KEY", "a secret of the tests")
    app = example_app.create_app()
    with servers.served_by_waitress(app) as port:
        yield Site(cast(Any, SimpleNamespace(app=app)), f"http://127.0.0.1:{port}", [])
    with app.app_context():
        db.engine.dispose()


def assert_good(page: Any) -> None:
    assert_accessible(page)
    assert_fits(page)


@pytest.mark.parametrize("look", [Look(), Look(scheme="dark", width=320), Look(width=320, scripts=False)], ids=str)
def test_a_person_goes_from_the_login_to_an_endpoint_of_the_portal(visit: Visit, look):
    page = visit(PORTAL, look, tenant=None)
    assert_good(page)

    page.get_by_label("Email").fill(ACME.email)
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("Email or password is wrong.").wait_for()
    assert_good(page)

    page.get_by_label("Password").fill(ACME.password)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Webhook endpoints").wait_for()
    assert_good(page)

    page.get_by_role("link", name="Receiver", exact=True).click()
    page.get_by_role("button", name="Add endpoint for works").click()
    page.get_by_text("gets the events of your invoices").wait_for()
    assert_good(page)

    page.get_by_role("link", name="Invoices", exact=True).click()
    page.get_by_label("Customer").fill("Initech")
    page.get_by_label("Amount").fill("much")
    page.get_by_role("button", name="Write invoice").click()
    page.get_by_text("Write an amount").wait_for()
    assert_good(page)

    page.get_by_label("Amount").fill("42.00")
    page.get_by_role("button", name="Write invoice").click()
    page.get_by_text("Invoice 1 is written").wait_for()
    page.get_by_role("button", name="Mark paid: invoice 1").click()
    page.get_by_text("Invoice 1 is paid").wait_for()
    assert_good(page)

    page.get_by_role("link", name="Webhooks", exact=True).click()
    page.get_by_role("link", name="Deliveries", exact=True).click()
    page.get_by_role("link", name="invoice.paid").wait_for()
    assert_good(page)


@pytest.mark.parametrize("path", ["/receiver", "/confirm", "/nowhere"])
def test_every_other_page_is_good_in_both_schemes(visit: Visit, path):
    for look in (Look(), Look(scheme="dark", width=320)):
        page = visit("/login", look, tenant=None)
        page.get_by_label("Email").fill(ACME.email)
        page.get_by_label("Password").fill(ACME.password)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", name="Invoices").wait_for()

        page.goto(path)

        assert_good(page)
