"""`webhooks.deliveries`: a tenant's deliveries for the host's own code, in the host's transaction.

The schemas and the functions of the core are those of the API, so that rules and errors are the same.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from flask_webhook_endpoints import identifiers
from flask_webhook_endpoints.core import deliveries, delivery_lists, redelivery, validation
from flask_webhook_endpoints.core.deliveries import Delivery, Details
from flask_webhook_endpoints.core.delivery_lists import Filter, Page
from flask_webhook_endpoints.core.redelivery import Recovered, Selection
from flask_webhook_endpoints.errors import UnknownDelivery
from flask_webhook_endpoints.host import transaction
from flask_webhook_endpoints.host.endpoints import parsed
from flask_webhook_endpoints.identifiers import TenantId
from flask_webhook_endpoints.state import Host


class Filters(TypedDict, total=False):
    """The deliveries of a list; None lets all pass."""

    status: str | None
    """A `DeliveryStatus`, or `HELD`."""
    event_type: str | None
    """A name, or `prefix.*`."""
    since: datetime | str | None
    """Published at this time or later."""
    until: datetime | str | None
    """Published before this time."""
    event_id: str | UUID | None


class Deliveries:
    """The deliveries of a tenant, in the host's session: sent again if, and only if, the host commits.

    Parameters have the names, rules and errors of the API. Ids may be texts as the API shows them, or the UUIDs that
    these methods return. No method asks `authorize` or counts redeliveries, because the host's own code decides what it
    does.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def list(
        self,
        *,
        tenant_id: TenantId,
        endpoint_id: str | UUID | None = None,
        limit: int = delivery_lists.DEFAULT_PAGE,
        after: str | UUID | None = None,
        **filters: Unpack[Filters],
    ) -> Page:
        """Return a page of the tenant's deliveries, newest first.

        Args:
            tenant_id: The tenant, as the `tenant` callable returns it.
            endpoint_id: Only deliveries to this endpoint; None: to all.
            limit: Deliveries that the page has at most. It may have fewer, or none, though more follow.
            after: The `cursor` of the page before.
            filters: The filters of the API's lists; None lets all pass.

        Raises:
            InvalidFields: A parameter breaks its rule.
            UnknownEndpoint: The tenant has no endpoint of this id.

        """
        if unknown := filters.keys() - Filters.__annotations__:
            # `cursor` among them, which would begin at the first page again and again.
            raise TypeError(f"No such filter: {', '.join(sorted(unknown))}. The cursor of a page is given as after=….")
        state, scope = transaction.enter(self._host, tenant_id)
        texts = {name: _text(value, "evt") for name, value in filters.items()}
        query = validation.load(
            state.delivery_query, _named({**texts, "limit": str(limit), "cursor": _text(after, "dlv")})
        )
        most, last_id = query.pop("limit"), query.pop("after", None)
        if endpoint_id is None:
            return delivery_lists.page(scope, Filter(**query), limit=most, after=last_id)
        ep_id = _endpoint(endpoint_id)
        return delivery_lists.page_of(scope, ep_id, Filter(endpoint_id=ep_id, **query), limit=most, after=last_id)

    def get(self, endpoint_id: str | UUID, delivery_id: str | UUID, *, tenant_id: TenantId) -> Details:
        """Return a delivery with its body, its attempts and what is planned.

        Raises:
            UnknownEndpoint: The tenant has no endpoint of this id.
            UnknownDelivery: The endpoint has no delivery of this id.

        """
        state, scope = transaction.enter(self._host, tenant_id)
        ep_id, dlv_id = _endpoint(endpoint_id), _delivery(delivery_id)
        return deliveries.get(scope, ep_id, dlv_id, cipher=state.cipher, schedule=state.settings.retry_schedule)

    def redeliver(self, endpoint_id: str | UUID, delivery_id: str | UUID, *, tenant_id: TenantId) -> Delivery:
        """Send a delivery again, whatever its status, and return it.

        Raises:
            UnknownEndpoint: The tenant has no endpoint of this id.
            UnknownDelivery: The endpoint has no delivery of this id.
            EndpointPaused: The endpoint is paused.
            DeliveryInFlight: An attempt of it is in flight.

        """
        _, scope = transaction.enter(self._host, tenant_id)
        return redelivery.redeliver(scope, _endpoint(endpoint_id), _delivery(delivery_id))

    def recover(
        self,
        endpoint_id: str | UUID,
        *,
        tenant_id: TenantId,
        since: datetime | str,
        until: datetime | str | None = None,
        statuses: Iterable[str] | None = None,
        event_types: Iterable[str] | None = None,
        dry_run: bool = False,
    ) -> Recovered:
        """Send again what failed or expired in a span of time, the oldest 10,000 at most, or only count.

        Args:
            endpoint_id: The endpoint.
            tenant_id: The tenant, as the `tenant` callable returns it.
            since: Only what was published at this time or later.
            until: Only what was published before this time.
            statuses: `FAILED`, `EXPIRED`; without it, both.
            event_types: Names and `prefix.*`; without it, all.
            dry_run: Only count.

        Raises:
            InvalidFields: A parameter breaks its rule; nothing is written.
            UnknownEndpoint: The tenant has no endpoint of this id.
            EndpointPaused: The endpoint is paused.

        """
        state, scope = transaction.enter(self._host, tenant_id)
        given = {
            "since": _text(since),
            "until": _text(until),
            "statuses": None if statuses is None else [*statuses],
            "event_types": None if event_types is None else [*event_types],
            "dry_run": dry_run,
        }
        fields = validation.load(state.recovery_input, _named(given))
        ep_id, is_dry = _endpoint(endpoint_id), fields.pop("dry_run")
        act = redelivery.count_recoverable if is_dry else redelivery.recover
        return act(scope, ep_id, Selection(**fields))


def _named(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _text(value: object, prefix: str = "") -> Any:
    """Return a time or an id as the API takes it."""
    if isinstance(value, UUID):
        return identifiers.format_id(value, prefix)
    return value.isoformat() if isinstance(value, datetime) else value


def _endpoint(endpoint_id: str | UUID) -> UUID:
    return endpoint_id if isinstance(endpoint_id, UUID) else parsed(endpoint_id)


def _delivery(delivery_id: str | UUID) -> UUID:
    if isinstance(delivery_id, UUID):
        return delivery_id
    if not isinstance(delivery_id, str):
        raise TypeError(f"A delivery's id must be a str such as dlv_0190…, not {type(delivery_id).__name__}.")
    if (found := identifiers.parse_id(delivery_id, "dlv")) is None:
        raise UnknownDelivery
    return found
