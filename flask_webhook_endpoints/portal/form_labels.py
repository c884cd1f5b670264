"""The labels of an endpoint's fields, for summaries of what is wrong or was saved meanwhile."""

from collections.abc import Mapping

from flask_webhook_endpoints.portal.endpoint_form import FIELDS, EndpointForm
from flask_webhook_endpoints.portal.texts import gettext


def of(form: EndpointForm) -> Mapping[str, str]:
    """Return the label of each field of the form, and of each row of headers and metadata."""
    labels = {name: gettext(label) for name, label in FIELDS.items()}
    labels |= {"headers": labels["headers_json"], "secret": gettext("Your own secret")}
    for index, row in enumerate(form.headers):
        labels[f"headers-{index}"] = row.name or gettext("Header %(number)s", number=index + 1)
    for index, row in enumerate(form.metadata):
        labels[f"metadata-{index}"] = row.name or gettext("Key %(number)s", number=index + 1)
    return labels
