"""Billing: what this service does with invoices, and the events that it publishes about them.

Each function writes and publishes in one transaction: endpoints get the event if, and only if, the caller commits.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, cast

from flask import abort
from marshmallow import Schema, fields, validate
from sqlalchemy import CursorResult, delete, exists, select, update

from example_app.events import InvoiceSchema, webhooks
from example_app.models import Invoice, db


class NewInvoice(Schema):
    """The fields of a new invoice."""

    customer = fields.String(
        required=True,
        # Refuse control characters and lone surrogates, because databases refuse some of them.
        validate=[
            validate.Length(1, 200),
            validate.Regexp(r"[^\x00-\x1f\x7f\ud800-\udfff]*\Z", error="Not plain text."),
        ],
    )
    amount_cents = fields.Integer(required=True, strict=True, validate=validate.Range(1, 1_000_000_000))


def invoices_of(tenant_id: int) -> Sequence[Invoice]:
    """Return the tenant's invoices, oldest first."""
    return db.session.scalars(select(Invoice).where(Invoice.tenant_id == tenant_id).order_by(Invoice.id)).all()


def find(tenant_id: int, invoice_id: int) -> Invoice:
    """Return the tenant's invoice; answer 404 if it has none of this number."""
    invoice = db.session.scalar(select(Invoice).where(Invoice.tenant_id == tenant_id, Invoice.id == invoice_id))
    if invoice is None:
        abort(404, "No such invoice.")
    return invoice


def write(tenant_id: int, given: Any) -> Invoice:
    """Write an invoice; raise marshmallow's `ValidationError` if a field is not valid."""
    loaded: Any = NewInvoice().load(given)
    invoice = Invoice(tenant_id=tenant_id, issued_on=_today(), **loaded)
    of_customer = exists().where(Invoice.tenant_id == tenant_id, Invoice.customer == invoice.customer)
    is_customer_known = db.session.scalar(select(of_customer))
    db.session.add(invoice)
    db.session.flush()
    if not is_customer_known:
        customer = {"name": invoice.customer, "first_invoice_id": invoice.id}
        webhooks.publish("customer.created", customer, tenant_id=tenant_id)
    webhooks.publish("invoice.created", show(invoice), tenant_id=tenant_id)
    return invoice


def pay(tenant_id: int, invoice_id: int) -> Invoice:
    """Mark an invoice as paid; answer 409 if it is paid already."""
    # One statement checks and writes, so that of two requests at once only one pays.
    paid = db.session.execute(update(Invoice).where(*_unpaid(tenant_id, invoice_id)).values(paid_on=_today()))
    invoice = find(tenant_id, invoice_id)
    if not _has_changed(paid):
        abort(409, "This invoice is paid already.")
    webhooks.publish("invoice.paid", show(invoice), tenant_id=tenant_id)
    # The event's first name. Some receivers know no other.
    webhooks.publish("invoice.settled", show(invoice), tenant_id=tenant_id)
    return invoice


def void(tenant_id: int, invoice_id: int) -> dict[str, Any]:
    """Delete an invoice and return what it was; answer 409 if it is paid."""
    voided = show(find(tenant_id, invoice_id))
    if not _has_changed(db.session.execute(delete(Invoice).where(*_unpaid(tenant_id, invoice_id)))):
        abort(409, "This invoice is paid, and can't be voided.")
    webhooks.publish("invoice.voided", voided, tenant_id=tenant_id)
    return voided


def show(invoice: Invoice) -> dict[str, Any]:
    """Return an invoice as the API and events show it."""
    return cast(dict[str, Any], InvoiceSchema().dump(invoice))


def _unpaid(tenant_id: int, invoice_id: int) -> tuple[Any, ...]:
    return Invoice.tenant_id == tenant_id, Invoice.id == invoice_id, Invoice.paid_on.is_(None)


def _has_changed(result: Any) -> bool:
    return bool(cast(CursorResult[Any], result).rowcount)


def _today() -> date:
    return datetime.now(UTC).date()
