"""The look of an idle worker: by the index alone, whatever the planner believes of the queue."""

import re

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import queue
from flask_webhook_endpoints.state import current_state
from tests.support.api import create_endpoint
from tests.support.database import QUEUE, WHOLE, execute, plan, statements_of
from tests.support.deliveries import publish
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
