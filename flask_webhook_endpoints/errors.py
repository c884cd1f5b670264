"""The errors of this library. `Problem` and its subclasses are answers of the HTTP API.

Source: RFC 9457 (problem documents), RFC 9110 section 15 (status codes).
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

_TITLES = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Content",
}
"""The phrases of RFC 9110, which Python has from 3.13 on."""


class WebhookEndpointsError(Exception):
    """Base of all errors of this library."""


class InvalidSetting(WebhookEndpointsError, ValueError):
    """A `WEBHOOK_ENDPOINTS_*` key of `app.config`, or a secret key there, is unknown, missing or invalid."""

    def __init__(self, key: str, rule: str) -> None:
        super().__init__(f"{key}: {rule}")
        self.key = key
        self.rule = rule


class RegistrationError(WebhookEndpointsError):
    """The application can't take the blueprint or its tables."""


class MigrationError(WebhookEndpointsError):
    """The shipped migrations can't change this database as asked."""


class UnreadableValue(WebhookEndpointsError):
    """No configured key decrypts a stored value: its key was lost, or it was copied from another row."""


class InvalidURL(WebhookEndpointsError, ValueError):
    """No delivery may be sent to the URL; `rule` says why, without the URL."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class BlockedAddress(InvalidURL):
    """The URL's host is an address that deliveries may not reach."""


class InvalidSignature(WebhookEndpointsError, ValueError):
    """No secret signed the message, or its timestamp is too old or too new; the text says which."""


class InvalidDeclaration(WebhookEndpointsError, ValueError):
    """The declaration of an event breaks a rule."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(f"{name}: {rule}")
        self.name = name
        self.rule = rule


class InvalidEvent(WebhookEndpointsError, ValueError):
    """The type, the key or the data of a published event breaks a rule."""


class Problem(WebhookEndpointsError):
    """An error that the API answers with a problem document (RFC 9457)."""

    status: ClassVar[HTTPStatus]
    code: ClassVar[str] = "problem"
    """A name of the problem for programs; it never changes."""
    detail: str = ""

    def __init__(self, detail: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        self.detail = detail or self.detail
        self.headers = dict(headers or {})
        super().__init__(self.detail)

    def document(self) -> dict[str, Any]:
        """Return the members of the problem document."""
        return {
            "type": "about:blank",
            "title": _TITLES.get(self.status, self.status.phrase),
            "status": self.status.value,
            "detail": self.detail,
            "code": self.code,
        }


class InvalidRequest(Problem):
    """The request's body is not JSON, or a header breaks its grammar."""

    status = HTTPStatus.BAD_REQUEST
    code = "invalid_request"


class NoTenant(Problem):
    """The host's `tenant` callable returned no tenant."""

    status = HTTPStatus.UNAUTHORIZED
    code = "no_tenant"
    detail = "Authentication is required."

    def __init__(self) -> None:
        # RFC 9110 section 15.5.2: a 401 must carry a challenge.
        super().__init__(headers={"WWW-Authenticate": "Bearer"})


class NotAuthorized(Problem):
    """The host's `authorize` callable refused."""

    status = HTTPStatus.FORBIDDEN
    code = "not_authorized"
    detail = "You may not do this."


class CrossSiteRequest(Problem):
    """A page of another site sent the request with the user's cookies, without the host's consent."""

    status = HTTPStatus.FORBIDDEN
    code = "cross_site"
    detail = "A page of another site may send this request only as Content-Type: application/json."


class WebhookLoop(Problem):
    """The request is itself a webhook: an endpoint has a URL of this API, so that deliveries would multiply."""

    status = HTTPStatus.FORBIDDEN
    code = "webhook_loop"
    detail = "This API takes no webhooks. An endpoint must have another URL than this API's own."


class UnknownPath(Problem):
    """No route has this path below `/v1/endpoints`."""

    status = HTTPStatus.NOT_FOUND
    code = "unknown_path"
    detail = "No such path."


class UnknownEndpoint(Problem):
    """The tenant has no endpoint of this id; another tenant may have one."""

    status = HTTPStatus.NOT_FOUND
    code = "unknown_endpoint"
    detail = "No such endpoint."


class UnknownDelivery(Problem):
    """The endpoint has no delivery of this id."""

    status = HTTPStatus.NOT_FOUND
    code = "unknown_delivery"
    detail = "No such delivery."


class MethodNotAllowed(Problem):
    """The path exists, but not with this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        allow = ", ".join(allowed)
        super().__init__(f"Methods of this path: {allow}.", headers={"Allow": allow})


class QuotaExceeded(Problem):
    """The tenant has as many endpoints as `MAX_ENDPOINTS_PER_TENANT` allows."""

    status = HTTPStatus.CONFLICT
    code = "quota_exceeded"

    def __init__(self, quota: int) -> None:
        super().__init__(f"The limit of {quota} endpoints is reached; delete one first.")
        self.quota = quota


class UnreadableSecret(Problem):
    """The encryption key of the secret is lost: the secret can be replaced, but not shown."""

    status = HTTPStatus.CONFLICT
    code = "unreadable_secret"
    detail = "The secret can't be decrypted any more; rotate it."


class EndpointPaused(Problem):
    """The endpoint is paused and holds its deliveries, so the worker can't send any."""

    status = HTTPStatus.CONFLICT
    code = "endpoint_paused"
    detail = "The endpoint is paused; resume it first."


class DeliveryInFlight(Problem):
    """An attempt of the delivery is in flight."""

    status = HTTPStatus.CONFLICT
    code = "delivery_in_flight"
    detail = "The delivery is being attempted at the moment; wait for the result."


class EventWaiting(Problem):
    """A ping waits for the endpoint already, or is being retried."""

    status = HTTPStatus.CONFLICT
    code = "event_waiting"
    detail = "A ping waits for the endpoint already; wait for its result, or redeliver it."


class Referenced(Problem):
    """A table of the host refers to the endpoint by a foreign key without `ON DELETE`."""

    status = HTTPStatus.CONFLICT
    code = "referenced"
    detail = "The endpoint is still referred to elsewhere; it can't be deleted."


class LengthRequired(Problem):
    """The request has a body in chunks, which the server dropped or the host has read already."""

    status = HTTPStatus.LENGTH_REQUIRED
    code = "length_required"
    detail = "The body did not arrive. Send it with Content-Length, not with Transfer-Encoding."


class StaleEndpoint(Problem):
    """The endpoint's version is not one that `If-Match` or `If-None-Match` allows (RFC 9110 section 13)."""

    status = HTTPStatus.PRECONDITION_FAILED
    code = "stale_endpoint"
    detail = "The endpoint has changed since that ETag; read it again."


class BodyTooLarge(Problem):
    """The request's body is over the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "body_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body may have {limit} bytes at most.")
        self.limit = limit


class UnsupportedMediaType(Problem):
    """The request does not declare its body as `application/json`."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"
    detail = "The body must be sent as Content-Type: application/json."

    def __init__(self, method: str = "") -> None:
        # RFC 5789 section 2.2.
        super().__init__(headers={"Accept-Patch": "application/json"} if method == "PATCH" else None)


class UnsupportedCoding(UnsupportedMediaType):
    """The request's body is compressed."""

    code = "unsupported_coding"
    detail = "The body must be sent without Content-Encoding."

    def __init__(self, method: str = "") -> None:
        super().__init__(method)
        # RFC 9110 section 15.5.16.
        self.headers["Accept-Encoding"] = "identity"


class InvalidFields(Problem):
    """Fields of the body or the query break a rule; `errors` maps each field to its messages."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid_fields"
    detail = "Some fields are not valid; see errors."

    def __init__(self, errors: Mapping[str, Any], *, detail: str | None = None) -> None:
        super().__init__(detail)
        self.errors = dict(errors)

    def __str__(self) -> str:
        return f"{self.detail} {self.errors}"

    def document(self) -> dict[str, Any]:
        """Return the members of the problem document, with marshmallow's map of fields."""
        return {**super().document(), "errors": self.errors}


class IdempotencyKeyReused(Problem):
    """An earlier request of this day had the same `Idempotency-Key` and another path or body."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "idempotency_key_reused"
    detail = "This Idempotency-Key was used for another request; send a new key."


class TooManyIdempotencyKeys(Problem):
    """The tenant has used as many `Idempotency-Key`s within a day as it may."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_idempotency_keys"

    def __init__(self, limit: int, *, seconds: int) -> None:
        detail = (
            f"The limit of {limit} Idempotency-Keys a day is reached; send none, or try again in {seconds} seconds."
        )
        super().__init__(detail, headers={"Retry-After": str(seconds)})
        self.limit = limit


class TooManyRedeliveries(Problem):
    """The tenant has asked for as many redeliveries this minute as `MAX_REDELIVERIES_PER_MINUTE` allows."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_redeliveries"

    def __init__(self, limit: int, *, seconds: int) -> None:
        detail = f"The limit of {limit} redeliveries a minute is reached; try again in {seconds} seconds."
        super().__init__(detail, headers={"Retry-After": str(seconds)})
        self.limit = limit


class DatabaseUnavailable(Problem):
    """The database is unreachable or too busy; the transaction was rolled back."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "database_unavailable"
    detail = "The database can't be reached at the moment; try again."

    def __init__(self, reason: str = "") -> None:
        """Take the driver's `reason`, which the answer does not show."""
        super().__init__(headers={"Retry-After": "1"})
        self.reason = reason
