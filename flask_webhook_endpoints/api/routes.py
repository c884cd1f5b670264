"""The routes of the API, their schemas, and the answers to any other method or path below `/v1/endpoints`.

Source: RFC 9110 section 15.5 (404, 405).
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import PathConverter, Rule

from flask_webhook_endpoints import mounting
from flask_webhook_endpoints.api import (
    deliveries,
    delivery_schemas,
    endpoint_schemas,
    endpoints,
    event_type_schemas,
    event_types,
    openapi,
    responses,
    statistics,
)
from flask_webhook_endpoints.api.openapi import Route, route
from flask_webhook_endpoints.core.declarations import Declarations
from flask_webhook_endpoints.errors import MethodNotAllowed, Problem, UnknownPath
from flask_webhook_endpoints.security.egress import EgressPolicy
from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.state import current_state

ROUTES: list[Route] = [*endpoints.ROUTES, *event_types.ROUTES, *deliveries.ROUTES, *statistics.ROUTES]


def schemas(given: Settings, policy: EgressPolicy, declared: Declarations) -> dict[str, Any]:
    """Return the schemas of an application by their names in `State`. Several follow its settings and events."""
    return {
        "new_endpoint": endpoint_schemas.EndpointInput(given, policy, declared),
        "endpoint_changes": endpoint_schemas.EndpointChanges(given, policy, declared),
        "new_secret": endpoint_schemas.SecretInput(),
        "ping_input": event_type_schemas.PingInput(given, declared),
        "delivery_query": delivery_schemas.DeliveryQuery(),
        "recovery_input": delivery_schemas.RecoveryInput(),
    }


_COLLECTION = "/v1/endpoints"
_OTHER = "other_method"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")


@route(ROUTES, "GET", openapi.PATH, tag="description", headers=("If-None-Match",), public=True)
def read_openapi() -> Response:
    """Read this document: the API as OpenAPI 3.1.

    No login is needed, and pages of any site may read it.
    """
    mounted_at = responses.own_path().removesuffix(openapi.PATH)
    return responses.public_answer(current_state().openapi([{"url": mounted_at or "/"}]))


def add_routes(blueprint: Blueprint) -> None:
    """Add our routes to the blueprint, and our answers to other methods and paths below `/v1/endpoints`."""
    blueprint.record(_add_rules)
    mounting.keep_variables_of_host(blueprint, (each.path for each in ROUTES))
    blueprint.register_error_handler(Problem, responses.problem_answer)


def _add_rules(setup: BlueprintSetupState) -> None:
    setup.app.url_map.converters["webhook_endpoints_rest"] = _Rest
    host = mounting.host_of(setup, "blueprint", example="api.example.com")
    add = partial(setup.add_url_rule, host=host, provide_automatic_options=False)
    for each in ROUTES:
        view = mounting.with_own_variables(each.path, each.view)
        add(each.path, each.view.__name__, view, methods=[each.method])
    for path in dict.fromkeys(each.path for each in ROUTES if "<" not in each.path):
        # Each rule needs defaults of its own, or werkzeug redirects from one to another with the same defaults.
        add(path, _OTHER, _answer_other, defaults={"our_path": path})
    add(f"{_COLLECTION}/<webhook_endpoints_rest:our_rest>", _OTHER, _answer_other)
    if any(rule.strict_slashes for rule in _other_rules(setup)):
        add(f"{_COLLECTION}/", _OTHER, _answer_other)
    for rule in _other_rules(setup):
        rule.methods = _AllMethods(_METHODS)


def _other_rules(setup: BlueprintSetupState) -> Iterator[Rule]:
    return setup.app.url_map.iter_rules(f"{setup.name_prefix}.{setup.name}.{_OTHER}".lstrip("."))


class _Rest(PathConverter):
    """The rest of a path, line feeds included, which werkzeug's own converter does not match."""

    regex = r"[^/][\s\S]*?"


class _AllMethods(set[str]):
    """The known methods, for tools that walk the URL map; for routing, every other method is among them.

    A 405 or 404 that routing raises never reaches a blueprint's error handlers.
    """

    def __contains__(self, method: object) -> bool:
        return True


def _answer_other(our_path: str = f"{_COLLECTION}/", our_rest: str = "", **_: str) -> Response:
    """Answer a request that no route takes: 404 for its path, or else OPTIONS, or 405 for its method."""
    if request.url_rule is not None and not request.url_rule.strict_slashes:
        our_rest = our_rest.removesuffix("/")
    asked = our_path + our_rest
    # A path without ids is no endpoint's.
    methods = {each.method for each in ROUTES if each.path == asked} or {
        each.method for each in ROUTES if re.fullmatch(re.sub(r"<\w+>", "[^/]+", each.path), asked)
    }
    if not methods:
        raise UnknownPath
    methods |= {"OPTIONS", "HEAD"} if "GET" in methods else {"OPTIONS"}
    allowed = sorted(methods)
    if request.method == "OPTIONS":
        return responses.empty_answer(Allow=", ".join(allowed))
    raise MethodNotAllowed(allowed)
