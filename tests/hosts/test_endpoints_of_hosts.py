"""`webhooks.endpoints`: the host's own code manages endpoints in its own transaction."""

from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints import Endpoint, errors, signals
from flask_webhook_endpoints.api.endpoint_schemas import EndpointChanges, EndpointInput
from flask_webhook_endpoints.database.models import EndpointStatus
from flask_webhook_endpoints.host.endpoints import ChangedFields, NewFields
from tests.support import docs
from tests.support.api import PATH, create_endpoint, secret_of
from tests.support.database import ENDPOINT, SECRET, count, on_sqlite, rows, statements_of

URL = "https://example.com/"
FULL = {
    "name": "full",
    "url": URL,
    "headers_json": {"X-Key": "hunter22"},
    "timeout_seconds": 7,
    "event_types": ["b", "a.*", "b"],
    "description": "first\nsecond",
    "metadata": {"customer": "cus_7"},
}


def test_the_hosts_code_writes_every_field_that_requests_write():
    assert NewFields.__annotations__.keys() == EndpointInput._declared_fields.keys()
    assert ChangedFields.__annotations__.keys() == EndpointChanges._declared_fields.keys()


@pytest.fixture
def mine(host):
    """The endpoints of acme, with the host's session and context."""
    with host.app.app_context():
        yield host.webhooks.endpoints


@pytest.fixture
def session(host, mine):
    return host.db.session


@pytest.fixture
def heard():
    """The names of the signals that were sent, and the endpoint of each."""
    heard = []
    names = ("created", "updated", "paused", "resumed", "deleted")
    listeners = {
        name: lambda sender, *, endpoint_id, name=name, **_: heard.append((name, endpoint_id)) for name in names
    }
    for name, listen in listeners.items():
        getattr(signals, f"endpoint_{name}").connect(listen)
    return SimpleNamespace(all=heard, listeners=listeners)


def test_an_endpoint_is_created_if_and_only_if_the_host_commits(host, mine, session):
    mine.create(tenant_id="acme", name="gone", url=URL)
    session.rollback()
    kept = mine.create(tenant_id="acme", **FULL, secret="a secret of theirs")
    session.commit()

    shown = host.client().get(PATH).json
    assert [each["id"] for each in shown] == [kept.id]
    assert isinstance(kept, Endpoint)
    assert shown[0] == {**shown[0], **FULL, "event_types": ["b", "a.*"]}
    for name, value in shown[0].items():
        own = getattr(kept, name)
        assert value == (dict(own) if name == "headers_json" else own)
    assert secret_of(host.client(), f"{PATH}/{kept.id}") == "a secret of theirs"
    assert "hunter22" not in repr(kept)


def test_what_the_api_created_is_read_changed_and_deleted(host, mine, session):
    theirs = create_endpoint(host.client(), headers_json={"X-Key": "value"})

    found = mine.get(theirs.id, tenant_id="acme")
    assert (found.name, dict(found.headers_json), found.version) == ("orders", {"X-Key": "value"}, 1)
    assert [each.id for each in mine.list(tenant_id="acme")] == [theirs.id]

    paused = mine.update(theirs.id, tenant_id="acme", name="renamed", status="PAUSED")
    assert (paused.name, paused.status, paused.pause_reason) == ("renamed", EndpointStatus.PAUSED, "user")
    session.commit()
    assert host.client().get(theirs.path).json["status"] == "PAUSED"
    assert mine.list(tenant_id="acme", status=EndpointStatus.ACTIVE) == []
    assert [each.id for each in mine.list(tenant_id="acme", status="PAUSED")] == [theirs.id]

    mine.delete(theirs.id, tenant_id="acme")
    session.commit()
    assert host.client().get(theirs.path).status_code == 404


def test_a_list_has_pages(mine):
    ids = [mine.create(tenant_id="acme", name=str(number), url=URL).id for number in range(5)]

    assert [each.id for each in mine.list(tenant_id="acme", limit=2)] == ids[:2]
    assert [each.id for each in mine.list(tenant_id="acme", limit=2, after=ids[1])] == ids[2:4]


def test_a_secret_is_generated_read_and_rotated(host, mine, session):
    endpoint = mine.create(tenant_id="acme", name="n", url=URL)
    generated = mine.secret(endpoint.id, tenant_id="acme")
    rotated = mine.rotate_secret(endpoint.id, tenant_id="acme", secret="another secret of theirs", overlap_seconds=60)
    session.commit()

    assert generated.secret.reveal().startswith("whsec_")
    assert rotated.secret.reveal() == "another secret of theirs"
    assert rotated.previous_expires_at is not None
    assert secret_of(host.client(), f"{PATH}/{endpoint.id}") == "another secret of theirs"
    again = mine.rotate_secret(endpoint.id, tenant_id="acme")
    assert again.secret.reveal() not in (generated.secret.reveal(), rotated.secret.reveal())
    assert "theirs" not in repr(rotated)


REFUSED = {
    "no name": ("create", {"url": URL}, ["name"]),
    "a number for a name": ("create", {"name": 5, "url": URL}, ["name"]),
    "an address inside": ("create", {"name": "n", "url": "http://127.0.0.1/"}, ["url"]),
    "a short secret": ("create", {"name": "n", "url": URL, "secret": "short"}, ["secret"]),
    "an unknown field": ("create", {"name": "n", "url": URL, "nmae": "x"}, ["nmae"]),
    "headers that frame": ("create", {"name": "n", "url": URL, "headers_json": {"Host": "x"}}, ["headers_json"]),
    "a header with a number for a name": (
        "create",
        {"name": "n", "url": URL, "headers_json": {1: "x"}},
        ["headers_json"],
    ),
    "a key that is a number": ("create", {"name": "n", "url": URL, "metadata": {1: "x"}}, ["metadata"]),
    "a status for a new one": ("create", {"name": "n", "url": URL, "status": "PAUSED"}, ["status"]),
    "null for a name": ("update", {"name": None}, ["name"]),
    "an unknown status": ("update", {"status": "ASLEEP"}, ["status"]),
    "a fraction": ("update", {"timeout_seconds": 1.5}, ["timeout_seconds"]),
    "a long overlap": ("rotate_secret", {"overlap_seconds": 10**9}, ["overlap_seconds"]),
}


@on_sqlite
@pytest.mark.parametrize(("method", "fields", "named"), REFUSED.values(), ids=REFUSED)
def test_a_field_that_breaks_its_rule_is_named_and_nothing_is_written(mine, session, method, fields, named):
    endpoint = mine.create(tenant_id="acme", name="n", url=URL)
    which = () if method == "create" else (endpoint.id,)

    with pytest.raises(errors.InvalidFields, match=named[0]) as refused:
        getattr(mine, method)(*which, tenant_id="acme", **fields)

    assert list(refused.value.errors) == named
    session.commit()
    (kept,) = mine.list(tenant_id="acme")
    assert (kept.name, kept.version) == ("n", 1)


def test_another_tenants_endpoint_is_as_unknown_as_none(host, mine, session):
    theirs = create_endpoint(host.client("globex"))
    calls = {
        "get": lambda ep_id: mine.get(ep_id, tenant_id="acme"),
        "update": lambda ep_id: mine.update(ep_id, tenant_id="acme", name="mine"),
        "rotate": lambda ep_id: mine.rotate_secret(ep_id, tenant_id="acme"),
        "secret": lambda ep_id: mine.secret(ep_id, tenant_id="acme"),
        "delete": lambda ep_id: mine.delete(ep_id, tenant_id="acme"),
    }

    for call in calls.values():
        for ep_id in (theirs.id, f"ep_{uuid4()}", "ep_x", "", str(uuid4())):
            with pytest.raises(errors.UnknownEndpoint):
                call(ep_id)
    session.commit()
    assert host.client("globex").get(theirs.path).json == theirs
    with pytest.raises(TypeError, match="UUID"):
        mine.get(UUID(theirs.id.removeprefix("ep_")), tenant_id="acme")


@on_sqlite
@pytest.mark.parametrize("tenant_id", [None, True, "", "x" * 256, "a\0"])
def test_no_tenant_is_refused(mine, tenant_id):
    with pytest.raises((TypeError, ValueError), match="tenant"):
        mine.create(tenant_id=tenant_id, name="n", url=URL)


def test_a_change_of_an_older_version_is_refused(mine, session):
    endpoint = mine.create(tenant_id="acme", name="n", url=URL)
    changed = mine.update(endpoint.id, tenant_id="acme", if_version=endpoint.version, name="m")

    with pytest.raises(errors.StaleEndpoint):
        mine.update(endpoint.id, tenant_id="acme", if_version=endpoint.version, name="o")
    with pytest.raises(errors.StaleEndpoint):
        mine.delete(endpoint.id, tenant_id="acme", if_version=endpoint.version)
    session.commit()
    assert mine.get(endpoint.id, tenant_id="acme").name == "m"
    mine.delete(endpoint.id, tenant_id="acme", if_version=changed.version)


@pytest.mark.host(max_endpoints_per_tenant=2)
def test_the_limit_holds_unless_it_is_ignored_and_what_it_refuses_leaves_nothing(host, mine, session):
    kept = [mine.create(tenant_id="acme", name=str(number), url=URL).id for number in range(2)]

    with pytest.raises(errors.QuotaExceeded):
        mine.create(tenant_id="acme", name="refused", url=URL)
    beyond = mine.create(tenant_id="acme", name="beyond", url=URL, ignore_limit=True)
    session.commit()

    assert [each.id for each in mine.list(tenant_id="acme")] == [*kept, beyond.id]
    assert count(host, ENDPOINT) == count(host, SECRET) == 3


def test_signals_are_sent_after_the_hosts_commit_in_their_order(mine, session, heard):
    endpoint = mine.create(tenant_id="acme", name="n", url=URL)
    mine.update(endpoint.id, tenant_id="acme", status="PAUSED")
    mine.update(endpoint.id, tenant_id="acme", status="ACTIVE", name="m")
    mine.update(endpoint.id, tenant_id="acme")
    mine.rotate_secret(endpoint.id, tenant_id="acme")
    mine.delete(endpoint.id, tenant_id="acme")

    assert heard.all == []
    session.commit()
    names = ["created", "paused", "updated", "resumed", "updated", "deleted"]
    assert heard.all == [(name, endpoint.id) for name in names]
    session.commit()
    assert len(heard.all) == len(names)


def test_a_rollback_sends_no_signal_and_neither_does_a_closed_session(host, mine, session, heard):
    mine.create(tenant_id="acme", name="n", url=URL)
    session.rollback()
    mine.create(tenant_id="acme", name="n", url=URL)
    session.close()
    session.execute(sa.text("SELECT 1"))
    session.commit()

    assert heard.all == []
    assert count(host, ENDPOINT) == 0


def test_a_savepoint_that_is_rolled_back_takes_its_signals_with_it(mine, session, heard):
    outer = mine.create(tenant_id="acme", name="outer", url=URL)
    with session.begin_nested():
        inner = mine.create(tenant_id="acme", name="inner", url=URL)
    lost = session.begin_nested()
    with session.begin_nested():
        mine.create(tenant_id="acme", name="lost", url=URL)
    lost.rollback()

    assert heard.all == []
    session.commit()
    assert heard.all == [("created", outer.id), ("created", inner.id)]
    assert [each.id for each in mine.list(tenant_id="acme")] == [outer.id, inner.id]


def test_a_function_that_hears_a_signal_may_use_the_hosts_session_and_commit(mine, session, heard):
    found = []

    @signals.endpoint_created.connect
    def look(sender, *, endpoint, tenant_id, **_):
        found.append(mine.get(endpoint.id, tenant_id=tenant_id).name)
        if endpoint.name == "first":
            mine.create(tenant_id=tenant_id, name="second", url=URL)
            session.commit()

    mine.create(tenant_id="acme", name="first", url=URL)
    session.commit()

    assert found == ["first", "second"]
    assert [name for name, _ in heard.all] == ["created", "created"]


def test_a_function_that_fails_does_not_harm_the_hosts_commit(mine, session, caplog):
    @signals.endpoint_created.connect
    def fail(sender, **_):
        raise RuntimeError("broken")

    kept = mine.create(tenant_id="acme", name="n", url=URL)
    session.commit()

    assert mine.get(kept.id, tenant_id="acme").name == "n"
    assert "signal_failed" in caplog.text


@on_sqlite
@pytest.mark.parametrize(
    ("parameter", "value"),
    [("limit", 0), ("limit", "5"), ("limit", True), ("limit", 2**31), ("status", "GONE"), ("status", ["ACTIVE"])],
)
def test_a_list_names_the_parameter_that_breaks_its_rule(mine, session, parameter, value):
    with pytest.raises(errors.InvalidFields) as refused:
        mine.list(tenant_id="acme", **{parameter: value})
    assert list(refused.value.errors) == [parameter]


def test_a_version_that_is_no_integer_is_named(mine, session):
    kept = mine.create(tenant_id="acme", name="n", url=URL)

    for change in (mine.update, mine.delete):
        with pytest.raises(errors.InvalidFields, match=r"see errors") as refused:
            change(kept.id, tenant_id="acme", if_version="1")
        assert list(refused.value.errors) == ["if_version"]


def test_without_an_app_context_it_says_so(host):
    with pytest.raises(RuntimeError, match="context"):
        host.webhooks.endpoints.list(tenant_id="acme")


def test_the_recipe_registers_an_endpoint_and_gives_its_secret(host, mine, session):
    endpoint, secret = docs.example("docs/python-api.md", "register").register(host.webhooks, session, "acme")

    assert secret_of(host.client(), f"{PATH}/{endpoint.id}") == secret


@pytest.mark.host(max_endpoints_per_tenant=10)
def test_the_recipe_imports_500_endpoints_with_their_secrets_in_two_statements_each(host, mine, session):
    recipe = docs.example("docs/python-api.md", "import_endpoints").import_endpoints
    known = [
        SimpleNamespace(id=n, tenant_id=f"tenant {n % 7}", name=f"n{n}", url=f"{URL}{n}", secret=f"the old secret {n}")
        for n in range(500)
    ]
    mine.list(tenant_id="acme")

    with statements_of(host) as statements:
        ids = recipe(host.webhooks, session, known)

    assert len([each for each, _ in statements if each.lstrip().upper().startswith(("INSERT", "SELECT"))]) == 1000
    assert count(host, ENDPOINT) == count(host, SECRET) == 500
    for each in known[::71]:
        path = f"{PATH}/{ids[each.id]}"
        client = host.client(each.tenant_id)
        assert client.get(path).json["url"] == each.url
        assert secret_of(client, path) == each.secret
    assert not [token for (token,) in rows(host, sa.select(SECRET.c.secret_encrypted)) if "the old secret" in token]
