"""Forms that several people, or two clicks of one person, send at the same moment."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from tests.support import hosts
from tests.support.api import create_endpoint
from tests.support.portal import PREFIX


def busy_portal(url):
    host = hosts.busy(url)
    host.app.register_blueprint(host.webhooks.portal, url_prefix=PREFIX)
    return host


pytestmark = [pytest.mark.several_connections, pytest.mark.host(make=busy_portal)]


def at_once(host, requests):
    """Send forms at the same moment, each from a browser of its own; return the statuses."""
    start = threading.Barrier(len(requests))

    def send(request):
        path, data = request
        start.wait()
        return host.client().post(path, data=data).status_code

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(send, requests))


def number_of(host, table):
    with host.app.app_context():
        return host.db.session.scalar(sa.select(sa.func.count()).select_from(host.db.metadata.tables[table]))


def test_clicks_at_the_same_moment_have_one_effect(host, acme):
    endpoint = create_endpoint(acme)
    rotation = f"{PREFIX}/{endpoint.id}/secret/rotate", {"overlap_seconds": "3600", "once": "a click"}

    statuses = at_once(host, [rotation] * 6)

    assert statuses == [303] * 6
    assert number_of(host, "webhook_secret") == 2


def test_people_who_rotate_pause_and_resume_at_the_same_moment_all_succeed(host, acme):
    endpoint = create_endpoint(acme)
    path = f"{PREFIX}/{endpoint.id}"
    rotations = [(f"{path}/secret/rotate", {"overlap_seconds": "3600", "once": f"of {name}"}) for name in "ab"]

    statuses = at_once(host, [*rotations, *[(f"{path}/pause", {}), (f"{path}/resume", {})] * 2])

    assert statuses == [303] * 6
    assert number_of(host, "webhook_secret") == 3
    shown = acme.get(endpoint.path).json
    assert (shown["status"] == "PAUSED") is (shown["paused_at"] is not None)
