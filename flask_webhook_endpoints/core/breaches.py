"""Breaches: published events that break their declaration, told to tests, whatever the host does with the error.

The pytest plugin imports this module in every project. Keep its imports few.
"""

from collections.abc import Callable

from flask_webhook_endpoints.errors import InvalidEvent

watchers: list[Callable[[InvalidEvent], object]] = []
"""Functions that get each breach. While there is one, events are checked even if `CHECK_EVENTS` is `off`."""


def tell(breach: InvalidEvent) -> None:
    """Give a breach to all watchers."""
    for watcher in tuple(watchers):
        watcher(breach)
