"""The cost of requests in process: ours, by hand, flask-smorest and, if installed, FastAPI and Django; same tables."""

import asyncio
import importlib.util
import json
from collections.abc import Callable
from functools import cache
from io import BytesIO
from statistics import median
from typing import Any

from werkzeug.test import EnvironBuilder

from benchmarks import handwritten, hosts, rounds, smorest

BODY = {"name": "n", "url": "https://example.com/", "secret": "a signing secret", "timeout_seconds": 10}
HEADERS = {"Authorization": "Bearer token", "X-Environment": "production", "X-Team": "billing"}
PATH = "/v1/endpoints"


def call(app: Any, method: str, path: str, *, tenant_id: str, body: bytes = b"", expect: int) -> Callable[[], bytes]:
    """Return a function that sends this request to the application and checks the answer's status."""
    if not hasattr(app, "wsgi_app"):
        return _call_asgi(app, method, path, tenant_id=tenant_id, body=body, expect=expect)
    content_type = "application/json" if body else None
    environ = EnvironBuilder(path, method=method, content_type=content_type, headers={"X-Tenant": tenant_id})
    template = {**environ.get_environ(), "CONTENT_LENGTH": str(len(body))}
    expected = str(expect)

    def start_response(status: str, *_: Any) -> Any:
        if not status.startswith(expected):
            raise RuntimeError(f"{app.name}: {method} {path}: {status}")

    def request() -> bytes:
        answer: Any = app.wsgi_app({**template, "wsgi.input": BytesIO(body)}, start_response)
        data = b"".join(answer)
        answer.close()
        return data

    return request


def _call_asgi(app: Any, method: str, path: str, *, tenant_id: str, body: bytes, expect: int) -> Callable[[], bytes]:
    headers = [(b"x-tenant", tenant_id.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(b"content-type", b"application/json")] if body else []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("localhost", 80),
        "client": ("localhost", 1),
        "headers": headers,
    }

    async def answer() -> bytes:
        messages: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            messages.append(message)

        await app({**scope}, receive, send)
        if messages[0]["status"] != expect:
            raise RuntimeError(f"{app.title}: {method} {path}: {messages[0]['status']}")
        return b"".join(message.get("body", b"") for message in messages[1:])

    return lambda: _loop().run_until_complete(answer())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def repeated(request: Callable[[], bytes], times: int) -> Callable[[], rounds.Cost]:
    """Return a function that measures this many requests."""

    def run() -> int:
        for _ in range(times):
            request()
        return times

    return lambda: rounds.measure(run)


def deleting(app: Any, tenant_id: str, times: int, body: bytes) -> Callable[[], rounds.Cost]:
    """Return a function that measures the deletion of this many endpoints, created before the clock starts."""
    create = call(app, "POST", PATH, tenant_id=tenant_id, body=body, expect=201)

    def program() -> rounds.Cost:
        paths = [f"{PATH}/{json.loads(create())['id']}" for _ in range(times)]
        requests = [call(app, "DELETE", path, tenant_id=tenant_id, expect=204) for path in paths]

        def run() -> int:
            for request in requests:
                request()
            return times

        return rounds.measure(run)

    return program


def compare(apps: dict[str, Any], headers: dict[str, str], turns: int) -> None:
    """Print a table for each operation."""
    ours = apps["ours"]
    kind = "three" if headers else "no"
    body = json.dumps({**BODY, "headers_json": headers}).encode()
    ids: dict[int, str] = {}
    for size in (10, 100, 1000):
        create = call(ours, "POST", PATH, tenant_id=f"{kind}-{size}", body=body, expect=201)
        ids[size] = [json.loads(create())["id"] for _ in range(size)][-1]

    def show(name: str, programs: dict[str, Callable[[], rounds.Cost]]) -> None:
        costs = rounds.interleave(programs, turns)
        pairs = zip(costs["flask-smorest"], costs["ours"], strict=True)
        times = median(smorests.cpu / own.cpu for smorests, own in pairs)
        print(f"\n{name}, {kind} headers\n{rounds.table(costs, share_of='by hand')}")
        print(f"ours is {times:.2f} times as fast as flask-smorest, by CPU", flush=True)

    def requests(method: str, path: str, times: int, size: int, expect: int, *, data: bytes = b"") -> Any:
        tenant_id = f"{kind}-{size}"
        return {
            name: repeated(call(app, method, path, tenant_id=tenant_id, body=data, expect=expect), times)
            for name, app in apps.items()
        }

    one = f"{PATH}/{ids[10]}"
    show("GET one", requests("GET", one, 150, 10, 200))
    for size in (10, 100, 1000):
        show(f"list {size}", requests("GET", PATH, 500 // size + 1, size, 200))
    show("PATCH", requests("PATCH", one, 30, 10, 200, data=b'{"name": "renamed"}'))
    # Each program has a tenant of its own, because the quota counts a tenant's endpoints.
    posts = {
        name: repeated(call(app, "POST", PATH, tenant_id=f"{kind}-{name}", body=body, expect=201), 20)
        for name, app in apps.items()
    }
    show("POST", posts)
    show("DELETE", {name: deleting(app, f"{kind}-deleting-{name}", 20, body) for name, app in apps.items()})


def main() -> None:
    """Measure on the database that the command line names."""
    options = hosts.arguments(__doc__).parse_args()
    with hosts.database(options.database) as url:
        apps: dict[str, Any] = {
            "by hand": handwritten.application(url),
            "by hand, in the host's session": handwritten.application(url, in_session=True),
            "ours": hosts.open_host(url).app,
            "flask-smorest": smorest.application(url),
        }
        if importlib.util.find_spec("fastapi"):
            from benchmarks import fastapi_sqlmodel  # noqa: PLC0415 - not everyone has it

            apps["FastAPI + SQLModel"] = fastapi_sqlmodel.application(url)
        if importlib.util.find_spec("rest_framework"):
            from benchmarks import django_rest  # noqa: PLC0415 - not everyone has it

            apps["Django REST Framework"] = django_rest.application(url)
        for headers in ({}, HEADERS):
            compare(apps, headers, options.rounds)


if __name__ == "__main__":
    main()
