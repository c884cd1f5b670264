"""Servers of PostgreSQL that tests start themselves: one with parameters of its own, or one and its hot standby."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.servers import free_port

SERVER_USER = "postgres"
"""The user that the servers run as where the tests are root's, whom they refuse."""


@contextmanager
def own_server(**parameters: object) -> Iterator[int]:
    """Start a server with these parameters, which takes replication connections; yield its port on 127.0.0.1."""
    with _folder() as folder, ExitStack() as stack:
        _initialize(folder / "data")
        port = free_port()
        _serve(stack, folder / "data", port, **parameters)
        yield port


@contextmanager
def primary_and_standby() -> Iterator[tuple[int, int]]:
    """Start both, and yield their ports on 127.0.0.1."""
    with _folder() as folder, ExitStack() as stack:
        ports = free_port(), free_port()
        primary, standby = folder / "primary", folder / "standby"
        _initialize(primary)
        _serve(stack, primary, ports[0])
        connection = "--host", "127.0.0.1", "--port", ports[0], "--username", "postgres"
        _run("pg_basebackup", "--pgdata", standby, "--write-recovery-conf", "--checkpoint", "fast", *connection)
        _serve(stack, standby, ports[1])
        yield ports


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        if os.getuid() == 0:
            shutil.chown(folder, SERVER_USER)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _initialize(data: Path) -> None:
    _run("initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust", "--no-sync")


def _serve(stack: ExitStack, data: Path, port: int, **parameters: object) -> None:
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    options += "".join(f" -c {name}={value}" for name, value in parameters.items())
    _run("pg_ctl", "--pgdata", data, "--wait", "--log", data / "log", "--options", options, "start")
    stack.callback(_run, "pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")


def _run(program: str, *args: object) -> None:
    # Debian has them beside the path.
    found = shutil.which(program) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{program}")))
    as_user: dict[str, Any] = {"user": SERVER_USER} if os.getuid() == 0 else {}
    subprocess.run(
        [found, *map(str, args)], check=True, cwd="/", stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **as_user
    )
