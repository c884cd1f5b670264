"""The webhooks of this service: `webhooks.publish(...)` tells customers about an event."""

from example_app.accounts import current_tenant_id
from example_app.models import db
from flask_webhook_endpoints import WebhookEndpoints

webhooks = WebhookEndpoints(
    session=db.session,
    tenant=current_tenant_id,
    metadata=db.metadata,
    openapi={
        "components": {"securitySchemes": {"api_key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"api_key": []}],
    },
)
