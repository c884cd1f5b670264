"""The blueprint of the portal: its pages, and what their templates have at hand."""

from typing import Any, cast

from flask import Blueprint, Flask, Response, request
from flask.blueprints import BlueprintSetupState
from flask.sessions import SecureCookieSessionInterface

from flask_webhook_endpoints.errors import Problem, RegistrationError
from flask_webhook_endpoints.portal import (
    assets,
    deliveries,
    delivery,
    endpoint,
    endpoints,
    events,
    forms,
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
    *endpoint.PAGES,
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

_STANDALONE = "webhook_endpoints/standalone.html"


def make() -> Blueprint:
    """Return the blueprint, which the host registers under a URL prefix of its choice."""
    blueprint = Blueprint(NAME, __name__, template_folder="templates")
    for each in PAGES:
        blueprint.add_url_rule(each.path, each.view.__name__, each.view, methods=[each.method])
    blueprint.before_request(_check_form)
    blueprint.context_processor(_context)
    blueprint.register_error_handler(Problem, _answer_problem)
    blueprint.record(_check_session)
    return blueprint


def _check_form() -> None:
    """Refuse a form of another site, whichever page it is for."""
    if request.method == "POST":
        forms.check_site()


def _context() -> dict[str, Any]:
    """Return the variables that each template has; their prefix keeps the names of the host's layout free."""
    return {
        "whe_layout": current_state().settings.layout or _STANDALONE,
        "whe_part": "",
        "whe_tab": "",
        "whe_problem": problems.message_of,
        "whe_rule": rules.message_of,
        "whe_text": texts.gettext,
        "whe_plural": texts.ngettext,
        "whe_figure": texts.figure,
        "whe_share": texts.share,
        "whe_moment": texts.moment,
        "whe_day": texts.day,
        "whe_utc": texts.utc,
        "whe_language": texts.language,
        "whe_asset": assets.asset_url,
        "whe_once": forms.once,
        "whe_offers": pages.offers,
        "whe_has_events": bool(current_state().host.declared),
    }


def _answer_problem(problem: Problem) -> Response:
    return pages.problem_page(problem)


def _check_session(setup: BlueprintSetupState) -> None:
    app = cast(Flask, setup.app)
    # Messages travel from a form to the next page in Flask's session.
    if isinstance(app.session_interface, SecureCookieSessionInterface) and not app.secret_key:
        raise RegistrationError("The portal's messages need Flask's session: set SECRET_KEY before register_blueprint.")
