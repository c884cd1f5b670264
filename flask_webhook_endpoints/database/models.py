"""The tables, as SQLModel classes on a registry of their own, with the column types of each database.

Columns stand in the order of the migrations: those of a later revision stand last.
"""

import json
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa
import uuid_utils.compat
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel
from sqlmodel.sql.sqltypes import UTCDateTime

from flask_webhook_endpoints.identifiers import MAX_KEY_LENGTH

_MYSQL = ("mysql", "mariadb")
# Not native on MariaDB: SQLAlchemy 2.0 and 2.1 store `Uuid` differently there, and an upgrade must not lose rows.
_UUID = sa.Uuid().with_variant(sa.Uuid(native_uuid=False), *_MYSQL)
# MariaDB's and MySQL's plain DATETIME drops microseconds.
TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
# MariaDB's and MySQL's plain BLOB ends at 64 KiB.
_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), *_MYSQL)
# SQLAlchemy 2.0 has no words for it. There, `flask webhooks db upgrade` and `tune` set it.
_HALF_FULL: dict[str, Any] = (
    {"postgresql_with": {"fillfactor": 45}} if "with" in dict(PGDialect.construct_arguments or ())[sa.Table] else {}
)


def _text(length: int) -> sa.types.TypeEngine[str]:
    """Return a string type that holds any character, also where the database's default character set does not."""
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)


class ExactString(sa.TypeDecorator[str]):
    """A string that compares exactly: case, accents and spaces at the end count.

    MySQL and MariaDB have no collation of a common name that compares exactly, so they store bytes, which do.
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
    """A list of event types, stored as ` a.b c.* `: SQL finds a whole name by the spaces around it."""

    impl = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> str | None:
        """Join the names with a space on either side of each."""
        return None if value is None else f" {' '.join(value)} "

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that splits the names, without SQLAlchemy's wrapper, which makes long lists slow."""
        return lambda text: None if text is None else text.split()


class Metadata(sa.TypeDecorator[dict[str, str]]):
    """An object of strings, stored as JSON; an empty one is null."""

    impl = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)
    cache_ok = True

    def process_bind_param(self, value: dict[str, str] | None, dialect: Dialect) -> str | None:
        """Write the object as JSON."""
        return json.dumps(value, ensure_ascii=False) if value else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that reads the JSON, without SQLAlchemy's wrapper, which makes long lists slow."""
        return lambda text: {} if text is None else json.loads(text)


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
    """It becomes ready at its time: a retry, or what was published with a delay."""
    HELD = "HELD"
    """Its endpoint is paused, or rests: claims do not look at it."""
    LEASED = "LEASED"
    """A worker has claimed it until its lease ends."""


class WebhookModel(SQLModel, registry=registry()):
    """Base of our tables, on a registry of its own, so that no class name of the host's can clash."""


class WebhookEndpoint(WebhookModel, table=True):
    """A URL that receives a tenant's deliveries."""

    __tablename__: ClassVar[Any] = "webhook_endpoint"
    __table_args__ = (sa.Index("ix_webhook_endpoint_tenant_id_id", "tenant_id", "id"),)

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    """UUIDv7, so that ids sort by time of creation. Shown as `ep_` and its canonical form."""
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    """The tenant that it belongs to: what the host's `tenant` callable returned, as a string."""
    name: str = Field(sa_column=sa.Column(_text(255), nullable=False))
    url: str = Field(sa_column=sa.Column(_text(2048), nullable=False))
    headers_encrypted: str | None = Field(sa_column=sa.Column(sa.Text), repr=False)
    """Fernet token of the JSON object of custom headers. Null: there are none."""
    timeout_seconds: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    event_types: list[str] | None = Field(sa_column=sa.Column(EventTypes))
    """Exact names and `prefix.*`. Null: all events."""
    paused_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """The time since when its deliveries are held. Null while it is active."""
    version: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """1 at creation, one more with every change. It is the ETag."""
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    updated_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    pause_reason: PauseReason | None = Field(sa_column=sa.Column(sa.String(16)))
    description: str | None = Field(sa_column=sa.Column(_text(1000)))
    """A text of the tenant's, for people."""
    metadata_json: dict[str, str] | None = Field(sa_column=sa.Column(Metadata))
    """Strings of the tenant's, for programs. Null: there are none. SQLModel has no room for the name `metadata`."""


class WebhookSecret(WebhookModel, table=True):
    """A secret that signs an endpoint's deliveries: the current one, or a previous one until it expires."""

    __tablename__: ClassVar[Any] = "webhook_secret"
    # A constraint, not an index: a generated downgrade drops indexes before their table, and MariaDB refuses to drop
    # the index that the foreign key needs.
    __table_args__ = (sa.UniqueConstraint("endpoint_id", "id", name="uq_webhook_secret_endpoint_id_id"),)

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    endpoint_id: UUID = Field(
        sa_column=sa.Column(_UUID, sa.ForeignKey("webhook_endpoint.id", ondelete="CASCADE"), nullable=False)
    )
    secret_encrypted: str = Field(sa_column=sa.Column(sa.Text, nullable=False), repr=False)
    """Fernet token of the secret, as the tenant knows it."""
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    expires_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
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

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    """UUIDv7. Shown as `evt_` and its canonical form, which is the `webhook-id`."""
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    type: str = Field(sa_column=sa.Column(sa.String(128), nullable=False))
    body: bytes = Field(sa_column=sa.Column(_BYTES, nullable=False), repr=False)
    idempotency_key: str | None = Field(sa_column=sa.Column(ExactString))
    """The key under which the host publishes once. Null: each call publishes an event."""
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
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
        # A tenant's list of the deliveries to all its endpoints.
        sa.Index("ix_webhook_delivery_tenant_id_id", "tenant_id", "id"),
        # The rows of a page are updated at about the same time: in place, if each has room for two.
        _HALF_FULL,
    )

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    """UUIDv7. Shown as `dlv_` and its canonical form."""
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    event_id: UUID = Field(sa_column=sa.Column(_UUID, nullable=False))
    """No foreign key, which would cost every insert a look-up; publish writes both rows in one transaction."""
    endpoint_id: UUID = Field(sa_column=sa.Column(_UUID, nullable=False))
    """No foreign key: a delivery outlives its endpoint."""
    status: DeliveryStatus = Field(sa_column=sa.Column(sa.String(16), nullable=False))
    attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Number of attempts that are recorded; while it is pending, the queue counts those that have begun."""
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    finished_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    last_attempt_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """The time when its last recorded attempt began. Null: none is recorded."""
    last_duration_ms: int | None = Field(sa_column=sa.Column(sa.Integer))
    last_response_status: int | None = Field(sa_column=sa.Column(sa.Integer))
    last_error: str | None = Field(sa_column=sa.Column(sa.String(32)))
    last_response_excerpt: bytes | None = Field(sa_column=sa.Column(_BYTES), repr=False)
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

    delivery_id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    endpoint_id: UUID = Field(sa_column=sa.Column(_UUID, nullable=False))
    status: DeliveryStatus = Field(sa_column=sa.Column(sa.String(16), nullable=False))
    """`FAILED`, `EXPIRED`, or `CANCELLED` while it was in flight, as in the log."""


class WebhookQueue(WebhookModel, table=True):
    """A delivery that is not finished. The table is as large as the backlog, whatever was delivered before."""

    __tablename__: ClassVar[Any] = "webhook_queue"
    __table_args__ = (
        # Workers claim by it, and find the leases that have ended and the retries that are due.
        sa.Index("ix_webhook_queue_state_due_at", "state", "due_at"),
        # Behind a backlog, they step by it from one tenant and endpoint to the next.
        sa.Index(
            "ix_webhook_queue_turn",
            *("state", "tenant_id", "endpoint_id", "due_at"),
            # Nobody looks for leases by it, and so a lease costs an entry less.
            postgresql_where=sa.text("state <> 'LEASED'"),
        ),
        # A row finds room on its page when it is leased.
        _HALF_FULL,
    )

    delivery_id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    endpoint_id: UUID = Field(sa_column=sa.Column(_UUID, nullable=False))
    event_id: UUID = Field(sa_column=sa.Column(_UUID, nullable=False))
    state: QueueState = Field(sa_column=sa.Column(sa.String(8), nullable=False))
    due_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    """The time since when, or at which, it is due; while LEASED, when its lease ends."""
    lease_owner: UUID | None = Field(sa_column=sa.Column(_UUID))
    """The worker that holds the lease. Null: none does."""
    attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Number of attempts that have begun."""
    attempts_before: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Number of these that do not count in the retry schedule."""


class WebhookRest(WebhookModel, table=True):
    """An endpoint whose receiver has asked for rest; its deliveries wait, and one goes first when the time is over."""

    __tablename__: ClassVar[Any] = "webhook_rest"

    endpoint_id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    until: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    """No attempt begins before this time; from then on one at a time, until an answer asks for no more rest."""
    times: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """How often in a row it has asked, by which the backoff grows."""


class WebhookRedeliveryCount(WebhookModel, table=True):
    """The redeliveries that a tenant has asked for in the latest minute in which it asked for any."""

    __tablename__: ClassVar[Any] = "webhook_redelivery_count"

    tenant_id: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    minute: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    """The time at which the minute began."""
    redeliveries: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))


class WebhookAttempt(WebhookModel, table=True):
    """One attempt of a delivery: an HTTP request and its result.

    A first attempt that succeeds has no row: the delivery's own has all of it.
    """

    __tablename__: ClassVar[Any] = "webhook_attempt"

    delivery_id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    number: int = Field(sa_column=sa.Column(sa.Integer, primary_key=True, autoincrement=False))
    started_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    duration_ms: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    response_status: int | None = Field(sa_column=sa.Column(sa.Integer))
    error: str | None = Field(sa_column=sa.Column(sa.String(32)))
    """The code of why no response came, or why it does not count."""
    response_excerpt: bytes | None = Field(sa_column=sa.Column(_BYTES), repr=False)
    """The first KiB of the response's body."""
    url: str | None = Field(sa_column=sa.Column(_text(2048)), repr=False)
    """The URL that it was sent to. Null: a worker of an older version recorded it."""
    response_headers: str | None = Field(sa_column=sa.Column(sa.Text), repr=False)
    """JSON object of some headers of the response, of an attempt that failed."""


class WebhookWorker(WebhookModel, table=True):
    """A worker that is running, as operators see it in `flask webhooks status`."""

    __tablename__: ClassVar[Any] = "webhook_worker"

    id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    engine: str = Field(sa_column=sa.Column(sa.String(16), nullable=False))
    """`worker` or `celery`."""
    hostname: str = Field(sa_column=sa.Column(_text(255), nullable=False))
    pid: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    started_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    seen_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    version: str | None = Field(sa_column=sa.Column(sa.String(32)))
    """The version of this library that it runs. Null: one that did not say."""
    concurrency: int | None = Field(sa_column=sa.Column(sa.Integer))
    """Attempts that it may have in flight. Null: a Celery process, whose tasks come and go."""
    file_limit: int | None = Field(sa_column=sa.Column(sa.Integer))
    """The number of files that it may open."""
    short_of: str | None = Field(sa_column=sa.Column(sa.String(32)))
    """The last thing that it lacked for an attempt, such as EMFILE."""
    short_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """The time when it lacked that."""
    clock_skew_ms: int | None = Field(sa_column=sa.Column(sa.Integer))
    """Milliseconds by which its clock is ahead of the database's. Null on SQLite."""


class WebhookIdempotencyKey(WebhookModel, table=True):
    """An `Idempotency-Key` that a tenant has used, with the answer to the first request."""

    __tablename__: ClassVar[Any] = "webhook_idempotency_key"
    __table_args__ = (sa.Index("ix_webhook_idempotency_key_created_at", "created_at"),)

    tenant_id: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    key: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    created_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    answer_encrypted: str | None = Field(
        sa_column=sa.Column(sa.Text().with_variant(mysql.MEDIUMTEXT(), *_MYSQL)), repr=False
    )
    """Fernet token of a digest of the first request and of its answer. Null: its transaction is not committed yet."""


class WebhookEndpointHour(WebhookModel, table=True):
    """The results of an endpoint's attempts that were recorded within an hour, those of one range of latencies.

    Statistics add rows up, so that they never read deliveries. There are never more rows than attempts.
    """

    __tablename__: ClassVar[Any] = "webhook_endpoint_hour"
    # Retention, and the share of endpoints that fail.
    __table_args__ = (sa.Index("ix_webhook_endpoint_hour_hour", "hour"),)

    tenant_id: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    endpoint_id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    """No foreign key: the numbers outlive the endpoint, as its deliveries do."""
    hour: datetime = Field(sa_column=sa.Column(UTCDateTime, primary_key=True))
    """The time at which the hour began."""
    latency: int = Field(sa_column=sa.Column(sa.Integer, primary_key=True, autoincrement=False))
    """The range of latencies (`core/roll_ups`). 0: no complete answer came."""
    attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    failed_attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    delivered: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Deliveries that were delivered by one of these attempts."""
    failed: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Deliveries of which one of these attempts was the last, and failed."""
    last_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    """The time of the latest record."""


class WebhookWorkerMinute(WebhookModel, table=True):
    """The attempts that one worker recorded within a minute, with one error or with none.

    No two workers write the same row, so that none waits for another.
    """

    __tablename__: ClassVar[Any] = "webhook_worker_minute"

    minute: datetime = Field(sa_column=sa.Column(UTCDateTime, primary_key=True))
    """The time at which the minute began."""
    worker_id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    error: str = Field(sa_column=sa.Column(sa.String(32), primary_key=True))
    """The code of the error, or the response's status. Empty: the attempts succeeded."""
    attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))


class WebhookIncident(WebhookModel, table=True):
    """An endpoint whose attempts fail (`core/incidents`); the row goes when the incident is over.

    A table of its own, because MariaDB and MySQL let an UPDATE of an endpoint wait for the host's open transactions
    that have published to it.
    """

    __tablename__: ClassVar[Any] = "webhook_incident"

    endpoint_id: UUID = Field(sa_column=sa.Column(_UUID, primary_key=True))
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    began_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    """The time when the first of its attempts that failed began."""
    failing_since: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """The time when the first attempt that failed since the last success began. Null: the last attempt succeeded."""
    balance: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Attempts that failed, less those that succeeded, within limits."""
    exhausted_in_a_row: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Deliveries that failed for good since the last success."""
    last_failed_at: datetime = Field(sa_column=sa.Column(UTCDateTime, nullable=False))
    last_error: str | None = Field(sa_column=sa.Column(sa.String(32)))
    """The error code, or the response's status, of the last attempt that failed."""
    announced_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """The time when the host was told that the endpoint fails. Null: it was not."""
    pause_announced_at: datetime | None = Field(sa_column=sa.Column(UTCDateTime))
    """The time when the host was told that a pause may come. Null: it was not."""


def new_id() -> UUID:
    """Return a UUIDv7; ids of one process sort in the order in which they are made (RFC 9562 section 6.2)."""
    return uuid_utils.compat.uuid7()
