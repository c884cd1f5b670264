"""How the events of our log read as lines: their details are fields of the record, which other formatters leave out."""

import logging


class Formatter(logging.Formatter):
    """Writes an event and its details on one line: the fields `webhooks.…` of the record, after its message.

    Takes what `logging.Formatter` takes; a traceback follows on lines of its own.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name it overrides
        """Return the line."""
        named = [(key, value) for key, value in vars(record).items() if key.startswith("webhooks.")]
        details = [f"{key.removeprefix('webhooks.')}={value!s}" for key, value in named if value is not None]
        return " ".join([super().formatMessage(record), *details]).replace("\n", " ")
