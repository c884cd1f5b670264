"""The webhooks of this service: the events that it declares, and `webhooks.publish(...)` to tell customers of one."""

from flask import request
from marshmallow import Schema, fields

from example_app.accounts import current_tenant_id
from example_app.login import ask_for_password, is_password_fresh, require_login
from example_app.models import db
from flask_webhook_endpoints import Action, WebhookEndpoints


def may(action: Action, endpoint_id: str | None) -> bool:
    """Ask a person for the password again before something that a thief of the session must not do."""
    is_program = request.authorization is not None
    if is_program or action not in ("read_secret", "rotate_secret", "delete") or is_password_fresh():
        return True
    if request.blueprint == webhooks.portal.name:
        ask_for_password()
    return False


webhooks = WebhookEndpoints(
    session=db.session,
    tenant=current_tenant_id,
    authorize=may,
    metadata=db.metadata,
    openapi={
        "components": {"securitySchemes": {"api_key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"api_key": []}],
    },
)
# People see their endpoints here: who is not logged in comes to the login page first.
webhooks.portal.before_request(require_login)


class InvoiceSchema(Schema):
    """An invoice, as the API shows it and as events have it."""

    id = fields.Integer(required=True, strict=True, metadata={"description": "The invoice's number."})
    customer = fields.String(required=True, metadata={"description": "The name of the customer who owes it."})
    amount_cents = fields.Integer(required=True, strict=True, metadata={"description": "In cents: 4200 is 42.00."})
    issued_on = fields.Date(required=True)
    paid_on = fields.Date(required=True, allow_none=True, metadata={"description": "Null until it is paid."})


CUSTOMER = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "The customer's name, which is on its invoices."},
        "first_invoice_id": {"type": "integer", "description": "The number of its first invoice."},
    },
    "required": ["name", "first_invoice_id"],
}
"""A JSON Schema does as well as one of marshmallow."""

_UNPAID = {"id": 7, "customer": "Initech", "amount_cents": 4200, "issued_on": "2026-01-31", "paid_on": None}
_PAID = {**_UNPAID, "paid_on": "2026-02-14"}

webhooks.event_type(
    "customer.created",
    description="A customer got its first invoice.",
    schema=CUSTOMER,
    example={"name": "Initech", "first_invoice_id": 7},
)
webhooks.event_type("invoice.created", description="An invoice was written.", schema=InvoiceSchema, example=_UNPAID)
webhooks.event_type("invoice.paid", description="An invoice was paid in full.", schema=InvoiceSchema, example=_PAID)
webhooks.event_type(
    "invoice.settled",
    description="An invoice was paid in full. Choose invoice.paid, which is the same event by its new name.",
    schema=InvoiceSchema,
    example=_PAID,
    deprecated=True,
)
webhooks.event_type(
    "invoice.voided",
    description="An invoice was deleted before it was paid: the customer owes nothing.",
    schema=InvoiceSchema,
    example=_UNPAID,
)
