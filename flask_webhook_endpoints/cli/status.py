"""`flask webhooks status`: the backlog and the workers."""

from datetime import datetime
from typing import Any

import click
from flask.cli import with_appcontext

from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.core import statistics
from flask_webhook_endpoints.core.statistics import Waiting, Worker
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.identifiers import format_id, format_time
from flask_webhook_endpoints.state import current_state


@click.command()
@terminal.as_json
@with_appcontext
def status(as_json: bool) -> None:
    """Show the deliveries that wait or are held, and the workers."""
    with terminal.messages():
        document = current_state().run(_document, commit=False)
    if as_json:
        terminal.show(document)
        return
    for name in ("due", "oldest_due_seconds", "later", "held", "in_flight", "expired_leases"):
        click.echo(f"{name.replace('_', ' ').capitalize():<19} {'-' if document[name] is None else document[name]}")
    terminal.table("Endpoints with the most waiting, and those that fail", document["endpoints"])
    terminal.table("Workers", document["workers"])


def _document(scope: Scope) -> dict[str, Any]:
    depth = statistics.depth(scope)
    return {
        "at": format_time(scope.now),
        "due": depth.due,
        "oldest_due_seconds": _age(depth.oldest_due_at, scope.now),
        "later": depth.later,
        "held": depth.held,
        "in_flight": depth.in_flight,
        "expired_leases": depth.expired_leases,
        "endpoints": [_shown_endpoint(waiting, scope.now) for waiting in statistics.worst(scope)],
        "workers": [_shown_worker(worker, scope.now) for worker in statistics.workers(scope)],
    }


def _shown_endpoint(waiting: Waiting, now: datetime) -> dict[str, Any]:
    return {
        "id": format_id(waiting.endpoint_id),
        "tenant_id": waiting.tenant_id,
        "due": waiting.due,
        "oldest_due_seconds": _age(waiting.oldest_due_at, now),
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
        "seen_seconds_ago": _age(worker.seen_at, now),
    }


def _age(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else round((now - moment).total_seconds(), 1)
