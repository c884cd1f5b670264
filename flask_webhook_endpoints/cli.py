"""`flask webhooks …`: what an operator runs."""

import json

import click
from flask import Blueprint, current_app

from flask_webhook_endpoints import openapi
from flask_webhook_endpoints.state import current_state


def add_commands(blueprint: Blueprint) -> None:
    """Give `blueprint` our commands."""
    blueprint.cli.command("openapi")(print_openapi)


def print_openapi() -> None:
    """Print the API as an OpenAPI 3.1 document."""
    rules = [rule.rule for rule in current_app.url_map.iter_rules() if rule.endpoint.endswith(".read_openapi")]
    mounted_at = rules[0].removesuffix(openapi.PATH)
    click.echo(json.dumps(current_state().openapi(mounted_at or "/"), indent=2, ensure_ascii=False))
