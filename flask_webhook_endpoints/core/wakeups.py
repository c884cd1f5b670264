"""Wake-ups of Celery: after a commit, a thread sends the task that delivers.

No commit waits for a wake-up, or fails because of one. A wake-up only saves time: beat finds what is due without it.
`flask webhooks worker` needs none, because it asks the database by itself.
"""

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

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

EXIT_SECONDS = 1.0
"""Seconds that a process which ends waits for its last wake-ups."""

_PENDING = "webhook_endpoints.wakes"

_log = logging.getLogger("flask_webhook_endpoints.wakes")  # the name that hosts have configured


class Waker:
    """Sends the wake-ups of one Celery, from a thread that lives while there are any; many in a row become one."""

    def __init__(self, celery: Any) -> None:
        self._celery = celery
        self.reset()

    def reset(self) -> None:
        """Begin without thread and lock: a forked process has neither the thread nor the thread that held the lock."""
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
                with _connected(self._celery) as send:
                    while asked := self._next():
                        send()
                        with self._changed:
                            # Only now: a commit during the send needs another wake-up.
                            self._sent = asked
                            self._changed.notify_all()
                        failures = 0
                        time.sleep(INTERVAL_SECONDS)
            except Exception as error:
                if not failures:
                    _log.warning("webhooks.not_woken", extra={"webhooks.error": f"{type(error).__name__}: {error}"})
                failures += 1
                time.sleep(min(0.25 * 2**failures, MAX_PAUSE_SECONDS))

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
        return _wakers.get(celery) or _wakers.setdefault(celery, Waker(celery))


def follow_commits() -> None:
    """Have every session send its wake-ups after its commit; a host without Celery does not need that."""
    event.listen(Session, "after_commit", _committed)
    event.listen(Session, "after_transaction_end", _ended)


def flush(seconds: float = EXIT_SECONDS) -> None:
    """Wait until all wake-ups of this process are sent, but no longer than this."""
    give_up_at = time.monotonic() + seconds
    for waker in list(_wakers.values()):
        waker.flush(max(give_up_at - time.monotonic(), 0))


@contextmanager
def _connected(celery: Any) -> Iterator[Callable[[], object]]:
    """Connect to the broker, and give the function that sends a wake-up."""
    # A connection of this thread alone: Celery's pools break when gunicorn forks.
    with celery.connection_for_write() as connection:
        # Given the connection itself, a producer would try for ever to open a channel.
        producer = celery.amqp.Producer(connection.channel(), auto_declare=False)
        yield partial(celery.tasks[TASK].apply_async, producer=producer, retry=False, expires=EXPIRES_SECONDS)


_wakers: "weakref.WeakValueDictionary[Any, Waker]" = weakref.WeakValueDictionary()
"""The wakers by their Celery. Each lives while it has a wake-up to send."""

atexit.register(flush)


def _reset_all() -> None:
    for waker in list(_wakers.values()):
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
