"""Any order of requests, against a model of plain dicts."""

import itertools
import os
from contextlib import closing
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test
from werkzeug.test import TestResponse

from tests.support import hosts

PATH = "/v1/endpoints"
QUOTA = 4
# The full run of continuous integration sets 500.
EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "25"))

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9).filter(str.strip),
    "url": st.sampled_from(["https://example.com/", "http://8.8.8.8:8080/a?b=c", "https://xn--bcher-kva.example/%20"]),
    "headers_json": st.none() | st.dictionaries(st.sampled_from(["X-A", "X-B"]), st.text("aé ", max_size=3)),
    "timeout_seconds": st.integers(1, 30),
    "event_types": st.none() | st.lists(st.sampled_from(["a", "a.b", "a.*"]), min_size=1, max_size=2, unique=True),
    "description": st.none() | st.sampled_from(["", "two\nlines"]),
    "metadata": st.dictionaries(st.sampled_from(["a", "b"]), st.text("aé ", max_size=3)),
    "secret": st.sampled_from(["whsec_your_signing_secret", "another signing secret", "a third signing secret"]),
}
REFUSED = st.sampled_from([{"name": ""}, {"url": "ftp://a"}, {"timeout_seconds": 0}, {"colour": 1}, {"id": "ep_1"}])
STATUSES = st.sampled_from(["ACTIVE", "PAUSED"])
TENANTS = st.sampled_from(["acme", "ACME "])
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("event_types", "paused_at", "description", "pause_reason", "failing_since")),
    "headers_json": {},
    "timeout_seconds": 10,
    "status": "ACTIVE",
    "metadata": {},
}


def new_endpoints() -> st.SearchStrategy[dict[str, Any]]:
    required = {name: FIELDS[name] for name in ("name", "url")}
    return st.fixed_dictionaries(required, optional={name: FIELDS[name] for name in FIELDS if name not in required})


def changes() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={**FIELDS, "status": STATUSES})


def test_the_api_does_as_the_model_says_in_any_order_of_requests(database):
    with closing(hosts.flask_sqlalchemy(database, max_endpoints_per_tenant=QUOTA)) as host:
        lives = itertools.count()
        run_state_machine_as_test(
            lambda: Machine(host, next(lives)),
            settings=settings(max_examples=EXAMPLES, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
        )


class Machine(RuleBasedStateMachine):
    """Asks the API and the model, as two tenants whose names differ little."""

    endpoints = Bundle("endpoints")
    """Ids, of endpoints that may be gone by now."""

    def __init__(self, host: hosts.Host, life: int) -> None:
        super().__init__()
        self.host = host
        self.life = life
        # Tenant to id to endpoint, oldest first; beside what is shown: `version`, `secret`.
        self.model: dict[str, dict[str, dict[str, Any]]] = {"acme": {}, "ACME ": {}}
        self.keys: dict[tuple[str, str], tuple[dict[str, Any], TestResponse]] = {}

    def ask(self, tenant: str, method: str, path: str = "", **arguments: Any) -> TestResponse:
        # Each run has tenants of its own, so that one database does for all.
        return self.host.client(f"{self.life} {tenant}").open(PATH + path, method=method, **arguments)

    def known(self, tenant: str, ep_id: str, answer: TestResponse) -> dict[str, Any] | None:
        """Return the tenant's endpoint of the model; without one, check that the answer says so."""
        endpoint = self.model[tenant].get(ep_id)
        if endpoint is None:
            assert answer.status_code == 404
        return endpoint

    def check(self, answer: TestResponse, endpoint: dict[str, Any], status: int = 200) -> None:
        assert answer.status_code == status
        assert answer.json == shown(endpoint)
        assert answer.headers["ETag"] == f'"{endpoint["version"]}"'

    @rule(target=endpoints, tenant=TENANTS, fields=new_endpoints(), key=st.none() | st.sampled_from("kK"))
    def create(self, tenant: str, fields: dict[str, Any], key: str | None) -> str:
        answer = self.ask(tenant, "POST", json=fields, headers={} if key is None else {"Idempotency-Key": key})
        if key is not None and (tenant, key) in self.keys:
            first_fields, first = self.keys[tenant, key]
            if fields == first_fields:
                assert (answer.status_code, answer.data) == (201, first.data)
            else:
                assert answer.status_code == 422
            return first.json["id"]
        if len(self.model[tenant]) == QUOTA:
            assert answer.status_code == 409
            return next(iter(self.model[tenant]))
        times = {name: answer.json[name] for name in ("id", "created_at", "updated_at")}
        assert times["created_at"] == times["updated_at"]
        endpoint = {**DEFAULTS, **fields, **times, "version": 1}
        endpoint["headers_json"] = endpoint["headers_json"] or {}
        self.check(answer, endpoint, 201)
        self.model[tenant][answer.json["id"]] = endpoint
        if key is not None:
            self.keys[tenant, key] = fields, answer
        return answer.json["id"]

    @rule(tenant=TENANTS, ep_id=endpoints, fields=changes(), match=st.sampled_from(["no", "*", "right", "stale"]))
    def update(self, tenant: str, ep_id: str, fields: dict[str, Any], match: str) -> None:
        version = self.model[tenant].get(ep_id, {}).get("version", 1)
        headers = {"no": {}, "*": {"If-Match": "*"}, "right": {"If-Match": f'"0", "{version}"'}}
        answer = self.ask(
            tenant, "PATCH", f"/{ep_id}", json=fields, headers=headers.get(match, {"If-Match": f'"{version + 1}"'})
        )
        endpoint = self.known(tenant, ep_id, answer)
        if endpoint is None:
            return
        if match == "stale":
            assert answer.status_code == 412
            return
        if fields:
            was_paused_at = endpoint["paused_at"]
            endpoint |= {**fields, "headers_json": fields.get("headers_json", endpoint["headers_json"]) or {}}
            endpoint["version"] += 1
            assert answer.json["updated_at"] > endpoint["updated_at"]
            endpoint["updated_at"] = answer.json["updated_at"]
            if endpoint["status"] == "ACTIVE":
                endpoint["paused_at"] = endpoint["pause_reason"] = None
            else:
                endpoint["pause_reason"] = "user"
                endpoint["paused_at"] = was_paused_at or endpoint["updated_at"]
        self.check(answer, endpoint)

    @rule(tenant=TENANTS, ep_id=endpoints, fields=REFUSED)
    def update_wrongly(self, tenant: str, ep_id: str, fields: dict[str, Any]) -> None:
        answer = self.ask(tenant, "PATCH", f"/{ep_id}", json={"name": "not this", **fields})
        assert answer.status_code == 422
        assert list(answer.json["errors"]) == list(fields)

    @rule(tenant=TENANTS, ep_id=endpoints)
    def pause(self, tenant: str, ep_id: str) -> None:
        self.update(tenant, ep_id, {"status": "PAUSED"}, "no")

    @rule(tenant=TENANTS, ep_id=endpoints)
    def resume(self, tenant: str, ep_id: str) -> None:
        self.update(tenant, ep_id, {"status": "ACTIVE"}, "no")

    @rule(tenant=TENANTS, ep_id=endpoints, secret=st.none() | FIELDS["secret"], overlap=st.sampled_from([0, 60]))
    def rotate(self, tenant: str, ep_id: str, secret: str | None, overlap: int) -> None:
        body = {"overlap_seconds": overlap} if secret is None else {"overlap_seconds": overlap, "secret": secret}
        answer = self.ask(tenant, "POST", f"/{ep_id}/secret/rotate", json=body)
        endpoint = self.known(tenant, ep_id, answer)
        if endpoint is not None:
            assert answer.status_code == 200
            assert secret in (None, answer.json["secret"])
            endpoint["secret"] = answer.json["secret"]
            endpoint["version"] += 1
            endpoint["updated_at"] = answer.json["created_at"]

    @rule(tenant=TENANTS, ep_id=endpoints)
    def read_secret(self, tenant: str, ep_id: str) -> None:
        answer = self.ask(tenant, "GET", f"/{ep_id}/secret")
        endpoint = self.known(tenant, ep_id, answer)
        if endpoint is not None:
            # A generated one is known from its first reading on.
            assert answer.json["secret"] == endpoint.setdefault("secret", answer.json["secret"])

    @rule(tenant=TENANTS, ep_id=endpoints, match=st.sampled_from(["no", "right", "stale"]))
    def read(self, tenant: str, ep_id: str, match: str) -> None:
        version = self.model[tenant].get(ep_id, {}).get("version", 1)
        headers = {"no": {}, "right": {"If-None-Match": f'W/"{version}"'}, "stale": {"If-None-Match": '"0"'}}[match]
        answer = self.ask(tenant, "GET", f"/{ep_id}", headers=headers)
        endpoint = self.known(tenant, ep_id, answer)
        if endpoint is not None and match == "right":
            assert (answer.status_code, answer.data) == (304, b"")
        elif endpoint is not None:
            self.check(answer, endpoint)

    @rule(tenant=TENANTS, ep_id=endpoints, match=st.sampled_from(["no", "*", "right", "stale"]))
    def delete_if(self, tenant: str, ep_id: str, match: str) -> None:
        version = self.model[tenant].get(ep_id, {}).get("version", 1)
        headers = {"no": {}, "*": {"If-Match": "*"}, "right": {"If-Match": f'"{version}"'}}
        answer = self.ask(tenant, "DELETE", f"/{ep_id}", headers=headers.get(match, {"If-Match": f'"{version + 1}"'}))
        if self.known(tenant, ep_id, answer) is None:
            return
        if match == "stale":
            assert answer.status_code == 412
        else:
            assert (answer.status_code, answer.data) == (204, b"")
            del self.model[tenant][ep_id]

    @rule(tenant=TENANTS, status=st.none() | STATUSES, limit=st.none() | st.integers(1, QUOTA + 1))
    def list_pages(self, tenant: str, status: str | None, limit: int | None) -> None:
        expected = [shown(e) for e in self.model[tenant].values() if status in (None, e["status"])]
        query = {name: str(value) for name, value in (("status", status), ("limit", limit)) if value is not None}
        answer = self.ask(tenant, "GET", query_string=query)
        seen = answer.json
        while "Link" in answer.headers:
            assert len(answer.json) == limit
            link = answer.headers["Link"].removeprefix(f"<http://localhost{PATH}").removesuffix('>; rel="next"')
            answer = self.ask(tenant, "GET", link)
            seen += answer.json
        assert seen == expected

    def teardown(self) -> None:
        for tenant, endpoints in self.model.items():
            assert self.ask(tenant, "GET").json == [shown(endpoint) for endpoint in endpoints.values()]


def shown(endpoint: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in endpoint.items() if name not in ("secret", "version")}
