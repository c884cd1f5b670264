"""The findings of `flask webhooks doctor`: a check, its level, a message, and what to do."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    """The system works, and may stop working."""
    FAIL = "fail"
    """The system does not work."""


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    level: Level
    message: str
    advice: str = ""
    """The operator's next step; empty where there is nothing to do."""


def ok(check: str, message: str, advice: str = "") -> Finding:
    """Return a finding of level `OK`."""
    return Finding(check, Level.OK, message, advice)


def warn(check: str, message: str, advice: str) -> Finding:
    """Return a finding of level `WARN`."""
    return Finding(check, Level.WARN, message, advice)


def fail(check: str, message: str, advice: str) -> Finding:
    """Return a finding of level `FAIL`."""
    return Finding(check, Level.FAIL, message, advice)
