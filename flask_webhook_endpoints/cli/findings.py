"""What a check has found: how bad it is, what is wrong, and what to do."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """It works, and may stop to."""
    FAIL = "fail"
    """It does not work."""


class Finding(NamedTuple):
    """What one check has found."""

    check: str
    level: Level
    message: str
    advice: str = ""
    """What to do; empty where there is nothing to do."""


def ok(check: str, message: str, advice: str = "") -> Finding:
    """Return that all is well."""
    return Finding(check, Level.OK, message, advice)


def warn(check: str, message: str, advice: str) -> Finding:
    """Return what works, and may stop to."""
    return Finding(check, Level.WARN, message, advice)


def fail(check: str, message: str, advice: str) -> Finding:
    """Return what does not work."""
    return Finding(check, Level.FAIL, message, advice)
