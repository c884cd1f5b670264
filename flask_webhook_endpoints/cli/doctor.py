"""`flask webhooks doctor`: checks, each of which says what is wrong and what to do about it."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, cast

import click
from flask import Flask, current_app
from flask.cli import with_appcontext
from sqlalchemy.exc import DBAPIError

from flask_webhook_endpoints.cli import (
    celery_checks,
    database_checks,
    machine_checks,
    settings_checks,
    terminal,
    vacuum_checks,
)
from flask_webhook_endpoints.cli.findings import Finding, Level, fail, ok, warn
from flask_webhook_endpoints.core import heartbeats, numbers, retention, statistics
from flask_webhook_endpoints.core.heartbeats import Worker
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import DatabaseUnavailable
from flask_webhook_endpoints.settings import PREFIX
from flask_webhook_endpoints.state import State, current_state

DUE_FOR = timedelta(minutes=1)
"""The time for which a delivery may be due before `doctor` says that workers are missing."""

PRUNED_WITHIN = timedelta(hours=3)
"""The time for which rows may be past their retention, because workers prune once an hour."""

_START_ONE = "Start one: `flask webhooks worker`, as a service that is restarted."


@click.command()
@terminal.as_json
@with_appcontext
def doctor(as_json: bool) -> None:
    """Check keys, tables, workers, clocks and settings; exit with 1 where something fails."""
    with terminal.messages():
        findings = list(_findings(cast(Any, current_app)._get_current_object(), current_state()))
    if as_json:
        terminal.show([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{finding.level:<4}  {finding.check}: {finding.message}")
            if finding.advice:
                click.echo(f"      {finding.advice}")
    if any(finding.level is Level.FAIL for finding in findings):
        raise click.exceptions.Exit(1)


def _findings(app: Flask, state: State) -> Iterator[Finding]:
    yield from settings_checks.check_app_settings(app, state.settings, production=not (app.debug or app.testing))
    yield from celery_checks.check_celery(app.extensions.get("celery"))
    yield from machine_checks.check_descriptors()
    try:
        state.run(Scope.connection, commit=False)
    except (DatabaseUnavailable, DBAPIError, TypeError, ValueError, OSError) as error:
        # The last three are the driver's, about an option in the URL that it does not know or a file that is not there.
        yield database_checks.refused(error, state)
        return
    try:
        yield from state.run(lambda scope: list(_examine(scope, state, app.extensions.get("celery"))), commit=False)
    except (DatabaseUnavailable, DBAPIError) as error:
        yield database_checks.refused(error, state)


def _examine(scope: Scope, state: State, celery: Any) -> Iterator[Finding]:
    yield from machine_checks.check_clock(scope, state.now)
    yield from database_checks.check_migrations(scope)
    tables = database_checks.check_tables(scope)
    yield tables
    if tables.level is Level.FAIL:
        # The other checks read the tables.
        return
    yield database_checks.check_routing(scope, state.scope(writes=False))
    yield settings_checks.check_keys(scope, state)
    lately = heartbeats.SEEN_LATELY + timedelta(seconds=state.settings.poll_seconds)
    workers = heartbeats.workers(scope)
    at_work = sum(scope.now - worker.seen_at < lately for worker in workers)
    # Celery's processes come and go, and do not delete their rows.
    died = sum(worker.engine == "worker" and scope.now - worker.seen_at >= lately for worker in workers)
    yield from _check_workers(scope, at_work=at_work, died=died, cap=state.settings.max_in_flight_per_endpoint)
    yield from _check_each([worker for worker in workers if scope.now - worker.seen_at < lately], scope)
    of_us = any(worker.engine == "worker" and scope.now - worker.seen_at < lately for worker in workers)
    beaten_at = heartbeats.last_seen(scope, "celery")
    beats = beaten_at is not None and scope.now - beaten_at < lately
    yield from celery_checks.check_consumers(celery, instead=of_us, beats=beats)
    yield _check_retention(scope, state.settings.retention_days)
    yield from database_checks.check_connections(scope, at_work=at_work)
    yield from vacuum_checks.check_vacuum(scope)


def _check_each(at_work: Sequence[Worker], scope: Scope) -> Iterator[Finding]:
    for worker in at_work:
        who = f"the {worker.engine} on {worker.hostname}, pid {worker.pid},"
        if worker.version != heartbeats.VERSION:
            advice = "Restart it; old and new may run at the same time only during an upgrade."
            yield warn("workers", f"{who} runs version {worker.version or 'unknown'}, not {heartbeats.VERSION}", advice)
        if worker.short_at is not None and scope.now - worker.short_at < numbers.SHORT_FOR:
            limit = "" if worker.file_limit is None else f"; it may open {worker.file_limit} files"
            advice = "Raise what it lacked, such as LimitNOFILE, or lower its --concurrency."
            yield warn("workers", f"{who} lacked {worker.short_of} lately{limit}", advice)
        if worker.clock_skew_ms is not None and abs(worker.clock_skew_ms) > machine_checks.SKEW_SECONDS * 1000:
            advice = "Synchronize its machine's clock (NTP), and restart it."
            yield warn("clock", f"{who} is {worker.clock_skew_ms / 1000:.1f} seconds from the database's", advice)


def _check_retention(scope: Scope, days: int) -> Finding:
    overdue = retention.overdue(scope, retention_days=days)
    if overdue.oldest_at is None or scope.now - overdue.oldest_at < timedelta(days=days) + PRUNED_WITHIN:
        return ok("retention", f"no finished delivery is older than {PREFIX}RETENTION_DAYS, {days}")
    advice = (
        "See that a `flask webhooks worker` runs for more than an hour, or that `celery beat` has our entry"
        " webhooks-prune, and look for webhooks.not_pruned and webhooks.referenced in the log. `flask webhooks prune`"
        " does it now, and names rows to which a table of yours refers."
    )
    message = f"{overdue.text} finished deliveries are past {PREFIX}RETENTION_DAYS, {days}: pruning does not run"
    return warn("retention", message, advice)


def _check_workers(scope: Scope, *, at_work: int, died: int, cap: int) -> Iterator[Finding]:
    depth = statistics.depth(scope, cap=cap)
    # If workers work, do not blame them for deliveries that wait behind the cap of their own endpoint.
    count, oldest_at = (depth.owed, depth.oldest_owed_at) if at_work else (depth.due, depth.oldest_due_at)
    waited = timedelta(0) if oldest_at is None else scope.now - oldest_at
    late = f"{count} deliveries are due, one of them for {waited.total_seconds():.0f} seconds"
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
