"""The terminal of our commands: options, JSON, questions, progress bars, and messages instead of tracebacks."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from sqlalchemy.exc import DBAPIError

from flask_webhook_endpoints.database import failures
from flask_webhook_endpoints.errors import DatabaseUnavailable, WebhookEndpointsError

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
"""The option of commands whose output a script may read."""

yes = click.option("--yes", is_flag=True, help="Do not ask.")
"""The option of commands that ask before they write."""

dry_run = click.option("--dry-run", is_flag=True, help="Count what would be done; write nothing.")
"""The option of commands that can count first."""


class Moment(click.ParamType[datetime]):
    """A time in ISO 8601; it is in UTC unless it has another offset."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time in UTC."""
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"Not a time: {value!r}. Write 2026-01-31T12:00.")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def show(document: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table, unless it has no rows; names and values stand in columns."""
    if not rows:
        return
    # `repr` escapes control characters, which would move the terminal's cursor.
    cells = (["-" if value is None else repr(value).strip("'") for value in row.values()] for row in rows)
    lines = [[*rows[0]], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    click.echo(f"\n{title}")
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@contextmanager
def progress(length: int, label: str, *, hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr where that is a terminal; yield the function that moves the bar."""
    if hidden or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


@contextmanager
def from_extra(name: str, *packages: str) -> Iterator[None]:
    """Turn a failed import of one of the packages into a message that names the extra with it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in packages:
            raise
        message = f"{error.name} is missing; it comes with: pip install 'flask-webhook-endpoints[{name}]'"
        raise click.ClickException(message) from None


@contextmanager
def messages() -> Iterator[None]:
    """Turn errors into messages, because a traceback would show the values that were being written."""
    try:
        yield
    except DatabaseUnavailable as error:
        raise click.ClickException(f"{error} `flask webhooks doctor` says why.") from None
    except WebhookEndpointsError as error:
        raise click.ClickException(str(error)) from None
    except DBAPIError as error:
        raise click.ClickException(f"The database refused: {failures.refusal(error)}") from None
