"""The views of endpoints and their secrets, below `/v1/endpoints`.

Source: RFC 9110 section 13 (conditional requests).
"""

from functools import partial

from flask import Response

from flask_webhook_endpoints import access, signals
from flask_webhook_endpoints.api import idempotency, openapi, requests, responses
from flask_webhook_endpoints.api.endpoint_schemas import (
    EndpointChanges,
    EndpointInput,
    EndpointQuery,
    EndpointShown,
    SecretInput,
    SecretShown,
)
from flask_webhook_endpoints.api.openapi import Route
from flask_webhook_endpoints.core import endpoint_lists, endpoints, headers, secrets
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.errors import QuotaExceeded, Referenced, StaleEndpoint, UnreadableSecret

ROUTES: list[Route] = []

_endpoints = partial(openapi.route, ROUTES, tag="endpoints")
_secrets = partial(openapi.route, ROUTES, tag="secrets")

_ALL = "/v1/endpoints"
_ONE = f"{_ALL}/<ep_id>"
_CONDITIONS = ("If-Match", "If-None-Match")

_endpoint_query = EndpointQuery()


@_endpoints("GET", _ALL, query=EndpointQuery, answer=EndpointShown, many=True)
def list_endpoints() -> Response:
    """List all endpoints of the tenant, oldest first.

    With `limit`, the answer is a page, and its `Link` header names the next page.
    """
    caller = access.enter("list")
    sees_headers = caller.may("read_headers")
    query = requests.read_query(_endpoint_query)
    limit, cipher = query.pop("limit", None), caller.state.cipher
    page = caller.run(
        lambda scope: endpoint_lists.page(scope, limit=limit and limit + 1, cipher=cipher, **query), commit=False
    )
    return responses.endpoints_answer(page, headers=sees_headers, limit=limit)


@_endpoints(
    "POST",
    _ALL,
    body=EndpointInput,
    status=201,
    answer=EndpointShown,
    problems=(QuotaExceeded,),
)
def create_endpoint() -> Response:
    """Create an endpoint.

    Without a `secret` the endpoint gets a generated one of 32 random bytes. Read it at `…/secret`.
    """
    caller = access.enter("create")
    sees_headers = caller.may("read_headers")
    body = requests.read_body()
    fields = requests.load_body(caller.state.new_endpoint, body)
    if not sees_headers:
        # There are no stored values yet, which a hidden value could keep.
        headers.keep_hidden(fields["headers_json"], None)
    cipher, quota = caller.state.cipher, caller.state.settings.max_endpoints_per_tenant
    response = idempotency.run_once(
        caller,
        body,
        lambda scope: endpoints.create(scope, fields, quota=quota, cipher=cipher),
        lambda changed: responses.created_answer(changed.endpoint, headers=sees_headers),
        then=partial(signals.send_changed, caller.tenant_id),
    )
    # The first answer may have been that of a user who may read them.
    return response if sees_headers else responses.without_header_values(response)


@_endpoints("GET", _ONE, headers=_CONDITIONS, answer=EndpointShown)
def read_endpoint(ep_id: str) -> Response:
    """Read one endpoint."""
    caller, endpoint_id = access.enter_one("read", ep_id)
    sees_headers = caller.may("read_headers", ep_id)
    wanted, cipher = requests.if_match(), caller.state.cipher
    endpoint = caller.run(lambda scope: endpoints.get(scope, endpoint_id, cipher=cipher), commit=False)
    if wanted is not None and endpoint.version not in wanted:
        raise StaleEndpoint
    return responses.unless_known(responses.endpoint_answer(endpoint, headers=sees_headers), responses.tag_of(endpoint))


@_endpoints("PATCH", _ONE, headers=_CONDITIONS, body=EndpointChanges, answer=EndpointShown)
def update_endpoint(ep_id: str) -> Response:
    """Change the fields that the body names; pause or resume with `status`.

    Absent fields stay as they are, so `{}` changes nothing. `headers_json` and `event_types` are replaced as a whole.
    After a new `secret`, deliveries are also signed with the previous secret for a day. Where the answer shows `***`
    for the values of headers, `***` keeps the stored value of that name.
    """
    caller, endpoint_id = access.enter_one("update", ep_id)
    sees_headers = caller.may("read_headers", ep_id)
    fields = requests.load_body(caller.state.endpoint_changes, requests.read_body())
    if "secret" in fields:
        caller.check("rotate_secret", ep_id)
    versions, cipher = requests.allowed_versions(), caller.state.cipher
    changed = caller.run(
        lambda scope: endpoints.update(
            scope, endpoint_id, fields, versions=versions, keeps_hidden=not sees_headers, cipher=cipher
        ),
        commit=True,
    )
    signals.send_changed(caller.tenant_id, changed)
    return responses.endpoint_answer(changed.endpoint, headers=sees_headers)


@_endpoints("DELETE", _ONE, headers=_CONDITIONS, status=204, problems=(Referenced,))
def delete_endpoint(ep_id: str) -> Response:
    """Delete an endpoint and its secrets for good."""
    caller, endpoint_id = access.enter_one("delete", ep_id)
    versions = requests.allowed_versions()
    with transactions.deleting():
        caller.run(lambda scope: endpoints.delete(scope, endpoint_id, versions=versions), commit=True)
    signals.send_deleted(caller.tenant_id, endpoint_id)
    return responses.empty_answer()


@_secrets("GET", f"{_ONE}/secret", answer=SecretShown, problems=(UnreadableSecret,))
def read_secret(ep_id: str) -> Response:
    """Read the signing secret in force."""
    caller, endpoint_id = access.enter_one("read_secret", ep_id)
    cipher = caller.state.cipher
    in_force = caller.run(lambda scope: secrets.in_force(scope, endpoint_id, cipher=cipher), commit=False)
    return responses.secret_answer(in_force)


@_secrets("POST", f"{_ONE}/secret/rotate", body=SecretInput, body_required=False, answer=SecretShown)
def rotate_secret(ep_id: str) -> Response:
    """Put another signing secret in force; for `overlap_seconds`, deliveries are also signed with the previous one."""
    caller, endpoint_id = access.enter_one("rotate_secret", ep_id)
    body = requests.read_body(optional=True)
    fields = requests.load_body(caller.state.new_secret, body)
    cipher = caller.state.cipher
    return idempotency.run_once(
        caller,
        body,
        lambda scope: endpoints.rotate_secret(scope, endpoint_id, cipher=cipher, **fields),
        lambda rotated: responses.secret_answer(rotated[0]),
        then=lambda rotated: signals.send_changed(caller.tenant_id, rotated[1]),
    )
