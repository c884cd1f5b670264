"""Several values as one parameter of PostgreSQL, as they are written for it."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.database.types import Array

VALUES = {
    "UUIDs": (sa.Uuid(), [uuid4(), uuid4()]),
    "times": (sa.DateTime(timezone=True), [datetime.now(UTC), datetime.now(timezone(timedelta(hours=5.5)))]),
    "numbers": (sa.Integer(), [0, -1, 2_000_000_000]),
    "texts": (sa.String(32), ["", "NULL", 'a"b', "a\\b", "{a,b}", " a ", "Zoë"]),
    "bytes": (sa.LargeBinary(), [b"", bytes(range(256)), b'\\x41"']),
    "nothing": (sa.String(32), [None, "a", None]),
    "none": (sa.Integer(), []),
}


@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize(("kind", "values"), VALUES.values(), ids=VALUES.keys())
def test_an_array_arrives_as_it_is(database, kind, values):
    several = sa.func.unnest(sa.bindparam("several", type_=Array(kind)), type_=kind)
    engine = sa.create_engine(database)

    with engine.connect() as connection:
        found = connection.execute(sa.select(several), {"several": values}).scalars().all()

    engine.dispose()
    assert list(found) == values
