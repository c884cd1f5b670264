"""The tables that workers keep: the queue, the roll-ups, the incidents of endpoints, and the workers themselves."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field

from flask_webhook_endpoints.database.models import QueueState, WebhookModel
from flask_webhook_endpoints.database.types import ANY_LONG_TEXT, HALF_FULL, ID, ExactString, UTCTime, any_text


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
        HALF_FULL,
    )

    delivery_id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    endpoint_id: UUID = Field(sa_column=sa.Column(ID, nullable=False))
    state: QueueState = Field(sa_column=sa.Column(sa.String(8), nullable=False))
    due_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    """The time since when, or at which, it is due; while LEASED, when its lease ends."""
    lease_owner: UUID | None = Field(sa_column=sa.Column(ID))
    """The worker that holds the lease. Null: none does."""
    attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Number of attempts that have begun."""
    attempts_before: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Number of these that do not count in the retry schedule."""


class WebhookRest(WebhookModel, table=True):
    """An endpoint whose receiver has asked for rest. Its deliveries wait, and one goes first when the time is over."""

    __tablename__: ClassVar[Any] = "webhook_rest"

    endpoint_id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    until: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    """No attempt begins before this time. From then on, one at a time begins until an answer asks for no rest."""
    times: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """How often in a row it has asked, by which the backoff grows."""


class WebhookWorker(WebhookModel, table=True):
    """A worker that is running, as operators see it in `flask webhooks status`."""

    __tablename__: ClassVar[Any] = "webhook_worker"

    id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    engine: str = Field(sa_column=sa.Column(sa.String(16), nullable=False))
    """`worker` or `celery`."""
    hostname: str = Field(sa_column=sa.Column(any_text(255), nullable=False))
    pid: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    started_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    seen_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    version: str | None = Field(sa_column=sa.Column(sa.String(32)))
    """The version of this library that it runs. Null: one that did not say."""
    concurrency: int | None = Field(sa_column=sa.Column(sa.Integer))
    """Attempts that it may have in flight. Null: a Celery process, whose tasks come and go."""
    file_limit: int | None = Field(sa_column=sa.Column(sa.Integer))
    """The number of files that it may open."""
    short_of: str | None = Field(sa_column=sa.Column(sa.String(32)))
    """The last thing that it lacked for an attempt, such as EMFILE."""
    short_at: datetime | None = Field(sa_column=sa.Column(UTCTime))
    """The time when it lacked that."""
    clock_skew_ms: int | None = Field(sa_column=sa.Column(sa.Integer))
    """Milliseconds by which its clock is ahead of the database's. Null on SQLite."""


class WebhookEndpointHour(WebhookModel, table=True):
    """The results of an endpoint's attempts that were recorded within an hour, those of one range of latencies.

    Statistics add rows up, so that they never read deliveries. There are never more rows than attempts.
    """

    __tablename__: ClassVar[Any] = "webhook_endpoint_hour"
    # Retention, and the share of endpoints that fail.
    __table_args__ = (sa.Index("ix_webhook_endpoint_hour_hour", "hour"),)

    tenant_id: str = Field(sa_column=sa.Column(ExactString, primary_key=True))
    endpoint_id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    """No foreign key: the numbers outlive the endpoint, as its deliveries do."""
    hour: datetime = Field(sa_column=sa.Column(UTCTime, primary_key=True))
    """The time at which the hour began."""
    latency: int = Field(sa_column=sa.Column(sa.Integer, primary_key=True, autoincrement=False))
    """The range of latencies (`core/roll_ups`). 0: no complete answer came."""
    attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    failed_attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    delivered: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Deliveries that were delivered by one of these attempts."""
    failed: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Deliveries of which one of these attempts was the last, and failed."""
    last_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    """The time of the latest record."""


class WebhookWorkerMinute(WebhookModel, table=True):
    """The attempts of a minute, with one error or with none, as one worker added them up.

    No two workers write the same row, so that none waits for another.
    """

    __tablename__: ClassVar[Any] = "webhook_worker_minute"

    minute: datetime = Field(sa_column=sa.Column(UTCTime, primary_key=True))
    """The time at which the minute began."""
    worker_id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    error: str = Field(sa_column=sa.Column(sa.String(32), primary_key=True))
    """The code of the error, or the response's status. Empty: the attempts succeeded."""
    attempts: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))


class WebhookRecentCount(WebhookModel, table=True):
    """The results that records have counted, until a worker adds them up in the tables of roll-ups.

    No row is ever updated. A row that each record updates would leave a dead version each time, and while PostgreSQL
    may not remove these, because a transaction holds a snapshot, each record would step over all of them.
    """

    __tablename__: ClassVar[Any] = "webhook_recent_count"

    id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    counted_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    """The time of the first of these records."""
    hours: str = Field(sa_column=sa.Column(ANY_LONG_TEXT, nullable=False))
    """JSON: rows of `webhook_endpoint_hour` (`core/recent_counts`)."""
    minutes: str = Field(sa_column=sa.Column(ANY_LONG_TEXT, nullable=False))
    """JSON: rows of `webhook_worker_minute`, without a worker."""


class WebhookIncident(WebhookModel, table=True):
    """An endpoint whose attempts fail (`core/incidents`); the row goes when the incident is over.

    A table of its own, because MariaDB and MySQL let an UPDATE of an endpoint wait for the host's open transactions
    that have published to it.
    """

    __tablename__: ClassVar[Any] = "webhook_incident"

    endpoint_id: UUID = Field(sa_column=sa.Column(ID, primary_key=True))
    tenant_id: str = Field(sa_column=sa.Column(ExactString, nullable=False))
    began_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    """The time when the first of its attempts that failed began."""
    failing_since: datetime | None = Field(sa_column=sa.Column(UTCTime))
    """The time when the first attempt that failed since the last success began. Null: the last attempt succeeded."""
    balance: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Attempts that failed, less those that succeeded, within limits."""
    exhausted_in_a_row: int = Field(sa_column=sa.Column(sa.Integer, nullable=False))
    """Deliveries that failed for good since the last success."""
    last_failed_at: datetime = Field(sa_column=sa.Column(UTCTime, nullable=False))
    last_error: str | None = Field(sa_column=sa.Column(sa.String(32)))
    """The error code, or the response's status, of the last attempt that failed."""
    announced_at: datetime | None = Field(sa_column=sa.Column(UTCTime))
    """The time when the host was told that the endpoint fails. Null: it was not."""
    pause_announced_at: datetime | None = Field(sa_column=sa.Column(UTCTime))
    """The time when the host was told that a pause may come. Null: it was not."""
