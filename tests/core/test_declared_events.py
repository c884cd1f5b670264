"""Declared events: what a host declares holds for what it publishes, and what it declares wrongly is refused."""

import enum
import logging
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from marshmallow import EXCLUDE, Schema, fields, pre_load, validate
from sqlalchemy import func, select

from flask_webhook_endpoints import InvalidDeclaration, InvalidEvent, NewEvent
from tests.support import deliveries, hosts
from tests.support.api import create_endpoint
from tests.support.database import EVENT, on_sqlite, rows

pytestmark = [on_sqlite, pytest.mark.usefixtures("invalid_webhook_events")]


class Line(Schema):
    sku = fields.String(required=True, validate=validate.Length(max=12))
    note = fields.String(load_only=True, required=True)


class Invoice(Schema):
    """As hosts have them: the schema by which they dump their models."""

    id = fields.Integer(dump_only=True, required=True, strict=True)
    lines = fields.List(fields.Nested(Line))
    corrects = fields.Nested(lambda: Invoice(many=False), allow_none=True)
    issued_at = fields.DateTime()


JSON_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
        "issued_at": {"type": "string", "format": "date-time"},
    },
    "required": ["id"],
    "additionalProperties": False,
    "$defs": {"Line": {"type": "object", "properties": {"sku": {"type": "string", "maxLength": 12}}}},
}
KINDS = pytest.mark.parametrize("schema", [Invoice, Invoice(), JSON_SCHEMA], ids=["class", "instance", "json"])
SECRET = "a secret of Acme's"


def publish(host, data, event_type="invoice.paid", **options):
    with host.app.app_context():
        event = host.webhooks.publish(event_type, data, tenant_id="acme", **options)
        host.db.session.commit()
    return event


def count_events(host):
    return rows(host, select(func.count()).select_from(EVENT))[0][0]


@KINDS
@pytest.mark.parametrize(
    "data",
    [
        {"id": 7},
        {"id": 7, "lines": [{"sku": "A-1"}], "issued_at": "2026-01-31T12:00:00Z"},
    ],
    ids=["least", "everything"],
)
def test_data_that_keeps_to_its_schema_is_published(host, acme, schema, data):
    host.webhooks.event_type("invoice.paid", schema=schema, example={"id": 1})
    create_endpoint(acme)

    assert publish(host, data).type == "invoice.paid"
    assert count_events(host) == 1


@KINDS
@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "data.id: Missing data for required field."),
        ({"id": SECRET}, "data.id: "),
        ({"id": 7, "lines": [{"sku": "A-1"}, {"sku": SECRET}]}, "data.lines[1].sku: "),
        ({"id": 7, "issued_at": SECRET}, "data.issued_at: "),
        ({"id": 7, "issued_at": datetime(2026, 1, 31, tzinfo=UTC)}, "data.issued_at: "),
        ({"id": 7, "liens": []}, "data.*: Unknown field. Did you mean lines?"),
        ({"id": 7, SECRET: 1}, "data.*: Unknown field."),
        ([SECRET], "data: "),
        (SECRET, "data: "),
        (None, "data: "),
    ],
    ids=["missing", "type", "nested", "format", "flasks_date", "typo", "secret_name", "list", "text", "null"],
)
def test_data_that_breaks_its_schema_is_refused_with_the_place_and_without_a_value(host, acme, schema, data, fault):
    host.webhooks.event_type("invoice.paid", schema=schema)
    create_endpoint(acme)

    with pytest.raises(InvalidEvent) as refused:
        publish(host, data)

    assert str(refused.value).startswith(f"The data of invoice.paid breaks its schema. {fault}")
    assert SECRET not in str(refused.value)
    assert refused.value.__context__ is None
    assert count_events(host) == 0


@KINDS
def test_an_invalid_event_is_refused_though_no_endpoint_wants_it(host, schema):
    host.webhooks.event_type("invoice.paid", schema=schema)

    with pytest.raises(InvalidEvent, match=r"data\.id"):
        publish(host, {})


def test_an_undeclared_type_is_refused_with_the_nearest_name(host):
    host.webhooks.event_type("invoice.paid")
    host.webhooks.event_type("customer.created")

    with pytest.raises(InvalidEvent) as near:
        publish(host, {}, "invoice.payed")
    with pytest.raises(InvalidEvent) as far:
        publish(host, {}, "xyz")
    assert str(near.value) == (
        "No such event type: invoice.payed. Did you mean invoice.paid?"
        " Declare it with webhooks.event_type('invoice.payed')."
    )
    assert str(far.value) == "No such event type: xyz. Declare it with webhooks.event_type('xyz')."


def test_a_host_is_not_told_to_declare_an_event_of_the_library(host):
    host.webhooks.event_type("invoice.paid")

    with pytest.raises(InvalidEvent) as refused:
        publish(host, {}, "webhook.ping")
    assert str(refused.value) == (
        "Not an event of yours: webhook.ping. webhook.* is reserved for the library's own events."
    )


def test_an_event_without_a_schema_takes_any_data(host, acme):
    host.webhooks.event_type("invoice.paid")
    create_endpoint(acme)

    for data in (None, [], {"any": 1}):
        assert publish(host, data)


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    "schema",
    [
        Schema.from_dict(
            {
                "total": fields.Decimal(),
                "on": fields.String(validate=validate.Equal("Sat, 31 Jan 2026 00:00:00 GMT")),
                "key": fields.UUID(),
                "colour": fields.Enum(Colour, by_value=True),
                "1": fields.Integer(),
            }
        ),
        {
            "properties": {
                "total": {"const": "1.50"},
                "on": {"const": "Sat, 31 Jan 2026 00:00:00 GMT"},
                "key": {"type": "string", "format": "uuid"},
                "colour": {"const": "red"},
                "1": {"const": 2},
            },
            "unevaluatedProperties": False,
        },
    ],
    ids=["marshmallow", "json"],
)
def test_data_is_checked_as_it_is_sent(host, acme, schema):
    host.webhooks.event_type("invoice.paid", schema=schema)
    create_endpoint(acme)
    sent = {"total": Decimal("1.50"), "on": date(2026, 1, 31), "key": UUID(int=7), "colour": Colour.RED, 1: 2}

    assert publish(host, sent)


def test_a_marshmallow_schema_decides_itself_about_unknown_members(host, acme):
    host.webhooks.event_type("invoice.paid", schema=Invoice(unknown=EXCLUDE))
    create_endpoint(acme)

    assert publish(host, {"id": 1, "more": 2})


def test_a_schema_that_holds_itself_is_kept_to_at_every_depth(host):
    host.webhooks.event_type("invoice.paid", schema=Invoice)

    assert publish(host, {"id": 1, "corrects": {"id": 2, "corrects": {"id": 3}}}) is None
    with pytest.raises(InvalidEvent, match=r"data\.corrects\.corrects\.id: Not a valid integer\."):
        publish(host, {"id": 1, "corrects": {"id": 2, "corrects": {"id": "x"}}})


def test_the_hosts_own_schema_stays_as_it_is(host):
    own = Invoice()
    host.webhooks.event_type("invoice.paid", schema=own)

    assert own.load_fields.keys() == {"lines", "corrects", "issued_at"}
    assert own.fields["id"].dump_only
    assert own.fields["lines"].inner.schema.load_fields.keys() == {"sku", "note"}


def deep(levels):
    data = []
    for _ in range(levels):
        data = [data]
    return data


@pytest.mark.parametrize(
    "schema", [Invoice, JSON_SCHEMA, {"items": {"$ref": "#"}}], ids=["marshmallow", "json", "recursive"]
)
@pytest.mark.parametrize(
    "data",
    [
        deep(500),
        deep(5000),
        {"id": float("nan")},
        {"id": float("inf")},
        {"id": "\ud800"},
        {"id": 10**5000},
        {("a", "b"): 1},
        {"id": object()},
        {"id": 1, "lines": [{"sku": "x" * 300_000}]},
    ],
    ids=["deep", "deeper", "nan", "inf", "surrogate", "digits", "key", "object", "huge"],
)
def test_hostile_data_is_an_invalid_event_or_published(host, schema, data):
    host.webhooks.event_type("invoice.paid", schema=schema)

    try:
        publish(host, data)
    except InvalidEvent as refused:
        assert len(str(refused)) < 500  # noqa: PT017 - either is fine


class Careless(Schema):
    @pre_load
    def read(self, data, **_):
        return {"id": data["there is none"]}


def test_a_schema_that_raises_is_an_invalid_event(host):
    host.webhooks.event_type("invoice.paid", schema=Careless)

    with pytest.raises(InvalidEvent, match=r"data: Its schema raised KeyError\."):
        publish(host, {})


def test_publish_many_refuses_all_for_one_and_names_it(host, acme):
    host.webhooks.event_type("invoice.paid", schema=Invoice)
    create_endpoint(acme)
    new = [NewEvent("invoice.paid", {"id": 1}, tenant_id="acme"), NewEvent("invoice.paid", {}, tenant_id="acme")]

    with host.app.app_context(), pytest.raises(InvalidEvent, match=r"^events\[1\]: The data of invoice\.paid breaks"):
        host.webhooks.publish_many(new)
    with host.app.app_context():
        host.webhooks.publish_many(new[:1])
        host.db.session.commit()
    assert count_events(host) == 1


@pytest.mark.host(check_events="log")
def test_log_publishes_and_logs_the_place_without_a_value(host, acme, caplog):
    host.webhooks.event_type("invoice.paid", schema=Invoice)
    create_endpoint(acme)

    with caplog.at_level(logging.WARNING, logger="flask_webhook_endpoints"):
        assert publish(host, {"id": SECRET})

    (record,) = caplog.records
    assert (record.msg, vars(record)["webhooks.event_type"]) == ("webhooks.event_invalid", "invoice.paid")
    assert "data.id" in vars(record)["webhooks.error"]
    assert SECRET not in str(vars(record))


@pytest.mark.host(check_events="off")
def test_off_publishes(host, acme, caplog):
    host.webhooks.event_type("invoice.paid", schema=Invoice)
    create_endpoint(acme)

    assert publish(host, {"id": "x"})
    assert publish(host, 7, "another")
    assert not caplog.records


def test_a_host_that_declares_none_publishes_anything(host, acme):
    create_endpoint(acme)

    assert publish(host, 7, "anything.at.all")


def test_a_ping_needs_no_declaration(host, acme):
    host.webhooks.event_type("invoice.paid", schema=Invoice)
    endpoint = create_endpoint(acme)

    assert acme.post(f"{endpoint.path}/ping").status_code == 202


def test_what_is_declared_is_returned_as_tenants_see_it(host):
    event = host.webhooks.event_type(
        "invoice.paid", description="Somebody paid.", schema=JSON_SCHEMA, example={"id": 7}, deprecated=True
    )

    assert (event.name, event.description, event.deprecated) == ("invoice.paid", "Somebody paid.", True)
    assert (event.schema, event.example) == (JSON_SCHEMA, {"id": 7})


def test_a_marshmallow_schema_is_shown_as_what_is_sent(host):
    shown = host.webhooks.event_type("invoice.paid", schema=Invoice).schema

    assert shown["properties"]["id"] == {"type": "integer"}
    assert shown["properties"]["lines"] == {"type": "array", "items": {"$ref": "#/$defs/Line"}}
    assert shown["$defs"]["Line"] == {
        "type": "object",
        "properties": {"sku": {"type": "string", "maxLength": 12}},
        "required": ["sku"],
    }
    assert "additionalProperties" not in str(shown)


def test_a_later_change_of_what_was_declared_has_no_effect(host):
    schema, example = {"required": ["id"]}, {"id": 1}
    event = host.webhooks.event_type("invoice.paid", schema=schema, example=example)

    schema["required"].clear()
    example["id"] = 2

    assert (event.schema, event.example) == ({"required": ["id"]}, {"id": 1})
    with pytest.raises(InvalidEvent):
        publish(host, {})


@pytest.mark.parametrize("name", ["invoice.*", "*", "", "invoice paid", "é", "a" * 129, "invoice.", 7, None], ids=repr)
def test_a_name_that_is_no_event_type_is_refused(host, name):
    with pytest.raises(InvalidDeclaration, match="is not an event type") as refused:
        host.webhooks.event_type(name)
    assert str(refused.value).startswith(f"{name!r}: ")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"schema": {"type": "nothing"}}, "its schema: is not a JSON Schema 2020-12: "),
        ({"schema": {"pattern": "("}}, "its schema: is not a JSON Schema 2020-12: "),
        ({"schema": {"$ref": "#/$defs/None"}}, "its schema: is not a JSON Schema 2020-12: "),
        (
            {"schema": {"items": {"$ref": "https://example.com/x"}}},
            "its schema: a $ref must lead to a place in the schema",
        ),
        ({"schema": {"$id": "https://x.com/", "items": {"$ref": "https://x.com/"}}}, "its schema: a $ref must lead to"),
        ({"schema": {"$defs": {"N": {"$anchor": "N"}}}}, "its schema: has $anchor; let a $ref lead to a place in it"),
        ({"schema": {"properties": {"a": {"$id": "a"}}}}, "its schema: has $id; "),
        ({"schema": {"$schema": "http://json-schema.org/draft-07/schema#"}}, "its schema: its $schema must be "),
        ({"schema": {"default": {1, 2}}}, "its schema: "),
        ({"schema": {"maximum": 2**70}}, "its schema must be plain JSON"),
        ({"schema": 7}, "its schema: must be a marshmallow schema or a JSON Schema, a dict; not int."),
        ({"schema": dict}, "its schema: must be a marshmallow schema"),
        ({"schema": Schema.from_dict({"x": fields.Nested("Nowhere")})}, "its schema: Class with name 'Nowhere'"),
        ({"schema": Invoice, "example": {"id": "x"}}, "its example breaks its schema. data.id: Not a valid integer."),
        ({"schema": JSON_SCHEMA, "example": {}}, "its example breaks its schema. data.id: Missing data"),
        ({"example": date(2026, 1, 1)}, "its example must be plain JSON, as it is sent: "),
        ({"example": float("nan")}, "its example must be plain JSON, as it is sent: "),
        ({"example": 2**64}, "its example must be plain JSON, as it is sent: "),
        ({"example": deep(5000)}, "its example must be plain JSON, as it is sent: "),
        ({"description": 7}, "its description must be text or None, not int."),
        ({"description": "\ud800"}, "its description must be plain JSON, as it is sent: "),
        ({"deprecated": 1}, "deprecated must be True or False."),
    ],
)
def test_a_wrong_declaration_is_refused_at_once_by_name_and_leaves_nothing(host, options, rule):
    with pytest.raises(InvalidDeclaration) as refused:
        host.webhooks.event_type("invoice.paid", **options)

    assert str(refused.value).startswith(f"invoice.paid: {rule}")
    host.webhooks.event_type("invoice.paid")


def test_no_schema_is_ever_fetched(host, webhook_receiver):
    with pytest.raises(InvalidDeclaration, match="must lead to a place in the schema"):
        host.webhooks.event_type("invoice.paid", schema={"$ref": webhook_receiver.url})
    assert webhook_receiver.received == []


@pytest.mark.parametrize("name", ["webhook", "webhook.ping", "webhook.mine"])
def test_the_librarys_own_names_are_refused(host, name):
    with pytest.raises(InvalidDeclaration, match=r"webhook\.\* is reserved"):
        host.webhooks.event_type(name)


def test_an_event_is_declared_once_and_before_an_app_is_used(host, acme):
    host.webhooks.event_type("invoice.paid")

    with pytest.raises(InvalidDeclaration, match=r"invoice\.paid: is declared twice\."):
        host.webhooks.event_type("invoice.paid")
    acme.get("/v1/endpoints")
    with pytest.raises(InvalidDeclaration, match=r"invoice\.created: is declared too late: "):
        host.webhooks.event_type("invoice.created")


def test_events_of_two_hosts_do_not_mix(host, tmp_path):
    host.webhooks.event_type("invoice.paid")
    other = hosts.flask_sqlalchemy(f"sqlite:///{tmp_path}/other.db")

    assert publish(other, 7, "anything") is None
    assert deliveries.publish(other, event_type="invoice.created") == []
    other.close()
