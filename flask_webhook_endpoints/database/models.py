"""The tables, as SQLModel classes on a registry of their own: what they hold, and how each database stores it.

The order of columns is that of the migrations: those of a later revision stand last.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa
import uuid_utils.compat
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel
from sqlmodel.sql.sqltypes import UTCDateTime

from flask_webhook_endpoints.identifiers import MAX_KEY_LENGTH

_MYSQL = ("mysql", "mariadb")
# Not native there: SQLAlchemy 2.0 and 2.1 differ in what `Uuid` is on MariaDB, and an upgrade must not lose the rows.
_UUID = sa.Uuid().with_variant(sa.Uuid(native_uuid=False), *_MYSQL)
# Plain DATETIME drops microseconds.
TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
# A plain BLOB ends at 64 KiB.
_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), *_MYSQL)


def _text(length: int) -> sa.types.TypeEngine[str]:
    """Return a string type that holds any character, whatever the database's default character set."""
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)


class ExactString(sa.TypeDecorator[str]):
    """A string that equals itself alone: neither another case, nor an accent or a space at its end.

    MySQL's and MariaDB's collations that compare so have no name in common; bytes compare so in both.
    """

    impl = sa.String(MAX_KEY_LENGTH).with_variant(mysql.VARBINARY(4 * MAX_KEY_LENGTH), *_MYSQL)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Encode for the databases that store bytes."""
        return value.encode() if value is not None and dialect.name in _MYSQL else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Decode what `process_bind_param` encoded."""
        return value.decode() if isinstance(value, bytes) else value


class EventTypes(sa.TypeDecorator[list[str]]):
    """A list of event types as ` a.b c.* `, where SQL finds a whole name between spaces."""

    impl = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> str | None:
        """Join the names with a space on either side of each."""
        return None if value is None else f" {' '.join(value)} "

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return what splits what `process_bind_param` joined; at once, as a list of endpoints has many."""
        return lambda text: None if text is None else text.split()


class PauseReason(StrEnum):
    """Why an endpoint is paused."""

    USER = "user"
    """Its tenant asked for it."""
    GONE = "gone"
    """Its receiver answered 410."""
    FAILURES = "failures"
    """Its deliveries have failed for days."""


class EndpointStatus(StrEnum):
    """Whether an endpoint's deliveries are sent (`ACTIVE`) or held (`PAUSED`)."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"


class DeliveryStatus(StrEnum):
    """How far a delivery has come."""

    PENDING = "PENDING"
    """Waits for its next attempt; held as long as its endpoint is paused."""
    SENDING = "SENDING"
    """Claimed by an engine until its lease ends; shown as PENDING."""
    DELIVERED = "DELIVERED"
    """Answered 2xx."""
    FAILED = "FAILED"
    """Every attempt of the schedule has failed."""
    CANCELLED = "CANCELLED"
    """Its endpoint was deleted first."""
    EXPIRED = "EXPIRED"
    """Held for too long."""


class WebhookModel(SQLModel, registry=registry()):
    """Base of our tables, apart from the host's classes and their names."""


class WebhookEndpoint(WebhookModel, table=True):
    """A URL that receives a tenant's deliveries."""

    __tablename__: ClassVar[Any] = "webhook_endpoint"
    __table_args__ = (sa.Index("ix_webhook_endpoint_tenant_id_id", "tenant_id", "id"),)

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    """UUIDv7, so that the order of ids is the order of creation; outside `ep_` + its canonical form."""
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    """Whom it belongs to: what the host's `tenant` callable returned, as a string."""
    name: str = Field(sa_column=sa.Column(_text(255), nullable=False))
    url: str = Field(sa_column=sa.Column(_text(2048), nullable=False))
    headers_encrypted: str | None = Field(sa_column=sa.Column(sa.Text), repr=False)
    """Fernet token of the JSON object of custom headers; null when there are none."""
    timeout_seconds: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    event_types: list[str] | None = Field(sa_column=sa.Column(EventTypes))
    """Exact names and `prefix.*`; null: all events."""
    paused_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """Since when deliveries are held; null while the endpoint is active."""
    version: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """1 at birth, one more with every change: the ETag."""
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    updated_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    pause_reason: PauseReason | None = Field(sa_column=sa.Column(sa.String(16)))
    failing_since: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """When the first delivery was exhausted since the last success."""
    exhausted_in_a_row: int = Field(sa_column=sa.Column(sa.Integer, nullable=False, server_default="0"))
    """Deliveries exhausted since the last success."""


class WebhookSecret(WebhookModel, table=True):
    """A key that an endpoint's deliveries are signed with: the newest first, those not expired along with it."""

    __tablename__: ClassVar[Any] = "webhook_secret"
    # A constraint rather than an index: a generated downgrade drops indexes before their table, which MariaDB refuses
    # for the one that the foreign key needs.
    __table_args__ = (sa.UniqueConstraint("endpoint_id", "id", name="uq_webhook_secret_endpoint_id_id"),)

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    endpoint_id: UUID = Field(
        sa_column=sa.Column(_UUID, sa.ForeignKey("webhook_endpoint.id", ondelete="CASCADE"), nullable=False)
    )
    secret_encrypted: str = Field(sa_column=sa.Column(sa.Text, nullable=False), repr=False)
    """Fernet token of the secret as the tenant knows it."""
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    expires_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """When an old secret stops signing along; null: it is the one in force."""


class WebhookEvent(WebhookModel, table=True):
    """Something that happened at the host; written once, with the bytes that every delivery signs and sends."""

    __tablename__: ClassVar[Any] = "webhook_event"
    __table_args__ = (
        sa.Index("ix_webhook_event_tenant_id_idempotency_key", "tenant_id", "idempotency_key", unique=True),
        # Named here, as every index: SQLAlchemy's own choice follows the host's schema and naming convention, a shipped
        # migration does not.
        sa.Index("ix_webhook_event_created_at", "created_at"),
    )

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    """UUIDv7; outside `evt_` + its canonical form, which is the `webhook-id`."""
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    type: str = Field(sa_column=sa.Column(sa.String(128), nullable=False))
    body: bytes = Field(sa_column=sa.Column(_BYTES, nullable=False), repr=False)
    idempotency_key: str | None = Field(sa_column=sa.Column(ExactString))
    """What the host publishes under once; null: as often as it calls."""
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    traceparent: str | None = Field(sa_column=sa.Column(sa.String(55)))
    """W3C Trace Context of whoever published it; null where no trace was active."""


class WebhookDelivery(WebhookModel, table=True):
    """An event on its way to an endpoint."""

    __tablename__: ClassVar[Any] = "webhook_delivery"
    __table_args__ = (
        # What an engine claims: of one endpoint, by time.
        sa.Index("ix_webhook_delivery_queue", "status", "endpoint_id", "next_attempt_at"),
        # What a tenant lists.
        sa.Index("ix_webhook_delivery_endpoint_id_id", "endpoint_id", "id"),
        # What retention keeps an event for.
        sa.Index("ix_webhook_delivery_event_id", "event_id"),
        # What retention takes.
        sa.Index("ix_webhook_delivery_finished_at", "finished_at"),
    )

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    """UUIDv7; outside `dlv_` + its canonical form."""
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    event_id: UUID = Field(sa_column=sa.Column(_UUID, nullable=False))
    """No foreign key: the busiest tables are kept together by the transactions that write them."""
    endpoint_id: UUID = Field(sa_column=sa.Column(_UUID, nullable=False))
    """No foreign key: a delivery outlives its endpoint."""
    status: DeliveryStatus = Field(sa_column=sa.Column(sa.String(16), nullable=False))
    attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Attempts begun."""
    attempts_before: int = Field(sa_column=sa.Column(sa.Integer, nullable=False, server_default="0"))
    """Those of them begun before it was last redelivered: the retry schedule counts from there."""
    next_attempt_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """When it is due; while SENDING, when its lease ends; null once it is finished."""
    lease_owner: UUID | None = Field(sa_column=sa.Column(_UUID))
    """The claim that holds it."""
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    finished_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))


class WebhookAttempt(WebhookModel, table=True):
    """One HTTP request of a delivery, and what came of it."""

    __tablename__: ClassVar[Any] = "webhook_attempt"

    delivery_id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    number: int = Field(sa_column=sa.Column(sa.Integer, primary_key=True, autoincrement=False))
    started_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    duration_ms: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    response_status: int | None = Field(sa_column=sa.Column(sa.Integer))
    error: str | None = Field(sa_column=sa.Column(sa.String(32)))
    """Why there is no response, or why it does not count."""
    response_excerpt: bytes | None = Field(sa_column=sa.Column(_BYTES), repr=False)
    """The first KiB of the response's body."""


class WebhookWorker(WebhookModel, table=True):
    """An engine that is at work, so that operators can see that one is."""

    __tablename__: ClassVar[Any] = "webhook_worker"

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    engine: str = Field(sa_column=sa.Column(sa.String(16), nullable=False))
    """`worker` or `celery`."""
    hostname: str = Field(sa_column=sa.Column(_text(255), nullable=False))
    pid: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    started_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    seen_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))


class WebhookIdempotencyKey(WebhookModel, table=True):
    """An `Idempotency-Key` that a tenant has used, and what the first request with it made."""

    __tablename__: ClassVar[Any] = "webhook_idempotency_key"
    __table_args__ = (sa.Index("ix_webhook_idempotency_key_created_at", "created_at"),)

    tenant_id: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    key: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    fingerprint: str = Field(sa_column=sa.Column(sa.String(64), nullable=False), repr=False)
    """Keyed digest of the request's body."""
    endpoint_id: UUID = Field(sa_column=sa.Column(_UUID, nullable=False))
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))


def new_id() -> UUID:
    """Return a UUIDv7: later ones of this process sort after earlier ones (RFC 9562 section 6.2)."""
    return uuid_utils.compat.uuid7()
