"""The registry of the commands `flask webhooks …`, and the command `worker`."""

from functools import partial
from typing import Any, cast

import click
from flask import Blueprint, current_app
from flask.cli import with_appcontext

from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.cli.doctor import doctor
from flask_webhook_endpoints.cli.events import events
from flask_webhook_endpoints.cli.maintenance import forget_tenant, prune, rotate_keys
from flask_webhook_endpoints.cli.migrations import db
from flask_webhook_endpoints.cli.openapi import openapi
from flask_webhook_endpoints.cli.redeliver import redeliver
from flask_webhook_endpoints.cli.status import status
from flask_webhook_endpoints.cli.tune import tune
from flask_webhook_endpoints.settings import DEFAULT_BATCH, DEFAULT_CONCURRENCY


def add_commands(blueprint: Blueprint) -> None:
    """Add our commands to the blueprint."""
    blueprint.cli.help = "Operate webhook endpoints."
    for command in (worker, status, doctor, events, redeliver, forget_tenant):
        blueprint.cli.add_command(command)
    for command in (rotate_keys, prune, tune, db, openapi):
        blueprint.cli.add_command(command)


_number = partial(click.option, show_default=True)


@click.command()
@_number(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=DEFAULT_CONCURRENCY,
    help="Attempts that may be in flight at once.",
)
@_number("--batch", type=click.IntRange(1, 1000), default=DEFAULT_BATCH, help="Deliveries claimed at once.")
@click.option("--once", is_flag=True, help="Claim and attempt one batch, then end.")
@click.option("--drain", is_flag=True, help="End when nothing is due.")
@with_appcontext
def worker(concurrency: int, batch: int, once: bool, drain: bool) -> None:
    """Deliver published events until a signal stops it.

    SIGTERM or SIGINT: claim no more, finish the attempts in flight, give back the rest. A second signal ends it
    at once.
    """
    if once and drain:
        raise click.UsageError("--once and --drain exclude each other.")
    with terminal.from_extra("worker", "aiohttp", "aiodns"):
        from flask_webhook_endpoints.worker import process  # noqa: PLC0415 - they may be missing
    app = cast(Any, current_app)._get_current_object()
    with terminal.messages():
        process.run(
            app, concurrency=concurrency, batch=batch, until="once" if once else "drained" if drain else "stopped"
        )
