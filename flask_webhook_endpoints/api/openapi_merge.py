"""What a host adds to the OpenAPI document, and our part of a document of the host's own.

Source: OpenAPI 3.1.1 section 4.8.1 (the members of a document).
"""

import json
from collections.abc import Mapping
from typing import Any

from flask_webhook_endpoints.errors import RegistrationError

_OBJECTS = ("info", "paths", "webhooks", "components", "externalDocs")
_ARRAYS = ("servers", "security", "tags")


def checked(given: object) -> dict[str, Any]:
    """Return a copy of what a host adds to the document; raise `RegistrationError` where it can't be a part of it."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RegistrationError(f"openapi must be a dict such as {{'security': […]}}, not {type(given).__name__}.")
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RegistrationError(f"openapi must have only what JSON can express: {error}.") from None
    for name, value in copy.items():
        _check_member(name, value)
    _check_components(copy.get("components", {}), copy.get("security", []))
    return copy


def _check_components(components: dict[str, Any], security: list[Any]) -> None:
    for section, value in components.items():
        if not isinstance(value, dict):
            raise RegistrationError(f"openapi: components.{section} must be a dict, not {type(value).__name__}.")
    schemes = components.get("securitySchemes", {})
    for requirement in security:
        if not isinstance(requirement, dict):
            raise RegistrationError(f"openapi: security must have dicts such as {{'key': []}}, not {requirement!r}.")
        if unknown := sorted(requirement.keys() - schemes.keys()):
            raise RegistrationError(f"openapi: security names {unknown[0]!r}, which components.securitySchemes lacks.")


def _check_member(name: str, value: object) -> None:
    if name.startswith("x-"):
        return
    if name not in (*_OBJECTS, *_ARRAYS):
        hint = " It belongs in components." if name == "securitySchemes" else ""
        raise RegistrationError(
            f"openapi may have {', '.join((*_OBJECTS, *_ARRAYS))}, and names that begin with x-, not {name!r}.{hint}"
        )
    expected = dict if name in _OBJECTS else list
    if not isinstance(value, expected):
        raise RegistrationError(f"openapi: {name} must be a {expected.__name__}, not {type(value).__name__}.")


def with_additions(document: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with additions: objects are merged member by member, tags by name; anything else replaces."""
    together = dict(document)
    for name, value in added.items():
        known = together.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            together[name] = with_additions(known, value)
        elif name == "tags" and isinstance(known, list) and isinstance(value, list):
            together[name] = _tags(known, value)
        else:
            together[name] = value
    return together


def _tags(ours: list[Any], theirs: list[Any]) -> list[Any]:
    if not all(isinstance(tag, dict) and "name" in tag for tag in (*ours, *theirs)):
        # The tags of an operation are names, which are replaced.
        return theirs
    named = {tag["name"]: tag for tag in ours}
    return list({**named, **{tag["name"]: {**named.get(tag["name"], {}), **tag} for tag in theirs}}.values())
