"""`flask webhooks tune`: the storage parameters that our tables should have on PostgreSQL.

Source: PostgreSQL's manual, "CREATE TABLE", "Storage Parameters".
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import click
import sqlalchemy as sa
from flask.cli import with_appcontext

from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.scope import Scope
from flask_webhook_endpoints.state import current_state

ADVISED: Mapping[str, Mapping[str, float]] = {
    # Each row is changed and then deleted, and claims step over the dead entries of its indexes.
    "queue": {
        # A delivery that is leased stays on its page.
        "fillfactor": 45,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_threshold": 1000,
        "autovacuum_analyze_scale_factor": 0.02,
        "autovacuum_vacuum_cost_delay": 1,
    },
    # The rows of a page are updated at about the same time, by their first attempts: in place if each has room for two.
    "delivery": {
        "fillfactor": 45,
        "autovacuum_vacuum_scale_factor": 0.05,
        "autovacuum_vacuum_insert_scale_factor": 0.05,
    },
    # Rows are inserted, and deleted by retention.
    "attempt": {"autovacuum_vacuum_scale_factor": 0.05, "autovacuum_vacuum_insert_scale_factor": 0.05},
    "event": {"autovacuum_vacuum_scale_factor": 0.05, "autovacuum_vacuum_insert_scale_factor": 0.05},
}
"""The storage parameters of our tables, which stand here without the `webhook_` of their names.

`fillfactor` is in percent, a threshold in rows, a scale factor a share of the table's rows, a delay in milliseconds.
"""

_LATER = "A new fillfactor holds for pages that are written from now on. Nothing is rewritten or locked."


class Difference(NamedTuple):
    """A storage parameter of a table that is not as advised."""

    table: str
    parameter: str
    found: str | None
    """None: the table has the server's default."""
    advised: str


@click.command()
@click.option("--yes", is_flag=True, help="Set them.")
@terminal.as_json
@with_appcontext
def tune(yes: bool, as_json: bool) -> None:
    """Show which storage parameters of our tables differ from what suits them on PostgreSQL; set them with --yes.

    Other parameters of the tables stay as they are. Readers and writers do not wait. May be repeated.
    """
    with terminal.messages():
        found, off = current_state().run_apart(partial(_compare, apply=yes))
    statements = _statements(found)
    if as_json:
        terminal.show({"differences": [each._asdict() for each in found], "applied": yes, "statements": statements})
        return
    for each in found:
        click.echo(f"{each.table}: {each.parameter} is {each.found or 'the default'}, advised is {each.advised}")
    _conclude(statements, applied=yes)
    if off:
        click.echo("Autovacuum is off on this server: turn it on, or run VACUUM yourself each few minutes.", err=True)


def _compare(scope: Scope, *, apply: bool) -> tuple[list[Difference], bool]:
    """Return what differs, and whether autovacuum is off; set what differs if `apply` says so."""
    if scope.dialect.name != dialects.POSTGRESQL:
        return [], False
    found = list(_differences(scope))
    if apply:
        for statement in _statements(found):
            scope.execute(sa.text(statement))
    return found, scope.execute(sa.text("SHOW autovacuum")).scalar_one() == "off"


def _conclude(statements: Sequence[str], *, applied: bool) -> None:
    if not statements:
        click.echo("Nothing to tune.")
    elif applied:
        click.echo(f"Set. {_LATER}")
    else:
        click.echo("\nTo set them, add --yes, or run:\n")
        for statement in statements:
            click.echo(f"{statement};")


def _differences(scope: Scope) -> Iterator[Difference]:
    asked = sa.text("SELECT reloptions FROM pg_class WHERE oid = CAST(:name AS regclass)")
    for table, parameters in ADVISED.items():
        name = scope.dialect.identifier_preparer.format_table(getattr(scope.tables, table))
        options = scope.execute(asked, {"name": name}).scalar_one() or ()
        found = dict(option.split("=", 1) for option in options)
        for parameter, advised in parameters.items():
            if parameter not in found or float(found[parameter]) != advised:
                yield Difference(name, parameter, found.get(parameter), f"{advised:g}")


def _statements(differences: Sequence[Difference]) -> list[str]:
    """Return an ALTER TABLE for each table that has differences."""
    return [
        f"ALTER TABLE {table} SET ({', '.join(f'{each.parameter} = {each.advised}' for each in of_table)})"
        for table, of_table in groupby(differences, attrgetter("table"))
    ]
