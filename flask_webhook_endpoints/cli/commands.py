"""`flask webhooks …`: what an operator runs."""

import re
from functools import partial
from typing import Any, NamedTuple, cast

import click
from flask import Blueprint, current_app
from flask.cli import with_appcontext

from flask_webhook_endpoints.api import openapi
from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.cli.migrations import db
from flask_webhook_endpoints.cli.status import doctor, forget_tenant, redeliver, status
from flask_webhook_endpoints.core import key_rotation
from flask_webhook_endpoints.core.key_rotation import Encrypted
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.settings import DEFAULT_BATCH, DEFAULT_CONCURRENCY
from flask_webhook_endpoints.state import State, current_state

BATCH = 500
"""Rows of one transaction: short enough that no request waits for it."""

_VARIABLE = re.compile(r"<(?:[^<>]*:)?(\w+)>")
"""As routes write it: `<tenant>`, `<int:tenant>`."""


def add_commands(blueprint: Blueprint) -> None:
    """Give `blueprint` our commands."""
    blueprint.cli.help = "What an operator of webhook endpoints runs."
    for command in (worker, status, doctor, redeliver, forget_tenant, rotate_keys, prune, db, print_openapi):
        blueprint.cli.add_command(command)


@click.command()
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=DEFAULT_CONCURRENCY,
    show_default=True,
    help="Attempts that may be under way at once.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 1000),
    default=DEFAULT_BATCH,
    show_default=True,
    help="Deliveries claimed at once.",
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
    with terminal.from_extra("worker", "aiohttp"):
        from flask_webhook_endpoints.worker import process  # noqa: PLC0415 - aiohttp may be missing
    app = cast(Any, current_app)._get_current_object()
    with terminal.messages():
        process.run(
            app, concurrency=concurrency, batch=batch, until="once" if once else "drained" if drain else "stopped"
        )


@click.command("rotate-keys")
@terminal.as_json
@with_appcontext
def rotate_keys(as_json: bool) -> None:
    """Encrypt every secret and all headers with the newest key.

    May be interrupted and repeated. The exit status is 1 when a value could not be read with any key.
    """
    state = current_state()
    with terminal.messages():
        renewals = [_renew(state, values, as_json=as_json) for values in key_rotation.encrypted(state.host.tables)]
    if as_json:
        terminal.show({done.what: {"renewed": done.renewed, "unreadable": done.unreadable} for done in renewals})
    if any(done.unreadable for done in renewals):
        raise click.exceptions.Exit(1)


@click.command()
@terminal.as_json
@with_appcontext
def prune(as_json: bool) -> None:
    """Delete what has served its time, and expire what was held for too long.

    Deliveries that finished RETENTION_DAYS ago, with their attempts and events; idempotency keys after a day; secrets
    that sign no more. The worker does the same once an hour. May be interrupted and repeated, and run beside others.
    """
    state = current_state()
    now, retention = state.now(), state.retention
    figures: dict[str, int] = {}
    with terminal.messages():
        finished = terminal.write(partial(retention.count_finished, now=now))
        with terminal.progress(finished, "Pruning deliveries", hidden=as_json) as advance:
            for step in retention.steps:
                figures[step.name] = 0
                while taken := terminal.write(partial(step.prune, now=now)):
                    figures[step.name] += taken
                    advance(taken if step.name == "deliveries_deleted" else 0)
    if as_json:
        terminal.show(figures)
        return
    for step in retention.steps:
        click.echo(f"{step.text}: {figures[step.name]}")


class _Renewed(NamedTuple):
    """What became of one column."""

    what: str
    renewed: int
    unreadable: list[str]
    """The ids of the endpoints whose values no key reads."""


def _renew(state: State, values: Encrypted, *, as_json: bool) -> _Renewed:
    """Renew one column and say so."""
    tables = state.host.tables
    renew = partial(key_rotation.renew, tables=tables, cipher=state.cipher, values=values, limit=BATCH)
    total = terminal.write(partial(key_rotation.count, tables=tables, column=values.column))
    renewed = 0
    unreadable: list[str] = []
    with terminal.progress(total, f"Renewing {values.what}", hidden=as_json) as advance:
        batch = terminal.write(partial(renew, after=None))
        while batch.last is not None:
            advance(batch.read)
            renewed += batch.renewed
            unreadable += map(format_id, batch.unreadable)
            batch = terminal.write(partial(renew, after=batch.last))
    if not as_json:
        click.echo(f"{values.what.capitalize()} renewed: {renewed}, unreadable: {len(unreadable)}")
        for ep_id in unreadable:
            click.echo(f"No key reads the {values.what} of {ep_id}", err=True)
    return _Renewed(values.what, renewed, unreadable)


@click.command("openapi")
@with_appcontext
def print_openapi() -> None:
    """Print the API as an OpenAPI 3.1 document."""
    ours = [
        name
        for name, blueprint in current_app.blueprints.items()
        if blueprint.import_name.startswith("flask_webhook_endpoints.")
    ]
    rules = [rule.rule for name in ours for rule in current_app.url_map.iter_rules(f"{name}.read_openapi")]
    terminal.show({**current_state().openapi("/"), "servers": [_server(rule) for rule in rules]})


def _server(rule: str) -> dict[str, Any]:
    """Return where the API is mounted; variables of a `url_prefix`, as OpenAPI writes them."""
    url, variables = _VARIABLE.sub(r"{\1}", rule.removesuffix(openapi.PATH)), _VARIABLE.findall(rule)
    server: dict[str, Any] = {"url": url or "/"}
    return {**server, "variables": {name: {"default": name} for name in variables}} if variables else server
