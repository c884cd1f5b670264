"""`flask webhooks events`: the declared events, and how many endpoints want each."""

from typing import Any

import click
from flask.cli import with_appcontext

from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.core import event_choices
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.state import current_state


@click.command()
@terminal.as_json
@with_appcontext
def events(as_json: bool) -> None:
    """List the declared events, how many endpoints want each, and what endpoints want besides."""
    with terminal.messages():
        document = current_state().run(_document, commit=False)
    if as_json:
        terminal.show(document)
        return
    click.echo(f"Endpoints that want all events: {document['all_events']}")
    if not document["events"]:
        click.echo("No event is declared. Declare one with webhooks.event_type(…).")
    terminal.table("Declared events", document["events"])
    terminal.table("Not declared, but wanted", document["undeclared"])


def _document(scope: Scope) -> dict[str, Any]:
    choices = event_choices.count(scope, current_state().host.declared)
    return {
        "all_events": choices.all_events,
        "events": [
            {"name": event.name, "endpoints": count, "deprecated": event.deprecated, "description": event.description}
            for event, count in choices.wanted
        ],
        "undeclared": [{"name": name, "endpoints": count} for name, count in choices.undeclared],
    }
