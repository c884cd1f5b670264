"""A process whose errors go to Sentry's SDK, with its defaults; it prints the events.

A process of its own, because the SDK patches the libraries that it finds, for good.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import Any
from unittest import mock

import aiohttp
import sentry_sdk
import sentry_sdk.transport
import sqlalchemy as sa

from flask_webhook_endpoints import signals
from flask_webhook_endpoints.testing import Receiver, drain
from tests.support import hosts

MARK = "hunter22"
"""In each header value, secret and query of a URL."""

HEADERS = {"X-Api-Key-Of-Theirs": f"{MARK}-header", "X-Other": f"é {MARK}-other"}
URL = f"https://example.com/hook?key={MARK}-query"
NEW = {"name": "n", "url": URL, "secret": f"{MARK}-a secret of theirs", "headers_json": HEADERS}

ROTATION = {"overlap_seconds": "3600", "secret": f"{MARK}-a secret that is typed", "once": "o"}
PASTED = {
    "headers": f"webhook-id: evt_{MARK}\nwebhook-timestamp: 1\nwebhook-signature: v1,{MARK}\nx-api-key: {MARK}",
    "body": f'{{"key": "{MARK}"}}',
}
TEST = {"event_type": "invoice.paid", "data": f'{{"key": "{MARK}"}}'}
"""Forms of the portal, as a person fills them in."""

events: list[dict[str, Any]] = []


class Kept(sentry_sdk.transport.Transport):
    """Keeps the events in place of sending them."""

    def capture_envelope(self, envelope: Any) -> None:
        """Keep it."""
        events.extend(item.payload.json for item in envelope.items if item.type == "event")


class Boom(RuntimeError):
    """What nobody expects."""


def boom(*arguments: Any, **options: Any) -> Any:
    """Raise it."""
    raise Boom


@contextmanager
def refusing(host: hosts.Host, part: str) -> Iterator[None]:
    """Have a hook of the host's raise at a statement with this part."""

    def refuse(connection, cursor, statement, *_):
        if part in statement:
            raise Boom

    with host.app.app_context():
        engine = host.db.engine
    sa.event.listen(engine, "before_cursor_execute", refuse)
    yield
    sa.event.remove(engine, "before_cursor_execute", refuse)


@contextmanager
def breaking_layout() -> Iterator[None]:
    """Have the end of each page of the portal raise, when all of its content is made."""

    def raise_at_the_end(name: str) -> str:
        if name == "portal.js":
            raise Boom
        return name

    with mock.patch("flask_webhook_endpoints.portal.assets.asset_url", raise_at_the_end):
        yield


@contextmanager
def without(host: hosts.Host, table: str) -> Iterator[None]:
    """Rename a table for a while."""

    def run(statement: str) -> None:
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    run(f"ALTER TABLE {table} RENAME TO {table}_away")
    yield
    run(f"ALTER TABLE {table}_away RENAME TO {table}")


def raising_receiver(app: Any, *, endpoint: Any, **arguments: Any) -> None:
    """Be a function of the host's that is connected to a signal, and raises."""
    raise Boom


def raising_delivery_receiver(app: Any, **arguments: Any) -> None:
    """Be one that hears of deliveries."""
    raise Boom


class Scenes:
    """What goes wrong, one after another."""

    def __init__(self, host: hosts.Host, receiver: Receiver) -> None:
        self.host = host
        self.receiver = receiver
        self.acme = host.client("acme")
        self.path = f"/v1/endpoints/{self.acme.post('/v1/endpoints', json=NEW).json['id']}"
        self.pages = self.path.replace("/v1/endpoints", "/webhooks")

    def create_without_a_table(self) -> None:
        with without(self.host, "webhook_secret"):
            self.acme.post("/v1/endpoints", json=NEW)

    def create_without_the_first_table(self) -> None:
        with without(self.host, "webhook_endpoint"):
            self.acme.post("/v1/endpoints", json=NEW, headers={"Idempotency-Key": "k"})

    def create_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "INSERT INTO webhook_endpoint"):
            self.acme.post("/v1/endpoints", json=NEW)

    def update_without_a_table(self) -> None:
        with without(self.host, "webhook_endpoint"):
            self.acme.patch(self.path, json=NEW)

    def update_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "UPDATE webhook_endpoint"):
            self.acme.patch(self.path, json={**NEW, "status": "PAUSED"})

    def update_with_a_secret_that_is_not_written(self) -> None:
        with refusing(self.host, "INSERT INTO webhook_secret"):
            self.acme.patch(self.path, json=NEW)

    def rotate_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "INSERT INTO webhook_secret"):
            self.acme.post(f"{self.path}/secret/rotate", json={"secret": NEW["secret"]})

    def list_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "SELECT"):
            self.acme.get("/v1/endpoints")

    def created_signal(self) -> None:
        with signals.endpoint_created.connected_to(raising_receiver):
            self.acme.post("/v1/endpoints", json=NEW)

    def updated_signal(self) -> None:
        with signals.endpoint_updated.connected_to(raising_receiver):
            self.acme.patch(self.path, json={**NEW, "name": "m"})

    def paused_signal_of_the_worker(self) -> None:
        self.receiver.answer(410)
        with signals.endpoint_paused.connected_to(raising_receiver):
            self._deliver()
        self.receiver.answer(200)
        self.acme.patch(self.path, json={"status": "ACTIVE"})

    def delivery_signal(self) -> None:
        with signals.delivery_succeeded.connected_to(raising_delivery_receiver):
            self._deliver()

    def attempt_in_aiohttp(self) -> None:
        with mock.patch.object(aiohttp.TCPConnector, "connect", boom):
            self._deliver()

    def attempt_in_the_request(self) -> None:
        with mock.patch("flask_webhook_endpoints.worker.request.Target.write", boom):
            self._deliver()

    def attempt_in_the_url(self) -> None:
        with mock.patch("flask_webhook_endpoints.security.egress.EgressPolicy.check_url", boom):
            self._deliver()

    def attempt_in_signing(self) -> None:
        with mock.patch("flask_webhook_endpoints.security.signing.sign_with", boom):
            self._deliver()

    def attempt_in_judging(self) -> None:
        with mock.patch("flask_webhook_endpoints.worker.retry.judge", boom):
            self._deliver()

    def claim_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "UPDATE webhook_queue"), suppress(Boom):
            self._deliver()

    def page_of_the_list_in_the_layout(self) -> None:
        with breaking_layout():
            self.acme.get("/webhooks/")

    def page_of_the_list_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "SELECT"):
            self.acme.get("/webhooks/")

    def page_of_the_endpoint_in_the_layout(self) -> None:
        with breaking_layout():
            self.acme.get(self.pages)

    def page_of_the_secret_in_the_layout(self) -> None:
        with breaking_layout():
            self.acme.post(f"{self.pages}/secret")

    def form_that_rotates_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "INSERT INTO webhook_secret"):
            self.acme.post(f"{self.pages}/secret/rotate", data=ROTATION)

    def form_that_rotates_with_a_fault_in_the_layout(self) -> None:
        with breaking_layout():
            self.acme.post(f"{self.pages}/secret/rotate", data={**ROTATION, "overlap_seconds": "never"})

    def form_that_rotates_and_a_signal(self) -> None:
        with signals.endpoint_updated.connected_to(raising_receiver):
            self.acme.post(f"{self.pages}/secret/rotate", data=ROTATION)

    def form_that_checks_a_signature_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "FROM webhook_secret"):
            self.acme.post(f"{self.pages}/secret/check", data=PASTED)

    def form_that_checks_a_signature_in_the_layout(self) -> None:
        with breaking_layout():
            self.acme.post(f"{self.pages}/secret/check", data=PASTED)

    def form_that_tests_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "INTO webhook_event"):
            self.acme.post(f"{self.pages}/test", data=TEST)

    def form_that_tests_with_a_fault_in_the_layout(self) -> None:
        with breaking_layout():
            self.acme.post(f"{self.pages}/test", data={**TEST, "data": f"{MARK} is no JSON"})

    def form_that_creates_without_a_table(self) -> None:
        with without(self.host, "webhook_secret"):
            self._send("/webhooks/new")

    def form_that_creates_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "INSERT INTO webhook_endpoint"):
            self._send("/webhooks/new")

    def form_that_judges_fields(self) -> None:
        with mock.patch("marshmallow.Schema.load", boom):
            self._send("/webhooks/new")

    def form_that_tells_faults(self) -> None:
        with mock.patch("flask_webhook_endpoints.portal.rules.message_of", boom):
            self._send("/webhooks/new", header_name="Host", description="\0")

    def form_that_shows_a_form_again(self) -> None:
        with breaking_layout():
            self._send("/webhooks/new", add="header")

    def form_that_saves_with_a_hook_that_raises(self) -> None:
        with refusing(self.host, "UPDATE webhook_endpoint"):
            self._send(f"{self.pages}/settings", version="1", **{"replace-X-Other": f"{MARK}-typed"})

    def form_that_shows_conflicts(self) -> None:
        self.acme.patch(self.path, json={"name": "m", "url": f"{URL}-theirs", "headers_json": {"X-Other": MARK}})
        with breaking_layout():
            self._send(f"{self.pages}/settings", version="1", **{"replace-X-Other": f"{MARK}-typed"})

    def page_of_the_delivery_in_the_layout(self) -> None:
        page = self._page_of_a_delivery()
        with breaking_layout():
            self.acme.get(page)

    def page_of_the_delivery_as_curl_in_the_layout(self) -> None:
        page = self._page_of_a_delivery()
        with breaking_layout():
            self.acme.post(f"{page}/curl")

    def page_of_the_delivery_with_a_hook_that_raises(self) -> None:
        page = self._page_of_a_delivery()
        with refusing(self.host, "SELECT webhook_endpoint."):
            self.acme.get(page)

    def _send(self, page: str, **fields: str) -> None:
        """Send a form of an endpoint."""
        typed = {"name": "n", "url": URL, "header_name": "X-Typed", "header_value": f"{MARK}-typed"}
        self.acme.post(page, data={**typed, "secret": NEW["secret"], "once": token_hex(8), **fields})

    def _page_of_a_delivery(self) -> str:
        self._deliver(event_type="invoice.paid", data={"key": MARK})
        return f"{self.pages}/deliveries/{self.acme.get(f'{self.path}/deliveries').json[0]['id']}"

    def _deliver(self, **event: Any) -> None:
        self.acme.patch(self.path, json={"url": f"{self.receiver.url}?key={MARK}-query"})
        self.acme.post(f"{self.path}/ping", json=event)
        try:
            drain(self.host.app)
        except Boom:
            sentry_sdk.capture_exception()
            raise


def main(database: str, *names: str) -> None:
    """Play scenes, each with an endpoint of its own, and print the events of each."""
    host = hosts.flask_sqlalchemy(database, WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS=hosts.LOOPBACK)
    host.app.register_blueprint(host.webhooks.portal)
    host.app.testing = False
    receiver = Receiver()
    sentry_sdk.init(dsn="http://public@127.0.0.1/1", transport=Kept)
    events_of = {}
    for name in names:
        scene: Callable[[], None] = getattr(Scenes(host, receiver), name)
        scene()
        sentry_sdk.flush()
        events_of[name] = events[:]
        events.clear()
    receiver.close()
    host.close()
    json.dump(events_of, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
