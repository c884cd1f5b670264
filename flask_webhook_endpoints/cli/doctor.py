"""`flask webhooks doctor`: checks, each of which says what is wrong and what to do about it."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import click
import sqlalchemy as sa
from flask import current_app
from flask.cli import with_appcontext

from flask_webhook_endpoints.cli import checks, terminal, vacuum
from flask_webhook_endpoints.cli.checks import Finding, Level, fail, ok, warn
from flask_webhook_endpoints.core import key_rotation, statistics
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import UnreadableValue
from flask_webhook_endpoints.settings import PREFIX, Settings
from flask_webhook_endpoints.state import State, current_state

SAMPLE = 20
"""Stored values of each kind that are decrypted to check the keys: this many of the oldest and of the newest."""

DUE_FOR = timedelta(minutes=1)
"""A delivery that is due for longer than this waits for a worker that does not come."""

_START_ONE = "Start one: `flask webhooks worker`, as a service that is restarted."


@click.command()
@terminal.as_json
@with_appcontext
def doctor(as_json: bool) -> None:
    """Check keys, tables, workers, clocks and settings; exit with 1 where something fails."""
    state = current_state()
    production = not (current_app.debug or current_app.testing)
    examine = partial(_examine, state=state, production=production, celery=current_app.extensions.get("celery"))
    with terminal.messages():
        findings = state.run(lambda scope: list(examine(scope)), commit=False)
    if as_json:
        terminal.show([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{finding.level:<4}  {finding.check}: {finding.message}")
            if finding.advice:
                click.echo(f"      {finding.advice}")
    if any(finding.level is Level.FAIL for finding in findings):
        raise click.exceptions.Exit(1)


def _examine(scope: Scope, state: State, *, production: bool, celery: Any) -> Iterator[Finding]:
    yield from _check_settings(state.settings, production=production)
    yield from checks.check_celery(celery)
    yield from checks.check_descriptors()
    yield from checks.check_clock(scope, state.now)
    yield from checks.check_migrations(scope)
    tables = checks.check_tables(scope)
    yield tables
    if tables.level is Level.FAIL:
        # The other checks read the tables.
        return
    yield checks.check_routing(scope, state.scope(writes=False))
    yield _check_keys(scope, state)
    lately = statistics.SEEN_LATELY + timedelta(seconds=state.settings.poll_seconds)
    workers = statistics.workers(scope)
    at_work = sum(scope.now - worker.seen_at < lately for worker in workers)
    # Celery's processes come and go, and do not delete their rows.
    died = sum(worker.engine == "worker" and scope.now - worker.seen_at >= lately for worker in workers)
    yield from _check_workers(scope, at_work=at_work, died=died)
    yield from checks.check_connections(scope, at_work=at_work)
    yield from vacuum.check_vacuum(scope)


def _check_settings(settings: Settings, *, production: bool) -> Iterator[Finding]:
    if settings.require_https or not production:
        yield ok("https", "required" if settings.require_https else "not required, in debug or testing mode")
    else:
        advice = f"Set {PREFIX}REQUIRE_HTTPS = True: what you send is readable on its way otherwise."
        yield warn("https", "endpoints may have http: URLs", advice)
    if production and settings.allowed_networks and settings.proxy is None:
        networks = ", ".join(settings.allowed_networks)
        advice = f"Keep {PREFIX}ALLOWED_NETWORKS empty unless your customers' receivers are in there."
        yield warn("egress", f"deliveries may reach {networks}", advice)


def _check_keys(scope: Scope, state: State) -> Finding:
    read = unreadable = 0
    for values in key_rotation.encrypted(scope.tables):
        row_id = values.column.table.c.id
        stored = sa.select(row_id, values.endpoint_id.label("endpoint_id"), values.column.label("token"))
        stored = stored.where(values.column.is_not(None)).limit(SAMPLE)
        oldest, newest = (scope.execute(stored.order_by(order)).all() for order in (row_id.asc(), row_id.desc()))
        # In a small table the same rows are the oldest and the newest.
        for row in {*oldest, *newest}:
            read += 1
            try:
                state.cipher.decrypt(row.token, values.place(row[0], row.endpoint_id))
            except UnreadableValue:
                unreadable += 1
    if unreadable:
        advice = (
            "Put the key back that encrypted them: into SECRET_KEY_FALLBACKS, or at the end of"
            f" {PREFIX}ENCRYPTION_KEYS. `flask webhooks rotate-keys` names the endpoints."
        )
        return fail("keys", f"no key reads {unreadable} of {read} stored secrets and headers", advice)
    if state.settings.encryption_keys:
        return ok("keys", f"{PREFIX}ENCRYPTION_KEYS reads all {read} values of a sample" if read else "nothing stored")
    advice = "Before SECRET_KEY changes, put the old one into SECRET_KEY_FALLBACKS."
    return ok("keys", f"derived from SECRET_KEY; they read all {read} values of a sample", advice)


def _check_workers(scope: Scope, *, at_work: int, died: int) -> Iterator[Finding]:
    depth = statistics.depth(scope)
    waited = timedelta(0) if depth.oldest_due_at is None else scope.now - depth.oldest_due_at
    late = f"{depth.due} deliveries are due, one of them for {waited.total_seconds():.0f} seconds"
    if waited > DUE_FOR and not at_work:
        yield fail("workers", f"none was seen lately, and {late}", _START_ONE)
    elif waited > DUE_FOR:
        advice = "See `flask webhooks status`; if many endpoints wait, run more workers or raise --concurrency."
        yield warn("workers", f"{at_work} at work, but {late}", advice)
    elif not at_work:
        yield warn("workers", "none was seen lately", _START_ONE)
    else:
        yield ok("workers", f"{at_work} at work")
    if died:
        advice = "See its log and `flask webhooks status`; forgotten a day after it was last seen."
        yield warn("workers", f"{died} ended without saying so", advice)
    if depth.expired_leases:
        advice = "Any worker takes them up again, and receivers may see duplicates; see why one died: memory, SIGKILL."
        yield warn("leases", f"{depth.expired_leases} deliveries were claimed and not recorded in time", advice)
    else:
        yield ok("leases", f"{depth.in_flight} deliveries in flight, none overdue")
