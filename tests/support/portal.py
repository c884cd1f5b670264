"""A host with the portal, and people who read its pages and send its forms with a browser that runs no scripts."""

from functools import cached_property
from typing import Any

from bs4 import BeautifulSoup
from jinja2 import StrictUndefined
from webtest import Form, TestApp, TestResponse

from flask_webhook_endpoints.state import Authorize
from tests.support import hosts

PREFIX = "/settings/webhooks"


class Page(TestResponse):
    """A page that is parsed once, however often a test looks at it."""

    @cached_property
    def html(self) -> BeautifulSoup:
        """Return the page's elements."""
        return super().html


class _Request(TestApp.RequestClass):  # type: ignore[misc, name-defined]
    ResponseClass = Page


class Browser(TestApp):
    """Receives pages."""

    RequestClass = _Request


def with_portal(url: str, *, authorize: Authorize | None = None, **config: Any) -> hosts.Host:
    """Make a host that has the API and the portal; lower-case names are settings of ours."""
    host = hosts.flask_sqlalchemy(url, register=False, authorize=authorize, **config)
    # As some hosts are: no template may lean on names that are not there.
    host.app.jinja_env.undefined = StrictUndefined
    host.app.register_blueprint(host.webhooks.portal, url_prefix=PREFIX)
    host.app.register_blueprint(host.webhooks.blueprint)
    return host


def person(host: hosts.Host, tenant_id: str | None = "acme") -> TestApp:
    """Return the browser of a person of this tenant."""
    return Browser(host.app, extra_environ={} if tenant_id is None else {"HTTP_X_TENANT": tenant_id})


def press(page: Any, label: str, number: int = 0, **options: Any) -> Any:
    """Send the form whose button begins with this text, the first one or that of this number; return the answer."""
    forms = [each.button.text.strip() if each.button else "" for each in page.html.find_all("form")]
    indexes = [index for index, text in enumerate(forms) if text.startswith(label)]
    return page.forms[indexes[number]].submit(**options)


def form_to(page: TestResponse, ending: str) -> Form:
    """Return the first form of a page whose address ends like this."""
    return next(form for form in page.forms.values() if str(form.action).endswith(ending))
