"""Lists of endpoints: searched, and filtered by their state; the number of a tenant's endpoints."""

from functools import partial

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flask_webhook_endpoints.core import endpoint_lists
from flask_webhook_endpoints.database.models import EndpointStatus
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import statements_of
from tests.support.deliveries import publish

pytestmark = pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600])

HOSTILE = ["100% sure", "100_sure", "100!%_sure", 'it\'s \\ "quoted"', "a/b", "naïve Ünïcode ✓", "; DROP TABLE x; --"]


def listed(host, tenant_id="acme", **chosen):
    """Return the names of the endpoints that a list has."""
    with host.app.app_context():
        state = current_state()
        page = state.run(
            lambda scope: endpoint_lists.page(scope.of(tenant_id), cipher=state.cipher, **chosen), commit=False
        )
    return [endpoint.name for endpoint in page]


def test_a_search_finds_parts_of_names_and_urls_in_any_case(host, acme, globex):
    create_endpoint(acme, "https://one.example.com/Orders", name="First")
    create_endpoint(acme, "https://two.example.com/", name="second ORDERS")
    create_endpoint(acme, "https://three.example.com/", name="third")
    create_endpoint(globex, "https://one.example.com/orders", name="theirs")

    assert listed(host, search="oRdErS") == ["First", "second ORDERS"]
    assert listed(host, search="EXAMPLE.com/o") == ["First"]
    assert listed(host, search="") == ["First", "second ORDERS", "third"]
    assert listed(host, search="nowhere") == []
    assert listed(host, search="r", limit=1) == ["First"]


@pytest.mark.only_on("postgresql", "mariadb")
def test_a_search_folds_the_case_of_all_letters_where_the_database_knows_them(host, acme):
    create_endpoint(acme, name="Übersicht")

    assert listed(host, search="ÜBERSICHT") == listed(host, search="übersicht") == ["Übersicht"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_search_takes_every_character_as_itself(host, acme, name):
    for each in [*HOSTILE, "100 sure", "100xsure"]:
        create_endpoint(acme, name=each)

    assert listed(host, search=name) == [name]


@pytest.mark.parametrize(
    "text", ["\0", "a\0", "\ud800", "x" * 1_000_000, "%" * 2_048], ids=["nul", "end", "surrogate", "long", "wildcards"]
)
def test_a_search_for_what_no_endpoint_can_have_finds_nothing(host, acme, text):
    create_endpoint(acme, name="a")

    assert listed(host, search=text) == []


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40))
@example(text="\\")
@example(text="😀%")
def test_a_search_never_fails(host, text):
    assert listed(host, search=text) == []


def test_lists_have_one_state_or_those_that_fail(host, acme, webhook_receiver):
    failing = create_endpoint(acme, webhook_receiver.url, name="failing")
    webhook_receiver.answer(500)
    publish(host)
    drain(host.app)
    create_endpoint(acme, name="well")
    change_endpoint(acme, create_endpoint(acme, name="paused"), status="PAUSED")

    assert listed(host, failing=True) == ["failing"]
    assert listed(host, status=EndpointStatus.ACTIVE) == ["failing", "well"]
    assert listed(host, status=EndpointStatus.PAUSED) == ["paused"]
    assert listed(host, status=EndpointStatus.PAUSED, failing=True, search="a") == []
    change_endpoint(acme, failing, status="PAUSED")
    assert listed(host, failing=True) == listed(host, failing=True, status=EndpointStatus.PAUSED) == ["failing"]
    assert listed(host, "globex", failing=True) == []


def test_without_filters_the_statement_has_none(host, acme):
    create_endpoint(acme)
    with statements_of(host) as sent:
        listed(host)

    [statement] = [text for text, _ in sent if "FROM webhook_endpoint" in text]
    assert "LIKE" not in statement.upper()
    assert "EXISTS" not in statement.upper()
    assert str(sa.text(statement)).rstrip().endswith("ORDER BY webhook_endpoint.id")


def test_a_tenants_endpoints_are_counted(host, acme, globex):
    create_endpoint(globex)
    for _ in range(3):
        change_endpoint(acme, create_endpoint(acme), status="PAUSED")

    with host.app.app_context():
        counts = [
            current_state().run(partial(_count, tenant_id=each), commit=False) for each in ("acme", "globex", "none")
        ]

    assert counts == [3, 1, 0]


def _count(scope, *, tenant_id):
    return endpoint_lists.count(scope.of(tenant_id))
