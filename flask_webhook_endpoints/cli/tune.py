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
    """A partition, where the table is partitioned: only partitions have such parameters."""
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

    Other parameters of the tables stay as they are. Readers and writers do not wait. May be repeated. Other databases
    have no such parameters, and nothing is set there.
    """
    with terminal.messages():
        compared = current_state().run_apart(partial(_compare, apply=yes))
    statements = _statements(compared.found)
    if as_json:
        differences = [each._asdict() for each in compared.found]
        applied, supported = yes and compared.is_postgresql, compared.is_postgresql
        terminal.show(
            {"differences": differences, "applied": applied, "statements": statements, "supported": supported}
        )
        return
    for each in compared.found:
        click.echo(f"{each.table}: {each.parameter} is {each.found or 'the default'}, advised is {each.advised}")
    _conclude(compared, statements, applied=yes)
    if compared.is_autovacuum_off:
        click.echo("Autovacuum is off on this server: turn it on, or run VACUUM yourself each few minutes.", err=True)


class _Compared(NamedTuple):
    is_postgresql: bool
    """False: the database has no storage parameters."""
    found: Sequence[Difference] = ()
    is_autovacuum_off: bool = False


def _compare(scope: Scope, *, apply: bool) -> _Compared:
    """Return what differs, and whether autovacuum is off; set what differs if `apply` says so."""
    if scope.dialect.name != dialects.POSTGRESQL:
        return _Compared(is_postgresql=False)
    found = list(_differences(scope))
    if apply:
        for statement in _statements(found):
            scope.execute(sa.text(statement))
    return _Compared(True, found, scope.execute(sa.text("SHOW autovacuum")).scalar_one() == "off")


def _conclude(compared: _Compared, statements: Sequence[str], *, applied: bool) -> None:
    if not compared.is_postgresql:
        click.echo("Nothing to tune: storage parameters are PostgreSQL's, and the tables are in another database.")
    elif not statements:
        click.echo("Nothing to tune.")
    elif applied:
        click.echo(f"Set. {_LATER}")
    else:
        click.echo("\nTo set them, add --yes, or run:\n")
        for statement in statements:
            click.echo(f"{statement};")


# A table, or its partitions in its place.
_OPTIONS = sa.text("""
    WITH whole AS (SELECT CAST(CAST(:name AS text) AS regclass) AS id)
    SELECT CASE WHEN oid = id THEN CAST(:name AS text) ELSE CAST(CAST(oid AS regclass) AS text) END AS name,
        reloptions AS options
    FROM pg_class, whole
    WHERE relkind = 'r' AND (oid = id OR oid IN (SELECT relid FROM pg_partition_tree(id)))
    ORDER BY name
""")


def _differences(scope: Scope) -> Iterator[Difference]:
    for table, parameters in ADVISED.items():
        name = scope.name_of(getattr(scope.tables, table))
        for row in scope.execute(_OPTIONS, {"name": name}).all():
            found = dict(option.split("=", 1) for option in row.options or ())
            for parameter, advised in parameters.items():
                if parameter not in found or float(found[parameter]) != advised:
                    yield Difference(row.name, parameter, found.get(parameter), f"{advised:g}")


def _statements(differences: Sequence[Difference]) -> list[str]:
    """Return an ALTER TABLE for each table that has differences."""
    return [
        f"ALTER TABLE {table} SET ({', '.join(f'{each.parameter} = {each.advised}' for each in of_table)})"
        for table, of_table in groupby(differences, attrgetter("table"))
    ]
