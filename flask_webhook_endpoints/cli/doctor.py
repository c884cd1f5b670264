"""What `flask webhooks doctor` finds out: each check says what is wrong and what to do about it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_webhook_endpoints.cli.celery_checks import check_celery
from flask_webhook_endpoints.cli.checks import check_clock, check_connections, check_migrations, check_tables
from flask_webhook_endpoints.cli.findings import Finding, Level, fail, ok, warn
from flask_webhook_endpoints.core import backlog, key_rotation, statistics
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.errors import UnreadableValue
from flask_webhook_endpoints.settings import PREFIX
from flask_webhook_endpoints.state import State

SAMPLE = 20
"""Stored values that are read to see whether the keys fit: as many of the oldest and of the newest."""

DUE_FOR = timedelta(minutes=1)
"""What is due for longer than this waits for a worker that does not come."""

_START_ONE = "Start one: `flask webhooks worker`, as a service that is restarted."


def examine(state: State, *, production: bool, celery: Any) -> list[Finding]:
    """Check everything; raise where the database can't be asked."""

    def check(session: Session) -> list[Finding]:
        return list(_checks(session, state, production=production, celery=celery))

    return transactions.read(state.host.session(), check)


def _checks(session: Session, state: State, *, production: bool, celery: Any) -> Iterator[Finding]:
    tables = state.host.tables
    yield from _check_settings(state, production=production)
    yield from check_celery(celery)
    yield from check_clock(session, tables, state.now)
    yield from check_migrations(session, tables)
    found = check_tables(session, tables)
    yield from found
    if any(finding.level is Level.FAIL for finding in found):
        # What follows reads them.
        return
    yield _check_keys(session, state)
    lately = statistics.SEEN_LATELY + timedelta(seconds=state.settings.poll_seconds)
    engines = statistics.engines(session, tables)
    at_work = sum(state.now() - engine.seen_at < lately for engine in engines)
    # Celery's processes come and go, and have nobody to say so.
    died = sum(engine.engine == "worker" and state.now() - engine.seen_at >= lately for engine in engines)
    yield from _check_workers(session, state, at_work=at_work, died=died)
    yield from check_connections(session, tables, engines_at_work=at_work)


def _check_settings(state: State, *, production: bool) -> Iterator[Finding]:
    settings = state.settings
    if settings.require_https or not production:
        yield ok("https", "required" if settings.require_https else "not required, in debug or testing mode")
    else:
        advice = f"Set {PREFIX}REQUIRE_HTTPS = True: what you send is readable on its way otherwise."
        yield warn("https", "endpoints may have http: URLs", advice)
    if production and settings.allowed_networks and settings.proxy is None:
        networks = ", ".join(settings.allowed_networks)
        advice = f"Keep {PREFIX}ALLOWED_NETWORKS empty unless your customers' receivers are in there."
        yield warn("egress", f"deliveries may reach {networks}", advice)


def _check_keys(session: Session, state: State) -> Finding:
    read = unreadable = 0
    for values in key_rotation.encrypted(state.host.tables):
        row_id = values.column.table.c.id
        stored = sa.select(row_id, values.column.label("token")).where(values.column.is_not(None)).limit(SAMPLE)
        oldest, newest = (
            state.host.tables.execute(session, stored.order_by(order)).all() for order in (row_id.asc(), row_id.desc())
        )
        # Of few, the oldest are the newest.
        for row in {*oldest, *newest}:
            read += 1
            try:
                state.cipher.decrypt(row.token)
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


def _check_workers(session: Session, state: State, *, at_work: int, died: int) -> Iterator[Finding]:
    now = state.now()
    depth = backlog.depth(session, state.host.tables, now=now)
    waited = timedelta(0) if depth.oldest_due_at is None else now - depth.oldest_due_at
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
