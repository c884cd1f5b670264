"""The alerts of the operator's guide: each fires within two minutes of its condition, and none other does."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest

from flask_webhook_endpoints import telemetry
from flask_webhook_endpoints.core import numbers
from flask_webhook_endpoints.core.heartbeats import Heartbeat
from flask_webhook_endpoints.database import clocks
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.state import current_state
from flask_webhook_endpoints.testing import drain
from tests.support import docs, hosts
from tests.support.api import change_endpoint, create_endpoint
from tests.support.database import DELIVERY, ENDPOINT, QUEUE, execute, on_sqlite, rows
from tests.support.deliveries import claim, finish, publish
from tests.support.servers import free_port

FOLDER = docs.ROOT / "docs" / "operations"
PAGE = (docs.ROOT / "docs" / "operations.md").read_text()
RULES = FOLDER / "alerts.rules.yml"
EVERY_SECONDS = 15
WITHIN_SECONDS = 120
TENANTS = [f"tenant-{number}" for number in range(6)]

pytestmark = [
    pytest.mark.several_connections,
    pytest.mark.host(make=hosts.delivering, retry_schedule=[0, 3600, 3600]),
    pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus is not installed"),
]


class Watched:
    """A host that Prometheus scrapes, and the time that passes meanwhile."""

    def __init__(self, host: hosts.Host, receiver: Any, clock: Any) -> None:
        self.host, self.receiver, self.clock = host, receiver, clock
        self.heartbeat: Heartbeat | None = Heartbeat(new_id(), "worker")
        self.series: dict[str, list[str]] = defaultdict(list)
        self.scrapes = 0
        self.server_ahead = timedelta(0)

    def deliver(self, tenants: list[str] | None = None) -> None:
        """Publish an event to each tenant, and have a worker send what is due."""
        for tenant in tenants or TENANTS:
            publish(self.host, tenant_id=tenant)
        drain(self.host.app)

    def step(self) -> None:
        """Have the worker beat, Prometheus scrape, and fifteen seconds pass."""
        if self.heartbeat is not None:
            with self.host.app.app_context():
                current_state().run_apart(self.heartbeat.beat)
        self.scrape()
        self.clock.move(seconds=EVERY_SECONDS)

    def scrape(self) -> None:
        for line in generate_latest().decode().splitlines():
            if not line.startswith("webhooks_"):
                continue
            name, value = line.rsplit(" ", 1)
            values = self.series[re.sub(r'otel_scope_\w+="[^"]*",?', "", name).replace(",}", "}")]
            values.extend("_" for _ in range(self.scrapes - len(values)))
            values.append(value)
        self.scrapes += 1

    def firing(self, folder) -> set[str]:
        """Return the alerts that Prometheus fires at the last scrape."""
        at = (self.scrapes - 1) * EVERY_SECONDS
        found = set()
        # promtool tells what it expected in vain and what it got: ask for all of them at once.
        test = {
            "rule_files": [str(RULES)],
            "evaluation_interval": f"{EVERY_SECONDS}s",
            "tests": [
                {
                    "interval": f"{EVERY_SECONDS}s",
                    "input_series": [{"series": name, "values": " ".join(each)} for name, each in self.series.items()],
                    "promql_expr_test": [
                        {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{at}s", "exp_samples": []}
                    ],
                }
            ],
        }
        (folder / "test.yml").write_text(yaml.safe_dump(test))
        run = subprocess.run(
            ["promtool", "test", "rules", folder / "test.yml"], capture_output=True, text=True, check=False
        )
        found = set(re.findall(r'alertname="(\w+)"', run.stdout + run.stderr))
        assert found or run.returncode == 0, run.stdout + run.stderr
        return found


@pytest.fixture
def watched(host, webhook_receiver, webhook_clock, monkeypatch):
    """A healthy host: six tenants who get deliveries, and a worker that beats."""
    # Each scrape reads once, as in a host, because its time is that of the test's clock.
    monkeypatch.setattr(telemetry, "time", SimpleNamespace(monotonic=lambda: webhook_clock().timestamp()))
    provider = MeterProvider([PrometheusMetricReader()])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    host.webhooks.observe(host.app)
    for tenant in TENANTS:
        create_endpoint(host.client(tenant), webhook_receiver.url)
    watched = Watched(host, webhook_receiver, webhook_clock)
    monkeypatch.setattr(clocks, "server_time", lambda scope: scope.now + watched.server_ahead)
    yield watched
    provider.shutdown()


def add_difficult_customers(watched: Watched) -> None:
    host = watched.host
    create_endpoint(host.client("down"), f"http://127.0.0.1:{free_port()}/")
    publish(host, *range(20), tenant_id="down")
    drain(host.app)
    paused = create_endpoint(host.client("paused"))
    publish(host, 1, tenant_id="paused")
    change_endpoint(host.client("paused"), paused, status="PAUSED")
    hold_ten_thousand(host, paused)
    create_endpoint(host.client("slow"))
    publish(host, *range(40), tenant_id="slow")
    with host.app.app_context():
        current_state().run_apart(partial(claim, most=Settings().max_in_flight_per_endpoint))
    # It hangs, and is claimed again and again.
    with host.app.app_context():
        lease_until = current_state().now() + timedelta(hours=1)
    execute(host, sa.update(QUEUE).where(QUEUE.c.state == "LEASED").values(due_at=lease_until))


def hold_ten_thousand(host: hosts.Host, paused: Any) -> None:
    of_paused = QUEUE.c.tenant_id == "paused"
    (one,) = rows(host, sa.select(QUEUE).where(of_paused))
    (logged,) = rows(host, sa.select(DELIVERY).where(DELIVERY.c.tenant_id == "paused"))
    ids = [new_id() for _ in range(9_999)]
    execute(host, sa.insert(DELIVERY), [{**logged._mapping, "id": each} for each in ids])
    execute(host, sa.insert(QUEUE), [{**one._mapping, "delivery_id": each} for each in ids])


def pass_two_minutes(watched: Watched, each: Any = None) -> None:
    for _ in range(WITHIN_SECONDS // EVERY_SECONDS + 1):
        if each is not None:
            each()
        watched.step()


@pytest.mark.slow
def test_none_fires_while_one_customer_is_slow_one_is_down_and_one_is_paused(watched, tmp_path):
    watched.deliver()
    add_difficult_customers(watched)

    for _ in range(3):
        pass_two_minutes(watched)
        watched.deliver()
    watched.step()

    assert watched.firing(tmp_path) == set()
    last = {name: float(each[-1]) for name, each in watched.series.items()}
    held, caps, failing = (
        next(value for name, value in last.items() if name.startswith(f"webhooks_{number}"))
        for number in ("held", "behind_caps", "endpoints_failing")
    )
    assert (held, caps > 0, failing) == (10_000, True, 1)


def no_worker(watched: Watched) -> None:
    watched.heartbeat = None
    pass_two_minutes(watched, lambda: publish(watched.host, tenant_id=TENANTS[0]))


def behind(watched: Watched) -> None:
    publish(watched.host, tenant_id=TENANTS[0])
    pass_two_minutes(watched)


def we_fail(watched: Watched) -> None:
    # Egress is blocked: nobody can be reached.
    port = free_port()
    execute(watched.host, sa.update(ENDPOINT).values(url=f"http://127.0.0.1:{port}/"))
    pass_two_minutes(watched, watched.deliver)


def receivers_of_many_fail(watched: Watched) -> None:
    watched.receiver.answer(500)
    pass_two_minutes(watched, watched.deliver)


def key_is_lost(watched: Watched) -> None:
    again = hosts.delivering(
        watched.host.app.config["SQLALCHEMY_DATABASE_URI"], SECRET_KEY="another", retry_schedule=[0, 3600]
    )
    with hosts.moved(again.app) as clock:
        for tenant in TENANTS:
            publish(again, tenant_id=tenant)
        clock.move(seconds=(watched.clock() - clock()).total_seconds())
        drain(again.app)
    again.close()
    pass_two_minutes(watched)


def database_is_gone(watched: Watched) -> None:
    watched.heartbeat = None
    with watched.host.app.app_context():
        watched.host.db.drop_all()
    pass_two_minutes(watched)


def worker_is_short(watched: Watched) -> None:
    assert watched.heartbeat is not None
    watched.heartbeat.lacked("EMFILE", watched.clock())
    pass_two_minutes(watched)


def pruning_stops(watched: Watched) -> None:
    finish(watched.host)
    old = watched.clock() - timedelta(days=30, hours=2, minutes=59)
    ids = [row.id for row in rows(watched.host, sa.select(DELIVERY.c.id))]
    head = f"{int(old.timestamp() * 1000):012x}"
    for number, each in enumerate(ids):
        aged = new_id().__class__(f"{head}7{number:03x}8{'0' * 15}")
        execute(watched.host, sa.update(DELIVERY).where(DELIVERY.c.id == each).values(id=aged, finished_at=old))
    pass_two_minutes(watched)


def clock_is_off(watched: Watched) -> None:
    watched.server_ahead = timedelta(seconds=9)
    pass_two_minutes(watched)


def nobody_reports(watched: Watched) -> None:
    # As Prometheus notes a scrape that fails.
    for values in watched.series.values():
        values.append("stale")
    watched.scrapes += WITHIN_SECONDS // EVERY_SECONDS


CONDITIONS = {
    "WebhooksNoWorker": no_worker,
    "WebhooksBehind": behind,
    "WebhooksWeFail": we_fail,
    "WebhooksKeyLost": key_is_lost,
    "WebhooksDatabaseDown": database_is_gone,
    "WebhooksWorkerShort": worker_is_short,
    "WebhooksRetentionBehind": pruning_stops,
    "WebhooksClockOff": clock_is_off,
    "WebhooksUnobserved": nobody_reports,
}


@on_sqlite
@pytest.mark.slow
@pytest.mark.parametrize(
    ("alert", "condition"),
    [
        pytest.param(*each, id=each[1].__name__)
        for each in [*CONDITIONS.items(), ("WebhooksWeFail", receivers_of_many_fail)]
    ],
)
def test_an_alert_fires_within_two_minutes_of_its_condition_and_no_other_does(watched, tmp_path, alert, condition):
    watched.deliver()
    watched.step()

    condition(watched)

    assert watched.firing(tmp_path) == {alert}


def test_every_alert_is_sound_tried_and_on_the_page():
    checked = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    alerts = [rule["alert"] for rule in group["rules"]]

    assert set(alerts) == set(CONDITIONS)
    assert all(set(rule["annotations"]) == {"summary", "do"} for rule in group["rules"])
    assert re.findall(r"^\| `(Webhooks\w+)` \|", PAGE, re.MULTILINE) == alerts
    assert gauges_of(RULES.read_text()) <= {*numbers.NUMBERS, "database_up"}


def test_every_panel_of_the_dashboard_is_sound(tmp_path):
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    exprs = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    recorded = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))

    checked = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "panels.yml"], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
    assert gauges_of(" ".join(exprs)) <= {*numbers.NUMBERS, "database_up"}


def gauges_of(text: str) -> set[str]:
    return set(re.findall(r"webhooks_(\w+)", re.sub(r"#.*", "", text)))


def test_the_numbers_on_the_page_are_those_of_status():
    _, _, section = PAGE.partition("## The numbers")
    table = section.split("\n\n")[2]

    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)) == numbers.NUMBERS
