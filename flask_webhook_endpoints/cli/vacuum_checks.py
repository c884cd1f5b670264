"""Checks of what keeps PostgreSQL's vacuum from removing dead rows, over which claims must step."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from flask_webhook_endpoints.cli.findings import Finding, ok, warn
from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.scope import Scope

OLD_SECONDS = 300
"""Seconds; a transaction that is open for longer keeps too many dead rows on a system that delivers much."""

OLD_TRANSACTIONS = 100_000
"""Transactions since a snapshot whose age in seconds PostgreSQL does not tell."""

MANY_DEAD_ROWS = 200_000
"""Dead rows of a table; with as many, an idle worker's look took fifty times as long."""

MANY_DEAD_SHARE = 0.2
"""Dead rows as a share of the live ones: PostgreSQL's default for when autovacuum comes."""

_KEPT = "Until it ends, PostgreSQL keeps all rows that were changed or deleted since, and claims become slow."
_TERMINATE = (
    "End it: SELECT pg_terminate_backend({pid}). Let dumps and reports read a replica, and set"
    " idle_in_transaction_session_timeout."
)
_STANDBY = (
    "PostgreSQL keeps dead rows for the standby (hot_standby_feedback), and claims become slow."
    " End what runs there for long."
)

# Vacuums have snapshots, too, which hold back no other vacuum. A role sees how long another role's transaction is open
# only if it has pg_read_all_stats; the age of the snapshot it sees always.
_SNAPSHOTS = sa.text("""
    SELECT pid, datname, application_name, state, extract(epoch FROM clock_timestamp() - xact_start) AS seconds,
        greatest(age(backend_xmin), age(backend_xid)) AS transactions
    FROM pg_stat_activity
    WHERE (datname = current_database() OR datname IS NULL) AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
        AND pid <> pg_backend_pid() AND leader_pid IS NULL AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
    ORDER BY transactions DESC, pid
""")
_SLOTS = sa.text("""
    SELECT slot_name, active, age(xmin) AS transactions FROM pg_replication_slots WHERE age(xmin) > :transactions
    ORDER BY transactions DESC
""")
_PREPARED = sa.text("""
    SELECT gid, extract(epoch FROM clock_timestamp() - prepared) AS seconds FROM pg_prepared_xacts
    WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => :seconds)
    ORDER BY prepared
""")
# Of a table and of its partitions, which are vacuumed each by itself.
_DEAD = sa.text("""
    WITH whole AS (SELECT to_regclass(CAST(:name AS text)) AS id)
    SELECT CASE WHEN relid = id THEN CAST(:name AS text) ELSE CAST(CAST(relid AS regclass) AS text) END AS name,
        n_dead_tup AS dead, n_live_tup AS live,
        greatest(last_vacuum, last_autovacuum) AT TIME ZONE 'UTC' AS vacuumed_at
    FROM pg_stat_user_tables, whole WHERE relid = id OR relid IN (SELECT relid FROM pg_partition_tree(id))
    ORDER BY name
""")


def check_vacuum(scope: Scope) -> Iterator[Finding]:
    """Name old snapshots, replication slots and prepared transactions on PostgreSQL, and tables with many dead rows."""
    if scope.dialect.name != dialects.POSTGRESQL:
        return
    found = [*_check_snapshots(scope), *_check_slots(scope), *_check_prepared(scope), *_check_dead_rows(scope)]
    yield from found or [ok("vacuum", "no old snapshot holds it back, and few rows are dead")]


def _check_snapshots(scope: Scope) -> Iterator[Finding]:
    for row in scope.execute(_SNAPSHOTS):
        if row.seconds is None:
            is_old, since = row.transactions > OLD_TRANSACTIONS, f"{row.transactions} transactions"
        else:
            is_old, since = row.seconds > OLD_SECONDS, f"{row.seconds:.0f} seconds"
        if is_old:
            who = ", ".join(filter(None, (f"pid {row.pid}", row.application_name, row.state)))
            advice = _STANDBY if row.datname is None else f"{_KEPT} {_TERMINATE.format(pid=row.pid)}"
            yield warn("vacuum", f"a transaction holds a snapshot for {since} ({who})", advice)


def _check_slots(scope: Scope) -> Iterator[Finding]:
    for row in scope.execute(_SLOTS, {"transactions": OLD_TRANSACTIONS}):
        state = "in use" if row.active else "not in use"
        message = f"the replication slot {row.slot_name} ({state}) holds a snapshot for {row.transactions} transactions"
        advice = _STANDBY if row.active else f"{_STANDBY} If there is no standby any more, drop the slot."
        yield warn("vacuum", message, advice)


def _check_prepared(scope: Scope) -> Iterator[Finding]:
    for row in scope.execute(_PREPARED, {"seconds": OLD_SECONDS}):
        advice = f"{_KEPT} End it: COMMIT PREPARED or ROLLBACK PREPARED, with this name."
        yield warn("vacuum", f"the transaction {row.gid!r} is prepared for {row.seconds:.0f} seconds", advice)


def _check_dead_rows(scope: Scope) -> Iterator[Finding]:
    for table in scope.tables.endpoint.metadata.sorted_tables:
        for row in scope.execute(_DEAD, {"name": scope.name_of(table)}).all():
            if row.dead > max(MANY_DEAD_ROWS, MANY_DEAD_SHARE * row.live):
                yield _warn_of_dead_rows(row)


def _warn_of_dead_rows(row: Any) -> Finding:
    when = f"{row.vacuumed_at:%Y-%m-%d %H:%M} UTC" if row.vacuumed_at else "never"
    advice = (
        "If nothing else here holds vacuum back, run `flask webhooks tune`, see that autovacuum is on,"
        f" and run once: VACUUM {row.name}."
    )
    return warn("vacuum", f"{row.dead} rows of {row.name} are dead, {row.live} live; last vacuumed: {when}", advice)
