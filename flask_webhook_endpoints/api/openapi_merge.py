"""Merge a host's members into our OpenAPI document, and our document into one of the host's own.

Source: OpenAPI 3.1.1 section 4.8.1 (the members of a document).
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from flask_webhook_endpoints.errors import RegistrationError

_OBJECTS = ("info", "paths", "webhooks", "components", "externalDocs")
_ARRAYS = ("servers", "security", "tags")


def checked(given: object) -> dict[str, Any]:
    """Return a copy of what a host adds to the document; raise `RegistrationError` if it does not fit."""
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


class CannotMerge(ValueError):
    """Our part does not fit into a document of the host's own."""


def merged_into(theirs: Any, ours: Mapping[str, Any], *, server: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a host's document with our paths, webhooks, components and tags.

    Args:
        theirs: The host's document, of OpenAPI 3.1 or later.
        ours: Our document.
        server: Where our API is mounted.
        prefix: What the names of our components begin with.

    Raises:
        CannotMerge: It is no such document, or both have something of one name that differs.

    """
    if not isinstance(theirs, dict) or not re.match(r"3\.[1-9]", str(theirs.get("openapi", ""))):
        raise CannotMerge("It must be a document of OpenAPI 3.1 or later, because ours has the types of JSON Schema.")
    ours = _renamed(ours, prefix)
    part = {
        "paths": {_below(theirs, server["url"]) + path: item for path, item in _paths(ours, server).items()},
        "webhooks": ours["webhooks"],
        **{f"components.{section}": named for section, named in ours["components"].items()},
    }
    together: dict[str, Any] = json.loads(json.dumps(theirs))
    if found := [*_same_operations(theirs, part["paths"]), *_collisions(together, part)]:
        told = ", ".join(found[:10]) + (" and more" if len(found) > 10 else "")  # noqa: PLR2004 - enough to see
        raise CannotMerge(f"It has {told} already. Rename those, or ours with --prefix if they are components.")
    for section, named in part.items():
        _section(together, section).update(named)
    together["tags"] = _tags(ours.get("tags", []), together.get("tags", []))
    return together


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    place = document
    for part in name.split("."):
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise CannotMerge(f"Its {name} must be an object.")
    return place


def _collisions(document: dict[str, Any], part: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for section, named in part.items():
        known = _section(document, section)
        yield from (f"{section}.{name}" for name, value in named.items() if known.get(name, value) != value)


def _same_operations(theirs: Mapping[str, Any], paths: Mapping[str, Any]) -> Iterator[str]:
    known = set(_operation_ids({path: item for path, item in theirs.get("paths", {}).items() if path not in paths}))
    yield from (f"the operationId {name}" for name in _operation_ids(paths) if name in known)


def _operation_ids(paths: Mapping[str, Any]) -> Iterator[str]:
    for item in paths.values():
        for operation in item.values() if isinstance(item, dict) else ():
            if isinstance(operation, dict) and "operationId" in operation:
                yield operation["operationId"]


def _paths(ours: Mapping[str, Any], server: Mapping[str, Any]) -> dict[str, Any]:
    """Return our paths, with the variables of the mount as parameters, and our login in each operation."""
    mounted = [
        {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
        for name in server.get("variables", {})
    ]
    security = {"security": ours["security"]} if "security" in ours else {}
    return {
        path: {
            **({"parameters": mounted} if mounted else {}),
            **{method: {**security, **operation} for method, operation in item.items()},
        }
        for path, item in ours["paths"].items()
    }


def _below(theirs: Mapping[str, Any], mounted_at: str) -> str:
    """Return our mount as a path below the host's first server, whose URL may have a path, too."""
    servers = theirs.get("servers") or [{}]
    base = urlsplit(str(servers[0].get("url", ""))).path.rstrip("/") if isinstance(servers[0], dict) else ""
    mount = mounted_at.rstrip("/")
    return mount.removeprefix(base) if f"{mount}/".startswith(f"{base}/") else mount


def _renamed(document: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return a copy in which the names of components begin with the prefix, except those of logins."""
    text = re.sub(r'("#/components/(?!securitySchemes/)\w+/)', rf"\g<1>{prefix}", json.dumps(document))
    copy: dict[str, Any] = json.loads(text)
    for section, named in copy["components"].items():
        if section != "securitySchemes":
            copy["components"][section] = {f"{prefix}{name}": value for name, value in named.items()}
    return copy
