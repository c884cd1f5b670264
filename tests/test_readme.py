"""The README keeps its word: its app runs as written, its tables say what the code does."""

import dataclasses
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flask_webhook_endpoints import Settings
from flask_webhook_endpoints.views import ROUTES

README = (Path(__file__).parent.parent / "README.md").read_text()
APP = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]


@pytest.fixture
def base_url(tmp_path):
    """The address of the README's first app, served as a stranger would: pasted, and `flask run`."""
    (tmp_path / "app.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "flask", "--app", "app", "run", "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while server.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate(timeout=10)


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


def test_the_settings_table_is_what_settings_has():
    rows = re.findall(r"^\| `([A-Z_]+)` \| `(.*?)` \| (.*) \|$", README, re.MULTILINE)
    source = Path(sys.modules[Settings.__module__].__file__).read_text()
    sentences = dict(re.findall(r'^    (\w+): .*\n    """(.*)"""$', source, re.MULTILINE))

    documented = {name: (default, sentence) for name, default, sentence in rows}
    assert documented == {
        field.name.upper(): (repr(field.default), sentences[field.name]) for field in dataclasses.fields(Settings)
    }


def test_the_api_table_is_what_the_blueprint_serves():
    rows = re.findall(r"^\| `([A-Z]+) (/v1/\S+)` \|", README, re.MULTILINE)

    assert set(rows) == {(route.method, re.sub(r"<(\w+)>", r"{\1}", route.path)) for route in ROUTES}
