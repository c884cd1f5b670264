"""A small multi-tenant invoicing service that offers its customers webhooks: `flask --app example_app run`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


def create_app() -> "Flask":
    """Make the application that `DATABASE_URL` and `SECRET_KEY` describe, its database ready for use."""
    # Imported here: the demo, which is a client, has no use for it and starts a second sooner.
    from example_app.app import make  # noqa: PLC0415

    return make()
