"""`/login` and `/logout`: people log in by email and password, and a session cookie keeps them logged in."""

import re
import time
from typing import NoReturn
from urllib.parse import urlsplit

from flask import Blueprint, abort, redirect, render_template, request, session, url_for
from flask_login import LoginManager, current_user, login_user, logout_user
from werkzeug.wrappers import Response

from example_app import accounts
from example_app.demo_accounts import ACCOUNTS
from example_app.models import User, db

blueprint = Blueprint("login", __name__)

FRESH_SECONDS = 600
"""Seconds for which a password that was typed is fresh."""

_TYPED_AT = "password_typed_at"

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
    return redirect(url_for("login.log_in", next=_this_page()))


def is_password_fresh() -> bool:
    """Tell whether the person has typed the password lately."""
    typed_at: float = session.get(_TYPED_AT, 0)
    return time.time() - typed_at < FRESH_SECONDS


def ask_for_password() -> NoReturn:
    """Leave the request, ask for the password, and come back afterwards."""
    abort(redirect(url_for("login.confirm", next=_this_page()), 303))


@blueprint.get("/login")
def log_in() -> Response | str:
    """Show the form."""
    return redirect(_after_login()) if current_user.is_authenticated else _form("login.html")


@blueprint.post("/login")
def check_login() -> Response | tuple[str, int]:
    """Log a person in, and go to the page that asked for a login."""
    # No address has a NUL, and PostgreSQL refuses to look for one.
    email = request.form.get("email", "").strip().replace("\x00", "")
    user = accounts.user_of(email, request.form.get("password", ""))
    if user is None:
        return _form("login.html", email=email, is_wrong=True), 422
    # Keep nothing that somebody else has left in this browser.
    session.clear()
    login_user(user)
    session[_TYPED_AT] = time.time()
    return redirect(_after_login(), 303)


@blueprint.get("/confirm")
def confirm() -> Response | str:
    """Ask a person who is logged in for the password again."""
    return require_login() or _form("confirm.html")


@blueprint.post("/confirm")
def check_password() -> Response | tuple[str, int]:
    """Go on if the password is right."""
    if (refusal := require_login()) is not None:
        return refusal
    if accounts.user_of(current_user.email, request.form.get("password", "")) is None:
        return _form("confirm.html", is_wrong=True), 422
    session[_TYPED_AT] = time.time()
    return redirect(_after_login(), 303)


@blueprint.post("/logout")
def log_out() -> Response:
    """Log the person out."""
    logout_user()
    session.clear()
    return redirect(url_for("login.log_in"), 303)


def _form(template: str, *, email: str = "", is_wrong: bool = False) -> str:
    return render_template(template, email=email, is_wrong=is_wrong, demo_accounts=ACCOUNTS)


def _this_page() -> str:
    """Return the path of the page that the person sees: a redirect can't send a form again."""
    if request.method == "GET":
        return request.full_path.removesuffix("?")
    return urlsplit(request.referrer or "").path


def _after_login() -> str:
    """Return the path that asked for a login. It is one of ours, or else a link could lead people to another site."""
    path = request.args.get("next", "")
    return path if _OWN_PATH.fullmatch(path) else url_for("pages.list_invoices")
