"""The CPU time of each page of the portal, for a tenant with much and for one that begins.

The first has 100 endpoints, a million deliveries and 30 days of results; the second has one endpoint and one delivery.
The database's own time is part of it on SQLite alone.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median, quantiles

from marshmallow import Schema, fields, validate

from benchmarks import filling, hosts
from benchmarks.bench_api import PATH, call
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.portal import blueprint
from flask_webhook_endpoints.security.encryption import derive_key

PREFIX = "/settings/webhooks"
MOST_MS = 50
"""Milliseconds that no page may take."""

REQUESTS = 15
"""The number of requests for each page in a round."""

EVENTS = 40
BUSY, NEW = "busy", "new"
MORE = {"/": ("q=example&state=active",), "/<ep_id>": ("window=30d",)}
"""Queries that a page is asked besides none."""

Requests = Mapping[str, Callable[[], bytes]]
"""A request for each page."""

Costs = Mapping[str, list[float]]
"""The milliseconds of the requests for each page."""


class Line(Schema):
    """A part of the data of each declared event."""

    sku = fields.String(required=True)
    quantity = fields.Integer(validate=validate.Range(min=1))
    price = fields.Decimal(as_string=True)


class Order(Schema):
    """The data of each declared event."""

    id = fields.UUID(required=True)
    currency = fields.String(validate=validate.OneOf(["EUR", "USD", "CHF"]))
    created_at = fields.DateTime()
    lines = fields.List(fields.Nested(Line))


def main() -> None:
    """Print a table of the pages."""
    parser = hosts.arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="ten thousand deliveries instead of a million")
    options = parser.parse_args()
    with _host(options.database, 10_000 if options.quick else 1_000_000) as host:
        busy, new = (dict(_pages(host, tenant)) for tenant in (BUSY, NEW))
        _show(*_measure(busy, new, options.rounds * REQUESTS))


@contextmanager
def _host(database: str | None, deliveries: int) -> Iterator[hosts.Host]:
    with hosts.host(database) as host:
        # The portal's messages need Flask's session.
        host.app.secret_key = derive_key("benchmark")
        host.app.register_blueprint(host.webhooks.portal, url_prefix=PREFIX)
        for number in range(EVENTS):
            host.webhooks.event_type(f"group{number % 8}.event{number}", description="It happened.", schema=Order)
        host.register(["https://example.com/"], tenant_id=NEW)
        host.register(["https://example.com/"] * 2, tenant_id=BUSY)
        filling.log(host, deliveries, tenant_id=BUSY)
        host.register(["https://example.com/"] * 98, tenant_id=BUSY)
        filling.hours(host, tenant_id=BUSY)
        with host.app.app_context():
            host.webhooks.publish("group0.event0", {"id": str(new_id())}, tenant_id=NEW)
            host.db.session.commit()
        _, paused = _endpoints(host, BUSY)[:2]
        host.app.test_client().patch(f"{PATH}/{paused}", json={"status": "PAUSED"}, headers={"X-Tenant": BUSY})
        filling.settle(host)
        yield host


def _endpoints(host: hosts.Host, tenant: str) -> list[str]:
    found = host.app.test_client().get(PATH, headers={"X-Tenant": tenant}).get_json()
    return [endpoint["id"] for endpoint in found]


def _pages(host: hosts.Host, tenant: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield a name and a request for each page of the portal, of an active and a paused endpoint."""
    first, *others = _endpoints(host, tenant)
    deliveries = host.app.test_client().get(f"{PATH}/{first}/deliveries?limit=1", headers={"X-Tenant": tenant})
    [delivery] = deliveries.get_json()

    def request(path: str) -> Callable[[], bytes]:
        return call(host.app, "GET", f"{PREFIX}{path}", tenant_id=tenant, expect=200)

    for page in blueprint.PAGES:
        if page.method != "GET" or "<name>" in page.path:
            continue
        path = page.path.replace("<ep_id>", first).replace("<dlv_id>", delivery["id"])
        yield page.path, request(path)
        for query in MORE.get(page.path, ()):
            yield f"{page.path}?{query}", request(f"{path}?{query}")
    if others:
        yield "/<ep_id>, paused", request(f"/{others[0]}")


def _measure(busy: Requests, new: Requests, times: int) -> tuple[Costs, Costs]:
    """Return what each page costs, of the two tenants in turn."""
    costs: tuple[Costs, Costs] = {name: [] for name in busy}, {name: [] for name in new}
    # A full garbage collection takes 90 ms of a process that has imported as much, and meets any request. Servers that
    # fork keep what was imported from it in the same way.
    gc.collect()
    gc.freeze()
    for turn in range(times + 1):
        for requests, of_tenant in zip((busy, new), costs, strict=True):
            for name, request in requests.items():
                began = time.process_time()
                request()
                # The first one compiles templates and statements.
                if turn:
                    of_tenant[name].append((time.process_time() - began) * 1000)
    return costs


def _show(busy: Costs, new: Costs) -> None:
    print(f"{'CPU ms of a page':<44}{'median':>8}{'p99':>8}{'new: median':>14}{'p99':>8}")
    for name, of_busy in busy.items():
        figures = f"{median(of_busy):>8.1f}{_p99(of_busy):>8.1f}"
        if of_new := new.get(name):
            figures += f"{median(of_new):>14.1f}{_p99(of_new):>8.1f}"
        print(f"{name:<44}{figures}{f'  over {MOST_MS} ms' if _p99(of_busy) > MOST_MS else ''}", flush=True)


def _p99(costs: list[float]) -> float:
    return quantiles(costs, n=100, method="inclusive")[98]


if __name__ == "__main__":
    main()
