"""A host's application, on a database of its own that is dropped when the benchmark ends."""

import argparse
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.fernet import Fernet
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.engine import make_url

from benchmarks import rounds
from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.security.encryption import derive_key
from flask_webhook_endpoints.state import State, state_of

MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there has a folder of its own
"""A file system in memory, if there is one, because the disk is not what is measured."""

MEMORY_BYTES = 2 * 1024**3
"""Bytes that must be free in memory; containers often have 64 MiB."""

_fernet = Fernet(derive_key("benchmark"))


@dataclass(frozen=True)
class Host:
    """A host's application with the parts that the programs use."""

    app: Flask
    db: SQLAlchemy
    webhooks: WebhookEndpoints

    @property
    def state(self) -> State:
        """The library's state for the application."""
        return state_of(self.app)

    def register(self, urls: list[str], *, tenant_id: str = "acme", **fields: Any) -> None:
        """Create an endpoint for each URL."""
        client = self.app.test_client()
        for url in urls:
            body = {"name": "n", "url": url, "timeout_seconds": 10, **fields}
            answer = client.post("/v1/endpoints", json=body, headers={"X-Tenant": tenant_id})
            if answer.status_code != 201:  # noqa: PLR2004 - Created
                raise RuntimeError(answer.text)

    def publish(self, events: int, *, tenant_id: str = "acme", body_bytes: int = 1024) -> None:
        """Publish events whose bodies have about this many bytes."""
        with self.app.app_context():
            for number in range(events):
                self.webhooks.publish("invoice.paid", {"id": number, "text": "x" * body_bytes}, tenant_id=tenant_id)
            self.db.session.commit()

    def execute(self, statement: sa.Executable) -> Any:
        """Run a statement and commit."""
        with self.app.app_context():
            result = self.db.session.execute(statement)
            # The type of the ORM's results does not say that they have rows.
            rows = result.all() if getattr(result, "returns_rows", True) else None
            self.db.session.commit()
            return rows


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments of every program."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("database", nargs="?", help="URL of PostgreSQL, MariaDB or SQLite; default: SQLite, in memory")
    parser.add_argument("--rounds", type=int, default=rounds.ROUNDS, help=f"default: {rounds.ROUNDS}")
    return parser


@contextmanager
def host(url: str | None, **settings: Any) -> Iterator[Host]:
    """Make an application whose tenant is the header `X-Tenant`, on new tables."""
    with database(url) as own:
        yield open_host(own, **settings)


def open_host(url: str, **settings: Any) -> Host:
    """Make an application on the tables at this URL."""
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=_tenant, metadata=db.metadata)
    app = Flask("host")
    app.config.update(
        # No SECRET_KEY, as in the baselines: with one, Flask looks for a session's cookie.
        WEBHOOK_ENDPOINTS_ENCRYPTION_KEYS=[derive_key("benchmark")],
        SQLALCHEMY_DATABASE_URI=url,
        WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS=["127.0.0.0/8"],
        WEBHOOK_ENDPOINTS_MAX_ENDPOINTS_PER_TENANT=100_000,
        **{f"WEBHOOK_ENDPOINTS_{name.upper()}": value for name, value in settings.items()},
    )
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint)
    with app.app_context():
        db.create_all()
    return Host(app, db, webhooks)


def _tenant() -> str | None:
    return request.headers.get("X-Tenant")


@contextmanager
def database(url: str | None) -> Iterator[str]:
    """Make an empty database at the server, or in a file of its own; drop it at the end."""
    parsed = make_url(url or "sqlite:///")
    make = _file if parsed.get_backend_name() == "sqlite" else _schema
    with make(parsed) as own:
        yield own.render_as_string(hide_password=False)


@contextmanager
def _file(url: sa.URL) -> Iterator[sa.URL]:
    folder, prefix = _place(url.database)
    with tempfile.TemporaryDirectory(dir=folder, prefix=prefix) as own:
        _say(f"SQLite, in {folder}")
        yield url.set(database=str(Path(own) / "host.db"))


def _place(path: str | None) -> tuple[Path, str]:
    """Return the folder and the beginning of the name: beside the file that the URL names, never that file."""
    if not path:
        in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
        return MEMORY if in_memory else Path(tempfile.gettempdir()), "bench-"
    file = Path(path).absolute()
    if path == ":memory:" or file.exists() or not file.parent.is_dir():
        raise SystemExit(f"{path}: name a file that does not exist, in a folder that does.")
    return file.parent, f"{file.name}-"


@contextmanager
def _schema(url: sa.URL) -> Iterator[sa.URL]:
    name = f"bench_{secrets.token_hex(6)}"
    if url.get_backend_name() == "postgresql":
        own, drop = url.update_query_dict({"options": f"-csearch_path={name}"}), f"DROP SCHEMA {name} CASCADE"
    else:
        own, drop = url.set(database=name), f"DROP SCHEMA {name}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
        _say(f"{connection.dialect.name}, at {url.render_as_string()}")
    try:
        yield own
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(drop))


@cache
def _say(where: str) -> None:
    """Print a text once, although a program makes several databases."""
    print(f"The database: {where}\n", flush=True)


def decrypted(token: str) -> bytes:
    """Return the text of a token, less the place that our library writes before it."""
    return _fernet.decrypt(token).rpartition(b"\0")[2]
