"""The tables of tenants, as SQLModel classes on a registry of their own, and the statuses that rows have.

The queue's tables stand in `database/queue_models`, on the same registry. Columns stand in the order of the migrations:
those of a later revision stand last.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa
import uuid_utils.compat
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from flask_webhook_endpoints.database.types import (
    BYTES,
    HALF_FULL,
    ID,
    LONG_TEXT,
    EventTypes,
    ExactString,
    Metadata,
    UTCTime,
    any_text,
)


class PauseReason(StrEnum):
    """Why an endpoint is paused."""

    USER = "user"
    """Its tenant asked for it."""
    GONE = "gone"
    """Its receiver answered 410."""
    FAILURES = "failures"
    """Its deliveries have failed for days."""


class EndpointStatus(StrEnum):
    """Status of an endpoint: its deliveries are sent (`ACTIVE`) or held (`PAUSED`)."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"


class DeliveryStatus(StrEnum):
    """Status of a delivery; `core/transitions` has every change of it."""

    PENDING = "PENDING"
    """It is not finished: the queue has a row for it."""
    DELIVERED = "DELIVERED"
    """The receiver answered 2xx."""
    FAILED = "FAILED"
    """Every attempt of the retry schedule has failed."""
    CANCELLED = "CANCELLED"
    """Its endpoint or its event was deleted first."""
    EXPIRED = "EXPIRED"
    """A paused endpoint held it for longer than `HOLD_MAX_DAYS`."""


class QueueState(StrEnum):
    """State of a delivery in the queue; `core/transitions` has every change of it."""

    READY = "READY"
    """It is due: a worker may claim it."""
    WAITING = "WAITING"
    """It becomes ready at its time: a retry, published with a delay, or first after a rest."""
    HELD = "HELD"
    """Its endpoint is paused, or rests: claims do not look at it."""
    LEASED = "LEASED"
    """A worker has claimed it until its lease ends."""


class WebhookModel(SQLModel, registry=registry()):
    """Base of our tables, on a registry of its own, so that no class of the host's can clash."""


class WebhookEndpoint(WebhookModel, table=True):
    """A URL that receives a tenant's deliveries."""

    __tablename__: ClassVar[Any] = "webhook_endpoint"
    __table_args__ = (sa.Index("ix_webhook_endpoint_tenant_id_id", "tenant_id", "id"),)

    id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    """UUIDv7, so that ids sort by time of creation. Shown as `ep_` and its canonical form."""
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    """The tenant that it belongs to: what the host's `tenant` callable returned, as a string."""
    name: str = Field(sa_column=sa.Column(any_text(255), nullable=False))
    url: str = Field(sa_column=sa.Column(any_text(2048), nullable=False))
    headers_encrypted: str | None = Field(sa_column=sa.Column(sa.Text), repr=False)
    """Fernet token of the JSON object of custom headers. Null: there are none."""
    timeout_seconds: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    event_types: list[str] | None = Field(sa_column=sa.Column(EventTypes))
    """Exact names and `prefix.*`. Null: all events."""
    paused_at: datetime | None = Field(sa_column=sa.Column(UTCTime))
    """The time since when its deliveries are held. Null while it is active."""
    version: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """1 at creation, one more with every change. It is the ETag."""
    created_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    updated_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    pause_reason: PauseReason | None = Field(sa_column=sa.Column(sa.String(16)))
    description: str | None = Field(sa_column=sa.Column(any_text(1000)))
    """A text of the tenant's, for people."""
    metadata_json: dict[str, str] | None = Field(sa_column=sa.Column(Metadata))
    """Strings of the tenant's, for programs. Null: there are none. SQLModel uses the name `metadata` itself."""


class WebhookSecret(WebhookModel, table=True):
    """A secret that signs an endpoint's deliveries: the current one, or a previous one until it expires."""

    __tablename__: ClassVar[Any] = "webhook_secret"
    # A constraint, not an index: a generated downgrade drops indexes before their table, and MariaDB refuses to drop
    # the index that the foreign key needs.
    __table_args__ = (sa.UniqueConstraint("endpoint_id", "id", name="uq_webhook_secret_endpoint_id_id"),)

    id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    endpoint_id: UUID = Field(
        sa_column=sa.Column(ID, sa.ForeignKey("webhook_endpoint.id", ondelete="CASCADE"), nullable=False)
    )
    secret_encrypted: str = Field(sa_column=sa.Column(sa.Text, nullable=False), repr=False)
    """Fernet token of the secret, as the tenant knows it."""
    created_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    expires_at: datetime | None = Field(sa_column=sa.Column(UTCTime))
    """The time when a previous secret stops signing. Null: this is the current secret."""


class WebhookEvent(WebhookModel, table=True):
    """An event that the host published; its body is made once, and every delivery signs and sends these bytes."""

    __tablename__: ClassVar[Any] = "webhook_event"
    __table_args__ = (
        sa.Index("ix_webhook_event_tenant_id_idempotency_key", "tenant_id", "idempotency_key", unique=True),
        # Every index has its name here: SQLAlchemy would choose one by the host's schema and naming convention, and the
        # shipped migrations would not know it.
        sa.Index("ix_webhook_event_created_at", "created_at"),
    )

    id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    """UUIDv7. Shown as `evt_` and its canonical form, which is the `webhook-id`."""
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    type: str = Field(sa_column=sa.Column(sa.String(128), nullable=False))
    body: bytes = Field(sa_column=sa.Column(BYTES, nullable=False), repr=False)
    idempotency_key: str | None = Field(sa_column=sa.Column(ExactString))
    """The key under which the host publishes once. Null: each call publishes an event."""
    created_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    traceparent: str | None = Field(sa_column=sa.Column(sa.String(55)))
    """W3C Trace Context of the publisher. Null: no trace was active."""


class WebhookDelivery(WebhookModel, table=True):
    """A delivery in the log: one event for one endpoint, with its status and its last attempt.

    No index has a column that changes, so that PostgreSQL updates a row where it is.
    """

    __tablename__: ClassVar[Any] = "webhook_delivery"
    __table_args__ = (
        # A tenant's list of an endpoint's deliveries.
        sa.Index("ix_webhook_delivery_endpoint_id_id", "endpoint_id", "id"),
        # A tenant's list of the deliveries to all its endpoints. PostgreSQL merges those of each endpoint
        # (`core/newest`): there the index has no entries, which would be a seventeenth of what a delivery writes ahead.
        sa.Index("ix_webhook_delivery_tenant_id_id", "tenant_id", "id", postgresql_where=sa.text("false")),
        # The rows of a page are updated at about the same time: in place, if each has room for two.
        HALF_FULL,
    )

    id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    """UUIDv7. Shown as `dlv_` and its canonical form."""
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    event_id: UUID = Field(sa_column=sa.Column(ID, nullable=False))
    """No foreign key, which would cost every insert a look-up; publish writes both rows in one transaction."""
    endpoint_id: UUID = Field(sa_column=sa.Column(ID, nullable=False))
    """No foreign key: a delivery outlives its endpoint."""
    status: DeliveryStatus = Field(sa_column=sa.Column(sa.String(16), nullable=False))
    attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Number of attempts that are recorded; while it is pending, the queue counts those that have begun."""
    created_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    finished_at: datetime | None = Field(sa_column=sa.Column(UTCTime))
    last_attempt_at: datetime | None = Field(sa_column=sa.Column(UTCTime))
    """The time when its last recorded attempt began. Null: none is recorded."""
    last_duration_ms: int | None = Field(sa_column=sa.Column(sa.Integer))
    last_response_status: int | None = Field(sa_column=sa.Column(sa.Integer))
    last_error: str | None = Field(sa_column=sa.Column(sa.String(32)))
    last_response_excerpt: bytes | None = Field(sa_column=sa.Column(BYTES), repr=False)
    """The first KiB of the response's body, of an attempt that has no row of its own."""


class WebhookUndelivered(WebhookModel, table=True):
    """A delivery that finished without success, for the lists of such deliveries and for what recovers them.

    An index of the log by status would cost each delivery an update of that index. These rows cost successes nothing.
    """

    __tablename__: ClassVar[Any] = "webhook_undelivered"
    __table_args__ = (
        sa.Index("ix_webhook_undelivered_endpoint_id_status", "endpoint_id", "status", "delivery_id"),
        sa.Index("ix_webhook_undelivered_tenant_id_status", "tenant_id", "status", "delivery_id"),
    )

    delivery_id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    endpoint_id: UUID = Field(sa_column=sa.Column(ID, nullable=False))
    status: DeliveryStatus = Field(sa_column=sa.Column(sa.String(16), nullable=False))
    """`FAILED`, `EXPIRED`, or `CANCELLED` while it was in flight, as in the log."""


class WebhookRedeliveryCount(WebhookModel, table=True):
    """The redeliveries that a tenant has asked for in the latest minute in which it asked for any."""

    __tablename__: ClassVar[Any] = "webhook_redelivery_count"

    tenant_id: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    minute: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    """The time at which the minute began."""
    redeliveries: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))


class WebhookAttempt(WebhookModel, table=True):
    """One attempt of a delivery: an HTTP request and its result.

    A first attempt that succeeds has no row: the delivery's own has all of it.
    """

    __tablename__: ClassVar[Any] = "webhook_attempt"

    delivery_id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    number: int = Field(sa_column=sa.Column(sa.Integer, primary_key=True, autoincrement=False))
    started_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    duration_ms: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    response_status: int | None = Field(sa_column=sa.Column(sa.Integer))
    error: str | None = Field(sa_column=sa.Column(sa.String(32)))
    """The code of why no response came, or why it does not count."""
    response_excerpt: bytes | None = Field(sa_column=sa.Column(BYTES), repr=False)
    """The first KiB of the response's body."""
    url: str | None = Field(sa_column=sa.Column(any_text(2048)), repr=False)
    """The URL that it was sent to. Null: a worker of an older version recorded it."""
    response_headers: str | None = Field(sa_column=sa.Column(sa.Text), repr=False)
    """JSON object of some headers of the response, of an attempt that failed."""


class WebhookIdempotencyKey(WebhookModel, table=True):
    """An `Idempotency-Key` that a tenant has used, with the answer to the first request."""

    __tablename__: ClassVar[Any] = "webhook_idempotency_key"
    __table_args__ = (sa.Index("ix_webhook_idempotency_key_created_at", "created_at"),)

    tenant_id: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    key: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    created_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    answer_encrypted: str | None = Field(sa_column=sa.Column(LONG_TEXT), repr=False)
    """Fernet token of a digest of the first request and of its answer. Null: its transaction is not committed yet."""


def new_id() -> UUID:
    """Return a UUIDv7. Ids of one process sort in the order in which they are made (RFC 9562 section 6.2)."""
    return uuid_utils.compat.uuid7()
