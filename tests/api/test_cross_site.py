"""Requests that somebody else has sent: another site's page, with the user's cookies, and a worker of ours."""

from typing import Any

import pytest

from flask_webhook_endpoints.testing import drain
from tests.support import hosts
from tests.support.api import NEW, create_endpoint
from tests.support.database import on_sqlite
from tests.support.servers import served

NO_DELIVERY = "dlv_00000000-0000-7000-8000-000000000000"
CROSS_SITE = {"Sec-Fetch-Site": "cross-site"}

pytestmark = [on_sqlite, pytest.mark.host(allowed_networks=hosts.LOOPBACK)]


@pytest.fixture
def path(acme, webhook_receiver):
    return create_endpoint(acme, webhook_receiver.url).path


@pytest.fixture
def delivery(host, acme, path):
    pinged = acme.post(f"{path}/ping").json["id"]
    # No second ping may wait beside it.
    drain(host.app)
    return pinged


def state_of(acme: Any, path: str) -> Any:
    return [acme.get(each).data for each in ("/v1/endpoints", f"{path}/secret", f"{path}/deliveries")]


def unsafe(path: str, delivery: str) -> dict[str, tuple[str, str]]:
    return {
        "create": ("POST", "/v1/endpoints"),
        "update": ("PATCH", path),
        "rotate": ("POST", f"{path}/secret/rotate"),
        "ping": ("POST", f"{path}/ping"),
        "redeliver": ("POST", f"{path}/deliveries/{delivery}/redeliver"),
        "delete": ("DELETE", path),
    }


BODIES: dict[str, dict[str, Any]] = {
    "none": {},
    "none, and a type": {"content_type": "text/plain"},
    "text": {"data": '{"name": "x"}', "content_type": "text/plain"},
    "JSON that says it is text": {"data": '{"name": "x"}', "content_type": "text/plain; charset=application/json"},
    "a form": {"data": "name=x", "content_type": "application/x-www-form-urlencoded"},
    "a form with a file": {"data": {"name": "x"}, "content_type": "multipart/form-data"},
    "no type": {"data": '{"name": "x"}'},
    "almost JSON": {"data": '{"name": "x"}', "content_type": "application/jsonx"},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_another_site_can_send_without_asking_is_403_and_does_nothing(acme, path, delivery, body):
    before = state_of(acme, path)

    for what, (method, where) in unsafe(path, delivery).items():
        for said in ("cross-site", "Cross-Site", " cross-site "):
            answer = acme.open(where, method=method, headers={"Sec-Fetch-Site": said}, **body)

            assert (answer.status_code, answer.mimetype) == (403, "application/problem+json"), (what, said)
            assert answer.json["code"] == "cross_site"
        assert state_of(acme, path) == before, what


def test_what_another_site_sends_as_json_goes_through_the_hosts_cors_rules_as_before(acme, path, delivery):
    bodies = {"create": NEW, "update": {"name": "m"}}

    for what, (method, where) in unsafe(path, delivery).items():
        answer = acme.open(where, method=method, headers=CROSS_SITE, json=bodies.get(what, {}))

        assert answer.status_code in (200, 201, 202, 204), (what, answer.text)


@pytest.mark.parametrize("site", [None, "same-origin", "same-site", "none", "whatever"])
def test_others_are_let_in(acme, path, delivery, site):
    headers = {} if site is None else {"Sec-Fetch-Site": site}

    answered = {
        what: acme.open(where, method=method, headers=headers).status_code
        for what, (method, where) in unsafe(path, delivery).items()
    }

    assert answered == {"create": 415, "update": 415, "rotate": 200, "ping": 202, "redeliver": 202, "delete": 204}


def test_reading_from_another_site_is_the_browsers_and_the_hosts_business(acme, path):
    for where in ("/v1/endpoints", path, f"{path}/secret", f"{path}/deliveries", "/v1/openapi.json"):
        assert acme.get(where, headers=CROSS_SITE).status_code == 200
        assert acme.head(where, headers=CROSS_SITE).status_code == 200
    assert acme.options(path, headers=CROSS_SITE).status_code == 204


def optional(path: str, delivery: str) -> list[tuple[str, str]]:
    """Return the requests whose body may be left out."""
    return [unsafe(path, delivery)[what] for what in ("rotate", "ping", "redeliver")]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", None])
def test_a_body_that_is_no_json_is_415_where_one_is_optional(acme, path, delivery, content_type):
    before = state_of(acme, path)

    for method, where in optional(path, delivery):
        answer = acme.open(where, method=method, data="overlap_seconds=0", content_type=content_type)

        assert (answer.status_code, answer.mimetype) == (415, "application/problem+json"), where
        assert state_of(acme, path) == before


@pytest.mark.parametrize(
    "body", [{}, {"content_type": "application/x-www-form-urlencoded"}, {"json": {}}, {"json": None}], ids=str
)
def test_no_body_and_an_empty_object_are_taken_where_one_is_optional(acme, path, delivery, body):
    answered = [acme.open(where, method=method, **body).status_code for method, where in optional(path, delivery)]

    assert answered == [200, 202, 202]


def test_broken_json_is_400_where_a_body_is_optional(acme, path, delivery):
    for method, where in optional(path, delivery):
        assert acme.open(where, method=method, data="{", content_type="application/json").status_code == 400


# --- our own deliveries


def test_a_request_that_is_a_delivery_is_refused(acme, path, delivery):
    before = state_of(acme, path)
    reads = ["/v1/endpoints", path, f"{path}/secret", f"{path}/deliveries", f"{path}/deliveries/{delivery}"]

    for method, where in [*(("GET", where) for where in reads), *unsafe(path, delivery).values()]:
        answer = acme.open(where, method=method, headers={"webhook-id": "evt_1"}, json=None if method == "GET" else NEW)

        assert (answer.status_code, answer.mimetype) == (403, "application/problem+json"), (method, where)
        assert answer.json["code"] == "webhook_loop"
    assert state_of(acme, path) == before


def test_nobody_is_asked_about_a_delivery(host):
    answer = host.client(None).post("/v1/endpoints", json=NEW, headers={"webhook-id": "evt_1"})

    assert (answer.status_code, answer.json["code"]) == (403, "webhook_loop")


# The fault: each delivery made another one, for ever.
def test_an_endpoint_that_is_the_apis_own_ping_ends_at_its_first_delivery(host, acme):
    with served(host.app) as port:
        created = create_endpoint(acme, headers_json={"X-Tenant": "acme"})
        path = f"/v1/endpoints/{created['id']}"
        acme.patch(path, json={"url": f"http://127.0.0.1:{port}{path}/ping"})
        acme.post(f"{path}/ping")
        for _ in range(3):
            drain(host.app)

        (delivery,) = acme.get(f"{path}/deliveries").json
        log = acme.get(f"{path}/deliveries/{delivery['id']}").json["attempt_log"]

    assert log[0]["response_status"] == 403
    assert "webhook_loop" in log[0]["response_excerpt"]


def test_the_document_says_so(acme):
    document = acme.get("/v1/openapi.json").json

    for operations in document["paths"].values():
        for method, operation in operations.items():
            if operation["operationId"] == "read_openapi":
                continue
            text = str(operation["responses"]["403"])
            reference = operation["responses"]["403"].get("$ref")
            if reference:
                text = str(document["components"]["responses"][reference.rpartition("/")[2]])
            assert "webhook_loop" in text
            assert ("cross_site" in text) is (method != "get")
    assert document["components"]["schemas"]["Problem"]["properties"]["code"]
