"""A delivery's request as a `curl` command, signed at this moment, for people who may read the endpoint's secret.

The command runs in every POSIX shell. The body comes through a pipe, because Linux has a limit of 128 KiB for one
argument, and because `curl` reads an argument that begins with `@` as the name of a file.

Source: POSIX.1-2017, Shell Command Language (quoting) and `printf`; the manual of curl 7.42 and later.
"""

import re
import shlex
from string import ascii_letters, digits

from flask_webhook_endpoints.core import secrets
from flask_webhook_endpoints.core.deliveries import Details
from flask_webhook_endpoints.core.headers import request_headers
from flask_webhook_endpoints.database.scope import TenantScope
from flask_webhook_endpoints.errors import UnreadableSecret, UnreadableValue
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.security import signing
from flask_webhook_endpoints.security.encryption import Cipher, Headers, Secret

# Control characters, which a terminal obeys when they are pasted; and those that turn the direction of text, by which
# a command looks like another one.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PLAIN = (ascii_letters + digits).encode()


def signed_headers(scope: TenantScope, details: Details, *, cipher: Cipher) -> Headers:
    """Return the headers that an attempt would send at this moment, signed with all secrets that sign.

    Raises:
        UnknownEndpoint: The endpoint was deleted.
        UnreadableSecret: The key of the current secret is lost, so that nothing can be sent.
        UnreadableValue: The key of the endpoint's headers is lost, so that nothing can be sent.

    """
    current, *previous = secrets.all_of(scope, details.delivery.endpoint_id, cipher=cipher)
    if current.secret is None:
        raise UnreadableSecret
    if details.headers is None:
        raise UnreadableValue("No key decrypts the endpoint's headers.")
    live = [current.secret, *(each.secret for each in previous if each.secret is not None)]
    message_id, timestamp = format_id(details.delivery.event_id, "evt"), int(scope.now.timestamp())
    signers = [signing.signer(secret.reveal()) for secret in live]
    signature = signing.sign_with(signers, message_id=message_id, timestamp=timestamp, body=details.body)
    return request_headers(details.headers, message_id=message_id, timestamp=timestamp, signature=signature)


def command(details: Details, headers: Headers) -> Secret:
    """Return the command that sends the delivery's body with these headers to the endpoint's present URL.

    It is a `Secret`, because the headers and the URL may contain credentials.
    """
    # Without globoff and path-as-is, curl would change URLs that have brackets or dots.
    options = ["--include", "--globoff", "--path-as-is", "--data-binary", "@-"]
    lines = [
        f"printf {_printed(details.body)} |",
        f"curl {' '.join(options)} {shlex.quote(details.url.reveal())}",
        *(f"--header {_argument(_header(name, value))}" for name, value in headers.items()),
    ]
    return Secret(f"{lines[0]} \\\n  " + " \\\n    ".join(lines[1:]) + "\n")


def _header(name: str, value: str) -> bytes:
    # A colon without a value would have curl drop the header. Receivers read Latin-1 (RFC 9110 section 5.5).
    return f"{name}: {value}".encode("latin-1", "replace") if value else f"{name};".encode()


def _argument(text: bytes) -> str:
    """Quote bytes as one argument of a command."""
    # Terminals send another encoding than Latin-1.
    return shlex.quote(text.decode()) if text.isascii() else f'"$(printf {_printed(text)})"'


def _printed(data: bytes) -> str:
    """Return the arguments with which `printf` prints exactly these bytes."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _octal(data)
    return _octal(data) if _CONTROLS.search(text) else f"%s {shlex.quote(text)}"


def _octal(data: bytes) -> str:
    # As an argument of %b, because shells differ in whether a format's own escapes may make a percent sign.
    escaped = "".join(chr(each) if each in _PLAIN else f"\\0{each:03o}" for each in data)
    return f"%b '{escaped}'"
