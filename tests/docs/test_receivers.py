"""The page for a host's customers: its receivers take what the library signs and refuse all else; its tables are true.

The receivers in Go, PHP, Ruby and Java need Debian's interpreters: `make test-receivers` runs them.
"""

import http.client
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flask_webhook_endpoints import Settings, testing
from flask_webhook_endpoints.api import delivery_schemas
from flask_webhook_endpoints.api.statistics_schemas import StatisticsShown
from flask_webhook_endpoints.core import redelivery, secrets
from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.core.deliveries import HELD
from flask_webhook_endpoints.core.incidents import DEFAULT_RULE
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.testing import Received
from flask_webhook_endpoints.worker import http_client, retry
from tests.support import docs, hosts, javascript, servers
from tests.support.api import create_endpoint, secret_of
from tests.support.deliveries import publish
from tests.support.waiting import PATIENCE_SECONDS, wait_until

NAME = "docs/receivers.md"
PAGE = (docs.ROOT / NAME).read_text()
FOR_THE_HOST, _, TEXT = PAGE.partition("-->\n")
PROSE = " ".join(TEXT.split())
"""What customers read, without its line breaks."""


class Language(NamedTuple):
    fence: str
    file: str
    command: str
    """As the page has it."""
    prepare: str = ""
    """What is run first in place of what `go run` and `pip` do."""


LANGUAGES = {
    "python": Language("python", "receiver.py", "flask --app receiver run --port 8000"),
    "javascript": Language("javascript", "receiver.mjs", "node receiver.mjs"),
    "go": Language("go", "receiver.go", "go run receiver.go", prepare="go build receiver.go"),
    "php": Language("php", "webhooks.php", "php -S localhost:8000 webhooks.php"),
    "ruby": Language("ruby", "config.ru", "rackup --port 8000 config.ru"),
    "java": Language("java", "Receiver.java", "java Receiver.java"),
}
OF_PYPI = ("python", "javascript")
SECRETS = {"whsec": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "raw": "whsec_your_signing_secret"}
ANOTHER = "whsec_" + "B" * 32
DATA = {"customer": "Zoë & Søn", "price": "5 €", "lines": ["x" * 1000] * 200}
"""More than the 100 KiB that Express takes by default, and not ASCII."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in OF_PYPI else pytest.mark.other_languages) for name in LANGUAGES],
)
def language(request):
    return request.param


@pytest.fixture(scope="module", params=SECRETS)
def secret_format(request):
    return request.param


@contextmanager
def running(language: str, folder: Path, **environment: str) -> Iterator[int]:
    """Run the page's receiver as it tells to, and yield its port."""
    told = LANGUAGES[language]
    (code,) = docs.fenced(NAME, told.fence)
    assert f"$ {told.command}\n" in PAGE
    assert f"`{told.file}`:" in PAGE
    port = servers.free_port()
    (folder / told.file).write_text(code.replace("8000", str(port)))
    command = told.command.replace("8000", str(port))
    if language == "javascript":
        javascript.install()
        (folder / "node_modules").symlink_to(javascript.MODULES)
        command = command.replace("node", javascript.NODE)
    if told.prepare:
        subprocess.run(told.prepare.split(), cwd=folder, check=True, timeout=2 * PATIENCE_SECONDS)
        command = "./receiver"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command.split(),
            cwd=folder,
            env={**os.environ, "PATH": path, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: server.poll() is not None or servers.is_open(port))
        assert server.poll() is None, log.read_text()
        yield port
    finally:
        server.terminate()
        server.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def port(language, secret_format, tmp_path_factory):
    """The port of the page's receiver, which knows the secret of this format."""
    environment = {"WEBHOOK_SECRET": SECRETS[secret_format]}
    if secret_format == "raw":
        environment["WEBHOOK_SECRET_FORMAT"] = "raw"
    with running(language, tmp_path_factory.mktemp(language), **environment) as port:
        yield port


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    with closing(hosts.delivering(f"sqlite:///{folder}/host.db", retry_schedule=[0, 0])) as host:
        yield host


@pytest.fixture(scope="module")
def sent(host):
    """Deliveries that the library has signed and sent, for each format: what a receiver must take, or refuse."""
    return {name: _deliveries(host, secret) for name, secret in SECRETS.items()}


def _deliveries(host: hosts.Host, secret: str) -> dict[str, Received]:
    acme = host.client("acme")
    receiver = testing.Receiver()

    def received(secret: str, *, then: str | None = None, minutes: float = 0) -> Received:
        endpoint = create_endpoint(acme, receiver.url, secret=secret)
        if then:
            assert acme.post(f"{endpoint.path}/secret/rotate", json={"secret": then}).status_code == 200
        with hosts.moved(host.app) as clock:
            clock.move(minutes=minutes)
            publish(host, DATA)
            testing.drain(host.app)
        assert acme.delete(endpoint.path).status_code == 204
        return receiver.received.pop()

    try:
        return {
            "alone": received(secret),
            "the new secret of two": received(ANOTHER, then=secret),
            "the old secret of two": received(secret, then=ANOTHER),
            "four minutes old": received(secret, minutes=-4),
            "another secret": received(ANOTHER),
            "six minutes old": received(secret, minutes=-6),
            "six minutes ahead": received(secret, minutes=6),
        }
    finally:
        receiver.close()


def answer_to(port: int, received: Received) -> int:
    """Return the status that a receiver answers with."""
    connection = http.client.HTTPConnection("localhost", port, timeout=PATIENCE_SECONDS)
    headers = {name: value for name, value in received.headers.items() if name not in ("host", "content-length")}
    with closing(connection):
        connection.request("POST", "/webhooks", received.body, headers)
        return connection.getresponse().status


def changed(received: Received, **headers: str | None) -> Received:
    """Return a delivery with other headers; None takes one away."""
    named = {f"webhook-{name}": value for name, value in headers.items()}
    kept = {name: value for name, value in {**received.headers, **named}.items() if value is not None}
    return replace(received, headers=kept)


@pytest.mark.parametrize("which", ["alone", "the new secret of two", "the old secret of two", "four minutes old"])
def test_a_receiver_takes_what_its_secret_signed(port, sent, secret_format, which):
    assert answer_to(port, sent[secret_format][which]) == 204


@pytest.mark.parametrize("which", ["another secret", "six minutes old", "six minutes ahead"])
def test_a_receiver_refuses_another_secret_and_another_time(port, sent, secret_format, which):
    assert answer_to(port, sent[secret_format][which]) == 401


REFUSED: dict[str, Any] = {
    "tampered": lambda delivery: replace(delivery, body=delivery.body.replace(b"Zo", b"Xo")),
    "parsed and written again": lambda delivery: replace(delivery, body=json.dumps(delivery.json).encode()),
    "no body": lambda delivery: replace(delivery, body=b""),
    "another id": lambda delivery: changed(delivery, id="evt_other"),
    "no id": lambda delivery: changed(delivery, id=None),
    "a garbled id": lambda delivery: changed(delivery, id="é"),
    "another time": lambda delivery: changed(delivery, timestamp=str(int(delivery.headers["webhook-timestamp"]) + 1)),
    "no time": lambda delivery: changed(delivery, timestamp=None),
    "time with an exponent": lambda delivery: changed(delivery, timestamp="1e9"),
    "endless time": lambda delivery: changed(delivery, timestamp="9" * 300),
    "no signature": lambda delivery: changed(delivery, signature=None),
    "a garbled signature": lambda delivery: changed(delivery, signature="v1 é, v1,v1,é"),
    "another version": lambda delivery: changed(
        delivery, signature=delivery.headers["webhook-signature"].replace("v1,", "v2,")
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_receiver_refuses_what_was_changed(port, sent, secret_format, change):
    assert answer_to(port, REFUSED[change](sent[secret_format]["alone"])) == 401


def test_a_receiver_passes_by_signatures_that_it_does_not_know(port, sent, secret_format):
    delivery = sent[secret_format]["alone"]
    several = f"v1a,x v2,{'A' * 44} v1,{'A' * 43}= {delivery.headers['webhook-signature']}"

    assert answer_to(port, changed(delivery, signature=several)) == 204


@pytest.mark.parametrize("is_right", [True, False], ids=["right", "wrong"])
def test_the_worker_delivers_to_a_receiver_with_the_right_secret_alone(host, port, secret_format, is_right):
    acme = host.client("acme")
    secret = SECRETS[secret_format] if is_right else ANOTHER
    endpoint = create_endpoint(acme, f"http://localhost:{port}/webhooks", secret=secret)

    publish(host, DATA)
    testing.drain(host.app)

    (delivery,) = acme.get(f"{endpoint.path}/deliveries").json
    log = acme.get(f"{endpoint.path}/deliveries/{delivery['id']}").json["attempt_log"]
    acme.delete(endpoint.path)
    assert delivery["status"] == ("DELIVERED" if is_right else "FAILED")
    assert [attempt["response_status"] for attempt in log] == ([204] if is_right else [401, 401])


def test_a_receiver_without_its_secret_takes_nothing(language, sent, tmp_path):
    # PHP reads its environment at each request, the others at their start.
    with pytest.raises(AssertionError), running(language, tmp_path, WEBHOOK_SECRET="") as port:
        assert answer_to(port, sent["raw"]["alone"]) == 204


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_its_commands_do_what_it_says(tmp_path, host, webhook_receiver):
    create, types, secret, resume, rotate, failed, one, stats, redeliver, recover, ping = docs.fenced(NAME, "bash")
    known: dict[str, str] = {}
    with servers.served(host.app) as port:

        def run(command: str) -> Any:
            told = command.replace("{{API_URL}}", f"http://127.0.0.1:{port}/v1/endpoints")
            told = told.replace("{{AUTHORIZATION}}", "X-Tenant: globex")
            told = told.replace("https://receiver.example.com/webhooks", webhook_receiver.url)
            for name, value in known.items():
                told = re.sub(rf"^{name}=.*$", f"{name}='{value}'", told, flags=re.MULTILINE)
                if f"{name}=" not in told:
                    told = f"{name}='{value}'\n{told}"
            known.update(re.findall(r"^(\w+)='(.*)'$", told, re.MULTILINE))
            (tmp_path / ".curlrc").write_text("fail\nsilent\n")
            done = subprocess.run(
                ["bash", "-euc", told], env={**os.environ, "CURL_HOME": str(tmp_path)}, capture_output=True, check=True
            )
            return json.loads(done.stdout)

        known["endpoint"] = run(create)["id"]
        assert run(types) == []
        assert set(run(secret)) >= {"secret", "format"}
        assert run(resume)["status"] == "ACTIVE"
        webhook_receiver.answer(500)
        run(ping)
        testing.drain(host.app)
        webhook_receiver.answer(204)
        (pinged,) = run(failed)
        known["delivery"] = pinged["id"]
        assert (pinged["last_error"], pinged["last_response_status"]) == (None, 500)
        assert run(recover)["count"] == 1
        run(redeliver)
        testing.drain(host.app)
        assert run(one)["status"] == "DELIVERED"
        counted = run(stats)
        rotated = run(rotate)

    assert (counted["delivered"], counted["failed"]) == (1, 1)
    assert rotated["previous_expires_at"] is not None
    assert secret_of(host.client("globex"), f"/v1/endpoints/{known['endpoint']}") == rotated["secret"]


def test_its_statement_handles_each_event_once():
    create, insert = docs.fenced(NAME, "sql")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(create)
        written = [connection.execute(insert, {"webhook_id": "evt_1"}).rowcount for _ in range(2)]

    assert written == [1, 0]


def test_its_errors_are_those_that_attempts_have_with_their_meaning():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", TEXT.partition("| `error` |")[2], re.MULTILINE)

    assert rows == [(str(error), error.meaning) for error in SendError]


def test_each_of_its_errors_is_recorded_somewhere_in_the_worker():
    code = " ".join(path.read_text() for path in Path(http_client.__file__).parent.glob("*.py"))

    assert [error.name for error in SendError if f"SendError.{error.name}" not in code] == []


def test_its_statuses_are_those_that_deliveries_have():
    _, _, table = TEXT.partition("| `status` |")

    assert set(re.findall(r"^\| `([A-Z]+)` \|", table, re.MULTILINE)) == {*DeliveryStatus, HELD}


def test_its_statistics_are_those_of_the_answer():
    _, _, section = TEXT.partition("## See how an endpoint does\n")
    members = " ".join(re.findall(r"^\| (`.+?) \|", section.partition("\n## ")[0], re.MULTILINE))

    assert set(re.findall(r"`(\w+)`", members)) == set(StatisticsShown().fields)


def test_its_retries_are_the_schedule():
    units = {"none": 0, "seconds": 1, "minutes": 60, "hours": 3600}
    rows = re.findall(r"^\| (\d+) \| (\d*) ?(\w+) \| (at once|([\d.]+) (\w+)) \|$", TEXT, re.MULTILINE)
    schedule = Settings().retry_schedule

    assert [int(row[0]) for row in rows] == list(range(1, len(schedule) + 1))
    assert tuple(int(row[1] or 0) * units[row[2]] for row in rows) == schedule
    for number, row in enumerate(rows):
        since = float(row[4] or 0) * units[row[5] or "seconds"]
        assert since == pytest.approx(sum(schedule[: number + 1]), rel=0.02)


@pytest.mark.parametrize(
    ("sentence", "number"),
    [
        ("We make {} attempts in all", len(Settings().retry_schedule)),
        ("Each wait is up to {:.0f} % shorter or longer", 100 * Settings().retry_jitter),
        ("A body has up to {} KiB", Settings().max_body_bytes // 1024),
        ("and {} at most. This time covers the whole attempt", Settings().max_timeout_seconds),
        ("the first {} KiB of the body of an answer", http_client.MAX_EXCERPT_BYTES // 1024),
        ("an hour at most", retry.MAX_RETRY_AFTER_SECONDS / 3600),
        ("it rests {:.0f} seconds, then 10, then 20", retry.FIRST_REST_SECONDS),
        ("{:.0f} minutes at most", retry.MAX_REST_SECONDS / 60),
        ("a week ({}) at most", secrets.MAX_OVERLAP_SECONDS),
        ("paused for {} days", Settings().hold_max_days),
        ("We keep it for {} days after its end", Settings().retention_days),
        ('"overlap_seconds": {}', secrets.DEFAULT_OVERLAP_SECONDS),
        ("You can send {} deliveries again in a minute", Settings().max_redeliveries_per_minute),
        ("We take {:,} at most", redelivery.MAX_RECOVERED),
        ("A page has {} deliveries or fewer", delivery_schemas.DEFAULT_PAGE),
    ],
)
def test_its_numbers_are_the_codes(sentence, number):
    assert sentence.format(number) in PROSE


def test_an_endpoint_is_paused_when_it_says():
    assert DEFAULT_RULE == (10, 5)
    assert "ten deliveries in a row have failed" in PROSE
    assert "no attempt has succeeded for five days" in PROSE


def test_a_host_can_hand_it_on_as_it_is():
    placeholders = re.findall(r"\{\{(\w+)\}\}", TEXT)
    links = re.findall(r"\]\(([^)]*)\)", TEXT)

    assert set(placeholders) == set(re.findall(r"^  \{\{(\w+)\}\}  ", FOR_THE_HOST, re.MULTILINE))
    # The README and the other pages are not the customers'.
    assert [link for link in links if not link.startswith(("#", "https://"))] == []
    assert "flask-webhook-endpoints" not in TEXT
    settings = set(re.findall(r"[A-Z]+(?:_[A-Z]+)+", FOR_THE_HOST)) - {*placeholders, "YOUR_API_KEY"}
    assert settings <= {name.upper() for name in Settings.__dataclass_fields__}
