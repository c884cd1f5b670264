"""Webhook endpoints for Flask: one blueprint in the host's own database, behind its own login."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask_webhook_endpoints.core.batches import NewEvent
    from flask_webhook_endpoints.core.declarations import DeclaredEvent
    from flask_webhook_endpoints.core.endpoint_row import Endpoint
    from flask_webhook_endpoints.core.events import Event
    from flask_webhook_endpoints.database.tables import metadata
    from flask_webhook_endpoints.errors import (
        InvalidDeclaration,
        InvalidEvent,
        InvalidSetting,
        Problem,
        RegistrationError,
        WebhookEndpointsError,
    )
    from flask_webhook_endpoints.extension import WebhookEndpoints
    from flask_webhook_endpoints.settings import Settings
    from flask_webhook_endpoints.state import Action, Authorize
else:
    # Imported when asked for (PEP 562): pytest loads our plugin in every project where the library is installed.
    _MODULES = {
        "Action": "state",
        "Authorize": "state",
        "DeclaredEvent": "core.declarations",
        "Endpoint": "core.endpoint_row",
        "Event": "core.events",
        "InvalidDeclaration": "errors",
        "InvalidEvent": "errors",
        "InvalidSetting": "errors",
        "NewEvent": "core.batches",
        "Problem": "errors",
        "RegistrationError": "errors",
        "Settings": "settings",
        "WebhookEndpoints": "extension",
        "WebhookEndpointsError": "errors",
        "metadata": "database.tables",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = [
    "Action",
    "Authorize",
    "DeclaredEvent",
    "Endpoint",
    "Event",
    "InvalidDeclaration",
    "InvalidEvent",
    "InvalidSetting",
    "NewEvent",
    "Problem",
    "RegistrationError",
    "Settings",
    "WebhookEndpoints",
    "WebhookEndpointsError",
    "metadata",
]
