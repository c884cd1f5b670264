"""The pages for people: their invoices, and forms that write, pay and void them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_login import current_user
from marshmallow import ValidationError
from werkzeug.exceptions import Conflict, NotFound
from werkzeug.wrappers import Response

from example_app import billing
from example_app.login import require_login
from example_app.models import Tenant, db

blueprint = Blueprint("pages", __name__)
blueprint.before_request(require_login)

_MENU = (
    ("Invoices", "pages.list_invoices"),
    ("Webhooks", "webhook_portal.list_endpoints"),
    ("Receiver", "receiver.show_received"),
)
"""Label and endpoint of each link in the header."""

_AMOUNT = re.compile(r"([0-9]{1,8})(?:[.,]([0-9]{2}))?")


@blueprint.get("/")
def list_invoices() -> str:
    """Show the tenant's invoices, newest first, and a form for another."""
    return _page(typed={}, errors={})


@blueprint.post("/")
def write_invoice() -> Response | tuple[str, int]:
    """Write an invoice; show the form again if a field is not valid."""
    typed = {name: request.form.get(name, "").strip() for name in ("customer", "amount")}
    try:
        given = {"customer": typed["customer"], "amount_cents": _cents(typed["amount"])}
        invoice = billing.write(current_user.tenant_id, given)
    except ValidationError as invalid:
        return _page(typed=typed, errors=invalid.messages_dict), 422
    db.session.commit()
    flash(f"Invoice {invoice.id} is written, and invoice.created is published.")
    return redirect(url_for(".list_invoices"), 303)


@blueprint.post("/<int(max=2147483647):invoice_id>/pay")
def pay_invoice(invoice_id: int) -> Response:
    """Mark an invoice as paid."""
    return _done(billing.pay, invoice_id, f"Invoice {invoice_id} is paid, and invoice.paid is published.")


@blueprint.post("/<int(max=2147483647):invoice_id>/void")
def void_invoice(invoice_id: int) -> Response:
    """Void an invoice."""
    return _done(billing.void, invoice_id, f"Invoice {invoice_id} is voided, and invoice.voided is published.")


@blueprint.app_context_processor
def _for_layout() -> dict[str, Any]:
    """Give every page its menu, and the tenant of the person who is logged in."""
    company = db.session.get(Tenant, current_user.tenant_id) if current_user.is_authenticated else None
    return {"menu": _MENU, "company": company}


def _done(act: Callable[[int, int], object], invoice_id: int, message: str) -> Response:
    """Act on an invoice, say so, and show the list again."""
    try:
        act(current_user.tenant_id, invoice_id)
        db.session.commit()
        flash(message)
    except (Conflict, NotFound) as refused:
        flash(f"Nothing has changed. {refused.description}", "error")
    return redirect(url_for(".list_invoices"), 303)


def _page(*, typed: dict[str, str], errors: Mapping[str, Any]) -> str:
    newest_first = billing.invoices_of(current_user.tenant_id)[::-1]
    return render_template("invoices.html", invoices=newest_first, typed=typed, errors=errors)


def _cents(amount: str) -> int | None:
    """Return an amount such as 42 or 42.00 in cents; None if it is none."""
    found = _AMOUNT.fullmatch(amount)
    return int(found[1] + (found[2] or "00")) if found else None
