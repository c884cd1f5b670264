"""The states of a delivery in words: for lists, for their filter, and for the page of one delivery."""

from collections.abc import Mapping
from typing import NamedTuple

from flask_webhook_endpoints.core.deliveries import HELD, Delivery
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.portal.texts import noted


class State(NamedTuple):
    """The words for a state, and its looks."""

    label: str
    kind: str = ""
    """The CSS class of its shape and colour; without one it is plain."""
    note: str = ""
    """A sentence about a delivery that was not delivered, for its own page."""


STATES: Mapping[str, State] = {
    DeliveryStatus.PENDING: State(noted("Pending"), "whe-wait"),
    HELD: State(noted("Held"), "whe-held"),
    DeliveryStatus.DELIVERED: State(noted("Delivered"), "whe-good"),
    DeliveryStatus.FAILED: State(
        noted("Failed"), "whe-bad", noted("No attempt is left. Once your server works again, send it again.")
    ),
    DeliveryStatus.EXPIRED: State(
        noted("Expired"),
        "whe-bad",
        noted("It expired: the endpoint was paused for too long. You can still send it again."),
    ),
    DeliveryStatus.CANCELLED: State(noted("Cancelled"), note=noted("It was cancelled before an attempt succeeded.")),
}
"""The state of each status, in the order in which the filter offers them."""

_IN_FLIGHT = State(noted("In flight"), "whe-wait")


def of(delivery: Delivery) -> State:
    """Return the state of a delivery; a pending one without a next attempt is in flight."""
    if delivery.status == DeliveryStatus.PENDING and delivery.next_attempt_at is None:
        return _IN_FLIGHT
    # A newer worker may know more statuses.
    return STATES.get(delivery.status) or State(delivery.status)
