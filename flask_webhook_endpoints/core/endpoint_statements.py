"""The statements on `webhook_endpoint`: built once, as building one takes longer than the database takes over it.

Parameters: `of_tenant`, `of_id` and `of_versions` say which endpoint; they are not named like columns, as SQLAlchemy
keeps those names for the values of an UPDATE.
"""

from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.database import types
from flask_webhook_endpoints.database.models import EndpointStatus, PauseReason
from flask_webhook_endpoints.database.prepared import Prepared
from flask_webhook_endpoints.database.tables import Tables


class EndpointStatements:
    """What reads and writes the endpoints of one tenant; rows are as `Endpoint` has them, the headers encrypted."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = table = tables.endpoint
        self._shown = (
            types.shown_id(table.c.id),
            table.c.name,
            table.c.url,
            table.c.timeout_seconds,
            table.c.event_types,
            types.shown_time(table.c.paused_at),
            types.shown_time(table.c.created_at),
            types.shown_time(table.c.updated_at),
            table.c.version,
            table.c.headers_encrypted,
        )
        of_tenant = table.c.tenant_id == sa.bindparam("of_tenant")
        self._of_tenant = sa.select(*self._shown).where(of_tenant).order_by(table.c.id)
        self._one = (of_tenant, table.c.id == sa.bindparam("of_id"))
        self._of_versions = table.c.version.in_(sa.bindparam("of_versions", expanding=True))
        one = sa.select(*self._shown).where(*self._one)
        self.get = Prepared(tables, one)
        # The shared lock makes MariaDB read what is committed now, not what its snapshot holds.
        self.get_committed = Prepared(tables, one.with_for_update(read=True))
        self.count = Prepared(tables, sa.select(sa.func.count()).select_from(table).where(of_tenant))
        self.insert = Prepared(tables, sa.insert(table))
        self.update = lru_cache(self._update)
        self.delete = lru_cache(self._delete)

    def page(self, *, after: UUID | None, limit: int | None, status: EndpointStatus | None) -> Any:
        """Select the endpoints after the id `after`, oldest first, `limit` at most."""
        statement = self._of_tenant
        if after is not None:
            statement = statement.where(self._table.c.id > after)
        if status is not None:
            statement = statement.where(self._is(status))
        if limit is not None:
            statement = statement.limit(limit)
        return statement

    def _update(
        self, dialect: str, status: EndpointStatus | None, *, turning: bool, versioned: bool, returning: bool
    ) -> Prepared:
        """Write what the parameters name, at the time `now`, beside what follows from `status`.

        It decides and writes at once, so that concurrent updates of different columns all hold. `turning` meets an
        endpoint of the other status alone.
        """
        table = self._table
        values: dict[str, Any] = {
            "version": table.c.version + sa.literal_column("1"),
            "updated_at": self._tables.update_time(dialect, "now"),
        }
        if status is EndpointStatus.PAUSED:
            # Pausing once more keeps the time of the first.
            values["paused_at"] = sa.func.coalesce(table.c.paused_at, sa.bindparam("now", type_=table.c.paused_at.type))
            values["pause_reason"] = sa.func.coalesce(table.c.pause_reason, PauseReason.USER)
        elif status is EndpointStatus.ACTIVE:
            values |= {"paused_at": None, "pause_reason": None, "failing_since": None, "exhausted_in_a_row": 0}
        statement = sa.update(table).where(*self._one).values(values)
        if turning:
            statement = statement.where(
                self._is(EndpointStatus.PAUSED if status is EndpointStatus.ACTIVE else EndpointStatus.ACTIVE)
            )
        if versioned:
            statement = statement.where(self._of_versions)
        return Prepared(self._tables, statement.returning(*self._shown) if returning else statement)

    def _delete(self, *, versioned: bool) -> Prepared:
        statement = sa.delete(self._table).where(*self._one)
        return Prepared(self._tables, statement.where(self._of_versions) if versioned else statement)

    def _is(self, status: EndpointStatus) -> sa.ColumnElement[bool]:
        paused_at = self._table.c.paused_at
        return paused_at.is_(None) if status is EndpointStatus.ACTIVE else paused_at.is_not(None)
