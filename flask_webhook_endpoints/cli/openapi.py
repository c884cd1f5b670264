"""The command `flask webhooks openapi`: prints the OpenAPI document, by itself or as a part of the host's own."""

import json
import re
from pathlib import Path
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from flask_webhook_endpoints.api import openapi_merge
from flask_webhook_endpoints.api.openapi import PATH
from flask_webhook_endpoints.cli import terminal
from flask_webhook_endpoints.state import current_state

_VARIABLE = re.compile(r"<(?:[^<>]*:)?(\w+)>")
"""A variable of a route: `<tenant>`, `<int:tenant>`."""

_NAME = re.compile(r"[A-Za-z0-9._-]*")
"""The pattern of a component's name (OpenAPI 3.1, "Components Object")."""


@click.command("openapi")
@click.option(
    "--merge",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Print this OpenAPI 3.1 document with our paths, webhooks and components in it (JSON, or YAML with PyYAML).",
)
@click.option("--prefix", default="", help="Begin the names of our components with this, where FILE has the same ones.")
@with_appcontext
def openapi(file: Path | None, prefix: str) -> None:
    """Print the API as an OpenAPI 3.1 document."""
    servers = [_server(rule) for rule in _rules()]
    ours = current_state().openapi(servers)
    if file is None:
        if prefix:
            raise click.UsageError("--prefix belongs to --merge.")
        terminal.show(ours)
        return
    if not _NAME.fullmatch(prefix):
        raise click.UsageError(f"--prefix may have letters, digits and ._- alone, not {prefix!r}.")
    if len(servers) != 1:
        raise click.ClickException("The blueprint is registered several times; merge each document by hand.")
    try:
        terminal.show(openapi_merge.merged_into(_read(file), ours, server=servers[0], prefix=prefix))
    except openapi_merge.CannotMerge as error:
        raise click.ClickException(f"{file}: {error}") from None


def _rules() -> list[str]:
    ours = [
        name
        for name, blueprint in current_app.blueprints.items()
        if blueprint.import_name.startswith("flask_webhook_endpoints.")
    ]
    return [rule.rule for name in ours for rule in current_app.url_map.iter_rules(f"{name}.read_openapi")]


def _server(rule: str) -> dict[str, Any]:
    """Return the URL of the API as a server of OpenAPI, with the variables of its `url_prefix`."""
    url, variables = _VARIABLE.sub(r"{\1}", rule.removesuffix(PATH)), _VARIABLE.findall(rule)
    server: dict[str, Any] = {"url": url or "/"}
    return {**server, "variables": {name: {"default": name} for name in variables}} if variables else server


def _read(file: Path) -> Any:
    is_yaml = file.suffix.lower() in (".yaml", ".yml")
    try:
        text = file.read_text(encoding="utf-8")
        return _read_yaml(text) if is_yaml else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{file} is not {'YAML' if is_yaml else 'JSON'} in UTF-8: {error}") from None


def _read_yaml(text: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - hosts need not have it
    except ModuleNotFoundError:
        raise click.ClickException("To read YAML, pip install pyyaml, or convert the file to JSON.") from None
    try:
        # Values that YAML has and JSON lacks, such as dates, become text.
        return json.loads(json.dumps(yaml.safe_load(text), default=str))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
