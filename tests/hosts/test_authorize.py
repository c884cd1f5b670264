"""What `tenant` and `authorize` may answer, and what a user who may not read header values sees."""

import functools
import json
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest
import uuid_utils
from flask import Flask, Response, abort, redirect, request
from flask.testing import FlaskClient
from flask_login import LoginManager, login_required
from flask_sqlalchemy import SQLAlchemy
from werkzeug.local import LocalProxy

from flask_webhook_endpoints import WebhookEndpoints, signals
from flask_webhook_endpoints.state import Action
from flask_webhook_endpoints.testing import drain
from tests.support import docs, hosts
from tests.support.api import create_endpoint, post_endpoint
from tests.support.database import on_sqlite

PAGE = (docs.ROOT / "docs" / "authentication.md").read_text()
NO_DELIVERY = "dlv_00000000-0000-7000-8000-000000000000"


def test_the_table_of_actions_is_what_authorize_is_asked():
    table = PAGE.partition("| Action | Request |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.+?`) \| ", table, re.MULTILINE)

    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(get_args(Action))


def let_in_all(*question: Any) -> bool:
    return True


class Gate:
    """A host whose `tenant` and `authorize` are what the test puts in their place."""

    now: Any = staticmethod(let_in_all)
    """Answers in place of `answer`."""

    def __init__(self, database: str) -> None:
        self.db = SQLAlchemy(metadata=hosts.shared_metadata())
        self.app = Flask("host")
        config = {"TESTING": True, "SECRET_KEY": "host secret", "SQLALCHEMY_DATABASE_URI": database}
        self.app.config.update(config, WEBHOOK_ENDPOINTS_ALLOWED_NETWORKS=hosts.LOOPBACK)
        self.db.init_app(self.app)

    def open(self, *, tenant: Any = lambda: "acme", authorize: Any = None) -> FlaskClient:
        """Register the blueprint, and return a client."""
        webhooks = WebhookEndpoints(
            session=self.db.session, tenant=tenant, authorize=authorize, metadata=self.db.metadata
        )
        self.webhooks = webhooks
        self.app.register_blueprint(webhooks.blueprint)
        with self.app.app_context():
            hosts.create_tables(self.db)
        return self.app.test_client()

    def answer(self, *question: Any) -> Any:
        return self.now(*question)

    def allow(self, *refused: str, asked: list[Any] | None = None) -> FlaskClient:
        """Open with an `authorize` that refuses these actions alone, and keeps what it was asked."""
        self.refused = set(refused)

        def authorize(action: str, endpoint_id: str | None) -> bool:
            if asked is not None:
                asked.append((action, endpoint_id))
            return action not in self.refused

        return self.open(authorize=authorize)


@pytest.fixture
def gate(database: str) -> Iterator[Gate]:
    gate = Gate(database)
    yield gate
    with gate.app.app_context():
        gate.db.engine.dispose()


def every_request(client: FlaskClient, path: str) -> list[Callable[[], Any]]:
    """Return a function for each request there is, to be called."""
    return [
        lambda: client.get("/v1/endpoints"),
        lambda: post_endpoint(client),
        lambda: client.get(path),
        lambda: client.patch(path, json={"name": "changed", "secret": "a secret of sixteen"}),
        lambda: client.get(f"{path}/secret"),
        lambda: client.post(f"{path}/secret/rotate"),
        lambda: client.get("/v1/endpoints/deliveries"),
        lambda: client.get(f"{path}/deliveries"),
        lambda: client.get(f"{path}/deliveries/{NO_DELIVERY}"),
        lambda: client.post(f"{path}/deliveries/{NO_DELIVERY}/redeliver"),
        lambda: client.post(f"{path}/ping"),
        lambda: client.get("/v1/endpoints/event-types"),
        lambda: client.post(f"{path}/recover", json={"since": "2026-01-01T00:00:00Z"}),
        lambda: client.delete(path),
    ]


# --- what `authorize` returns


def login_page() -> Response:
    return redirect("/login")


def needs_login(function: Any) -> Any:
    """Wrap a function as login decorators do, which return their refusal."""

    @functools.wraps(function)
    def wrapped(*arguments: Any) -> Any:
        return login_page()

    return wrapped


class Answer:
    """An object that is true, as all are."""


NO_BOOLS: dict[str, tuple[Any, str]] = {
    "a response": (lambda *_: Response("no", 403), "Response"),
    "a redirect of a login decorator": (needs_login(lambda *_: True), "Response"),
    "a body and a status": (lambda *_: ("no", 403), "tuple"),
    "a text": (lambda *_: "no", "str"),
    "an empty text": (lambda *_: "", "str"),
    "nothing": (lambda *_: None, "NoneType"),
    "one": (lambda *_: 1, "int"),
    "zero": (lambda *_: 0, "int"),
    "a list": (lambda *_: [], "list"),
    "an object": (lambda *_: Answer(), "Answer"),
}


@pytest.mark.parametrize(("authorize", "named"), NO_BOOLS.values(), ids=NO_BOOLS)
@on_sqlite
def test_what_is_no_bool_is_a_type_error_on_every_route_and_nothing_is_done(gate, authorize, named):
    client = gate.open(authorize=gate.answer)
    created = create_endpoint(client)
    path = f"/v1/endpoints/{created['id']}"
    secret = client.get(f"{path}/secret").json
    gate.now = authorize

    for ask in every_request(client, path):
        with pytest.raises(TypeError, match=rf"authorize must return True or False, not {named}\."):
            ask()

    gate.now = let_in_all
    assert client.get("/v1/endpoints").json == [created]
    assert client.get(f"{path}/secret").json == secret
    assert client.get(f"{path}/deliveries").json == []


def test_a_real_login_decorator_that_returns_its_refusal_lets_nobody_in(gate):
    login = LoginManager(gate.app)
    login.unauthorized_handler(lambda: ("log in first", 401))
    login.user_loader(lambda user_id: None)

    @login_required
    def may(action, endpoint_id):
        return True

    client = gate.open(authorize=may)

    with pytest.raises(TypeError, match=r"authorize must return True or False, not tuple\."):
        post_endpoint(client)


async def refuse(action, endpoint_id):
    return False


async def let_in(action, endpoint_id):
    return True


def returning(function: Any) -> Any:
    """Return a function that is no coroutine function itself."""
    return lambda *question: function(*question)  # noqa: PLW0108 - this is what it is for


class Policy:
    async def __call__(self, action, endpoint_id):
        return action == "list"


COROUTINES = {
    "a coroutine function": (refuse, let_in),
    "a partial": (functools.partial(refuse), functools.partial(let_in)),
    "a function that returns a coroutine": (returning(refuse), returning(let_in)),
}


@pytest.mark.parametrize(("refusing", "allowing"), COROUTINES.values(), ids=COROUTINES)
@on_sqlite
def test_a_coroutine_function_is_run_and_its_answer_counts(gate, refusing, allowing):
    client = gate.open(authorize=gate.answer)
    gate.now = allowing
    created = post_endpoint(client)
    assert created.status_code == 201
    gate.now = refusing

    refused = [ask() for ask in every_request(client, f"/v1/endpoints/{created.json['id']}")]

    assert {answer.status_code for answer in refused} == {403}
    gate.now = allowing
    assert client.get("/v1/endpoints").json == [created.json]


@pytest.mark.parametrize(("refusing", "allowing"), COROUTINES.values(), ids=COROUTINES)
@on_sqlite
def test_a_coroutine_function_itself_may_be_given(gate, refusing, allowing):
    client = gate.open(authorize=refusing)

    assert post_endpoint(client).status_code == 403


def test_an_object_whose_call_is_a_coroutine_function_is_run(gate):
    client = gate.open(authorize=Policy())

    assert post_endpoint(client).status_code == 403
    assert client.get("/v1/endpoints").json == []


def test_a_coroutine_that_returns_no_bool_is_a_type_error(gate):
    async def authorize(action, endpoint_id):
        return Response("no", 403)

    client = gate.open(authorize=authorize)

    with pytest.raises(TypeError, match=r"authorize must return True or False, not Response\."):
        client.get("/v1/endpoints")


def test_what_a_coroutine_raises_is_the_hosts(gate):
    async def authorize(action, endpoint_id):
        abort(418)

    assert gate.open(authorize=authorize).get("/v1/endpoints").status_code == 418


# --- what `tenant` returns

ID = uuid.UUID("0190a5b0-0000-7000-8000-00000000abcd")


async def ask_tenant():
    return "acme"


async def ask_nobody():
    return None


TENANTS: dict[str, tuple[Any, str]] = {
    "a coroutine function": (ask_tenant, "acme"),
    "a function that returns a coroutine": (returning(ask_tenant), "acme"),
    "a proxy": (lambda: LocalProxy(lambda: "acme"), "acme"),
    "a proxy itself": (LocalProxy(lambda: lambda: "acme"), "acme"),
    "a proxy of a proxy": (lambda: LocalProxy(lambda: LocalProxy(lambda: 7)), "7"),
    "a UUID of uuid_utils": (lambda: uuid_utils.UUID(str(ID)), str(ID)),
    "a proxy of one": (lambda: LocalProxy(lambda: uuid_utils.UUID(str(ID))), str(ID)),
}


@pytest.mark.parametrize(("tenant", "known_as"), TENANTS.values(), ids=TENANTS)
@on_sqlite
def test_a_tenant_is_what_the_host_means(gate, tenant, known_as):
    client = gate.open(tenant=gate.answer)
    gate.now = tenant
    created = post_endpoint(client)
    assert created.status_code == 201, created.text
    gate.now = lambda: known_as

    assert client.get("/v1/endpoints").json == [created.json]


@pytest.mark.parametrize(("tenant", "known_as"), TENANTS.values(), ids=TENANTS)
@on_sqlite
def test_a_tenant_callable_of_any_kind_may_be_given_itself(gate, tenant, known_as):
    assert post_endpoint(gate.open(tenant=tenant)).status_code == 201


NOBODY = {
    "a coroutine function": ask_nobody,
    "a proxy": lambda: LocalProxy(lambda: None),
    "a proxy of a proxy": lambda: LocalProxy(lambda: LocalProxy(lambda: None)),
}


@pytest.mark.parametrize("tenant", NOBODY.values(), ids=NOBODY)
@on_sqlite
def test_nobody_is_401_however_it_is_said(gate, tenant):
    client = gate.open(tenant=tenant)

    answers = [client.get("/v1/endpoints"), post_endpoint(client)]
    assert {answer.status_code for answer in answers} == {401}


@pytest.mark.parametrize(
    ("tenant", "named"),
    [
        (lambda: Response("log in", 302), "Response"),
        (lambda: ("log in", 401), "tuple"),
        (lambda: LocalProxy(lambda: True), "bool"),
        (lambda: LocalProxy(lambda: 1.5), "float"),
        (needs_login(lambda: "acme"), "Response"),
    ],
)
@on_sqlite
def test_a_tenant_of_another_type_is_a_type_error_that_names_it(gate, tenant, named):
    with pytest.raises(TypeError, match=rf"A tenant must be .*, not {named}\."):
        gate.open(tenant=tenant).get("/v1/endpoints")


def test_events_are_published_to_a_tenant_named_in_every_way(gate, webhook_receiver):
    client = gate.open(tenant=lambda: str(ID))
    create_endpoint(client, webhook_receiver.url)

    with gate.app.app_context():
        for tenant_id in (ID, uuid_utils.UUID(str(ID)), LocalProxy(lambda: ID), str(ID)):
            assert gate.webhooks.publish("invoice.paid", 7, tenant_id=tenant_id) is not None
        with pytest.raises(TypeError, match=r"A tenant must be .*, not LocalProxy\."):
            gate.webhooks.publish("invoice.paid", 7, tenant_id=LocalProxy(lambda: None))
        gate.db.session.commit()


# --- who may set a secret


def test_a_new_secret_by_patch_asks_for_the_right_to_rotate_it(gate):
    asked: list[Any] = []
    client = gate.allow(asked=asked)
    path = create_endpoint(client).path
    before, secret = client.get(path).json, client.get(f"{path}/secret").json
    gate.refused = {"rotate_secret"}
    asked.clear()

    refused = client.patch(path, json={"name": "changed", "secret": "a secret of sixteen"})

    assert (refused.status_code, refused.mimetype) == (403, "application/problem+json")
    assert ("rotate_secret", before["id"]) in asked
    assert client.get(path).json == before
    assert client.get(f"{path}/secret").json == secret
    assert client.patch(path, json={"name": "changed"}).status_code == 200
    gate.refused = set()
    assert client.patch(path, json={"secret": "a secret of sixteen"}).status_code == 200
    assert client.get(f"{path}/secret").json["secret"] == "a secret of sixteen"


def test_who_may_rotate_but_not_update_sets_no_secret_by_patch(gate):
    client = gate.allow()
    path = create_endpoint(client).path
    gate.refused = {"update"}

    assert client.patch(path, json={"secret": "a secret of sixteen"}).status_code == 403


# --- who may see the values of custom headers

HEADERS = {"Authorization": "Bearer hunter2", "X-Team": "billing"}
HIDDEN = {"Authorization": "***", "X-Team": "***"}


def test_every_answer_with_an_endpoint_hides_header_values_from_who_may_not_read_them(gate):
    client = gate.allow("read_headers")

    created = post_endpoint(client, key="k", headers_json=HEADERS)
    repeated = post_endpoint(client, key="k", headers_json=HEADERS)
    path = f"/v1/endpoints/{created.json['id']}"
    one = client.get(path)
    answers = [
        created,
        repeated,
        one,
        client.get("/v1/endpoints"),
        client.get("/v1/endpoints?limit=1"),
        client.patch(path, json={}),
        client.patch(path, json={"name": "changed"}),
        client.patch(path, json={"status": "PAUSED"}),
        client.patch(path, json={"status": "ACTIVE", "headers_json": HEADERS}),
        client.patch(path, json={"name": ""}),
        client.post(f"{path}/secret/rotate"),
        client.post(f"{path}/ping"),
        client.get(f"{path}/deliveries"),
    ]

    assert not [answer.text for answer in answers if "hunter2" in answer.text or "billing" in answer.text]
    assert created.json["headers_json"] == one.json["headers_json"] == HIDDEN
    gate.refused = set()
    shown = client.get(path)
    assert shown.json["headers_json"] == HEADERS


def test_an_endpoint_without_headers_looks_the_same_to_everybody(gate):
    client = gate.allow()
    path = create_endpoint(client).path
    seen = client.get(path)
    gate.refused = {"read_headers"}

    assert client.get(path).data == seen.data


def test_the_etag_is_the_same_whoever_asks(gate):
    client = gate.allow()
    path = create_endpoint(client, headers_json=HEADERS).path
    etag = client.get(path).headers["ETag"]
    gate.refused = {"read_headers"}

    assert client.get(path).headers["ETag"] == etag
    assert client.patch(path, json={"name": "m"}, headers={"If-Match": etag}).status_code == 200


def test_read_headers_is_asked_once_for_each_request_that_shows_endpoints_and_after_the_action(gate):
    asked: list[Any] = []
    client = gate.allow(asked=asked)
    one = create_endpoint(client, headers_json=HEADERS).id
    create_endpoint(client, headers_json=HEADERS)
    path = f"/v1/endpoints/{one}"
    asked.clear()

    client.get("/v1/endpoints")
    post_endpoint(client)
    client.get(path)
    client.patch(path, json={"name": "m", "secret": "a secret of sixteen"})
    client.get(f"{path}/secret")
    client.post(f"{path}/ping")
    client.delete(path)

    assert asked == [
        ("list", None),
        ("read_headers", None),
        ("create", None),
        ("read_headers", None),
        ("read", one),
        ("read_headers", one),
        ("update", one),
        ("read_headers", one),
        ("rotate_secret", one),
        ("read_secret", one),
        ("ping", one),
        ("delete", one),
    ]


def test_an_event_is_pinged_with_a_leave_of_its_own_and_events_are_listed_without_an_endpoint(gate):
    asked: list[Any] = []
    client = gate.allow("ping_event", "list_event_types", asked=asked)
    one = create_endpoint(client).id
    path = f"/v1/endpoints/{one}"
    asked.clear()

    answers = [
        client.post(f"{path}/ping", json={"event_type": "invoice.paid", "data": 7}),
        client.get("/v1/endpoints/event-types"),
        client.post(f"{path}/ping"),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 202]
    assert asked == [("ping", one), ("ping_event", one), ("list_event_types", None), ("ping", one)]


def test_a_read_headers_that_is_no_bool_is_a_type_error_before_anything_is_done(gate):
    def authorize(action, endpoint_id):
        return "no" if action == "read_headers" else True

    client = gate.open(authorize=authorize)

    for ask in (lambda: post_endpoint(client), lambda: client.get("/v1/endpoints")):
        with pytest.raises(TypeError, match=r"not str\."):
            ask()
    with gate.app.app_context():
        assert gate.db.session.connection().exec_driver_sql("SELECT count(*) FROM webhook_endpoint").scalar() == 0


# --- what such a user may write


@pytest.fixture
def masked(gate) -> Iterator[tuple[Gate, FlaskClient, str]]:
    """An endpoint with headers, and a client that may not read their values."""
    client = gate.allow()
    path = create_endpoint(client, headers_json=HEADERS).path
    gate.refused = {"read_headers"}
    return gate, client, path


def stored(gate: Gate, client: FlaskClient, path: str) -> Any:
    gate.refused = set()
    headers = client.get(path).json["headers_json"]
    gate.refused = {"read_headers"}
    return headers


KEPT = {
    "all as shown": (HIDDEN, HEADERS),
    "one kept, one left out": ({"Authorization": "***"}, {"Authorization": "Bearer hunter2"}),
    "one kept, one changed": ({"Authorization": "***", "X-Team": "ops"}, {**HEADERS, "X-Team": "ops"}),
    "one kept, one new": (
        {"Authorization": "***", "X-New": "new"},
        {"Authorization": "Bearer hunter2", "X-New": "new"},
    ),
    "kept under another spelling": ({"AUTHORIZATION": "***"}, {"AUTHORIZATION": "Bearer hunter2"}),
    "none": ({}, {}),
    "null": (None, {}),
    "all new": ({"X-New": "new"}, {"X-New": "new"}),
    "not quite the mark": ({"Authorization": "****"}, {"Authorization": "****"}),
}


@on_sqlite
@pytest.mark.parametrize(("sent", "expected"), KEPT.values(), ids=KEPT)
def test_a_value_that_is_sent_as_it_was_shown_keeps_the_stored_one(masked, sent, expected):
    gate, client, path = masked

    answer = client.patch(path, json={"headers_json": sent, "name": "changed"})

    assert answer.status_code == 200, answer.text
    assert answer.json["headers_json"] == dict.fromkeys(expected, "***")
    assert answer.json["name"] == "changed"
    assert stored(gate, client, path) == expected


@pytest.mark.parametrize("status", ["PAUSED", "ACTIVE"])
def test_values_are_kept_beside_a_pause(masked, status):
    gate, client, path = masked

    answer = client.patch(path, json={"headers_json": HIDDEN, "status": status})

    assert (answer.status_code, answer.json["status"]) == (200, status)
    assert stored(gate, client, path) == HEADERS


def test_where_there_is_no_value_to_keep_it_is_422_and_nothing_changes(masked):
    gate, client, path = masked
    before = client.get(path).json

    answer = client.patch(path, json={"headers_json": {**HIDDEN, "X-New": "***"}, "name": "changed"})

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == ["headers_json"]
    assert "X-New" in json.dumps(answer.json["errors"])
    assert "hunter2" not in answer.text
    assert client.get(path).json == before
    assert stored(gate, client, path) == HEADERS


def test_a_new_endpoint_has_no_value_to_keep(masked):
    _, client, _ = masked

    answer = post_endpoint(client, headers_json=HIDDEN)

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == ["headers_json"]


def test_kept_values_count_against_the_limit_of_all_headers(masked):
    gate, client, path = masked
    gate.refused = set()
    long = {f"X-{number}": "v" * 4000 for number in range(2)}
    assert client.patch(path, json={"headers_json": long}).status_code == 200
    gate.refused = {"read_headers"}

    kept = dict.fromkeys(long, "***")
    answer = client.patch(path, json={"headers_json": {**kept, "X-New": "v" * 1000}})

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == ["headers_json"]
    assert client.patch(path, json={"headers_json": kept}).status_code == 200
    assert stored(gate, client, path) == long


def test_a_stale_etag_keeps_nothing(masked):
    gate, client, path = masked

    answer = client.patch(path, json={"headers_json": {"Authorization": "***"}}, headers={"If-Match": '"99"'})

    assert answer.status_code == 412
    assert stored(gate, client, path) == HEADERS


def test_another_tenants_values_can_not_be_kept(gate):
    tenant = "acme"
    client = gate.open(
        tenant=lambda: tenant, authorize=lambda action, endpoint_id: action != "read_headers" or tenant == "acme"
    )
    path = create_endpoint(client, headers_json=HEADERS).path
    tenant = "globex"
    own = create_endpoint(client).path

    assert client.patch(path, json={"headers_json": HIDDEN}).status_code == 404
    assert client.patch(own, json={"headers_json": HIDDEN}).status_code == 422
    tenant = "acme"
    assert client.get(path).json["headers_json"] == HEADERS


def test_who_may_read_values_stores_the_mark_as_it_is(masked):
    gate, client, path = masked
    gate.refused = set()

    answer = client.patch(path, json={"headers_json": {"Authorization": "***"}})

    assert answer.json["headers_json"] == {"Authorization": "***"}


def test_deliveries_and_signals_have_the_values_themselves(masked, webhook_receiver):
    _, client, path = masked
    heard: list[Any] = []

    def hear(app, *, endpoint, **_):
        heard.append(dict(endpoint.headers))

    with signals.endpoint_updated.connected_to(hear, sender=client.application):
        client.patch(path, json={"url": webhook_receiver.url, "headers_json": HIDDEN})
    client.post(f"{path}/ping")
    drain(client.application)

    assert heard == [HEADERS]
    assert webhook_receiver.received[0].headers["authorization"] == "Bearer hunter2"


@pytest.mark.several_connections
def test_of_values_that_are_written_at_the_same_moment_the_newest_is_kept(gate):
    client = gate.open(authorize=lambda action, endpoint_id: action != "read_headers" or "X-Reader" in request.headers)
    created = post_endpoint(client, headers_json={"A": "0"})
    path = f"/v1/endpoints/{created.json['id']}"
    written: dict[int, str] = {}

    def patch(reader: bool, value: str) -> None:
        asking = gate.app.test_client()
        headers = {"X-Reader": "1"} if reader else {}
        for number in range(10):
            wanted = f"{value}{number}" if reader else "***"
            answer = asking.patch(path, json={"headers_json": {"A": wanted}}, headers=headers)
            assert answer.status_code == 200, answer.text
            if reader:
                written[int(answer.headers["ETag"].strip('"'))] = wanted

    with ThreadPoolExecutor(4) as executor:
        for done in [executor.submit(patch, index % 2 == 0, "abcd"[index]) for index in range(4)]:
            done.result()

    shown = client.get(path, headers={"X-Reader": "1"})
    assert shown.json["headers_json"] == {"A": written[max(written)]}
