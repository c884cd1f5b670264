"""The labels of an endpoint's fields, for summaries of what is wrong or was saved meanwhile."""

from collections.abc import Mapping

from flask_webhook_endpoints.portal.endpoint_form import EndpointForm
from flask_webhook_endpoints.portal.texts import gettext


def of(form: EndpointForm) -> Mapping[str, str]:
    """Return the label of each field of the form, and of each row of headers and metadata."""
    headers = gettext("Custom headers")
    labels = {
        "name": gettext("Name"),
        "url": gettext("URL"),
        "description": gettext("Description"),
        "event_types": gettext("Events"),
        "headers": headers,
        "headers_json": headers,
        "timeout_seconds": gettext("Time limit"),
        "metadata": gettext("Metadata"),
        "secret": gettext("Your own secret"),
    }
    for index, row in enumerate(form.headers):
        labels[f"headers-{index}"] = row.name or gettext("Header %(number)s", number=index + 1)
    for index, row in enumerate(form.metadata):
        labels[f"metadata-{index}"] = row.name or gettext("Key %(number)s", number=index + 1)
    return labels
