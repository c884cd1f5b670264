"""An alternative: flask-smorest with Flask-SQLAlchemy's entities and marshmallow's dump, on the same tables."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import marshmallow as ma
import sqlalchemy as sa
from cryptography.fernet import Fernet
from flask import Flask, abort, request
from flask.views import MethodView
from flask_smorest import Api, Blueprint
from flask_sqlalchemy import SQLAlchemy

from benchmarks.hosts import decrypted
from flask_webhook_endpoints.database.models import (
    WebhookDelivery,
    WebhookEndpoint,
    WebhookSecret,
    new_id,
)
from flask_webhook_endpoints.database.queue_models import WebhookQueue, WebhookRest
from flask_webhook_endpoints.security.encryption import derive_key

_fernet = Fernet(derive_key("benchmark"))


class NewEndpoint(ma.Schema):
    """The body of a POST."""

    name = ma.fields.String(required=True, validate=ma.validate.Length(1, 255))
    url = ma.fields.Url(required=True, schemes={"http", "https"})
    secret = ma.fields.String(required=True, load_only=True)
    headers_json = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String(), load_default=dict)
    timeout_seconds = ma.fields.Integer(strict=True, load_default=10, validate=ma.validate.Range(1, 30))


class EndpointShown(ma.Schema):
    """An endpoint in an answer."""

    id = ma.fields.Function(lambda endpoint: f"ep_{endpoint.id}")
    name = ma.fields.String()
    url = ma.fields.String()
    headers_json = ma.fields.Function(
        lambda endpoint: json.loads(decrypted(endpoint.headers_encrypted)) if endpoint.headers_encrypted else {}
    )
    timeout_seconds = ma.fields.Integer()
    event_types = ma.fields.List(ma.fields.String())
    status = ma.fields.Function(lambda endpoint: "PAUSED" if endpoint.paused_at else "ACTIVE")
    paused_at = ma.fields.DateTime()
    created_at = ma.fields.DateTime()
    updated_at = ma.fields.DateTime()


def application(url: str) -> Flask:  # noqa: C901 - views in one place
    """Make the application on the tables at this URL."""
    db = SQLAlchemy()
    app = Flask("smorest")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url, API_TITLE="endpoints", API_VERSION="1", OPENAPI_VERSION="3.0.3", ETAG_DISABLED=True
    )
    db.init_app(app)
    blueprint = Blueprint("endpoints", "endpoints", url_prefix="/v1/endpoints")

    def tenant() -> str:
        return request.headers.get("X-Tenant") or abort(401)

    def find(ep_id: str) -> Any:
        statement = sa.select(Endpoint).where(Endpoint.tenant_id == tenant(), Endpoint.id == UUID(ep_id[3:]))
        return db.session.scalar(statement) or abort(404)

    class Endpoint(db.Model):  # type: ignore[name-defined]
        __table__ = WebhookEndpoint.__table__  # type: ignore[attr-defined]

    class Secret(db.Model):  # type: ignore[name-defined]
        __table__ = WebhookSecret.__table__  # type: ignore[attr-defined]

    class Delivery(db.Model):  # type: ignore[name-defined]
        __table__ = WebhookDelivery.__table__  # type: ignore[attr-defined]

    class Queue(db.Model):  # type: ignore[name-defined]
        __table__ = WebhookQueue.__table__  # type: ignore[attr-defined]

    class Rest(db.Model):  # type: ignore[name-defined]
        __table__ = WebhookRest.__table__  # type: ignore[attr-defined]

    @blueprint.route("")
    class Endpoints(MethodView):
        @blueprint.response(200, EndpointShown(many=True))
        def get(self) -> Any:
            return db.session.scalars(sa.select(Endpoint).where(Endpoint.tenant_id == tenant()).order_by(Endpoint.id))

        @blueprint.arguments(NewEndpoint)
        @blueprint.response(201, EndpointShown)
        def post(self, fields: Any) -> Any:
            now = datetime.now(UTC)
            headers, secret = fields.pop("headers_json"), fields.pop("secret")
            sealed = _fernet.encrypt(json.dumps(headers).encode()).decode() if headers else None
            times = {"created_at": now, "updated_at": now}
            endpoint = Endpoint(id=new_id(), tenant_id=tenant(), headers_encrypted=sealed, version=1, **times, **fields)
            db.session.add(endpoint)
            db.session.flush()
            count = sa.select(sa.func.count()).select_from(Endpoint).where(Endpoint.tenant_id == tenant())
            if (db.session.scalar(count) or 0) > 100_000:  # noqa: PLR2004 - the quota
                abort(409)
            encrypted = _fernet.encrypt(secret.encode()).decode()
            db.session.add(Secret(id=new_id(), endpoint_id=endpoint.id, secret_encrypted=encrypted, created_at=now))
            db.session.commit()
            return endpoint

    @blueprint.route("/<ep_id>")
    class One(MethodView):
        @blueprint.response(200, EndpointShown)
        def get(self, ep_id: str) -> Any:
            return find(ep_id)

        @blueprint.arguments(NewEndpoint(partial=True))
        @blueprint.response(200, EndpointShown)
        def patch(self, fields: Any, ep_id: str) -> Any:
            endpoint = find(ep_id)
            endpoint.name = fields["name"]
            endpoint.version += 1
            endpoint.updated_at = datetime.now(UTC)
            db.session.commit()
            return endpoint

        @blueprint.response(204)
        def delete(self, ep_id: str) -> None:
            endpoint = find(ep_id)
            db.session.execute(sa.delete(Secret).where(Secret.endpoint_id == endpoint.id))
            db.session.execute(sa.delete(Rest).where(Rest.endpoint_id == endpoint.id))
            of_endpoint = Queue.tenant_id == endpoint.tenant_id, Queue.endpoint_id == endpoint.id
            waiting = sa.and_(*of_endpoint, Queue.state.in_(("READY", "WAITING", "HELD")))
            cancel = sa.update(Delivery).where(Delivery.id.in_(sa.select(Queue.delivery_id).where(waiting)))
            cancel = cancel.values(status="CANCELLED", finished_at=datetime.now(UTC))
            # None of these is in the session.
            for statement in (cancel, sa.delete(Queue).where(waiting)):
                db.session.execute(statement.execution_options(synchronize_session=False))
            db.session.delete(endpoint)
            db.session.commit()

    Api(app).register_blueprint(blueprint)
    return app
