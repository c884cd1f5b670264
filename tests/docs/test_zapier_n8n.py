"""The triggers for Zapier and n8n subscribe, receive, find samples and unsubscribe, against a host over HTTP."""

import json
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import request

from flask_webhook_endpoints import testing
from flask_webhook_endpoints.testing import Received
from tests.support import docs, hosts, javascript, servers
from tests.support.deliveries import publish
from tests.support.waiting import PATIENCE_SECONDS

PAGE = docs.ROOT / "docs" / "zapier-n8n.md"
FOLDER = Path(__file__).parent / "zapier"
KEY = "acme"

pytestmark = pytest.mark.slow


def tenant_of_key() -> str | None:
    return KEY if request.headers.get("Authorization") == f"Bearer {KEY}" else None


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    with closing(hosts.delivering(f"sqlite:///{folder}/host.db", tenant=tenant_of_key)) as host:
        host.webhooks.event_type("invoice.paid", example={"name": "Zoë"})
        host.webhooks.event_type("invoice.due", deprecated=True)
        yield host


@pytest.fixture(scope="module")
def api(host):
    """The URL of the endpoints."""
    with servers.served(host.app) as port:
        yield f"http://127.0.0.1:{port}/v1/endpoints"


@pytest.fixture
def acme(host):
    client = host.app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    return client


@pytest.fixture
def run(api, tmp_path):
    """Run a function of one of the documented programs in Node, and return what it answers."""
    javascript.install(FOLDER)
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    (tmp_path / "package.json").write_text((FOLDER / "package.json").read_text())
    zapier, n8n = docs.fenced("docs/zapier-n8n.md", "javascript")
    for name, code in {"zapier": zapier, "n8n": n8n}.items():
        assert "https://api.example.com/v1/endpoints" in code
        (tmp_path / f"{name}.js").write_text(code.replace("https://api.example.com/v1/endpoints", api))

    def run(program: str, name: str, given: dict[str, Any]) -> Any:
        command = [javascript.NODE, str(FOLDER / f"{program}.js"), str(tmp_path / f"{program}.js"), name]
        done = subprocess.run(
            command, input=json.dumps(given), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def happen(host: hosts.Host) -> None:
    """Publish one event that is asked for, and one that is not, and deliver."""
    publish(host, {"name": "Zoë"}, event_type="invoice.paid", tenant_id=KEY)
    publish(host, 7, event_type="invoice.due", tenant_id=KEY)
    testing.drain(host.app)


def at_zapier(received: Received) -> dict[str, Any]:
    """Return a delivery as Zapier shows it to `perform`."""
    headers = {f"Http-{name.title()}": value for name, value in received.headers.items()}
    return {
        "rawRequest": {"headers": headers, "content": received.body.decode()},
        "cleanedRequest": received.json,
    }


def test_a_zap_subscribes_receives_and_unsubscribes(host, acme, run, webhook_receiver):
    login = {"authData": {"api_key": KEY}, "inputData": {"event_type": "invoice.paid"}}
    assert run("zapier", "test", login)["answer"] == []
    (field,) = run("zapier", "inputFields", login)["answer"]
    assert (field["key"], field["choices"]) == ("event_type", ["invoice.paid"])

    (declared,) = run("zapier", "performList", login)["answer"]

    endpoint = run("zapier", "performSubscribe", {**login, "targetUrl": webhook_receiver.url})["answer"]
    happen(host)
    (received,) = webhook_receiver.received
    (started,) = run("zapier", "perform", {**login, **at_zapier(received)})["answer"]
    samples = run("zapier", "performList", login)["answer"]
    for _ in range(2):  # the second one finds nothing
        run("zapier", "performUnsubscribe", {**login, "subscribeData": endpoint})

    assert started == {"id": received.id, **received.json}
    assert started["type"] == "invoice.paid"
    assert samples == [started]
    assert {**declared, "id": started["id"], "timestamp": started["timestamp"]} == started
    assert acme.get("/v1/endpoints").json == []


def test_a_zap_with_a_wrong_key_is_refused(run):
    with pytest.raises(AssertionError, match="401"):
        run("zapier", "test", {"authData": {"api_key": "wrong"}})


def test_a_workflow_subscribes_verifies_and_unsubscribes(host, acme, run, webhook_receiver):
    n8n: dict[str, Any] = {
        "authorization": f"Bearer {KEY}",
        "url": webhook_receiver.url,
        "eventType": "invoice.paid",
        "kept": {},
    }
    assert run("n8n", "checkExists", n8n)["answer"] is False

    n8n["kept"] = run("n8n", "create", n8n)["kept"]
    assert run("n8n", "checkExists", n8n)["answer"] is True
    happen(host)
    (received,) = webhook_receiver.received
    n8n["request"] = {"headers": dict(received.headers), "body": received.body.decode()}
    started = run("n8n", "webhook", n8n)
    n8n["request"]["body"] += " "
    tampered = run("n8n", "webhook", n8n)
    after = run("n8n", "delete", n8n)

    event = {"id": received.id, **received.json}
    assert (started["status"], started["answer"]) == (200, {"workflowData": [[{"json": event}]]})
    assert (tampered["status"], tampered["answer"]) == (401, {"noWebhookResponse": True})
    assert after["kept"] == {}
    assert acme.get("/v1/endpoints").json == []
    # It is deleted already.
    assert run("n8n", "delete", n8n)["answer"] is True


def test_a_ping_starts_a_workflow_that_listens(host, acme, run, webhook_receiver):
    n8n: dict[str, Any] = {
        "authorization": f"Bearer {KEY}",
        "url": webhook_receiver.url,
        "eventType": "",
        "kept": {},
    }
    n8n["kept"] = run("n8n", "create", n8n)["kept"]

    assert acme.post(f"/v1/endpoints/{n8n['kept']['id']}/ping").status_code == 202
    testing.drain(host.app)

    (received,) = webhook_receiver.received
    n8n["request"] = {"headers": dict(received.headers), "body": received.body.decode()}
    assert run("n8n", "webhook", n8n)["status"] == 200
    run("n8n", "delete", n8n)
