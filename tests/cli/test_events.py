"""`flask webhooks events`: what is declared, and what endpoints want."""

from tests.support.api import create_endpoint
from tests.support.commands import run_command, run_json
from tests.support.database import statements_of


def test_events_counts_the_endpoints_of_all_tenants_that_want_each(host, acme, globex):
    create_endpoint(acme)
    # Chosen before events were declared.
    create_endpoint(acme, event_types=["invoice.*", "invoice.paid", "invoice.payed", "webhook.ping"])
    create_endpoint(acme, event_types=["invoice.paid"])
    create_endpoint(globex, event_types=["invoice.payed", "customer.*"])
    paused = create_endpoint(globex, event_types=["invoice.created"])
    globex.patch(paused.path, json={"status": "PAUSED"})
    declare(host)

    assert run_json(host, "events") == {
        "all_events": 1,
        "events": [
            {"name": "invoice.created", "endpoints": 3, "deprecated": True, "description": None},
            {"name": "invoice.paid", "endpoints": 3, "deprecated": False, "description": "Paid."},
        ],
        "undeclared": [{"name": "customer.*", "endpoints": 1}, {"name": "invoice.payed", "endpoints": 2}],
    }


def declare(host):
    """Declare events of an application that is started again."""
    host.webhooks._host.declared._closed = False
    host.webhooks.event_type("invoice.paid", description="Paid.")
    host.webhooks.event_type("invoice.created", deprecated=True)


def test_events_tells_apart_names_that_differ_in_case_alone(host, acme):
    create_endpoint(acme, event_types=["invoice.paid"])
    create_endpoint(acme, event_types=["Invoice.Paid"])
    declare(host)

    found = run_json(host, "events")

    assert [event["endpoints"] for event in found["events"]] == [0, 1]
    assert found["undeclared"] == [{"name": "Invoice.Paid", "endpoints": 1}]


def test_events_are_shown_to_people(host, acme):
    create_endpoint(acme, event_types=["invoice.payed"])
    declare(host)

    result = run_command(host, "events")

    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.output.splitlines() if line] == [
        ["Endpoints", "that", "want", "all", "events:", "0"],
        ["Declared", "events"],
        ["name", "endpoints", "deprecated", "description"],
        ["invoice.created", "0", "True", "-"],
        ["invoice.paid", "0", "False", "Paid."],
        ["Not", "declared,", "but", "wanted"],
        ["name", "endpoints"],
        ["invoice.payed", "1"],
    ]


def test_events_says_that_none_is_declared(host):
    result = run_command(host, "events")

    assert result.output.splitlines() == [
        "Endpoints that want all events: 0",
        "No event is declared. Declare one with webhooks.event_type(…).",
    ]


def test_events_takes_one_statement_however_many_endpoints_there_are(host, acme):
    for number in range(20):
        create_endpoint(acme, event_types=[f"a.b{number}"])

    with statements_of(host) as statements:
        run_json(host, "events")

    assert len([statement for statement, _ in statements if "webhook_endpoint" in statement]) == 1
