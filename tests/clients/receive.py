"""A receiver made of the models of datamodel-code-generator: standard input is an attempt and the secret, as JSON."""

import json
import sys

from models import WebhookPingEvent
from standardwebhooks import Webhook

received = json.load(sys.stdin)
body = Webhook(received["secret"]).verify(received["body"], received["headers"])
event = WebhookPingEvent.model_validate(body)
assert event.type == "webhook.ping"
sys.stdout.write(event.data.endpoint_id)
