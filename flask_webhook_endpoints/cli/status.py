"""`flask webhooks status`: the backlog and the workers."""

import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import click
from flask.cli import with_appcontext

from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.core import heartbeats, numbers, statistics
from flask_webhook_endpoints.core.heartbeats import Worker
from flask_webhook_endpoints.core.numbers import NUMBERS, age
from flask_webhook_endpoints.core.statistics import Waiting
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.identifiers import format_id, format_time
from flask_webhook_endpoints.state import State, current_state


@click.command()
@click.option("--check", is_flag=True, help="Exit with 1 unless a worker on this machine was seen lately.")
@terminal.as_json
@with_appcontext
def status(check: bool, as_json: bool) -> None:
    """Show the deliveries that wait or are held, how attempts went lately, and the workers.

    With --check, the exit status is 0 if a worker or a Celery process of ours on this machine was seen within a minute,
    and 1 otherwise, for probes of containers.
    """
    state = current_state()
    with terminal.messages():
        if check:
            state.run(lambda scope: _check(scope, state), commit=False)
            return
        document = state.run(lambda scope: _document(scope, state), commit=False)
    if as_json:
        terminal.show(document)
        return
    for name in NUMBERS:
        _echo_number(name, document[name])
    terminal.table("Endpoints with the most waiting, and those that fail", document["endpoints"])
    terminal.table("Workers", document["workers"])


def _check(scope: Scope, state: State) -> None:
    lately, here = heartbeats.SEEN_LATELY + timedelta(seconds=state.settings.poll_seconds), socket.gethostname()[:255]
    if not any(each.hostname == here and scope.now - each.seen_at < lately for each in heartbeats.workers(scope)):
        raise click.ClickException(f"No worker on this machine, {here}, was seen within a minute.")


def _document(scope: Scope, state: State) -> dict[str, Any]:
    known = numbers.gather(scope, state.settings)
    first = ("due", "oldest_due_seconds", "later", "held", "in_flight", "expired_leases")
    return {
        "at": format_time(scope.now),
        **{name: known[name] for name in first},
        "endpoints": [_shown_endpoint(waiting, scope.now) for waiting in statistics.worst(scope)],
        "workers": [_shown_worker(worker, scope.now) for worker in heartbeats.workers(scope)],
        **{name: value for name, value in known.items() if name not in first},
    }


def _echo_number(name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        value = ", ".join(f"{error} {count}" for error, count in sorted(value.items())) or None
    click.echo(f"{name.replace('_', ' ').capitalize():<23} {'-' if value is None else value}")


def _shown_endpoint(waiting: Waiting, now: datetime) -> dict[str, Any]:
    return {
        "id": format_id(waiting.endpoint_id),
        "tenant_id": waiting.tenant_id,
        "due": waiting.due,
        "oldest_due_seconds": age(waiting.oldest_due_at, now),
        "later": waiting.later,
        "held": waiting.held,
        "pause_reason": waiting.pause_reason,
        "failing_since": format_time(waiting.failing_since),
        "last_error": waiting.last_error,
    }


def _shown_worker(worker: Worker, now: datetime) -> dict[str, Any]:
    return {
        "engine": worker.engine,
        "hostname": worker.hostname,
        "pid": worker.pid,
        "started_at": format_time(worker.started_at),
        "seen_seconds_ago": age(worker.seen_at, now),
        "version": worker.version,
        "concurrency": worker.concurrency,
        "file_limit": worker.file_limit,
        "short_of": worker.short_of,
        "short_at": format_time(worker.short_at),
        "clock_skew_ms": worker.clock_skew_ms,
    }
