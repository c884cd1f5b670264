"""The operator's guide: its commands run, its units are sound and start what they say, its numbers are the code's."""

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from flask.cli import FlaskGroup

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core import heartbeats, room, statistics
from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.worker import descriptors, loop
from tests.support import docs, hosts
from tests.support.api import PATH, create_endpoint
from tests.support.commands import run_documented
from tests.support.servers import free_port
from tests.support.waiting import PATIENCE_SECONDS, wait_until

PAGE = (docs.ROOT / "docs" / "operations.md").read_text()
FOLDER = docs.ROOT / "docs" / "operations"
PAGES = [path.read_text() for path in sorted(FOLDER.glob("*.md"))]
UNITS = re.findall(r"^```ini\n(.*?)^```$", (FOLDER / "systemd.md").read_text(), re.MULTILINE | re.DOTALL)
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.usefixtures("logging_untouched")


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the documented application, its tables made."""
    (example,) = [each for each in docs.examples(docs.ROOT / "docs" / "delivery.md") if each.name == "publish"]
    (tmp_path / "shop.py").write_text(example.code)
    hosts.flask_sqlalchemy(f"sqlite:///{tmp_path}/shop.db").close()
    return tmp_path


@pytest.fixture
def environment(desk: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FLASK_SECRET_KEY": "a secret of the reader's own, long enough",
        "FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite:///{desk}/shop.db",
    }


def test_its_commands_run(host, acme):
    # Shipped migrations stop where create_all() made the tables.
    run_documented(host.app, "$ flask webhooks db stamp")
    create_endpoint(acme)

    run_documented(host.app, "\n".join([PAGE, *PAGES]))

    assert acme.get(PATH).json == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_its_units_are_sound(tmp_path):
    assert len(UNITS) == 2
    for number, unit in enumerate(UNITS):
        path = tmp_path / f"unit-{number}.service"
        path.write_text(unit.replace("/srv/shop/.venv/bin", str(BIN)))
        checked = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
        )
        assert (checked.returncode, [line for line in checked.stderr.splitlines() if path.name in line]) == (0, [])


@pytest.fixture
def started(desk: Path, environment: dict[str, str]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """What the units start, on a port that is free and with one process that serves."""
    port = free_port()
    commands = [re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1] for unit in UNITS]  # type: ignore[index]
    processes = {}
    for name, command in zip(("web", "worker"), commands, strict=True):
        line = command.replace("/srv/shop/.venv/bin", str(BIN)).replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        line = line.replace("--workers 4", "--workers 1")
        processes[name] = subprocess.Popen(
            shlex.split(line), cwd=desk, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        processes[name].port = port  # type: ignore[attr-defined]
    yield processes
    for process in processes.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def workers_of(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM webhook_worker").fetchone()[0])


@pytest.mark.slow
def test_what_its_units_start_serves_works_and_ends_cleanly(started, desk):
    web, worker = started["web"], started["worker"]

    def serves() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{web.port}/v1/openapi.json", timeout=PATIENCE_SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(serves)
    wait_until(lambda: workers_of(desk / "shop.db"))
    for process in (web, worker):
        process.terminate()

    assert [process.wait(PATIENCE_SECONDS) for process in (web, worker)] == [0, 0]
    assert "webhooks.worker_stopped" in worker.stderr.read()
    assert workers_of(desk / "shop.db") == 0


def test_the_events_of_the_log_are_all_there():
    sources = " ".join(path.read_text() for path in Path(statistics.__file__).parents[1].rglob("*.py"))
    logged = set(re.findall(r'(?:log\.\w+|log_error)\(\s*"(webhooks\.\w+)"', sources))

    assert logged
    assert logged <= set(re.findall(r"`(webhooks\.\w+)`", PAGE))


def test_its_formatter_writes_what_belongs_to_an_event(capsys):
    docs.example("docs/operations.md", "logging")
    extra = {"webhooks.delivery_id": "dlv_1", "webhooks.response_status": 500, "webhooks.error": None}
    logs.logger("flask_webhook_endpoints.delivery").warning("webhooks.attempt_failed", extra=extra)

    said = capsys.readouterr().err
    assert said.endswith(" WARNING webhooks.attempt_failed delivery_id=dlv_1 response_status=500\n")
    assert said.count("\n") == 1


def test_its_numbers_are_the_codes():
    assert heartbeats.EVERY.total_seconds() == 10
    assert "every ten seconds" in " ".join(PAGE.split())
    assert heartbeats.SEEN_LATELY.total_seconds() == 60
    assert "not seen for a minute has died" in " ".join(PAGE.split())


@pytest.mark.slow
def test_its_containers_run_the_worker_and_tell_whether_it_lives(tmp_path, environment, monkeypatch):
    """The commands of the compose file, in its order, on a database that has no tables yet."""
    services = COMPOSE["services"]
    environment |= {"FLASK_APP": "shop", "FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path}/new.db"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    shop = docs.example("docs/delivery.md", "publish")

    # The worker alone needs a process, which takes more than a second to start.
    def succeeds(program: str, *arguments: str) -> bool:
        assert program == "flask"
        group = FlaskGroup(create_app=lambda: shop.app)
        return shop.app.test_cli_runner().invoke(group, arguments).exit_code == 0

    def lives() -> bool:
        return succeeds(*services["worker"]["healthcheck"]["test"][1:])

    assert succeeds(*services["migrate"]["command"])
    assert not lives()
    command = [str(BIN / services["worker"]["command"][0]), *services["worker"]["command"][1:]]
    worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: workers_of(tmp_path / "new.db"))
        assert lives()
        worker.terminate()
        assert worker.wait(PATIENCE_SECONDS) == 0
    finally:
        worker.kill()
        worker.wait()
        with shop.app.app_context():
            shop.db.engine.dispose()
    assert workers_of(tmp_path / "new.db") == 0


def test_its_containers_have_time_to_stop_and_are_sound():
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    instructions = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert instructions[0] == "FROM"
    assert set(instructions) <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "CMD"}
    web = json.loads(lines[-1].removeprefix("CMD "))
    assert web[0] == "gunicorn"
    assert "shop:app" in web
    services = COMPOSE["services"]
    assert all(set(each["depends_on"]) <= set(services) for each in services.values() if "depends_on" in each)
    needed = Settings().max_timeout_seconds + loop.STOP_MARGIN_SECONDS + loop.RECORDING_SECONDS
    assert int(services["worker"]["stop_grace_period"].removesuffix("s")) > needed
    (manifest,) = re.findall(r"^```yaml\n(.*?)^```$", (FOLDER / "kubernetes.md").read_text(), re.MULTILINE | re.DOTALL)
    pod = yaml.safe_load(manifest)["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > needed
    (container,) = pod["containers"]
    assert container["command"] == services["worker"]["command"]
    assert container["livenessProbe"]["exec"]["command"] == services["worker"]["healthcheck"]["test"][1:]


def test_the_numbers_of_its_how_to_pages_are_the_codes():
    pages = " ".join(" ".join(PAGES).split())
    assert loop.STOP_MARGIN_SECONDS + loop.RECORDING_SECONDS == 20
    assert "`MAX_TIMEOUT_SECONDS` and twenty seconds" in pages
    assert f"concurrency of 1,000 needs {descriptors.needed(1000):,}" in pages
    assert f"take {(room.LARGE_BYTES + 1000 * room.SMALL_BYTES) // 1_000_000} MB at most" in pages
