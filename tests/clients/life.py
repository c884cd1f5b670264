"""An endpoint's whole life by the client of openapi-python-client: `python life.py URL KEY`."""

import sys
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import uuid4

from webhooks_client import AuthenticatedClient
from webhooks_client.api.deliveries import (
    list_all_deliveries,
    list_deliveries,
    ping,
    read_delivery,
    read_stats,
    recover,
    redeliver,
)
from webhooks_client.api.endpoints import (
    create_endpoint,
    delete_endpoint,
    list_endpoints,
    read_endpoint,
    update_endpoint,
)
from webhooks_client.api.secrets import read_secret, rotate_secret
from webhooks_client.models import (
    Delivery,
    DeliveryDetails,
    DeliveryStatus,
    Endpoint,
    EndpointChanges,
    EndpointInput,
    EndpointStatus,
    Problem,
    ProblemCode,
    Recovery,
    RecoveryInput,
    Secret,
    SecretFormat,
    SecretInput,
    Statistics,
    StatisticsWindow,
)
from webhooks_client.types import Response

MY_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

T = TypeVar("T")


def of(kind: type[T], parsed: object) -> T:
    assert isinstance(parsed, kind), parsed
    return parsed


def ids(page: list[Endpoint] | list[Delivery] | Problem | None) -> list[str]:
    assert isinstance(page, list), page
    return [shown.id for shown in page]


def problem(response: Response[Any], status: HTTPStatus, code: ProblemCode) -> None:
    assert (response.status_code, of(Problem, response.parsed).code) == (status, code), response


def main(url: str, key: str) -> None:
    client = AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)
    target = "https://example.com/webhook"
    made = create_endpoint.sync_detailed(
        client=client, body=EndpointInput(name="first", url=target), idempotency_key=str(uuid4())
    )
    first, etag = of(Endpoint, made.parsed), made.headers["ETag"]
    assert (first.status, first.paused_at, first.timeout_seconds) == (EndpointStatus.ACTIVE, None, 10)
    unset = EndpointInput(
        name="second", url=target, secret=None, headers_json=None, timeout_seconds=None, event_types=None
    )
    second = of(Endpoint, create_endpoint.sync(client=client, body=unset))
    invalid = create_endpoint.sync_detailed(client=client, body=EndpointInput(name="", url=target))
    problem(invalid, HTTPStatus.UNPROCESSABLE_ENTITY, ProblemCode.INVALID_FIELDS)

    assert ids(list_endpoints.sync(client=client, limit=1)) == [first.id]
    assert ids(list_endpoints.sync(client=client, limit=1, cursor=first.id)) == [second.id]

    def update(body: EndpointChanges, if_match: str = "*") -> Endpoint:
        return of(Endpoint, update_endpoint.sync(first.id, client=client, body=body, if_match=if_match))

    assert of(Endpoint, read_endpoint.sync(first.id, client=client)).name == "first"
    unchanged = read_endpoint.sync_detailed(first.id, client=client, if_none_match=etag)
    assert unchanged.status_code == HTTPStatus.NOT_MODIFIED
    assert update(EndpointChanges(name="renamed"), if_match=etag).name == "renamed"
    emptied = update(EndpointChanges(headers_json=None, event_types=None))
    assert (emptied.name, emptied.event_types) == ("renamed", None)
    stale = update_endpoint.sync_detailed(first.id, client=client, body=EndpointChanges(name="lost"), if_match='"999"')
    problem(stale, HTTPStatus.PRECONDITION_FAILED, ProblemCode.STALE_ENDPOINT)

    assert update(EndpointChanges(status=EndpointStatus.PAUSED)).paused_at is not None
    problem(ping.sync_detailed(first.id, client=client), HTTPStatus.CONFLICT, ProblemCode.ENDPOINT_PAUSED)
    assert update(EndpointChanges(status=EndpointStatus.ACTIVE)).status is EndpointStatus.ACTIVE

    assert of(Secret, rotate_secret.sync(first.id, client=client)).format_ is SecretFormat.WHSEC
    mine = SecretInput(secret=MY_KEY, overlap_seconds=0)
    chosen = of(Secret, rotate_secret.sync(first.id, client=client, body=mine))
    assert (chosen.secret, chosen.previous_expires_at) == (MY_KEY, None)
    assert read_secret.sync(first.id, client=client) == chosen

    pinged = of(Delivery, ping.sync(first.id, client=client))
    assert ids(list_deliveries.sync(first.id, client=client, status=DeliveryStatus.PENDING)) == [pinged.id]
    assert first.id in of(DeliveryDetails, read_delivery.sync(first.id, pinged.id, client=client)).body
    assert of(Delivery, redeliver.sync(first.id, pinged.id, client=client)).event_id == pinged.event_id
    assert ids(list_all_deliveries.sync(client=client, event_id=pinged.event_id)) == [pinged.id]
    since = RecoveryInput(since=datetime.now(UTC) - timedelta(days=1), dry_run=True)
    assert of(Recovery, recover.sync(first.id, client=client, body=since)).count == 0

    statistics = of(Statistics, read_stats.sync(first.id, client=client, window=StatisticsWindow("7d")))
    assert (statistics.delivered, statistics.pending, statistics.success_ratio) == (0, 1, None)

    for endpoint in (first, second):
        assert delete_endpoint.sync_detailed(endpoint.id, client=client).status_code == HTTPStatus.NO_CONTENT
    gone = read_endpoint.sync_detailed(first.id, client=client)
    problem(gone, HTTPStatus.NOT_FOUND, ProblemCode.UNKNOWN_ENDPOINT)


if __name__ == "__main__":
    main(*sys.argv[1:])
