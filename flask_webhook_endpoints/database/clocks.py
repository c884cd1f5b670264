"""The clock of the database's server."""

from datetime import UTC, datetime

import sqlalchemy as sa

from flask_webhook_endpoints.database import dialects
from flask_webhook_endpoints.database.scope import Scope


def server_time(scope: Scope) -> datetime | None:
    """Return the time by the clock of the database's server; None on SQLite, which has this machine's."""
    match scope.dialect.name:
        case dialects.SQLITE:
            return None
        case dialects.POSTGRESQL:
            asked = sa.select(sa.func.clock_timestamp())
        case _:
            asked = sa.select(sa.func.utc_timestamp(sa.text("6")))
    theirs: datetime = scope.execute(asked).scalar_one()
    return theirs.replace(tzinfo=UTC) if theirs.tzinfo is None else theirs
