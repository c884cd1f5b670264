"""Problems and faults of fields as a person reads them: the messages of the API, in the reader's language."""

from collections.abc import Mapping
from typing import Any

from flask_webhook_endpoints.errors import BodyTooLarge, InvalidFields, Problem, QuotaExceeded, TooManyRedeliveries
from flask_webhook_endpoints.portal.texts import figure, gettext, noted


def message_of(problem: Problem) -> str:
    """Return what is wrong, and what to do."""
    if isinstance(problem, QuotaExceeded):
        limit = figure(problem.quota)
        return gettext("You have %(limit)s endpoints, as many as you may have. Delete one first.", limit=limit)
    if isinstance(problem, TooManyRedeliveries):
        limit = figure(problem.limit)
        return gettext("You may send %(limit)s deliveries again in a minute. Try again in a minute.", limit=limit)
    if isinstance(problem, BodyTooLarge):
        return gettext("This form is too long. Go back, and send less at once.")
    return gettext(problem.detail)


SHOWN: Mapping[str, str] = {
    "NoTenant": noted("Authentication is required."),
    "NotAuthorized": noted("You may not do this."),
    "UnknownPath": noted("No such path."),
    "UnknownEndpoint": noted("No such endpoint."),
    "UnknownDelivery": noted("No such delivery."),
    "UnreadableSecret": noted("The secret can't be decrypted any more; rotate it."),
    "EndpointPaused": noted("The endpoint is paused; resume it first."),
    "DeliveryInFlight": noted("The delivery is being attempted at the moment; wait for the result."),
    "EventWaiting": noted("A ping waits for the endpoint already; wait for its result, or redeliver it."),
    "Referenced": noted("The endpoint is still referred to elsewhere; it can't be deleted."),
    "DatabaseUnavailable": noted("The database can't be reached at the moment; try again."),
}
"""The problems that pages show, and what they say."""


class Faults(dict[str, Any]):
    """The messages of each field that breaks a rule; a field that breaks none has an empty tuple.

    Templates ask for every field, and the host's may be strict about names that are not there.
    """

    def __missing__(self, field: str) -> tuple[()]:
        """Return no messages."""
        return ()


def faults_of(problem: Problem | None) -> Faults:
    """Return the messages of each field that breaks a rule."""
    return Faults(problem.errors if isinstance(problem, InvalidFields) else {})
