"""Shortages of the worker's own: file descriptors, ports, memory. They say nothing about a receiver."""

import errno
import socket

_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_MAX_CAUSES = 8


class Shortage(Exception):
    """The worker lacks something that an attempt needs, so the attempt does not count."""


def cause_of(raised: BaseException | None) -> str | None:
    """Return the shortage that an error comes from, or None if the worker lacked nothing."""
    for _ in range(_MAX_CAUSES):
        match raised:
            case None:
                return None
            case Shortage():
                return str(raised)
            case MemoryError():
                return "out of memory"
            case OSError() if not isinstance(raised, socket.gaierror) and raised.errno in _ERRNOS:
                return errno.errorcode[raised.errno]
        raised = raised.__cause__ or getattr(raised, "os_error", None) or raised.__context__
    return None
