"""`flask webhooks tune`: the storage parameters of our tables on PostgreSQL."""

import re

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.cli.tune import ADVISED
from tests.support.commands import run_command, run_json
from tests.support.database import TABLES, execute, partitioned, rows
from tests.support.hosts import Host

PARAMETERS = sum(map(len, ADVISED.values()))
MADE_WITH = 2
"""Parameters that new tables have already: `fillfactor`, of the queue and of the log."""

on_postgresql = pytest.mark.only_on("postgresql")


def parameters(host: Host, table: str) -> dict[str, str]:
    [(options,)] = rows(host, sa.text(f"SELECT reloptions FROM pg_class WHERE oid = '{table}'::regclass"))
    return dict(option.split("=") for option in options or ())


def test_the_advice_is_for_tables_that_exist():
    assert {f"webhook_{name}" for name in ADVISED} <= set(TABLES)


@on_postgresql
def test_it_shows_what_differs_and_changes_nothing_until_it_may(host):
    result = run_command(host, "tune")

    assert result.exit_code == 0
    assert "webhook_queue: autovacuum_vacuum_cost_delay is the default, advised is 1\n" in result.stdout
    assert result.stdout.count("advised is") == PARAMETERS - MADE_WITH
    assert parameters(host, "webhook_queue") == {"fillfactor": "45"}


@on_postgresql
@pytest.mark.parametrize("way", ["--yes", "its SQL"])
def test_what_it_sets_or_says_is_set_and_nothing_is_left_to_tune(host, way):
    if way == "--yes":
        assert "Set." in run_command(host, "tune", "--yes").stdout
    else:
        for statement in re.findall("^ALTER.*;$", run_command(host, "tune").stdout, re.MULTILINE):
            execute(host, sa.text(statement))

    for name, advised in ADVISED.items():
        assert parameters(host, f"webhook_{name}") == {each: f"{value:g}" for each, value in advised.items()}
    for _ in range(2):
        assert run_command(host, "tune", "--yes").stdout == "Nothing to tune.\n"


@on_postgresql
def test_a_value_of_the_operators_is_shown_and_parameters_without_advice_stay(host):
    mine = "fillfactor = 85, autovacuum_vacuum_scale_factor = 0.050, autovacuum_freeze_max_age = 1000000"
    execute(host, sa.text(f"ALTER TABLE webhook_delivery SET ({mine})"))

    shown = run_json(host, "tune", "--yes")

    of_delivery = {each["parameter"]: each for each in shown["differences"] if each["table"] == "webhook_delivery"}
    assert of_delivery["fillfactor"] == {
        "table": "webhook_delivery",
        "parameter": "fillfactor",
        "found": "85",
        "advised": "45",
    }
    assert "autovacuum_vacuum_scale_factor" not in of_delivery
    assert shown["applied"] is True
    assert parameters(host, "webhook_delivery")["fillfactor"] == "45"
    assert parameters(host, "webhook_delivery")["autovacuum_freeze_max_age"] == "1000000"


@on_postgresql
def test_tables_that_are_missing_are_a_message(host):
    with host.app.app_context():
        host.db.drop_all()

    result = run_command(host, "tune")

    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "Make the tables" in result.stderr


@on_postgresql
def test_autovacuum_that_is_off_is_said(host):
    [(setting,)] = rows(host, sa.text("SHOW autovacuum"))

    assert ("Autovacuum is off" in run_command(host, "tune").stderr) == (setting == "off")


# It said that it had set parameters, of which these databases have none.
@pytest.mark.only_on("sqlite", "sqlite-memory", "mariadb")
def test_other_databases_have_nothing_to_tune(host):
    assert "storage parameters are PostgreSQL's" in run_command(host, "tune", "--yes").stdout
    assert run_json(host, "tune", "--yes") == {
        "differences": [],
        "applied": False,
        "statements": [],
        "supported": False,
    }


# PostgreSQL refuses them for the partitioned table itself: unrecognized parameter.
@on_postgresql
@pytest.mark.parametrize("table", [f"webhook_{name}" for name in ADVISED])
def test_the_partitions_of_a_partitioned_table_are_tuned_in_its_place(host, table):
    advised = {each: f"{value:g}" for each, value in ADVISED[table.removeprefix("webhook_")].items()}
    with partitioned(host, table) as parts:
        shown = run_json(host, "tune", "--yes")

        names = {each["table"] for each in shown["differences"]}
        assert set(parts) <= names
        assert table not in names
        assert [parameters(host, part) for part in parts] == [advised] * len(parts)
        assert run_command(host, "tune", "--yes").stdout == "Nothing to tune.\n"
