"""The routes of the API on the blueprint, and the answers to any other method or path below `/v1/endpoints`.

Source: RFC 9110 section 15.5 (404, 405).
"""

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import PathConverter

from flask_webhook_endpoints.api import deliveries, endpoints, openapi, responses
from flask_webhook_endpoints.api.openapi import Route, route
from flask_webhook_endpoints.errors import MethodNotAllowed, Problem, UnknownPath
from flask_webhook_endpoints.state import current_state

ROUTES: list[Route] = [*endpoints.ROUTES, *deliveries.ROUTES]


@route(ROUTES, "GET", openapi.PATH, tag="description", public=True)
def read_openapi() -> Response:
    """Read this document: the API as OpenAPI 3.1."""
    mounted_at = responses.own_path().removesuffix(openapi.PATH)
    response = responses.json_answer(current_state().openapi(mounted_at or "/"))
    response.headers["Cache-Control"] = "public, max-age=300"
    return response


class _Rest(PathConverter):
    """The rest of a path, line feeds included, which werkzeug's own converter does not match."""

    regex = r"[^/][\s\S]*?"


_BELOW = "/v1/endpoints/<webhook_endpoints_rest:rest>"


def add_routes(blueprint: Blueprint) -> None:
    """Add our routes to the blueprint, and our answers to other methods and paths below `/v1/endpoints`."""
    blueprint.record(_add_converter)
    for each in ROUTES:
        blueprint.add_url_rule(
            each.path, each.view.__name__, each.view, methods=[each.method], provide_automatic_options=False
        )
    for path in dict.fromkeys(each.path for each in ROUTES):
        # Each rule needs defaults of its own, or werkzeug redirects from one to another with the same defaults.
        blueprint.add_url_rule(
            path, "other_method", _other_method, defaults={"path": path}, provide_automatic_options=False
        )
    for path in ("/v1/endpoints/", _BELOW):
        blueprint.add_url_rule(path, "unknown_path", _unknown_path, provide_automatic_options=False)
    # Werkzeug matches a request to become a WebSocket with the rules for WebSockets alone.
    for path in ("/v1/endpoints", "/v1/endpoints/", _BELOW):
        blueprint.add_url_rule(path, "no_websocket", _unknown_path, provide_automatic_options=False, websocket=True)
    blueprint.record(_take_every_method)
    blueprint.register_error_handler(Problem, responses.problem_answer)


def _other_method(path: str, **_: str) -> Response:
    methods = {"OPTIONS", *(each.method for each in ROUTES if each.path == path)}
    allowed = sorted(methods | {"HEAD"} if "GET" in methods else methods)
    if request.method == "OPTIONS":
        return responses.empty_answer(Allow=", ".join(allowed))
    raise MethodNotAllowed(allowed)


def _unknown_path(rest: str = "") -> Response:
    raise UnknownPath


def _add_converter(setup: BlueprintSetupState) -> None:
    setup.app.url_map.converters["webhook_endpoints_rest"] = _Rest


def _take_every_method(setup: BlueprintSetupState) -> None:
    # A 405 or 404 that routing raises never reaches a blueprint, so these rules must match every method.
    for name in ("other_method", "unknown_path", "no_websocket"):
        for rule in setup.app.url_map.iter_rules(f"{setup.name_prefix}.{setup.name}.{name}".lstrip(".")):
            rule.methods = None
