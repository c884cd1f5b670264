"""File descriptors: the worker raises its limit, and takes on no more attempts than it has descriptors for."""

import os
import resource
from contextlib import suppress
from typing import NamedTuple

from flask_webhook_endpoints import logs

ADDRESSES_AT_ONCE = 2
"""Addresses of one name that are connected to at the same time."""

RESERVED = 64
"""Descriptors that are kept free: for the database, lookups of names, logs and the host."""

# The limit that counts if the system has none or a higher one: its bounds on ports and memory come first.
_ENOUGH = 1 << 20

_log = logs.logger("flask_webhook_endpoints.worker")  # the name that hosts have configured


class Room(NamedTuple):
    """The attempts and sockets that a worker has descriptors for."""

    concurrency: int
    max_sockets: int


def make_room(concurrency: int) -> Room:
    """Raise the soft limit to the hard one; return the room for at most `concurrency` attempts."""
    limit = raise_limit()
    free = max(limit - _open() - RESERVED, ADDRESSES_AT_ONCE)
    fitting = min(concurrency, free // ADDRESSES_AT_ONCE)
    if fitting < concurrency:
        extra = {"webhooks.limit": limit, "webhooks.concurrency": fitting}
        _log.warning("webhooks.few_descriptors", extra=extra)
    return Room(fitting, free)


def needed(concurrency: int) -> int:
    """Return the limit of open files that a worker needs for so many attempts."""
    return concurrency * ADDRESSES_AT_ONCE + RESERVED


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return the limit that then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS allows less than its hard limit.
    for wanted in (hard, 10_240):
        if _finite(wanted) > _finite(soft):
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                soft = wanted
    return _finite(soft)


def _finite(limit: int) -> int:
    return _ENOUGH if limit == resource.RLIM_INFINITY else min(limit, _ENOUGH)


def _open() -> int:
    """Return the number of descriptors that the process has open already."""
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - Path.iterdir would list the same
    except OSError:
        return 0
