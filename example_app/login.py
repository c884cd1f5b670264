"""`/login` and `/logout`: people log in by email and password, and a session cookie keeps them logged in."""

import re

from flask import Blueprint, redirect, render_template, request, session, url_for
from flask_login import LoginManager, current_user, login_user, logout_user
from werkzeug.wrappers import Response

from example_app import accounts
from example_app.demo_accounts import ACCOUNTS
from example_app.models import User, db

blueprint = Blueprint("login", __name__)

_OWN_PATH = re.compile(r"/(?![/\\])[\x21-\x7e]*")

login_manager = LoginManager()


def load_user(user_id: str) -> User | None:
    """Return the user whose id is in the session's cookie; None if the user was deleted."""
    return db.session.get(User, int(user_id))


login_manager.user_loader(load_user)


def require_login() -> Response | None:
    """Send a person who is not logged in to the login page, and back afterwards. For `Blueprint.before_request`."""
    if current_user.is_authenticated:
        return None
    # A form can't be sent again by a redirect.
    path = request.full_path.removesuffix("?") if request.method == "GET" else None
    return redirect(url_for("login.log_in", next=path))


@blueprint.get("/login")
def log_in() -> Response | str:
    """Show the form."""
    return redirect(_after_login()) if current_user.is_authenticated else _form()


@blueprint.post("/login")
def check_login() -> Response | tuple[str, int]:
    """Log a person in, and go to the page that asked for a login."""
    # No address has a NUL, and PostgreSQL refuses to look for one.
    email = request.form.get("email", "").strip().replace("\x00", "")
    user = accounts.user_of(email, request.form.get("password", ""))
    if user is None:
        return _form(email=email, is_wrong=True), 422
    # Keep nothing that somebody else has left in this browser.
    session.clear()
    login_user(user)
    return redirect(_after_login(), 303)


@blueprint.post("/logout")
def log_out() -> Response:
    """Log the person out."""
    logout_user()
    session.clear()
    return redirect(url_for("login.log_in"), 303)


def _form(*, email: str = "", is_wrong: bool = False) -> str:
    return render_template("login.html", email=email, is_wrong=is_wrong, demo_accounts=ACCOUNTS)


def _after_login() -> str:
    """Return the path that asked for a login: one of ours, or else a link could lead people to another site."""
    path = request.args.get("next", "")
    return path if _OWN_PATH.fullmatch(path) else url_for("pages.list_invoices")
