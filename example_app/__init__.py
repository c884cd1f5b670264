"""A small multi-tenant invoicing service that offers its customers webhooks: `flask --app example_app run`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


def create_app() -> "Flask":
    """Make the application from `DATABASE_URL` and `SECRET_KEY`, with its database ready for use."""
    # Imported here, so that the demo, which is a client, starts a second sooner.
    from example_app.app import make  # noqa: PLC0415

    return make()
