"""The application: its settings, its database, its blueprints."""

import json
import os
import secrets
import time
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from flask import Flask, render_template
from marshmallow import ValidationError
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import HTTPException, UnprocessableEntity
from werkzeug.wrappers import Response

from example_app import accounts, browsers, demo_accounts, invoices, login, pages, receiver
from example_app.events import webhooks
from example_app.models import db

_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}


def make() -> Flask:
    """Make the application; see `create_app`."""
    app = Flask(__name__)
    # Allow receivers on this machine, to try it out; not for production.
    app.config["WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS"] = ("127.0.0.0/8", "::1/128")
    app.config["WEBHOOK_ENDPOINTS_LAYOUT"] = "layout.html"
    # A browser sends the cookie with links from other sites, not with their forms. Not named "session", because another
    # app on this machine, whose port does not matter to browsers, may have that name.
    app.config.update(SESSION_COOKIE_NAME="example_app", SESSION_COOKIE_SAMESITE="Lax", MAX_CONTENT_LENGTH=2**20)
    # Read any setting, such as FLASK_WEBHOOK_ENDPOINTS_REQUIRE_HTTPS=true.
    app.config.from_prefixed_env()
    app.config["SECRET_KEY"] = os.environ.get("SECRET_KEY") or _kept_secret_key(Path(app.instance_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url(os.environ.get("DATABASE_URL") or "sqlite:///example.db")
    db.init_app(app)
    login.login_manager.init_app(app)
    browsers.protect(app)
    for each in (invoices, login, pages, receiver):
        app.register_blueprint(each.blueprint)
    app.register_blueprint(webhooks.blueprint)
    app.register_blueprint(webhooks.portal, url_prefix=demo_accounts.PORTAL)
    app.register_error_handler(HTTPException, _refuse)
    app.register_error_handler(ValidationError, _invalid_fields)
    app.cli.add_command(accounts.add_tenant)
    app.cli.add_command(accounts.ask_password)
    if app.config.get("METRICS"):
        from example_app import metrics  # noqa: PLC0415 - takes half a second, and few need it

        metrics.serve(app)
    with app.app_context():
        _prepare_database()
    return app


def database_url(url: str) -> str:
    """Return the URL with the installed driver, which hosting services leave out."""
    scheme, separator, rest = url.partition("://")
    return _DRIVERS.get(scheme, scheme) + separator + rest


def _kept_secret_key(folder: Path) -> str:
    """Return the random key kept in `folder`; with another key, no stored secret could be decrypted."""
    path = folder / "secret_key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=folder) as draft:
            draft.write(secrets.token_hex(32))
            draft.flush()
            # Link it when it is complete: if several processes start at once, all use the key of the first.
            with suppress(FileExistsError):
                path.hardlink_to(draft.name)
    return path.read_text()


def _prepare_database() -> None:
    """Make the tables and demo accounts that are missing; a real product uses Flask-Migrate instead."""
    # If several processes start at once on an empty database, one that loses a race tries again.
    for last_try in (*[False] * 20, True):
        try:
            db.create_all()
            for demo in demo_accounts.ACCOUNTS:
                if not accounts.is_known(demo.key):
                    accounts.open_account(demo.tenant, demo.email, demo.key)
                accounts.give_password(demo.email, demo.password)
            db.session.commit()
            return
        except DBAPIError:
            db.session.rollback()
            if last_try:
                raise
            time.sleep(0.1)


def _refuse(error: HTTPException) -> Response:
    """Answer an error: people get a page, programs a problem document."""
    if not browsers.is_browser():
        return _problem(error)
    answer = error.get_response()
    # Our page asks the database, which may be what has failed.
    if answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        answer.data = render_template("error.html", error=error)
    return answer


def _problem(error: HTTPException, **members: Any) -> Response:
    """Answer errors as the webhook endpoints do (RFC 9457), so that customers get one kind."""
    answer = error.get_response()
    answer.data = json.dumps({"title": error.name, "status": error.code, "detail": error.description, **members})
    answer.mimetype = "application/problem+json"
    return answer


def _invalid_fields(error: ValidationError) -> Response:
    return _problem(UnprocessableEntity("Some fields are not valid; see errors."), errors=error.messages)
