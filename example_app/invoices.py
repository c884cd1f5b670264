"""`/invoices`: the API for invoices, in a few routes. Programs use it with an API key, as they use `/v1/endpoints`."""

from typing import Any

from flask import Blueprint, request

from example_app import billing
from example_app.accounts import tenant_of_key
from example_app.models import db

blueprint = Blueprint("invoices", __name__, url_prefix="/invoices")


@blueprint.get("")
def list_invoices() -> list[dict[str, Any]]:
    """List the tenant's invoices, oldest first."""
    return [billing.show(invoice) for invoice in billing.invoices_of(tenant_of_key())]


@blueprint.post("")
def create_invoice() -> tuple[dict[str, Any], int]:
    """Create an invoice."""
    invoice = billing.write(tenant_of_key(), request.get_json())
    db.session.commit()
    return billing.show(invoice), 201


@blueprint.get("/<int(max=2147483647):invoice_id>")
def read_invoice(invoice_id: int) -> dict[str, Any]:
    """Show one invoice."""
    return billing.show(billing.find(tenant_of_key(), invoice_id))


@blueprint.post("/<int(max=2147483647):invoice_id>/pay")
def pay_invoice(invoice_id: int) -> dict[str, Any]:
    """Mark an invoice as paid; answer 409 if it is paid already."""
    invoice = billing.pay(tenant_of_key(), invoice_id)
    db.session.commit()
    return billing.show(invoice)


@blueprint.post("/<int(max=2147483647):invoice_id>/void")
def void_invoice(invoice_id: int) -> dict[str, Any]:
    """Delete an invoice and show what it was; answer 409 if it is paid."""
    voided = billing.void(tenant_of_key(), invoice_id)
    db.session.commit()
    return voided
