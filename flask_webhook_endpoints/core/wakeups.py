"""Wake-ups of Celery: after a commit, a thread sends the task that delivers.

No commit waits for a wake-up, or fails because of one. A wake-up only saves time: beat finds what is due without it.
`flask webhooks worker` needs none, because it asks the database by itself. A broker from which no Celery process of
ours takes messages gets none, because they would fill it.
"""

import atexit
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core.heartbeats import SEEN_LATELY

TASK = "flask_webhook_endpoints.deliver"
"""The name of Celery's task."""

EXPIRES_SECONDS = 60
"""Seconds after which Celery drops a message that no process has taken: beat has sent others since."""

INTERVAL_SECONDS = 0.1
"""Seconds between two wake-ups of a process: ten a second say as much as ten thousand."""

IDLE_SECONDS = 2.0
"""Seconds until a connection without wake-ups is closed: idle, it takes a place, and may be cut silently."""

MAX_PAUSE_SECONDS = 5.0
"""Seconds between two tries, at most, while the broker cannot be reached."""

LOOK_SECONDS = 5.0
"""Seconds between two looks of a process whether a Celery process of ours was seen."""

BROKER_SECONDS = 5.0
"""Seconds that a broker has for an answer, unless the host's `broker_transport_options` give another time."""

EXIT_SECONDS = 1.0
"""Seconds that a process which ends waits for its last wake-ups."""

_TRANSPORT_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    # Without a confirmation, a broker that has gone silent takes messages for as long as the system has room for them.
    "amqp": {"read_timeout": BROKER_SECONDS, "write_timeout": BROKER_SECONDS, "confirm_publish": True},
    "redis": {"socket_timeout": BROKER_SECONDS, "socket_connect_timeout": BROKER_SECONDS},
}

_PENDING = "webhook_endpoints.wakes"

_log = logs.logger("flask_webhook_endpoints.wakes")  # the name that hosts have configured


class Waker:
    """Sends the wake-ups of one Celery, from a thread that lives while there are any. Many in a row become one."""

    def __init__(self, celery: Any, since_seen: Callable[[], float | None]) -> None:
        """Prepare for a Celery; `since_seen` returns the seconds since a process of ours was seen, None for never."""
        self._celery = celery
        self._since_seen = since_seen
        self._looked_at = self._sent_at = -math.inf
        self._seen_at: float | None = None
        self.reset()
        _wakers.add(self)

    def reset(self) -> None:
        """Begin without a thread, and with a new lock. A forked process lacks the threads that had them."""
        self._changed = threading.Condition()
        self._asked = self._sent = 0
        self._running = False

    def wake(self) -> None:
        """Send a wake-up soon. Waits for nothing and never fails."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            if not self._running:
                # At the interpreter's end there are no new threads.
                with suppress(RuntimeError):
                    threading.Thread(target=self._run, daemon=True, name="webhooks-waker").start()
                    self._running = True

    def flush(self, seconds: float) -> None:
        """Wait until everything is sent, but no longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked == self._sent, seconds)

    def _run(self) -> None:
        failures = 0
        while self._goes_on():
            try:
                with ExitStack() as line:
                    send = None
                    while asked := self._next():
                        if self._is_awaited():
                            send = send or line.enter_context(_connected(self._celery))
                            send()
                            self._sent_at = time.monotonic()
                        with self._changed:
                            # Only now: a commit during the send needs another wake-up.
                            self._sent = asked
                            self._changed.notify_all()
                        failures = 0
                        time.sleep(INTERVAL_SECONDS)
            except Exception as error:
                if not failures:
                    _log.warning("webhooks.not_woken", extra={"webhooks.error": said(error, self._celery)})
                failures += 1
                time.sleep(min(0.25 * 2**failures, MAX_PAUSE_SECONDS))

    def _is_awaited(self) -> bool:
        """Return whether a process was seen lately, or since the last message. At most one message waits in vain."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            seconds = self._since_seen()
            self._looked_at, self._seen_at = now, None if seconds is None else now - seconds
        if self._seen_at is None:
            return False
        return now - self._seen_at < SEEN_LATELY.total_seconds() or self._sent_at < self._seen_at

    def _goes_on(self) -> bool:
        with self._changed:
            self._running = self._asked != self._sent
            return self._running

    def _next(self) -> int:
        """Wait for a wake-up to send; return 0 if for a while there is none."""
        with self._changed:
            wanted = self._changed.wait_for(lambda: self._asked != self._sent, IDLE_SECONDS)
            return self._asked if wanted else 0


@dataclass(frozen=True)
class Wakeups:
    """Wakes the Celery of one application, where the host wired one."""

    extensions: Mapping[str, Any]
    """The application's, where Flask's documentation puts its Celery."""
    since_seen: Callable[[], float | None]
    """Returns the seconds since a Celery process of ours was seen; None: never."""
    wakers: dict[Any, Waker] = field(default_factory=dict)
    """The waker of each Celery that the application has had."""

    def at_commit(self, session: Session) -> None:
        """Wake Celery when the session's transaction commits, and not if it is rolled back."""
        if (waker := self._waker()) is not None:
            session.info.setdefault(_PENDING, set()).add(waker)

    def now(self) -> None:
        """Wake Celery."""
        if (waker := self._waker()) is not None:
            waker.wake()

    def _waker(self) -> Waker | None:
        celery: Any = self.extensions.get("celery")
        # Eager tasks run where they are sent, which would be the waker's thread.
        if TASK not in getattr(celery, "tasks", ()) or celery.conf.task_always_eager:
            return None
        return self.wakers.get(celery) or self.wakers.setdefault(celery, Waker(celery, self.since_seen))


def follow_commits() -> None:
    """Have every session send its wake-ups after its commit; a host without Celery does not need that."""
    event.listen(Session, "after_commit", _committed)
    event.listen(Session, "after_transaction_end", _ended)


def flush(seconds: float = EXIT_SECONDS) -> None:
    """Wait until all wake-ups of this process are sent, but no longer than this."""
    give_up_at = time.monotonic() + seconds
    for waker in list(_wakers):
        waker.flush(max(give_up_at - time.monotonic(), 0))


@contextmanager
def _connected(celery: Any) -> Iterator[Callable[[], object]]:
    """Connect to the broker, and give the function that sends a wake-up."""
    # A connection of this thread alone: Celery's pools break when gunicorn forks.
    with celery.connection_for_write() as connection:
        options = _TRANSPORT_OPTIONS.get(connection.get_transport_cls().driver_type, {})
        connection.transport_options = {**options, **connection.transport_options}
        channel = connection.channel()
        # Given the connection itself, a producer would try for ever to open a channel.
        producer = celery.amqp.Producer(channel, auto_declare=False)
        send = partial(celery.tasks[TASK].apply_async, producer=producer, retry=False, expires=EXPIRES_SECONDS)
        queue = celery.amqp.router.route({}, TASK)["queue"]
        if options and queue.name != celery.conf.task_default_queue:
            yield partial(_send_unless_one_waits, queue(channel), send)
        else:
            yield send


def _send_unless_one_waits(queue: Any, send: Callable[[], object]) -> None:
    """Send a wake-up, unless the queue, which is for them alone, has one. It will wake for the same commits."""
    if not queue.queue_declare().message_count:
        send()


_wakers: "weakref.WeakSet[Waker]" = weakref.WeakSet()

atexit.register(flush)


def _reset_all() -> None:
    for waker in list(_wakers):
        waker.reset()


os.register_at_fork(after_in_child=_reset_all)


def _committed(session: Session) -> None:
    # A savepoint that is released is not committed yet.
    if not session.in_nested_transaction():
        for waker in session.info.pop(_PENDING, ()):
            waker.wake()


def _ended(session: Session, transaction: SessionTransaction) -> None:
    # Rolled back.
    if transaction.parent is None:
        session.info.pop(_PENDING, None)


def said(error: Exception, celery: Any) -> str:
    """Return what an error of the host's Celery says, without the passwords of its broker."""
    try:
        with celery.connection_for_write() as connection:
            passwords = {connection.password, *(urlsplit(url).password for url in connection.alt)}
    except Exception as unreadable:
        # Not its message: it repeats a part of the URL, such as a password with a slash.
        return f"Celery can't read its broker_url ({type(unreadable).__name__})"
    text = f"{type(error).__name__}: {error}"
    known = {form for password in passwords if password for form in (password, unquote(password))}
    # The longest first, because one may be a part of another.
    for each in sorted(known, key=len, reverse=True):
        text = text.replace(each, "***")
    return " ".join(text.split())
