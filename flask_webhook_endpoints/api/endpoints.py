"""The HTTP face: `/v1/endpoints`. A view says who asks, reads the request, operates and answers.

Source: RFC 9110 (conditional requests, methods), RFC 9457 (problem documents), RFC 8288 (`Link`).
"""

from collections.abc import Iterator

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import PathConverter

from flask_webhook_endpoints import access, signals
from flask_webhook_endpoints.api import deliveries, endpoint_schemas, openapi, responses
from flask_webhook_endpoints.api.openapi import Route
from flask_webhook_endpoints.database import transactions
from flask_webhook_endpoints.errors import MethodNotAllowed, Problem, QuotaExceeded, UnknownPath, UnreadableSecret
from flask_webhook_endpoints.state import current_state

_endpoint_query = endpoint_schemas.EndpointQuery()
_new_secret = endpoint_schemas.NewSecret()


def list_endpoints() -> Response:
    """List all endpoints of the tenant, oldest first.

    With `limit`, a page of them; the `Link` header names the next.
    """
    state, tenant_id = access.enter("list")
    query = responses.load(_endpoint_query, request.args.to_dict())
    limit = query.pop("limit", None)
    page = transactions.read(
        state.host.session(),
        lambda session: state.endpoints.page(session, tenant_id, limit=limit and limit + 1, **query),
    )
    return responses.page_answer([endpoint_schemas.show(endpoint) for endpoint in page], limit=limit)


def create_endpoint() -> Response:
    """Register an endpoint.

    Without a `secret` one is made: 32 random bytes, which can be read at `…/secret`.
    """
    state, tenant_id = access.enter("create")
    body = responses.read_body()
    fields = responses.load(state.new_endpoint, body)
    key = responses.idempotency_key(body)
    del body  # a traceback of what follows may show local variables
    changed = transactions.write(
        state.host.session(),
        lambda session: state.endpoints.create(session, tenant_id, fields, now=state.now(), idempotency_key=key),
    )
    signals.send_changed(tenant_id, changed)
    endpoint = changed.endpoint
    response = responses.endpoint_answer(endpoint, status=201)
    response.headers["Location"] = f"{responses.own_path()}/{endpoint.id}"
    return response


def read_endpoint(ep_id: str) -> Response:
    """Read one endpoint."""
    (state, tenant_id), endpoint_id = access.enter_one("read", ep_id)
    endpoint = transactions.read(
        state.host.session(), lambda session: state.endpoints.get(session, tenant_id, endpoint_id)
    )
    response = responses.endpoint_answer(endpoint)
    if "HTTP_IF_NONE_MATCH" in request.environ and request.if_none_match.contains_weak(response.get_etag()[0] or ""):
        response.status_code = 304
        response.set_data(b"")
    return response


def update_endpoint(ep_id: str) -> Response:
    """Change the fields that the body names; pause or resume with `status`.

    What is absent stays, so that `{}` changes nothing; `headers_json` and `event_types` are replaced whole. The secret
    before a new `secret` signs along for a day.
    """
    (state, tenant_id), endpoint_id = access.enter_one("update", ep_id)
    fields = responses.load(state.endpoint_changes, responses.read_body())
    versions = responses.if_match()
    changed = transactions.write(
        state.host.session(),
        lambda session: state.endpoints.update(
            session, tenant_id, endpoint_id, fields, now=state.now(), versions=versions
        ),
    )
    signals.send_changed(tenant_id, changed)
    return responses.endpoint_answer(changed.endpoint)


def delete_endpoint(ep_id: str) -> Response:
    """Delete an endpoint and its secrets for good."""
    (state, tenant_id), endpoint_id = access.enter_one("delete", ep_id)
    versions = responses.if_match()
    transactions.write(
        state.host.session(),
        lambda session: state.endpoints.delete(session, tenant_id, endpoint_id, now=state.now(), versions=versions),
    )
    signals.send_deleted(tenant_id, endpoint_id)
    return responses.empty_answer()


def read_secret(ep_id: str) -> Response:
    """Read the signing secret in force."""
    (state, tenant_id), endpoint_id = access.enter_one("read_secret", ep_id)
    in_force = transactions.read(
        state.host.session(),
        lambda session: state.endpoints.secrets.in_force(session, tenant_id, endpoint_id, now=state.now()),
    )
    return responses.secret_answer(in_force)


def rotate_secret(ep_id: str) -> Response:
    """Put another signing secret in force; the one before signs along for `overlap_seconds`."""
    (state, tenant_id), endpoint_id = access.enter_one("rotate_secret", ep_id)
    fields = responses.load(_new_secret, responses.read_body(optional=True))
    in_force, changed = transactions.write(
        state.host.session(),
        lambda session: state.endpoints.rotate_secret(session, tenant_id, endpoint_id, now=state.now(), **fields),
    )
    signals.send_changed(tenant_id, changed)
    return responses.secret_answer(in_force)


def read_openapi() -> Response:
    """Read this document: the API as OpenAPI 3.1."""
    mounted_at = responses.own_path().removesuffix(openapi.PATH)
    response = responses.json_answer(current_state().openapi(mounted_at or "/"))
    response.headers["Cache-Control"] = "public, max-age=300"
    return response


ROUTES = (
    Route(
        method="GET",
        path="/v1/endpoints",
        view=list_endpoints,
        tag="endpoints",
        query=endpoint_schemas.EndpointQuery,
        answer=endpoint_schemas.EndpointShown,
        many=True,
        answer_headers=("Cache-Control", "Link"),
    ),
    Route(
        method="POST",
        path="/v1/endpoints",
        view=create_endpoint,
        tag="endpoints",
        headers=("Idempotency-Key",),
        body=endpoint_schemas.NewEndpoint,
        status=201,
        answer=endpoint_schemas.EndpointShown,
        answer_headers=("Cache-Control", "ETag", "Location"),
        problems=(QuotaExceeded,),
    ),
    Route(
        method="GET",
        path="/v1/endpoints/<ep_id>",
        view=read_endpoint,
        tag="endpoints",
        headers=("If-None-Match",),
        answer=endpoint_schemas.EndpointShown,
        answer_headers=("Cache-Control", "ETag"),
    ),
    Route(
        method="PATCH",
        path="/v1/endpoints/<ep_id>",
        view=update_endpoint,
        tag="endpoints",
        headers=("If-Match",),
        body=endpoint_schemas.EndpointChanges,
        answer=endpoint_schemas.EndpointShown,
        answer_headers=("Cache-Control", "ETag"),
    ),
    Route(
        method="DELETE",
        path="/v1/endpoints/<ep_id>",
        view=delete_endpoint,
        tag="endpoints",
        headers=("If-Match",),
        status=204,
    ),
    Route(
        method="GET",
        path="/v1/endpoints/<ep_id>/secret",
        view=read_secret,
        tag="secrets",
        answer=endpoint_schemas.SecretShown,
        answer_headers=("Cache-Control",),
        problems=(UnreadableSecret,),
    ),
    Route(
        method="POST",
        path="/v1/endpoints/<ep_id>/secret/rotate",
        view=rotate_secret,
        tag="secrets",
        body=endpoint_schemas.NewSecret,
        body_required=False,
        answer=endpoint_schemas.SecretShown,
        answer_headers=("Cache-Control",),
    ),
    *deliveries.ROUTES,
    Route(
        method="GET",
        path=openapi.PATH,
        view=read_openapi,
        tag="description",
        public=True,
        answer_headers=("Cache-Control",),
    ),
)


class _Rest(PathConverter):
    """Whatever follows in a path; the dot of werkzeug's own does not match a line feed."""

    regex = r"[^/][\s\S]*?"


_BELOW = "/v1/endpoints/<webhook_endpoints_rest:rest>"


def add_routes(blueprint: Blueprint) -> None:
    """Give `blueprint` our routes, and our answers to what falls beside them below `/v1/endpoints`."""
    blueprint.record(_know_rest)
    for route in ROUTES:
        blueprint.add_url_rule(
            route.path,
            route.view.__name__,
            route.view,
            methods=[route.method],
            provide_automatic_options=False,
        )
    for path in dict.fromkeys(route.path for route in ROUTES):
        # Defaults that differ: from one of two rules with the same, routing redirects to the other.
        blueprint.add_url_rule(
            path, "other_method", _other_method, defaults={"path": path}, provide_automatic_options=False
        )
    for path in ("/v1/endpoints/", _BELOW):
        blueprint.add_url_rule(path, "unknown_path", _unknown_path, provide_automatic_options=False)
    # A request to become a WebSocket meets the rules for WebSockets alone.
    for path in ("/v1/endpoints", "/v1/endpoints/", _BELOW):
        blueprint.add_url_rule(path, "no_websocket", _unknown_path, provide_automatic_options=False, websocket=True)
    blueprint.record(_take_every_method)
    blueprint.register_error_handler(Problem, responses.problem_answer)


def _allowed(path: str) -> Iterator[str]:
    yield "OPTIONS"
    for route in ROUTES:
        if route.path == path:
            yield route.method
            if route.method == "GET":
                yield "HEAD"


def _other_method(path: str, **_: str) -> Response:
    allowed = sorted(_allowed(path))
    if request.method == "OPTIONS":
        return responses.empty_answer(Allow=", ".join(allowed))
    raise MethodNotAllowed(allowed)


def _unknown_path(rest: str = "") -> Response:
    raise UnknownPath


def _know_rest(setup: BlueprintSetupState) -> None:
    setup.app.url_map.converters["webhook_endpoints_rest"] = _Rest


def _take_every_method(setup: BlueprintSetupState) -> None:
    # A 405 or 404 that routing raises never reaches a blueprint, so these rules must match whatever the method.
    for name in ("other_method", "unknown_path", "no_websocket"):
        for rule in setup.app.url_map.iter_rules(f"{setup.name_prefix}.{setup.name}.{name}".lstrip(".")):
            rule.methods = None
