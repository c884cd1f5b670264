"""Webhook endpoints for Flask: one blueprint in the host's own database, behind its own login."""

from flask_webhook_endpoints.errors import InvalidSetting, RegistrationError, WebhookEndpointsError
from flask_webhook_endpoints.extension import WebhookEndpoints
from flask_webhook_endpoints.settings import Settings
from flask_webhook_endpoints.state import Action, Authorize
from flask_webhook_endpoints.tables import metadata

__all__ = [
    "Action",
    "Authorize",
    "InvalidSetting",
    "RegistrationError",
    "Settings",
    "WebhookEndpoints",
    "WebhookEndpointsError",
    "metadata",
]
