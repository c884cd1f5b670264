"""The people who use the portal of `host`."""

import pytest
from webtest import TestApp

from tests.support.hosts import Host
from tests.support.portal import person


@pytest.fixture
def ada(host: Host) -> TestApp:
    """The browser of a person of the tenant `acme`."""
    return person(host, "acme")


@pytest.fixture
def hank(host: Host) -> TestApp:
    """The browser of a person of the tenant `globex`."""
    return person(host, "globex")
