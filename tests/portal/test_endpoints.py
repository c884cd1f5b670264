"""The list of endpoints."""

import pytest

from tests.support.api import create_endpoint
from tests.support.portal import PREFIX, with_portal

pytestmark = pytest.mark.host(make=with_portal)


def names(page):
    return [row.bdi.text for row in page.html.find_all("th", scope="row")]


def test_a_tenant_without_endpoints_sees_three_steps(ada):
    assert len(ada.get(f"{PREFIX}/").html.find("ol").find_all("li")) == 3


def test_a_tenant_sees_its_endpoints_alone(ada, acme, globex):
    create_endpoint(acme, name="ours")
    create_endpoint(globex, name="theirs")

    page = ada.get(f"{PREFIX}/")

    assert names(page) == ["ours"]
    assert "1 of 100" in page


def test_pages_follow_each_other_without_a_gap(ada, acme):
    for number in range(26):
        create_endpoint(acme, name=f"n{number}")
    first = ada.get(f"{PREFIX}/")

    second = first.click("Next page")

    assert names(first) + names(second) == [f"n{number}" for number in range(26)]
    assert names(second.click("First page")) == names(first)


def test_an_endpoint_is_paused_and_resumed_from_the_list(ada, acme):
    endpoint = create_endpoint(acme)

    paused = ada.get(f"{PREFIX}/").forms[0].submit().follow()

    assert "is paused" in paused
    assert acme.get(endpoint.path).get_json()["status"] == "PAUSED"
    assert "is active" in paused.forms[0].submit().follow()
    assert acme.get(endpoint.path).get_json()["status"] == "ACTIVE"
