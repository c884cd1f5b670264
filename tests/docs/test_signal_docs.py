"""The recipe of docs/signals.md mails a customer once when an endpoint fails, may be paused, and recovers."""

from typing import Any

import pytest

from tests.support import docs, hosts
from tests.support.api import create_endpoint
from tests.support.deliveries import publish


@pytest.mark.host(make=hosts.delivering, retry_schedule=[0])
def test_its_recipe_mails_the_customer_once_for_each_news(host, acme, webhook_receiver, webhook_clock, drain_webhooks):
    recipe: Any = docs.example("docs/signals.md", "mail")
    sent: list[Any] = []
    recipe.send = sent.append
    endpoint = create_endpoint(acme, webhook_receiver.url)
    webhook_receiver.answer(500)
    for minutes in (1, 1, 1, 1, 4 * 24 * 60, 1, 1):
        publish(host)
        drain_webhooks()
        webhook_clock.move(minutes=minutes)
    webhook_receiver.answer(200)
    webhook_clock.move(minutes=11)
    publish(host, 1, 2)
    drain_webhooks()

    texts = [message.get_content() for message in sent]
    assert [message["To"] for message in sent] == ["acme@example.com"] * 3
    assert all(endpoint["url"] in text for text in texts)
    assert ["The last error: 500." in texts[0], "we pause it" in texts[1], "takes deliveries" in texts[2]] == [True] * 3
