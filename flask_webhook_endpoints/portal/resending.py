"""Sending deliveries again from a page: the refusals that the page answers itself, and the messages of the results."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from flask_webhook_endpoints.core.redelivery import Recovered, Resent
from flask_webhook_endpoints.errors import (
    DeliveryInFlight,
    EndpointPaused,
    IdempotencyKeyReused,
    Problem,
    TooManyRedeliveries,
)
from flask_webhook_endpoints.portal import pages
from flask_webhook_endpoints.portal.texts import gettext, ngettext

REFUSALS = (EndpointPaused, DeliveryInFlight, TooManyRedeliveries, IdempotencyKeyReused)
"""The problems of which the page with the button tells, because its reader can do something about them."""


class Refusal(NamedTuple):
    """The reason why nothing was sent again."""

    message: str
    status: int = HTTPStatus.UNPROCESSABLE_ENTITY
    headers: Mapping[str, str] = {}


def refusal(problem: Problem) -> Refusal:
    """Return what the page says of a problem."""
    match problem:
        case EndpointPaused():
            message = gettext("Nothing was sent: the endpoint is paused. Resume it first.")
        case DeliveryInFlight():
            message = gettext("Nothing was sent: an attempt is under way. Wait for its result.")
        case TooManyRedeliveries():
            message = ngettext(
                "Nothing was sent: %(limit)s a minute is the limit of redeliveries. Try again in %(num)s second.",
                "Nothing was sent: %(limit)s a minute is the limit of redeliveries. Try again in %(num)s seconds.",
                int(problem.headers["Retry-After"]),
                limit=problem.limit,
            )
        case _:
            message = gettext("Nothing was sent: this page was used before. Check what you chose, and send it again.")
    return Refusal(message, problem.status, problem.headers)


def tell_resent(resent: Resent) -> None:
    """Show on the next page how many are sent again, and why the others are not."""
    if resent.count:
        pages.tell(ngettext("%(num)s delivery is sent again.", "%(num)s deliveries are sent again.", resent.count))
    if resent.in_flight:
        pages.tell(
            ngettext(
                "%(num)s delivery was not sent again: an attempt of it is under way.",
                "%(num)s deliveries were not sent again: an attempt of each is under way.",
                resent.in_flight,
            ),
            "error",
        )
    if resent.unknown:
        pages.tell(
            ngettext(
                "%(num)s delivery was not sent again: this endpoint has no such delivery.",
                "%(num)s deliveries were not sent again: this endpoint has no such deliveries.",
                resent.unknown,
            ),
            "error",
        )


def tell_recovered(recovered: Recovered) -> None:
    """Show on the next page how many are sent again, and whether more are left."""
    if not recovered.count:
        pages.tell(gettext("There was nothing left to send again."), "error")
        return
    pages.tell(
        ngettext(
            "%(num)s delivery is sent again.",
            "%(num)s deliveries are sent again.",
            recovered.count,
        )
    )
    if recovered.more:
        pages.tell(gettext("More deliveries are left. Recover once more to send them, too."), "error")
