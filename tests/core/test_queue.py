"""The look of an idle worker: by the index alone, whatever the planner believes of the queue."""

import re

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import queue
from flask_webhook_endpoints.state import current_state
from tests.support.api import create_endpoint
from tests.support.database import QUEUE, WHOLE, engine_of, execute, plan, statements_of
from tests.support.deliveries import claim, publish
from tests.support.hosts import Host


def looked(host: Host) -> str:
    """Return how the database would look for what is due."""
    with host.app.app_context(), statements_of(host) as statements:
        queue.is_any_due(current_state().scope())
    return "\n".join(plan(host, *statement) for statement in statements if "webhook_queue" in statement[0])


# It expected a row soon and read the whole table, which is full of dead rows while a dump holds a snapshot.
@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize("state", ["WAITING", "LEASED"])
def test_a_look_for_what_is_due_reads_no_whole_table(host, acme, state):
    create_endpoint(acme)
    publish(host, *range(300))
    execute(host, sa.update(QUEUE).values(state=state))
    execute(host, sa.text("ANALYZE webhook_queue"))

    steps = looked(host)

    assert "Index" in steps
    assert not re.search(WHOLE["postgresql"], steps), steps


# It chose the index of turns, made four temporary tables, and would have sorted a backlog.
@pytest.mark.only_on("mariadb")
def test_a_look_for_what_is_due_is_three_ranges_of_an_index(host, acme):
    create_endpoint(acme)
    publish(host, *range(300))

    steps = [step for step in looked(host).splitlines() if "'table': 'webhook_queue'" in step]

    assert len(steps) == 3
    assert all("'key': 'ix_webhook_queue_state_due_at'" in step for step in steps)
    assert not any(re.search("filesort|temporary", step) for step in steps)


# The planner joined a table that it believed empty by reading a whole index of it: 20 times the buffers under a dump.
@pytest.mark.only_on("postgresql")
def test_a_claim_joins_nothing_to_lease_where_the_planner_believes_that_the_queue_is_empty(host, acme):
    create_endpoint(acme)
    publish(host, *range(200))
    engine = engine_of(host)
    with engine.connect() as snapshot, engine.connect() as connection:
        snapshot.execution_options(isolation_level="REPEATABLE READ").execute(sa.select(QUEUE))
        execute(host, sa.delete(QUEUE))
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM ANALYZE webhook_queue")
        publish(host, *range(5))
        with host.app.app_context(), statements_of(host) as statements:
            assert claim(current_state().scope()).deliveries
            host.db.session.rollback()

        steps = [plan(host, *statement) for statement in statements if statement[0].startswith("WITH locked")]

    assert steps
    assert "Join" not in "".join(steps)
