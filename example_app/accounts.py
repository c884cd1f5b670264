"""Accounts: tenants, their users and API keys; they tell the tenant of a request."""

import hashlib
import secrets

import click
from flask import request
from flask.cli import with_appcontext
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from example_app.models import ApiKey, Tenant, User, db


def current_tenant_id() -> int:
    """Return the tenant of the request's API key; answer 401 unless the key is valid."""
    shown = request.authorization
    if shown is not None and shown.type == "bearer" and shown.token:
        of_key = select(User.tenant_id).join(ApiKey).where(ApiKey.key_hash == _hash(shown.token))
        tenant_id = db.session.scalar(of_key)
        if tenant_id is not None:
            return tenant_id
    raise Unauthorized("Send your API key as Authorization: Bearer <key>.", www_authenticate=WWWAuthenticate("bearer"))


def open_account(tenant: str, email: str, key: str) -> None:
    """Add a tenant with a user and that user's API key; the caller commits."""
    company = Tenant(name=tenant)
    db.session.add(company)
    db.session.flush()
    user = User(tenant_id=company.id, email=email)
    db.session.add(user)
    db.session.flush()
    db.session.add(ApiKey(key_hash=_hash(key), user_id=user.id))


def is_known(key: str) -> bool:
    """Tell whether a user has this API key."""
    return db.session.get(ApiKey, _hash(key)) is not None


@click.command("add-tenant")
@click.argument("name")
@click.argument("email")
@with_appcontext
def add_tenant(name: str, email: str) -> None:
    """Add tenant NAME with the user EMAIL; print the user's API key, which is not stored."""
    key = secrets.token_urlsafe(32)
    try:
        open_account(name, email, key)
        db.session.commit()
    except IntegrityError:
        raise click.ClickException("There is a tenant of this name, or a user of this address.") from None
    click.echo(key)


def _hash(key: str) -> str:
    # One quick round is enough for random keys: nobody can try all of them, unlike people's passwords.
    return hashlib.sha256(key.encode()).hexdigest()
