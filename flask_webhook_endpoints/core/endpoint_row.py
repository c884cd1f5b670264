"""An endpoint as its tenant sees it: its fields, and how they are read from its row.

Answers, the columns that statements read, and what the OpenAPI document says of answers follow from the fields of
`Endpoint`. What a tenant may write has its rules in `api/endpoint_schemas` and its place in `portal/endpoint_form`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, get_type_hints
from uuid import UUID

import sqlalchemy as sa

from flask_webhook_endpoints import logs
from flask_webhook_endpoints.core.headers import HIDDEN
from flask_webhook_endpoints.database import types
from flask_webhook_endpoints.database.models import EndpointStatus, PauseReason
from flask_webhook_endpoints.database.tables import Tables
from flask_webhook_endpoints.errors import UnreadableValue
from flask_webhook_endpoints.identifiers import UUID_PATTERN, format_id, format_time
from flask_webhook_endpoints.security import encryption
from flask_webhook_endpoints.security.encryption import Cipher, Headers
from flask_webhook_endpoints.security.private import Private

_log = logs.logger("flask_webhook_endpoints.endpoints")  # the name that hosts have configured

ID_PATTERN = f"^ep_{UUID_PATTERN}$"
"""The pattern of an endpoint's id."""


class Described:
    """The JSON Schema of a field in the OpenAPI document, beside its type."""

    def __init__(self, description: str = "", **schema: Any) -> None:
        self.schema = {**schema, "description": description} if description else schema


_TIME = Described(format="date-time")

Fields = Private[Any]
"""Fields that a request or the host gives, as the schemas load them. The secret is wrapped, the status an enum."""


@dataclass(repr=False)
class Endpoint:
    """An endpoint as its tenant sees it, with ids and times as text. The secret is not part of it.

    Each field has the name that JSON has, and is read from the column of that name, or of `_COLUMNS`. Beside its type
    stands what the type does not tell the OpenAPI document. `orjson` writes an endpoint as it is, in this order and
    without names that begin with `_`. No slots, because `orjson` takes four times as long over them; no tuple, because
    error trackers would send the values of one.
    """

    id: Annotated[str, Described("The endpoint's id.", pattern=ID_PATTERN)]
    name: Annotated[str, Described("The display name.")]
    url: Annotated[str, Described("The URL that receives webhooks.")]
    headers_json: Annotated[
        Headers | None,
        Described(
            "Custom headers of each delivery. Null if the key that encrypted them is lost. Each value is "
            f"`{HIDDEN}` for users who may not read the values."
        ),
    ]
    timeout_seconds: Annotated[int, Described("Time limit of one attempt in seconds, from name lookup to answer.")]
    event_types: Annotated[
        list[str] | None, Described("Event types that are delivered: exact names, or `prefix.*`. Null means all.")
    ]
    status: EndpointStatus
    """Follows from `paused_at`, which stands after it."""
    paused_at: Annotated[
        str | None, _TIME, Described("Since when deliveries are held. Null while the endpoint is active.")
    ]
    created_at: Annotated[str, _TIME, Described("When the endpoint was created.")]
    updated_at: Annotated[str, _TIME, Described("When the endpoint last changed.")]
    description: Annotated[str | None, Described("A text of your own about the endpoint.")]
    metadata: Annotated[dict[str, str], Described("Strings of your own, such as your id of the customer.")]
    pause_reason: Annotated[
        str | None,
        Described(
            "Why deliveries are held. Null while the endpoint is active.",
            enum=[*PauseReason, None],
        ),
    ]
    failing_since: Annotated[
        str | None,
        _TIME,
        Described("When the first attempt that failed since the last success began. Null if the last one succeeded."),
    ]
    _version: int
    """The ETag. It stands last."""

    @property
    def headers(self) -> Headers | None:
        """The custom headers; null where the key that encrypted them is lost."""
        return self.headers_json

    @property
    def version(self) -> int:
        """The version, which the ETag shows."""
        return self._version

    def __repr__(self) -> str:
        return f"Endpoint({self.id})"


def description_of(name: str) -> str:
    """Return the sentences about a field of `Endpoint`."""
    beside: Sequence[Described] = get_type_hints(Endpoint, include_extras=True)[name].__metadata__
    return next(str(each.schema["description"]) for each in beside if "description" in each.schema)


_FIELDS = tuple(field.name for field in dataclasses.fields(Endpoint))
_COLUMNS = {"headers_json": "headers_encrypted", "metadata": "metadata_json", "_version": "version"}
_HEADERS, _STATUS = _FIELDS.index("headers_json"), _FIELDS.index("status")


@dataclass(init=False, repr=False, eq=False)
class _NoHeaders(Headers):
    """The headers of most endpoints. `orjson` writes a dataclass without fields by itself, as `{}`."""


_NO_HEADERS = _NoHeaders()
# Looking a member up in its enum would take a tenth of the time that `read` takes.
_ACTIVE, _PAUSED = EndpointStatus


def columns(tables: Tables) -> list[sa.ColumnElement[Any]]:
    """Return the columns that `read` makes an endpoint of: the headers encrypted, and no status."""
    names = [_COLUMNS.get(name, name) for name in _FIELDS if name != "status"]
    return [
        _failing_since(tables) if name == "failing_since" else types.shown(tables.endpoint.c[name]) for name in names
    ]


def _failing_since(tables: Tables) -> sa.ColumnElement[Any]:
    incident = tables.incident
    since = sa.select(types.shown(incident.c.failing_since)).where(incident.c.endpoint_id == tables.endpoint.c.id)
    return since.correlate(tables.endpoint).scalar_subquery()


def read(row: Sequence[Any], cipher: Cipher) -> Endpoint:
    """Return the endpoint of a row of `columns`."""
    values = list(row)
    # Most endpoints have no headers, and a list has many endpoints.
    token = values[_HEADERS]
    values[_HEADERS] = _NO_HEADERS if token is None else _headers(values[0], token, cipher)
    # The row has no status; `paused_at` stands in its place.
    values.insert(_STATUS, _ACTIVE if values[_STATUS] is None else _PAUSED)
    return Endpoint(*values)


def newborn(endpoint_id: UUID, fields: Fields, now: datetime) -> Endpoint:
    """Return an endpoint that was created now."""
    time = format_time(now)
    own = {"id": format_id(endpoint_id), "status": _ACTIVE, "created_at": time, "updated_at": time, "_version": 1}
    # Not `**fields`, which looks each name up by itself.
    born = {**dict(fields.items()), **own}
    values: list[Any] = [born.get(name) for name in _FIELDS]
    return Endpoint(*values)


def written(tables: Tables, endpoint_id: UUID, fields: Fields, cipher: Cipher) -> dict[str, Any]:
    """Return the columns that `fields` writes, and their values."""
    named = {_COLUMNS.get(name, name): value for name, value in fields.items()}
    if "headers_json" in fields:
        place = encryption.place_of_headers(format_id(endpoint_id))
        named["headers_encrypted"] = cipher.encrypt_headers(fields["headers_json"], place)
    return {name: value for name, value in named.items() if name in tables.endpoint.c}


def of_tenant(tables: Tables) -> sa.ColumnElement[bool]:
    """Choose the endpoints of the tenant that the parameter `of_tenant` names."""
    return tables.endpoint.c.tenant_id == sa.bindparam("of_tenant")


def has_status(tables: Tables, status: EndpointStatus) -> sa.ColumnElement[bool]:
    """Choose the endpoints of a status; the row has none, but a time of the pause."""
    paused_at = tables.endpoint.c.paused_at
    return paused_at.is_(None) if status is EndpointStatus.ACTIVE else paused_at.is_not(None)


def _headers(ep_id: str, token: str, cipher: Cipher) -> Headers | None:
    try:
        return cipher.decrypt_headers(token, encryption.place_of_headers(ep_id))
    except UnreadableValue:
        _log.error("webhooks.headers_unreadable", extra={"webhooks.endpoint_id": ep_id})
        return None
