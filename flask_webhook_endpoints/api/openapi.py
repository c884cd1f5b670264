"""The API as an OpenAPI document, made from the routes and the schemas that the views use.

Source: OpenAPI 3.1.1; JSON Schema 2020-12; RFC 9457 (problem documents).
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import EXCLUDE, Schema

from flask_webhook_endpoints import errors
from flask_webhook_endpoints.api import openapi_examples, openapi_fields, openapi_merge, openapi_webhooks, requests
from flask_webhook_endpoints.api.delivery_schemas import DeliveryShown
from flask_webhook_endpoints.api.endpoint_schemas import EndpointShown
from flask_webhook_endpoints.core.declarations import DeclaredEvent
from flask_webhook_endpoints.errors import Problem

View = TypeVar("View", bound=Callable[..., Any])

PATH = "/v1/openapi.json"

_OF_BODIES = (
    errors.InvalidRequest,
    errors.LengthRequired,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.UnsupportedCoding,
)
_OF_HEADERS = {
    "If-Match": (errors.StaleEndpoint,),
    "If-None-Match": (errors.InvalidRequest,),
    "Idempotency-Key": (errors.InvalidRequest, errors.IdempotencyKeyReused, errors.TooManyIdempotencyKeys),
}


@dataclass(frozen=True, kw_only=True)
class Route:
    """A method of a path, the view that serves it, and what the view reads and answers."""

    method: str
    path: str
    """As Flask writes it: `/v1/endpoints/<ep_id>`."""
    view: Callable[..., Any]
    """Its name is the operation's id, its docstring the summary and description."""
    tag: str
    public: bool = False
    """It answers without a tenant and without a database."""
    query: type[Schema] | None = None
    headers: Sequence[str] = ()
    """Names of the request headers that the view reads."""
    body: type[Schema] | None = None
    body_required: bool = True
    status: int = 200
    dry_status: int | None = None
    """The status of a request that only asks what would be done."""
    answer: type[Schema] | None = None
    many: bool = False
    """The answer is an array."""
    problems: Sequence[type[Problem]] = ()
    """Problems that do not follow from the path, the headers or the body."""


def route(routes: list[Route], method: str, path: str, **described: Any) -> Callable[[View], View]:
    """Add the decorated view to `routes`, described by the fields of `Route`."""
    if method == "POST":
        # Every one runs its operation by `idempotency.run_once`.
        described["headers"] = (*described.get("headers", ()), "Idempotency-Key")

    def add(view: View) -> View:
        routes.append(Route(method=method, path=path, view=view, **described))
        return view

    return add


Servers = Sequence[Mapping[str, Any]]
"""The URLs where the API is mounted, as OpenAPI's Server Objects."""


def cached_document(
    routes: Sequence[Route], bodies: Sequence[Schema], *, events: Iterable[DeclaredEvent], added: Mapping[str, Any]
) -> Callable[[Servers], dict[str, Any]]:
    """Return a function of the servers; it makes the document, with what the host has `added`, once."""
    made = cache(lambda: openapi_merge.with_additions(document(routes, bodies, events), added))
    # The host's own servers go first.
    return lambda servers: {"servers": list(servers), **made()}


def document(routes: Sequence[Route], bodies: Sequence[Schema], events: Iterable[DeclaredEvent] = ()) -> dict[str, Any]:
    """Return the document of these routes and events; `bodies` are the schemas that have limits of the application."""
    spec = APISpec(
        title="Webhook endpoints",
        version=version("flask-webhook-endpoints"),
        openapi_version="3.1.1",
        plugins=[plugin := MarshmallowPlugin()],
        info={"description": openapi_examples.DESCRIPTION},
        tags=[{"name": name, "description": description} for name, description in openapi_examples.TAGS.items()],
    )
    assert plugin.converter is not None  # noqa: S101 - tells the type checker what init_spec did
    plugin.converter.add_attribute_function(openapi_fields.describe)  # type: ignore[no-untyped-call]
    own = {type(schema): schema for schema in bodies}
    _add_components(spec, routes, own)
    for route in routes:
        operation = _operation(route, routes)
        if route.body is not None:
            operation["requestBody"] = _request_body(route, own.get(route.body) or route.body())
        spec.path(path=re.sub(r"<(\w+)>", r"{\1}", route.path), operations={route.method.lower(): operation})
    described = openapi_fields.with_named_enums(spec.to_dict())
    return openapi_merge.with_additions(
        described, openapi_webhooks.described(events, described["components"]["schemas"])
    )


def _add_components(spec: APISpec, routes: Sequence[Route], own: dict[type[Schema], Schema]) -> None:
    for schema in dict.fromkeys(route.body for route in routes if route.body):
        # One that needs settings comes from `routes.schemas`.
        spec.components.schema(_name(schema), schema=own.get(schema) or schema())
    for schema in dict.fromkeys(route.answer for route in routes if route.answer):
        # Clients must accept members that later versions add.
        spec.components.schema(_name(schema), schema=schema(unknown=EXCLUDE))
    _add_shared(spec)
    groups = [group for route in routes for group in _problem_groups(route)]
    alone = {type(group[0]) for group in groups if len(group) == 1}
    for problem in openapi_examples.PROBLEMS:
        if type(problem) in alone:
            spec.components.response(type(problem).__name__, _problem_response([problem]))


def _add_shared(spec: APISpec) -> None:
    spec.components.schema("Problem", openapi_examples.PROBLEM)
    for name, schema_of_enum in openapi_fields.enum_schemas().items():
        spec.components.schema(name, schema_of_enum)
    for name, header in openapi_examples.ANSWER_HEADERS.items():
        spec.components.header(name, header)
    for name, parameter in openapi_examples.IDS.items():
        spec.components.parameter(name, "path", parameter)
    for name, parameter in openapi_examples.REQUEST_HEADERS.items():
        spec.components.parameter(name, "header", {"name": name, **parameter})


def _operation(route: Route, routes: Sequence[Route]) -> dict[str, Any]:
    summary, _, description = (inspect.getdoc(route.view) or "").partition("\n\n")
    operation: dict[str, Any] = {
        "operationId": route.view.__name__,
        "summary": summary,
        "description": description,
        "tags": [route.tag],
        "parameters": list(_parameters(route)),
        "responses": dict(_responses(route, routes)),
    }
    described = {name: value for name, value in operation.items() if value}
    # A public route needs no login, whatever the host says of the others.
    return {**described, "security": []} if route.public else described


def _request_body(route: Route, schema: Schema) -> dict[str, Any]:
    # The limits of an application may refuse an example.
    examples = {name: value for name, value in _examples_of(type(schema)).items() if not schema.validate(value)}
    body = _ref("schemas", _name(type(schema)))
    absent = "" if route.body_required else " No body, and null, count as `{}`."
    return {
        "description": f"{requests.MAX_BODY_BYTES} bytes at most.{absent}",
        "required": route.body_required,
        "content": {"application/json": {"schema": body, "examples": _examples(examples)}},
    }


def _examples_of(schema: type[Schema]) -> dict[str, Any]:
    # A test names the schemas that have none.
    return openapi_examples.EXAMPLES.get(schema, {})


def _parameters(route: Route) -> Iterator[dict[str, Any] | str]:
    yield from _ids(route)
    if route.query is not None:
        yield {"in": "query", "schema": route.query}
    yield from route.headers


def _responses(route: Route, routes: Sequence[Route]) -> Iterator[tuple[str, dict[str, Any]]]:
    for status in sorted({route.status, route.dry_status or route.status}):
        yield str(status), _success(route, routes, status)
    if _is_conditional(route):
        yield "304", {"description": "Not changed since that ETag.", "headers": _headers(_answer_headers(route))}
    for problems in _problem_groups(route):
        alone = len(problems) == 1
        response = _ref("responses", type(problems[0]).__name__) if alone else _problem_response(problems)
        yield str(problems[0].status.value), response


def _problem_groups(route: Route) -> list[list[Problem]]:
    """Return the problems that may be answered, those of one status together."""
    expected = set(_problems(route))
    possible = [problem for problem in openapi_examples.PROBLEMS if type(problem) in expected]
    return [list(group) for _, group in groupby(possible, attrgetter("status"))]


def _success(route: Route, routes: Sequence[Route], status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "headers": _headers(_answer_headers(route)),
        "links": dict(_links(route, routes)),
    }
    if route.answer is not None:
        schema: dict[str, Any] = _ref("schemas", _name(route.answer))
        examples = _examples_of(route.answer)
        if route.many:
            schema = {"type": "array", "items": schema}
            examples = {name: [value] for name, value in examples.items()}
        response["content"] = {"application/json": {"schema": schema, "examples": _examples(examples)}}
    elif route.status != HTTPStatus.NO_CONTENT:
        response["content"] = {"application/json": {"schema": {"type": "object"}}}
    return {name: value for name, value in response.items() if value}


def _links(route: Route, routes: Sequence[Route]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Link to the operations on the endpoint or the delivery that this route shows."""
    known: dict[str, Any] = {}
    if route.answer is not None and not route.many:
        if issubclass(route.answer, DeliveryShown):
            known = {"ep_id": "$request.path.ep_id", "dlv_id": "$response.body#/id"}
        elif route.answer is EndpointShown:
            known = {"ep_id": "$response.body#/id"}
    for target in routes if known else ():
        if _ids(target) == list(known):
            parameters = dict(known)
            if route.method == "GET" and "If-Match" in target.headers:
                parameters["If-Match"] = "$response.header.ETag"
            yield target.view.__name__, {"operationId": target.view.__name__, "parameters": parameters}


def _problems(route: Route) -> Iterator[type[Problem]]:
    if not route.public:
        yield from (errors.NoTenant, errors.NotAuthorized, errors.WebhookLoop, errors.DatabaseUnavailable)
    ids = _ids(route)
    if "ep_id" in ids:
        yield errors.UnknownEndpoint
    if "dlv_id" in ids:
        yield errors.UnknownDelivery
    if route.query is not None or route.body is not None:
        yield errors.InvalidFields
    if route.method != "GET":
        yield errors.CrossSiteRequest
        yield from _OF_BODIES if route.method != "DELETE" else ()
    yield from (problem for name in route.headers for problem in _OF_HEADERS[name])
    yield from route.problems


def _answer_headers(route: Route) -> Iterator[str]:
    if route.status != HTTPStatus.NO_CONTENT:
        yield "Cache-Control"
    if "Idempotency-Key" in route.headers:
        yield "Idempotent-Replayed"
    if route.many and route.query is not None:
        yield "Link"
    elif route.answer is EndpointShown or _is_conditional(route):
        yield "ETag"
    if route.status == HTTPStatus.CREATED:
        yield "Location"


def _is_conditional(route: Route) -> bool:
    return route.method == "GET" and "If-None-Match" in route.headers


# No header of an error is required: the host's login, for one, answers 401 with headers of its own.
_CACHED_OR_NOT = {"Cache-Control": {**openapi_examples.ANSWER_HEADERS["Cache-Control"], "required": False}}


def _problem_response(problems: Sequence[Problem]) -> dict[str, Any]:
    return {
        "description": " Or: ".join(problem.detail for problem in problems),
        "headers": {**_CACHED_OR_NOT, **_headers(name for problem in problems for name in problem.headers)},
        "content": {
            "application/problem+json": {
                "schema": _ref("schemas", "Problem"),
                "examples": {type(problem).__name__: {"value": problem.document()} for problem in problems},
            }
        },
    }


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: _ref("headers", name) for name in names}


def _examples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: {"value": value} for name, value in values.items()}


def _ids(route: Route) -> list[str]:
    return re.findall(r"<(\w+)>", route.path)


def _name(schema: type[Schema]) -> str:
    return schema.__name__.removesuffix("Shown")


def _ref(section: str, name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/{section}/{name}"}
