"""Holds a running application to its own OpenAPI document, with all of Schemathesis's checks.

    python -m tests.support.openapi_check http://127.0.0.1:5000 "Authorization: Bearer demo-acme" [options of `st run`]

Requests are of the tenant that the header stands for, whose endpoints are changed and deleted.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import schemathesis
from schemathesis.cli import schemathesis as st
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

# Rules that JSON Schema has no words for; the document tells them in descriptions.
BEYOND_JSON_SCHEMA = (
    "Must not name an address that is not public.",
    "Must have a valid IPv6 address in the brackets.",
    "Must not have names that differ only in case.",
    "Must not name an event type twice.",
    # To JSON Schema 10.0 is an integer; to this API it is not.
    "Not a valid integer.",
    # Nor for what an event's declaration says.
    "Is needed, because the event has no declared example.",
    "Needs an event_type beside it.",
    "Must not begin with webhook. To send a webhook.ping, leave out the body.",
    # Nor for what depends on the requests before.
    "The endpoint has changed since that ETag; read it again.",
    "This Idempotency-Key was used for another request; send a new key.",
)

BEGINNINGS_BEYOND_JSON_SCHEMA = (
    "Must keep to the event's schema. ",
    # An enum beside that of an endpoint's event types would break generated clients.
    "No such event type: ",
)


@schemathesis.hook
def map_headers(context: schemathesis.HookContext, headers: dict[str, Any] | None) -> dict[str, Any] | None:
    """Send a key once, as it is meant: again it gives the first answer, though the endpoint be deleted since."""
    if headers and "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = str(uuid4())
    if headers and len(headers.get("If-Match", "")) % 2:
        # Random tags are all stale: keep every other one.
        headers["If-Match"] = "*"
    if headers and "*" in headers.get("If-None-Match", ""):
        # Every endpoint has a version, so that none could be changed.
        headers["If-None-Match"] = '"0"'
    return headers


@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: Any) -> bool:
    """Leave out IPv6 literals: random ones are no addresses, and the rest of the body would go untested."""
    return not (isinstance(body, dict) and "[" in str(body.get("url")))


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Failure, case: schemathesis.Case, response: schemathesis.Response
) -> bool:
    """Keep every failure, but for schema-valid requests that were refused for such a rule alone."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = response.json()
    return not all(_is_beyond(message) for message in _messages(problem.get("errors") or problem["detail"]))


def _is_beyond(message: str) -> bool:
    return message in BEYOND_JSON_SCHEMA or message.startswith(BEGINNINGS_BEYOND_JSON_SCHEMA)


def _messages(errors: Any) -> Iterator[str]:
    if isinstance(errors, str):
        yield errors
    else:
        for value in errors.values() if isinstance(errors, dict) else errors:
            yield from _messages(value)


if __name__ == "__main__":
    base_url, header, *options = sys.argv[1:]
    config_file = str(Path(__file__).with_name("schemathesis.toml"))
    document = f"{base_url}/v1/openapi.json"
    st(["--config-file", config_file, "run", document, "--header", header, "--no-color", *options])
