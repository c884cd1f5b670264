"""What `tenant` returns for nobody, and by mistake."""

import uuid

import pytest

from tests.support import hosts
from tests.support.api import post_endpoint
from tests.support.database import on_sqlite


@pytest.fixture
def asking(database):
    """Make a host whose `tenant` returns what it is told to."""
    made = []

    def asking(tenant):
        host = hosts.flask_sqlalchemy(database, tenant=lambda: tenant)
        made.append(host)
        return host.client(None)

    yield asking
    for host in made:
        host.close()


# They were a 401 without a word, which sent the customer looking for a fault that was the host's.
MISTAKES = {
    "empty": ("", ValueError, r"tenant.*1 to 255 characters.*0"),
    "too long": ("x" * 256, ValueError, r"tenant.*1 to 255 characters.*256"),
    "far too long": ("x" * 100_000, ValueError, r"tenant.*1 to 255 characters.*100000"),
    "a long number": (10**255, ValueError, r"tenant.*1 to 255 characters.*256"),
    "NUL": ("a\x00b", ValueError, r"tenant.*NUL"),
    "a surrogate": ("\ud800", ValueError, r"tenant.*surrogate"),
    "False": (False, TypeError, r"tenant.*bool"),
    "True": (True, TypeError, r"tenant.*bool"),
    "bytes": (b"acme", TypeError, r"tenant.*bytes"),
    "a fraction": (7.0, TypeError, r"tenant.*float"),
    "a list": (["acme"], TypeError, r"tenant.*list"),
    "a row": (object(), TypeError, r"tenant.*object"),
}


@on_sqlite
@pytest.mark.parametrize("case", MISTAKES)
def test_a_tenant_that_none_can_be_is_an_error_that_says_so(asking, case):
    tenant, error, message = MISTAKES[case]
    client = asking(tenant)

    for ask in (
        lambda: client.get("/v1/endpoints"),
        lambda: post_endpoint(client),
        lambda: client.delete("/v1/endpoints/unknown"),
    ):
        with pytest.raises(error, match=message) as caught:
            ask()
        assert len(str(caught.value)) < 300


def test_in_production_it_is_the_hosts_own_500(asking):
    client = asking("")
    client.application.config.update(TESTING=False, PROPAGATE_EXCEPTIONS=False)
    client.application.logger.disabled = True

    assert client.get("/v1/endpoints").status_code == 500


@pytest.mark.parametrize("tenant", ["x", "x" * 255, "é" * 255, 0, -1, 10**254, uuid.UUID(int=7), " "], ids=repr)
def test_what_can_be_a_tenant_is_one(asking, tenant):
    client = asking(tenant)

    assert post_endpoint(client).status_code == 201
    assert len(client.get("/v1/endpoints").json) == 1


def test_nobody_is_401(asking):
    assert asking(None).get("/v1/endpoints").status_code == 401
