"""The portal's pages, as the application's map of URLs has them."""

from collections.abc import Iterator, Mapping

from flask import Flask

NOT_PAGES = {"asset", "download_openapi"}
"""Views that answer a file."""


def paths(app: Flask, ids: Mapping[str, str]) -> Iterator[str]:
    """Return the path of every page, with these parts in it; without any, of the pages that need none."""
    for rule in app.url_map.iter_rules():
        blueprint, _, view = rule.endpoint.rpartition(".")
        if (
            blueprint == "webhook_portal"
            and "GET" in rule.methods
            and view not in NOT_PAGES
            and (ids or not rule.arguments)
        ):
            yield rule.build({name: ids[name] for name in rule.arguments})[1]
