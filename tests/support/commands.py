"""Commands of `flask`, run as an operator runs them."""

import json
import re
import shlex
from typing import Any

from click.testing import Result
from flask import Flask
from flask.cli import FlaskGroup

from tests.support.hosts import Host


def run_command(host: Host, *arguments: str, typed: str | None = None) -> Result:
    """Run `flask webhooks …`; `typed` is what its operator answers."""
    return host.app.test_cli_runner().invoke(args=["webhooks", *arguments], input=typed)


def run_json(host: Host, *arguments: str, exit_code: int = 0) -> Any:
    """Run `flask webhooks … --json`, and return what it says."""
    result = run_command(host, *arguments, "--json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def run_documented(app: Flask, text: str) -> None:
    """Run the lines `$ flask …` of a text, as the program `flask` does, plugins included."""
    commands = re.findall(r"^ *\$ flask (.+)$", text, flags=re.MULTILINE)
    assert commands
    for command in commands:
        result = app.test_cli_runner().invoke(FlaskGroup(create_app=lambda: app), shlex.split(command))
        assert result.exit_code == 0, result.output
