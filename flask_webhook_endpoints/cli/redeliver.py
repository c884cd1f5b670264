"""`flask webhooks redeliver`: an operator sends again what failed or expired."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import click
from flask.cli import with_appcontext

from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.core import redelivery
from flask_webhook_endpoints.core.redelivery import Batch, Recipient, Selection
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.errors import DeliveryInFlight, EndpointPaused, UnknownDelivery, UnknownEndpoint
from flask_webhook_endpoints.identifiers import format_id, parse_id
from flask_webhook_endpoints.state import current_state

_status = click.option(
    "--status",
    "statuses",
    type=click.Choice(["FAILED", "EXPIRED"]),
    multiple=True,
    default=["FAILED"],
    show_default=True,
    help="The status that it has; may be repeated.",
)


@click.command()
@click.argument("ids", metavar="[DELIVERY_ID]...", nargs=-1)
@click.option("--endpoint", "ep_id", metavar="EP_ID", help="Those of this endpoint that have failed or expired.")
@click.option("--tenant", help="Those of all endpoints of this tenant.")
@click.option("--since", type=terminal.Moment(), help="Only what was published at this time or later (UTC).")
@click.option("--until", type=terminal.Moment(), help="Only what was published before this time.")
@_status
@click.option("--dry-run", is_flag=True, help="Only count.")
@terminal.yes
@terminal.as_json
@with_appcontext
def redeliver(
    *, ids: Sequence[str], ep_id: str | None, tenant: str | None, dry_run: bool, yes: bool, as_json: bool, **which: Any
) -> None:
    """Send again what has failed or expired: deliveries by their ids, or those of an endpoint or a tenant.

    Receivers know them by their `webhook-id`. Paused endpoints are refused: resume them first. The exit status is 1
    when something could not be sent again.
    """
    if sum((bool(ids), ep_id is not None, tenant is not None)) != 1:
        raise click.UsageError("Name deliveries, or --endpoint, or --tenant.")
    selection = Selection(**which)
    if ids and (selection.since or selection.until or dry_run):
        raise click.UsageError("--since, --until and --dry-run go with --endpoint or --tenant.")
    with terminal.messages():
        if ids:
            document = _redeliver_each(ids)
        else:
            recipients = _recipients(ep_id, tenant)
            document = _redeliver_selected(recipients, selection, dry_run=dry_run, asks=not yes, hidden=as_json)
    if as_json:
        terminal.show(document)
    else:
        would = f"Deliveries that would be sent again: {document['selected']}"
        click.echo(would if dry_run else f"Sent again: {document['redelivered']}")
    if document.get("refused") or document.get("paused"):
        raise click.exceptions.Exit(1)


def _redeliver_each(delivery_ids: Sequence[str]) -> dict[str, Any]:
    refused: dict[str, str] = {}
    for dlv_id in delivery_ids:
        try:
            current_state().run_apart(partial(_redeliver_one, dlv_id=dlv_id))
        except (UnknownDelivery, UnknownEndpoint, EndpointPaused, DeliveryInFlight) as problem:
            refused[dlv_id] = problem.detail
    redelivered = len(delivery_ids) - len(refused)
    for dlv_id, why in refused.items():
        click.echo(f"{dlv_id}: {why}", err=True)
    return {"selected": len(delivery_ids), "redelivered": redelivered, "refused": refused}


def _redeliver_one(scope: Scope, dlv_id: str) -> None:
    delivery_id = parse_id(dlv_id, "dlv")
    if delivery_id is None:
        raise UnknownDelivery
    tenant_id, endpoint_id = redelivery.owner(scope, delivery_id)
    redelivery.redeliver(scope.of(tenant_id), endpoint_id, delivery_id)


def _recipients(ep_id: str | None, tenant_id: str | None) -> list[Recipient]:
    """Return the endpoints that the operator names; end the command where there are none."""
    endpoint_id = None if ep_id is None else parse_id(ep_id)
    if ep_id is not None and endpoint_id is None:
        raise click.ClickException(f"Not an endpoint id: {ep_id!r}. Ids look like ep_0190….")
    found = current_state().run_apart(partial(redelivery.recipients, endpoint_id=endpoint_id, tenant_id=tenant_id))
    if not found:
        raise click.ClickException(
            f"No such endpoint: {ep_id}" if ep_id else f"There are no endpoints of a tenant {tenant_id!r}."
        )
    return found


def _redeliver_selected(
    recipients: Sequence[Recipient], selection: Selection, *, dry_run: bool, asks: bool, hidden: bool
) -> dict[str, Any]:
    active = [recipient for recipient in recipients if not recipient.paused]
    paused = [format_id(recipient.endpoint_id) for recipient in recipients if recipient.paused]
    for ep_id in paused:
        click.echo(f"{ep_id} is paused; resume it first.", err=True)
    selected = current_state().run_apart(partial(redelivery.count, recipients=active, selection=selection))
    redelivered = 0
    if not dry_run:
        if selected and asks:
            click.confirm(f"Send {selected} deliveries again?", abort=True, err=True)
        with terminal.progress(selected, "Sending again", hidden=hidden) as advance:
            redelivered = sum(_redeliver_to(recipient, selection, advance) for recipient in active)
    return {"selected": selected, "redelivered": redelivered, "paused": paused}


def _redeliver_to(recipient: Recipient, selection: Selection, advance: Callable[[int], None]) -> int:
    def redeliver_some(scope: Scope, after: UUID | None = None) -> Batch | None:
        return redelivery.redeliver_batch(scope.of(recipient.tenant_id), recipient.endpoint_id, selection, after=after)

    redelivered = 0
    for batch in current_state().in_batches(redeliver_some, cursor=lambda batch: batch.last):
        redelivered += batch.redelivered
        advance(batch.read)
    return redelivered
