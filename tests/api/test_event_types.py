"""Declared events as tenants meet them: listed, chosen by endpoints, and sent by a ping."""

import json
from contextlib import closing

import pytest
from marshmallow import Schema, fields

from flask_webhook_endpoints import errors, testing
from flask_webhook_endpoints.api.requests import MAX_BODY_BYTES
from tests.support import deliveries, hosts
from tests.support.api import PATH, assert_problem, create_endpoint, post_endpoint
from tests.support.database import EVENT, count, on_sqlite, statements_of

EVENT_TYPES = f"{PATH}/event-types"
SECRET = "a secret of Acme's"

pytestmark = pytest.mark.host(allowed_networks=hosts.LOOPBACK)


class Paid(Schema):
    id = fields.Integer(required=True, strict=True)


@pytest.fixture
def declared(host):
    """A host that has declared events."""
    host.webhooks.event_type("invoice.paid", description="Paid.", schema=Paid, example={"id": 7})
    host.webhooks.event_type("invoice.created", schema={"required": ["id"]}, deprecated=True)
    host.webhooks.event_type("customer.address.changed")
    return host


def refusals(answer):
    assert_problem(answer, 422)
    return answer.json["errors"]


def test_the_list_has_what_is_declared_by_name(declared, acme):
    answer = acme.get(EVENT_TYPES)

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert [list(event) for event in answer.json] == [["name", "description", "deprecated", "schema", "example"]] * 3
    assert [list(event.values()) for event in answer.json] == [
        ["customer.address.changed", None, False, None, None],
        ["invoice.created", None, True, {"required": ["id"]}, None],
        [
            "invoice.paid",
            "Paid.",
            False,
            {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
            {"id": 7},
        ],
    ]


def test_the_list_is_empty_where_nothing_is_declared(acme):
    answer = acme.get(EVENT_TYPES)

    assert (answer.status_code, answer.json) == (200, [])


def test_the_list_needs_a_tenant(declared):
    assert_problem(declared.client(None).get(EVENT_TYPES), 401)


@pytest.mark.parametrize("spelt", ["{}", "W/{}", '"0", {}', "*"])
@on_sqlite
def test_a_known_list_is_304_without_a_body(declared, acme, spelt):
    tag = acme.get(EVENT_TYPES).headers["ETag"]

    answer = acme.get(EVENT_TYPES, headers={"If-None-Match": spelt.format(tag)})

    assert (answer.status_code, answer.data, answer.headers["ETag"]) == (304, b"", tag)


def test_the_tag_is_another_one_after_a_change(declared, acme, tmp_path):
    tag = acme.get(EVENT_TYPES).headers["ETag"]
    with closing(hosts.flask_sqlalchemy(f"sqlite:///{tmp_path}/other.db")) as other:
        other.webhooks.event_type("invoice.paid")

        changed = other.client().get(EVENT_TYPES, headers={"If-None-Match": tag})

    assert (changed.status_code, changed.headers["ETag"] == tag) == (200, False)


def test_a_malformed_tag_is_400(declared, acme):
    assert_problem(acme.get(EVENT_TYPES, headers={"If-None-Match": "x"}), 400)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW"])
@on_sqlite
def test_the_list_is_no_endpoint(acme, method):
    answer = acme.open(EVENT_TYPES, method=method, json={})

    assert_problem(answer, 405)
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert acme.options(EVENT_TYPES).headers["Allow"] == "GET, HEAD, OPTIONS"
    assert_problem(acme.get(f"{EVENT_TYPES}/secret"), 404)


@pytest.mark.parametrize(
    ("chosen", "messages"),
    [
        (["invoice.payed"], ["No such event type: invoice.payed. Did you mean invoice.paid?"]),
        (["invoice.paid", "invoices.*"], ["No such event type: invoices.*. Did you mean invoice.*?"]),
        (["zzz"], ["No such event type: zzz."]),
        (["invoice.paid.*"], None),
        (["customer.address"], None),
        (["Invoice.Paid"], ["No such event type: Invoice.Paid. Did you mean invoice.paid?"]),
        (["INVOICE.PAID"], ["No such event type: INVOICE.PAID. Did you mean invoice.paid?"]),
    ],
)
@on_sqlite
def test_an_endpoint_that_chooses_what_nobody_publishes_is_refused_with_the_nearest(declared, acme, chosen, messages):
    endpoint = create_endpoint(acme)

    for answer in (post_endpoint(acme, event_types=chosen), acme.patch(endpoint.path, json={"event_types": chosen})):
        found = refusals(answer)["event_types"]
        assert found == messages if messages else found[0].startswith(f"No such event type: {chosen[0]}.")
    assert acme.get(endpoint.path).json == endpoint


def test_the_hosts_own_code_is_refused_as_a_request_is(declared):
    with declared.app.app_context(), pytest.raises(errors.InvalidFields) as refused:
        declared.webhooks.endpoints.create(
            name="n", url="https://example.com/", event_types=["invoice.payed"], tenant_id="acme"
        )

    assert refused.value.errors == {"event_types": ["No such event type: invoice.payed. Did you mean invoice.paid?"]}


def test_one_answer_names_three_unknown_events(declared, acme):
    answer = post_endpoint(acme, event_types=[f"invoice.payed{number}" for number in range(100)])

    assert len(refusals(answer)["event_types"]) == 3


@on_sqlite
@pytest.mark.parametrize(
    "chosen",
    [
        ["invoice.paid"],
        ["invoice.created"],
        ["invoice.*", "customer.*", "customer.address.*", "customer.address.changed"],
        ["webhook.ping"],
        ["webhook.*"],
        None,
    ],
    ids=str,
)
def test_an_endpoint_may_choose_declared_events_their_prefixes_deprecated_ones_and_pings(declared, acme, chosen):
    endpoint = create_endpoint(acme, event_types=chosen)

    assert endpoint["event_types"] == chosen
    assert acme.patch(endpoint.path, json={"event_types": chosen}).json["event_types"] == chosen


def test_a_star_means_all_events_where_events_are_declared_too(declared, acme):
    assert create_endpoint(acme, event_types=["*"])["event_types"] is None


def test_a_deprecated_event_is_still_delivered(declared, acme, webhook_receiver):
    create_endpoint(acme, webhook_receiver.url, secret=SECRET, event_types=["invoice.created"])

    deliveries.publish(declared, {"id": 7}, event_type="invoice.created")
    testing.drain(declared.app)

    assert webhook_receiver.one("invoice.created", secret=SECRET).data == {"id": 7}


# An event that is declared no longer is still in the endpoints that chose it.
@pytest.mark.several_connections
def test_an_endpoint_with_an_event_that_is_no_longer_declared_keeps_it_until_it_is_changed(database):
    with closing(hosts.flask_sqlalchemy(database)) as before:
        endpoint = create_endpoint(before.client(), event_types=["invoice.old", "invoice.paid"])
    with closing(hosts.flask_sqlalchemy(database)) as after:
        after.webhooks.event_type("invoice.paid")
        acme = after.client()

        renamed = acme.patch(endpoint.path, json={"name": "renamed"})
        assert (renamed.status_code, renamed.json["event_types"]) == (200, ["invoice.old", "invoice.paid"])
        # The same request has the same answer, whatever is stored.
        repeated = acme.patch(endpoint.path, json={"name": "again", "event_types": ["invoice.old", "invoice.paid"]})
        assert refusals(repeated) == {"event_types": ["No such event type: invoice.old. Did you mean invoice.paid?"]}
        assert acme.patch(endpoint.path, json={"event_types": ["invoice.paid"]}).status_code == 200


def test_a_host_that_declares_none_takes_any_event_type(acme):
    assert create_endpoint(acme, event_types=["any.thing", "what.*"])["event_types"] == ["any.thing", "what.*"]


def test_the_document_has_the_events_that_may_be_chosen(declared, acme):
    schemas = acme.get("/v1/openapi.json").json["components"]["schemas"]

    chosen = ["*", "customer.*", "customer.address.*", "customer.address.changed", "invoice.*", "invoice.created"]
    for name in ("EndpointInput", "EndpointChanges"):
        items = schemas[name]["properties"]["event_types"]["items"]
        assert items == {"$ref": "#/components/schemas/EventPattern"}
    assert schemas["EventPattern"]["enum"] == [*chosen, "invoice.paid", "webhook.*", "webhook.ping"]


def test_the_document_of_a_host_that_declares_none_names_no_events(acme):
    schemas = acme.get("/v1/openapi.json").json["components"]["schemas"]

    assert "EventPattern" not in json.dumps(schemas)


@pytest.mark.parametrize(
    ("body", "data"),
    [
        ({"event_type": "invoice.paid"}, {"id": 7}),
        ({"event_type": "invoice.paid", "data": {"id": 8}}, {"id": 8}),
        ({"event_type": "invoice.paid", "data": None}, {"id": 7}),
        ({"event_type": "customer.address.changed", "data": "é\u0000"}, "é\u0000"),
    ],
    ids=["example", "own", "null", "text"],
)
def test_a_ping_sends_an_event_to_its_endpoint_alone(declared, acme, webhook_receiver, body, data):
    endpoint = create_endpoint(acme, f"{webhook_receiver.url}pinged", event_types=["webhook.*"], secret=SECRET)
    create_endpoint(acme, webhook_receiver.url)

    answer = acme.post(f"{endpoint.path}/ping", json=body)
    testing.drain(declared.app)

    assert (answer.status_code, answer.json["event_type"]) == (202, body["event_type"])
    received = webhook_receiver.one(body["event_type"], secret=SECRET)
    assert (received.path, received.data, received.id) == ("/pinged", data, answer.json["event_id"])


def test_a_ping_without_a_body_is_as_before(declared, acme, webhook_receiver):
    endpoint = create_endpoint(acme, webhook_receiver.url, secret=SECRET)

    for options in ({}, {"json": {}}, {"json": None}, {"json": {"event_type": None, "data": None}}):
        assert acme.post(f"{endpoint.path}/ping", **options).json["event_type"] == "webhook.ping"
        testing.drain(declared.app)
    assert [each.data for each in webhook_receiver.received] == [{"endpoint_id": endpoint.id}] * 4


TOO_LONG = "x" * 60_000


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        (
            {"event_type": "invoice.payed"},
            {"event_type": ["No such event type: invoice.payed. Did you mean invoice.paid?"]},
        ),
        ({"event_type": "invoice.created"}, {"data": ["Is needed, because the event has no declared example."]}),
        (
            {"event_type": "invoice.paid", "data": {"id": SECRET}},
            {"data": ["Must keep to the event's schema. data.id: Not a valid integer."]},
        ),
        ({"data": {"id": 7}}, {"data": ["Needs an event_type beside it."]}),
        (
            {"event_type": "customer.address.changed", "data": None},
            {"data": ["Is needed, because the event has no declared example."]},
        ),
        (
            {"event_type": "webhook.ping"},
            {"event_type": ["Must not begin with webhook. To send a webhook.ping, leave out the body."]},
        ),
        (
            {"event_type": "invoice.*"},
            {"event_type": ["Must be a name like invoice.paid, of 128 characters at most."]},
        ),
        (
            {"event_type": "a" * 129},
            {"event_type": ["Must be a name like invoice.paid, of 128 characters at most."]},
        ),
        ({"event_type": 7}, {"event_type": ["Not a valid string."]}),
        ({"endpoint_id": 7}, {"endpoint_id": ["Unknown field."]}),
        ([], {"_schema": ["Invalid input type."]}),
        (7, {"_schema": ["Invalid input type."]}),
        (
            {"event_type": "customer.address.changed", "data": "\ud800"},
            {"data": ["Must be JSON without lone surrogates that fits into 50000 bytes."]},
        ),
        (
            {"event_type": "customer.address.changed", "data": TOO_LONG},
            {"data": ["Must be JSON without lone surrogates that fits into 50000 bytes."]},
        ),
    ],
)
@pytest.mark.host(allowed_networks=hosts.LOOPBACK, max_body_bytes=50_000)
@on_sqlite
def test_a_ping_that_breaks_a_rule_is_refused_and_writes_nothing(declared, acme, body, faults):
    endpoint = create_endpoint(acme)

    answer = acme.post(f"{endpoint.path}/ping", data=json.dumps(body), content_type="application/json")

    assert refusals(answer) == faults
    assert SECRET not in answer.text
    assert count(declared, EVENT) == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ("1e400", 422),
        ("[" * 900 + "]" * 900, 400),
        ("[" * 5000 + "]" * 5000, 400),
        ("NaN", 400),
        ("9" * 4000, 422),
        ("9" * 5000, 400),
    ],
    ids=["infinite", "deep", "deeper", "nan", "digits", "more_digits"],
)
@pytest.mark.parametrize("name", ["invoice.paid", "customer.address.changed", "invoice.created"])
@on_sqlite
def test_hostile_data_of_a_ping_is_never_a_5xx(declared, acme, data, status, name):
    endpoint = create_endpoint(acme)
    body = f'{{"event_type": "{name}", "data": {data}}}'

    answer = acme.post(f"{endpoint.path}/ping", data=body, content_type="application/json")

    assert answer.status_code in (status, 202)
    assert status == 422 or answer.status_code == 400


def test_a_ping_of_a_host_that_declares_none_needs_its_data(acme):
    endpoint = create_endpoint(acme)

    without = acme.post(f"{endpoint.path}/ping", json={"event_type": "any.thing"})
    given = acme.post(f"{endpoint.path}/ping", json={"event_type": "any.thing", "data": [1]})

    assert refusals(without) == {"data": ["Is needed, because the event has no declared example."]}
    assert (given.status_code, given.json["event_type"]) == (202, "any.thing")


def test_one_ping_waits_at_most_whatever_its_type(declared, acme):
    endpoint = create_endpoint(acme)
    ping, event = {}, {"event_type": "invoice.paid"}

    assert acme.post(f"{endpoint.path}/ping", json=event).status_code == 202
    for body in (ping, event):
        answer = acme.post(f"{endpoint.path}/ping", json=body)
        assert_problem(answer, 409)
        assert answer.json["code"] == "event_waiting"


def test_another_tenants_endpoint_is_not_pinged(declared, acme, globex):
    endpoint = create_endpoint(acme)
    body = {"event_type": "invoice.paid"}

    foreign = globex.post(f"{endpoint.path}/ping", json=body)
    unknown = globex.post(f"{PATH}/ep_00000000-0000-7000-8000-000000000000/ping", json=body)

    assert_problem(foreign, 404)
    assert foreign.data == unknown.data
    assert count(declared, EVENT) == 0


def test_a_body_of_64_kib_is_the_most_that_a_ping_may_have(declared, acme):
    endpoint = create_endpoint(acme)
    body = {"event_type": "customer.address.changed", "data": ""}
    body["data"] = "x" * (MAX_BODY_BYTES - len(json.dumps(body)))
    sent = [f"{json.dumps(body)} ", json.dumps(body)]

    answers = [acme.post(f"{endpoint.path}/ping", data=each, content_type="application/json") for each in sent]

    assert [answer.status_code for answer in answers] == [413, 202]


def test_checking_asks_the_database_nothing(declared, acme):
    with statements_of(declared) as statements:
        acme.get(EVENT_TYPES)
        post_endpoint(acme, event_types=["nothing"])

    assert statements == []
