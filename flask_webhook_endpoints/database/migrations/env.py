"""Runs the shipped revisions where `database/migrate.Revisions` says."""

from typing import Any

from alembic import context

context.configure(**context.config.attributes["configure"])
if told := context.config.attributes.get("told"):
    migration = context.get_context()
    # Alembic itself tells of a revision only once it has run.
    steps: Any = migration._migrations_fn
    migration._migrations_fn = lambda *where: told(steps(*where))
with context.begin_transaction():
    context.run_migrations()
