"""What the worker lacks is never the receiver's fault: descriptors, ports and memory, in real processes."""

import errno
import logging
import os
import resource
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.worker import connections
from tests.support import hosts, names
from tests.support.api import create_endpoint
from tests.support.database import ATTEMPT, DELIVERY, rows
from tests.support.deliveries import attempts_of, publish, statuses
from tests.support.receivers import endless, ok, say, then_hang
from tests.support.waiting import SLOWNESS, wait_until
from tests.support.workers import deliver, kill, start

IP_LOCAL_PORT_RANGE = 51
"""From Linux 6.3 on; Python has no name for it."""

SETTINGS = {"retry_schedule": [0], "poll_seconds": 0.05}

NOBODY = 65534

PROMPT_SECONDS = 1.5 * SLOWNESS

pytestmark = [pytest.mark.slow, pytest.mark.several_connections, pytest.mark.host(make=hosts.delivering)]


@contextmanager
def working(*args: Any, call: Any = deliver, **options: Any) -> Iterator[Any]:
    worker = start(call, *args, **options)
    try:
        yield worker
    finally:
        kill(worker)


def deliver_in_want(database: str, settings: dict[str, Any], *, want: Path, log: Path, lack: str) -> None:
    """Be a worker that lacks something for as long as a file exists; write what it logs to another."""
    handler = logging.FileHandler(log)
    handler.setFormatter(_Lines())
    logger = logging.getLogger("flask_webhook_endpoints.worker")
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    if lack == "descriptors":
        threading.Thread(target=_take_descriptors, args=(want,), daemon=True).start()
    elif lack == "ports":
        _lack_ports(want)
    else:
        # The kernel of a machine that others use can't be made to say so.
        _lack_sockets(want, MemoryError() if lack == "memory" else OSError(getattr(errno, lack), lack))
    deliver(database, settings)


def _lack_sockets(want: Path, error: Exception) -> None:
    class Socket(connections._Socket):
        def __init__(self, *args: Any) -> None:
            if want.exists():
                raise error
            super().__init__(*args)

    connections._Socket = Socket  # type: ignore[misc]


def _lack_ports(want: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]

    class Scarce(socket.socket):
        def connect(self, address: Any) -> None:
            # Keeps the server open, too.
            if want.exists() and taken.fileno() > 0:
                try:
                    # The kernel may choose from one port alone, which is taken.
                    self.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port | port << 16))
                except OSError:
                    raise OSError(errno.EADDRNOTAVAIL, "an older kernel") from None
            super().connect(address)

    connections._Socket = type("_Socket", (connections._Socket, Scarce), {})  # type: ignore[misc]


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname} {record.msg} {vars(record).get('webhooks.error')}"


def _take_descriptors(want: Path) -> None:
    while True:
        taken = []
        while not want.exists():
            time.sleep(0.01)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        while want.exists():
            # Again and again, because the worker closes some.
            with suppress(OSError):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            # This needs no descriptor.
            want.with_suffix(".taken").mkdir(exist_ok=True)
            time.sleep(0.01)
        for descriptor in taken:
            os.close(descriptor)


@pytest.mark.parametrize(
    ("lack", "named"),
    [
        ("descriptors", "EMFILE"),
        ("ports", "no port left to connect from"),
        ("memory", "ENOMEM"),
        *((name, name) for name in ("ENFILE", "ENOBUFS", "ENOMEM")),
    ],
    ids=str,
)
def test_what_the_worker_lacks_is_given_back_and_not_counted(database, host, receivers, tmp_path, lack, named):  # noqa: PLR0917 - fixtures
    receiver = receivers.start(ok())
    want, log = tmp_path / "want", tmp_path / "log"
    create_endpoint(host.client(), f"http://127.0.0.1:{receiver.port}/", event_types=["before"])
    create_endpoint(host.client(), f"http://localhost:{receiver.port}/", event_types=["invoice.paid"])
    with working(database, SETTINGS, call=deliver_in_want, want=want, log=log, lack=lack):
        # The worker has its connection to the database then.
        publish(host, event_type="before")
        wait_until(lambda: statuses(host) == {"DELIVERED": 1})
        want.touch()
        wait_until(lambda: lack != "descriptors" or want.with_suffix(".taken").exists())
        publish(host, *range(5))
        wait_until(lambda: "worker_lacks" in log.read_text())
        time.sleep(2)
        assert statuses(host)["DELIVERED"] == 1
        assert sum(statuses(host).values()) == 6
        want.unlink()
        wait_until(lambda: statuses(host) == {"DELIVERED": 6})

    assert attempts_of(host) == [(1, None)] * 6
    assert {row.attempts for row in rows(host, sa.select(DELIVERY.c.attempts))} == {1}
    warnings = [line for line in log.read_text().splitlines() if "worker_lacks" in line]
    assert warnings == [f"WARNING webhooks.worker_lacks {named}"]


def deliver_with_few_files(database: str, settings: dict[str, Any], *, limits: tuple[int, int]) -> None:
    """Be a worker with such limits of open files, to whom names of `silent` have eight addresses."""
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    silent = {f"silent{number}.test": [[f"127.1.1.{last}" for last in range(1, 9)]] for number in range(14)}
    with names.answering(silent):
        deliver(database, settings)


@contextmanager
def silence() -> Iterator[int]:
    """Yield a port of all loopback addresses that answers no attempt to connect."""
    with socket.create_server(("0.0.0.0", 0), backlog=0) as server:
        port = server.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
        for filler in fillers:
            filler.close()


def files(worker: Any) -> int:
    return len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))


def test_names_with_many_silent_addresses_leave_the_others_their_descriptors(database, host, receivers):
    receiver = receivers.start(ok())
    with silence() as port:
        for number in range(14):
            create_endpoint(host.client("hostile"), f"http://silent{number}.test:{port}/", timeout_seconds=10)
        create_endpoint(host.client("healthy"), f"http://127.0.0.1:{receiver.port}/")
        with working(database, SETTINGS, call=deliver_with_few_files, limits=(1024, 1024)) as worker:
            publish(host, *range(10), tenant_id="hostile")
            most, until = 0, time.monotonic() + 5
            while time.monotonic() < until:
                most = max(most, files(worker))
                time.sleep(0.02)
            published = time.monotonic()
            publish(host, tenant_id="healthy")
            wait_until(lambda: receiver.requests)
            seconds = time.monotonic() - published

    print(f"{most} descriptors at the most; the healthy tenant's event arrived after {seconds:.2f} s")
    assert most < 450
    assert seconds < PROMPT_SECONDS
    assert rows(host, sa.select(ATTEMPT.c.number).where(ATTEMPT.c.error == "connect")) == []


@pytest.mark.parametrize(("limits", "held"), [((256, 2048), 2048), ((256, 256), 256)], ids=["raised", "fits"])
def test_the_worker_raises_its_limit_of_open_files_and_fits_into_it(database, host, receivers, limits, held):
    hanging = receivers.start(then_hang(say()), host="0.0.0.0")
    for number in range(20):
        create_endpoint(host.client(), f"http://127.0.0.{number + 1}:{hanging.port}/", timeout_seconds=10)
    publish(host, *range(10))
    with working(database, SETTINGS, call=deliver_with_few_files, limits=limits) as worker:
        wait_until(lambda: hanging.connections)
        time.sleep(2)
        lines = Path(f"/proc/{worker.pid}/limits").read_text().splitlines()
        (limit,) = [line.split()[3] for line in lines if "open files" in line]
        assert int(limit) == held
        assert files(worker) < held - 32

    assert rows(host, sa.select(ATTEMPT.c.number).where(ATTEMPT.c.error == "connect")) == []


def test_endless_interim_answers_delay_no_other_tenant(database, host, receivers):
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    hostile, receiver = receivers.start(endless(b"", hint * 1000)), receivers.start(ok())
    for _ in range(10):
        create_endpoint(host.client("hostile"), f"http://127.0.0.1:{hostile.port}/", timeout_seconds=10)
    create_endpoint(host.client("healthy"), f"http://127.0.0.1:{receiver.port}/")
    with working(database, SETTINGS):
        publish(host, *range(10), tenant_id="hostile")
        wait_until(lambda: hostile.requests)
        published = time.monotonic()
        publish(host, tenant_id="healthy")
        wait_until(lambda: receiver.requests)
        seconds = time.monotonic() - published
        wait_until(lambda: statuses(host) == {"FAILED": 100, "DELIVERED": 1})

    print(f"the healthy tenant's event arrived after {seconds:.2f} s")
    assert seconds < PROMPT_SECONDS
    assert {error for _, error in attempts_of(host)} == {None, "protocol"}


def deliver_with_few_processes(database: str, settings: dict[str, Any], *, port: int) -> None:
    """Be a worker of a user that may have 256 more processes and threads."""
    names.ask(port)
    # The other user need not be able to read modules that are imported late.
    hosts.delivering(database, **settings).close()
    if os.getuid() == 0:
        # No limit holds for root.
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    limit = 256 + _tasks_of(os.getuid())
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
    deliver(database, settings)


def _tasks_of(user: int) -> int:
    tasks = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            tasks += len(list((process / "task").iterdir())) if process.stat().st_uid == user else 0
    return tasks


@pytest.fixture
def anybodys() -> Iterator[hosts.Host]:
    """Yield a host whose database another user may write to."""
    with tempfile.TemporaryDirectory() as folder, closing(hosts.delivering(f"sqlite:///{folder}/app.db")) as host:
        Path(folder).chmod(0o777)
        for file in Path(folder).iterdir():
            file.chmod(0o666)
        yield host


@pytest.mark.only_on("sqlite")
def test_names_that_hang_delay_no_other_tenant_under_a_limit_of_processes(database, anybodys, receivers):
    host, receiver = anybodys, receivers.start(ok())
    hanging, healthy = [f"hang{number}" for number in range(300)], [f"fine{number}" for number in range(25)]
    for tenant in (*hanging, *healthy):
        create_endpoint(host.client(tenant), f"http://{tenant}.test:{receiver.port}/", timeout_seconds=10)
    with names.answering({f"{tenant}.test": [["127.0.0.1"]] for tenant in healthy}) as server:
        url = host.app.config["SQLALCHEMY_DATABASE_URI"]
        with working(url, SETTINGS, call=deliver_with_few_processes, port=server.port) as worker:
            for tenant in hanging:
                publish(host, tenant_id=tenant)
            wait_until(lambda: len(server.asked) == len(hanging))
            published = time.monotonic()
            for tenant in healthy:
                publish(host, tenant_id=tenant)
            wait_until(lambda: len(receiver.requests) == len(healthy))
            seconds = time.monotonic() - published
            threads = len(list(Path(f"/proc/{worker.pid}/task").iterdir()))

    print(f"{threads} threads; the healthy tenants' events arrived after {seconds:.2f} s")
    assert threads < 32
    assert seconds < PROMPT_SECONDS
