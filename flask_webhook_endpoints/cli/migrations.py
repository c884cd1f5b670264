"""`flask webhooks db …`: the shipped migrations."""

import sys
from collections.abc import Callable
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
    if sql:
        with terminal.messages():
            _revisions().write_sql(revision, sys.stdout)
    else:
        _run(lambda revisions: revisions.upgrade(revision))


@db.command()
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Undo the revisions after REVISION; `base` drops the tables and all their rows."""
    _run(lambda revisions: revisions.downgrade(revision))


@db.command()
def current() -> None:
    """Show the revision of the tables."""
    _run(lambda _: None)


@db.command()
@click.argument("revision", default="head")
@click.option("--yes", is_flag=True, help="create_all() made the tables, though you have migrations of your own.")
def stamp(revision: str, yes: bool) -> None:
    """Record REVISION as the revision of the tables, without running any."""
    _run(lambda revisions: revisions.stamp(revision, is_sure=yes))


def _run(action: Callable[["Revisions"], None]) -> None:
    with terminal.messages():
        revisions = _revisions()
        action(revisions)
        click.echo(f"Revision: {revisions.current() or 'none'}")


def _revisions() -> "Revisions":
    with terminal.from_extra("migrations", "alembic"):
        from flask_webhook_endpoints.database.migrate import Revisions  # noqa: PLC0415 - Alembic may be missing
    host = current_state().host
    # The host's session may be bound to a connection; migrations need a connection of their own.
    return Revisions(host.session().get_bind(clause=host.tables.bind_of_writes).engine, host.tables.bind)
