"""Runs the shipped revisions where `flask_webhook_endpoints.revisions` says."""

from alembic import context

context.configure(**context.config.attributes["configure"])
with context.begin_transaction():
    context.run_migrations()
