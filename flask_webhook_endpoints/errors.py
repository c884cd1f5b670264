"""Everything that can go wrong here, by name; `Problem` and its leaves are answers of the HTTP API.

Source: RFC 9457 (problem documents), RFC 9110 section 15 (status codes).
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar


class WebhookEndpointsError(Exception):
    """Base of every error that this library raises on purpose."""


class InvalidSetting(WebhookEndpointsError, ValueError):
    """A `WEBHOOK_ENDPOINTS_*` key of `app.config`, or a secret key there, is unknown, missing or wrong."""

    def __init__(self, key: str, rule: str) -> None:
        super().__init__(f"{key}: {rule}")
        self.key = key
        self.rule = rule


class RegistrationError(WebhookEndpointsError):
    """The blueprint or its tables can't join this application as asked."""


class MigrationError(WebhookEndpointsError):
    """The shipped migrations can't do what was asked to this database."""


class UnreadableValue(WebhookEndpointsError):
    """No key at hand decrypts a stored value: its key was lost or taken away too early."""


class InvalidURL(WebhookEndpointsError, ValueError):
    """A URL that no delivery may be sent to; `rule` says what is wrong, without repeating the URL."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class BlockedAddress(InvalidURL):
    """A URL whose host is an address that deliveries may not reach."""


class InvalidSignature(WebhookEndpointsError, ValueError):
    """A message that none of the secrets signed, or not lately enough; the text says which."""


class InvalidEvent(WebhookEndpointsError, ValueError):
    """What was published is no event: its type, its key or its data break a rule."""


class Problem(WebhookEndpointsError):
    """An answer other than success, shown as a problem document (RFC 9457)."""

    status: ClassVar[HTTPStatus]
    detail: str = ""

    def __init__(self, detail: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        self.detail = detail or self.detail
        self.headers = dict(headers or {})
        super().__init__(self.detail)

    def document(self) -> dict[str, Any]:
        """Return the members of the problem document."""
        return {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
        }


class InvalidRequest(Problem):
    """The request can't be read: a body that is not JSON, a header that breaks its grammar."""

    status = HTTPStatus.BAD_REQUEST


class NoTenant(Problem):
    """The host's `tenant` callable says that nobody is asking."""

    status = HTTPStatus.UNAUTHORIZED
    detail = "Authentication is required."

    def __init__(self) -> None:
        # RFC 9110 section 15.5.2: a 401 must carry a challenge.
        super().__init__(headers={"WWW-Authenticate": "Bearer"})


class NotAuthorized(Problem):
    """The host's `authorize` callable refused."""

    status = HTTPStatus.FORBIDDEN
    detail = "You may not do this."


class UnknownPath(Problem):
    """A path below ours that is no route."""

    status = HTTPStatus.NOT_FOUND
    detail = "No such path."


class UnknownEndpoint(Problem):
    """No endpoint of this tenant has this id, whoever else may have one."""

    status = HTTPStatus.NOT_FOUND
    detail = "No such endpoint."


class UnknownDelivery(Problem):
    """The endpoint has no delivery of this id."""

    status = HTTPStatus.NOT_FOUND
    detail = "No such delivery."


class MethodNotAllowed(Problem):
    """The path is a route, the method is not one of its."""

    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, allowed: Sequence[str]) -> None:
        allow = ", ".join(allowed)
        super().__init__(f"Methods of this path: {allow}.", headers={"Allow": allow})


class QuotaExceeded(Problem):
    """The tenant has as many endpoints as it may have."""

    status = HTTPStatus.CONFLICT

    def __init__(self, quota: int) -> None:
        super().__init__(f"The limit of {quota} endpoints is reached; delete one first.")
        self.quota = quota


class UnreadableSecret(Problem):
    """The secret's encryption key is lost, so that it can be replaced but not shown."""

    status = HTTPStatus.CONFLICT
    detail = "The secret can't be decrypted any more; rotate it."


class EndpointPaused(Problem):
    """The endpoint holds its deliveries, so that none can be sent now."""

    status = HTTPStatus.CONFLICT
    detail = "The endpoint is paused; resume it first."


class DeliveryInFlight(Problem):
    """An attempt of the delivery is under way."""

    status = HTTPStatus.CONFLICT
    detail = "The delivery is being attempted at the moment; wait for what comes of it."


class StaleEndpoint(Problem):
    """The endpoint has changed since the version that `If-Match` names (RFC 9110 section 13.1.1)."""

    status = HTTPStatus.PRECONDITION_FAILED
    detail = "The endpoint has changed since that ETag; read it again."


class BodyTooLarge(Problem):
    """The request's body passes the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body may have {limit} bytes at most.")
        self.limit = limit


class UnsupportedMediaType(Problem):
    """The request's body is not declared as `application/json`."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    detail = "The body must be sent as Content-Type: application/json."


class InvalidFields(Problem):
    """The body is JSON, but fields break their rules; `errors` maps each field to its messages."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    detail = "Some fields are not valid; see errors."

    def __init__(self, errors: Mapping[str, Any]) -> None:
        super().__init__()
        self.errors = dict(errors)

    def document(self) -> dict[str, Any]:
        """Return the members of the problem document, with marshmallow's map of fields."""
        return {**super().document(), "errors": self.errors}


class IdempotencyKeyReused(Problem):
    """The `Idempotency-Key` was sent before, within a day, with another body."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    detail = "This Idempotency-Key was used with another body; send a new key."


class DatabaseUnavailable(Problem):
    """The database is away or too busy; the transaction was rolled back."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    detail = "The database can't be reached at the moment; try again."

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "1"})
