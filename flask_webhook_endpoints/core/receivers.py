"""The receivers of claimed deliveries: URLs, and headers and secrets, which are still encrypted."""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints.core import queue
from flask_webhook_endpoints.core.secrets import current_first
from flask_webhook_endpoints.database.scope import Scope, statement
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.security import encryption
from flask_webhook_endpoints.security.private import PrivateURL


def load(scope: Scope, endpoint_ids: Collection[UUID]) -> tuple[dict[int, tuple[Any, ...]], dict[int, datetime]]:
    """Return the last fields of `results.Claimed`, by the number of the endpoint whose deliveries share them.

    Beside them, return since when the first of its held deliveries is due, for each endpoint that has some.
    """
    receivers: dict[int, tuple[Any, ...]] = {}
    held_since: dict[int, datetime] = {}
    rows = scope.read(_receivers(scope), {"ids": endpoint_ids, "now": scope.now})
    for endpoint_id, url, *receiver, rests, since, secret_id, token in rows:
        *_, newer = receivers.get(endpoint_id.int, ((),))
        ep_id = format_id(endpoint_id)
        place = encryption.place_of_secret(secret_id, ep_id)
        receivers[endpoint_id.int] = (
            PrivateURL(url),
            *receiver,
            rests or 0,
            ep_id,
            newer if token is None else (*newer, (token, place)),
        )
        if since is not None:
            held_since[endpoint_id.int] = since
    return receivers, held_since


@statement
def _receivers(tables: Tables, dialect: str) -> Any:
    endpoint, secret, rest, incident = tables.endpoint, tables.secret, tables.rest, tables.incident
    held = queue.first_held(
        dialect, sa.select(tables.queue.c.due_at), tables.queue, endpoint.c.tenant_id, endpoint.c.id
    )
    since = held.limit(1).scalar_subquery()
    is_live = sa.or_(secret.c.expires_at.is_(None), secret.c.expires_at > sa.bindparam("now"))
    return (
        sa.select(
            endpoint.c.id,
            endpoint.c.url,
            endpoint.c.headers_encrypted,
            endpoint.c.timeout_seconds,
            incident.c.endpoint_id.is_not(None).label("failing"),
            rest.c.times,
            since.label("held_since"),
            secret.c.id.label("secret_id"),
            secret.c.secret_encrypted,
        )
        .select_from(
            endpoint.outerjoin(secret, sa.and_(secret.c.endpoint_id == endpoint.c.id, is_live))
            .outerjoin(rest, rest.c.endpoint_id == endpoint.c.id)
            .outerjoin(incident, incident.c.endpoint_id == endpoint.c.id)
        )
        .where(tables.among(dialect, endpoint.c.id, "ids"))
        .order_by(*current_first(tables))
    )
