"""A view written by hand: Flask, the raw driver and orjson, with the same checks, rows and JSON.

The same view in a transaction of Flask-SQLAlchemy's session shows the cost of a host's session.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import psycopg_pool
from cryptography.fernet import Fernet
from flask import Flask, Response, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.engine import CursorResult, make_url

from benchmarks.hosts import decrypted
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.errors import InvalidURL
from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.security.encryption import derive_key

_COLUMNS = "id, name, url, headers_encrypted, timeout_seconds, event_types, paused_at, created_at, updated_at, version"
_fernet = Fernet(derive_key("benchmark"))
_policy = EgressPolicy()


def application(url: str, *, in_session: bool = False) -> Flask:  # noqa: C901, PLR0915 - as by hand: view after view
    """Make the application on the tables at this URL."""
    app = Flask("by_hand")
    postgresql = url.startswith("postgresql")
    driver, mark = (_postgresql, "%s") if postgresql else (_sqlite, "?")
    connect = _session(app, url) if in_session else driver(url)

    def stored_id(uuid: UUID) -> Any:
        return uuid if postgresql else uuid.hex

    def stored_time(moment: datetime) -> Any:
        return moment if postgresql else moment.replace(tzinfo=None).isoformat(" ", "microseconds")

    def sql(text: str) -> str:
        return text.replace("?", mark)

    one = "tenant_id = ? AND id = ?"
    get = sql(f"SELECT {_COLUMNS} FROM webhook_endpoint WHERE {one}")  # noqa: S608 - constants
    every = sql(f"SELECT {_COLUMNS} FROM webhook_endpoint WHERE tenant_id = ? ORDER BY id")  # noqa: S608 - constants
    count = sql("SELECT count(*) FROM webhook_endpoint WHERE tenant_id = ?")
    insert = sql(
        f"INSERT INTO webhook_endpoint (tenant_id, {_COLUMNS})"  # noqa: S608 - constants
        f" VALUES (?{', ?' * 10})"
    )
    insert_secret = sql(
        "INSERT INTO webhook_secret (id, endpoint_id, secret_encrypted, created_at) VALUES (?, ?, ?, ?)"
    )
    update = sql(
        f"UPDATE webhook_endpoint SET name = ?, version = version + 1, updated_at = ? WHERE {one}"  # noqa: S608
        f" RETURNING {_COLUMNS}"
    )
    delete = sql(f"DELETE FROM webhook_endpoint WHERE {one}")  # noqa: S608 - constants
    delete_secrets = sql("DELETE FROM webhook_secret WHERE endpoint_id = ?")
    delete_rest = sql("DELETE FROM webhook_rest WHERE endpoint_id = ?")
    waiting = "FROM webhook_queue WHERE state IN ('READY', 'WAITING', 'HELD') AND tenant_id = ? AND endpoint_id = ?"
    cancelled = "UPDATE webhook_delivery SET status = 'CANCELLED', finished_at = ?"
    cancel = [
        sql(f"{cancelled} WHERE id IN (SELECT delivery_id {waiting})"),
        sql(f"DELETE {waiting}"),
    ]
    if postgresql:
        gone = f"WITH gone AS (DELETE {waiting} RETURNING delivery_id)"
        cancel = [sql(f"{gone} {cancelled} FROM gone WHERE id = gone.delivery_id")]

    @app.get("/v1/endpoints")
    def list_endpoints() -> Response:
        tenant = request.headers.get("X-Tenant")
        if tenant is None:
            return Response(status=401)
        with connect() as connection:
            rows = connection.execute(every, (tenant,)).fetchall()
        return _answer([_shown(row) for row in rows])

    @app.get("/v1/endpoints/<ep_id>")
    def read_endpoint(ep_id: str) -> Response:
        tenant = request.headers.get("X-Tenant")
        if tenant is None:
            return Response(status=401)
        with connect() as connection:
            row = connection.execute(get, (tenant, stored_id(UUID(ep_id[3:])))).fetchone()
        return Response(status=404) if row is None else _answer(_shown(row), version=row[-1])

    @app.post("/v1/endpoints")
    def create_endpoint() -> Response:
        tenant = request.headers.get("X-Tenant")
        if tenant is None:
            return Response(status=401)
        body = orjson.loads(request.get_data())
        if not _valid(body):
            return Response(status=422)
        now, uuid = stored_time(datetime.now(UTC)), new_id()
        headers = body.get("headers_json") or {}
        sealed = _fernet.encrypt(orjson.dumps(headers)).decode() if headers else None
        row = (uuid, body["name"], body["url"], sealed, body["timeout_seconds"], None, None, now, now, 1)
        secret = _fernet.encrypt(body["secret"].encode()).decode()
        with connect() as connection:
            connection.execute(insert, (tenant, stored_id(uuid), *row[1:]))
            if connection.execute(count, (tenant,)).fetchone()[0] > 100_000:  # noqa: PLR2004 - the quota
                connection.rollback()
                return Response(status=409)
            connection.execute(insert_secret, (stored_id(new_id()), stored_id(uuid), secret, now))
            connection.commit()
        response = _answer(_shown(row), status=201, version=1)
        response.headers["Location"] = f"/v1/endpoints/ep_{uuid}"
        return response

    @app.patch("/v1/endpoints/<ep_id>")
    def update_endpoint(ep_id: str) -> Response:
        tenant = request.headers.get("X-Tenant")
        if tenant is None:
            return Response(status=401)
        body = orjson.loads(request.get_data())
        if not (isinstance(body.get("name"), str) and 0 < len(body["name"]) <= 255):  # noqa: PLR2004 - the rule
            return Response(status=422)
        values = (body["name"], stored_time(datetime.now(UTC)), tenant, stored_id(UUID(ep_id[3:])))
        with connect() as connection:
            row = connection.execute(update, values).fetchone()
            connection.commit()
        return Response(status=404) if row is None else _answer(_shown(row), version=row[-1])

    @app.delete("/v1/endpoints/<ep_id>")
    def delete_endpoint(ep_id: str) -> Response:
        tenant = request.headers.get("X-Tenant")
        if tenant is None:
            return Response(status=401)
        uuid = stored_id(UUID(ep_id[3:]))
        with connect() as connection:
            if not connection.execute(delete, (tenant, uuid)).rowcount:
                return Response(status=404)
            connection.execute(delete_secrets, (uuid,))
            connection.execute(delete_rest, (uuid,))
            now = stored_time(datetime.now(UTC))
            if postgresql:
                connection.execute(cancel[0], (tenant, uuid, now))
            else:
                connection.execute(cancel[0], (now, tenant, uuid))
                connection.execute(cancel[1], (tenant, uuid))
            connection.commit()
        return Response(status=204)

    return app


def _valid(body: Any) -> bool:
    if not isinstance(body, dict) or not all(isinstance(body.get(key), str) for key in ("name", "url", "secret")):
        return False
    try:
        _policy.check_url(body["url"])
    except InvalidURL:
        return False
    return 0 < len(body["name"]) <= 255 and 1 <= body["timeout_seconds"] <= 30  # noqa: PLR2004 - the rules


def _shown(row: Any) -> dict[str, Any]:
    uuid, name, url, headers, timeout, event_types, paused_at, created_at, updated_at, _ = row
    return {
        "id": f"ep_{uuid if isinstance(uuid, UUID) else UUID(uuid)}",
        "name": name,
        "url": url,
        "headers_json": orjson.loads(decrypted(headers)) if headers else {},
        "timeout_seconds": timeout,
        "event_types": event_types and event_types.split(),
        "status": "PAUSED" if paused_at else "ACTIVE",
        "paused_at": _time(paused_at),
        "created_at": _time(created_at),
        "updated_at": _time(updated_at),
    }


def _time(moment: Any) -> str | None:
    if isinstance(moment, datetime):
        return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    return moment and f"{moment.replace(' ', 'T')}Z"


def _answer(value: Any, *, status: int = 200, version: int | None = None) -> Response:
    response = Response(orjson.dumps(value), status=status, mimetype="application/json")
    response.headers["Cache-Control"] = "private, no-cache"
    if version is not None:
        response.set_etag(str(version))
    return response


def _sqlite(url: str) -> Any:
    path, local = make_url(url).database or "", threading.local()

    @contextmanager
    def connect() -> Iterator[Any]:
        if not hasattr(local, "connection"):
            local.connection = sqlite3.connect(path)
        yield local.connection

    return connect


def _postgresql(url: str) -> Any:
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg_pool.ConnectionPool(conninfo, min_size=1, max_size=2, open=True).connection


def _session(app: Flask, url: str) -> Any:
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db = SQLAlchemy(app)

    class Connection:
        """The part of the driver's interface that the views use; statements reach the driver unchanged."""

        def execute(self, statement: str, values: Any) -> CursorResult[Any]:
            return db.session.connection().exec_driver_sql(statement, values)

        def commit(self) -> None:
            db.session.commit()

        def rollback(self) -> None:
            db.session.rollback()

    @contextmanager
    def connect() -> Iterator[Any]:
        yield Connection()

    return connect
