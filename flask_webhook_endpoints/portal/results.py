"""Results of attempts in words, with advice for the people who run the receiver.

Source: RFC 9110 section 15 (statuses and their phrases).
"""

from http import HTTPStatus
from typing import NamedTuple

from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.portal.texts import gettext, noted


class Words(NamedTuple):
    """The words for the result of an attempt."""

    title: str
    """The result in a few words."""
    advice: str
    """A sentence that tells the receiver's people what to do; empty for a success."""
    is_success: bool


_ERRORS: dict[str, tuple[str, str]] = {
    SendError.TIMEOUT: (
        noted("No complete answer in time"),
        noted("Answer as soon as you have stored the event, and work on it afterwards; or set a longer timeout."),
    ),
    SendError.BLOCKED_ADDRESS: (
        noted("Blocked address"),
        noted(
            "The host leads to an address that we may not reach, such as a private one. Use a host with a public one."
        ),
    ),
    SendError.INVALID_URL: (
        noted("URL not allowed any more"),
        noted("The URL breaks a rule that was set after you saved it, such as HTTPS only. Change the endpoint's URL."),
    ),
    SendError.INVALID_REQUEST: (
        noted("Header that can't be sent"),
        noted("Write the endpoint's own headers again in its settings."),
    ),
    SendError.DNS: (
        noted("Host name not found"),
        noted("Check the spelling of the host in the endpoint's URL, and the DNS records of its domain."),
    ),
    SendError.CONNECT: (
        noted("No connection"),
        noted(
            "Check that your server runs, listens on the port in the URL, and is not behind a firewall that refuses us."
        ),
    ),
    SendError.CERTIFICATE: (
        noted("TLS certificate not valid"),
        noted(
            "Check that the certificate is for this host, has not expired, and is served with its intermediate ones."
        ),
    ),
    SendError.TLS: (
        noted("TLS handshake failed"),
        noted(
            "Check that the port in the URL speaks TLS, version 1.2 or later. If it speaks plain HTTP, change the URL."
        ),
    ),
    SendError.PROXY: (
        noted("Our proxy failed"),
        noted("The fault may be ours. We try again as planned; tell us if it goes on."),
    ),
    SendError.DISCONNECTED: (
        noted("Connection closed before the answer was complete"),
        noted("Look into the logs of your server and of the proxy in front of it: one of them may have restarted."),
    ),
    SendError.PROTOCOL: (
        noted("Answer that is not HTTP"),
        noted(
            "Check that the port in the URL is the one of your web server, and that its answer's headers are not huge."
        ),
    ),
    SendError.UNREADABLE_SECRET: (
        noted("Secret or headers that can't be decrypted"),
        noted("The fault is ours. If it goes on, rotate the endpoint's secret and write its own headers again."),
    ),
    SendError.UNEXPECTED: (
        noted("Fault on our side"),
        noted("You need not change anything. We try again as planned; tell us if it goes on."),
    ),
}

_REFUSES_US = noted(
    "Your server took the request for somebody else's. Check the secret that it verifies with, its clock, and the "
    "headers that the endpoint sends."
)
_NOTHING_THERE = noted("Check the path in the endpoint's URL: nothing there takes a POST request.")
_OVERLOADED = noted("Your server, or a proxy in front of it, was down or overloaded. We let it rest, and try again.")

_STATUSES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: _REFUSES_US,
    HTTPStatus.FORBIDDEN: _REFUSES_US,
    HTTPStatus.NOT_FOUND: _NOTHING_THERE,
    HTTPStatus.METHOD_NOT_ALLOWED: _NOTHING_THERE,
    HTTPStatus.GONE: noted(
        "Your server wants no more deliveries, so we paused the endpoint. If that was a mistake, resume it."
    ),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: noted("Raise the limit that your server has for the size of a request."),
    HTTPStatus.TOO_MANY_REQUESTS: noted(
        "Your server asks for fewer requests. We wait for as long as it asks, and try again."
    ),
    HTTPStatus.BAD_GATEWAY: _OVERLOADED,
    HTTPStatus.SERVICE_UNAVAILABLE: _OVERLOADED,
    HTTPStatus.GATEWAY_TIMEOUT: _OVERLOADED,
}

_CLASSES: dict[int, str] = {
    3: noted("We follow no redirects. Set the endpoint's URL to the address that your server redirects to."),
    4: noted("Your server refused the request. Its log at this time says why."),
    5: noted("Your server failed. Its log at this time says why."),
}

_ODD = noted("Answer with a status from 200 to 299 once you have stored the event.")


def words(status: int | None, error: str | None) -> Words | None:
    """Return the words for the result of an attempt; None where there is no result."""
    if error is not None:
        # A newer worker may know more errors.
        title, advice = _ERRORS.get(error, _ERRORS[SendError.UNEXPECTED])
        return Words(gettext(title), gettext(advice), is_success=False)
    if status is None:
        return None
    if status // 100 == 2:  # noqa: PLR2004 - the class of successes
        return Words(_phrase(status), "", is_success=True)
    advice = _STATUSES.get(status) or _CLASSES.get(status // 100, _ODD)
    return Words(_phrase(status), gettext(advice), is_success=False)


def title(result: str) -> str:
    """Return a result in a few words; it is a status in digits, or an error code."""
    found = words(int(result), None) if result.isdigit() else words(None, result)
    return result if found is None else found.title


def _phrase(status: int) -> str:
    """Return a status with the phrase of HTTP, which people look for in English."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
