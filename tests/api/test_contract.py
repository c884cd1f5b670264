"""The five routes, field by field, as the product's specification has them."""

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from flask_webhook_endpoints.database.models import WebhookEndpoint
from flask_webhook_endpoints.identifiers import format_time
from flask_webhook_endpoints.state import state_of
from tests.support.api import Endpoint, create_endpoint
from tests.support.database import on_sqlite

REQUEST = {
    "name": "my-webhook",
    "url": "https://example.com/webhook",
    "secret": "whsec_your_signing_secret",
    "headers_json": {},
    "timeout_seconds": 10,
}
FIELDS = {
    "id", "name", "url", "headers_json", "timeout_seconds", "event_types", "status", "paused_at", "created_at",
    "updated_at", "description", "metadata", "pause_reason", "failing_since",
}  # fmt: skip


def test_post_answers_201_with_the_endpoint(acme):
    answer = acme.post("/v1/endpoints", json=REQUEST)

    assert answer.status_code == 201
    assert answer.content_type == "application/json"
    assert set(answer.json) == FIELDS
    shown = {name: answer.json[name] for name in ("name", "url", "headers_json", "timeout_seconds")}
    assert shown == {name: REQUEST[name] for name in shown}
    assert answer.json["status"] == "ACTIVE"
    assert answer.json["paused_at"] is None
    assert answer.headers["Location"] == Endpoint(answer.json).path


def test_only_name_and_url_are_required(acme):
    endpoint = create_endpoint(acme)

    assert endpoint["timeout_seconds"] == 10
    assert endpoint["headers_json"] == {}
    assert endpoint["event_types"] is None
    refused = acme.post("/v1/endpoints", json={})
    assert refused.status_code == 422
    assert set(refused.json["errors"]) == {"name", "url"}


def test_ids_are_ep_and_a_canonical_uuid(acme):
    prefix, _, uuid = create_endpoint(acme).id.partition("_")

    assert prefix == "ep"
    assert str(UUID(uuid)) == uuid


def test_times_are_rfc_3339_in_utc_and_equal_at_birth(acme):
    endpoint = create_endpoint(acme)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", endpoint["created_at"])
    assert endpoint["created_at"] == endpoint["updated_at"]


def test_list_is_a_bare_array_oldest_first(acme):
    assert acme.get("/v1/endpoints").json == []

    endpoints = [create_endpoint(acme, name=str(number)) for number in range(5)]

    assert acme.get("/v1/endpoints").json == endpoints


def test_get_answers_what_post_answered(acme):
    endpoint = create_endpoint(acme, headers_json={"X-Key": "value"})

    answer = acme.get(endpoint.path)

    assert (answer.status_code, answer.json) == (200, endpoint)


def test_patch_renames_and_pauses_as_specified(acme):
    endpoint = create_endpoint(acme)

    answer = acme.patch(endpoint.path, json={"name": "updated-name", "status": "PAUSED"})

    assert answer.status_code == 200
    changed = answer.json
    assert changed["paused_at"] == changed["updated_at"] > endpoint["updated_at"]
    assert changed == {
        **endpoint,
        "name": "updated-name",
        "status": "PAUSED",
        "paused_at": changed["paused_at"],
        "pause_reason": "user",
        "updated_at": changed["updated_at"],
    }
    assert acme.get(endpoint.path).json == changed


@pytest.mark.parametrize("stands", ["2040-01-01T00:00:00.000041", "2039-12-31T23:59:59.999999"], ids=["41", "carry"])
def test_every_change_moves_updated_at_though_the_clock_goes_back(host, acme, webhook_clock, stands):
    stands_at = datetime.fromisoformat(stands).replace(tzinfo=UTC)
    endpoint = create_endpoint(acme)
    with host.app.app_context():
        host.db.session.execute(sa.update(WebhookEndpoint).values(updated_at=stands_at))
        host.db.session.commit()
    changes = [
        lambda: acme.patch(endpoint.path, json={"name": "m"}),
        lambda: acme.post(f"{endpoint.path}/secret/rotate"),
        lambda: acme.patch(endpoint.path, json={"status": "PAUSED"}),
    ]

    for number, change in enumerate(changes, start=1):
        answer = change()
        shown = acme.get(endpoint.path)
        later = stands_at + timedelta(microseconds=number)
        assert shown.json["updated_at"] == format_time(later)
        if "updated_at" in answer.json:
            assert (answer.data, answer.headers["ETag"]) == (shown.data, shown.headers["ETag"])
        webhook_clock.move(hours=-1)
    assert acme.patch(endpoint.path, json={}).data == shown.data


def test_delete_is_for_good(acme):
    endpoint, other = create_endpoint(acme), create_endpoint(acme)

    answer = acme.delete(endpoint.path)

    assert (answer.status_code, answer.data) == (204, b"")
    assert acme.get(endpoint.path).status_code == 404
    assert acme.patch(endpoint.path, json={"name": "x"}).status_code == 404
    assert acme.delete(endpoint.path).status_code == 404
    assert acme.get("/v1/endpoints").json == [other]


def test_problems_are_problem_documents(acme):
    answer = acme.post("/v1/endpoints", json={"name": "", "url": "ftp://example.com"})

    assert answer.status_code == 422
    assert answer.content_type == "application/problem+json"
    assert answer.json == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "Some fields are not valid; see errors.",
        "code": "invalid_fields",
        "errors": {
            "name": ["Length must be between 1 and 255.", "Must not be only white space."],
            "url": ["Must be an absolute URL that starts with http:// or https://."],
        },
    }


ANSWERS = {"OPTIONS": 204, "POST": 405, "PUT": 405}
"""What asks for nothing of an endpoint; everything else is 404."""
BELOW = (
    "",
    "/secret",
    "/secret/rotate",
    "/ping",
    "/deliveries",
    "/deliveries/dlv_0",
    "/deliveries/dlv_0/redeliver",
    "/",
)
CONDITIONS = ({}, {"If-Match": '"1"'}, {"If-Match": '"9"'}, {"If-None-Match": '"1"'}, {"Idempotency-Key": "k"})
BODIES = ({"json": {}}, {"json": {"name": "mine now"}}, {"json": {"secret": 1}}, {"data": "{"})


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PATCH", "DELETE", "POST", "PUT"])
def test_a_foreign_id_and_an_unknown_id_give_equal_bytes(acme, globex, method):
    endpoint = create_endpoint(acme)
    shown, secret = acme.get(endpoint.path).data, acme.get(f"{endpoint.path}/secret").data
    unknown = "/v1/endpoints/ep_00000000-0000-7000-8000-000000000000"

    for suffix in BELOW:
        for headers in CONDITIONS:
            for body in BODIES if method in ("PATCH", "POST") else ({},):
                foreign = globex.open(endpoint.path + suffix, method=method, headers=headers, **body)
                nobodys = globex.open(unknown + suffix, method=method, headers=headers, **body)
                assert (foreign.status_code, foreign.data) == (nobodys.status_code, nobodys.data)
                assert list(foreign.headers) == list(nobodys.headers)
                assert foreign.status_code in {404, 405, 422, 400, 415} or method == "OPTIONS"

    assert globex.open(endpoint.path, method=method, json={}).status_code == ANSWERS.get(method, 404)
    assert acme.get(endpoint.path).data == shown
    assert acme.get(f"{endpoint.path}/secret").data == secret


@pytest.mark.parametrize(("method", "suffix"), [("GET", "/secret"), ("POST", "/secret/rotate")], ids=["read", "rotate"])
def test_a_secret_is_its_tenants_alone(acme, globex, method, suffix):
    endpoint = create_endpoint(acme)
    secret = acme.get(f"{endpoint.path}/secret").json

    foreign = globex.open(endpoint.path + suffix, method=method)

    assert foreign.status_code == 404
    assert acme.get(f"{endpoint.path}/secret").json == secret


def test_a_tenant_sees_its_own_endpoints_alone(acme, globex):
    mine, theirs = create_endpoint(acme), create_endpoint(globex)

    assert acme.get("/v1/endpoints").json == [mine]
    assert globex.get("/v1/endpoints").json == [theirs]


def test_nobody_is_asked_to_authenticate(host):
    answer = host.client(None).get("/v1/endpoints")

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.content_type == "application/problem+json"


def test_the_quota_holds_for_each_tenant(host, acme, globex):
    state = state_of(host.app)
    settings = dataclasses.replace(state.settings, max_endpoints_per_tenant=2)
    host.app.extensions["webhook_endpoints"] = dataclasses.replace(state, settings=settings)
    kept = [create_endpoint(acme), create_endpoint(acme)]

    refused = acme.post("/v1/endpoints", json=REQUEST)

    assert refused.status_code == 409
    assert acme.get("/v1/endpoints").json == kept
    create_endpoint(globex)
    acme.delete(kept[0].path)
    create_endpoint(acme)


def test_a_generated_secret_is_a_standard_webhooks_key(acme):
    answer = acme.get(create_endpoint(acme).path + "/secret")

    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", answer.json["secret"])
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["previous_expires_at"] is None


def test_a_given_secret_is_kept_as_given(acme):
    endpoint = create_endpoint(acme, secret="whsec_your_signing_secret")

    assert acme.get(f"{endpoint.path}/secret").json["secret"] == "whsec_your_signing_secret"


def test_rotation_puts_another_secret_in_force_with_an_overlap(acme):
    endpoint = create_endpoint(acme)
    old = acme.get(f"{endpoint.path}/secret").json

    rotated = acme.post(f"{endpoint.path}/secret/rotate", json={"overlap_seconds": 60})

    assert rotated.status_code == 200
    assert rotated.headers["Cache-Control"] == "no-store"
    assert rotated.json["secret"] != old["secret"]
    assert rotated.json["previous_expires_at"] > rotated.json["created_at"] > old["created_at"]
    assert acme.get(f"{endpoint.path}/secret").json == rotated.json
    assert acme.get(endpoint.path).json["updated_at"] > endpoint["updated_at"]


def test_rotation_without_overlap_drops_the_old_secret(acme):
    endpoint = create_endpoint(acme)

    rotated = acme.post(
        f"{endpoint.path}/secret/rotate", json={"secret": "a newer secret of mine", "overlap_seconds": 0}
    )

    assert rotated.json["secret"] == "a newer secret of mine"
    assert rotated.json["previous_expires_at"] is None


@pytest.mark.parametrize(("first", "then"), [(60, 0), (3600, 60), (60, 3600)])
def test_a_rotation_answers_until_when_any_old_secret_signs_along(acme, first, then):
    endpoint = create_endpoint(acme)
    earlier = acme.post(f"{endpoint.path}/secret/rotate", json={"overlap_seconds": first}).json

    rotated = acme.post(f"{endpoint.path}/secret/rotate", json={"overlap_seconds": then}).json

    assert acme.get(f"{endpoint.path}/secret").json == rotated
    assert (rotated["previous_expires_at"] is None) == (then == 0)
    assert (rotated["previous_expires_at"] == earlier["previous_expires_at"]) == (first == 3600)


def test_patching_the_secret_rotates_with_the_default_overlap(acme):
    endpoint = create_endpoint(acme)

    acme.patch(endpoint.path, json={"secret": "a newer secret of mine"})

    shown = acme.get(f"{endpoint.path}/secret").json
    assert shown["secret"] == "a newer secret of mine"
    assert shown["previous_expires_at"][:10] > shown["created_at"][:10]


def test_etags_guard_against_lost_updates(acme):
    endpoint = create_endpoint(acme)
    stale = acme.get(endpoint.path).headers["ETag"]
    fresh = acme.patch(endpoint.path, json={"name": "first"}, headers={"If-Match": stale})

    refused = acme.patch(endpoint.path, json={"name": "second"}, headers={"If-Match": stale})

    assert fresh.status_code == 200
    assert refused.status_code == 412
    assert acme.delete(endpoint.path, headers={"If-Match": stale}).status_code == 412
    assert acme.patch(endpoint.path, json={}, headers={"If-Match": stale}).status_code == 412
    assert acme.get(endpoint.path).json["name"] == "first"
    assert acme.delete(endpoint.path, headers={"If-Match": fresh.headers["ETag"]}).status_code == 204


@on_sqlite
@pytest.mark.parametrize("tag", ['""', '"01"', 'W/"01"', '"é"', ",", " "])
def test_an_odd_etag_matches_no_version(acme, tag):
    # `If-Match: ""` was a 500.
    endpoint = acme.post("/v1/endpoints", json={"name": "n", "url": "https://example.com/"})
    path = endpoint.headers["Location"]

    assert acme.patch(path, json={"name": "m"}, headers={"If-Match": tag}).status_code == 412
    assert acme.delete(path, headers={"If-Match": tag}).status_code == 412
    assert acme.get(path).json == endpoint.json


def test_an_unchanged_endpoint_is_not_sent_again(acme):
    endpoint = create_endpoint(acme)
    etag = acme.get(endpoint.path).headers["ETag"]

    unchanged = acme.get(endpoint.path, headers={"If-None-Match": etag})

    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert unchanged.headers["ETag"] == etag
    acme.patch(endpoint.path, json={"name": "x"})
    assert acme.get(endpoint.path, headers={"If-None-Match": etag}).status_code == 200


def test_a_repeated_idempotency_key_gets_the_first_answer(acme, globex):
    headers = {"Idempotency-Key": "a key"}
    first = acme.post("/v1/endpoints", json=REQUEST, headers=headers)
    acme.patch(Endpoint(first.json).path, json={"name": "changed"})

    again = acme.post("/v1/endpoints", json=REQUEST, headers=headers)

    assert (again.status_code, again.data) == (201, first.data)
    assert list(again.headers) == [*first.headers, ("Idempotent-Replayed", "true")]
    assert len(acme.get("/v1/endpoints").json) == 1
    assert acme.post("/v1/endpoints", json={**REQUEST, "name": "other"}, headers=headers).status_code == 422
    assert globex.post("/v1/endpoints", json=REQUEST, headers=headers).json["id"] != first.json["id"]


def test_options_names_the_methods(acme):
    answer = acme.options("/v1/endpoints")

    assert answer.status_code == 204
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


@pytest.mark.parametrize("method", ["PUT", "TRACE", "BREW"])
def test_other_methods_are_problem_documents_too(acme, method):
    answer = acme.open("/v1/endpoints", method=method)

    assert answer.status_code == 405
    assert answer.content_type == "application/problem+json"
    assert "POST" in answer.headers["Allow"]
