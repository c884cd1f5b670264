"""What the operator's pages tell to run, run."""

import re
from pathlib import Path
from typing import Any

import flask_migrate
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_webhook_endpoints import WebhookEndpoints
from tests.support import hosts
from tests.support.commands import run_documented

DOCS = Path(__file__).parents[2] / "docs"
# The env.py that Flask-Migrate generates.
pytestmark = [
    pytest.mark.usefixtures("logging_untouched"),
    pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning"),
]


def section(page: str, heading: str) -> str:
    parts = (DOCS / page).read_text().split("\n## ")
    (text,) = [part for part in parts if part.removeprefix("# ").startswith(heading)]
    return text


def test_your_own_migrations(database, tmp_path):
    db = SQLAlchemy()
    app = Flask("documented_host")
    app.config.update(TESTING=True, SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI=database)
    db.init_app(app)
    app.register_blueprint(
        WebhookEndpoints(session=db.session, tenant=hosts.tenant_header, metadata=db.metadata).blueprint
    )
    flask_migrate.Migrate(app, db, directory=str(tmp_path / "migrations"))

    run_documented(app, section("migrations.md", "Your own migrations"))

    with app.app_context():
        assert sa.inspect(db.engine).has_table("webhook_endpoint")
        db.engine.dispose()


def test_the_migrations_that_we_ship(database):
    db = SQLAlchemy()
    app = Flask("documented_host")
    app.config.update(TESTING=True, SECRET_KEY="host secret", SQLALCHEMY_DATABASE_URI=database)
    db.init_app(app)
    app.register_blueprint(WebhookEndpoints(session=db.session, tenant=hosts.tenant_header).blueprint)
    text = section("migrations.md", "The migrations that we ship")

    run_documented(app, text)
    run_documented(app, "$ flask webhooks db upgrade")

    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(code, names)
    with app.app_context(), db.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), db.metadata) != []
        options = {"include_name": names["include_name"]}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), db.metadata) == []
    with app.app_context():
        db.engine.dispose()


def test_key_rotation_and_pruning(host):
    run_documented(host.app, (DOCS / "key-rotation.md").read_text())


def test_the_page_of_events_tells_commands_that_run(host):
    run_documented(host.app, (DOCS / "events.md").read_text())
