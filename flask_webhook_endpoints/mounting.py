"""The place where a host mounts a blueprint of ours: the hosts served, and the variables of its prefix."""

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

from flask import Blueprint, current_app, request
from flask.blueprints import BlueprintSetupState

from flask_webhook_endpoints.errors import RegistrationError

T = TypeVar("T")

_VARIABLE = re.compile(r"<(\w+)>")
"""A variable of a path of ours."""


def host_of(setup: BlueprintSetupState, attribute: str, *, example: str) -> str | None:
    """Return the host that `webhooks.<attribute>` serves; None: every host of the app.

    Raises `RegistrationError` where the app has `host_matching` and the registration names no host.
    """
    # Flask leaves it to the blueprint which hosts it serves.
    host: str | None = setup.options.get("host")
    if setup.app.url_map.host_matching and host is None:
        raise RegistrationError(
            "The app has host_matching, so that it serves no route without a host. Name ours:"
            f' register_blueprint(webhooks.{attribute}, host="{example}").'
        )
    return host


def with_own_variables(path: str, view: Callable[..., T]) -> Callable[..., T]:
    """Return the view, called with the variables of its path alone; those of a prefix are for the host.

    The host finds them in `request.view_args`, as with `/orgs/<org>/webhooks`.
    """
    own = _VARIABLE.findall(path)

    @wraps(view)
    def called(**variables: Any) -> T:
        return view(**{name: variables[name] for name in own})

    return called


def keep_variables_of_host(blueprint: Blueprint, paths: Iterable[str]) -> None:
    """Have `url_for` give URLs of the blueprint the variables of the prefix that the URL of the request has."""
    own = frozenset(name for path in paths for name in _VARIABLE.findall(path))

    def keep(endpoint: str, values: dict[str, Any]) -> None:
        for name, value in (request.view_args or {}).items() if request else ():
            if name not in own and current_app.url_map.is_endpoint_expecting(endpoint, name):
                values.setdefault(name, value)

    blueprint.url_defaults(keep)
