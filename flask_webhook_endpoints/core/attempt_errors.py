"""The errors of attempts that got no complete answer, as the worker records them and tenants read them."""

from enum import StrEnum
from typing import Self


class SendError(StrEnum):
    """The reason why an attempt got no complete answer."""

    meaning: str
    """The sentence that tenants read, in the OpenAPI document and in `docs/receivers.md`."""

    def __new__(cls, code: str, meaning: str) -> Self:
        """Make a member that is its code, and has a meaning."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    TIMEOUT = "timeout", "The answer was not complete within `timeout_seconds`."
    BLOCKED_ADDRESS = "blocked_address", "The host is, or its name leads to, an address that deliveries may not reach."
    INVALID_URL = "invalid_url", "The `url` breaks a rule that was set after it was saved, such as HTTPS only."
    INVALID_REQUEST = "invalid_request", "A header of `headers_json` can't be sent."
    DNS = "dns", "The host name has no address."
    CONNECT = "connect", "No address of the host accepted the connection."
    CERTIFICATE = "certificate", "The TLS certificate has another name, an unknown issuer, or has expired."
    TLS = "tls", "The TLS handshake failed for another reason."
    PROXY = "proxy", "The sender's own proxy failed, or opened no tunnel to the receiver."
    DISCONNECTED = "disconnected", "The receiver closed the connection before its answer was complete."
    PROTOCOL = "protocol", "The answer is not HTTP, or its headers are too large."
    UNREADABLE_SECRET = "unreadable_secret", "The sender can't decrypt the endpoint's secret or headers."
    UNEXPECTED = "unexpected", "The sender itself has a fault."
