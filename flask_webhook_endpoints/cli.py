"""`flask webhooks …`: what an operator runs."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import click
from flask import Blueprint, current_app
from flask.cli import AppGroup, with_appcontext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from flask_webhook_endpoints import openapi, renewal, transactions
from flask_webhook_endpoints.errors import WebhookEndpointsError
from flask_webhook_endpoints.renewal import Encrypted
from flask_webhook_endpoints.state import State, current_state

if TYPE_CHECKING:
    from flask_webhook_endpoints.revisions import Revisions

T = TypeVar("T")

BATCH = 500
"""Rows of one transaction: short enough that no request waits for it."""


def add_commands(blueprint: Blueprint) -> None:
    """Give `blueprint` our commands."""
    blueprint.cli.help = "What an operator of webhook endpoints runs."
    for command in (worker, db, rotate_keys, prune, print_openapi):
        blueprint.cli.add_command(command)


@click.command()
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    help="Attempts that may be under way at once.",
)
@click.option(
    "--batch", type=click.IntRange(1, 1000), default=500, show_default=True, help="Deliveries claimed at once."
)
@click.option("--once", is_flag=True, help="Claim and attempt one batch, then end.")
@click.option("--drain", is_flag=True, help="End when nothing is due.")
@with_appcontext
def worker(concurrency: int, batch: int, once: bool, drain: bool) -> None:
    """Deliver what is published, until told to stop.

    SIGTERM or SIGINT: claim no more, finish what is under way, give back the rest. A second one ends at once.
    """
    if once and drain:
        raise click.UsageError("--once and --drain exclude each other.")
    with _extra("worker", "aiohttp"):
        from flask_webhook_endpoints import worker_process  # noqa: PLC0415 - aiohttp may be missing
    app = cast(Any, current_app)._get_current_object()
    with _messages():
        worker_process.run(
            app, concurrency=concurrency, batch=batch, until="once" if once else "drained" if drain else "stopped"
        )


db = AppGroup("db", help="Migrations of the webhook tables, for hosts that don't generate their own.")


@db.command()
@click.argument("revision", default="head")
@click.option("--sql", is_flag=True, help="Print the SQL for an empty database; touch none.")
def upgrade(revision: str, sql: bool) -> None:
    """Create or upgrade the tables, to the newest revision unless one is named."""
    with _messages():
        if sql:
            _revisions().write_sql(revision, sys.stdout)
        else:
            _revisions().upgrade(revision)
            _show_current()


@db.command()
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Undo the revisions after REVISION; `base` drops the tables and all that they hold."""
    with _messages():
        _revisions().downgrade(revision)
        _show_current()


@db.command()
def current() -> None:
    """Show the revision that the tables are at."""
    with _messages():
        _show_current()


@db.command()
@click.argument("revision", default="head")
def stamp(revision: str) -> None:
    """Note that the tables are at a revision, and run nothing."""
    with _messages():
        _revisions().stamp(revision)
        _show_current()


@click.command("rotate-keys")
@with_appcontext
def rotate_keys() -> None:
    """Encrypt every secret and all headers with the newest key.

    May be interrupted and repeated. The exit status is 1 when a value could not be read with any key.
    """
    state = current_state()
    with _messages():
        lost = [_renew(state, values) for values in renewal.encrypted(state.host.tables)]
    if any(lost):
        raise click.exceptions.Exit(1)


@click.command()
@with_appcontext
def prune() -> None:
    """Delete what has served its time: idempotency keys after a day, secrets that sign no more."""
    now = datetime.now(UTC)
    endpoints = current_state().endpoints
    keys = secrets = 0
    with _messages():
        while deleted := _write(partial(endpoints.idempotency_keys.prune, limit=BATCH, now=now)):
            keys += deleted
        click.echo(f"Idempotency keys deleted: {keys}")
        after = None
        while ids := _write(partial(endpoints.secrets.prune, after=after, limit=BATCH, now=now)):
            secrets += len(ids)
            after = ids[-1]
        click.echo(f"Expired secrets deleted: {secrets}")


def _renew(state: State, values: Encrypted) -> int:
    """Renew one column and say so; return how many values could not be read."""
    tables = state.host.tables
    renew = partial(renewal.renew, tables=tables, cipher=state.cipher, values=values, limit=BATCH)
    total = _write(partial(renewal.count, tables=tables, column=values.column))
    renewed = 0
    unreadable: list[UUID] = []
    with click.progressbar(length=total, label=f"Renewing {values.what}", file=sys.stderr) as bar:
        batch = _write(partial(renew, after=None))
        while batch.last is not None:
            bar.update(batch.read)
            renewed += batch.renewed
            unreadable += batch.unreadable
            batch = _write(partial(renew, after=batch.last))
    click.echo(f"{values.what.capitalize()} renewed: {renewed}, unreadable: {len(unreadable)}")
    for endpoint_id in unreadable:
        click.echo(f"No key reads the {values.what} of ep_{endpoint_id}", err=True)
    return len(unreadable)


def _write(operation: Callable[[Session], T]) -> T:
    return transactions.write(current_state().host.session(), operation)


def _show_current() -> None:
    click.echo(f"Revision: {_revisions().current() or 'none'}")


def _revisions() -> "Revisions":
    with _extra("migrations", "alembic"):
        from flask_webhook_endpoints.revisions import Revisions  # noqa: PLC0415 - Alembic may be missing
    host = current_state().host
    # A session may be bound to a connection; migrations take one of their own.
    return Revisions(host.session().get_bind(clause=host.tables.bind).engine, host.tables.bind)


@contextmanager
def _extra(name: str, package: str) -> Iterator[None]:
    """Say which extra of ours brings the package that an import lacks."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        message = f"{package} is missing; it comes with: pip install 'flask-webhook-endpoints[{name}]'"
        raise click.ClickException(message) from None


@contextmanager
def _messages() -> Iterator[None]:
    """Show what is wrong as a message; a traceback would repeat what was being written."""
    try:
        yield
    except WebhookEndpointsError as error:
        raise click.ClickException(str(error)) from None
    except DBAPIError as error:
        raise click.ClickException(f"The database refused: {error.orig}") from None


@click.command("openapi")
@with_appcontext
def print_openapi() -> None:
    """Print the API as an OpenAPI 3.1 document."""
    rules = [rule.rule for rule in current_app.url_map.iter_rules() if rule.endpoint.endswith(".read_openapi")]
    mounted_at = rules[0].removesuffix(openapi.PATH)
    click.echo(json.dumps(current_state().openapi(mounted_at or "/"), indent=2, ensure_ascii=False))
