"""The API as an OpenAPI document, made from the table of routes and the schemas that the views use.

Source: OpenAPI 3.1.1; JSON Schema 2020-12; RFC 9457 (problem documents). The examples are the product specification's.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import EXCLUDE, Schema
from marshmallow.fields import Field

from flask_webhook_endpoints import schemas
from flask_webhook_endpoints.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    IdempotencyKeyReused,
    InvalidFields,
    InvalidRequest,
    NotAuthorized,
    NoTenant,
    Problem,
    QuotaExceeded,
    StaleEndpoint,
    UnknownEndpoint,
    UnreadableSecret,
    UnsupportedMediaType,
)

PATH = "/v1/openapi.json"


@dataclass(frozen=True, kw_only=True)
class Route:
    """A method of a path, the view behind it, and what that reads and answers."""

    method: str
    path: str
    """As the view's framework writes it: `/v1/endpoints/<ep_id>`."""
    view: Callable[..., Any]
    """Its name is the operation's id, its docstring the summary and description."""
    tag: str
    public: bool = False
    """Whether it answers without a tenant and a database."""
    query: type[Schema] | None = None
    headers: Sequence[str] = ()
    """Names of the request headers that it reads."""
    body: type[Schema] | None = None
    body_required: bool = True
    status: int = 200
    answer: type[Schema] | None = None
    many: bool = False
    """Whether the answer is an array."""
    answer_headers: Sequence[str] = ()
    problems: Sequence[type[Problem]] = ()
    """What it may answer beside the problems that come with its path, headers and body."""


def cached_document(routes: Sequence[Route], bodies: Sequence[Schema]) -> Callable[[str], dict[str, Any]]:
    """Return a function that makes the document once, and again only says at which URL the API is mounted."""
    made = cache(lambda: document(routes, bodies))
    return lambda mounted_at: {**made(), "servers": [{"url": mounted_at}]}


def document(routes: Sequence[Route], bodies: Sequence[Schema]) -> dict[str, Any]:
    """Return the document of an API of these routes; `bodies` are the schemas whose limits are an application's own."""
    spec = APISpec(
        title="Webhook endpoints",
        version=version("flask-webhook-endpoints"),
        openapi_version="3.1.1",
        plugins=[plugin := MarshmallowPlugin()],
        info={"description": _DESCRIPTION},
        tags=[{"name": name, "description": description} for name, description in _TAGS.items()],
    )
    assert plugin.converter is not None  # noqa: S101 - tells the type checker what init_spec did
    plugin.converter.add_attribute_function(_custom_field)  # type: ignore[no-untyped-call]
    own = {type(schema): schema for schema in bodies}
    _add_components(spec, routes, own)
    for route in routes:
        operation = _operation(route, routes)
        if route.body is not None:
            operation["requestBody"] = _request_body(route, own.get(route.body) or route.body())
        spec.path(path=_path(route), operations={route.method.lower(): operation})
    return spec.to_dict()


def _custom_field(_: Any, field: Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """Describe a field by what its class says, its metadata first; no default where what is absent stays."""
    if getattr(field.parent, "partial", False):
        ret.pop("default", None)
    described = {name: ret[name] for name in field.metadata if name in ret}
    return {**getattr(field, "json_schema", {}), **described}


def _add_components(spec: APISpec, routes: Sequence[Route], own: dict[type[Schema], Schema]) -> None:
    for schema in dict.fromkeys(route.body for route in routes if route.body):
        spec.components.schema(_name(schema), schema=own.get(schema) or schema())
    for schema in dict.fromkeys(route.answer for route in routes if route.answer):
        # Clients must bear members that later versions add.
        spec.components.schema(_name(schema), schema=schema(unknown=EXCLUDE))
    spec.components.schema("Problem", _PROBLEM)
    spec.components.schema("FieldProblem", _FIELD_PROBLEM)
    for name, header in _ANSWER_HEADERS.items():
        spec.components.header(name, header)
    spec.components.parameter("ep_id", "path", _EP_ID)
    for name, parameter in _REQUEST_HEADERS.items():
        spec.components.parameter(name, "header", {"name": name, **parameter})
    for problem in _PROBLEMS:
        spec.components.response(type(problem).__name__, _problem_response([problem]))


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
    return {name: value for name, value in operation.items() if value}


def _request_body(route: Route, schema: Schema) -> dict[str, Any]:
    # An application's own limits may refuse an example.
    examples = {name: value for name, value in _EXAMPLES[type(schema)].items() if not schema.validate(value)}
    return {
        "description": f"{schemas.MAX_BODY_BYTES} bytes at most.",
        "required": route.body_required,
        "content": {
            "application/json": {"schema": _ref("schemas", _name(type(schema))), "examples": _examples(examples)}
        },
    }


def _parameters(route: Route) -> Iterator[dict[str, Any] | str]:
    if _has_id(route):
        yield "ep_id"
    if route.query is not None:
        yield {"in": "query", "schema": route.query}
    yield from route.headers


def _responses(route: Route, routes: Sequence[Route]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield str(route.status), _success(route, routes)
    if "If-None-Match" in route.headers:
        headers = {name: _ref("headers", name) for name in route.answer_headers}
        yield "304", {"description": "Not changed since that ETag.", "headers": headers}
    by_status: dict[int, list[Problem]] = {}
    expected = set(_problems(route))
    for problem in _PROBLEMS:
        if type(problem) in expected:
            by_status.setdefault(problem.status, []).append(problem)
    for status, problems in by_status.items():
        alone = len(problems) == 1
        yield (
            str(status),
            _ref("responses", type(problems[0]).__name__) if alone else _problem_response(problems),
        )


def _success(route: Route, routes: Sequence[Route]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": HTTPStatus(route.status).phrase,
        "headers": {name: _ref("headers", name) for name in route.answer_headers},
        "links": dict(_links(route, routes)),
    }
    if route.answer is not None:
        schema: dict[str, Any] = _ref("schemas", _name(route.answer))
        examples = _EXAMPLES[route.answer]
        if route.many:
            schema = {"type": "array", "items": schema}
            examples = {name: [value] for name, value in examples.items()}
        response["content"] = {"application/json": {"schema": schema, "examples": _examples(examples)}}
    elif route.status != HTTPStatus.NO_CONTENT:
        response["content"] = {"application/json": {"schema": {"type": "object"}}}
    return {name: value for name, value in response.items() if value}


def _links(route: Route, routes: Sequence[Route]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Say what can be done with the endpoint that this route shows."""
    if route.answer is not schemas.EndpointShown or route.many:
        return
    for target in routes:
        if _has_id(target):
            parameters = {"ep_id": "$response.body#/id"}
            if route.method == "GET" and "If-Match" in target.headers:
                parameters["If-Match"] = "$response.header.ETag"
            yield target.view.__name__, {"operationId": target.view.__name__, "parameters": parameters}


def _problems(route: Route) -> Iterator[type[Problem]]:
    if not route.public:
        yield from (NoTenant, NotAuthorized, DatabaseUnavailable)
    if _has_id(route):
        yield UnknownEndpoint
    if route.query is not None:
        yield InvalidFields
    if route.body is not None:
        yield from (InvalidRequest, BodyTooLarge, UnsupportedMediaType, InvalidFields)
    if "If-Match" in route.headers:
        yield StaleEndpoint
    if "Idempotency-Key" in route.headers:
        yield from (InvalidRequest, IdempotencyKeyReused)
    yield from route.problems


def _problem_response(problems: Sequence[Problem]) -> dict[str, Any]:
    named = [
        _ref("schemas", "FieldProblem" if isinstance(problem, InvalidFields) else "Problem") for problem in problems
    ]
    return {
        "description": " Or: ".join(problem.detail for problem in problems),
        "headers": reduce(
            lambda headers, problem: headers | {name: _ref("headers", name) for name in problem.headers},
            problems,
            {"Cache-Control": _ref("headers", "Cache-Control")},
        ),
        "content": {
            "application/problem+json": {
                "schema": named[0] if len(named) == 1 else {"anyOf": named},
                "examples": {type(problem).__name__: {"value": problem.document()} for problem in problems},
            }
        },
    }


def _examples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: {"value": value} for name, value in values.items()}


def _has_id(route: Route) -> bool:
    return "<ep_id>" in route.path


def _path(route: Route) -> str:
    return re.sub(r"<(\w+)>", r"{\1}", route.path)


def _name(schema: type[Schema]) -> str:
    return schema.__name__.removesuffix("Shown")


def _ref(section: str, name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/{section}/{name}"}


_DESCRIPTION = """\
The URLs that receive webhooks, managed by the tenant that whoever asks belongs to.

How to log in is up to the application that serves this API; without a login the answer is 401.

Everything that goes wrong is answered with a problem document (RFC 9457). HEAD works wherever GET does; OPTIONS
answers 204 with `Allow`, any other method 405 with `Allow`."""

_TAGS = {
    "endpoints": "URLs that receive deliveries: registered, changed, paused, deleted.",
    "secrets": "What an endpoint's deliveries are signed with.",
    "description": "This API as a document.",
}

_EP_ID = {
    "description": "The endpoint's id.",
    "schema": {"type": "string", "pattern": schemas.ID_PATTERN},
    "example": "ep_550e8400-e29b-41d4-a716-446655440000",
}

_REQUEST_HEADERS: dict[str, dict[str, Any]] = {
    "If-Match": {
        "description": "Do it only if the endpoint is still at one of these ETags, else answer 412 (RFC 9110).",
        "schema": {"type": "string"},
    },
    "If-None-Match": {
        "description": "Answer 304 without a body if the endpoint is still at one of these ETags (RFC 9110).",
        "schema": {"type": "string"},
    },
    "Idempotency-Key": {
        "description": "Any text that is this request's own. The same key with the same body, within a day, is answered"
        " as the first time and makes nothing new.",
        "schema": {"type": "string", "pattern": "^[!-~](?:[ -~]{0,253}[!-~])?$"},
    },
}

_ANSWER_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {
        "description": "The endpoint's version, for If-Match and If-None-Match.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[0-9]+"$'},
    },
    "Location": {
        "description": "Where the endpoint can be read.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Link": {
        "description": 'The next page, as `<…>; rel="next"` (RFC 8288); absent on the last.',
        "schema": {"type": "string"},
    },
    "Cache-Control": {
        "description": "Who may keep the answer (RFC 9111).",
        "required": True,
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "A challenge (RFC 9110).", "required": True, "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 0}},
}

_PROBLEM = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
    },
    "required": ["detail", "status", "title", "type"],
}

_MESSAGES = {"type": "array", "items": {"type": "string"}}
_FIELD_PROBLEM = {
    "description": "Which fields broke which rules.",
    "allOf": [{"$ref": "#/components/schemas/Problem"}],
    "type": "object",
    "properties": {
        "errors": {
            "type": "object",
            "description": "From each field to its messages, or for a list from each position to its messages; "
            "`_schema` stands for the body as a whole.",
            "additionalProperties": {"anyOf": [_MESSAGES, {"type": "object", "additionalProperties": _MESSAGES}]},
        }
    },
    "required": ["errors"],
}

# In the order of their status.
_PROBLEMS: tuple[Problem, ...] = (
    InvalidRequest("The body is not JSON (RFC 8259) in UTF-8, or too deeply nested."),
    NoTenant(),
    NotAuthorized(),
    UnknownEndpoint(),
    QuotaExceeded(1000),
    UnreadableSecret(),
    StaleEndpoint(),
    BodyTooLarge(schemas.MAX_BODY_BYTES),
    UnsupportedMediaType(),
    InvalidFields({"url": ["Must be an absolute URL that starts with http:// or https://."]}),
    IdempotencyKeyReused(),
    DatabaseUnavailable(),
)

_ENDPOINT = {
    "id": "ep_550e8400-e29b-41d4-a716-446655440000",
    "name": "my-webhook",
    "url": "https://example.com/webhook",
    "headers_json": {},
    "timeout_seconds": 10,
    "event_types": None,
    "status": "ACTIVE",
    "paused_at": None,
    "created_at": "2024-01-01T00:00:00Z",
    "updated_at": "2024-01-01T00:00:00Z",
}

_EXAMPLES: dict[type[Schema], dict[str, Any]] = {
    schemas.NewEndpoint: {
        "Everything": {
            "name": "my-webhook",
            "url": "https://example.com/webhook",
            "secret": "whsec_your_signing_secret",
            "headers_json": {},
            "timeout_seconds": 10,
        },
        "The least": {"name": "my-webhook", "url": "https://example.com/webhook"},
        "Some events": {
            "name": "invoices",
            "url": "https://example.com/webhook",
            "headers_json": {"X-Team": "billing"},
            "event_types": ["invoice.*", "customer.created"],
        },
    },
    schemas.EndpointChanges: {
        "Rename and pause": {"name": "updated-name", "status": "PAUSED"},
        "Resume": {"status": "ACTIVE"},
    },
    schemas.NewSecret: {
        "Generate one": {},
        "My own, at once": {"secret": "whsec_your_signing_secret", "overlap_seconds": 0},
    },
    schemas.EndpointShown: {"An endpoint": _ENDPOINT},
    schemas.SecretShown: {
        "A secret": {
            "secret": "whsec_your_signing_secret",
            "created_at": "2024-01-01T12:00:00Z",
            "previous_expires_at": "2024-01-02T12:00:00Z",
        }
    },
}
