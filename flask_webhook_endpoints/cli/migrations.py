"""`flask webhooks db …`: the shipped migrations."""

import sys
from typing import TYPE_CHECKING

import click
from flask.cli import AppGroup

from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.state import current_state

if TYPE_CHECKING:
    from flask_webhook_endpoints.database.migrate import Revisions


db = AppGroup("db", help="Migrations of the webhook tables, for hosts that don't generate their own.")


@db.command()
@click.argument("revision", default="head")
@click.option("--sql", is_flag=True, help="Print the SQL for an empty database; run nothing.")
def upgrade(revision: str, sql: bool) -> None:
    """Create or upgrade the tables, to the newest revision unless one is named."""
    with terminal.messages():
        if sql:
            _revisions().write_sql(revision, sys.stdout)
        else:
            _revisions().upgrade(revision)
            _show_current()


@db.command()
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Undo the revisions after REVISION; `base` drops the tables and all their rows."""
    with terminal.messages():
        _revisions().downgrade(revision)
        _show_current()


@db.command()
def current() -> None:
    """Show the revision of the tables."""
    with terminal.messages():
        _show_current()


@db.command()
@click.argument("revision", default="head")
def stamp(revision: str) -> None:
    """Record REVISION as the revision of the tables, without running any."""
    with terminal.messages():
        _revisions().stamp(revision)
        _show_current()


def _show_current() -> None:
    click.echo(f"Revision: {_revisions().current() or 'none'}")


def _revisions() -> "Revisions":
    with terminal.from_extra("migrations", "alembic"):
        from flask_webhook_endpoints.database.migrate import Revisions  # noqa: PLC0415 - Alembic may be missing
    host = current_state().host
    # The host's session may be bound to a connection; migrations need a connection of their own.
    return Revisions(host.session().get_bind(clause=host.tables.bind).engine, host.tables.bind)
