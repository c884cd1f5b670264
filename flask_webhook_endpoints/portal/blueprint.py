"""The blueprint of the portal: its pages, and what their templates have at hand.

Source: RFC 7034 (`X-Frame-Options`).
"""

from pathlib import Path
from typing import Any, cast

from flask import Blueprint, Flask, Response, request
from flask.blueprints import BlueprintSetupState
from flask.sessions import SecureCookieSessionInterface
from jinja2 import FileSystemLoader, PrefixLoader
from werkzeug.exceptions import RequestEntityTooLarge

from flask_webhook_endpoints import mounting
from flask_webhook_endpoints.errors import BodyTooLarge, Problem, RegistrationError
from flask_webhook_endpoints.portal import (
    assets,
    deliveries,
    delivery,
    delivery_states,
    endpoint,
    endpoint_deletion,
    endpoint_settings,
    endpoints,
    events,
    forms,
    new_endpoint,
    pages,
    ping,
    problems,
    recovery,
    rules,
    secret,
    signature,
    texts,
)
from flask_webhook_endpoints.portal.pages import Page
from flask_webhook_endpoints.state import current_state

PAGES: list[Page] = [
    *endpoints.PAGES,
    *new_endpoint.PAGES,
    *endpoint.PAGES,
    *endpoint_settings.PAGES,
    *endpoint_deletion.PAGES,
    *deliveries.PAGES,
    *delivery.PAGES,
    *recovery.PAGES,
    *secret.PAGES,
    *signature.PAGES,
    *ping.PAGES,
    *events.PAGES,
    *assets.PAGES,
]

NAME = "webhook_portal"

_TEMPLATES = Path(__file__).parent / "templates" / "webhook_endpoints"

_STANDALONE = "webhook_endpoints/standalone.html"


def make() -> Blueprint:
    """Return the blueprint, which the host registers under a URL prefix of its choice."""
    blueprint = Blueprint(NAME, __name__, url_prefix="/webhooks")
    # A file of the host's hides ours of the same name, and can extend it by the other one.
    ours = FileSystemLoader(_TEMPLATES)
    loader = PrefixLoader({"webhook_endpoints": ours, "flask_webhook_endpoints": ours})
    blueprint.jinja_loader = loader  # pyright: ignore[reportAttributeAccessIssue] - Werkzeug's can be set
    blueprint.record(_add_pages)
    mounting.keep_variables_of_host(blueprint, (each.path for each in PAGES))
    blueprint.before_request(_check_form)
    blueprint.after_request(_protect)
    blueprint.context_processor(_context)
    blueprint.register_error_handler(Problem, _answer_problem)
    blueprint.register_error_handler(RequestEntityTooLarge, _answer_too_large)
    blueprint.record(_check_session)
    return blueprint


def _add_pages(setup: BlueprintSetupState) -> None:
    host = mounting.host_of(setup, "portal", example="www.example.com")
    if not (host or setup.subdomain or (setup.url_prefix or "").strip("/")):
        # Its pages would take the app's other paths, and its files those of the app's static folder.
        raise RegistrationError("The portal needs a url_prefix, such as /webhooks, unless it has a subdomain or host.")
    for each in PAGES:
        view = mounting.with_own_variables(each.path, each.view)
        setup.add_url_rule(each.path, each.view.__name__, view, methods=[each.method], host=host)


def _check_form() -> None:
    """Refuse a form of another site, and one that can't be read, whichever page it is for."""
    if request.method == "POST":
        forms.check_site()
        forms.read()


def _protect(response: Response) -> Response:
    # No page of another site shows ours in a frame, to have a person press a button unseen.
    response.headers.setdefault("X-Frame-Options", "SAMEORIGIN")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


def _context() -> dict[str, Any]:
    """Return the variables that each template has; their prefix keeps the names of the host's layout free."""
    return {
        "whe_layout": current_state().settings.layout or _STANDALONE,
        "whe_part": "",
        "whe_tab": "",
        "whe_message": problems.message_of,
        "whe_rule": rules.message_of,
        "whe_states": delivery_states.STATES,
        "whe_state_of": delivery_states.of,
        "whe_text": texts.gettext,
        "whe_plural": texts.ngettext,
        "whe_figure": texts.figure,
        "whe_share": texts.share,
        "whe_moment": texts.moment,
        "whe_day": texts.day,
        "whe_utc": texts.utc,
        "whe_is_due": lambda at: texts.utc(at) <= current_state().now(),
        "whe_language": texts.language,
        "whe_asset": assets.asset_url,
        "whe_once": forms.once,
        "whe_sent": forms.typed,
        "whe_csrf_field": forms.csrf_field(),
        "whe_offers": pages.offers,
        "whe_has_events": bool(current_state().host.declared),
    }


def _answer_problem(problem: Problem) -> Response:
    return pages.problem_page(problem)


def _answer_too_large(error: RequestEntityTooLarge) -> Response:
    """Answer a form that is over a limit of the host's."""
    return pages.problem_page(BodyTooLarge(request.max_content_length or forms.MAX_BYTES))


def _check_session(setup: BlueprintSetupState) -> None:
    app = cast(Flask, setup.app)
    # Messages travel from a form to the next page in Flask's session.
    if isinstance(app.session_interface, SecureCookieSessionInterface) and not app.secret_key:
        raise RegistrationError("The portal's messages need Flask's session: set SECRET_KEY before register_blueprint.")
