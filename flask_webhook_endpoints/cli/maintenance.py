"""`flask webhooks rotate-keys`, `prune` and `forget-tenant`: long work in batches, each in its own transaction."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import click
from flask.cli import with_appcontext

from flask_webhook_endpoints import identifiers
from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.core import endpoints, key_rotation, retention, tenants
from flask_webhook_endpoints.core.key_rotation import Encrypted
from flask_webhook_endpoints.core.retention import Step
from flask_webhook_endpoints.core.tenants import Batch, Erased, Place
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.state import State, current_state


@click.command("rotate-keys")
@terminal.as_json
@with_appcontext
def rotate_keys(as_json: bool) -> None:
    """Encrypt every secret and all headers with the newest key.

    May be interrupted and repeated. The exit status is 1 when no key decrypts a value.
    """
    state = current_state()
    with terminal.messages():
        done = {
            values.what: _renew(state, values, as_json=as_json) for values in key_rotation.encrypted(state.host.tables)
        }
    if as_json:
        terminal.show(done)
    if any(column["unreadable"] for column in done.values()):
        raise click.exceptions.Exit(1)


def _renew(state: State, values: Encrypted, *, as_json: bool) -> dict[str, Any]:
    """Re-encrypt one column, show the result to people, and return it as scripts read it."""
    total = state.run_apart(partial(key_rotation.count, values=values))
    renew = partial(key_rotation.renew, values=values, cipher=state.cipher)
    renewed, unreadable = 0, list[str]()
    with terminal.progress(total, f"Renewing {values.what}", hidden=as_json) as advance:
        for batch in state.in_batches(renew, cursor=lambda batch: batch.last):
            renewed += batch.renewed
            unreadable += map(format_id, batch.unreadable)
            advance(batch.read)
    if not as_json:
        click.echo(f"{values.what.capitalize()} renewed: {renewed}, unreadable: {len(unreadable)}")
        for ep_id in unreadable:
            click.echo(f"No key reads the {values.what} of {ep_id}", err=True)
    return {"renewed": renewed, "unreadable": unreadable}


@click.command()
@terminal.dry_run
@terminal.as_json
@with_appcontext
def prune(dry_run: bool, as_json: bool) -> None:
    """Delete old rows, and expire deliveries that were held for too long.

    Deliveries that finished RETENTION_DAYS ago, with their attempts and events; idempotency keys after a day; previous
    secrets whose overlap has ended. Rows to which a table of yours refers are left and named. The worker does the same
    once an hour. May be interrupted and repeated, and run beside others.
    """
    state = current_state()
    days = state.settings.retention_days
    steps = retention.steps(retention_days=days, hold_max_days=state.settings.hold_max_days)
    figures = {step.name: 0 for step in steps}
    left = list[str]()
    if dry_run:
        with terminal.messages():
            figures = {step.name: state.run(step.tally, commit=False) for step in steps}
        _show_pruned(steps, figures, left, as_json=as_json)
        return
    with terminal.messages():
        finished = state.run_apart(partial(retention.count_finished, retention_days=days))
        with terminal.progress(finished, "Pruning deliveries", hidden=as_json) as advance:
            for step in steps:
                for batch in state.in_batches(step.prune, cursor=lambda batch: batch.last):
                    figures[step.name] += batch.taken
                    left += batch.left
                    advance(batch.taken if step.name == "deliveries_deleted" else 0)
    _show_pruned(steps, figures, left, as_json=as_json)


def _show_pruned(steps: Sequence[Step], figures: Mapping[str, int], left: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        terminal.show({**figures, "referenced": left})
        return
    for step in steps:
        click.echo(f"{step.text}: {figures[step.name]}")
    for name in left:
        click.echo(f"Left, because a table of yours refers to it: {name}", err=True)


@click.command("forget-tenant")
@click.argument("tenant_id")
@terminal.dry_run
@terminal.yes
@terminal.as_json
@with_appcontext
def forget_tenant(tenant_id: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete everything of a tenant: endpoints, secrets, events, deliveries, attempts, idempotency keys.

    Endpoints go first, so that nothing more is sent. May be interrupted and repeated.
    """
    try:
        tenant_id = identifiers.stored_tenant(tenant_id)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if not (yes or dry_run):
        click.confirm(f"Delete all that is stored of the tenant {tenant_id!r}, for good?", abort=True, err=True)
    with terminal.messages(), transactions.deleting():
        erased = _count(tenant_id) if dry_run else _forget(current_state(), tenant_id, hidden=as_json)
    if as_json:
        terminal.show(erased._asdict())
        return
    what = "To delete" if dry_run else "Deleted"
    click.echo(f"{what}: {erased.endpoints} endpoints, {erased.events} events, {erased.deliveries} deliveries")
    if not any(erased):
        click.echo(f"Nothing was stored of a tenant {tenant_id!r}.", err=True)


def _count(tenant_id: str) -> Erased:
    return current_state().run(lambda scope: tenants.count_of_tenant(scope.of(tenant_id)), commit=False)


def _forget(state: State, tenant_id: str, *, hidden: bool) -> Erased:
    def forget_events(scope: Scope, *, after: Place | None = None) -> Batch | None:
        return tenants.forget_events(scope.of(tenant_id), after=after)

    count = state.run_apart(lambda scope: endpoints.remove_all(scope.of(tenant_id)))
    total = state.run_apart(lambda scope: tenants.count_events(scope.of(tenant_id)))
    events = deliveries = 0
    with terminal.progress(total, "Deleting events", hidden=hidden) as advance:
        for batch in state.in_batches(forget_events, cursor=lambda batch: batch.last):
            events += batch.events
            deliveries += batch.deliveries
            advance(batch.events)
    state.run_apart(lambda scope: tenants.forget_statistics(scope.of(tenant_id)))
    return Erased(count, events, deliveries)
