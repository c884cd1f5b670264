"""The plans of a record: PostgreSQL reads what is recorded, once, however large the queue was when it first planned."""

import re

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.core import attempts
from flask_webhook_endpoints.database.models import DeliveryStatus, new_id
from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.state import current_state
from tests.support.api import create_endpoint
from tests.support.database import execute, statements_of
from tests.support.deliveries import all_are, claim, publish
from tests.support.settlements import settle

pytestmark = pytest.mark.only_on("postgresql")

COUNT = 200
"""Deliveries of one claim and one record."""

AT_ONCE = Settings(max_in_flight_per_endpoint=COUNT)


# It expected one delivery of each record, and compared each of them with each: three quarters of its time.
def test_a_record_compares_no_result_with_another_one(host, acme):
    create_endpoint(acme)
    publish(host, *range(COUNT))
    with host.app.app_context():
        scope, owner = current_state().scope(), new_id()
        deliveries = claim(scope, owner, most=COUNT, settings=AT_ONCE).deliveries
        host.db.session.commit()
        with statements_of(host) as sent:
            attempts.record(scope, owner, [settle(each) for each in deliveries])
        host.db.session.rollback()

        [(statement, parameters)] = [each for each in sent if each[0].startswith("WITH ended")]
        connection = host.db.session.connection()
        steps = connection.exec_driver_sql(f"EXPLAIN ANALYZE {statement}", parameters).scalars().all()

    assert len(deliveries) == COUNT
    removed = [int(number) for step in steps for number in re.findall(r"Rows Removed by Join Filter: (\d+)", step)]
    assert sum(removed) < COUNT, steps
    assert any("hashed SubPlan" in step for step in steps), steps


# A plan for all executions, made while the queue was empty, would read a whole backlog for each record.
def test_no_record_goes_by_a_plan_that_was_made_for_another_size_of_the_queue(host, acme):
    create_endpoint(acme)
    execute(host, sa.text("ANALYZE webhook_queue"))
    with host.app.app_context():
        owner = new_id()
        for _ in range(15):
            publish(host, *range(20))
            scope = current_state().scope()
            deliveries = claim(scope, owner, most=20, settings=AT_ONCE).deliveries
            attempts.record(scope, owner, [settle(each) for each in deliveries])
            host.db.session.commit()
        prepared = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE 'WITH ended%'"
        plans = [tuple(row) for row in host.db.session.execute(sa.text(prepared))]

    assert all_are(host, DeliveryStatus.DELIVERED)
    assert plans
    assert all(generic == 0 and custom > 1 for generic, custom in plans), plans
