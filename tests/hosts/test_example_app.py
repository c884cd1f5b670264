"""The example app as `flask run` serves it, and the demo as `make demo` runs it: real processes, real HTTP."""

import json
import os
import pty
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import date
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import UUID

import pytest

import example_app
from example_app.app import database_url
from example_app.models import Invoice, db
from tests.support.example import copy_to, environment, processes_with
from tests.support.servers import port_of
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ENDPOINT = {"name": "n", "url": "https://example.com/webhook", "secret": "whsec_your_signing_secret"}
INVOICE = {"customer": "Initech", "amount_cents": 4200}


@dataclass
class Answer:
    status: int
    headers: HTTPMessage
    json: Any


class Client:
    def __init__(self, port: int, key: str | None) -> None:
        self._port = port
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_SECONDS)
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, self._headers | headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return Answer(answer.status, answer.headers, json.loads(text) if text else None)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.ask("POST", path, body)


def start(folder: Path, log: Path, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flask", "--app", "example_app", "run", "--port", "0"]
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=folder, env=environment(**variables), stdout=output, stderr=output)


@contextmanager
def served(folder: Path, *, processes: int = 1, name: str = "server", **variables: str) -> Iterator[list[int]]:
    """Serve from `folder` by several processes that start at once; yield their ports."""
    with ExitStack() as stack:
        servers = []
        for number in range(processes):
            log = folder / f"{name}{number}.log"
            server = start(folder, log, **variables)
            stack.enter_context(server)
            stack.callback(server.terminate)
            servers.append((server, log))
        yield [port_of(server, log) for server, log in servers]


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_to(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def port(shared_folder: Path) -> Iterator[int]:
    """The port of one server for all tests that need no other."""
    with served(shared_folder) as [port]:
        yield port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_to(tmp_path)


def test_a_tenant_writes_and_is_paid_invoices(port):
    acme = Client(port, "demo-acme")

    written = acme.post("/invoices", INVOICE)
    path = f"/invoices/{written.json['id']}"
    paid = acme.post(f"{path}/pay")

    assert (written.status, paid.status) == (201, 200)
    assert written.json == {**INVOICE, "id": written.json["id"], "issued_on": paid.json["paid_on"], "paid_on": None}
    assert acme.get(path).json == paid.json
    assert paid.json in acme.get("/invoices").json


def test_a_voided_invoice_is_gone_and_a_paid_one_cannot_be_voided(port):
    acme = Client(port, "demo-acme")
    written, paid = (acme.post("/invoices", INVOICE).json for _ in range(2))
    acme.post(f"/invoices/{paid['id']}/pay")

    voided = acme.post(f"/invoices/{written['id']}/void")

    assert (voided.status, voided.json) == (200, written)
    assert acme.get(f"/invoices/{written['id']}").status == 404
    assert acme.post(f"/invoices/{paid['id']}/void").status == 409
    assert acme.post("/invoices/0/void").status == 404


def test_the_declared_events_are_told_with_an_example_each(port):
    told = Client(port, "demo-acme").get("/v1/endpoints/event-types").json

    assert {event["name"]: event["deprecated"] for event in told} == {
        "customer.created": False,
        "invoice.created": False,
        "invoice.paid": False,
        "invoice.settled": True,
        "invoice.voided": False,
    }
    assert all(event["description"] and event["schema"] and event["example"] for event in told)


def test_an_invoice_is_paid_once(port):
    acme = Client(port, "demo-acme")
    path = f"/invoices/{acme.post('/invoices', INVOICE).json['id']}/pay"

    assert [acme.post(path).status for _ in range(2)] == [200, 409]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["amount_cents", "customer"]),
        ({**INVOICE, "amount_cents": "4200"}, ["amount_cents"]),
        ({**INVOICE, "amount_cents": 0}, ["amount_cents"]),
        ({**INVOICE, "customer": "a\x00b"}, ["customer"]),
        ({**INVOICE, "customer": "\ud800"}, ["customer"]),
        ({**INVOICE, "paid_on": "2026-01-01"}, ["paid_on"]),
        ([], ["_schema"]),
    ],
    ids=["empty", "text", "zero", "nul", "surrogate", "read-only", "array"],
)
def test_a_bad_invoice_is_refused_by_field(port, body, fields):
    answer = Client(port, "demo-acme").post("/invoices", body)

    assert answer.status == 422
    assert sorted(answer.json["errors"]) == fields


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Bearer DEMO-ACME", "Bearer a=b", "Basic demo-acme", "demo-acme"],
)
@pytest.mark.parametrize("path", ["/invoices", "/invoices/1", "/v1/endpoints", f"/v1/endpoints/ep_{'0' * 8}"])
def test_without_a_valid_key_every_route_gives_the_same_401(port, path, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}

    answer = Client(port, None).get(path, **headers)

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["detail"] == "Send your API key as Authorization: Bearer <key>."


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/invoices/0", 404),
        ("GET", "/invoices/99999999999999999999", 404),
        ("POST", "/invoices/0/pay", 404),
        ("DELETE", "/invoices", 405),
        ("POST", "/invoices", 400),
    ],
)
def test_other_errors_are_problem_documents_too(port, method, path, status):
    answer = Client(port, "demo-acme").ask(method, path)

    assert (answer.status, answer.json["status"]) == (status, status)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_an_invoice_tells_its_own_tenants_receivers(port, shared_folder):
    acme = Client(port, "demo-acme")
    wanted = {"name": "invoices", "url": "http://127.0.0.1:1025/", "event_types": ["invoice.*"]}
    endpoint = acme.post("/v1/endpoints", wanted).json
    invoice = acme.post("/invoices", INVOICE).json
    paid = acme.post(f"/invoices/{invoice['id']}/pay").json
    acme.post(f"/invoices/{invoice['id']}/pay")
    Client(port, "demo-globex").post("/invoices", INVOICE)

    events = (
        "SELECT body FROM webhook_event JOIN webhook_delivery ON event_id = webhook_event.id"
        " WHERE endpoint_id = ? ORDER BY webhook_event.id"
    )
    with closing(sqlite3.connect(shared_folder / "instance" / "example.db")) as connection:
        bodies = [json.loads(body) for (body,) in connection.execute(events, [UUID(endpoint["id"][3:]).hex])]
    acme.ask("DELETE", f"/v1/endpoints/{endpoint['id']}")
    assert [(body["type"], body["data"]) for body in bodies] == [
        ("invoice.created", invoice),
        ("invoice.paid", paid),
        ("invoice.settled", paid),
    ]


def test_what_cannot_be_told_did_not_happen(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/own.db")
    monkeypatch.setenv("SECRET_KEY", "long enough to derive a key from")
    monkeypatch.setenv("FLASK_WEBHOOK_ENDPOINTS_MAX_BODY_BYTES", "1")
    app = example_app.create_app()
    acme = app.test_client()
    acme.environ_base["HTTP_AUTHORIZATION"] = "Bearer demo-acme"
    with app.app_context():
        db.session.add(Invoice(tenant_id=1, issued_on=date(2026, 1, 1), **INVOICE))
        db.session.commit()
    unpaid = acme.get("/invoices").json

    assert acme.post("/invoices", json=INVOICE).status_code == 500
    assert acme.post(f"/invoices/{unpaid[0]['id']}/pay").status_code == 500

    assert acme.get("/invoices").json == unpaid
    with app.app_context():
        db.engine.dispose()


def test_a_receiver_on_this_machine_is_allowed(port):
    answer = Client(port, "demo-acme").post("/v1/endpoints", {"name": "local", "url": "http://127.0.0.1:8000/"})

    assert answer.status == 201


def test_a_tenant_added_later_gets_a_key_of_its_own_that_is_stored_hashed(port, shared_folder, monkeypatch):
    database = shared_folder / "instance" / "example.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{database}")
    monkeypatch.setenv("SECRET_KEY", "not used by this command")
    operator = example_app.create_app()

    command = ["add-tenant", "initech", "ada@initech.example"]
    added, again = (operator.test_cli_runner().invoke(args=command) for _ in range(2))
    with operator.app_context():
        db.engine.dispose()

    key = added.stdout.strip()
    assert Client(port, key).get("/invoices").json == []
    assert Client(port, key).post("/v1/endpoints", ENDPOINT).status == 201
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == "Error: There is a tenant of this name, or a user of this address.\n"
    assert not [known for known in (key, "demo-acme") if known.encode() in database.read_bytes()]


@pytest.mark.slow
@pytest.mark.several_connections
def test_processes_that_start_at_once_on_an_empty_database_serve_the_same_two_tenants(database, folder):
    # Hosting services give plain URLs, without the driver.
    plain = re.sub(r"^(\w+)\+\w+:", r"\1:", database)
    with served(folder, processes=3, DATABASE_URL=plain) as ports:
        acme, globex = Client(ports[0], "demo-acme"), Client(ports[1], "demo-globex")
        invoice = acme.post("/invoices", INVOICE).json
        endpoint = acme.post("/v1/endpoints", ENDPOINT).json
        invoice_path, endpoint_path = f"/invoices/{invoice['id']}", f"/v1/endpoints/{endpoint['id']}"

        for port in ports:
            assert Client(port, "demo-acme").get("/invoices").json == [invoice]
            assert Client(port, "demo-acme").get("/v1/endpoints").json == [endpoint]
            assert Client(port, "demo-acme").get(f"{endpoint_path}/secret").json["secret"] == ENDPOINT["secret"]
        assert globex.get("/invoices").json == []
        assert globex.get("/v1/endpoints").json == []
        assert globex.get(invoice_path).status == globex.post(f"{invoice_path}/pay").status == 404
        assert globex.get(endpoint_path).status == globex.ask("DELETE", endpoint_path).status == 404
        assert acme.get(invoice_path).json == invoice
        assert acme.post(f"{invoice_path}/pay").status == 200


def test_a_process_started_later_reads_data_and_secrets(port, shared_folder):
    acme = Client(port, "demo-acme")
    invoice = acme.post("/invoices", INVOICE).json
    endpoint = acme.post("/v1/endpoints", {**ENDPOINT, "headers_json": {"X-Team": "billing"}}).json

    with served(shared_folder, name="later") as [later]:
        acme = Client(later, "demo-acme")
        assert invoice in acme.get("/invoices").json
        assert endpoint in acme.get("/v1/endpoints").json
        assert acme.get(f"/v1/endpoints/{endpoint['id']}/secret").json["secret"] == ENDPOINT["secret"]
    assert stat.S_IMODE((shared_folder / "instance" / "secret_key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h/d?x=1", "postgresql+psycopg://u:p@h/d?x=1"),
        ("mysql://u@h/d", "mysql+pymysql://u@h/d"),
        ("mariadb://u@h/d", "mysql+pymysql://u@h/d"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
        ("sqlite:///a.db", "sqlite:///a.db"),
    ],
)
def test_a_plain_url_gets_the_driver_that_is_installed(given, url):
    assert database_url(given) == url


class Demo:
    """`python -m example_app.demo`, in a folder where nothing is but `example_app`."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_to(folder)
        (folder / "tmp").mkdir()

    def command(self, **variables: str) -> dict[str, Any]:
        return {
            "args": [sys.executable, "-m", "example_app.demo"],
            "cwd": self.folder,
            "env": environment(TMPDIR=str(self.folder / "tmp"), **variables),
            "text": True,
        }

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(**self.command(**variables), capture_output=True, timeout=120, check=False)

    def start(self, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        return subprocess.Popen(**self.command(), stdout=stdout, stderr=subprocess.PIPE)

    def processes(self) -> list[str]:
        # Its processes are programs with this folder's TMPDIR.
        return processes_with(f"TMPDIR={self.folder}/tmp")

    def wait_for_processes(self, count: int) -> None:
        wait_until(lambda: len(self.processes()) >= count)

    def assert_leaves_nothing(self) -> None:
        assert list((self.folder / "tmp").iterdir()) == []
        assert sorted(path.name for path in self.folder.iterdir()) == ["example_app", "tmp"]
        assert self.processes() == []


INTERRUPTED = (130, "\nInterrupted; server and worker are stopped.\n")


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The demo from start to end, once for all tests that read what it shows."""
    demo = Demo(tmp_path_factory.mktemp("demo"))
    done = demo.run()
    demo.assert_leaves_nothing()
    return done


@pytest.mark.slow
class TestDemo:
    @pytest.fixture
    def demo(self, tmp_path: Path) -> Iterator[Demo]:
        demo = Demo(tmp_path)
        yield demo
        demo.assert_leaves_nothing()

    @staticmethod
    def steps(shown: str) -> list[str]:
        return re.split(r"^ ?\d+\. ", shown, flags=re.MULTILINE)[1:]

    def test_it_ends_well_in_plain_ascii(self, walked):
        assert (walked.returncode, walked.stderr) == (0, "")
        assert walked.stdout.isascii()
        assert "\x1b" not in walked.stdout
        assert walked.stdout.count("whsec_your_signing_secret") == 1
        assert walked.stdout.endswith(
            "All 20 steps went as they must. Server and worker are stopped.\n"
            "To see it in a browser: `make run`, then log in at http://127.0.0.1:5000/settings/webhooks"
            " as ada@acme.example with the password demo-ada.\n"
        )

    def test_it_walks_the_whole_life_of_an_endpoint(self, walked):
        shown = "\n".join(self.steps(walked.stdout)[:11])
        asked = re.findall(r"^    > ([A-Z]+) /v1/endpoints(/ep_\S+)?$", shown, re.MULTILINE)
        answered = re.findall(r"^    < (\d{3} .+)$", shown, re.MULTILINE)

        assert [(method, bool(one), status) for (method, one), status in zip(asked, answered, strict=True)] == [
            ("POST", False, "201 Created"),
            ("GET", False, "200 OK"),
            ("GET", True, "200 OK"),
            ("PATCH", True, "200 OK"),
            ("PATCH", True, "200 OK"),
            ("POST", False, "422 Unprocessable Entity"),
            ("GET", False, "401 Unauthorized"),
            ("GET", False, "200 OK"),
            ("GET", True, "404 Not Found"),
            ("DELETE", True, "204 No Content"),
            ("GET", True, "404 Not Found"),
        ]

    def test_it_shows_a_delivery_whole_and_what_becomes_of_the_others(self, walked):
        whole, failed, _, held, resumed, gone, paused = self.steps(walked.stdout)[13:]

        for header in ("webhook-id: evt_", "webhook-timestamp: ", "webhook-signature: v1,"):
            assert f"    * {header}" in whole
        assert '"type": "invoice.paid"' in whole
        assert whole.rstrip().endswith("* signature valid, answered 204 No Content")
        arrived = r"\* invoice\.paid of invoice (\d+), (evt_\S+): signature valid, answered (\d+)"
        (first, second) = re.findall(arrived, failed)
        assert (first[:2], first[2], second[2]) == (second[:2], "500", "204")
        paid = re.findall(r"POST /invoices/(\d+)/pay -> 200 OK", held)
        assert (len(paid), re.findall(arrived, held)) == (3, [])
        assert [(invoice, status) for invoice, _, status in re.findall(arrived, resumed)] == [
            (invoice, "204") for invoice in paid
        ]
        assert [status for _, _, status in re.findall(arrived, gone)] == ["410"]
        assert '"status": "PAUSED"' in paused

    def test_a_wrong_answer_ends_it_and_shows_the_logs(self, demo):
        login = demo.folder / "example_app" / "accounts.py"
        login.write_text(login.read_text().replace("return tenant_id\n", "return 1\n"))

        done = demo.run()

        assert done.returncode == 1
        assert done.stderr.startswith("FAILED: step 8 must give an empty list: [], not [{")
        assert '"DELETE' not in done.stderr
        assert '"POST /v1/endpoints HTTP/1.1" 422' in done.stderr
        assert "\nThe worker's log:" in done.stderr
        assert "\x1b" not in done.stderr
        assert "went as they must" not in done.stdout

    def test_an_app_that_does_not_start_ends_it_and_shows_why(self, demo):
        done = demo.run(FLASK_WEBHOOK_ENDPOINTS_TIMOUT="5")

        assert done.returncode == 1
        assert done.stdout.count("\n") == 2
        assert done.stderr.startswith("FAILED: the example app did not start.\nThe server's log:\n")
        assert "WEBHOOK_ENDPOINTS_TIMOUT: no such setting." in done.stderr

    def test_it_is_coloured_in_a_terminal_and_ctrl_c_stops_all_of_it(self, demo):
        reader, terminal = pty.openpty()
        with demo.start(stdout=terminal) as process:
            shown = os.read(reader, 4096)
            # Itself, server and worker.
            demo.wait_for_processes(3)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=PATIENCE_SECONDS)
        os.close(reader)
        os.close(terminal)

        assert shown.startswith(b"\x1b[1m")
        assert (process.returncode, complaint) == INTERRUPTED

    def test_who_ends_it_while_it_starts_ends_its_server(self, demo):
        with demo.start() as process:
            demo.wait_for_processes(2)
            process.send_signal(signal.SIGTERM)
            _, complaint = process.communicate(timeout=PATIENCE_SECONDS)

        assert (process.returncode, complaint) == INTERRUPTED

    def test_a_reader_that_goes_away_is_no_error_to_print(self, demo):
        with demo.start() as process:
            process.stdout.close()

            assert process.stderr.read() == ""


def test_metrics_are_served_where_they_are_turned_on(tmp_path):
    with served(copy_to(tmp_path / "on"), FLASK_METRICS="true") as [port]:
        shown = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS).read().decode()

    assert re.search(r"^webhooks_database_up(\{.*\})? 1\.0$", shown, re.MULTILINE)
    assert re.search(r"^webhooks_workers_seen(\{.*\})? 0\.0$", shown, re.MULTILINE)
