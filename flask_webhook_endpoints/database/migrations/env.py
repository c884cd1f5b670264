"""Runs the shipped revisions where `database/migrate.Revisions` says."""

from typing import Any

from alembic import context

attributes = context.config.attributes
context.configure(**attributes["configure"])
if "told" in attributes:
    migration: Any = context.get_context()
    # Alembic itself tells of a revision only once it has run.
    steps = migration._migrations_fn
    migration._migrations_fn = lambda heads, of: attributes["told"](steps(heads, of))
with context.begin_transaction():
    context.run_migrations()
