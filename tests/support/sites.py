"""A host with the portal, served to a browser under a strict policy, which tells what the browser complained of."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Response, request

from tests.support import hosts, portal, servers

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self';"
    " report-uri /csp-reports"
)
"""It has no `connect-src`, so that a script which fetches is reported, too."""


@dataclass(frozen=True)
class Site:
    """A host as a browser sees it."""

    host: hosts.Host
    url: str
    reports: list[str]
    """Violations of the policy that the browser has reported."""
    problems: list[str] = field(default_factory=list)
    """Everything else that must not happen to a page, as `visit` has seen it."""


def for_browsers(url: str, **config: Any) -> hosts.Host:
    """Make a host with the portal, whose tenant is the cookie `tenant`.

    Its `authorize` refuses the actions that the cookie `forbidden` names, with `+` between them.
    """
    config = {"allowed_networks": hosts.LOOPBACK, **config}
    return portal.with_portal(url, tenant=_tenant, authorize=_is_allowed, **config)


@contextmanager
def served(host: hosts.Host) -> Iterator[Site]:
    """Serve a host by Waitress, under the policy unless the host has one of its own."""
    reports: list[str] = []

    @host.app.after_request
    def add_policy(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    @host.app.post("/csp-reports")
    def report() -> tuple[str, int]:
        reports.append(request.get_data(as_text=True))
        return "", 204

    with servers.served_by_waitress(host.app) as port:
        yield Site(host, f"http://127.0.0.1:{port}", reports)


def _tenant() -> str | None:
    return request.cookies.get("tenant") or hosts.tenant_header()


def _is_allowed(action: str, endpoint_id: str | None) -> bool:
    return action not in request.cookies.get("forbidden", "").split("+")
