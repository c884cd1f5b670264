"""The README keeps its word: its app runs as written, its tables say what the code does."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Blueprint, Flask

from flask_webhook_endpoints import Settings
from flask_webhook_endpoints.api.endpoint_schemas import EndpointChanges, EndpointShown
from flask_webhook_endpoints.api.routes import ROUTES
from flask_webhook_endpoints.cli import commands
from tests.support import docs
from tests.support.servers import free_port, is_open
from tests.support.waiting import PATIENCE_SECONDS, wait_until

README = (Path(__file__).parents[2] / "README.md").read_text()
APP = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]


@contextmanager
def served(folder: Path, app: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """An app of this folder, served as a stranger would: pasted, and `flask run`."""
    command = [sys.executable, "-m", "flask", "--app", app, "run", "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_until(lambda: server.poll() is not None or is_open(port))
        yield server
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE_SECONDS)


@pytest.fixture
def base_url(tmp_path):
    """The address of the README's first app."""
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    with served(tmp_path, "app", port):
        yield f"http://127.0.0.1:{port}"


def call(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"X-Tenant": "acme", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
    return answer.status, json.loads(text) if text else None


def test_the_first_app_has_at_most_fifteen_lines():
    assert len([line for line in APP.splitlines() if line.strip()]) <= 15


def test_the_first_app_serves_all_five_routes(base_url):
    fields = {"name": "my-webhook", "url": "https://example.com/webhook"}

    status, endpoint = call("POST", f"{base_url}/v1/endpoints", fields)

    one = f"{base_url}/v1/endpoints/{endpoint['id']}"
    assert status == 201
    assert call("GET", f"{base_url}/v1/endpoints") == (200, [endpoint])
    assert call("GET", one) == (200, endpoint)
    assert call("PATCH", one, {"status": "PAUSED"})[1]["status"] == "PAUSED"
    assert call("DELETE", one) == (204, None)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        call("GET", one)


def test_fifteen_lines_show_the_portal(tmp_path):
    (line,) = re.findall(r"^app\.register_blueprint\(webhooks\.portal, .*$", README, re.MULTILINE)
    app = APP.replace("with app.app_context():", f"{line}\nwith app.app_context():")
    assert len([line for line in app.splitlines() if line.strip()]) <= 15
    (tmp_path / "app.py").write_text(app)
    port = free_port()
    with served(tmp_path, "app", port):
        call("POST", f"http://127.0.0.1:{port}/v1/endpoints", {"name": "orders", "url": "https://example.com/"})
        page = f"http://127.0.0.1:{port}/settings/webhooks/"
        with urllib.request.urlopen(urllib.request.Request(page, headers={"X-Tenant": "acme"})) as answer:
            text = answer.read().decode()

    assert "<h1>Webhook endpoints</h1>" in text
    assert "orders" in text


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_first_delivery_arrives_by_what_it_tells_to_do(tmp_path):
    section = README.partition("## See one arrive\n")[2].partition("\n## ")[0]
    (setting,) = re.findall(r"^`(WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS=.+?)`\.", section, re.MULTILINE)
    (receiver,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (commands,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert APP.count("app.config.update(") == 1
    (tmp_path / "app.py").write_text(APP.replace("app.config.update(", f"app.config.update({setting}, "))
    (tmp_path / "receiver.py").write_text(receiver)
    ports = {"5000": str(free_port()), "8000": str(free_port())}
    for documented, port in ports.items():
        assert f":{documented}/" in commands
        commands = commands.replace(f":{documented}/", f":{port}/")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    with served(tmp_path, "app", int(ports["5000"])), served(tmp_path, "receiver", int(ports["8000"])) as receiving:
        done = subprocess.run(
            ["bash", "-euc", commands],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        receiving.terminate()
        printed = receiving.stdout.read()

    assert re.search(r'^evt_\S+ \{"type":"webhook.ping",', printed, re.MULTILINE)
    assert '"status":"DELIVERED"' in done.stdout


def test_the_settings_table_is_what_settings_has():
    rows = re.findall(r"^\| `([A-Z_]+)` \| `(.*?)` \| (.*) \|$", README, re.MULTILINE)
    source = Path(sys.modules[Settings.__module__].__file__).read_text()
    sentences = dict(re.findall(r'^    (\w+): .*\n    """(.*)"""$', source, re.MULTILINE))

    documented = {name: (default, sentence) for name, default, sentence in rows}
    assert documented == {
        field.name.upper(): (repr(field.default), sentences[field.name]) for field in dataclasses.fields(Settings)
    }


def test_the_table_of_commands_has_every_one_and_a_page_tells_of_it():
    blueprint = Blueprint("ours", __name__)
    commands.add_commands(blueprint)
    rows = re.findall(r"^\| `flask webhooks ([a-z-]+)", README, re.MULTILINE)
    pages = " ".join(page.read_text() for page in docs.ROOT.glob("docs/**/*.md"))

    assert sorted(rows) == sorted(blueprint.cli.commands)
    assert [name for name in rows if f"flask webhooks {name}" not in pages] == []


def test_its_settings_are_taken_from_the_environment(monkeypatch):
    for typed in re.findall(r"`(FLASK_\w+=.*?)`", README):
        name, _, value = shlex.split(typed)[0].partition("=")
        monkeypatch.setenv(name, value)
    app = Flask("host")
    app.config.from_prefixed_env()

    assert Settings.from_config(app.config) == Settings(require_https=True, allowed_networks=("127.0.0.0/8",))


def test_the_answer_and_the_table_of_fields_have_every_field():
    answer = json.loads(re.search(r"```json\n(\{\n  \"id\": \"ep_.*?)```", README, re.DOTALL)[1])
    table = README.partition("| Field | Rule |")[2].partition("\n\n")[0]
    shown = list(EndpointShown().fields)

    assert list(answer) == shown
    assert set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))) == (
        {*shown, *EndpointChanges._declared_fields} - {"id", "paused_at", "created_at", "updated_at"}
    )


def test_the_api_table_is_what_the_blueprint_serves():
    rows = re.findall(r"^\| `([A-Z]+) (/v1/\S+)` \|", README, re.MULTILINE)

    assert set(rows) == {(route.method, re.sub(r"<(\w+)>", r"{\1}", route.path)) for route in ROUTES}
