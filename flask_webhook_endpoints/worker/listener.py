"""PostgreSQL's notifications, which wake a worker; with another database or driver, the worker only polls."""

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from flask_webhook_endpoints.core import wakeups
from flask_webhook_endpoints.database.tables import Tables

DRIVERS = ("psycopg", "psycopg2")
"""The drivers of PostgreSQL that this module can listen with."""

CHECK_SECONDS = 60.0
"""Seconds after which a silent connection is checked: it may be dead, or its channel that of a replaced table."""

RECONNECT_SECONDS = 5.0
"""Seconds until the listener connects again after it lost its connection."""

_log = logging.getLogger("flask_webhook_endpoints.listener")  # the name that hosts have configured


class Listener:
    """A context manager that calls `heard` from a thread whenever a delivery may have become due."""

    def __init__(self, engine: sa.Engine, tables: Tables, heard: Callable[[], object]) -> None:
        self._engine = engine
        self._channel = f"SELECT {wakeups.channel_sql(engine, tables)}"
        self._heard = heard
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        if self._engine.dialect.name == "postgresql" and self._engine.driver in DRIVERS:
            self._ear, self._end = socket.socketpair()
            self._thread = threading.Thread(target=self._run, daemon=True, name="webhooks-listener")
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._stopped.set()
        self._end.close()
        # The thread may hang in a connect, so do not wait longer.
        self._thread.join(1)
        self._ear.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with closing(wakeups.own_connection(self._engine)) as connection:
                    self._listen(connection)
            except Exception as error:
                if self._stopped.is_set():
                    return
                _log.warning("webhooks.not_listening", extra={"webhooks.error": f"{type(error).__name__}: {error}"})
                self._stopped.wait(RECONNECT_SECONDS)

    def _listen(self, connection: Any) -> None:
        """Listen until the context ends, or until the table is made or replaced."""
        channel = self._current_channel(connection)
        connection.cursor().execute(f'LISTEN "{channel}"')
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(self._ear, selectors.EVENT_READ)
            # Deliveries may have become due before it listened.
            self._heard()
            while True:
                ready = [key.fileobj for key, _ in selector.select(CHECK_SECONDS)]
                if self._ear in ready:
                    return
                if ready:
                    _take_notifications(connection)
                elif self._current_channel(connection) != channel:
                    return
                self._heard()

    def _current_channel(self, connection: Any) -> str:
        cursor = connection.cursor()
        cursor.execute(self._channel)
        return str(cursor.fetchone()[0])


def _take_notifications(connection: Any) -> None:
    """Read the notifications; raise the driver's error if the connection is lost."""
    if hasattr(connection, "pgconn"):
        connection.pgconn.consume_input()
        while connection.pgconn.notifies():
            pass
    else:
        connection.poll()
        connection.notifies.clear()
