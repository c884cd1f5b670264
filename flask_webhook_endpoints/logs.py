"""The log: each message is an event's name and its details, which the formatter keeps on one line."""

import logging
from collections.abc import Mapping
from typing import Any

_PREFIX = "webhooks."


class Formatter(logging.Formatter):
    """Writes a record on one line, whatever its message holds; a traceback follows on lines of its own.

    The arguments are those of `logging.Formatter`.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name it overrides
        """Return the line of a record."""
        return super().formatMessage(record).replace("\n", " ")


class EventName(str):
    """The name of an event as `record.msg`, by which filters know it; `%` with the details makes the message."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the name as it is, so that `LogRecord.getMessage` formats it by `%`."""
        return self

    def __mod__(self, details: Mapping[str, Any]) -> str:
        """Return the name and the details, each as `name=value`, without line breaks."""
        known = ((key.removeprefix(_PREFIX), value) for key, value in details.items() if value is not None)
        return " ".join([str.__str__(self), *(f"{key}={_shown(value)}" for key, value in known)])


class EventLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs events: what is in `extra` stands in the message, too, for hosts whose formatter leaves out fields."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log the event `msg`, with the details in `extra`."""
        if self.isEnabledFor(level):
            details = kwargs.get("extra")
            # The caller is one frame up.
            self.logger.log(level, EventName(msg), *([details] if details else args), stacklevel=2, **kwargs)


def logger(name: str) -> EventLogger:
    """Return the logger of this name, for events."""
    return EventLogger(logging.getLogger(name))


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else " ".join(str(value).split())
