"""A log formatter that writes an event with its details: other formatters leave out the fields of a record."""

import logging


class Formatter(logging.Formatter):
    """Writes an event and its details on one line: the message, then the record's `webhooks.…` fields.

    The arguments are those of `logging.Formatter`. A traceback follows on lines of its own.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name it overrides
        """Return the line of a record."""
        named = [(key, value) for key, value in vars(record).items() if key.startswith("webhooks.")]
        details = [f"{key.removeprefix('webhooks.')}={value!s}" for key, value in named if value is not None]
        return " ".join([super().formatMessage(record), *details]).replace("\n", " ")
