"""`flask webhooks status`: the backlog and the workers. And `redeliver`."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import click
from flask.cli import with_appcontext

from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.core import recovery, statistics
from flask_webhook_endpoints.core.recovery import Recipient, Selection
from flask_webhook_endpoints.core.statistics import Waiting, Worker
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import DeliveryInFlight, EndpointPaused, UnknownDelivery, UnknownEndpoint
from flask_webhook_endpoints.identifiers import format_id, format_time, parse_id
from flask_webhook_endpoints.state import State, current_state


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
    _echo_table("Endpoints with the most waiting, and those that fail", document["endpoints"])
    _echo_table("Workers", document["workers"])


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


def _echo_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table, unless it has no rows; names and values stand in columns."""
    if not rows:
        return
    # `repr` escapes control characters, which would move the terminal's cursor.
    lines = [
        [*rows[0]],
        *(["-" if value is None else repr(value).strip("'") for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    click.echo(f"\n{title}")
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@click.command()
@click.argument("delivery_ids", metavar="[DELIVERY_ID]...", nargs=-1)
@click.option("--endpoint", "ep_id", metavar="EP_ID", help="Those of this endpoint that have failed or expired.")
@click.option("--tenant", "tenant_id", help="Those of all endpoints of this tenant.")
@click.option("--since", type=terminal.Moment(), help="Only what was published at this time or later (UTC).")
@click.option("--until", type=terminal.Moment(), help="Only what was published before this time.")
@click.option(
    "--status",
    "statuses",
    type=click.Choice(["FAILED", "EXPIRED"]),
    multiple=True,
    default=["FAILED"],
    show_default=True,
    help="What came of it; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only count.")
@terminal.yes
@terminal.as_json
@with_appcontext
def redeliver(
    *,
    delivery_ids: tuple[str, ...],
    ep_id: str | None,
    tenant_id: str | None,
    since: datetime | None,
    until: datetime | None,
    statuses: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send again what has failed or expired: single deliveries by their ids, or those of an endpoint or of a tenant.

    Receivers know them by their `webhook-id`. Paused endpoints are refused: resume them first. The exit status is 1
    when something could not be sent again.
    """
    if sum((bool(delivery_ids), ep_id is not None, tenant_id is not None)) != 1:
        raise click.UsageError("Name deliveries, or --endpoint, or --tenant.")
    if delivery_ids and (since or until or dry_run):
        raise click.UsageError("--since, --until and --dry-run go with --endpoint or --tenant.")
    with terminal.messages():
        if delivery_ids:
            _redeliver_each(delivery_ids, as_json=as_json)
            return
        recipients = _recipients(ep_id, tenant_id)
        paused = [format_id(recipient.endpoint_id) for recipient in recipients if recipient.paused]
        for endpoint in paused:
            click.echo(f"{endpoint} is paused; resume it first.", err=True)
        wanted = [DeliveryStatus(status) for status in statuses]
        selections = [
            Selection(endpoint_id=recipient.endpoint_id, statuses=wanted, since=since, until=until)
            for recipient in recipients
            if not recipient.paused
        ]
        count = partial(recovery.count, tables=current_state().host.tables)
        selected = sum(terminal.write(partial(count, selection=selection)) for selection in selections)
        if selected and not (dry_run or yes):
            terminal.confirm(f"Send {selected} deliveries again?")
        restarted = 0 if dry_run else _restart(selections, selected, hidden=as_json)
    if as_json:
        terminal.show({"selected": selected, "redelivered": restarted, "paused": paused})
    else:
        click.echo(f"Deliveries that would be sent again: {selected}" if dry_run else f"Sent again: {restarted}")
    if paused:
        raise click.exceptions.Exit(1)


def _redeliver_each(delivery_ids: Sequence[str], *, as_json: bool) -> None:
    state = current_state()
    refused: dict[str, str] = {}
    for dlv_id in delivery_ids:
        try:
            terminal.write(partial(_redeliver_one, state=state, delivery_id=parse_id(dlv_id, "dlv")))
        except (UnknownDelivery, UnknownEndpoint, EndpointPaused, DeliveryInFlight) as problem:
            refused[dlv_id] = problem.detail
    restarted = len(delivery_ids) - len(refused)
    for dlv_id, why in refused.items():
        click.echo(f"{dlv_id}: {why}", err=True)
    if as_json:
        terminal.show({"selected": len(delivery_ids), "redelivered": restarted, "refused": refused})
    else:
        click.echo(f"Sent again: {restarted}")
    if refused:
        raise click.exceptions.Exit(1)


def _redeliver_one(session: Any, *, state: State, delivery_id: UUID | None) -> None:
    owner = recovery.owner(session, state.host.tables, delivery_id) if delivery_id else None
    if owner is None or delivery_id is None:
        raise UnknownDelivery
    state.delivery_log.redeliver(session, *owner, delivery_id, now=state.now())


def _recipients(ep_id: str | None, tenant_id: str | None) -> list[Recipient]:
    """Return the endpoints that an operator names; end the command where there are none."""
    endpoint_id = None if ep_id is None else parse_id(ep_id)
    if ep_id is not None and endpoint_id is None:
        raise click.ClickException(f"{ep_id} is no id of an endpoint.")
    find = partial(
        recovery.recipients, tables=current_state().host.tables, endpoint_id=endpoint_id, tenant_id=tenant_id
    )
    if not (found := terminal.write(find)):
        raise click.ClickException(
            f"No such endpoint: {ep_id}" if ep_id else f"There are no endpoints of a tenant {tenant_id!r}."
        )
    return found


def _restart(selections: Sequence[Selection], total: int, *, hidden: bool) -> int:
    state = current_state()
    restarted = 0
    with terminal.progress(total, "Sending again", hidden=hidden) as advance:
        for selection in selections:
            step = partial(recovery.restart, tables=state.host.tables, selection=selection, limit=transactions.BATCH)
            batch = terminal.write(partial(step, after=None, now=state.now()))
            while batch.last is not None:
                restarted += batch.restarted
                advance(batch.read)
                batch = terminal.write(partial(step, after=batch.last, now=state.now()))
    return restarted
