"""`/invoices`: the business of this service, in a few routes."""

from datetime import UTC, date, datetime
from typing import Any, cast

from flask import Blueprint, abort, request
from marshmallow import Schema, fields, validate
from sqlalchemy import CursorResult, select, update

from example_app.accounts import current_tenant_id
from example_app.events import webhooks
from example_app.models import Invoice, db

blueprint = Blueprint("invoices", __name__, url_prefix="/invoices")


class NewInvoice(Schema):
    """The body of `POST /invoices`."""

    customer = fields.String(
        required=True,
        # Refuse control characters and lone surrogates, because databases refuse some of them.
        validate=[
            validate.Length(1, 200),
            validate.Regexp(r"[^\x00-\x1f\x7f\ud800-\udfff]*\Z", error="Not plain text."),
        ],
    )
    amount_cents = fields.Integer(required=True, strict=True, validate=validate.Range(1, 1_000_000_000))


class InvoiceSchema(Schema):
    """An invoice, as the API shows it and as events have it."""

    id = fields.Integer(required=True, strict=True)
    customer = fields.String(required=True)
    amount_cents = fields.Integer(required=True, strict=True)
    issued_on = fields.Date(required=True)
    paid_on = fields.Date(required=True, allow_none=True)


_EXAMPLE = {"id": 7, "customer": "Initech", "amount_cents": 4200, "issued_on": "2026-01-31", "paid_on": None}

webhooks.event_type("invoice.created", description="An invoice was written.", schema=InvoiceSchema, example=_EXAMPLE)
webhooks.event_type(
    "invoice.paid",
    description="An invoice was paid in full.",
    schema=InvoiceSchema,
    example={**_EXAMPLE, "paid_on": "2026-02-14"},
)


@blueprint.get("")
def list_invoices() -> list[dict[str, Any]]:
    """List the tenant's invoices, oldest first."""
    of_tenant = select(Invoice).where(Invoice.tenant_id == current_tenant_id()).order_by(Invoice.id)
    return [_show(invoice) for invoice in db.session.scalars(of_tenant)]


@blueprint.post("")
def create_invoice() -> tuple[dict[str, Any], int]:
    """Create an invoice."""
    tenant_id = current_tenant_id()
    given: Any = NewInvoice().load(request.get_json())
    invoice = Invoice(tenant_id=tenant_id, issued_on=_today(), **given)
    db.session.add(invoice)
    db.session.flush()
    written = _show(invoice)
    # In the invoice's own transaction: endpoints get the event if, and only if, this commits.
    webhooks.publish("invoice.created", written, tenant_id=tenant_id)
    db.session.commit()
    return written, 201


@blueprint.get("/<int(max=2147483647):invoice_id>")
def read_invoice(invoice_id: int) -> dict[str, Any]:
    """Show one invoice."""
    return _show(_find(current_tenant_id(), invoice_id))


@blueprint.post("/<int(max=2147483647):invoice_id>/pay")
def pay_invoice(invoice_id: int) -> dict[str, Any]:
    """Mark an invoice as paid; answer 409 if it is paid already."""
    tenant_id = current_tenant_id()
    unpaid = (Invoice.tenant_id == tenant_id, Invoice.id == invoice_id, Invoice.paid_on.is_(None))
    # One statement checks and writes, so that of two requests at once only one pays.
    paid = db.session.execute(update(Invoice).where(*unpaid).values(paid_on=_today()))
    if not cast(CursorResult[Any], paid).rowcount:
        _find(tenant_id, invoice_id)
        abort(409, "This invoice is paid already.")
    invoice = _show(_find(tenant_id, invoice_id))
    webhooks.publish("invoice.paid", invoice, tenant_id=tenant_id)
    db.session.commit()
    return invoice


def _find(tenant_id: int, invoice_id: int) -> Invoice:
    invoice = db.session.scalar(select(Invoice).where(Invoice.tenant_id == tenant_id, Invoice.id == invoice_id))
    if invoice is None:
        abort(404, "No such invoice.")
    return invoice


def _today() -> date:
    return datetime.now(UTC).date()


def _show(invoice: Invoice) -> dict[str, Any]:
    return cast(dict[str, Any], InvoiceSchema().dump(invoice))
