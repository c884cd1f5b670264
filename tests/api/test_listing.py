"""Lists: pages, their links, and what they cost at size."""

import os
import re
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy

from flask_webhook_endpoints import WebhookEndpoints
from flask_webhook_endpoints.database.models import WebhookEndpoint, WebhookIdempotencyKey, WebhookSecret, new_id
from tests.support import hosts
from tests.support.api import NEW, PATH, Endpoint, create_endpoint, next_link, pages, post_endpoint
from tests.support.database import DELIVERY, QUEUE, SORTED, WHOLE, on_sqlite, plan, statements_of


def create(client: FlaskClient, number: int) -> list[Endpoint]:
    return [create_endpoint(client, name=f"number {n}") for n in range(number)]


def all_of(client: FlaskClient, path: str) -> list[dict[str, Any]]:
    return [endpoint for page in pages(client, path) for endpoint in page]


def ids(endpoints: Sequence[dict[str, Any]]) -> list[str]:
    return [endpoint["id"] for endpoint in endpoints]


def test_a_list_without_limit_is_all_endpoints_oldest_first(acme, globex):
    made = create(acme, 5)
    create_endpoint(globex)

    answer = acme.get(PATH)

    assert answer.json == made
    assert "Link" not in answer.headers
    assert sorted(answer.json, key=lambda endpoint: endpoint["created_at"]) == answer.json


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (250, [6])])
def test_following_the_links_shows_each_endpoint_once(acme, limit, sizes):
    made = create(acme, 6)

    shown = list(pages(acme, f"{PATH}?limit={limit}"))

    assert [len(page) for page in shown] == sizes
    assert [endpoint for page in shown for endpoint in page] == made


def test_an_empty_list_has_no_next_page(acme):
    answer = acme.get(f"{PATH}?limit=1")

    assert (answer.json, "Link" in answer.headers) == ([], False)


def test_a_status_picks_endpoints_on_every_page(acme):
    made = create(acme, 6)
    paused = [acme.patch(f"{PATH}/{ep_id}", json={"status": "PAUSED"}).json for ep_id in ids(made)[::2]]

    assert all_of(acme, f"{PATH}?status=PAUSED&limit=1") == paused
    assert all_of(acme, f"{PATH}?limit=2&status=ACTIVE") == made[1::2]
    assert acme.get(f"{PATH}?status=ACTIVE").json == made[1::2]


@on_sqlite
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=251",
        "limit=-1",
        "limit=1.0",
        "limit=",
        "limit=٣",
        "limit=1000000000000000000000",
        "cursor=",
        "cursor=1",
        "cursor=EP_01A209B5-D10F-774F-84CE-43521A7FAB1E",
        "status=paused",
        "status=",
    ],
)
def test_a_query_that_breaks_its_rule_is_422_and_says_which(acme, query):
    answer = acme.get(f"{PATH}?{query}")

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == [query.partition("=")[0]]


def test_pages_are_stable_while_endpoints_come_and_go(acme):
    made = create(acme, 9)
    # The last of a page, which the cursor names, is among them.
    going = iter([[made[2], made[3]], [made[6]], []])
    came, shown = [], []

    for page in pages(acme, f"{PATH}?limit=3"):
        shown += page
        for endpoint in next(going, []):
            assert acme.delete(f"{PATH}/{endpoint['id']}").status_code == 204
        came.append(create_endpoint(acme))

    assert shown == [*made[:3], *made[4:], *came[:3]]


def test_the_cursor_of_another_tenants_endpoint_shows_nothing_of_it(acme, globex):
    foreign = create_endpoint(globex)
    made = create(acme, 1)

    answer = acme.get(f"{PATH}?limit=1&cursor={foreign['id']}")

    assert answer.json == made


@on_sqlite
@pytest.mark.parametrize(
    "query",
    [
        "colour=blue",
        "tag=a&tag=b",
        "empty=",
        "q=a%26b%3Dc%20%3Cd%3E%22%0D%0A",
        "endpoint=1&_anchor=2&_method=3&_scheme=javascript&_external=5&values=6&self=7",
        "ep_id=1",
        "%C3%A9=%C3%A9&%FF=%FF",
    ],
)
def test_a_link_keeps_the_other_parameters(acme, query):
    made = create(acme, 2)

    link = next_link(acme.get(f"{PATH}?{query}&limit=1&status=ACTIVE"))

    assert link is not None
    assert urlsplit(link)._replace(query="").geturl() == f"http://localhost{PATH}"
    ours = [("limit", "1"), ("status", "ACTIVE"), ("cursor", made[0]["id"])]
    assert sorted(parse_qsl(urlsplit(link).query, keep_blank_values=True)) == sorted(
        parse_qsl(query, keep_blank_values=True, errors="werkzeug.url_quote") + ours
    )
    assert ids(acme.get(link).json) == ids(made[1:])


def test_links_and_locations_lead_below_the_hosts_prefix_and_mount(database):
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=hosts.tenant_header, metadata=db.metadata)
    app = Flask("host")
    app.config.update(SECRET_KEY="s", SQLALCHEMY_DATABASE_URI=database)
    db.init_app(app)
    app.register_blueprint(webhooks.blueprint, url_prefix="/api", name="hooks")
    with app.app_context():
        db.create_all()
    with closing(hosts.Host(app, webhooks, db)) as host:
        client = host.client()
        made = [client.post(f"/api{PATH}", json=NEW) for _ in range(5)]

        assert {answer.headers["Location"] for answer in made} == {f"/api{PATH}/{answer.json['id']}" for answer in made}
        assert ids(all_of(client, f"/api{PATH}?limit=2")) == [answer.json["id"] for answer in made]
        # As WSGI has a mount: in Latin-1, decoded or as it was written.
        for mount, written in (("/mount", "/mount"), ("/a%20b", "/a%20b"), ("/\xc3\xbc", "/%C3%BC")):
            mounted = client.get(f"/api{PATH}?limit=2", environ_overrides={"SCRIPT_NAME": mount})
            assert (next_link(mounted) or "").startswith(f"http://localhost{written}/api{PATH}?")


def test_links_are_absolute_as_the_host_sees_its_own_url(acme, host):
    create(acme, 2)
    behind_proxy = acme.get(f"{PATH}?limit=1", headers={"Host": "api.example.com:8443"}, base_url="https://x")
    odd = [acme.get(f"{PATH}?limit=1", headers={"Host": name}) for name in ("a>b", 'a";rel=x', "a b", "[::1", "")]

    assert (next_link(behind_proxy) or "").startswith(f"https://api.example.com:8443{PATH}?limit=1&cursor=")
    for answer in odd:
        assert answer.status_code == 400 or (next_link(answer) or "").startswith(
            (f"{PATH}?", f"http://localhost{PATH}?")
        )


def test_a_request_costs_as_many_statements_as_promised(host, acme, database):
    # MariaDB has no UPDATE … RETURNING.
    returning = 0 if database.startswith("mysql") else 1
    path = f"{PATH}/{create_endpoint(acme).id}"
    unknown = f"{PATH}/ep_{new_id()}"
    stale = {"If-Match": '"999"'}

    def cost(method: str, path: str, status: int, **arguments: Any) -> int:
        with statements_of(host) as statements:
            assert acme.open(path, method=method, **arguments).status_code == status
        return len(statements)

    assert cost("GET", PATH, 200) == 1
    assert cost("GET", f"{PATH}?limit=1&status=ACTIVE", 200) == 1
    assert cost("GET", path, 200) == 1
    assert cost("GET", unknown, 404) == 1
    assert cost("PATCH", path, 200, json={"name": "n", "status": "PAUSED"}) == 2 - returning
    assert cost("PATCH", path, 200, json={"name": "n"}, headers={"If-Match": "*"}) == 2 - returning
    assert cost("PATCH", path, 200, json={}) == 1
    assert cost("PATCH", path, 412, json={"name": "n"}, headers=stale) == 2
    assert cost("PATCH", unknown, 404, json={"name": "n"}) == 1
    assert cost("PATCH", path, 422, json={"name": ""}) == 0
    # The secrets are read; the one in force becomes an old one; the new one is written.
    assert cost("PATCH", path, 200, json={"secret": "a newer secret of mine"}) == 2 - returning + 3
    assert cost("POST", f"{path}/secret/rotate", 200) == 2 - returning + 3
    assert cost("GET", f"{path}/secret", 200) == 1
    # The endpoint, the secret; on MariaDB the quota, too, which the others tell with the secret.
    assert cost("POST", PATH, 201, json=NEW) == 3 - returning
    # The key, the number of keys, the answer.
    assert cost("POST", PATH, 201, json=NEW, headers={"Idempotency-Key": "k"}) == 6 - returning
    assert cost("POST", PATH, 201, json=NEW, headers={"Idempotency-Key": "k"}) == 2
    assert cost("DELETE", path, 412, headers=stale) == 2
    acme.patch(path, json={"status": "ACTIVE"})
    # The endpoint, its secrets; on MariaDB its deliveries by state, its rest and incident, too, though there are none.
    assert cost("DELETE", path, 204) == 8 - 6 * returning
    assert cost("DELETE", path, 404) == 1


TENANTS = 1000
DOUBLINGS = 10 if "WEBHOOK_TESTS_FULL" in os.environ else 7
"""Each large tenant has two to the power of it: 1,024 at full size."""


def fill(host: hosts.Host) -> None:
    """Fill the tables: a thousand large tenants and one of 90; each endpoint has a secret, a key and a delivery."""
    now = datetime.now(UTC)
    endpoint = {"name": "n", "url": "https://example.com/", "timeout_seconds": 10, "version": 1}
    endpoint |= {"created_at": now, "updated_at": now}
    with host.app.app_context():
        session = host.db.session
        new_uuid = {
            "sqlite": "lower(hex(randomblob(16)))",
            "postgresql": "gen_random_uuid()",
            "mysql": "replace(uuid(), '-', '')",
        }[session.get_bind().dialect.name]
        seeds = [{**endpoint, "id": new_id(), "tenant_id": f"tenant-{n}"} for n in range(TENANTS)]
        session.execute(sa.insert(WebhookEndpoint), seeds)
        columns = "tenant_id, name, url, timeout_seconds, version, created_at, updated_at"
        for _ in range(DOUBLINGS):
            session.execute(
                sa.text(
                    f"INSERT INTO webhook_endpoint (id, {columns}) SELECT {new_uuid}, {columns} FROM webhook_endpoint"
                )
            )
        small = [{**endpoint, "id": new_id(), "tenant_id": "tenant-of-90"} for _ in range(90)]
        session.execute(sa.insert(WebhookEndpoint), small)
        session.execute(
            sa.insert(WebhookSecret).from_select(
                ["id", "endpoint_id", "secret_encrypted", "created_at"],
                sa.select(WebhookEndpoint.id, WebhookEndpoint.id, sa.literal("x"), WebhookEndpoint.created_at),
            )
        )
        session.execute(
            sa.insert(WebhookIdempotencyKey).from_select(
                ["tenant_id", "key", "answer_encrypted", "created_at"],
                sa.select(
                    WebhookEndpoint.tenant_id,
                    sa.cast(WebhookEndpoint.id, sa.String(36)),
                    sa.literal("x"),
                    WebhookEndpoint.created_at,
                ),
            )
        )
        columns = ["tenant_id", "endpoint_id", "attempts"]
        values = [WebhookEndpoint.tenant_id, WebhookEndpoint.id, sa.literal(0)]
        of_event = [WebhookEndpoint.id, WebhookEndpoint.created_at]
        of_log = sa.select(WebhookEndpoint.id, *values, sa.literal("PENDING"), *of_event)
        of_queue = sa.select(
            WebhookEndpoint.id, *values, sa.literal("READY"), WebhookEndpoint.created_at, sa.literal(0)
        )
        session.execute(sa.insert(DELIVERY).from_select(["id", *columns, "status", "event_id", "created_at"], of_log))
        names = ["delivery_id", *columns, "state", "due_at", "attempts_before"]
        session.execute(sa.insert(QUEUE).from_select(names, of_queue))
        session.commit()
        for table in ("endpoint", "secret", "idempotency_key", "delivery", "queue"):
            word = "ANALYZE TABLE" if session.get_bind().dialect.name == "mysql" else "ANALYZE"
            session.execute(sa.text(f"{word} webhook_{table}")).close()
        session.commit()


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.several_connections
def test_at_size_every_statement_of_every_route_uses_an_index(host):
    fill(host)
    with host.app.app_context():
        total = host.db.session.scalar(sa.select(sa.func.count()).select_from(WebhookEndpoint))
    assert total == TENANTS * 2**DOUBLINGS + 90
    client = host.client("tenant-of-90")
    path = f"{PATH}/{client.get(PATH).json[-1]['id']}"
    with host.app.app_context():
        backend = host.db.engine.dialect.name

    with statements_of(host) as listed:
        assert len(client.get(PATH).json) == 90
        page = client.get(f"{PATH}?limit=10")
        assert len(client.get(next_link(page)).json) == 10
        assert len(client.get(f"{PATH}?limit=10&status=ACTIVE").json) == 10
    with statements_of(host) as others:
        answers = [
            client.get(path),
            client.patch(path, json={"name": "renamed", "secret": "a newer secret of mine"}),
            client.patch(path, json={"name": "renamed"}, headers={"If-Match": '"1"'}),
            client.get(f"{path}/secret"),
            post_endpoint(client, key="k"),
            post_endpoint(client, key="k"),
            client.delete(path),
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 412, 200, 201, 201, 204]
    plans = [plan(host, *statement) for statement in listed]
    assert len(plans) == 4
    for steps in plans:
        assert "ix_webhook_endpoint_tenant_id_id" in steps
        assert not re.search(WHOLE[backend], steps)
    # PostgreSQL may find it cheaper to sort the few rows of one tenant than to fetch them in order.
    for steps in plans if backend != "postgresql" else []:
        assert not re.search(SORTED[backend], steps)
    looked_up = [statement for statement in others if not statement[0].startswith("INSERT")]
    assert len(looked_up) >= 9
    for statement in looked_up:
        assert not re.search(WHOLE[backend], plan(host, *statement)), statement
