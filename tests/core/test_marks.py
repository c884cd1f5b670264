"""What a worker remembers of endpoints: one that may ask for rest gets few deliveries until an attempt has ended."""

import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from flask_webhook_endpoints.core import leases, marks
from flask_webhook_endpoints.core.marks import Marks
from flask_webhook_endpoints.core.results import Claimed
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.state import current_state
from tests.support.api import create_endpoint
from tests.support.deliveries import publish


@pytest.fixture
def passed(monkeypatch):
    """The seconds that have passed for workers since the test began."""
    seconds = SimpleNamespace(of_test=0)
    monkeypatch.setattr(marks, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + seconds.of_test))
    return seconds


def test_an_endpoint_has_two_in_flight_until_an_attempt_ends_and_again_after_a_minute_without_one(host, acme, passed):
    create_endpoint(acme)
    publish(host, *range(30))
    worker, other, new = Marks(), Marks(), Marks()
    owner = new_id()
    with host.app.app_context():
        scope = current_state().scope()

        def claimed(by: Marks) -> Sequence[Claimed]:
            return leases.claim(scope, owner, most=100, marks=by, cap=10, max_timeout_seconds=30).deliveries

        first = claimed(worker)
        assert len(first) == 2
        # No time that passes without an answer is a sign that it wants more.
        passed.of_test += 30
        assert (len(claimed(worker)), len(claimed(other))) == (0, 0)
        worker.attempted(first[0].endpoint_id)
        assert len(claimed(other)) == 0
        others = claimed(worker)
        assert len(others) == 8
        leases.give_back(scope, owner, others[:3])
        # A worker that sends it more than two has seen an attempt end.
        again = claimed(new)
        assert len(again) == 3
        leases.give_back(scope, owner, [*first, *others, *again])
        passed.of_test += 61
        assert len(claimed(worker)) == 2
