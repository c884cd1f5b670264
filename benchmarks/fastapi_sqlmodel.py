"""An alternative to Flask: FastAPI with SQLModel's entities and pydantic's answers, on the same tables."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from cryptography.fernet import Fernet
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import AnyHttpUrl, BaseModel, Field
from sqlmodel import Session, select

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


class NewEndpoint(BaseModel):
    """The body of a POST."""

    name: str = Field(min_length=1, max_length=255)
    url: AnyHttpUrl
    secret: str
    headers_json: dict[str, str] = {}
    timeout_seconds: int = Field(10, ge=1, le=30, strict=True)


class Changes(BaseModel):
    """The body of a PATCH."""

    name: str = Field(min_length=1, max_length=255)


class EndpointShown(BaseModel):
    """An endpoint in an answer."""

    id: str
    name: str
    url: str
    headers_json: dict[str, str]
    timeout_seconds: int
    event_types: list[str] | None
    status: str
    paused_at: datetime | None
    created_at: datetime
    updated_at: datetime


def application(url: str) -> FastAPI:  # noqa: C901 - views in one place
    """Make the application on the tables at this URL."""
    app = FastAPI()
    engine = sa.create_engine(url)

    def open_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    InSession = Annotated[Session, Depends(open_session)]  # noqa: N806 - a type
    Tenant = Annotated[str, Header(alias="X-Tenant")]  # noqa: N806 - a type

    def find(session: Session, tenant: str, ep_id: str) -> WebhookEndpoint:
        statement = select(WebhookEndpoint).where(
            WebhookEndpoint.tenant_id == tenant, WebhookEndpoint.id == UUID(ep_id[3:])
        )
        endpoint = session.exec(statement).one_or_none()
        if endpoint is None:
            raise HTTPException(404)
        return endpoint

    @app.get("/v1/endpoints")
    def list_endpoints(session: InSession, tenant: Tenant) -> list[EndpointShown]:
        statement = select(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant)
        return [_shown(each) for each in session.exec(statement.order_by(sa.text("id")))]

    @app.get("/v1/endpoints/{ep_id}")
    def read_endpoint(session: InSession, tenant: Tenant, ep_id: str) -> EndpointShown:
        return _shown(find(session, tenant, ep_id))

    @app.post("/v1/endpoints", status_code=201)
    def create_endpoint(session: InSession, tenant: Tenant, body: NewEndpoint) -> EndpointShown:
        now = datetime.now(UTC)
        sealed = _fernet.encrypt(json.dumps(body.headers_json).encode()).decode() if body.headers_json else None
        endpoint = WebhookEndpoint(
            id=new_id(),
            tenant_id=tenant,
            name=body.name,
            url=str(body.url),
            headers_encrypted=sealed,
            timeout_seconds=body.timeout_seconds,
            version=1,
            created_at=now,
            updated_at=now,
        )
        session.add(endpoint)
        session.flush()
        count = select(sa.func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant)
        if session.exec(count).one() > 100_000:  # noqa: PLR2004 - the quota
            raise HTTPException(409)
        secret = _fernet.encrypt(body.secret.encode()).decode()
        session.add(WebhookSecret(id=new_id(), endpoint_id=endpoint.id, secret_encrypted=secret, created_at=now))
        session.commit()
        return _shown(endpoint)

    @app.patch("/v1/endpoints/{ep_id}")
    def update_endpoint(session: InSession, tenant: Tenant, ep_id: str, body: Changes) -> EndpointShown:
        endpoint = find(session, tenant, ep_id)
        endpoint.name = body.name
        endpoint.version += 1
        endpoint.updated_at = datetime.now(UTC)
        session.commit()
        return _shown(endpoint)

    @app.delete("/v1/endpoints/{ep_id}", status_code=204)
    def delete_endpoint(session: InSession, tenant: Tenant, ep_id: str) -> None:
        endpoint = find(session, tenant, ep_id)
        of_endpoint = sa.column("endpoint_id") == sa.literal(endpoint.id, sa.Uuid())
        for table in (WebhookSecret, WebhookRest):
            session.execute(sa.delete(table).where(of_endpoint))
        queue, log = (table.__table__ for table in (WebhookQueue, WebhookDelivery))  # type: ignore[attr-defined]
        waiting = sa.and_(queue.c.tenant_id == tenant, of_endpoint, queue.c.state.in_(("READY", "WAITING", "HELD")))
        cancel = sa.update(log).where(log.c.id.in_(sa.select(queue.c.delivery_id).where(waiting)))
        session.execute(cancel.values(status="CANCELLED", finished_at=datetime.now(UTC)))
        session.execute(sa.delete(queue).where(waiting))
        session.delete(endpoint)
        session.commit()

    return app


def _shown(endpoint: WebhookEndpoint) -> EndpointShown:
    sealed = endpoint.headers_encrypted
    return EndpointShown(
        id=f"ep_{endpoint.id}",
        name=endpoint.name,
        url=endpoint.url,
        headers_json=json.loads(decrypted(sealed)) if sealed else {},
        timeout_seconds=endpoint.timeout_seconds,
        event_types=endpoint.event_types,
        status="PAUSED" if endpoint.paused_at else "ACTIVE",
        paused_at=endpoint.paused_at,
        created_at=endpoint.created_at,
        updated_at=endpoint.updated_at,
    )
