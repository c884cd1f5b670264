"""The secret of an endpoint: on demand, rotated with an overlap, never kept by a browser."""

import pytest

from tests.support.api import create_endpoint, secret_of
from tests.support.database import on_sqlite
from tests.support.portal import PREFIX, person, with_portal

pytestmark = [on_sqlite, pytest.mark.host(make=with_portal)]

OWN = "whsec_" + "QUFB" * 11


@pytest.fixture
def endpoint(acme):
    return create_endpoint(acme)


@pytest.fixture
def path(endpoint):
    return f"{PREFIX}/{endpoint.id}/secret"


def form(page, name):
    return next(each for each in page.forms.values() if each.action.endswith(name))


def test_the_secret_shows_on_demand_alone_and_no_browser_keeps_it(ada, acme, endpoint, path):
    page = ada.get(path)
    secret = secret_of(acme, endpoint.path)

    revealed = form(page, "/secret").submit()

    assert secret not in page
    assert secret in revealed
    assert {page.headers["Cache-Control"], revealed.headers["Cache-Control"]} == {"no-store"}


@pytest.mark.parametrize("seconds", [0, 3600, 86_400, 604_800])
def test_a_rotation_with_each_overlap(ada, acme, endpoint, path, seconds):
    before = secret_of(acme, endpoint.path)
    rotate = form(ada.get(path), "/rotate")
    rotate["overlap_seconds"] = str(seconds)

    page = rotate.submit().follow()

    assert "The new secret signs from now on" in page
    assert secret_of(acme, endpoint.path) != before
    assert ("Previous secrets" in page) is (seconds > 0)


def test_a_secret_of_ones_own(ada, acme, endpoint, path):
    rotate = form(ada.get(path), "/rotate")
    rotate["secret"] = OWN

    rotate.submit().follow()

    assert secret_of(acme, endpoint.path) == OWN


def test_a_form_that_is_sent_twice_rotates_once(ada, acme, endpoint, path):
    rotate = form(ada.get(path), "/rotate")

    rotate.submit()
    after = secret_of(acme, endpoint.path)
    rotate.submit()

    assert secret_of(acme, endpoint.path) == after


def test_a_form_that_is_sent_again_with_other_values_is_shown_again(ada, acme, endpoint, path):
    rotate = form(ada.get(path), "/rotate")
    rotate.submit()
    after = secret_of(acme, endpoint.path)
    rotate["overlap_seconds"] = "0"

    page = rotate.submit(status=422)

    assert "You sent this form before" in page
    assert secret_of(acme, endpoint.path) == after
    assert form(page, "/rotate").submit().status_int == 303


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"secret": "short"}, "secret"),
        ({"secret": "whsec_abc"}, "secret"),
        ({"secret": "x" * 16 + "\n"}, "secret"),
        ({"overlap_seconds": "-1"}, "overlap_seconds"),
        ({"overlap_seconds": "9999999"}, "overlap_seconds"),
        ({"overlap_seconds": "٣"}, "overlap_seconds"),
        ({"overlap_seconds": ""}, "overlap_seconds"),
        ({"overlap_seconds": "9" * 5000}, "overlap_seconds"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_fault_stands_beside_its_field_and_the_secret_is_not_shown_again(ada, acme, endpoint, fields, fault):
    before, path = secret_of(acme, endpoint.path), f"{PREFIX}/{endpoint.id}/secret"

    page = ada.post(f"{path}/rotate", {"overlap_seconds": "0", **fields}, status=422)

    assert page.html.find(id=f"whe-{fault}-fault").text.strip()
    assert page.html.find(id="whe-errors").find("a")["href"] == f"#whe-{fault}"
    assert page.html.find(id=f"whe-{fault}") is not None
    if "secret" in fields:
        assert fields["secret"] not in page
    assert secret_of(acme, endpoint.path) == before


@pytest.mark.parametrize("method", ["get", "post"])
def test_another_tenants_secret_is_not_there(hank, path, method):
    getattr(hank, method)(path, status=404)
    hank.post(f"{path}/rotate", {"overlap_seconds": "0"}, status=404)


def test_what_the_host_refuses_is_refused_and_hidden(database):
    refused = set()
    host = with_portal(database, authorize=lambda action, _: action not in refused)
    endpoint = create_endpoint(host.client())
    path, browser = f"{PREFIX}/{endpoint.id}", person(host)

    refused.add("rotate_secret")
    assert "Rotate" not in browser.get(f"{path}/secret")
    browser.post(f"{path}/secret/rotate", {"overlap_seconds": "0"}, status=403)
    refused.add("read_secret")
    browser.get(f"{path}/secret", status=403)
    browser.post(f"{path}/secret", status=403)
    assert "Secret" not in browser.get(path)
    host.close()


@pytest.mark.several_connections
def test_a_secret_whose_key_is_lost_can_be_rotated(database):
    host = with_portal(database)
    endpoint = create_endpoint(host.client())
    host.close()
    host = with_portal(database, SECRET_KEY="another one")
    browser = person(host)

    page = browser.get(f"{PREFIX}/{endpoint.id}/secret")

    assert "can't be read any more" in page.html.text
    form(page, "/rotate").submit().follow()
    assert "Show the secret" in browser.get(f"{PREFIX}/{endpoint.id}/secret")
    host.close()
